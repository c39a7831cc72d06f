//! A file of the spool: consecutive bytes of one binlog, readable by `mysqlbinlog` and, when encrypted, `binlog-decrypt`.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use highwater_binlog::{BinlogName, ChecksumAlgorithm, ParseError, ServerUuid};
use highwater_catalog::TimelineId;

use super::cipher::SpoolKey;
use super::file::{EventReader, FileReader};
use super::memory::{Held, PageReader, Pages};
use crate::capture::lineage::LineageMark;
use crate::failpoint;
use crate::seal::FRAME_BYTES;

/// What a stretch is part of; its file's name says all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::capture) struct StretchName {
    /// Its number in the spool; later ones have larger numbers.
    pub number: u64,
    /// The timeline it belongs to.
    pub timeline: TimelineId,
    /// The server whose binlog it is.
    pub server: ServerUuid,
    /// The binlog.
    pub binlog: BinlogName,
    /// Offset in the binlog of its first byte.
    pub start: u64,
    /// What was captured before it.
    pub follows: LineageMark,
}

impl StretchName {
    /// What the names of stretches end with.
    pub(super) const ENDING: &'static str = ".stretch";
}

impl fmt::Display for StretchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, timeline, server, binlog, start, follows } = self;
        write!(f, "{number:08}_{timeline}_{server}_{start:020}_{follows}_{binlog}{}", Self::ENDING)
    }
}

impl FromStr for StretchName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new("name of a spool file", text);
        let mut parts = text.strip_suffix(Self::ENDING).ok_or_else(error)?.splitn(6, '_');
        let mut part = || parts.next().ok_or_else(error);
        Ok(Self {
            number: part()?.parse().map_err(|_| error())?,
            timeline: TimelineId(part()?.parse().map_err(|_| error())?),
            server: part()?.parse()?,
            start: part()?.parse().map_err(|_| error())?,
            follows: part()?.parse()?,
            binlog: part()?.parse()?,
        })
    }
}

/// How far a stretch is on its way into the archive. Offsets are those of the binlog.
#[derive(Debug, Default)]
struct Fate {
    /// Everything before this is published.
    published: u64,
    /// Everything before this is to be published, whatever is given up behind it.
    handed_over: u64,
    /// Nothing behind this will be published; absent while the stretch may grow.
    wanted: Option<u64>,
}

impl Fate {
    /// Whether all that was wanted of a stretch is published. Before its start there is nothing to publish.
    fn is_done(&self, start: u64) -> bool {
        self.wanted.is_some_and(|wanted| self.published.max(start) >= wanted.max(self.handed_over))
    }
}

/// What stands in front of the bytes of a stretch, and says how to read them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Front {
    /// Bytes of the encryption header; 0 in a plain file.
    pub(super) header: u64,
    /// Plain bytes in front of those from the stretch's start on: magic and format description, unless they are part of it.
    pub(super) head: u64,
    /// How its events end.
    pub(super) checksum: ChecksumAlgorithm,
}

/// Where the bytes of a stretch are.
#[derive(Debug)]
pub(super) enum Body {
    /// In its file.
    File,
    /// In memory: there is no file yet.
    Held(Held),
}

/// A file of the spool. It is removed when the last one who needs it lets go and all that was wanted of it is published;
/// until then it outlives the agent. One that is held has its bytes in memory until then, or until it is written.
#[derive(Debug)]
pub struct Stretch {
    path: PathBuf,
    name: StretchName,
    front: Front,
    key: Option<Arc<SpoolKey>>,
    body: Mutex<Body>,
    begun: Instant,
    fate: Mutex<Fate>,
    /// Bytes of its file, counted in the spool's total.
    size: AtomicU64,
    total: Arc<AtomicU64>,
}

impl Stretch {
    pub(super) fn new(
        path: PathBuf,
        name: StretchName,
        front: Front,
        key: Option<Arc<SpoolKey>>,
        total: Arc<AtomicU64>,
        body: Body,
    ) -> Self {
        let (fate, size) = (Mutex::default(), AtomicU64::new(0));
        Self { path, name, front, key, body: Mutex::new(body), begun: Instant::now(), fate, size, total }
    }

    /// Whether its bytes are in memory alone.
    pub(in crate::capture) fn is_held(&self) -> bool {
        matches!(*self.body(), Body::Held(_))
    }

    /// Holds more bytes, if it is held.
    pub(super) fn hold(&self, bytes: &[u8]) {
        if let Body::Held(held) = &mut *self.body() {
            held.add(bytes);
        }
    }

    /// What is held of it, with the format description that its file will begin with; `None` if it has a file.
    pub(super) fn in_memory(&self) -> Option<(Vec<u8>, Pages)> {
        match &mut *self.body() {
            Body::Held(held) => Some((held.description().to_vec(), held.pages())),
            Body::File => None,
        }
    }

    /// How many bytes of it are held and to be published still, as far as is known.
    pub(super) fn held_bytes(&self) -> u64 {
        let Fate { published, wanted, .. } = *self.fate();
        let wanted = wanted.map_or(u64::MAX, |wanted| wanted.saturating_sub(self.name.start));
        match &*self.body() {
            Body::Held(held) => held.bytes().min(wanted).saturating_sub(published.saturating_sub(self.name.start)),
            Body::File => 0,
        }
    }

    /// What was held is in its file now.
    pub(super) fn written(&self) {
        *self.body() = Body::File;
    }

