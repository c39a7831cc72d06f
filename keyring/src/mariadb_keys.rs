//! The key file of MariaDB's `file_key_management` plug-in (`plugin/file_key_management/parser.cc`).
//!
//! Text: a line `<id>;<hexadecimal key>` for each key, `#` begins a comment. It may be encrypted as a whole, the way
//! `openssl enc -aes-256-cbc -md sha1` does: `Salted__`, 8 bytes of salt, and the text. From 12.0 on the digest is a
//! setting (`file_key_management_digest`), and `file_key_management_use_pbkdf2` makes it `openssl enc -pbkdf2 -iter N`.

use std::collections::BTreeMap;
use std::fmt;

use pbkdf2::pbkdf2_hmac;
use sha1::Sha1;
use sha2::digest::{Digest, Output};
use sha2::{Sha224, Sha256, Sha384, Sha512};
use zeroize::{Zeroize, Zeroizing};

use crate::error::KeyringError;
use crate::keyring::KEYRING_BYTES_MAX;
use crate::protected::{ITERATIONS_MAX, decrypt_cbc};

const SALTED: &[u8] = b"Salted__";
const SALT_LEN: usize = 8;

/// PBKDF2 with one of the digests: password, salt, iterations, output.
type Stretch = fn(&[u8], &[u8], u32, &mut [u8]);

const STRETCHES: [Stretch; 5] =
    [pbkdf2_hmac::<Sha256>, pbkdf2_hmac::<Sha1>, pbkdf2_hmac::<Sha512>, pbkdf2_hmac::<Sha384>, pbkdf2_hmac::<Sha224>];

/// Keys by their number. `file_key_management` has one version of each.
#[derive(Default)]
pub struct MariaDbKeys {
    keys: BTreeMap<u32, Zeroizing<Vec<u8>>>,
}

impl MariaDbKeys {
    /// The number of the key that encrypts binlogs (`ENCRYPTION_KEY_SYSTEM_DATA`).
    pub const BINLOG_KEY: u32 = 1;

    /// Whether `bytes` look like a key file, encrypted or not.
    #[must_use]
    pub fn looks_like(bytes: &[u8]) -> bool {
        Self::is_encrypted(bytes) || lines(bytes).next().is_some_and(|line| split(line).is_some())
    }

    /// Whether a password is needed.
    #[must_use]
    pub fn is_encrypted(bytes: &[u8]) -> bool {
        bytes.starts_with(SALTED)
    }

    /// Reads a key file that is not encrypted.
    ///
    /// # Errors
    /// Encrypted, too large, or a line that is none of a key file's.
    pub fn read(bytes: &[u8]) -> Result<Self, KeyringError> {
        if bytes.len() > KEYRING_BYTES_MAX {
            return Err(KeyringError::TooLarge { bytes: bytes.len(), limit: KEYRING_BYTES_MAX });
        }
        if Self::is_encrypted(bytes) {
            return Err(KeyringError::PasswordNeeded { kind: "MariaDB's file_key_management" });
        }
        let mut keys = BTreeMap::new();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii_start();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let (id, key) = split(line).ok_or(KeyringError::MariaDbLine { line: index + 1 })?;
            keys.insert(id, key);
        }
        Ok(Self { keys })
    }

    /// Reads an encrypted key file, with whichever of the digests that a server can be told to use fits, and with
    /// PBKDF2 of each count of `iterations`: the file says neither.
    ///
    /// # Errors
    /// A password that does not open it, and what [`MariaDbKeys::read`] refuses.
    pub fn read_encrypted(bytes: &[u8], password: &[u8], iterations: &[u32]) -> Result<Self, KeyringError> {
        let kind = "MariaDB's file_key_management";
        if bytes.len() > KEYRING_BYTES_MAX {
            return Err(KeyringError::TooLarge { bytes: bytes.len(), limit: KEYRING_BYTES_MAX });
        }
        if let Some(found) = iterations.iter().copied().find(|count| *count > ITERATIONS_MAX) {
            return Err(KeyringError::Iterations { found, limit: ITERATIONS_MAX });
        }
        let body = bytes.strip_prefix(SALTED).ok_or(KeyringError::UnknownFormat)?;
        let (salt, ciphertext) = body.split_at_checked(SALT_LEN).ok_or(KeyringError::ProtectedCut { kind })?;
        if ciphertext.is_empty() || !ciphertext.len().is_multiple_of(16) {
            return Err(KeyringError::ProtectedCut { kind });
        }
        let once = [
            key_and_iv::<Sha1>,
            key_and_iv::<Sha256>,
            key_and_iv::<Sha512>,
            key_and_iv::<Sha384>,
            key_and_iv::<Sha224>,
        ];
        let materials = once.into_iter().map(|derive| derive(password, salt));
        let repeated = iterations
            .iter()
            .flat_map(|count| STRETCHES.iter().map(|derive| stretched(*derive, password, salt, *count)));
        for material in materials.chain(repeated) {
            let (key, iv) = material.split_at(32);
            let (Ok(key), Ok(iv)) = (key.try_into(), iv.try_into()) else { continue };
            if let Some(text) = decrypt_cbc(key, iv, ciphertext)
                && let Ok(keys) = Self::read(&text)
                && !keys.is_empty()
            {
                return Ok(keys);
            }
        }
        Err(KeyringError::WrongPassword { kind })
    }

    /// The key with this number.
    #[must_use]
    pub fn get(&self, id: u32) -> Option<&[u8]> {
        self.keys.get(&id).map(|key| key.as_slice())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl fmt::Debug for MariaDbKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MariaDbKeys({:?})", self.keys.keys())
    }
}

