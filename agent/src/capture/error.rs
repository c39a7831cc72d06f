//! Why capture stops.

use std::io;
use std::path::PathBuf;

use highwater_catalog::{AgentOwner, CatalogError, CatalogProblem};

use super::continuity::Discontinuity;
use super::follower::StreamError;
use super::standing::BrokenTimeline;
use crate::archive::ArchiveError;
use crate::exit::Exit;
use crate::source::{FilesError, Retry, ServerError};
use crate::store::StoreErrorKind;

/// A failure of capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The source, or the way to it.
    #[error(transparent)]
    Source(#[from] ServerError),
    /// The source's disk.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The source does not continue the archive.
    #[error(transparent)]
    Discontinuity(#[from] Discontinuity),
    /// The stream is not what a source can send.
    #[error(transparent)]
    Stream(StreamError),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The archive has no history that could be continued.
    #[error("the archive has no timeline yet: nothing that these files could continue")]
    NoTimeline,
    /// The archive's timeline has a hole.
    #[error(transparent)]
    BrokenTimeline(#[from] BrokenTimeline),
    /// The agent's folder.
    #[error("{action} in {path}")]
    StateDir {
        /// What was tried.
        action: &'static str,
        /// The folder or file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The spool cannot be written.
    #[error("write the spool in {path}")]
    Spool {
        /// Its folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file of the spool is not what was written into it.
    #[error("{file} has changed on the disk: {what}")]
    SpoolDamaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A file of the spool is encrypted with a key that is not here.
    #[error("{file} is encrypted, and {}", .keyring.as_ref().map_or_else(
        || "capture.spool_keyring is not configured".to_owned(),
        |keyring| format!("the keyring {} does not open it", keyring.display()),
    ))]
    SpoolLocked {
        /// The file.
        file: PathBuf,
        /// The keyring that was tried.
        keyring: Option<PathBuf>,
    },
    /// Another agent works in the same folder.
    #[error("another agent holds {path}")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// Another agent has taken the archive over.
    #[error("another agent writes this archive now: {owner}")]
    TakenOver {
        /// The other one.
        owner: Box<AgentOwner>,
    },
    /// A part of the program ended by a panic.
    #[error("{0} ended by itself")]
    Task(&'static str),
}

impl From<StreamError> for CaptureError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Discontinuity(error) => Self::Discontinuity(error),
            other => Self::Stream(other),
        }
    }
}

impl CaptureError {
    /// Whether trying again may help without anybody's doing.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Source(error) => error.retry(),
            Self::Files(error) => error.retry(),
            // Bytes damaged on the way are right the next time, and a disk may work again; the caller counts.
            Self::Stream(_) | Self::Spool { .. } => Retry::Soon,
            Self::Archive(ArchiveError::Store(error)) => match error.kind {
                // Missing: a file system that is not mounted comes back.
                StoreErrorKind::Transient
                | StoreErrorKind::Full
                | StoreErrorKind::Denied
                | StoreErrorKind::Missing
                | StoreErrorKind::Other => Retry::Soon,
                StoreErrorKind::Exists => Retry::Never,
            },
            // What a store has lost, because an older copy of it was put back, may come back, or is stored again.
            Self::Archive(
                ArchiveError::Scratch { .. }
                | ArchiveError::Read { .. }
                | ArchiveError::Lost { .. }
                | ArchiveError::ObjectMissing { .. },
            ) => Retry::Soon,
            Self::Catalog(error) if matches!(error.problem, CatalogProblem::Full | CatalogProblem::Busy) => Retry::Soon,
            Self::Archive(_)
            | Self::Catalog(_)
            | Self::Discontinuity(_)
            | Self::BrokenTimeline(_)
            | Self::NoTimeline
            | Self::StateDir { .. }
            | Self::SpoolDamaged { .. }
            | Self::SpoolLocked { .. }
            | Self::Locked { .. }
            | Self::TakenOver { .. }
            | Self::Task(_) => Retry::Never,
        }
    }

    /// Whether publishing can go on after this.
    #[must_use]
    pub fn leaves_the_store_to_us(&self) -> bool {
        !matches!(
            self,
            Self::Archive(_) | Self::Catalog(_) | Self::Task(_) | Self::TakenOver { .. } | Self::SpoolDamaged { .. }
        )
    }

    /// Whether the source, or we, cannot make anything of what stands where it was asked to read.
    #[must_use]
    pub fn is_unreadable_binlog(&self) -> bool {
        // ER_SOURCE_FATAL_ERROR_READING_BINLOG
        matches!(self, Self::Source(ServerError::Statement { code: 1236, .. }) | Self::Stream(_))
    }

    /// Whether the spool's file system has no space left: room may come back.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        matches!(self, Self::Spool { source, .. } if full(source.kind()))
    }

    /// The exit code that says what kind of failure it is.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Archive(error) => error.exit(),
            Self::Files(error) => error.exit(),
            Self::BrokenTimeline(_) | Self::SpoolDamaged { .. } => Exit::Damaged,
            Self::SpoolLocked { .. } => Exit::Key,
            Self::TakenOver { .. } => Exit::TakenOver,
            Self::Discontinuity(
                Discontinuity::Gap { .. }
                | Discontinuity::BinlogGone { .. }
                | Discontinuity::BinlogSkipped { .. }
                | Discontinuity::NotSent { .. }
                | Discontinuity::Incident { .. }
                | Discontinuity::Anonymous,
            ) => Exit::Unreachable,
            Self::Source(_)
            | Self::NoTimeline
            | Self::Discontinuity(_)
            | Self::Stream(_)
            | Self::Catalog(_)
            | Self::StateDir { .. }
            | Self::Spool { .. }
            | Self::Locked { .. }
            | Self::Task(_) => Exit::Failed,
        }
    }

    /// The next step for the reader.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Source(error) => error.hint(),
            Self::Files(error) => error.hint(),
            Self::Archive(error) => error.hint(),
            Self::Catalog(error) => Some(error.hint().to_owned()),
            Self::Discontinuity(error) => Some(error.hint().to_owned()),
            Self::Stream(StreamError::Event { .. }) => {
                Some("the bytes were damaged on the way three times: check the source's binlog with mysqlbinlog --verify-binlog-checksum".to_owned())
            }
            Self::Stream(StreamError::Anonymous { .. }) => Some("set gtid_mode = ON on the source".to_owned()),
            Self::Stream(_) => None,
            Self::NoTimeline => Some(
                "an archive needs a full dump before binlogs are of use: start `highwater agent`; binlog-decrypt opens the files"
                    .to_owned(),
            ),
            Self::BrokenTimeline(_) => {
                Some("an object is missing from the store: bring it back from another copy; `highwater verify` lists all damage. Where only the newest are lost for good, `highwater catalog rebuild` has the agent go on without them".to_owned())
            }
            Self::StateDir { .. } | Self::Spool { .. } => Some("check space and permissions of state_dir".to_owned()),
            Self::SpoolDamaged { .. } => Some(
                "run it again: what comes before the damage is published, and the rest is asked of the source again. Check \
                 the disk of state_dir"
                    .to_owned(),
            ),
            Self::SpoolLocked { .. } => Some(
                "bring back the keyring that it was written with: it may be on a file system that is not mounted. If that is \
                 lost, move the file away, and the source is asked again for what it still has"
                    .to_owned(),
            ),
            Self::Locked { .. } => Some("stop the other agent, or give this one its own state_dir".to_owned()),
            Self::TakenOver { .. } => Some(
                "one agent per archive: stop one of them. What this one has in its spool stays there".to_owned(),
            ),
            Self::Task(_) => None,
        }
    }
}
