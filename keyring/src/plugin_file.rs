//! The binary file of the `keyring_file` plugin (`plugin/keyring` in the source of MySQL 5.7 and 8.0).
//!
//! `Keyring file version:1.0` or `2.0`, records, `EOF`, and in 2.0 the SHA-256 of the records. A record is five lengths
//! (whole record, key id, type, owner, value) in the machine words of the server that wrote it, the four texts, and
//! zeros up to a whole number of words.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::{KeyringError, KeyringWarning, SecretError};
use crate::keyring::{Keyring, KeyringFormat, RawEntry};
use crate::secret::MasterKey;

const TAG: &[u8] = b"Keyring file version:";
const TAG_1: &[u8] = b"Keyring file version:1.0";
const TAG_2: &[u8] = b"Keyring file version:2.0";
const END: &[u8] = b"EOF";
const DIGEST_LEN: usize = 32;

/// XORed over every value, from its start (`Key::xor_data` in `plugin/keyring/common/keyring_key.cc`).
const OBFUSCATION: &[u8; 24] = b"*305=Ljt0*!@$Hnm(*-9-w;:";

/// How a server's machine wrote numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Words {
    Little64,
    Little32,
    Big64,
    Big32,
}

impl Words {
    /// In the order in which the server tries them (`Checker::detect_architecture`).
    const ALL: [Self; 4] = [Self::Little64, Self::Little32, Self::Big64, Self::Big32];

    const fn size(self) -> usize {
        match self {
            Self::Little64 | Self::Big64 => 8,
            Self::Little32 | Self::Big32 => 4,
        }
    }

    /// Splits one number off.
    fn number(self, bytes: &[u8]) -> Option<(usize, &[u8])> {
        let (word, rest) = bytes.split_at_checked(self.size())?;
        let value = match self {
            Self::Little64 => u64::from_le_bytes(word.try_into().ok()?),
            Self::Big64 => u64::from_be_bytes(word.try_into().ok()?),
            Self::Little32 => u32::from_le_bytes(word.try_into().ok()?).into(),
            Self::Big32 => u32::from_be_bytes(word.try_into().ok()?).into(),
        };
        Some((usize::try_from(value).ok()?, rest))
    }
}

/// One record, its value still obfuscated.
struct Record<'a> {
    key_id: &'a [u8],
    key_type: &'a [u8],
    user: &'a [u8],
    value: &'a [u8],
}

/// The format if `bytes` begin with this plugin's tag.
pub(crate) fn detect(bytes: &[u8]) -> Result<Option<KeyringFormat>, KeyringError> {
    if !bytes.starts_with(TAG) {
        return Ok(None);
    }
    match bytes.get(..TAG_1.len()) {
        Some(tag) if tag == TAG_1 => Ok(Some(KeyringFormat::Plugin1)),
        Some(tag) if tag == TAG_2 => Ok(Some(KeyringFormat::Plugin2)),
        Some(_) => Err(KeyringError::PluginVersion),
        None => Err(KeyringError::PluginEndMissing { bytes: bytes.len() }),
    }
}

/// Reads the file into `keyring`.
pub(crate) fn read(bytes: &[u8], keyring: &mut Keyring) -> Result<(), KeyringError> {
    let cut = KeyringError::PluginEndMissing { bytes: bytes.len() };
    let (tag, rest) = bytes.split_at_checked(TAG_1.len()).ok_or(cut.clone())?;
    let (body, digest) = if tag == TAG_2 {
        let at = rest.len().checked_sub(DIGEST_LEN).ok_or(cut.clone())?;
        rest.split_at_checked(at).map(|(body, digest)| (body, Some(digest))).ok_or(cut.clone())?
    } else {
        (rest, None)
    };
    let records = body.strip_suffix(END).ok_or(cut)?;
    if digest.is_some_and(|stored| !bool::from(Sha256::digest(records).as_slice().ct_eq(stored))) {
        keyring.warn(KeyringWarning::DigestMismatch);
    }
    let list = Words::ALL.into_iter().find_map(|words| walk(records, words)).ok_or(KeyringError::PluginRecords)?;
    for record in list {
        let entry = RawEntry { user: record.user, key_id: record.key_id, key_type: record.key_type };
        keyring.take(&entry, || reveal(record.value));
    }
    Ok(())
}

