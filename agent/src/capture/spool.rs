//! The agent's local, fsynced copy of what it has received and not published yet.
//!
//! A *stretch* is a file with consecutive bytes of one binlog, behind the binlog's format description. Segments are
//! published from it, so no transaction has to fit into memory, and it outlives the agent: the next start reads it back
//! ([`Spool::open`] lists what is there). A stretch is removed when everything wanted of it is published.

mod cipher;
mod stretch;

pub(super) use cipher::SpoolKey;
pub(super) use stretch::{Stretch, StretchName};

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use highwater_binlog::{
    ChecksumAlgorithm, EVENT_HEADER_LEN, EventHeader, EventType, FIRST_EVENT_OFFSET, FormatDescription, MAGIC,
    RawEvent, StreamCipher,
};

use self::stretch::Front;
use super::lineage::LineageMark;
use crate::failpoint;
use crate::fsync;

/// Bytes encrypted at a time.
const CIPHER_BYTES: usize = 256 << 10;

/// Space that is kept back, so that catalog and report can still be written when the file system is full.
pub(super) const RESERVE_BYTES: u64 = 8 << 20;

/// No format description comes near this many bytes: about 60 and one for each event type.
const DESCRIPTION_LEN_MAX: usize = 4096;

/// What files that could not be read back are renamed to end with.
const SET_ASIDE: &str = ".set-aside";

/// The folder of stretches.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    key: Option<Arc<SpoolKey>>,
    next: u64,
    current: Option<Current>,
    /// Stretches that ended since everything was on the disk.
    ended: Vec<Arc<Stretch>>,
    /// Whether the folder has names that are not on the disk yet.
    unsynced_names: bool,
    total: Arc<AtomicU64>,
}

/// The stretch that is being written.
#[derive(Debug)]
struct Current {
    stretch: Arc<Stretch>,
    file: File,
    cipher: Option<StreamCipher>,
    /// Offset in the binlog after its last byte.
    end: u64,
    /// What stretches that continue this one begin with.
    description: Vec<u8>,
    /// Offset after the last byte handed over for publishing.
    handed_over: u64,
}

