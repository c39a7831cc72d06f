//! A keyring: master keys by id.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use zeroize::Zeroizing;

use crate::component_file;
use crate::error::{KeyringError, KeyringWarning, SecretError};
use crate::key_id::{KeyId, KeyRole};
use crate::plugin_file;
use crate::protected;
use crate::secret::MasterKey;

/// The largest keyring read, in bytes. An entry takes about 250; a server that rotated daily for a century and never
/// purged stays below it.
pub const KEYRING_BYTES_MAX: usize = 16 << 20;

/// What a keyring file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyringFormat {
    /// A file of 0 bytes: an empty keyring in every format.
    Empty,
    /// JSON of `component_keyring_file` (MySQL 8.0.24 and newer).
    Component,
    /// Binary file of the `keyring_file` plugin, version 1.0: no digest.
    Plugin1,
    /// Binary file of the `keyring_file` plugin, version 2.0: with a digest.
    Plugin2,
    /// The file of Percona's `component_percona_keyring_encrypted_file`: the same JSON under a password.
    PerconaEncrypted,
}

/// Master keys by id. Entries of other owners, types and lengths are not in it.
#[derive(Debug, Default)]
pub struct Keyring {
    keys: BTreeMap<KeyId, MasterKey>,
    warnings: Vec<KeyringWarning>,
}

/// An entry as a keyring file has it, its value already as plain bytes or hexadecimal digits.
pub(crate) struct RawEntry<'a> {
    pub(crate) user: &'a [u8],
    pub(crate) key_id: &'a [u8],
    pub(crate) key_type: &'a [u8],
}

impl Keyring {
    /// An empty keyring.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the bytes of a keyring file, of whichever format they are.
    ///
    /// # Errors
    /// Not a keyring file, cut, or larger than [`KEYRING_BYTES_MAX`]. What does not keep keys from being used is in
    /// [`Keyring::warnings`] instead.
    pub fn read(bytes: &[u8]) -> Result<Self, KeyringError> {
        let mut keyring = Self::new();
        match Self::detect(bytes)? {
            KeyringFormat::Empty => {}
            KeyringFormat::Component => component_file::read(bytes, &mut keyring)?,
            KeyringFormat::Plugin1 | KeyringFormat::Plugin2 => plugin_file::read(bytes, &mut keyring)?,
            KeyringFormat::PerconaEncrypted => {
                return Err(KeyringError::PasswordNeeded { kind: protected::PERCONA });
            }
        }
        Ok(keyring)
    }

    /// The same for a keyring that may be under a password; one that is not is read without it.
    ///
    /// # Errors
    /// As [`Keyring::read`], and a password that does not open it.
    pub fn read_protected(bytes: &[u8], password: &[u8]) -> Result<Self, KeyringError> {
        if Self::detect(bytes)? != KeyringFormat::PerconaEncrypted {
            return Self::read(bytes);
        }
        let mut keyring = Self::new();
        protected::read(bytes, password, &mut keyring)?;
        Ok(keyring)
    }