    /// Removes its file, which could not be written as a whole.
    pub(super) fn remove_file(&self) {
        // Nobody else knows of it. If it stays, the next start finds nothing in it, or what it asks for again.
        let _ = fs::remove_file(&self.path);
        self.total.fetch_sub(self.size.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Memory that it takes while some of it is wanted.
    pub(in crate::capture) fn held_memory(&self) -> u64 {
        match &*self.body() {
            Body::Held(held) => held.memory(),
            Body::File => 0,
        }
    }

    /// Offset of the first byte that will not be published, once that is known.
    pub(super) fn wanted(&self) -> Option<u64> {
        self.fate().wanted
    }

    /// When it was begun.
    pub(in crate::capture) fn begun(&self) -> Instant {
        self.begun
    }

    /// Whether some of it is still to be published.
    pub(super) fn is_wanted(&self) -> bool {
        !self.fate().is_done(self.name.start)
    }

    fn body(&self) -> MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it is part of.
    pub(in crate::capture) fn name(&self) -> &StretchName {
        &self.name
    }

    /// Its file.
    pub(in crate::capture) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the byte at an offset of the binlog stands in the plain bytes of the file.
    pub(super) fn place(&self, offset: u64) -> u64 {
        self.front.head.saturating_add(offset.saturating_sub(self.name.start))
    }

    /// The size of the file whose last byte is the one before this offset of the binlog.
    pub(super) fn file_len(&self, end: u64) -> u64 {
        self.front.header.saturating_add(self.place(end))
    }

    /// The bytes between two offsets of the binlog.
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` when the file is encrypted and its key is not ours.
    pub(in crate::capture) fn read(&self, start: u64, end: u64) -> io::Result<StretchReader> {
        failpoint::io("spool.read")?;
        if let Some((_, pages)) = self.in_memory() {
            return Ok(StretchReader::Memory(self.read_pages(pages, start, end)));
        }
        self.read_file(start, end).map(StretchReader::File)
    }

    fn read_file(&self, start: u64, end: u64) -> io::Result<FileReader> {
        let reader = FileReader::open(&self.path, self.place(start), self.key.as_deref())?;
        Ok(reader.limited(end.saturating_sub(start)))
    }

    fn read_pages(&self, pages: Pages, start: u64, end: u64) -> PageReader {
        PageReader::new(pages, start.saturating_sub(self.name.start), end.saturating_sub(start))
    }

    /// The same, of whole events, to be published: those in a file are checked again on their way, since the disk or the
    /// memory may have changed what was right when it came.
    ///
    /// # Errors
    /// Like those of [`Self::read`]; `InvalidData` also where an event was changed or is cut short.
    pub(in crate::capture) fn read_events(&self, start: u64, end: u64) -> io::Result<Box<dyn BufRead>> {
        failpoint::io("spool.read")?;
        if let Some((_, pages)) = self.in_memory() {
            return Ok(Box::new(self.read_pages(pages, start, end)));
        }
        let bytes = self.read_file(start, end).map_err(|error| match error.kind() {
            // A file that was removed, or cut before its first event.
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::InvalidData, error),
            _ => error,
        })?;
        let events = EventReader::new(bytes, self.front.checksum, start);
        Ok(Box::new(BufReader::with_capacity(FRAME_BYTES, events)))
    }

    /// Counts bytes that its file has more.
    pub(super) fn grow(&self, bytes: u64) {
        self.size.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Everything before `end` is published.
    pub(in crate::capture) fn published(&self, end: u64) {
        self.change(|fate| fate.published = fate.published.max(end));
    }

    /// Everything before `end` is to be published.
    pub(in crate::capture) fn hand_over(&self, end: u64) {
        self.change(|fate| fate.handed_over = fate.handed_over.max(end));
    }

    /// It grows no more, and nothing behind `end` is wanted.
    pub(in crate::capture) fn close(&self, end: u64) {
        self.change(|fate| fate.wanted = Some(end));
    }

    /// Gives up everything that is not to be published, and cuts it off: it may not be on the disk, and whatever reads the
    /// file later could not tell.
    ///
    /// # Errors
    /// When the file cannot be cut.
    pub(super) fn keep_handed_over(&self) -> io::Result<()> {
        let end = self.fate().handed_over;
        self.close(end);
        // Without any, the file is removed, and what is in memory has none.
        if end == 0 || self.is_held() {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.set_len(self.file_len(end))?;
        file.sync_data()
    }

    fn change(&self, change: impl FnOnce(&mut Fate)) {
        change(&mut self.fate());
    }
}

impl Drop for Stretch {
    fn drop(&mut self) {
        let fate = self.fate.get_mut().unwrap_or_else(PoisonError::into_inner);
        let is_in_file = matches!(self.body.get_mut().unwrap_or_else(PoisonError::into_inner), Body::File);
        if is_in_file && fate.is_done(self.name.start) {
            failpoint::crash("spool.delete.before");
            // One that comes back after a crash is found to be published.
            let _ = fs::remove_file(&self.path);
            failpoint::crash("spool.delete.after");
            self.total.fetch_sub(self.size.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Reads plain bytes of a stretch.
#[derive(Debug)]
pub(in crate::capture) enum StretchReader {
    /// Out of its file.
    File(FileReader),
    /// Out of memory.
    Memory(PageReader),
}

impl Read for StretchReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Memory(pages) => pages.read(buffer),
        }
    }
}
