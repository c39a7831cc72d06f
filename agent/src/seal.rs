//! Sealing: zstd, then age to the operator's public keys.
//!
//! Sealing needs public keys only. `age -d -i IDENTITY | zstd -d` undoes it without this program.

mod keys;
mod payload;
mod reader;
mod writer;

pub use keys::{Identities, NewIdentity, Recipients};
pub use reader::{Expected, UnsealError, Unsealer};
pub use writer::{Compression, SealWriter};
pub(crate) use writer::{FRAME_BYTES, Tally};

use crate::exit::Exit;

/// A failure with age keys.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A public key in the configuration is none.
    #[error("`{text}` is not an age public key")]
    Recipient {
        /// The text.
        text: String,
    },
    /// A private key stands where a public key belongs. Its text is not repeated.
    #[error("an age private key stands where a public key belongs")]
    RecipientIsPrivate,
    /// The identity file cannot be read.
    #[error("read identity file {path}")]
    IdentityFile {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Other accounts of the machine can read the identity file.
    #[error("identity file {path} can be read by other users (mode {mode:04o})")]
    IdentityExposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The identity file holds something else.
    #[error("line {line} of identity file {path} is no age identity")]
    IdentityLine {
        /// The file.
        path: String,
        /// The line, from 1. Its text may be a secret and is not shown.
        line: usize,
    },
    /// The identity file holds none.
    #[error("identity file {path} holds no identity")]
    IdentityNone {
        /// The file.
        path: String,
    },
}

impl SealError {
    /// The exit code that says what kind of failure it is.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Recipient { .. } | Self::RecipientIsPrivate => Exit::Usage,
            Self::IdentityFile { .. }
            | Self::IdentityExposed { .. }
            | Self::IdentityLine { .. }
            | Self::IdentityNone { .. } => Exit::Key,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Recipient { .. } => Some("a public key looks like age1…; `highwater init` makes one".to_owned()),
            Self::RecipientIsPrivate => {
                Some("put the `age1…` text there: the line `# public key:` of the identity file has it".to_owned())
            }
            Self::IdentityFile { .. } => Some("name the file that `highwater init` or `age-keygen` wrote".to_owned()),
            Self::IdentityExposed { path, .. } => Some(format!("chmod 600 {path}")),
            Self::IdentityLine { .. } | Self::IdentityNone { .. } => {
                Some("an identity is a line AGE-SECRET-KEY-1…, as `age-keygen` writes it".to_owned())
            }
        }
    }
}
