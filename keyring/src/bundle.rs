//! A backup of one server's replication keys: a small JSON document, meant to be sealed before it is stored.

use std::borrow::Cow;

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::component_file::{HexCase, push_hex, push_json_text};
use crate::error::BundleError;
use crate::file_key::{FileKey, FileMark};
use crate::key_id::{KeyId, is_uuid};
use crate::keyring::{KEYRING_BYTES_MAX, Keyring};
use crate::secret::{FilePassword, MasterKey};

/// The replication master keys of one server's keyring, foreign ones included (a clone keeps its donor's), and the
/// passwords of files that were taken from it.
#[derive(Debug)]
pub struct KeyBundle {
    server_uuid: String,
    taken_micros: u64,
    keyring: Keyring,
    files: Vec<FileKey>,
}

/// The document's version, read before anything else is judged.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Version 1 of the document.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleV1<'a> {
    #[serde(rename = "version")]
    _version: u32,
    #[serde(borrow)]
    server_uuid: Cow<'a, str>,
    taken_micros: u64,
    #[serde(borrow)]
    keys: Vec<KeyV1<'a>>,
}

/// Version 2: the same with the passwords of files.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleV2<'a> {
    #[serde(rename = "version")]
    _version: u32,
    #[serde(borrow)]
    server_uuid: Cow<'a, str>,
    taken_micros: u64,
    #[serde(borrow)]
    keys: Vec<KeyV1<'a>>,
    #[serde(borrow)]
    files: Vec<FileV2<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileV2<'a> {
    #[serde(borrow)]
    binlog: Cow<'a, str>,
    /// 32 lower-case hexadecimal digits.
    mark: &'a str,
    /// 64 of them, borrowed for the same reason as a key's.
    password: &'a str,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyV1<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    /// 64 lower-case hexadecimal digits. Borrowed, so that no copy of a key is left behind.
    key: &'a str,
}

impl KeyBundle {
    /// A bundle of the replication master keys in `keyring`; its other keys and its warnings are left out.
    /// `taken_micros` counts from 1970-01-01 UTC.
    ///
    /// # Errors
    /// `server_uuid` is not one.
    pub fn new(server_uuid: &str, taken_micros: u64, mut keyring: Keyring) -> Result<Self, BundleError> {
        if !is_uuid(server_uuid) {
            return Err(BundleError::ServerUuid { text: server_uuid.chars().take(40).collect() });
        }
        keyring.retain_replication_keys();
        Ok(Self { server_uuid: server_uuid.to_ascii_lowercase(), taken_micros, keyring, files: Vec::new() })
    }

    /// The same with the passwords of files, which makes it a document of version 2.
    #[must_use]
    pub fn with_files(mut self, files: Vec<FileKey>) -> Self {
        self.files = files;
        self
    }

    /// The passwords of files.
    #[must_use]
    pub fn files(&self) -> &[FileKey] {
        &self.files
    }

    /// Keys and file passwords, taken out.
    #[must_use]
    pub fn into_parts(self) -> (Keyring, Vec<FileKey>) {
        (self.keyring, self.files)
    }

    /// The server whose keyring it was, as text.
    #[must_use]
    pub fn server_uuid(&self) -> &str {
        &self.server_uuid
    }

