//! The agent's local, fsynced copy of what it has received and not published yet.
//!
//! A *stretch* is a file with consecutive bytes of one binlog, behind the binlog's format description. Segments are
//! published from it, so no transaction has to fit into memory, and it outlives the agent: the next start reads it back
//! ([`Spool::open`] lists what is there). A stretch is removed when everything wanted of it is published.

mod cipher;
mod file;
mod memory;
mod stretch;

pub(super) use cipher::SpoolKey;
pub(super) use stretch::{Stretch, StretchName};

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use highwater_binlog::{
    ChecksumAlgorithm, ENCRYPTION_HEADER_LEN, EVENT_HEADER_LEN, EventHeader, EventType, FIRST_EVENT_OFFSET,
    FormatDescription, MAGIC, RawEvent,
};

use self::file::{FileReader, SpoolFile};
use self::memory::{Held, Memory};
use self::stretch::{Body, Front};
use super::lineage::LineageMark;
use crate::failpoint;
use crate::fsync;

/// Space that is kept back, so that catalog and report can still be written when the file system is full.
pub(super) const RESERVE_BYTES: u64 = 8 << 20;

/// Most bytes of a transaction that goes on that are written again, so that those before it can be let go.
const MOVED_BYTES_MAX: u64 = 8 << 20;

/// With fewer bytes to let go a stretch goes on.
const FREED_BYTES_MIN: u64 = 1 << 20;

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
    /// Stretches that are in memory, oldest first.
    held: Vec<Weak<Stretch>>,
    /// What they are kept in.
    memory: Memory,
    /// Whether the folder has names that are not on the disk yet.
    unsynced_names: bool,
    total: Arc<AtomicU64>,
}

/// The stretch that is being written.
#[derive(Debug)]
struct Current {
    stretch: Arc<Stretch>,
    output: Output,
    /// Offset in the binlog after its last byte.
    end: u64,
    /// What stretches that continue this one begin with.
    description: Vec<u8>,
    /// Offset after the last byte handed over for publishing.
    handed_over: u64,
}

/// Where the stretch that is being written goes.
#[derive(Debug)]
enum Output {
    /// To its file.
    File(SpoolFile),
    /// Nowhere yet.
    Held,
}

