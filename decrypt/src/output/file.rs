//! A file that appears under its name when it is complete.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use super::{Sink, exists, folder_of, partial, unusable};
use crate::failure::Failure;
use crate::signals;

/// Pieces that wait to be written.
const CHUNKS_WAITING: usize = 4;

/// The file while it is written: without a name, so that whatever ends the program leaves nothing behind; with one that
/// says what it is where the file system cannot do that.
enum Unfinished {
    Unnamed(File),
    Named(NamedTempFile),
}

/// One plain binlog to be. Readable by its owner only.
pub(crate) struct FileOutput {
    path: PathBuf,
    file: Unfinished,
    writer: Option<Writer>,
    /// Bytes before those of the stream.
    prefix_len: u64,
    /// Stream offset of the first byte.
    start: Option<u64>,
    /// Stream offset up to which it is to be kept.
    kept: u64,
}

/// Writes what it is sent, on a thread of its own.
struct Writer {
    pieces: SyncSender<Vec<u8>>,
    written: Receiver<Vec<u8>>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl FileOutput {
    /// A file at `path`, where there must be none: a binlog is never overwritten.
    pub(crate) fn create(path: &Path) -> Result<Self, Failure> {
        if path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let failed = |error: &std::io::Error| Failure::io(path.display(), error);
        let folder = folder_of(path);
        let file = match unnamed(folder) {
            Ok(file) => file,
            // File systems that cannot do that say so in several ways; a name is tried then.
            Err(error) if !is_final(&error) => named(path).map_err(|error| failed(&error))?,
            Err(error) => return Err(unusable(folder, &error)),
        };
        let writer = Writer::start(file.file().try_clone().map_err(|error| failed(&error))?);
        Ok(Self { path: path.to_owned(), file, writer: Some(writer), prefix_len: 0, start: None, kept: 0 })
    }

    /// Everything kept is all there is to be: puts it on disk under its name, and returns that.
    pub(crate) fn finish(self) -> Result<PathBuf, Failure> {
        let path = self.path.clone();
        self.finish_as(path)
    }

    /// What is kept is a part only: puts it under a name that says so.
    pub(crate) fn finish_partial(self) -> Result<PathBuf, Failure> {
        let path = partial(&self.path);
        self.finish_as(path)
    }

    fn finish_as(mut self, path: PathBuf) -> Result<PathBuf, Failure> {
        self.join()?;
        let failed = |error: &std::io::Error| Failure::io(path.display(), error);
        let len = self.prefix_len + self.kept.saturating_sub(self.start.unwrap_or(0));
        let file = self.file.file();
        if file.metadata().map_err(|error| failed(&error))?.len() > len {
            file.set_len(len).map_err(|error| failed(&error))?;
        }
        file.sync_all().map_err(|error| failed(&error))?;
        match self.file {
            Unfinished::Unnamed(file) => link(&file, &path)?,
            Unfinished::Named(file) => persist(file, &path)?,
        }
        File::open(folder_of(&path)).and_then(|folder| folder.sync_all()).map_err(|error| failed(&error))?;
        Ok(path)
    }

    fn send(&mut self, piece: Vec<u8>) -> Result<Option<Vec<u8>>, Failure> {
        let Some(writer) = &self.writer else { return Ok(Some(piece)) };
        if writer.pieces.send(piece).is_err() {
            // It failed: the reason is its result.
            self.join()?;
        }
        Ok(self.writer.as_ref().and_then(|writer| writer.written.try_recv().ok()))
    }

    /// Waits for the writer.
    fn join(&mut self) -> Result<(), Failure> {
        let Some(Writer { pieces, thread, .. }) = self.writer.take() else { return Ok(()) };
        drop(pieces);
        let result = thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the writing thread died")));
        result.map_err(|error| Failure::io(self.path.display(), &error))
    }
}

impl Sink for FileOutput {
    fn prefix(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.prefix_len = bytes.len() as u64;
        self.send(bytes.to_vec()).map(|_| ())
    }