    /// When it was taken, in microseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn taken_micros(&self) -> u64 {
        self.taken_micros
    }

    /// Its keys.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Its keys, taken out.
    #[must_use]
    pub fn into_keyring(self) -> Keyring {
        self.keyring
    }

    /// The document, keys in the clear: seal it.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        // The head takes less than 150 bytes; an entry 64 digits, an id of at most 255 escaped characters, and names.
        let names: usize = self.files.iter().map(|file| 6 * file.binlog.len()).sum();
        let files_len = self.files.len() * (64 + 32 + 50) + names;
        let mut out = Zeroizing::new(Vec::with_capacity(160 + self.keyring.len() * (64 + 2 * 255 + 30) + files_len));
        let version = if self.files.is_empty() { 1 } else { 2 };
        let head = format!(
            r#"{{"version":{version},"server_uuid":"{}","taken_micros":{},"keys":["#,
            self.server_uuid, self.taken_micros
        );
        out.extend_from_slice(head.as_bytes());
        for (i, (key_id, key)) in self.keyring.keys().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(br#"{"id":"#);
            push_json_text(&mut out, key_id.as_str());
            out.extend_from_slice(br#","key":""#);
            push_hex(&mut out, key.expose(), HexCase::Lower);
            out.extend_from_slice(br#""}"#);
        }
        out.extend_from_slice(b"]");
        if !self.files.is_empty() {
            self.encode_files(&mut out);
        }
        out.extend_from_slice(b"}");
        out
    }

    fn encode_files(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#","files":["#);
        for (i, file) in self.files.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(br#"{"binlog":"#);
            // Names that are not plain text are for people only: their odd characters are left out.
            let printable: String = file.binlog.chars().filter(|c| matches!(c, ' '..='~')).collect();
            push_json_text(out, &printable);
            out.extend_from_slice(format!(r#","mark":"{}","password":""#, file.mark).as_bytes());
            push_hex(out, file.password.expose(), HexCase::Lower);
            out.extend_from_slice(br#""}"#);
        }
        out.push(b']');
    }

    /// Reads the document.
    ///
    /// # Errors
    /// Another version, cut, or anything that [`KeyBundle::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > KEYRING_BYTES_MAX {
            return Err(BundleError::TooLarge { bytes: bytes.len(), limit: KEYRING_BYTES_MAX });
        }
        // The parser's own messages are left out: they may quote values.
        let json = |error: serde_json::Error| BundleError::Json { line: error.line(), column: error.column() };
        let Version { version } = serde_json::from_slice(bytes).map_err(json)?;
        let document = match version {
            1 => {
                let BundleV1 { server_uuid, taken_micros, keys, .. } = serde_json::from_slice(bytes).map_err(json)?;
                BundleV2 { _version: 1, server_uuid, taken_micros, keys, files: Vec::new() }
            }
            2 => serde_json::from_slice(bytes).map_err(json)?,
            found => return Err(BundleError::Version { found }),
        };
        let keyring = keyring_of(&document.keys)?;
        let files = document.files.iter().enumerate().map(|(index, file)| file_key(index, file));
        let files = files.collect::<Result<_, _>>()?;
        Ok(Self::new(&document.server_uuid, document.taken_micros, keyring)?.with_files(files))
    }
}

fn file_key(index: usize, file: &FileV2<'_>) -> Result<FileKey, BundleError> {
    let mark = FileMark::from_hex(file.mark).ok_or(BundleError::FileMark { index })?;
    let password = FilePassword::from_hex(file.password.as_bytes())
        .map_err(|source| BundleError::FilePassword { index, source })?;
    Ok(FileKey { mark, binlog: file.binlog.clone().into_owned(), password })
}

fn keyring_of(keys: &[KeyV1<'_>]) -> Result<Keyring, BundleError> {
    let mut keyring = Keyring::new();
    for (index, entry) in keys.iter().enumerate() {
        let key_id: KeyId = entry.id.parse().map_err(|source| BundleError::KeyId { index, source })?;
        let key = MasterKey::from_hex(entry.key.as_bytes())
            .map_err(|source| BundleError::Key { key_id: key_id.clone(), source })?;
        if keyring.get(&key_id).is_some() {
            return Err(BundleError::Duplicate { key_id });
        }
        keyring.insert(key_id, key);
    }
    Ok(keyring)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::SecretError;

    const UUID: &str = "00508583-b5ce-11e8-a6a5-0010e0734796";

    fn keyring() -> Keyring {
        let mut keyring = Keyring::new();
        for n in [1u8, 2, 10] {
            let id = format!("MySQLReplicationKey_{UUID}_{n}").parse().unwrap();
            keyring.insert(id, MasterKey::from_slice(&[n; 32]).unwrap());
        }
        keyring.insert("INNODBKey-1".parse().unwrap(), MasterKey::from_slice(&[0xee; 32]).unwrap());
        keyring
    }

    /// A kept sample of version 1: it must stay readable.
    const SAMPLE: &str = concat!(
        r#"{"version":1,"server_uuid":"00508583-b5ce-11e8-a6a5-0010e0734796","taken_micros":1700000000000000,"keys":["#,
        r#"{"id":"MySQLReplicationKey_00508583-b5ce-11e8-a6a5-0010e0734796_1","#,
        r#""key":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}]}"#
    );

    #[test]
    fn a_bundle_of_version_1_reads_and_writes_the_same_bytes() {
        let bundle = KeyBundle::decode(SAMPLE.as_bytes()).unwrap();
        assert_eq!(bundle.server_uuid(), UUID);
        assert_eq!(bundle.taken_micros(), 1_700_000_000_000_000);
        assert_eq!(bundle.keyring().len(), 1);
        assert_eq!(std::str::from_utf8(&bundle.encode()).unwrap(), SAMPLE);
    }

    /// A kept sample of version 2.
    const SAMPLE_2: &str = concat!(
        r#"{"version":2,"server_uuid":"00508583-b5ce-11e8-a6a5-0010e0734796","taken_micros":1700000000000000,"keys":["#,
        r#"],"files":[{"binlog":"binlog.000007","mark":"000102030405060708090a0b0c0d0e0f","#,
        r#""password":"202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"}]}"#
    );

    #[test]
    fn a_bundle_of_version_2_reads_and_writes_the_same_bytes() {
        let bundle = KeyBundle::decode(SAMPLE_2.as_bytes()).unwrap();
        let [file] = bundle.files() else { panic!("{bundle:?}") };
        assert_eq!(file.binlog, "binlog.000007");
        assert_eq!(Some(file.mark), FileMark::of_body(&(0..20).collect::<Vec<u8>>()));
        assert_eq!((file.password.expose()[0], file.password.expose()[31]), (0x20, 0x3f));
        assert_eq!(std::str::from_utf8(&bundle.encode()).unwrap(), SAMPLE_2);
        assert!(!format!("{bundle:?}").contains("2021"));
        for end in 0..SAMPLE_2.len() {
            assert!(KeyBundle::decode(&SAMPLE_2.as_bytes()[..end]).is_err(), "{end}");
        }
        let bad = SAMPLE_2.replace("0d0e0f", "0d0e0");
        assert_eq!(KeyBundle::decode(bad.as_bytes()).unwrap_err(), BundleError::FileMark { index: 0 });
    }

    #[test]
    fn only_replication_keys_are_bundled_and_all_of_them_come_back() {
        let bundle = KeyBundle::new(&UUID.to_uppercase(), 5, keyring()).unwrap();
        let back = KeyBundle::decode(&bundle.encode()).unwrap();
        assert_eq!(back.server_uuid(), UUID);
        let keys: Vec<_> = back.keyring().keys().map(|(id, key)| (id.sequence().unwrap(), key.expose()[0])).collect();
        assert_eq!(keys, [(1, 1), (10, 10), (2, 2)]);
    }

    #[test]
    fn newer_versions_unknown_members_and_bad_values_are_refused() {
        let v3 = SAMPLE.replace(r#""version":1"#, r#""version":3,"new":0"#);
        assert_eq!(KeyBundle::decode(v3.as_bytes()).unwrap_err(), BundleError::Version { found: 3 });
        let v2 = SAMPLE.replace(r#""version":1"#, r#""version":2"#);
        assert!(matches!(KeyBundle::decode(v2.as_bytes()), Err(BundleError::Json { .. })), "it must have files");
        let extra = SAMPLE.replace(r#""version":1"#, r#""version":1,"new":0"#);
        assert!(matches!(KeyBundle::decode(extra.as_bytes()), Err(BundleError::Json { .. })));
        let short = SAMPLE.replace("1e1f\"", "1e\"");
        let error = KeyBundle::decode(short.as_bytes()).unwrap_err();
        assert!(matches!(error, BundleError::Key { source: SecretError::HexLength { digits: 62 }, .. }));
        let uuid = SAMPLE.replacen("00508583-", "00508583_", 1);
        assert!(matches!(KeyBundle::decode(uuid.as_bytes()), Err(BundleError::ServerUuid { .. })));
    }

    #[test]
    fn one_id_twice_is_refused() {
        let (head, entry) = SAMPLE.trim_end_matches("]}").split_once("\"keys\":[").unwrap();
        let twice = format!("{head}\"keys\":[{entry},{entry}]}}");
        assert!(matches!(KeyBundle::decode(twice.as_bytes()), Err(BundleError::Duplicate { .. })));
    }

    #[test]
    fn a_bundle_cut_anywhere_is_an_error() {
        for end in 0..SAMPLE.len() {
            assert!(KeyBundle::decode(&SAMPLE.as_bytes()[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn debug_output_and_errors_show_no_key() {
        let bundle = KeyBundle::decode(SAMPLE.as_bytes()).unwrap();
        let text = format!("{bundle:?}");
        assert!(!text.contains("00010203") && !text.contains("1, 2, 3"), "{text}");
        let wrong = SAMPLE.replace("\"key\":\"", "\"key\":\"\\u0030");
        let error = KeyBundle::decode(wrong.as_bytes()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("00010203"));
    }

    proptest! {
        #[test]
        fn changed_bytes_never_panic(at in any::<prop::sample::Index>(), byte: u8) {
            let mut text = SAMPLE.as_bytes().to_vec();
            let at = at.index(text.len());
            text[at] = byte;
            let _ = KeyBundle::decode(&text);
        }
    }
}