impl Spool {
    /// Makes the folder if it is not there, and returns what an earlier run left in it, oldest first.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn open(folder: &Path, key: Option<SpoolKey>) -> io::Result<(Self, Vec<StretchName>)> {
        fsync::create_directories(folder)?;
        let left = stretches(folder)?;
        let next = left.last().map_or(0, |name| name.number + 1);
        let total = Arc::new(AtomicU64::new(0));
        let key = key.map(Arc::new);
        let spool = Self {
            folder: folder.to_owned(),
            key,
            next,
            current: None,
            ended: Vec::new(),
            unsynced_names: false,
            total,
        };
        spool.keep_reserve();
        Ok((spool, left))
    }

    /// A file that an earlier run left in a folder, encrypted with another key than this one, if there is any.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn locked(folder: &Path, key: Option<&SpoolKey>) -> io::Result<Option<PathBuf>> {
        if !folder.try_exists()? {
            return Ok(None);
        }
        for name in stretches(folder)? {
            let path = folder.join(name.to_string());
            if SpoolKey::is_missing(&path, key)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Files of earlier runs that were put aside for somebody to look at.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn set_aside_count(&self) -> io::Result<u64> {
        let mut count = 0;
        for entry in fs::read_dir(&self.folder)? {
            count += u64::from(entry?.file_name().as_encoded_bytes().ends_with(SET_ASIDE.as_bytes()));
        }
        Ok(count)
    }

    /// The folder.
    #[must_use]
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes that all stretches have on the disk.
    #[must_use]
    pub(super) fn bytes(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Takes over a stretch that an earlier run left, and brings it to the disk: only then is it spooled. Fails with
    /// `InvalidData` when it does not begin with a binlog's format description.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn adopt(&self, name: &StretchName) -> io::Result<(Arc<Stretch>, FormatDescription)> {
        let path = self.path(name);
        let file = File::open(&path)?;
        let size = file.metadata()?.len();
        fsync::sync_data(&file, &path, size)?;
        fsync::sync_directory(&self.folder)?;
        let mut reader = stretch::plain_reader(&path, 0, self.key.as_deref())?;
        let (description, head) = read_description(&mut reader)?;
        let head = if name.start == 0 { 0 } else { head };
        let header = reader.header_len();
        let front = Front { header, head, checksum: description.checksum_algorithm };
        let stretch = Stretch::new(path, name.clone(), front, self.key.clone(), Arc::clone(&self.total));
        stretch.grow(size);
        Ok((Arc::new(stretch), description))
    }

    /// Puts a stretch aside under another name: nobody reads it, and nothing is lost.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn set_aside(&self, name: &StretchName) -> io::Result<PathBuf> {
        let aside = self.aside(name);
        fsync::rename(&self.path(name), &aside)?;
        Ok(aside)
    }

    /// Keeps the bytes of a stretch under another name too, for somebody to look at.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn keep_copy(&self, name: &StretchName) -> io::Result<PathBuf> {
        let aside = self.aside(name);
        match fsync::link(&self.path(name), &aside) {
            // Of an earlier start.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(aside),
            linked => linked.map(|()| aside),
        }
    }

    /// Removes a stretch that has nothing in it.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn remove(&self, name: &StretchName) -> io::Result<()> {
        fsync::remove(&self.path(name))
    }

    /// Begins a stretch. `description` is the binlog's format description event; a stretch that starts at 0 has it at
    /// its beginning anyway, behind the magic, which no event carries. Returns how many bytes of the binlog it has then.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn begin(&mut self, name: StretchName, description: &[u8]) -> io::Result<u64> {
        self.sync_current()?;
        self.ended.extend(self.current());
        self.close_current();
        let name = StretchName { number: self.next, ..name };
        let path = self.path(&name);
        failpoint::io("spool.open")?;
        self.next += 1;
        let sealed = self.key.as_ref().map(|key| key.create()).transpose()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        self.unsynced_names = true;
        failpoint::crash("seg.open.tmp");
        let checksum = described(description)?.checksum_algorithm;
        let (start, description) = (name.start, description.to_vec());
        let header: &[u8] = sealed.as_ref().map_or(&[], |(header, _)| header);
        if let Err(error) = file.write_all(header) {
            // Nobody else knows of it. If it stays, the next start finds nothing in it.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        let header = byte_count(header.len());
        let head = if start == 0 { 0 } else { byte_count(MAGIC.len() + description.len()) };
        let front = Front { header, head, checksum };
        let stretch = Stretch::new(path, name, front, self.key.clone(), Arc::clone(&self.total));
        stretch.grow(header);
        let stretch = Arc::new(stretch);
        let cipher = sealed.map(|(_, cipher)| cipher);
        self.current = Some(Current { stretch, file, cipher, end: start, description, handed_over: start });
        let Some(current) = &mut self.current else { return Ok(0) };
        if start == 0 {
            current.write(0, &MAGIC)?;
            current.end = FIRST_EVENT_OFFSET;
            return Ok(FIRST_EVENT_OFFSET);
        }
        let head = [&MAGIC, current.description.as_slice()].concat();
        current.write(0, &head)?;
        Ok(0)
    }

    /// Appends bytes to the stretch.
    ///
    /// # Errors
    /// Those of the file system; then [`Self::abandon`] it.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let current = self.current.as_mut().ok_or_else(|| io::Error::other("no stretch is open"))?;
        failpoint::io("spool.write")?;
        let place = current.stretch.place(current.end);
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        current.write(place, first)?;
        failpoint::crash("seg.write.mid");
        current.write(place.saturating_add(byte_count(first.len())), rest)?;
        failpoint::crash("seg.write.after");
        current.end = current.end.saturating_add(byte_count(bytes.len()));
        Ok(())
    }

    /// Brings everything to the disk.
    ///
    /// # Errors
    /// Those of the file system; then [`Self::abandon`] it: another attempt would prove nothing.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.sync_current()?;
        self.ended.clear();
        Ok(())
    }

    fn sync_current(&mut self) -> io::Result<()> {
        if failpoint::is_broken("broken.fsync") {
            return Ok(());
        }
        if let Some(current) = &self.current {
            failpoint::io("spool.fsync")?;
            failpoint::crash("seg.fsync.before");
            let len = current.stretch.file_len(current.end);
            fsync::sync_data(&current.file, current.stretch.path(), len)?;
            failpoint::crash("seg.fsync.after");
        }
        if self.unsynced_names {
            failpoint::crash("seg.dirsync.before");
            fsync::sync_directory(&self.folder)?;
            self.unsynced_names = false;
            failpoint::crash("seg.dirsync.after");
        }
        Ok(())
    }

    /// The stretch that is being written.
    #[must_use]
    pub(super) fn current(&self) -> Option<Arc<Stretch>> {
        self.current.as_ref().map(|current| Arc::clone(&current.stretch))
    }

    /// The stretch, of which the bytes up to `end` are to be published. When it has no others, the next append begins a
    /// new one, so that the disk is freed as soon as possible; `follows` is what was captured before that.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn hand_over(&mut self, end: u64, follows: LineageMark) -> io::Result<Arc<Stretch>> {
        let current = self.current.as_mut().ok_or_else(|| io::Error::other("no stretch is open"))?;
        let stretch = Arc::clone(&current.stretch);
        current.handed_over = end;
        if current.end == end {
            let description = current.description.clone();
            self.begin(StretchName { start: end, follows, ..stretch.name().clone() }, &description)?;
        }
        Ok(stretch)
    }

    /// Gives up what is not handed over: the source is asked for it again.
    pub(super) fn discard(&mut self) {
        self.close_current();
    }

    /// After a failure to write: of the stretch that is being written, and of those that ended in the same go, only what is
    /// to be published was on the disk before; everything behind is cut off.
    ///
    /// # Errors
    /// When a file cannot be cut.
    pub(super) fn abandon(&mut self) -> io::Result<()> {
        let mut written = std::mem::take(&mut self.ended);
        written.extend(self.current.take().map(|current| current.stretch));
        let cut: Vec<_> = written.iter().map(|stretch| stretch.keep_handed_over()).collect();
        cut.into_iter().collect()
    }

    /// Frees the space that was kept back.
    pub(super) fn free_reserve(&self) {
        // Without it there is nothing to free.
        let _ = fs::remove_file(self.folder.join("reserve"));
    }

    /// Keeps space back again, if there is enough. Without it everything goes on as long as there is any.
    pub(super) fn keep_reserve(&self) {
        let path = self.folder.join("reserve");
        if fs::metadata(&path).is_ok_and(|facts| facts.len() == RESERVE_BYTES) {
            return;
        }
        let kept = File::create(&path).and_then(|mut file| io::copy(&mut io::repeat(0).take(RESERVE_BYTES), &mut file));
        if let Err(error) = kept {
            tracing::warn!(error = %error, "no space to keep in reserve");
            self.free_reserve();
        }
    }

    fn path(&self, name: &StretchName) -> PathBuf {
        self.folder.join(name.to_string())
    }

    fn aside(&self, name: &StretchName) -> PathBuf {
        self.folder.join(format!("{name}{SET_ASIDE}"))
    }

    fn close_current(&mut self) {
        if let Some(current) = self.current.take() {
            current.stretch.close(current.handed_over);
        }
    }
}