/// All records, if they are consistent and end exactly at the end of `area`.
fn walk(mut area: &[u8], words: Words) -> Option<Vec<Record<'_>>> {
    let mut list = Vec::new();
    while !area.is_empty() {
        let (total, _) = words.number(area)?;
        let (record, rest) = area.split_at_checked(total)?;
        list.push(record_of(record, words)?);
        area = rest;
    }
    Some(list)
}

/// One record out of exactly its bytes.
fn record_of(record: &[u8], words: Words) -> Option<Record<'_>> {
    if !record.len().is_multiple_of(words.size()) {
        return None;
    }
    let (_, rest) = words.number(record)?;
    let (key_id_len, rest) = words.number(rest)?;
    let (key_type_len, rest) = words.number(rest)?;
    let (user_len, rest) = words.number(rest)?;
    let (value_len, rest) = words.number(rest)?;
    let (key_id, rest) = rest.split_at_checked(key_id_len)?;
    let (key_type, rest) = rest.split_at_checked(key_type_len)?;
    let (user, rest) = rest.split_at_checked(user_len)?;
    let (value, padding) = rest.split_at_checked(value_len)?;
    (padding.len() <= words.size()).then_some(Record { key_id, key_type, user, value })
}

/// The value without its obfuscation.
fn reveal(value: &[u8]) -> Result<MasterKey, SecretError> {
    let value = <&[u8; 32]>::try_from(value).map_err(|_| SecretError::Length { bytes: value.len() })?;
    Ok(MasterKey::init_with(|key| {
        for ((out, byte), mask) in key.iter_mut().zip(value).zip(OBFUSCATION.iter().cycle()) {
            *out = byte ^ mask;
        }
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "MySQLReplicationKey_00508583-b5ce-11e8-a6a5-0010e0734796_1";

    struct Entry {
        id: String,
        kind: &'static str,
        user: &'static str,
        value: Vec<u8>,
    }

    fn entry(id: &str, value: &[u8]) -> Entry {
        Entry { id: id.to_owned(), kind: "AES", user: "", value: value.to_vec() }
    }

    fn push_number(out: &mut Vec<u8>, words: Words, value: usize) {
        match words {
            Words::Little64 => out.extend((value as u64).to_le_bytes()),
            Words::Big64 => out.extend((value as u64).to_be_bytes()),
            Words::Little32 => out.extend((value as u32).to_le_bytes()),
            Words::Big32 => out.extend((value as u32).to_be_bytes()),
        }
    }

    fn file(tag: &[u8], words: Words, entries: &[Entry]) -> Vec<u8> {
        let mut records = Vec::new();
        for e in entries {
            let used = 5 * words.size() + e.id.len() + e.kind.len() + e.user.len() + e.value.len();
            let total = used.next_multiple_of(words.size());
            for number in [total, e.id.len(), e.kind.len(), e.user.len(), e.value.len()] {
                push_number(&mut records, words, number);
            }
            records.extend(e.id.bytes().chain(e.kind.bytes()).chain(e.user.bytes()));
            records.extend(e.value.iter().enumerate().map(|(i, b)| b ^ OBFUSCATION[i % 24]));
            records.resize(records.len() + total - used, 0);
        }
        let mut out = [tag, &records, END].concat();
        if tag == TAG_2 {
            out.extend_from_slice(&Sha256::digest(&records));
        }
        out
    }

    #[test]
    fn both_versions_are_read_in_every_architecture() {
        let second = ID.replace("_1", "_22");
        for tag in [TAG_1, TAG_2] {
            for words in Words::ALL {
                let bytes = file(tag, words, &[entry(ID, &[7; 32]), entry(&second, &[9; 32])]);
                let keyring = Keyring::read(&bytes).unwrap();
                assert_eq!(keyring.get(&ID.parse().unwrap()).unwrap().expose(), &[7; 32], "{words:?}");
                assert_eq!(keyring.get(&second.parse().unwrap()).unwrap().expose(), &[9; 32], "{words:?}");
                assert!(keyring.warnings().is_empty(), "{words:?}");
            }
        }
    }

    /// A record as a 64-bit x86 server of version 8.0 lays it out, its obfuscated value computed apart from this code:
    /// zeros XORed with the plugin's text are that text.
    #[test]
    fn the_value_is_hidden_by_the_plugins_text_repeated() {
        let mut record = Vec::new();
        for number in [136u64, 58, 3, 0, 32] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.extend_from_slice(ID.as_bytes());
        record.extend_from_slice(b"AES*305=Ljt0*!@$Hnm(*-9-w;:*305=Ljt\0\0\0");
        assert_eq!(record.len(), 136);
        let bytes = [TAG_1, &record, END].concat();
        let keyring = Keyring::read(&bytes).unwrap();
        assert_eq!(keyring.get(&ID.parse().unwrap()).unwrap().expose(), &[0; 32]);
    }

    #[test]
    fn a_file_without_records_is_an_empty_keyring() {
        for tag in [TAG_1, TAG_2] {
            let keyring = Keyring::read(&file(tag, Words::Little64, &[])).unwrap();
            assert!(keyring.is_empty() && keyring.warnings().is_empty());
        }
    }

    #[test]
    fn a_wrong_digest_is_a_warning_and_the_keys_are_read() {
        let mut bytes = file(TAG_2, Words::Little64, &[entry(ID, &[7; 32])]);
        *bytes.last_mut().unwrap() ^= 1;
        let keyring = Keyring::read(&bytes).unwrap();
        assert_eq!(keyring.len(), 1);
        assert_eq!(keyring.warnings(), [KeyringWarning::DigestMismatch]);
    }

    #[test]
    fn entries_of_other_owners_types_and_lengths_are_not_keys() {
        let mut owned = entry(ID, &[7; 32]);
        owned.user = "root@localhost";
        let mut typed = entry(ID, &[7; 32]);
        typed.kind = "RSA";
        let sequence = entry("MySQLReplicationKey_00508583-b5ce-11e8-a6a5-0010e0734796", &[0; 16]);
        let short = entry(ID, &[7; 31]);
        let keyring = Keyring::read(&file(TAG_1, Words::Little64, &[owned, typed, sequence, short])).unwrap();
        assert!(keyring.is_empty());
        let reason = SecretError::Length { bytes: 31 };
        assert_eq!(keyring.warnings(), [KeyringWarning::UnusableKey { key_id: ID.parse().unwrap(), reason }]);
    }

    #[test]
    fn other_versions_are_named() {
        assert_eq!(Keyring::read(b"Keyring file version:3.0EOF").unwrap_err(), KeyringError::PluginVersion);
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        for tag in [TAG_1, TAG_2] {
            let bytes = file(tag, Words::Little64, &[entry(ID, &[7; 32])]);
            for end in 1..bytes.len() {
                assert!(Keyring::read(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn lengths_that_overflow_are_refused() {
        for lens in [[u64::MAX; 5], [48, u64::MAX, 1, 0, 0], [0; 5], [40, 1 << 63, 1 << 63, 0, 0], [41, 0, 0, 0, 0]] {
            let mut bytes = TAG_1.to_vec();
            lens.iter().for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
            bytes.extend_from_slice(&[0; 8]);
            bytes.extend_from_slice(END);
            assert_eq!(Keyring::read(&bytes).unwrap_err(), KeyringError::PluginRecords, "{lens:?}");
        }
    }

    #[test]
    fn more_padding_than_a_word_is_refused() {
        for (words, total) in [(Words::Little64, 56), (Words::Big32, 28)] {
            let mut record = Vec::new();
            for number in [total, 0, 0, 0, 0] {
                push_number(&mut record, words, number);
            }
            record.resize(total, 0);
            let bytes = [TAG_1, &record, END].concat();
            assert_eq!(Keyring::read(&bytes).unwrap_err(), KeyringError::PluginRecords, "{words:?}");
        }
    }

    proptest! {
        #[test]
        fn changed_bytes_never_panic(at in any::<prop::sample::Index>(), byte: u8, v2: bool) {
            let tag = if v2 { TAG_2 } else { TAG_1 };
            let mut bytes = file(tag, Words::Little64, &[entry(ID, &[7; 32]), entry("other", &[1; 16])]);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Keyring::read(&bytes);
        }

        #[test]
        fn any_bytes_after_the_tag_never_panic(rest: Vec<u8>, v2: bool) {
            let tag = if v2 { TAG_2 } else { TAG_1 };
            let _ = Keyring::read(&[tag, &rest].concat());
            let _ = Keyring::read(&[tag, &rest, END].concat());
        }
    }
}
