//! The binlogs of a server's disk as one stream, as the server itself would send it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use highwater_binlog::{
    BinlogName, BinlogPosition, EventType, GtidEvent, GtidSet, Progress, RawEvent, TransactionTracker,
};

use super::binlog::OpenBinlog;
use super::{FilesError, Indexed, ServerFiles};

/// Place of the flags in an event's header.
const FLAGS_AT: usize = 17;

/// `LOG_EVENT_BINLOG_IN_USE_F`, in the first byte of the flags. A server clears it when it closes the file, and in what it
/// sends.
const FLAG_IN_USE: u8 = 0x1;

/// How often another index is looked for behind a binlog that is closed and has no follower.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What comes next in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileItem<'a> {
    /// A binlog begins.
    Binlog(&'a BinlogName),
    /// An event.
    Event {
        /// Where it stands in the binlog.
        offset: u64,
        /// Its bytes.
        bytes: &'a [u8],
    },
}

/// What a step led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileStep {
    /// There may be more.
    More,
    /// The files end here, for now.
    Idle,
}

/// The events of a server's binlogs from some binlog on. Transactions that the reader has are left out, as the server
/// leaves them out.
#[derive(Debug)]
pub struct FileStream {
    files: Arc<ServerFiles>,
    have: GtidSet,
    /// Where the files ended when it was decided to read on. What is written behind it is new, whatever it is called.
    known: BinlogPosition,
    is_past_known: bool,
    next: Option<BinlogName>,
    current: Option<OpenBinlog>,
    /// The binlog after the current one: the current one was closed before it came into the index.
    following: Option<BinlogName>,
    /// None when its events are in no order: whoever takes them says so.
    tracker: Option<TransactionTracker>,
    skipping: bool,
    /// Offset after the last whole transaction of the current binlog.
    whole: u64,
    read: Arc<AtomicU64>,
    /// Whether the last event closed its binlog, and when it was looked for another index since.
    is_closed: bool,
    looked: Instant,
}

impl FileStream {
    /// From the start of binlog `first` on, without the transactions in `have`. `known` is where the files ended when
    /// `have` was compared with them.
    #[must_use]
    pub fn new(files: Arc<ServerFiles>, first: BinlogName, have: GtidSet, known: BinlogPosition) -> Self {
        Self {
            files,
            have,
            known,
            is_past_known: false,
            next: Some(first),
            current: None,
            following: None,
            tracker: None,
            skipping: false,
            whole: 0,
            read: Arc::default(),
            is_closed: false,
            looked: Instant::now(),
        }
    }

