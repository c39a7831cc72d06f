//! An encrypted binlog on a server's disk, and its password.

use std::path::{Path, PathBuf};

use binlog_decrypt::{BinlogFile, Input, Opened};
use highwater_binlog::{BinlogName, EncryptionHeader};
use highwater_keyring::{FileKey, FileMark};

use super::KeepError;
use crate::source::Keyrings;

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
    /// Opens a file and looks at its beginning: no more is needed to tell whether the key is right.
    ///
    /// # Errors
    /// When it cannot be read, is no binlog, or no key opens it.
    pub(super) fn open(path: &Path, keyrings: &Keyrings) -> Result<Self, KeepError> {
        let binlog = binlog_of(path)?;
        let input = Input::File(path.to_owned());
        let (file, opened) = keyrings
            .open(|keys| {
                let file = BinlogFile::open(&input)?;
                let opened = file.opened(keys)?;
                Ok((file, opened))
            })
            .map_err(KeepError::Open)?;
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
