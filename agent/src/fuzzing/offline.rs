//! Targets for what is read from a disk that others can write to: the header of an encrypted binlog, keyrings, bundles.

use highwater_binlog::EncryptionHeader;
use highwater_keyring::{KeyBundle, Keyring, MariaDbKeys};

/// The password of the corpora.
const PASSWORD: &[u8] = b"fuzz";

/// Where Percona's encrypted file has its iterations, and how many of them are computed here: they take time and decide
/// nothing.
const ITERATIONS_AT: usize = 33;
const ITERATIONS_MAX: u32 = 8;

/// The 512 bytes before an encrypted stream: what is read is written and read again as the same.
pub(super) fn encryption_header(bytes: &[u8]) {
    if let Ok(header) = EncryptionHeader::parse(bytes) {
        assert_eq!(EncryptionHeader::parse(&header.to_bytes()), Ok(header));
    }
}

/// A keyring file that needs no password: the component's JSON, the plug-in's records of any machine.
pub(super) fn keyring(bytes: &[u8]) {
    if let Ok(keyring) = Keyring::read(bytes) {
        require_equal(&keyring, Keyring::read(&keyring.to_component_file()).ok().as_ref());
    }
}

/// Percona's encrypted file.
pub(super) fn keyring_percona(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if let Some(iterations) = bytes.get_mut(ITERATIONS_AT..).and_then(<[u8]>::first_chunk_mut::<4>) {
        *iterations = (u32::from_be_bytes(*iterations) % (ITERATIONS_MAX + 1)).to_be_bytes();
    }
    if let Ok(keyring) = Keyring::read_protected(&bytes, PASSWORD) {
        require_equal(&keyring, Keyring::read(&keyring.to_component_file()).ok().as_ref());
    }
}

/// MariaDB's key file, open or encrypted.
pub(super) fn mariadb_keys(bytes: &[u8]) {
    let read = if MariaDbKeys::is_encrypted(bytes) {
        MariaDbKeys::read_encrypted(bytes, PASSWORD, &[3])
    } else {
        MariaDbKeys::read(bytes)
    };
    if let Ok(keys) = read {
        let key = keys.get(MariaDbKeys::BINLOG_KEY);
        assert!(key.is_none_or(|key| matches!(key.len(), 16 | 24 | 32)));
    }
}

/// A bundle out of an archive.
pub(super) fn key_bundle(bytes: &[u8]) {
    let Ok(bundle) = KeyBundle::decode(bytes) else { return };
    let again = KeyBundle::decode(&bundle.encode()).ok();
    require_equal(bundle.keyring(), again.as_ref().map(KeyBundle::keyring));
    assert_eq!(again.map(|again| again.files().len()), Some(bundle.files().len()));
}

fn require_equal(one: &Keyring, other: Option<&Keyring>) {
    let listed =
        |keyring: &Keyring| -> Vec<_> { keyring.keys().map(|(key_id, key)| (key_id.clone(), *key.expose())).collect() };
    assert!(other.map(listed) == Some(listed(one)), "{one:?} became {other:?}");
}
