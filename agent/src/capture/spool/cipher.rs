//! Encryption of the spool: MySQL's own container format under a local key, so that `binlog-decrypt` opens what is
//! rescued from a dead agent's disk.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use highwater_binlog::{ENCRYPTION_HEADER_LEN, ENCRYPTION_MAGIC, EncryptionHeader, MAGIC, ServerUuid, StreamCipher};
use highwater_keyring::{FilePassword, KeyId, Keyring, MasterKey, WrappedFilePassword};

use crate::fsync;

/// The key that spool files are encrypted with, and its name.
#[derive(Debug)]
pub(in crate::capture) struct SpoolKey {
    keyring: Keyring,
    key_id: KeyId,
}

impl SpoolKey {
    /// Reads the keyring (a `component_keyring_file`), or makes one with a random key where there is no file.
    ///
    /// # Errors
    /// When the file cannot be read or written, is no keyring, or has no key of this agent.
    pub(in crate::capture) fn open(path: &Path, agent: ServerUuid) -> io::Result<Self> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let id = format!("MySQLReplicationKey_{agent}_1");
        let key_id = KeyId::from_bytes(id.as_bytes()).map_err(|error| invalid(error.to_string()))?;
        let keyring = match fs::read(path) {
            Ok(bytes) => Keyring::read(&zeroize::Zeroizing::new(bytes)).map_err(|error| invalid(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut keyring = Keyring::new();
                keyring.insert(key_id.clone(), MasterKey::init_with(|key| *key = rand::random()));
                fsync::write_new(path, &keyring.to_component_file())?;
                keyring
            }
            Err(error) => return Err(error),
        };
        if keyring.get(&key_id).is_none() {
            return Err(invalid(format!("the keyring has no key {key_id}")));
        }
        Ok(Self { keyring, key_id })
    }

    /// Whether a file is encrypted with a key that is not this one, or `key` is none. What is too damaged to tell is not.
    pub(super) fn is_missing(path: &Path, key: Option<&Self>) -> io::Result<bool> {
        let mut file = File::open(path)?;
        let mut front = Vec::new();
        let len = ENCRYPTION_HEADER_LEN + MAGIC.len();
        (&mut file).take(u64::try_from(len).unwrap_or(u64::MAX)).read_to_end(&mut front)?;
        let Some((header, rest)) = front.split_at_checked(ENCRYPTION_HEADER_LEN) else { return Ok(false) };
        if !header.starts_with(&ENCRYPTION_MAGIC) || EncryptionHeader::parse(header).is_err() {
            return Ok(false);
        }
        let Some(Ok(cipher)) = key.map(|key| key.reopen(header)) else { return Ok(true) };
        let mut magic = rest.to_vec();
        cipher.apply(0, &mut magic);
        Ok(!MAGIC.starts_with(&magic))
    }

    /// The header of a new file, and the cipher for what follows it.
    pub(super) fn create(&self) -> io::Result<([u8; ENCRYPTION_HEADER_LEN], StreamCipher)> {
        let key = self.keyring.get(&self.key_id).ok_or_else(|| io::Error::other("the spool's key is gone"))?;
        let password = FilePassword::init_with(|password| *password = rand::random());
        let wrapped = WrappedFilePassword::wrap(&password, key, rand::random());
        let header = EncryptionHeader::new(self.key_id.clone(), wrapped);
        Ok((header.to_bytes(), StreamCipher::new(&password)))
    }

    /// The cipher of a file with this header.
    pub(super) fn reopen(&self, header: &[u8]) -> io::Result<StreamCipher> {
        let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let header = EncryptionHeader::parse(header).map_err(|error| invalid(error.to_string()))?;
        let id = header.key_id();
        let key = self.keyring.get(id).ok_or_else(|| invalid(format!("the spool's keyring has no key {id}")))?;
        Ok(StreamCipher::new(&header.wrapped().unwrap_with(key)))
    }
}
