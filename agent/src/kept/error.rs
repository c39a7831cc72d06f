//! What goes wrong with kept files, and what to do about it.

use std::io;
use std::path::PathBuf;

use highwater_binlog::{BinlogName, EncryptionHeaderError};
use highwater_catalog::{CatalogError, FileRefusal};
use highwater_keyring::BundleError;

use super::proof::ProofError;
use crate::archive::ArchiveError;
use crate::exit::Exit;
use crate::source::FilesError;

/// A failure with kept files.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// A binlog cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A binlog or a keyring cannot be opened.
    #[error(transparent)]
    Open(binlog_decrypt::Failure),
    /// A file's name cannot be a binlog's.
    #[error("{} has no binlog's name", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// A kept header is not one.
    #[error("{binlog}")]
    Header {
        /// The binlog.
        binlog: BinlogName,
        /// What is wrong with it.
        #[source]
        source: EncryptionHeaderError,
    },
    /// No header can be written for a kept file: `key_id` is no name for a key.
    #[error("{binlog}: no key {key_id}")]
    KeyMissing {
        /// The binlog.
        binlog: BinlogName,
        /// The key.
        key_id: String,
    },
    /// What the file decrypts to is not what a server writes.
    #[error("{binlog} is damaged")]
    Damaged {
        /// The binlog.
        binlog: BinlogName,
        /// How.
        #[source]
        source: ProofError,
    },
    /// A closed file has another size than when it was kept.
    #[error("{binlog} has {found} bytes after its header, and had {kept} when it was kept")]
    Grown {
        /// The binlog.
        binlog: BinlogName,
        /// Now.
        found: u64,
        /// In the archive.
        kept: u64,
    },
    /// The keys cannot be put into a bundle, or a bundle cannot be read.
    #[error("key bundle")]
    Bundle(#[source] BundleError),
    /// No key bundle has the file's password.
    #[error("no key bundle of the archive has the password of {binlog}")]
    PasswordMissing {
        /// The binlog.
        binlog: BinlogName,
    },
    /// The kept files do not make what is wanted.
    #[error(transparent)]
    Refused(#[from] FileRefusal),
    /// Something is where a file is to be written.
    #[error("{} exists", path.display())]
    Exists {
        /// It.
        path: PathBuf,
    },
    /// A keyring is where one is to be written, and lacks keys: it may have others that nothing else has.
    #[error("{} is a keyring without the keys of these binlogs, and no keyring is ever replaced", path.display())]
    OtherKeyring {
        /// It.
        path: PathBuf,
    },
    /// Somebody else writes into the folder.
    #[error("another process writes into {}", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A file cannot be written.
    #[error("write {}", path.display())]
    Write {
        /// The file or its folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The server's disk cannot be read.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// What was published cannot be recorded.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl KeepError {
    /// The exit code that says what kind of failure it is.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::KeyMissing { .. } | Self::PasswordMissing { .. } => Exit::Key,
            Self::Header { .. } | Self::Damaged { .. } | Self::Grown { .. } | Self::Bundle(_) => Exit::Damaged,
            Self::Refused(FileRefusal::AmbiguousServer { .. } | FileRefusal::Backwards { .. })
            | Self::Name { .. }
            | Self::Exists { .. }
            | Self::OtherKeyring { .. } => Exit::Usage,
            Self::Refused(FileRefusal::None { .. } | FileRefusal::Unknown { .. } | FileRefusal::Gap { .. }) => {
                Exit::Unreachable
            }
            Self::Open(failure) => match failure.exit {
                binlog_decrypt::Exit::Key => Exit::Key,
                binlog_decrypt::Exit::Damaged => Exit::Damaged,
                binlog_decrypt::Exit::Usage => Exit::Usage,
                binlog_decrypt::Exit::Done | binlog_decrypt::Exit::Failed | binlog_decrypt::Exit::Interrupted => {
                    Exit::Failed
                }
            },
            Self::Archive(error) => error.exit(),
            Self::Files(error) => error.exit(),
            Self::Read { .. } | Self::Busy { .. } | Self::Write { .. } | Self::Catalog(_) => Exit::Failed,
        }
    }

    /// Whether it says nothing of other files.
    pub(super) fn is_of_one_file(&self) -> bool {
        match self {
            Self::Open(failure) => {
                use binlog_decrypt::Exit as Decrypt;
                matches!(failure.exit, Decrypt::Failed | Decrypt::Key | Decrypt::Damaged)
            }
            Self::Archive(error) => matches!(
                error,
                ArchiveError::Read { .. }
                    | ArchiveError::Draft { .. }
                    | ArchiveError::Changed { .. }
                    | ArchiveError::Conflict { .. }
            ),
            error => matches!(error, Self::Read { .. } | Self::Damaged { .. } | Self::Grown { .. }),
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Read { .. } => "read it as the account that runs mysqld, or as root",
            Self::Name { .. } => "binlogs have names like binlog.000042",
            Self::Header { .. } => "without its header an encrypted file cannot be opened; look for another copy of it",
            Self::KeyMissing { .. } => "look at the server's keys with `highwater list keys`",
            Self::Open(failure) => return failure.hint.clone(),
            Self::Damaged { .. } => "only what a server reads back is kept: look for another copy of the file",
            Self::Grown { .. } => "a closed binlog never changes: compare it with the kept one (`highwater binlogs`)",
            Self::Bundle(_) => "bring the bundle back from another copy of the store",
            Self::PasswordMissing { .. } => {
                "its generation of the key bundle is gone or damaged: bring `keys/` back from another copy of the store"
            }
            Self::Refused(refusal) => return Some(refusal.hint()),
            Self::Exists { .. } => "name an empty folder, or give --force to replace what is there",
            Self::OtherKeyring { .. } => {
                "name an empty folder; with the keyring that is written there binlog-decrypt opens the binlogs, and a \
                 server of its own serves them"
            }
            Self::Busy { .. } => "wait until it has ended",
            Self::Write { .. } => "check its space and permissions",
            Self::Files(error) => return error.hint(),
            Self::Catalog(error) => error.hint(),
            Self::Archive(error) => return error.hint(),
        };
        Some(text.to_owned())
    }
}
