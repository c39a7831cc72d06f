//! Where plaintext goes: stdout, or a file that has its name only when it is complete and on disk.

use std::fs::{self, File};
use std::io::{BufWriter, StdoutLock, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::failure::{Exit, Failure};

/// Bytes gathered before they are written.
const BUFFER_LEN: usize = 1 << 20;

/// A place for one plain binlog.
pub(crate) enum Output {
    Stdout(BufWriter<StdoutLock<'static>>),
    File { writer: BufWriter<NamedTempFile>, path: PathBuf },
}

impl Output {
    /// The process's standard output.
    pub(crate) fn stdout() -> Self {
        Self::Stdout(BufWriter::with_capacity(BUFFER_LEN, std::io::stdout().lock()))
    }

    /// A file at `path`, where there must be none: a binlog is never overwritten. Readable by its owner only.
    pub(crate) fn file(path: &Path) -> Result<Self, Failure> {
        if path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(path.file_name().unwrap_or_default());
        prefix.push(".");
        let temporary = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".tmp")
            .tempfile_in(folder_of(path))
            .map_err(|error| Failure::io(path.display(), &error))?;
        Ok(Self::File { writer: BufWriter::with_capacity(BUFFER_LEN, temporary), path: path.to_owned() })
    }

    /// Takes the bytes that follow.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout(writer) => writer.write_all(bytes).map_err(|error| Failure::io("stdout", &error)),
            Self::File { writer, path } => writer.write_all(bytes).map_err(|error| Failure::io(path.display(), &error)),
        }
    }

    /// Everything was written: puts it on disk under its name. Returns that name; none for stdout.
    pub(crate) fn finish(self) -> Result<Option<PathBuf>, Failure> {
        self.finish_as(|path| path)
    }

    /// What was written is a part only: keeps it under a name that says so.
    pub(crate) fn finish_partial(self) -> Result<Option<PathBuf>, Failure> {
        self.finish_as(|path| {
            let mut name = path.into_os_string();
            name.push(".partial");
            name.into()
        })
    }

    fn finish_as(self, name: impl FnOnce(PathBuf) -> PathBuf) -> Result<Option<PathBuf>, Failure> {
        match self {
            Self::Stdout(mut writer) => {
                writer.flush().map_err(|error| Failure::io("stdout", &error))?;
                Ok(None)
            }
            Self::File { writer, path } => {
                let path = name(path);
                let failed = |error: &std::io::Error| Failure::io(path.display(), error);
                let temporary = writer.into_inner().map_err(|error| failed(error.error()))?;
                temporary.as_file().sync_all().map_err(|error| failed(&error))?;
                temporary.persist_noclobber(&path).map_err(|error| match error.error.kind() {
                    std::io::ErrorKind::AlreadyExists => exists(&path),
                    _ => failed(&error.error),
                })?;
                File::open(folder_of(&path)).and_then(|folder| folder.sync_all()).map_err(|error| failed(&error))?;
                Ok(Some(path))
            }
        }
    }
}

fn exists(path: &Path) -> Failure {
    Failure::new(Exit::Failed, format!("{} exists already", path.display()))
        .hint("nothing is overwritten: remove it, or choose another place")
}

/// The folder of a file's path.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes sure that `folder` is there.
pub(crate) fn create_folder(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| Failure::io(folder.display(), &error))
}
