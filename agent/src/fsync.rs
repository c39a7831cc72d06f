//! Durable local writes: the only file that renames, links or fsyncs a directory.
//!
//! A file appears under its final name only when all its bytes are on the disk, and the name itself is on the disk when
//! the function returns. Files are made with mode 0600, folders with 0700.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use tempfile::{NamedTempFile, TempPath};
use zeroize::Zeroizing;

use crate::failpoint;

/// How temporary names begin. Nothing that is kept has such a name.
const TEMPORARY_PREFIX: &str = ".incoming-";

/// Bytes copied at a time.
const COPY_BYTES: usize = 128 << 10;

/// Which side of a copy failed.
#[derive(Debug)]
pub enum WriteError {
    /// The bytes to be written could not be read.
    Body(io::Error),
    /// The file could not be written.
    File(io::Error),
}

impl From<WriteError> for io::Error {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Body(error) | WriteError::File(error) => error,
        }
    }
}

/// Creates `path` from all of `body`; an existing file is left alone and answered with `AlreadyExists`.
/// `temporaries` is a folder of the same file system, where the bytes are collected first.
///
/// Returns the number of bytes written.
pub fn create_new(path: &Path, temporaries: &Path, body: &mut dyn Read) -> Result<u64, WriteError> {
    let mut file = Growing::begin(temporaries).map_err(WriteError::File)?;
    file.fill(body)?;
    file.create_new(path).map_err(WriteError::File)
}

/// A file that is being written, under a temporary name that is locked, so that a sweep spares it, and that goes when this
/// is dropped.
#[derive(Debug)]
pub struct Growing {
    temporary: NamedTempFile,
    size: u64,
}

impl Growing {
    /// An empty one, in a folder of the file system in which it is to get its name.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn begin(folder: &Path) -> io::Result<Self> {
        Ok(Self { temporary: locked_temporary(folder)?, size: 0 })
    }

    /// Adds all of `body`.
    ///
    /// # Errors
    /// Which side failed.
    pub fn fill(&mut self, body: &mut dyn Read) -> Result<(), WriteError> {
        // A body may be a keyring.
        let mut buffer = Zeroizing::new(vec![0; COPY_BYTES]);
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(WriteError::Body(error)),
            };
            self.write_all(&buffer[..count]).map_err(WriteError::File)?;
        }
    }

    /// Brings its bytes to the disk.
    fn sync(self) -> io::Result<NamedTempFile> {
        if !failpoint::is_broken("broken.store_fsync") {
            self.temporary.as_file().sync_all()?;
            failpoint::synced(self.temporary.path(), Some(self.size));
        }
        Ok(self.temporary)
    }

    /// Names it, durably; an existing file is left alone and answered with `AlreadyExists`. Returns its size in bytes.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create_new(self, path: &Path) -> io::Result<u64> {
        let size = self.size;
        let temporary = self.sync()?;
        failpoint::crash("name.link.before");
        // A hard link, unlike a rename, never replaces what is there. An earlier attempt may have given the name and not
        // brought it to the disk.
        if let Err(error) = fs::hard_link(temporary.path(), path) {
            if error.kind() == io::ErrorKind::AlreadyExists {
                sync_parent(path)?;
            }
            return Err(error);
        }
        failpoint::linked(temporary.path(), path);
        failpoint::crash("name.link.after");
        sync_parent(path)?;
        // The file is there for good; a temporary name that stays is swept later.
        let _ = temporary.close();
        Ok(size)
    }
}

impl Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.temporary.as_file_mut().write(bytes)?;
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file whose bytes are all on the disk, under a temporary name: for several files that are to appear together.
/// It is not open, so that there can be any number of them; the folder is to be locked against a sweep meanwhile.
#[derive(Debug)]
pub struct Complete(TempPath);

impl Complete {
    /// Collects all of `body` in `folder`.
    ///
    /// # Errors
    /// Which side failed.
    pub fn write(folder: &Path, body: &mut dyn Read) -> Result<Self, WriteError> {
        Ok(Self(write_temporary(folder, body)?.into_temp_path()))
    }

    /// Names it; an existing file is left alone and answered with `AlreadyExists`. The caller fsyncs the folder.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(self, path: &Path) -> io::Result<()> {
        fs::hard_link(&self.0, path)?;
        failpoint::linked(&self.0, path);
        let _ = self.0.close();
        Ok(())
    }

    /// Names it in the place of what has the name. The caller fsyncs the folder.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn replace(self, path: &Path) -> io::Result<()> {
        self.0.persist(path).map_err(|error| error.error)
    }
}

/// Writes `path` with exactly `bytes`, replacing what was there: a crash leaves the old file or the new one.
///
/// # Errors
/// Those of the file system.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = parent(path);
    let temporary = write_temporary(folder, &mut &*bytes)?;
    temporary.persist(path).map_err(|error| error.error)?;
    sync_directory(folder)
}

