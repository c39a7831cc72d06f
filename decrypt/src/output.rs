//! Where plaintext goes: nowhere, stdout, or a file that has its name only when it is complete and on disk.

mod file;
mod held;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub(crate) use file::FileOutput;
pub(crate) use held::StdoutOutput;

use crate::failure::{Exit, Failure};

/// Takes the bytes of a stream, piece after piece, without knowing how much of them will be kept.
pub(crate) trait Sink {
    /// Bytes that go before everything else, and are no part of the stream.
    fn prefix(&mut self, bytes: &[u8]) -> Result<(), Failure>;

    /// The next piece of the stream, from `offset` on. Gives the buffer back once it is used.
    fn accept(&mut self, offset: u64, piece: Vec<u8>) -> Result<Option<Vec<u8>>, Failure>;

    /// Everything up to this stream offset is to be kept.
    fn release(&mut self, offset: u64) -> Result<(), Failure>;
}

/// For reading only.
pub(crate) struct Nowhere;

impl Sink for Nowhere {
    fn prefix(&mut self, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }

    fn accept(&mut self, _: u64, piece: Vec<u8>) -> Result<Option<Vec<u8>>, Failure> {
        Ok(Some(piece))
    }

    fn release(&mut self, _: u64) -> Result<(), Failure> {
        Ok(())
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

/// The name of a file that is a part only.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// Makes sure that `folder` is there.
pub(crate) fn create_folder(folder: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
            Failure::new(Exit::Failed, format!("{} is no folder", folder.display()))
                .hint("--output-dir takes a folder, -o a file")
        }
        _ => unusable(folder, &error),
    })
}

/// The failure that nothing can be made in `folder`.
fn unusable(folder: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::io(folder.display(), error);
    match error.kind() {
        ErrorKind::NotFound => failure.hint("make the folder first, or choose another place"),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            failure.hint("choose a folder that this account may write to")
        }
        _ => failure,
    }
}