/// The lines that say something.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let all = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_start);
    all.filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

/// Number and key of a line; whatever follows the key's digits is not looked at, as the server does not.
fn split(line: &[u8]) -> Option<(u32, Zeroizing<Vec<u8>>)> {
    let at = line.iter().position(|byte| *byte == b';')?;
    let (id, rest) = line.split_at_checked(at)?;
    let id = std::str::from_utf8(id).ok()?.trim().parse().ok().filter(|id| *id > 0)?;
    let digits = rest.get(1..)?.trim_ascii_start();
    let count = digits.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if !matches!(count, 32 | 48 | 64) {
        return None;
    }
    let mut key = Zeroizing::new(vec![0; count / 2]);
    hex::decode_to_slice(digits.get(..count)?, &mut key).ok()?;
    Some((id, key))
}

/// Key (32 bytes) and vector (16) as `EVP_BytesToKey` makes them in one pass: digests of the digest before, the
/// password and the salt, one after the other.
fn key_and_iv<D: Digest>(password: &[u8], salt: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut material = Zeroizing::new(Vec::with_capacity(48 + 64));
    let mut last: Option<Output<D>> = None;
    while material.len() < 48 {
        let mut digest = D::new();
        if let Some(last) = &last {
            digest.update(last);
        }
        digest.update(password);
        digest.update(salt);
        let next = digest.finalize();
        material.extend_from_slice(&next);
        if let Some(mut used) = last.replace(next) {
            used.as_mut_slice().zeroize();
        }
    }
    if let Some(mut used) = last {
        used.as_mut_slice().zeroize();
    }
    material.truncate(48);
    material
}