/// Writes `path` with exactly `bytes`; an existing file is left alone and answered with `AlreadyExists`.
///
/// # Errors
/// Those of the file system.
pub fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create_new(path, parent(path), &mut &*bytes)?;
    Ok(())
}

/// Removes a file, durably.
///
/// # Errors
/// Those of the file system.
pub fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    sync_parent(path)
}

/// Gives a file another name in the same folder, durably; a file that has the name is replaced.
///
/// # Errors
/// Those of the file system.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)
}

/// Gives a file a second name in the same folder, durably; a file that has the name is left, with `AlreadyExists`.
///
/// # Errors
/// Those of the file system.
pub fn link(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    sync_parent(to)
}

/// Makes a folder and those above it, durably, with mode 0700; existing ones are left as they are.
///
/// # Errors
/// Those of the file system; `NotADirectory` when something else has the name.
pub fn create_directories(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    match create_directory(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), create_directories)?;
            create_directory(path)
        }
        made => made,
    }
}

/// Makes a folder in one that exists, durably, with mode 0700; an existing one is left as it is.
///
/// # Errors
/// Those of the file system; `NotADirectory` when something else has the name.
pub fn create_directory(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => return Ok(()),
        Ok(facts) if facts.is_symlink() && path.is_dir() => return Ok(()),
        Ok(_) => return Err(io::Error::from(io::ErrorKind::NotADirectory)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            failpoint::synced(path, Some(0));
            sync_parent(path)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Fsyncs a folder, so that the names in it are on the disk.
///
/// # Errors
/// Those of the file system.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    failpoint::synced(path, None);
    Ok(())
}

/// Fsyncs the bytes of a file that is written from front to back and is `len` bytes long.
///
/// # Errors
/// Those of the file system. The file must then be given up: Linux marks the pages clean, and another attempt would
/// succeed without proving anything (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
pub fn sync_data(file: &File, path: &Path, len: u64) -> io::Result<()> {
    file.sync_data()?;
    failpoint::synced(path, Some(len));
    Ok(())
}

/// Removes temporary files that crashed writers left in a folder, and returns how many. Those of living writers, which
/// hold a lock, stay.
///
/// # Errors
/// Those of listing the folder. A file that cannot be removed is left.
pub fn sweep_temporaries(folder: &Path) -> io::Result<usize> {
    let mut swept = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_temporary = entry.file_name().to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX));
        if !is_temporary || !entry.file_type()?.is_file() {
            continue;
        }
        let Ok(file) = fs::OpenOptions::new().write(true).mode(0o600).open(entry.path()) else { continue };
        if file.try_lock().is_ok() && fs::remove_file(entry.path()).is_ok() {
            swept += 1;
        }
    }
    Ok(swept)
}

/// A locked, fsynced temporary file with all of `body`.
fn write_temporary(folder: &Path, body: &mut dyn Read) -> Result<NamedTempFile, WriteError> {
    let mut file = Growing::begin(folder).map_err(WriteError::File)?;
    file.fill(body)?;
    file.sync().map_err(WriteError::File)
}

/// A new temporary file whose lock tells a sweep that its writer lives. File systems without locks are never swept
/// (`sweep_temporaries` gets no lock either).
fn locked_temporary(folder: &Path) -> io::Result<NamedTempFile> {
    loop {
        let temporary = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(folder)?;
        match temporary.as_file().try_lock() {
            // A sweep may have come between the creation and the lock.
            Ok(()) if temporary.as_file().metadata()?.nlink() == 0 => continue,
            Err(fs::TryLockError::WouldBlock) => continue,
            Ok(()) | Err(fs::TryLockError::Error(_)) => return Ok(temporary),
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        Some(_) | None => Path::new("."),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    sync_directory(parent(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_is_private_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_new(&path, b"all of it").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"all of it");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary name stays");
    }

    #[test]
    fn an_existing_file_is_not_replaced_by_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_new(&path, b"first").unwrap();
        let error = write_new(&path, b"second").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_atomic_write_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_atomic(&path, b"first").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_body_that_breaks_leaves_nothing() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::NotFound))
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let error = create_new(&folder.path().join("file"), folder.path(), &mut Broken).unwrap_err();
        assert!(matches!(error, WriteError::Body(_)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_sweep_takes_leftovers_and_spares_living_writers() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".incoming-dead"), b"half").unwrap();
        fs::write(folder.path().join("kept"), b"whole").unwrap();
        let living = locked_temporary(folder.path()).unwrap();
        assert_eq!(sweep_temporaries(folder.path()).unwrap(), 1);
        assert!(living.path().exists());
        assert!(folder.path().join("kept").exists());
        assert!(!folder.path().join(".incoming-dead").exists());
    }

    #[test]
    fn folders_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b");
        create_directories(&deep).unwrap();
        create_directories(&deep).unwrap();
        assert_eq!(mode(&deep), 0o700);
        assert_eq!(mode(&folder.path().join("a")), 0o700);
    }
}
