//! What goes wrong with an archive, and what to do about it.

use std::io;

use highwater_catalog::{ManifestError, ManifestProblem};

use crate::exit::Exit;
use crate::store::{StoreError, StoreErrorKind};

/// A failure with an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store has no `highwater.json`.
    #[error("{store} holds no archive")]
    NoArchive {
        /// The store.
        store: String,
    },
    /// The store has one already.
    #[error("{store} holds an archive already")]
    ExistsAlready {
        /// The store.
        store: String,
    },
    /// The store has other objects.
    #[error("{store} is not empty: it has {object}")]
    NotEmpty {
        /// The store.
        store: String,
        /// One of them.
        object: String,
    },
    /// A configured copy is none.
    #[error("{copy} holds no copy of the archive in {store}")]
    CopyMissing {
        /// The store that should have it.
        copy: String,
        /// The first store.
        store: String,
    },
    /// A configured copy is another archive.
    #[error("{copy} holds another archive than {store}")]
    CopyOther {
        /// The store that should have the copy.
        copy: String,
        /// The first store.
        store: String,
    },
    /// A copy has something published that the first store lacks.
    #[error("{copy} has {object}, which {store} lacks")]
    CopyAhead {
        /// The copy.
        copy: String,
        /// The first store.
        store: String,
        /// A manifest.
        object: String,
    },
    /// The archive is another service's.
    #[error("the archive in {store} is of service `{found}`, not `{expected}`")]
    OtherService {
        /// The store.
        store: String,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The archive is encrypted and the writer has no keys.
    #[error("the archive in {store} is encrypted, and seal.recipients is empty")]
    RecipientsMissing {
        /// The store.
        store: String,
    },
    /// The writer has keys and the archive is not encrypted.
    #[error("the archive in {store} is not encrypted, and seal.recipients asks for it")]
    NotEncrypted {
        /// The store.
        store: String,
    },
    /// A manifest is damaged, foreign or too new.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A data object is not what was written.
    #[error("{object} is damaged: {what}")]
    Damaged {
        /// The object.
        object: String,
        /// How.
        what: String,
    },
    /// A data object that a manifest names is not there.
    #[error("{object} is missing")]
    ObjectMissing {
        /// The object.
        object: String,
    },
    /// Reading back needs an identity.
    #[error("{object} is sealed, and no identity was given")]
    IdentityMissing {
        /// The object.
        object: String,
        /// Public keys the archive was made for.
        recipients: Vec<String>,
    },
    /// The identity is another one.
    #[error("{object} is sealed to other keys than those of the given identity")]
    IdentityWrong {
        /// The object.
        object: String,
        /// Public keys the archive was made for.
        recipients: Vec<String>,
    },
    /// Keys are never stored unsealed.
    #[error("keys are only stored sealed, and the archive is not encrypted")]
    KeysUnsealed,
    /// A draft contradicts its bytes.
    #[error("{what}: {bytes} bytes were given")]
    Draft {
        /// What was to be stored, and how much of it.
        what: String,
        /// How many bytes came.
        bytes: u64,
    },
    /// A file had other bytes when it was stored than when it was proven.
    #[error("{what} changed while it was read")]
    Changed {
        /// The file.
        what: String,
    },
    /// Another writer published something else under this name.
    #[error("{object} was published by another writer")]
    Conflict {
        /// The manifest.
        object: String,
    },
    /// A name that cannot be an object's.
    #[error("`{object}` cannot be an object's name")]
    Name {
        /// The name.
        object: String,
    },
    /// The store could not deliver all of an object.
    #[error("read {object}")]
    Read {
        /// The object.
        object: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A temporary file could not be written.
    #[error("write a temporary file in {path}")]
    Scratch {
        /// The folder.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A store no longer has what was published.
    #[error("{object} was stored, and is not in {store} any more")]
    Lost {
        /// The object.
        object: String,
        /// The store.
        store: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ArchiveError {
    /// The exit code that says what kind of failure it is.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::IdentityMissing { .. } | Self::IdentityWrong { .. } => Exit::Key,
            Self::Damaged { .. } | Self::ObjectMissing { .. } | Self::CopyAhead { .. } | Self::Lost { .. } => {
                Exit::Damaged
            }
            Self::Manifest(error) => match error.problem {
                ManifestProblem::NewerFormat { .. } => Exit::Failed,
                _ => Exit::Damaged,
            },
            Self::NoArchive { .. }
            | Self::ExistsAlready { .. }
            | Self::NotEmpty { .. }
            | Self::CopyMissing { .. }
            | Self::CopyOther { .. }
            | Self::OtherService { .. }
            | Self::RecipientsMissing { .. }
            | Self::NotEncrypted { .. }
            | Self::KeysUnsealed
            | Self::Draft { .. }
            | Self::Changed { .. }
            | Self::Conflict { .. }
            | Self::Name { .. }
            | Self::Read { .. }
            | Self::Scratch { .. }
            | Self::Store(_) => Exit::Failed,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NoArchive { .. } => {
                "check the store's address and that it is mounted; `highwater init` makes a new archive".to_owned()
            }
            Self::ExistsAlready { .. } => "nothing was changed; an archive is created once".to_owned(),
            Self::NotEmpty { .. } => "give a new archive a folder of its own".to_owned(),
            Self::CopyMissing { .. } => {
                "check that it is mounted; `highwater init` fills an empty folder with a copy".to_owned()
            }
            Self::CopyOther { .. } => "check `[store]` and `[[copies]]`: nothing was changed".to_owned(),
            Self::CopyAhead { copy, store, .. } => {
                format!("{store} lost something: bring it back from {copy}, or make {copy} the [store]")
            }
            Self::Lost { .. } => {
                "bring the store back as it was, which the agent waits for; when it is an older copy for good: \
                 stop the agent, `highwater catalog rebuild`, start it again"
                    .to_owned()
            }
            Self::OtherService { .. } => "every service has its own store: check `service` and `[store]`".to_owned(),
            Self::RecipientsMissing { .. } => {
                "set seal.recipients to the public keys it was made for (highwater.json lists them)".to_owned()
            }
            Self::NotEncrypted { .. } => {
                "an archive stays as it was created: make a new one in another store, or empty seal.recipients"
                    .to_owned()
            }
            Self::Manifest(error) => error.hint().to_owned(),
            Self::Damaged { .. } | Self::ObjectMissing { .. } => {
                "bring it back from another copy of the store; `highwater verify` lists all damage".to_owned()
            }
            Self::IdentityMissing { recipients, .. } => {
                format!("give the identity of {} by --identity FILE or seal.identity_file", one_of(recipients))
            }
            Self::IdentityWrong { recipients, .. } => {
                format!("the archive was made for {}", one_of(recipients))
            }
            Self::KeysUnsealed => "set seal.recipients when the archive is created".to_owned(),
            Self::Conflict { .. } => "only one agent may write an archive: stop the other one".to_owned(),
            Self::Changed { .. } => "run it again; if it stays, something other than a server writes it".to_owned(),
            Self::Scratch { .. } => "check its space and permissions; TMPDIR names another folder".to_owned(),
            Self::Store(error) => return store_hint(error),
            Self::Draft { .. } | Self::Name { .. } | Self::Read { .. } => return None,
        };
        Some(text)
    }

    /// Whether it is a store's trouble that may pass by itself: a disk, a network or a machine that does not answer.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) => error.kind == StoreErrorKind::Transient,
            Self::Read { .. } => true,
            _ => false,
        }
    }

    /// The archive's error inside an error of reading, where there is one.
    pub fn of_read(object: &str, error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(source) => Self::Read { object: object.to_owned(), source },
        }
    }
}

/// What to do about a store's failure.
pub(crate) fn store_hint(error: &StoreError) -> Option<String> {
    let text = match error.kind {
        StoreErrorKind::Missing => "check the store's address and that it is mounted",
        StoreErrorKind::Denied => "check its permissions and that it is not mounted read-only",
        StoreErrorKind::Full => "make room in the store",
        StoreErrorKind::Transient => "trying again may help",
        StoreErrorKind::Exists | StoreErrorKind::Other => return None,
    };
    Some(text.to_owned())
}

fn one_of(recipients: &[String]) -> String {
    match recipients {
        [] => "another key".to_owned(),
        [one] => one.clone(),
        many => format!("one of {}", many.join(", ")),
    }
}
