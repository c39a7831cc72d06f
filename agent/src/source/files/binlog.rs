//! One binlog of a server's disk, read as far as it is written.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use binlog_decrypt::{Encryption, PlainStream, Unlocked};
use highwater_binlog::{BinlogName, ENCRYPTION_HEADER_LEN, Framer};

use super::{FilesError, Indexed, ServerFiles};
use crate::failpoint;

/// A binlog that is open.
#[derive(Debug)]
pub(super) struct OpenBinlog {
    pub(super) name: BinlogName,
    /// The server's version.
    pub(super) version: String,
    /// Whether its server had closed it when it was opened.
    pub(super) is_closed: bool,
    /// Cuts what was read into events.
    pub(super) framer: Framer,
    path: PathBuf,
    /// Device and inode: another file may get the name.
    identity: (u64, u64),
    stream: PlainStream,
    /// Bytes in front of the stream.
    header: u64,
    /// Bytes of the stream that were read.
    read: u64,
    chunk: Vec<u8>,
}

impl OpenBinlog {
    pub(super) fn open(files: &ServerFiles, binlog: &Indexed) -> Result<Self, FilesError> {
        let before = Self::stat(files, binlog)?;
        let Unlocked { stream, opening, encryption, .. } = files.unlock(binlog)?;
        if Self::stat(files, binlog)? != before {
            return Err(FilesError::Changed { binlog: binlog.name.clone() });
        }
        let header = match encryption {
            Encryption::MySql => ENCRYPTION_HEADER_LEN,
            Encryption::None | Encryption::Events(_) | Encryption::NoEvents => 0,
        };
        Ok(Self {
            name: binlog.name.clone(),
            is_closed: !opening.in_use,
            version: opening.description.server_version,
            framer: Framer::new(),
            path: binlog.path.clone(),
            identity: before,
            stream,
            header: u64::try_from(header).unwrap_or(0),
            read: 0,
            chunk: Vec::new(),
        })
    }

    /// Reads on, for the framer; `false` when nothing more is there now.
    pub(super) fn fill(&mut self) -> Result<bool, FilesError> {
        let changed = || FilesError::Changed { binlog: self.name.clone() };
        let facts = match fs::metadata(&self.path) {
            Ok(facts) => facts,
            // Purged or reset: what the server has now decides how to go on.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(changed()),
            Err(source) => return Err(FilesError::Read { path: self.path.clone(), source }),
        };
        let reached = self.header.saturating_add(self.read);
        // A server that starts after a crash cuts off what was torn.
        if (facts.dev(), facts.ino()) != self.identity || facts.len() < reached {
            return Err(changed());
        }
        if facts.len() == reached {
            return Ok(false);
        }
        let failed = |source| FilesError::Read { path: self.path.clone(), source };
        failpoint::io("files.read").map_err(failed)?;
        if !self.stream.next(&mut self.chunk).map_err(failed)? {
            return Ok(false);
        }
        self.framer.push(&self.chunk);
        self.read = self.read.saturating_add(u64::try_from(self.chunk.len()).unwrap_or(u64::MAX));
        Ok(true)
    }

    /// Bytes of the stream read and in no whole event.
    pub(super) fn torn(&self) -> u64 {
        self.read.saturating_sub(self.framer.offset())
    }

    fn stat(files: &ServerFiles, binlog: &Indexed) -> Result<(u64, u64), FilesError> {
        match fs::metadata(&binlog.path) {
            Ok(facts) => Ok((facts.dev(), facts.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(files.not_there(binlog)),
            Err(source) => Err(FilesError::Read { path: binlog.path.clone(), source }),
        }
    }
}
