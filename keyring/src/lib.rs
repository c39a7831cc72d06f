//! What a replication key is, and where MySQL servers keep it.
//!
//! Encrypted binlogs name a *master key* in their header and carry their own *file password*, wrapped with that key.
//! This crate reads master keys out of keyrings and unwraps file passwords. It does no I/O, and nothing in it prints a
//! key.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions))]

mod bundle;
mod component_file;
mod error;
mod file_key;
mod key_id;
mod keyring;
mod mariadb_keys;
mod plugin_file;
mod protected;
mod secret;
mod unwrap;

pub use bundle::KeyBundle;
pub use error::{BundleError, KeyIdError, KeyringError, KeyringWarning, SecretError};
pub use file_key::{FileKey, FileMark};
pub use key_id::{KeyId, KeyRole};
pub use keyring::{KEYRING_BYTES_MAX, Keyring, KeyringFormat};
pub use mariadb_keys::MariaDbKeys;
pub use secret::{FilePassword, MasterKey};
pub use unwrap::WrappedFilePassword;
