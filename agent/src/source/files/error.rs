//! What can be wrong with a server's files, and what the reader can do about it.

use std::io;
use std::path::PathBuf;

use highwater_binlog::{BinlogName, FrameError, TransactionError};

use crate::exit::Exit;
use crate::source::Retry;

/// A failure with a server's files.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// `auto.cnf` has no `server-uuid`.
    #[error("{path} names no server-uuid")]
    NoUuid {
        /// The file.
        path: PathBuf,
    },
    /// The data folder has no index of binlogs.
    #[error("{datadir} has no index of binlogs")]
    NoIndex {
        /// The folder.
        datadir: PathBuf,
    },
    /// The data folder has more than one.
    #[error("{datadir} has several indexes that may be of its binlogs")]
    SeveralIndexes {
        /// The folder.
        datadir: PathBuf,
    },
    /// A name that is none of a binlog.
    #[error("the index names {path}, which is no binlog's name")]
    Name {
        /// The path in the index.
        path: PathBuf,
    },
    /// A binlog, an index or a keyring cannot be opened.
    #[error(transparent)]
    Open(binlog_decrypt::Failure),
    /// A binlog of another product.
    #[error("{path} was written by {version}, which is not MySQL")]
    NotMySql {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: String,
    },
    /// A replica's copy of another server's binlog.
    #[error("{path} is a relay log")]
    RelayLog {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that are no events, or not as the server wrote them.
    #[error("{binlog} is damaged")]
    Damaged {
        /// The binlog.
        binlog: BinlogName,
        /// What is wrong and where.
        source: FrameError,
    },
    /// Events in an order that no server writes.
    #[error("transactions of {binlog}")]
    Disordered {
        /// The binlog.
        binlog: BinlogName,
        /// What is wrong and where.
        source: TransactionError,
    },
    /// The server went on with another binlog, and this one has the beginning of an event at its end.
    #[error("{binlog} ends inside an event at {offset}, and another binlog follows it")]
    Torn {
        /// The binlog.
        binlog: BinlogName,
        /// Where the event begins.
        offset: u64,
    },
    /// The server was started with another `log_bin`.
    #[error("{index} is not written any more: the server goes on in {other}")]
    OtherIndex {
        /// The index that is read.
        index: PathBuf,
        /// The one that is written.
        other: PathBuf,
    },
    /// A binlog of the index is not on the disk.
    #[error("gap: {binlog} is in the index and not on the disk")]
    Absent {
        /// The binlog.
        binlog: BinlogName,
    },
    /// The files are others than they were: the server was restarted, reset or purged them.
    #[error("{binlog} is not the file any more that was read: the server was restarted or reset, or has purged it")]
    Changed {
        /// The binlog.
        binlog: BinlogName,
    },
}

impl FilesError {
    /// Whether reading again may help without anybody's doing.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Changed { .. } | Self::Absent { .. } | Self::OtherIndex { .. } | Self::Read { .. } => Retry::Soon,
            Self::Damaged { .. } | Self::Disordered { .. } | Self::Torn { .. } => Retry::Soon,
            // A disk that is not mounted comes back, and so does a keyring.
            Self::Open(_) => Retry::Soon,
            Self::NoUuid { .. }
            | Self::NoIndex { .. }
            | Self::SeveralIndexes { .. }
            | Self::Name { .. }
            | Self::NotMySql { .. }
            | Self::RelayLog { .. } => Retry::Never,
        }
    }

    /// The exit code that says what kind of failure it is.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Open(failure) => match failure.exit {
                binlog_decrypt::Exit::Key => Exit::Key,
                binlog_decrypt::Exit::Damaged => Exit::Damaged,
                binlog_decrypt::Exit::Done
                | binlog_decrypt::Exit::Failed
                | binlog_decrypt::Exit::Usage
                | binlog_decrypt::Exit::Interrupted => Exit::Failed,
            },
            Self::Damaged { .. } | Self::Disordered { .. } | Self::Torn { .. } => Exit::Damaged,
            Self::NoIndex { .. } | Self::SeveralIndexes { .. } => Exit::Usage,
            Self::Absent { .. } => Exit::Unreachable,
            Self::Read { .. }
            | Self::NoUuid { .. }
            | Self::Name { .. }
            | Self::NotMySql { .. }
            | Self::RelayLog { .. }
            | Self::OtherIndex { .. }
            | Self::Changed { .. } => Exit::Failed,
        }
    }

    /// The next step for the reader.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Open(failure) => return failure.hint.clone(),
                Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                    "read it as the account that runs mysqld, or as root"
                }
                Self::Read { .. } | Self::NoUuid { .. } => {
                    "the data folder is the one with auto.cnf and, unless log_bin says otherwise, the binlogs"
                }
                Self::NoIndex { .. } | Self::SeveralIndexes { .. } => {
                    "name the file that lists the binlogs, NAME.index beside them: salvage --index PATH, or \
                     capture.binlog_index"
                }
                Self::Name { .. } => "give the server's binlog index; names have letters, digits, `.`, `_` and `-`",
                Self::NotMySql { .. } => "binlog-decrypt reads it; an archive holds binlogs of MySQL",
                Self::RelayLog { .. } => "give the index of the server's own binlogs",
                Self::Damaged { .. } | Self::Disordered { .. } | Self::Torn { .. } => {
                    "look for another copy of the file; `binlog-decrypt --verify` tells what is whole in it"
                }
                Self::OtherIndex { .. } => {
                    "name the other one in capture.binlog_index, and start the agent again: a new timeline begins there"
                }
                Self::Absent { .. } => {
                    "look for the missing binlog on a replica's disk or in copies, and bring it back to its place"
                }
                Self::Changed { .. } => "run it again: it goes on where the archive ends",
            }
            .to_owned(),
        )
    }
}
