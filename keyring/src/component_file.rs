//! The JSON file of `component_keyring_file` (`components/keyrings/common/json_data` in MySQL's source).

use std::borrow::Cow;

use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

use crate::error::KeyringError;
use crate::keyring::{Keyring, RawEntry};
use crate::secret::MasterKey;

/// The document. Members that are not here are tolerated, as the server's schema does, and the value of `version` is
/// not compared, as the server does not.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    #[serde(rename = "version")]
    _version: Cow<'a, str>,
    #[serde(borrow)]
    elements: Vec<Element<'a>>,
}

#[derive(Deserialize)]
struct Element<'a> {
    #[serde(borrow)]
    user: Cow<'a, str>,
    #[serde(borrow)]
    data_id: Cow<'a, str>,
    #[serde(borrow)]
    data_type: Cow<'a, str>,
    #[serde(borrow)]
    data: Value<'a>,
}

/// Hexadecimal digits of a key: a borrow of the file unless the JSON had escapes in them, wiped in that case.
#[derive(Deserialize)]
#[serde(transparent)]
struct Value<'a>(#[serde(borrow)] Cow<'a, str>);

impl Drop for Value<'_> {
    fn drop(&mut self) {
        if let Cow::Owned(text) = &mut self.0 {
            text.zeroize();
        }
    }
}

/// Reads the document into `keyring`.
pub(crate) fn read(bytes: &[u8], keyring: &mut Keyring) -> Result<(), KeyringError> {
    // The parser's own message is left out: it may quote values.
    let document: Document<'_> = serde_json::from_slice(bytes)
        .map_err(|error| KeyringError::Json { line: error.line(), column: error.column() })?;
    for element in &document.elements {
        let entry = RawEntry {
            user: element.user.as_bytes(),
            key_id: element.data_id.as_bytes(),
            key_type: element.data_type.as_bytes(),
        };
        keyring.take(&entry, || MasterKey::from_hex(element.data.0.as_bytes()));
    }
    Ok(())
}