    /// What the bytes of a keyring file are, from their beginning.
    ///
    /// # Errors
    /// No format this crate reads, or larger than [`KEYRING_BYTES_MAX`].
    pub fn detect(bytes: &[u8]) -> Result<KeyringFormat, KeyringError> {
        if bytes.len() > KEYRING_BYTES_MAX {
            return Err(KeyringError::TooLarge { bytes: bytes.len(), limit: KEYRING_BYTES_MAX });
        }
        if bytes.is_empty() {
            return Ok(KeyringFormat::Empty);
        }
        if let Some(format) = plugin_file::detect(bytes)? {
            return Ok(format);
        }
        match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
            Some(b'{') => Ok(KeyringFormat::Component),
            _ if protected::looks_like(bytes) => Ok(KeyringFormat::PerconaEncrypted),
            _ => Err(KeyringError::UnknownFormat),
        }
    }

    /// The key with exactly this id.
    #[must_use]
    pub fn get(&self, key_id: &KeyId) -> Option<&MasterKey> {
        self.keys.get(key_id)
    }

    /// All ids, sorted.
    pub fn key_ids(&self) -> impl Iterator<Item = &KeyId> {
        self.keys.keys()
    }

    /// All keys, sorted by id.
    pub fn keys(&self) -> impl Iterator<Item = (&KeyId, &MasterKey)> {
        self.keys.iter()
    }

    /// How many keys it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it has no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// What its reader should hear.
    #[must_use]
    pub fn warnings(&self) -> &[KeyringWarning] {
        &self.warnings
    }

    /// Adds a key. One that is already there under this id stays, and a different value becomes a warning.
    pub fn insert(&mut self, key_id: KeyId, key: MasterKey) {
        match self.keys.entry(key_id) {
            Entry::Vacant(free) => {
                free.insert(key);
            }
            Entry::Occupied(kept) => {
                if !kept.get().is_same_as(&key) {
                    self.warnings.push(KeyringWarning::ConflictingKey { key_id: kept.key().clone() });
                }
            }
        }
    }

    /// Adds all keys and warnings of `other`; where both have an id, this keyring's value stays.
    pub fn merge(&mut self, other: Self) {
        self.warnings.extend(other.warnings);
        for (key_id, key) in other.keys {
            self.insert(key_id, key);
        }
    }

    /// Keeps the replication master keys only.
    pub fn retain_replication_keys(&mut self) {
        self.keys.retain(|key_id, _| key_id.sequence().is_some());
    }

    /// The bytes of a `component_keyring_file` with these keys, from which a server starts.
    ///
    /// Records of the current key number are not in it: such a server takes the next free number for new files
    /// (`Rpl_encryption::recover_master_key` in `sql/rpl_log_encryption.cc`).
    #[must_use]
    pub fn to_component_file(&self) -> Zeroizing<Vec<u8>> {
        component_file::write(self)
    }

    pub(crate) fn warn(&mut self, warning: KeyringWarning) {
        self.warnings.push(warning);
    }

    /// Takes an entry of a file in if it can be a master key: no owner, type `AES`, 32 bytes
    /// (`Rpl_encryption::get_key` in `sql/rpl_log_encryption.cc`). An entry that is named like a replication master key
    /// and is none becomes a warning; others are somebody else's.
    pub(crate) fn take(&mut self, entry: &RawEntry<'_>, value: impl FnOnce() -> Result<MasterKey, SecretError>) {
        if !entry.user.is_empty() || entry.key_type != b"AES" {
            return;
        }
        let Ok(key_id) = KeyId::from_bytes(entry.key_id) else { return };
        match value() {
            Ok(key) => self.insert(key_id, key),
            Err(reason) if matches!(key_id.role(), KeyRole::Master { .. }) => {
                self.warn(KeyringWarning::UnusableKey { key_id, reason });
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> KeyId {
        format!("MySQLReplicationKey_00508583-b5ce-11e8-a6a5-0010e0734796_{n}").parse().unwrap()
    }

    fn key(byte: u8) -> MasterKey {
        MasterKey::from_slice(&[byte; 32]).unwrap()
    }

    #[test]
    fn an_empty_file_is_an_empty_keyring() {
        let keyring = Keyring::read(b"").unwrap();
        assert!(keyring.is_empty() && keyring.warnings().is_empty());
        assert_eq!(Keyring::detect(b"").unwrap(), KeyringFormat::Empty);
    }

    #[test]
    fn bytes_that_are_no_keyring_are_refused() {
        assert_eq!(Keyring::read(b"hello").unwrap_err(), KeyringError::UnknownFormat);
        assert_eq!(Keyring::read(&[0xfe, b'b', b'i', b'n']).unwrap_err(), KeyringError::UnknownFormat);
        let mut percona = vec![1u8];
        percona.resize(53 + 32, 7);
        assert_eq!(Keyring::read(&percona).unwrap_err(), KeyringError::PasswordNeeded { kind: protected::PERCONA });
        let large = vec![b' '; KEYRING_BYTES_MAX + 1];
        assert!(matches!(Keyring::read(&large), Err(KeyringError::TooLarge { .. })));
    }

    #[test]
    fn merging_keeps_the_first_value_and_says_so() {
        let mut first = Keyring::new();
        first.insert(id(1), key(1));
        first.insert(id(2), key(2));
        let mut second = Keyring::new();
        second.insert(id(2), key(9));
        second.insert(id(1), key(1));
        second.insert(id(3), key(3));
        first.merge(second);
        assert_eq!(first.key_ids().cloned().collect::<Vec<_>>(), [id(1), id(2), id(3)]);
        assert!(first.get(&id(2)).unwrap().is_same_as(&key(2)));
        assert_eq!(first.warnings(), [KeyringWarning::ConflictingKey { key_id: id(2) }]);
    }

    #[test]
    fn only_replication_master_keys_are_retained_on_request() {
        let mut keyring = Keyring::new();
        keyring.insert(id(1), key(1));
        keyring.insert("INNODBKey-00508583-b5ce-11e8-a6a5-0010e0734796-1".parse().unwrap(), key(2));
        keyring.retain_replication_keys();
        assert_eq!(keyring.key_ids().cloned().collect::<Vec<_>>(), [id(1)]);
    }

    #[test]
    fn debug_output_has_ids_and_no_key() {
        let mut keyring = Keyring::new();
        keyring.insert(id(1), key(0xab));
        let text = format!("{keyring:?}").to_lowercase();
        assert!(text.contains("masterkey(..)") && text.contains("_1"));
        assert!(!text.contains("abab") && !text.contains("171, 171"), "{text}");
    }
}
