//! An encrypted binlog on a server's disk, and its password.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use binlog_decrypt::{BinlogFile, Exit, Failure, Input, Keys, Opened};
use highwater_binlog::{BinlogName, EncryptionHeader};
use highwater_keyring::{FileKey, FileMark};

use super::KeepError;

/// A key that is not there or a header that makes no sense is looked for again: a rotation of the master key writes
/// keyring and headers in place.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// What a file of a server's index is.
pub(super) enum OnDisk {
    /// Not encrypted: segments have all that is in it.
    Plain,
    /// Not closed yet.
    Open(BinlogName),
    /// Encrypted and closed: it will never change but for its header.
    Closed(Box<ClosedFile>),
}

/// A closed encrypted binlog that its key opens.
pub(super) struct ClosedFile {
    pub(super) binlog: BinlogName,
    pub(super) path: PathBuf,
    pub(super) file: BinlogFile,
    pub(super) header: EncryptionHeader,
    pub(super) mark: FileMark,
    pub(super) body_size: u64,
    pub(super) key: FileKey,
}

impl OnDisk {
    /// Opens a file and looks at its beginning: no more is needed to tell whether the key is right. `keys` is asked anew
    /// for every attempt.
    ///
    /// # Errors
    /// When it cannot be read, is no binlog, or no key opens it.
    pub(super) fn open(path: &Path, keys: &KeysOf<'_>) -> Result<Self, KeepError> {
        let binlog = binlog_of(path)?;
        let mut attempt = 1;
        let (file, opened) = loop {
            match open_once(path, keys) {
                Err(failure) if matches!(failure.exit, Exit::Key | Exit::Damaged) && attempt < ATTEMPTS => {}
                result => break result.map_err(KeepError::Open)?,
            }
            sleep(PAUSE);
            attempt += 1;
        };
        let (Some(Opened { password, opening, .. }), Some(header), Some(mark)) =
            (opened, file.header().cloned(), file.mark())
        else {
            return Ok(Self::Plain);
        };
        if opening.in_use {
            return Ok(Self::Open(binlog));
        }
        let body_size = file.bytes().unwrap_or(0).saturating_sub(highwater_catalog::KeptFile::HEADER_LEN);
        let key = FileKey { mark, binlog: binlog.to_string(), password };
        let path = path.to_owned();
        Ok(Self::Closed(Box::new(ClosedFile { binlog, path, file, header, mark, body_size, key })))
    }
}

/// The binlog that a file is.
pub(super) fn binlog_of(path: &Path) -> Result<BinlogName, KeepError> {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    name.ok_or_else(|| KeepError::Name { path: path.to_owned() })
}

/// Where keys come from.
pub type KeysOf<'a> = dyn Fn() -> Result<Keys, Failure> + 'a;

fn open_once(path: &Path, keys: &KeysOf<'_>) -> Result<(BinlogFile, Option<Opened>), Failure> {
    let keys = keys()?;
    let file = BinlogFile::open(&Input::File(path.to_owned()))?;
    let opened = file.opened(&keys)?;
    Ok((file, opened))
}