    fn accept(&mut self, offset: u64, piece: Vec<u8>) -> Result<Option<Vec<u8>>, Failure> {
        self.start.get_or_insert(offset);
        self.send(piece)
    }

    fn release(&mut self, offset: u64) -> Result<(), Failure> {
        self.kept = offset;
        Ok(())
    }
}

impl Writer {
    fn start(mut file: File) -> Self {
        let (pieces, received) = mpsc::sync_channel::<Vec<u8>>(CHUNKS_WAITING);
        let (spare, written) = mpsc::channel();
        let thread = thread::spawn(move || {
            for piece in received {
                file.write_all(&piece)?;
                let _ = spare.send(piece);
            }
            Ok(())
        });
        Self { pieces, written, thread }
    }
}

impl Unfinished {
    fn file(&self) -> &File {
        match self {
            Self::Unnamed(file) => file,
            Self::Named(file) => file.as_file(),
        }
    }
}

/// Whether a file with a name would fail for the same reason.
fn is_final(error: &std::io::Error) -> bool {
    let kinds =
        [ErrorKind::NotFound, ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem, ErrorKind::StorageFull];
    kinds.contains(&error.kind())
}

fn unnamed(folder: &Path) -> std::io::Result<Unfinished> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(Unfinished::Unnamed(file.into()))
}

fn named(path: &Path) -> std::io::Result<Unfinished> {
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    let file = tempfile::Builder::new().prefix(&prefix).suffix(".tmp").tempfile_in(folder_of(path))?;
    signals::remove_when_interrupted(Some(file.path()));
    Ok(Unfinished::Named(file))
}

/// Gives an unnamed file its name, if nothing has it.
fn link(file: &File, path: &Path) -> Result<(), Failure> {
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, open, CWD, path, AtFlags::SYMLINK_FOLLOW).map_err(|error| match error {
        Errno::EXIST => exists(path),
        error => Failure::io(path.display(), &error.into()),
    })
}

fn persist(file: NamedTempFile, path: &Path) -> Result<(), Failure> {
    let done = file.persist_noclobber(path).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(path),
        _ => Failure::io(path.display(), &error.error),
    });
    signals::remove_when_interrupted(None);
    done.map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_has_no_name_until_it_is_complete_and_then_only_what_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plain");
        let mut output = FileOutput::create(&path).unwrap();
        output.prefix(b"head").unwrap();
        output.accept(100, b"0123456789".to_vec()).unwrap();
        output.accept(110, b"abc".to_vec()).unwrap();
        output.release(112).unwrap();
        assert_eq!(names(folder.path()), [""; 0]);
        assert_eq!(output.finish().unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), b"head0123456789ab");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_name_that_was_taken_meanwhile_is_left_alone() {
        for kind in [unnamed as fn(&Path) -> _, |folder: &Path| named(&folder.join("plain"))] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("plain");
            let mut output = FileOutput::create(&path).unwrap();
            output.file = kind(folder.path()).unwrap();
            fs::write(&path, "other").unwrap();
            assert!(output.finish().unwrap_err().error.contains("exists already"));
            assert_eq!(fs::read(&path).unwrap(), b"other");
            assert_eq!(names(folder.path()), ["plain"]);
        }
    }

    #[test]
    fn where_files_need_a_name_it_tells_what_they_are_and_goes_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plain");
        let Unfinished::Named(file) = named(&path).unwrap() else { panic!("unnamed") };
        let [name] = &names(folder.path())[..] else { panic!("one file") };
        assert!(name.starts_with(".plain.") && name.ends_with(".tmp"), "{name}");
        drop(file);
        let file = named(&path).unwrap();
        let Unfinished::Named(file) = file else { panic!("unnamed") };
        persist(file, &path).unwrap();
        assert_eq!(names(folder.path()), ["plain"]);
    }
}