/// Key and vector out of PBKDF2, as `openssl enc -pbkdf2 -iter N` makes them.
fn stretched(derive: Stretch, password: &[u8], salt: &[u8], iterations: u32) -> Zeroizing<Vec<u8>> {
    let mut material = Zeroizing::new(vec![0; 48]);
    derive(password, salt, iterations, &mut material);
    material
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "# keys\n\n  1;0123456789abcdef0123456789ABCDEF # first\n2; 00112233445566778899aabbccddeeff0011223344556677\r\n100;00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    /// `TEXT` as `openssl enc -aes-256-cbc -md sha1 -S 0102030405060708 -pass pass:secret` writes it, in hexadecimal.
    const SHA1: &str = include_str!("../tests/data/mariadb-keys-sha1.hex");
    /// The same with `-md sha512`.
    const SHA512: &str = include_str!("../tests/data/mariadb-keys-sha512.hex");

    /// The same with `-md sha256 -pbkdf2 -iter 1100`.
    const PBKDF2: &str = include_str!("../tests/data/mariadb-keys-pbkdf2.hex");

    fn check(keys: &MariaDbKeys) {
        assert_eq!(keys.len(), 3);
        assert_eq!(keys.get(1).unwrap(), hex::decode("0123456789abcdef0123456789abcdef").unwrap());
        assert_eq!(keys.get(2).unwrap().len(), 24);
        assert_eq!(keys.get(100).unwrap().len(), 32);
        assert!(keys.get(3).is_none());
    }

    #[test]
    fn keys_of_all_lengths_comments_and_blanks_are_read() {
        assert!(MariaDbKeys::looks_like(TEXT.as_bytes()));
        check(&MariaDbKeys::read(TEXT.as_bytes()).unwrap());
    }

    #[test]
    fn a_file_that_openssl_encrypted_opens_with_its_password_only() {
        for file in [SHA1, SHA512] {
            let bytes = hex::decode(file.trim()).unwrap();
            assert!(MariaDbKeys::looks_like(&bytes) && MariaDbKeys::is_encrypted(&bytes));
            check(&MariaDbKeys::read_encrypted(&bytes, b"secret", &[]).unwrap());
            for wrong in [&b""[..], b"Secret", b"secret\n"] {
                let error = MariaDbKeys::read_encrypted(&bytes, wrong, &[]).unwrap_err();
                assert!(matches!(error, KeyringError::WrongPassword { .. }), "{error:?}");
            }
            for end in 0..bytes.len() {
                assert!(MariaDbKeys::read_encrypted(&bytes[..end], b"secret", &[]).is_err(), "{end}");
            }
            assert!(matches!(MariaDbKeys::read(&bytes), Err(KeyringError::PasswordNeeded { .. })));
        }
    }

    #[test]
    fn a_file_under_pbkdf2_opens_with_its_iterations_only() {
        let bytes = hex::decode(PBKDF2.trim()).unwrap();
        check(&MariaDbKeys::read_encrypted(&bytes, b"secret", &[1000, 1100]).unwrap());
        for (password, iterations) in [(&b"secret"[..], &[][..]), (b"secret", &[0, 1099, 1101]), (b"Secret", &[1100])] {
            let error = MariaDbKeys::read_encrypted(&bytes, password, iterations).unwrap_err();
            assert!(matches!(error, KeyringError::WrongPassword { .. }), "{error:?}");
        }
        let error = MariaDbKeys::read_encrypted(&bytes, b"secret", &[u32::MAX]).unwrap_err();
        assert!(matches!(error, KeyringError::Iterations { .. }), "{error:?}");
    }

    #[test]
    fn other_files_do_not_look_like_one_and_bad_lines_are_named() {
        for text in ["", "{\"version\":\"1.0\"}", "hello", "1;xyz", "0;0123456789abcdef0123456789abcdef", "1 0123"] {
            assert!(!MariaDbKeys::looks_like(text.as_bytes()), "{text}");
        }
        let text = format!("{TEXT}\n3;5ec5e7\n");
        let error = MariaDbKeys::read(text.as_bytes()).unwrap_err();
        assert_eq!(error, KeyringError::MariaDbLine { line: 6 });
        assert!(!format!("{error} {error:?}").contains("5ec5e7"));
    }

    #[test]
    fn debug_output_shows_numbers_only() {
        let shown = format!("{:?}", MariaDbKeys::read(TEXT.as_bytes()).unwrap());
        assert_eq!(shown, "MariaDbKeys([1, 2, 100])");
    }

    proptest! {
        #[test]
        fn changed_bytes_never_panic(at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = hex::decode(SHA1.trim()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = MariaDbKeys::read_encrypted(&bytes, b"secret", &[]);
            let mut text = TEXT.as_bytes().to_vec();
            let at = at % text.len();
            text[at] = byte;
            let _ = MariaDbKeys::read(&text);
        }
    }
}