impl Current {
    /// Writes plain bytes, encrypted if the file is, that stand at `place` of its plain bytes.
    fn write(&mut self, place: u64, bytes: &[u8]) -> io::Result<()> {
        match &mut self.cipher {
            None => self.file.write_all(bytes)?,
            Some(cipher) => {
                let mut at = place;
                for part in bytes.chunks(CIPHER_BYTES) {
                    let mut part = part.to_vec();
                    cipher.apply(at, &mut part);
                    self.file.write_all(&part)?;
                    at = at.saturating_add(byte_count(part.len()));
                }
            }
        }
        self.stretch.grow(byte_count(bytes.len()));
        Ok(())
    }
}

/// The stretches in a folder, oldest first.
fn stretches(folder: &Path) -> io::Result<Vec<StretchName>> {
    let mut found: Vec<StretchName> = Vec::new();
    for entry in fs::read_dir(folder)? {
        if let Some(name) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push(name);
        }
    }
    found.sort_by_key(|name| name.number);
    Ok(found)
}

/// Reads what a stretch begins with. Also returns how many bytes that is.
fn read_description(reader: &mut impl Read) -> io::Result<(FormatDescription, u64)> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut front = [0u8; MAGIC.len() + EVENT_HEADER_LEN];
    reader.read_exact(&mut front)?;
    let Some(header_bytes) = front.strip_prefix(&MAGIC) else { return Err(invalid("begins with no binlog magic")) };
    let header = EventHeader::read(header_bytes).ok_or_else(|| invalid("has no event"))?;
    let len = usize::try_from(header.event_len).unwrap_or(usize::MAX);
    if header.event_type != EventType::FORMAT_DESCRIPTION || !(EVENT_HEADER_LEN..=DESCRIPTION_LEN_MAX).contains(&len) {
        return Err(invalid("does not begin with a format description"));
    }
    let mut event = header_bytes.to_vec();
    event.resize(len, 0);
    reader.read_exact(&mut event[EVENT_HEADER_LEN..])?;
    Ok((described(&event)?, byte_count(MAGIC.len() + len)))
}

/// A format description, which says itself how it ends.
fn described(event: &[u8]) -> io::Result<FormatDescription> {
    RawEvent::verify(event, ChecksumAlgorithm::None)
        .and_then(|event| FormatDescription::read(&event))
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn byte_count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
