//! A file of the spool: consecutive bytes of one binlog, readable by `mysqlbinlog` and, when encrypted, `binlog-decrypt`.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use highwater_binlog::{
    BinlogName, ChecksumAlgorithm, ENCRYPTION_HEADER_LEN, ENCRYPTION_MAGIC, EventWalk, FrameError, ParseError,
    ServerUuid, StreamCipher,
};
use highwater_catalog::TimelineId;

use super::cipher::SpoolKey;
use crate::capture::lineage::LineageMark;
use crate::failpoint;

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

/// A file of the spool. It is removed when the last one who needs it lets go and all that was wanted of it is published;
/// until then it outlives the agent.
#[derive(Debug)]
pub struct Stretch {
    path: PathBuf,
    name: StretchName,
    front: Front,
    key: Option<Arc<SpoolKey>>,
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
    ) -> Self {
        Self { path, name, front, key, fate: Mutex::default(), size: AtomicU64::new(0), total }
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
        let from = self.place(start);
        Ok(plain_reader(&self.path, from, self.key.as_deref())?.limited(end.saturating_sub(start)))
    }

    /// The same, of whole events, to be published: each is checked again on its way, since the disk or the memory may have
    /// changed what was right when it came.
    ///
    /// # Errors
    /// Like those of [`Self::read`]; `InvalidData` also where an event was changed or is cut short.
    pub(in crate::capture) fn read_events(&self, start: u64, end: u64) -> io::Result<EventReader> {
        let bytes = self.read(start, end).map_err(|error| match error.kind() {
            // A file that was removed, or cut before its first event.
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::InvalidData, error),
            _ => error,
        })?;
        Ok(EventReader { bytes, walk: EventWalk::new(self.front.checksum, start) })
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
        let end = self.fate.lock().unwrap_or_else(PoisonError::into_inner).handed_over;
        self.close(end);
        // Without any, the file is removed.
        if end == 0 {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).open(&self.path)?;
        file.set_len(self.file_len(end))?;
        file.sync_data()
    }

    fn change(&self, change: impl FnOnce(&mut Fate)) {
        change(&mut self.fate.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Stretch {
    fn drop(&mut self) {
        let fate = self.fate.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Before its start there is nothing to publish.
        let is_done = |wanted: u64| fate.published.max(self.name.start) >= wanted.max(fate.handed_over);
        if fate.wanted.is_some_and(is_done) {
            failpoint::crash("spool.delete.before");
            // One that comes back after a crash is found to be published.
            let _ = fs::remove_file(&self.path);
            failpoint::crash("spool.delete.after");
            self.total.fetch_sub(self.size.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// The plain bytes of a spool file from a place on.
///
/// # Errors
/// Those of the file system; `InvalidData` when the file is encrypted and its key is not ours.
pub(super) fn plain_reader(path: &Path, from: u64, key: Option<&SpoolKey>) -> io::Result<StretchReader> {
    let mut file = File::open(path)?;
    let mut magic = [0u8; ENCRYPTION_MAGIC.len()];
    let encrypted = file.read(&mut magic)? == magic.len() && magic == ENCRYPTION_MAGIC;
    let mut header_len = 0;
    let cipher = if encrypted {
        let key = key.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "encrypted, and capture.spool_keyring is not configured")
        })?;
        let mut header = [0u8; ENCRYPTION_HEADER_LEN];
        file.seek(SeekFrom::Start(0))?;
        file.read_exact(&mut header)?;
        header_len = u64::try_from(ENCRYPTION_HEADER_LEN).unwrap_or(0);
        Some(key.reopen(&header)?)
    } else {
        None
    };
    file.seek(SeekFrom::Start(header_len.saturating_add(from)))?;
    Ok(StretchReader { file, cipher, header: header_len, at: from, left: u64::MAX })
}

/// Reads plain bytes of a stretch.
#[derive(Debug)]
pub(in crate::capture) struct StretchReader {
    file: File,
    cipher: Option<StreamCipher>,
    /// Bytes of the encryption header.
    header: u64,
    /// The place of the next plain byte.
    at: u64,
    left: u64,
}

/// Reads events of a stretch.
#[derive(Debug)]
pub(in crate::capture) struct EventReader {
    bytes: StretchReader,
    walk: EventWalk,
}

impl EventReader {
    fn check(&mut self, bytes: &[u8], is_at_end: bool) -> Result<(), FrameError> {
        self.walk.accept(bytes)?;
        // A length that reaches behind the end would leave all that follows unchecked.
        if is_at_end { self.walk.finish() } else { Ok(()) }
    }
}

impl Read for EventReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        if count == 0 && self.bytes.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file ends early"));
        }
        let is_at_end = self.bytes.left == 0;
        match self.check(&buffer[..count], is_at_end) {
            Err(error) if !failpoint::is_broken("broken.crc") => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            Ok(()) | Err(_) => Ok(count),
        }
    }
}

impl StretchReader {
    pub(super) fn header_len(&self) -> u64 {
        self.header
    }

    fn limited(self, left: u64) -> Self {
        Self { left, ..self }
    }
}

impl Read for StretchReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        if let Some(cipher) = &mut self.cipher {
            cipher.apply(self.at, &mut buffer[..count]);
        }
        let count_wide = u64::try_from(count).unwrap_or(u64::MAX);
        self.at = self.at.saturating_add(count_wide);
        self.left = self.left.saturating_sub(count_wide);
        Ok(count)
    }
}