    /// Bytes of events that were read, counted on while it is in use elsewhere.
    #[must_use]
    pub fn bytes_read(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// Reads a piece and gives its events to `sink`. Blocking.
    ///
    /// # Errors
    /// When the files cannot be read, or are others than they were. The stream must not be used further.
    pub fn advance(&mut self, sink: &mut dyn FnMut(FileItem<'_>)) -> Result<FileStep, FilesError> {
        let Some(binlog) = &mut self.current else {
            self.open_next(sink)?;
            return Ok(FileStep::More);
        };
        if binlog.fill()? {
            self.deliver(sink)?;
            return Ok(FileStep::More);
        }
        if let Some(following) = self.following.take() {
            if binlog.torn() > 0 {
                return Err(FilesError::Torn { binlog: binlog.name.clone(), offset: binlog.framer.offset() });
            }
            self.next = Some(following);
            self.current = None;
            return Ok(FileStep::More);
        }
        let binlogs = self.files.binlogs()?;
        match binlogs.iter().position(|indexed| indexed.name == binlog.name) {
            None => Err(FilesError::Changed { binlog: binlog.name.clone() }),
            Some(at) => {
                // Whatever was written since the last look is read before it is left.
                self.following = binlogs.get(at + 1).map(|indexed| indexed.name.clone());
                match self.following {
                    Some(_) => Ok(FileStep::More),
                    None => self.require_index().map(|()| FileStep::Idle),
                }
            }
        }
    }

    /// The binlog that is being read, or is next.
    #[must_use]
    pub fn binlog(&self) -> Option<&BinlogName> {
        self.current.as_ref().map(|binlog| &binlog.name).or(self.next.as_ref())
    }

    /// Whether the server had closed the binlog that is being read: nothing was being written there any more.
    #[must_use]
    pub fn is_in_closed(&self) -> bool {
        self.current.as_ref().is_some_and(|binlog| binlog.is_closed)
    }

    /// Whether the server has no binlog after that one.
    pub fn is_in_newest(&self) -> Result<bool, FilesError> {
        Ok(self.files.binlogs()?.last().map(|newest| &newest.name) == self.binlog())
    }

    /// Where the last whole transaction of the current binlog ends, and how many bytes behind it were read.
    #[must_use]
    pub fn rest(&self) -> (u64, u64) {
        let read = self.current.as_ref().map_or(0, |binlog| binlog.framer.offset().saturating_add(binlog.torn()));
        (self.whole, read.saturating_sub(self.whole))
    }

    /// Behind a binlog that its server closed another one follows, unless the server is stopped, or has another index now.
    fn require_index(&mut self) -> Result<(), FilesError> {
        if !self.is_closed || self.looked.elapsed() < LOOK_INTERVAL {
            return Ok(());
        }
        self.looked = Instant::now();
        self.files.newer_index().map_or(Ok(()), Err)
    }

    fn open_next(&mut self, sink: &mut dyn FnMut(FileItem<'_>)) -> Result<(), FilesError> {
        let Some(name) = self.next.clone() else { return Ok(()) };
        let found = self.files.binlogs()?.iter().find(|indexed| indexed.name == name).cloned();
        let indexed: Indexed = found.ok_or(FilesError::Changed { binlog: name.clone() })?;
        self.current = Some(OpenBinlog::open(&self.files, &indexed)?);
        self.next = None;
        (self.tracker, self.skipping, self.whole) = (Some(TransactionTracker::new()), false, 0);
        sink(FileItem::Binlog(&name));
        Ok(())
    }

    /// Gives the whole events that were read to `sink`.
    fn deliver(&mut self, sink: &mut dyn FnMut(FileItem<'_>)) -> Result<(), FilesError> {
        let Some(mut binlog) = self.current.take() else { return Ok(()) };
        loop {
            match binlog.framer.next() {
                Ok(Some((offset, event))) => {
                    self.read.fetch_add(event.byte_count(), Ordering::Relaxed);
                    self.is_closed = matches!(event.event_type(), EventType::STOP | EventType::ROTATE);
                    if self.is_wanted(&binlog.name, offset, &event) {
                        give(offset, &event, sink);
                    }
                }
                Ok(None) => break,
                Err(source) => {
                    let error = FilesError::Damaged { binlog: binlog.name.clone(), source };
                    self.current = Some(binlog);
                    return Err(error);
                }
            }
        }
        // Of a binlog that was read to its known end, whatever follows is new.
        self.is_past_known |= binlog.name == self.known.binlog && binlog.framer.offset() >= self.known.offset;
        self.current = Some(binlog);
        Ok(())
    }

    /// Whether an event is outside of the transactions that the reader has.
    fn is_wanted(&mut self, binlog: &BinlogName, offset: u64, event: &RawEvent<'_>) -> bool {
        let Some(tracker) = &mut self.tracker else { return true };
        let Ok(progress) = tracker.accept(offset, event) else {
            self.tracker = None;
            return true;
        };
        if GtidEvent::is_one(event) {
            let is_known = !self.is_past_known && (*binlog != self.known.binlog || offset < self.known.offset);
            let gtid = tracker.open().and_then(|open| open.gtid.as_ref());
            self.skipping = is_known && gtid.is_some_and(|gtid| self.have.contains(gtid));
        }
        let is_wanted = !self.skipping;
        if progress != Progress::Inside {
            self.skipping = false;
            self.whole = offset.saturating_add(event.byte_count());
        }
        is_wanted
    }
}

/// An event as the server sends it.
fn give(offset: u64, event: &RawEvent<'_>, sink: &mut dyn FnMut(FileItem<'_>)) {
    if event.event_type() != EventType::FORMAT_DESCRIPTION {
        return sink(FileItem::Event { offset, bytes: event.bytes() });
    }
    let mut bytes = event.bytes().to_vec();
    if let Some(flags) = bytes.get_mut(FLAGS_AT) {
        *flags &= !FLAG_IN_USE;
    }
    sink(FileItem::Event { offset, bytes: &bytes });
}
