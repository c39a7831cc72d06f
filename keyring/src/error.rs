//! Everything that can be wrong with a keyring. No variant carries bytes of a key.

use crate::key_id::KeyId;

/// Text that cannot name a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyIdError {
    /// No text at all.
    #[error("key id is empty")]
    Empty,
    /// Longer than the length byte of an encryption header can say.
    #[error("key id of {bytes} bytes is longer than 255")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Something other than printable ASCII.
    #[error("key id has byte 0x{byte:02x} at {offset}, which is not printable ASCII")]
    Unprintable {
        /// The first such byte.
        byte: u8,
        /// Where it is.
        offset: usize,
    },
}

/// Bytes or text that cannot be a 32-byte secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// A binary value of another length.
    #[error("key has {bytes} bytes, not 32")]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// A hexadecimal value of another length.
    #[error("key has {digits} hexadecimal digits, not 64")]
    HexLength {
        /// Its length.
        digits: usize,
    },
    /// Some character is no hexadecimal digit.
    #[error("key is not hexadecimal")]
    NotHex,
}

/// Bytes that are not a keyring this crate reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// More than [`crate::KEYRING_BYTES_MAX`].
    #[error("keyring of {bytes} bytes is larger than {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Neither JSON nor a `keyring_file` tag.
    #[error("not a keyring: neither component_keyring_file JSON nor a keyring_file of version 1.0 or 2.0")]
    UnknownFormat,
    /// It is under a password, and none was given.
    #[error("keyring is protected by a password ({kind})")]
    PasswordNeeded {
        /// What wrote it.
        kind: &'static str,
    },
    /// The password does not open it; or it is damaged, which cannot be told apart.
    #[error("keyring does not open with this password ({kind}), or is damaged")]
    WrongPassword {
        /// What wrote it.
        kind: &'static str,
    },
    /// It ends before it can.
    #[error("keyring under a password is cut ({kind})")]
    ProtectedCut {
        /// What wrote it.
        kind: &'static str,
    },
    /// More work than any server would have asked for.
    #[error("keyring under a password asks for {found} iterations, {limit} at most are computed: it is damaged")]
    Iterations {
        /// What it asks for.
        found: u32,
        /// The limit.
        limit: u32,
    },
    /// A line of a MariaDB key file that is none.
    #[error("line {line} of the key file is not <number>;<32, 48 or 64 hexadecimal digits>")]
    MariaDbLine {
        /// Line, from 1.
        line: usize,
    },
    /// Not the JSON of `component_keyring_file`, or cut.
    #[error("keyring JSON is malformed or cut at line {line}, column {column}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// A `keyring_file` tag with another version.
    #[error("keyring_file has a version other than 1.0 and 2.0")]
    PluginVersion,
    /// No `EOF` mark where it belongs.
    #[error("keyring_file of {bytes} bytes has no end mark: cut, or being written")]
    PluginEndMissing {
        /// Its size.
        bytes: usize,
    },
    /// The record lengths make sense for no word size and byte order.
    #[error("records of the keyring_file do not add up in any byte order and word size")]
    PluginRecords,
}

/// Something about a keyring that its reader should hear, though its keys are usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringWarning {
    /// The digest at the end of a `keyring_file` 2.0 is not that of its records. The server does not recompute it
    /// either (`CheckerVer_2_0::is_dgst_correct` compares stored digests).
    #[error("digest of the keyring_file does not match its records: it may be damaged")]
    DigestMismatch,
    /// An entry named like a replication master key that cannot be one.
    #[error("entry {key_id} is not usable: {reason}")]
    UnusableKey {
        /// Its id.
        key_id: KeyId,
        /// Why.
        reason: SecretError,
    },
    /// Two different values for one id; the first was kept.
    #[error("key {key_id} occurs with different values: the first one is used")]
    ConflictingKey {
        /// The id.
        key_id: KeyId,
    },
}

/// Bytes that are not a key bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// More than [`crate::KEYRING_BYTES_MAX`].
    #[error("key bundle of {bytes} bytes is larger than {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not the JSON of a bundle, or cut.
    #[error("key bundle is malformed or cut at line {line}, column {column}")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Written by a newer program.
    #[error("key bundle has format version {found}, this program reads 1 and 2")]
    Version {
        /// What the bundle says.
        found: u32,
    },
    /// An id that is not one.
    #[error("key bundle, entry {index}")]
    KeyId {
        /// Entry, from 0.
        index: usize,
        /// What is wrong.
        #[source]
        source: KeyIdError,
    },
    /// A value that is not one.
    #[error("key bundle, key {key_id}")]
    Key {
        /// Its id.
        key_id: KeyId,
        /// What is wrong.
        #[source]
        source: SecretError,
    },
    /// A file password that is not one, or stands for a file that cannot be.
    #[error("key bundle, file password {index}")]
    FilePassword {
        /// Entry, from 0.
        index: usize,
        /// What is wrong.
        #[source]
        source: SecretError,
    },
    /// A file password whose file cannot be told.
    #[error("key bundle, file password {index} does not say which file it opens")]
    FileMark {
        /// Entry, from 0.
        index: usize,
    },
    /// One id twice.
    #[error("key bundle has {key_id} twice")]
    Duplicate {
        /// The id.
        key_id: KeyId,
    },
    /// Not the 36 characters of a server UUID.
    #[error("key bundle names server {text:?}, which is not a UUID")]
    ServerUuid {
        /// The text, cut to 40 characters.
        text: String,
    },
}
