//! The agent's local copy of what it has received and not published yet.
//!
//! A *stretch* is a file with consecutive bytes of one binlog. Segments are published from it, so no transaction has to
//! fit into memory. A stretch is removed when everything in it is published. What a crash leaves behind is discarded at
//! the next start and asked for again: the archive's GTID set says from where, and the source still has it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_binlog::MAGIC;

/// The folder of stretches.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    next: u64,
    current: Option<Current>,
}

/// The stretch that is being written.
#[derive(Debug)]
struct Current {
    stretch: Arc<Stretch>,
    file: File,
    /// Offset in the binlog after its last byte.
    end: u64,
}

/// A file of the spool; removed when nobody needs it any more.
#[derive(Debug)]
pub(super) struct Stretch {
    path: PathBuf,
    start: u64,
}

impl Drop for Stretch {
    fn drop(&mut self) {
        // At the next start it is discarded anyway.
        let _ = fs::remove_file(&self.path);
    }
}

impl Stretch {
    /// The bytes between two offsets of the binlog.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn read(&self, start: u64, end: u64) -> io::Result<impl Read + use<>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(start.saturating_sub(self.start)))?;
        Ok(file.take(end.saturating_sub(start)))
    }
}

impl Spool {
    /// Makes the folder if it is not there, and discards what is in it.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn create(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "stretch") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { folder: folder.to_owned(), next: 0, current: None })
    }

    /// The folder.
    #[must_use]
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Begins a stretch at this offset of a binlog. At 0 it gets the magic, which no event carries. Returns how many bytes
    /// it begins with.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn open(&mut self, start: u64) -> io::Result<u64> {
        self.sync()?;
        let path = self.folder.join(format!("{:08}.stretch", self.next));
        self.next += 1;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        self.current = Some(Current { stretch: Arc::new(Stretch { path, start }), file, end: start });
        if start > 0 {
            return Ok(0);
        }
        self.append(&MAGIC)?;
        Ok(u64::try_from(MAGIC.len()).unwrap_or(0))
    }

    /// Appends bytes to the stretch.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let current = self.current.as_mut().ok_or_else(|| io::Error::other("no stretch is open"))?;
        current.file.write_all(bytes)?;
        current.end = current.end.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Brings everything to the disk.
    ///
    /// # Errors
    /// Those of the file system. The stretch must then be given up: another attempt proves nothing.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.current.as_ref().map_or(Ok(()), |current| current.file.sync_data())
    }

    /// The stretch, of which the bytes up to `end` are to be published. When it has no others, the next append begins a
    /// new one, so that the disk is freed as soon as possible.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn hand_over(&mut self, end: u64) -> io::Result<Arc<Stretch>> {
        let current = self.current.as_ref().ok_or_else(|| io::Error::other("no stretch is open"))?;
        let stretch = Arc::clone(&current.stretch);
        if current.end == end {
            self.sync()?;
            self.open(end)?;
        }
        Ok(stretch)
    }

    /// Gives up what is not handed over.
    pub(super) fn discard(&mut self) {
        self.current = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stretch: &Stretch, start: u64, end: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        stretch.read(start, end).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn bytes_come_back_by_their_offset_in_the_binlog() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(folder.path()).unwrap();
        spool.open(0).unwrap();
        spool.append(b"abcdef").unwrap();
        spool.sync().unwrap();
        let first = spool.hand_over(7).unwrap();
        spool.append(b"gh").unwrap();
        assert_eq!(read(&first, 0, 7), b"\xfebinabc");
        assert_eq!(read(&first, 7, 12), b"defgh");
    }

    #[test]
    fn a_stretch_that_is_published_whole_is_removed_from_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(folder.path()).unwrap();
        spool.open(100).unwrap();
        spool.append(b"abc").unwrap();
        let stretch = spool.hand_over(103).unwrap();
        spool.append(b"def").unwrap();
        assert_eq!(read(&stretch, 100, 103), b"abc");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        drop(stretch);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let second = spool.hand_over(106).unwrap();
        assert_eq!(read(&second, 103, 106), b"def");
    }

    #[test]
    fn leftovers_of_a_crash_are_discarded_and_other_files_are_not() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("00000000.stretch"), b"old").unwrap();
        fs::write(folder.path().join("note.txt"), b"mine").unwrap();
        let mut spool = Spool::create(folder.path()).unwrap();
        spool.open(4).unwrap();
        assert_eq!(fs::read(folder.path().join("00000000.stretch")).unwrap(), b"");
        assert_eq!(fs::read(folder.path().join("note.txt")).unwrap(), b"mine");
    }
}