/// Writes the document the way the server does: compact, members in this order, upper-case digits.
pub(crate) fn write(keyring: &Keyring) -> Zeroizing<Vec<u8>> {
    let head = br#"{"version":"1.0","elements":["#;
    // An entry is at most 64 digits, an id of 255 characters all escaped, and the members' names.
    let capacity = head.len() + 2 + keyring.len() * (64 + 2 * 255 + 80);
    let mut out = Zeroizing::new(Vec::with_capacity(capacity));
    out.extend_from_slice(head);
    for (i, (key_id, key)) in keyring.keys().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"user":"","data_id":"#);
        push_json_text(&mut out, key_id.as_str());
        out.extend_from_slice(br#","data_type":"AES","data":""#);
        push_hex(&mut out, key.expose(), HexCase::Upper);
        out.extend_from_slice(br#"","extension":[]}"#);
    }
    out.extend_from_slice(b"]}");
    out
}

/// The case of hexadecimal digits.
#[derive(Clone, Copy)]
pub(crate) enum HexCase {
    Upper,
    Lower,
}

/// Appends the digits of a secret without a copy of them elsewhere.
pub(crate) fn push_hex(out: &mut Vec<u8>, secret: &[u8; 32], case: HexCase) {
    let mut digits = Zeroizing::new([0u8; 64]);
    if hex::encode_to_slice(secret, digits.as_mut_slice()).is_ok() {
        if let HexCase::Upper = case {
            digits.make_ascii_uppercase();
        }
        out.extend_from_slice(digits.as_slice());
    }
}

/// Appends printable ASCII as a JSON string.
pub(crate) fn push_json_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::{KeyringWarning, SecretError};
    use crate::key_id::KeyId;

    const ID: &str = "MySQLReplicationKey_00508583-b5ce-11e8-a6a5-0010e0734796_1";

    fn element(user: &str, id: &str, kind: &str, data: &str) -> String {
        format!(r#"{{"user":"{user}","data_id":"{id}","data_type":"{kind}","data":"{data}","extension":[]}}"#)
    }

    fn document(elements: &[String]) -> String {
        format!(r#"{{"version":"1.0","elements":[{}]}}"#, elements.join(","))
    }

    fn only_key(text: &str) -> [u8; 32] {
        let keyring = Keyring::read(text.as_bytes()).unwrap();
        assert_eq!(keyring.len(), 1, "{keyring:?}");
        *keyring.get(&ID.parse().unwrap()).unwrap().expose()
    }

    #[test]
    fn a_key_is_read_in_either_case_with_or_without_escapes() {
        assert_eq!(only_key(&document(&[element("", ID, "AES", &"DB".repeat(32))])), [0xdb; 32]);
        assert_eq!(only_key(&document(&[element("", ID, "AES", &"db".repeat(32))])), [0xdb; 32]);
        let escaped = format!(r"\u0064b{}", "db".repeat(31));
        assert_eq!(only_key(&document(&[element("", ID, "AES", &escaped)])), [0xdb; 32]);
    }

    #[test]
    fn unknown_members_white_space_and_other_orders_are_tolerated() {
        let text = format!(
            "{{ \"future\": [1, {{}}],\n \"elements\": [ {{\"data\":\"{}\", \"extra\":null,\"extension\":[{{}}],\n\
             \"data_type\":\"AES\",\"data_id\":\"{ID}\",\"user\":\"\"}} ], \"version\":\"7\" }}\n",
            "0f".repeat(32)
        );
        assert_eq!(only_key(&text), [0x0f; 32]);
    }

    #[test]
    fn entries_of_other_owners_and_types_are_not_keys() {
        let hex = "00".repeat(32);
        let text = document(&[
            element("root@localhost", ID, "AES", &hex),
            element("", ID, "SECRET", &hex),
            element("", "MySQLReplicationKey_00508583-b5ce-11e8-a6a5-0010e0734796", "AES", &"00".repeat(16)),
        ]);
        let keyring = Keyring::read(text.as_bytes()).unwrap();
        assert!(keyring.is_empty() && keyring.warnings().is_empty(), "{keyring:?}");
    }

    #[test]
    fn a_master_key_of_a_wrong_length_is_a_warning() {
        let text = document(&[element("", ID, "AES", "0011")]);
        let keyring = Keyring::read(text.as_bytes()).unwrap();
        assert!(keyring.is_empty());
        let expected =
            KeyringWarning::UnusableKey { key_id: ID.parse().unwrap(), reason: SecretError::HexLength { digits: 4 } };
        assert_eq!(keyring.warnings(), [expected]);
    }

    #[test]
    fn a_document_cut_anywhere_is_an_error_with_its_place() {
        let text = document(&[element("", ID, "AES", &"AB".repeat(32))]);
        for end in 1..text.len() {
            let error = Keyring::read(&text.as_bytes()[..end]).unwrap_err();
            assert!(matches!(error, KeyringError::Json { line: 1, .. }), "{end}: {error:?}");
        }
    }

    #[test]
    fn error_texts_do_not_quote_the_file() {
        let secret = "5ec5e7".repeat(10);
        for text in [
            format!(r#"{{"version":"1","elements":"{secret}"}}"#),
            format!(
                r#"{{"version":"1","elements":[{{"user":"","data_id":"x","data_type":"AES","data":["{secret}"]}}]}}"#
            ),
            document(&[element("", ID, "AES", &secret)]),
        ] {
            let shown = match Keyring::read(text.as_bytes()) {
                Ok(keyring) => format!("{keyring:?} {}", keyring.warnings()[0]),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("5ec5e7"), "{shown}");
        }
    }

    #[test]
    fn the_file_written_is_what_the_server_writes() {
        let mut keyring = Keyring::new();
        keyring.insert(ID.parse().unwrap(), MasterKey::from_slice(&[0xab; 32]).unwrap());
        let expected = document(&[element("", ID, "AES", &"AB".repeat(32))]);
        assert_eq!(std::str::from_utf8(&keyring.to_component_file()).unwrap(), expected);
        let empty = Keyring::new().to_component_file();
        assert_eq!(&empty[..], br#"{"version":"1.0","elements":[]}"#);
    }

    proptest! {
        #[test]
        fn a_written_keyring_reads_back(entries in prop::collection::btree_map("[ -~]{1,255}", any::<[u8; 32]>(), 0..8)) {
            let mut keyring = Keyring::new();
            for (id, key) in &entries {
                keyring.insert(id.parse().unwrap(), MasterKey::from_slice(key).unwrap());
            }
            let written = keyring.to_component_file();
            let capacity = written.capacity();
            prop_assert!(written.len() <= capacity);
            let read = Keyring::read(&written).unwrap();
            let back: Vec<_> = read.keys().map(|(id, key)| (id.to_string(), *key.expose())).collect();
            prop_assert_eq!(back, entries.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn changed_bytes_never_panic(at in any::<prop::sample::Index>(), byte: u8) {
            let mut text = document(&[element("", ID, "AES", &"AB".repeat(32))]).into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            if let Ok(keyring) = Keyring::read(&text) {
                prop_assert!(keyring.key_ids().all(|id: &KeyId| !id.as_str().is_empty()));
            }
        }
    }
}