/// Where bytes are to be safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// In the spool, before anything else.
    Spooled,
    /// In the archive: until then they may wait in memory, since the source has them.
    Held,
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
            held: Vec::new(),
            memory: Memory::default(),
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
        let mut reader = FileReader::open(&path, 0, self.key.as_deref())?;
        let (description, head) = read_description(&mut reader)?;
        let head = if name.start == 0 { 0 } else { head };
        let header = reader.header_len();
        let front = Front { header, head, checksum: description.checksum_algorithm };
        let (key, total) = (self.key.clone(), Arc::clone(&self.total));
        let stretch = Stretch::new(path, name.clone(), front, key, total, Body::File);
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
    pub(super) fn begin(&mut self, name: StretchName, description: &[u8], keep: Keep) -> io::Result<u64> {
        self.sync_current()?;
        if keep == Keep::Spooled {
            self.write_held()?;
        }
        self.ended.extend(self.current().filter(|stretch| !stretch.is_held()));
        self.close_current();
        let name = StretchName { number: self.next, ..name };
        self.next += 1;
        let checksum = described(description)?.checksum_algorithm;
        let (start, description) = (name.start, description.to_vec());
        let header = if self.key.is_some() { byte_count(ENCRYPTION_HEADER_LEN) } else { 0 };
        let head = if start == 0 { 0 } else { byte_count(MAGIC.len() + description.len()) };
        let front = Front { header, head, checksum };
        let body = match keep {
            Keep::Spooled => Body::File,
            Keep::Held => Body::Held(Held::new(description.clone(), self.memory.clone())),
        };
        let stretch = Stretch::new(self.path(&name), name, front, self.key.clone(), Arc::clone(&self.total), body);
        let stretch = Arc::new(stretch);
        let output = match keep {
            Keep::Spooled => Output::File(self.create(&stretch, &description)?),
            Keep::Held => {
                self.held.retain(|stretch| stretch.strong_count() > 0);
                self.held.push(Arc::downgrade(&stretch));
                Output::Held
            }
        };
        self.current = Some(Current { stretch, output, end: start, description, handed_over: start });
        if start == 0 {
            self.append(&MAGIC)?;
            return Ok(FIRST_EVENT_OFFSET);
        }
        Ok(0)
    }

    /// Appends bytes to the stretch.
    ///
    /// # Errors
    /// Those of the file system; then [`Self::abandon`] it.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let current = self.current.as_mut().ok_or_else(|| io::Error::other("no stretch is open"))?;
        let len = byte_count(bytes.len());
        match &mut current.output {
            Output::Held => current.stretch.hold(bytes),
            Output::File(file) => {
                failpoint::io("spool.write")?;
                let (first, rest) = bytes.split_at(bytes.len() / 2);
                file.write(&current.stretch, current.end, first)?;
                failpoint::crash("seg.write.mid");
                file.write(&current.stretch, current.end.saturating_add(byte_count(first.len())), rest)?;
                failpoint::crash("seg.write.after");
            }
        }
        current.end = current.end.saturating_add(len);
        Ok(())
    }

    /// Stretches in memory of which something is not published, oldest first.
    pub(super) fn held(&self) -> impl Iterator<Item = Arc<Stretch>> {
        self.held.iter().filter_map(Weak::upgrade).filter(|stretch| stretch.is_held() && stretch.is_wanted())
    }

    /// Bytes of them that are not published.
    #[must_use]
    pub(super) fn held_bytes(&self) -> u64 {
        self.held().map(|stretch| stretch.held_bytes()).sum()
    }

    /// Whether there are any.
    #[must_use]
    pub(super) fn is_holding(&self) -> bool {
        self.held().next().is_some()
    }

    /// Brings everything to the disk, what is held too.
    ///
    /// # Errors
    /// Those of the file system; then [`Self::abandon`] it: another attempt would prove nothing.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.write_held()?;
        self.sync_file()
    }

    /// Brings to the disk what is in files.
    ///
    /// # Errors
    /// Like those of [`Self::sync`].
    pub(super) fn sync_file(&mut self) -> io::Result<()> {
        self.sync_current()?;
        self.ended.clear();
        Ok(())
    }

    fn sync_current(&mut self) -> io::Result<()> {
        if let Some(Current { stretch, output: Output::File(file), end, .. }) = &self.current {
            file.sync(stretch, *end)?;
        }
        self.sync_names()
    }

    fn sync_names(&mut self) -> io::Result<()> {
        if self.unsynced_names {
            failpoint::crash("seg.dirsync.before");
            fsync::sync_directory(&self.folder)?;
            self.unsynced_names = false;
            failpoint::crash("seg.dirsync.after");
        }
        Ok(())
    }

    /// Writes what is held, oldest first: nothing is in a file while what comes before it is not.
    ///
    /// # Errors
    /// Those of the file system; what could not be written is still held.
    pub(super) fn write_held(&mut self) -> io::Result<()> {
        for stretch in self.held().collect::<Vec<_>>() {
            let file = self.write_stretch(&stretch)?;
            stretch.written();
            match self.current.as_mut().filter(|current| Arc::ptr_eq(&current.stretch, &stretch)) {
                Some(current) => current.output = Output::File(file),
                None => self.ended.push(stretch),
            }
        }
        self.held.clear();
        self.memory.release();
        Ok(())
    }

    fn write_stretch(&mut self, stretch: &Stretch) -> io::Result<SpoolFile> {
        let (description, pages) = stretch.in_memory().ok_or_else(|| io::Error::other("it is written already"))?;
        let mut file = self.create(stretch, &description)?;
        let mut write = || {
            let mut end = stretch.name().start;
            for page in &pages {
                failpoint::io("spool.write")?;
                // What is not to be published was given up, and will be asked for again.
                let wanted = stretch.wanted().map_or(u64::MAX, |wanted| wanted.saturating_sub(end));
                let most = usize::try_from(wanted).unwrap_or(usize::MAX).min(page.len());
                file.write(stretch, end, &page[..most])?;
                failpoint::crash(failpoint::HELD_CRASH_POINT);
                end = end.saturating_add(byte_count(most));
            }
            file.sync(stretch, end)?;
            self.sync_names()
        };
        write().inspect_err(|_| stretch.remove_file())?;
        Ok(file)
    }

    fn create(&mut self, stretch: &Stretch, description: &[u8]) -> io::Result<SpoolFile> {
        let file = SpoolFile::create(stretch, self.key.as_deref(), description)?;
        self.unsynced_names = true;
        Ok(file)
    }

    /// The stretch that is being written.
    #[must_use]
    pub(super) fn current(&self) -> Option<Arc<Stretch>> {
        self.current.as_ref().map(|current| Arc::clone(&current.stretch))
    }

    /// The stretch, of which the bytes up to `end` are to be published. A new one is begun behind them, so that the disk is
    /// freed as soon as possible, unless too many bytes of a transaction that goes on are there already, or it is not worth
    /// it; `follows` is what was captured before that.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn hand_over(&mut self, end: u64, follows: LineageMark, keep: Keep) -> io::Result<Arc<Stretch>> {
        let current = self.current.as_mut().ok_or_else(|| io::Error::other("no stretch is open"))?;
        let stretch = Arc::clone(&current.stretch);
        current.handed_over = end;
        let (rest, freed) = (current.end.saturating_sub(end), end.saturating_sub(stretch.name().start));
        if rest == 0 || (rest <= MOVED_BYTES_MAX && freed >= FREED_BYTES_MIN) {
            let description = current.description.clone();
            let mut moved = Vec::new();
            if rest > 0 {
                stretch.read(end, current.end)?.read_to_end(&mut moved)?;
            }
            self.begin(StretchName { start: end, follows, ..stretch.name().clone() }, &description, keep)?;
            self.append(&moved)?;
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
