//! Names of keys in a keyring.

use std::fmt;
use std::str::FromStr;

use crate::error::KeyIdError;

/// What the ids of a server's replication keys begin with (`Rpl_encryption::key_id_prefix` in
/// `sql/rpl_log_encryption.cc`), followed by `_` and the server's UUID.
const PREFIX: &str = "MySQLReplicationKey_";

/// The name of a key in a keyring: 1 to 255 bytes of printable ASCII, compared exactly.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(String);

/// What a key id says the entry is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRole {
    /// `P_<n>`: wraps file passwords. Numbers start at 1.
    Master {
        /// Its number; rotation takes the next free one.
        sequence: u32,
    },
    /// `P`: says which number is current.
    CurrentSequence,
    /// `P_old`: the number before a rotation that is under way.
    OldSequence,
    /// `P_new`: the number being rotated to.
    NewSequence,
    /// `P_last_purged`: the highest number whose key was deleted.
    LastPurgedSequence,
    /// Any other user of the keyring, such as InnoDB.
    Other,
}

impl KeyId {
    /// Reads an id from a file's bytes.
    ///
    /// # Errors
    /// Empty, longer than 255 bytes, or not printable ASCII.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyIdError> {
        if bytes.is_empty() {
            return Err(KeyIdError::Empty);
        }
        if bytes.len() > 255 {
            return Err(KeyIdError::TooLong { bytes: bytes.len() });
        }
        if let Some((offset, &byte)) = bytes.iter().enumerate().find(|(_, b)| !matches!(b, 0x20..=0x7e)) {
            return Err(KeyIdError::Unprintable { byte, offset });
        }
        Ok(Self(bytes.iter().map(|&b| char::from(b)).collect()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The UUID of the server whose key this is, as written; none for other users of the keyring.
    #[must_use]
    pub fn server_uuid(&self) -> Option<&str> {
        let uuid = self.0.strip_prefix(PREFIX)?.get(..36)?;
        is_uuid(uuid).then_some(uuid)
    }

    /// What the entry is for.
    #[must_use]
    pub fn role(&self) -> KeyRole {
        let Some(suffix) = self.server_uuid().and_then(|uuid| self.0.get(PREFIX.len() + uuid.len()..)) else {
            return KeyRole::Other;
        };
        match suffix {
            "" => KeyRole::CurrentSequence,
            "_old" => KeyRole::OldSequence,
            "_new" => KeyRole::NewSequence,
            "_last_purged" => KeyRole::LastPurgedSequence,
            _ => suffix
                .strip_prefix('_')
                .and_then(sequence_of)
                .map_or(KeyRole::Other, |n| KeyRole::Master { sequence: n }),
        }
    }

    /// The number of a replication master key; none for every other id.
    #[must_use]
    pub fn sequence(&self) -> Option<u32> {
        match self.role() {
            KeyRole::Master { sequence } => Some(sequence),
            _ => None,
        }
    }
}

/// The number in decimal digits without sign or leading zero, as `seqno_to_key_id` writes it.
fn sequence_of(digits: &str) -> Option<u32> {
    let canonical = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    canonical.then(|| digits.parse().ok()).flatten()
}

/// Whether `text` has the 8-4-4-4-12 form of a UUID.
pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        Self::from_bytes(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: &str = "MySQLReplicationKey_00508583-b5ce-11e8-a6a5-0010e0734796";

    fn role(text: &str) -> KeyRole {
        text.parse::<KeyId>().unwrap().role()
    }

    #[test]
    fn a_numbered_replication_key_is_a_master_key() {
        let id: KeyId = format!("{P}_10").parse().unwrap();
        assert_eq!(id.role(), KeyRole::Master { sequence: 10 });
        assert_eq!(id.sequence(), Some(10));
        assert_eq!(id.server_uuid(), Some("00508583-b5ce-11e8-a6a5-0010e0734796"));
        assert_eq!(id.to_string(), format!("{P}_10"));
    }

    #[test]
    fn records_of_a_rotation_are_told_apart_from_keys() {
        assert_eq!(role(P), KeyRole::CurrentSequence);
        assert_eq!(role(&format!("{P}_old")), KeyRole::OldSequence);
        assert_eq!(role(&format!("{P}_new")), KeyRole::NewSequence);
        assert_eq!(role(&format!("{P}_last_purged")), KeyRole::LastPurgedSequence);
        assert_eq!(format!("{P}_old").parse::<KeyId>().unwrap().sequence(), None);
    }

    #[test]
    fn numbers_the_server_would_not_write_are_no_master_keys() {
        for suffix in ["_", "_0", "_01", "_+1", "_-1", "_ 1", "_4294967296", "_1x", "1", "__1"] {
            assert_eq!(role(&format!("{P}{suffix}")), KeyRole::Other, "{suffix}");
        }
        assert_eq!(role(&format!("{P}_4294967295")), KeyRole::Master { sequence: u32::MAX });
    }

    #[test]
    fn other_users_of_the_keyring_are_other() {
        for id in
            ["INNODBKey-00508583-b5ce-11e8-a6a5-0010e0734796-1", "MySQLReplicationKey_", "MySQLReplicationKey_x_1"]
        {
            assert_eq!(role(id), KeyRole::Other, "{id}");
            assert_eq!(id.parse::<KeyId>().unwrap().server_uuid(), None, "{id}");
        }
    }

    #[test]
    fn an_id_is_printable_ascii_of_1_to_255_bytes() {
        assert_eq!("".parse::<KeyId>(), Err(KeyIdError::Empty));
        assert_eq!("x".repeat(256).parse::<KeyId>(), Err(KeyIdError::TooLong { bytes: 256 }));
        assert!("x".repeat(255).parse::<KeyId>().is_ok());
        assert_eq!("a\0b".parse::<KeyId>(), Err(KeyIdError::Unprintable { byte: 0, offset: 1 }));
        assert_eq!("aé".parse::<KeyId>(), Err(KeyIdError::Unprintable { byte: 0xc3, offset: 1 }));
    }
}
