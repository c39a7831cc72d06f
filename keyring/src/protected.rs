//! Keyrings under a password: Percona's `component_percona_keyring_encrypted_file`
//! (`components/keyrings/percona_keyring_encrypted_file` of Percona Server 8.4 and newer).
//!
//! One byte of version, 32 of salt, the iterations of PBKDF2-HMAC-SHA256 as 4 bytes big-endian, 16 of initialisation
//! vector, and the JSON of `component_keyring_file` under AES-256-CBC with padding. Nothing authenticates it: a wrong
//! password shows as bad padding or as bytes that are no JSON.

use aes::Aes256;
use aes::cipher::{Array, BlockModeDecrypt, KeyIvInit};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::component_file;
use crate::error::KeyringError;
use crate::keyring::Keyring;

pub(crate) const PERCONA: &str = "component_percona_keyring_encrypted_file";

const VERSION: u8 = 1;
const HEAD_LEN: usize = 1 + 32 + 4 + 16;

/// The most iterations computed. The component's default is 600,000; a damaged count could mean an hour of work.
pub(crate) const ITERATIONS_MAX: u32 = 20_000_000;

/// Whether `bytes` have the shape of the file.
pub(crate) fn looks_like(bytes: &[u8]) -> bool {
    bytes.first() == Some(&VERSION)
        && bytes.len() > HEAD_LEN
        && bytes.len().checked_sub(HEAD_LEN).is_some_and(|len| len.is_multiple_of(16))
}

/// Reads the file into `keyring`.
pub(crate) fn read(bytes: &[u8], password: &[u8], keyring: &mut Keyring) -> Result<(), KeyringError> {
    let cut = KeyringError::ProtectedCut { kind: PERCONA };
    let (_, rest) = bytes.split_first().ok_or(cut.clone())?;
    let (salt, rest) = rest.split_at_checked(32).ok_or(cut.clone())?;
    let (iterations, rest) = rest.split_first_chunk().ok_or(cut.clone())?;
    let (iv, ciphertext) = rest.split_first_chunk().ok_or(cut)?;
    let iterations = u32::from_be_bytes(*iterations);
    if iterations == 0 || iterations > ITERATIONS_MAX {
        return Err(KeyringError::Iterations { found: iterations, limit: ITERATIONS_MAX });
    }
    let mut key = Zeroizing::new([0u8; 32]);
    pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, key.as_mut_slice());
    let wrong = || KeyringError::WrongPassword { kind: PERCONA };
    let text = decrypt_cbc(&key, iv, ciphertext).ok_or_else(wrong)?;
    component_file::read(&text, keyring).map_err(|_| wrong())
}

/// AES-256-CBC with PKCS#7 padding; none if the padding is not right.
pub(crate) fn decrypt_cbc(key: &[u8; 32], iv: &[u8; 16], ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(ciphertext.to_vec());
    let mut cipher = cbc::Decryptor::<Aes256>::new(key.into(), iv.into());
    let (blocks, rest) = Array::slice_as_chunks_mut(&mut text);
    if !rest.is_empty() {
        return None;
    }
    cipher.decrypt_blocks(blocks);
    let padding = usize::from(*text.last()?);
    let len = text.len().checked_sub(padding).filter(|_| (1..=16).contains(&padding))?;
    if text.get(len..)?.iter().any(|byte| usize::from(*byte) != padding) {
        return None;
    }
    text.truncate(len);
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keyring::KeyringFormat;

    /// Password `correct horse`, salt 00 to 1f, 1000 iterations: PBKDF2 by Python's hashlib, AES by `openssl enc`.
    const SAMPLE: &str = include_str!("../tests/data/percona-encrypted-file.hex");
    const ID: &str = "MySQLReplicationKey_00508583-b5ce-11e8-a6a5-0010e0734796_1";

    fn sample() -> Vec<u8> {
        hex::decode(SAMPLE.trim()).unwrap()
    }

    #[test]
    fn the_right_password_opens_it() {
        let bytes = sample();
        assert_eq!(Keyring::detect(&bytes).unwrap(), KeyringFormat::PerconaEncrypted);
        let keyring = Keyring::read_protected(&bytes, b"correct horse").unwrap();
        assert_eq!(keyring.get(&ID.parse().unwrap()).unwrap().expose(), &[0xab; 32]);
        assert_eq!(Keyring::read(&bytes).unwrap_err(), KeyringError::PasswordNeeded { kind: PERCONA });
    }

    #[test]
    fn a_wrong_password_is_said_to_be_wrong() {
        for password in [&b""[..], b"correct horse\n", b"correct Horse"] {
            let error = Keyring::read_protected(&sample(), password).unwrap_err();
            assert_eq!(error, KeyringError::WrongPassword { kind: PERCONA });
        }
    }

    #[test]
    fn a_count_of_iterations_that_would_take_hours_is_refused() {
        for count in [0, u32::MAX] {
            let mut bytes = sample();
            bytes[33..37].copy_from_slice(&count.to_be_bytes());
            let error = Keyring::read_protected(&bytes, b"correct horse").unwrap_err();
            assert_eq!(error, KeyringError::Iterations { found: count, limit: ITERATIONS_MAX });
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        let bytes = sample();
        for end in 1..bytes.len() {
            assert!(Keyring::read_protected(&bytes[..end], b"correct horse").is_err(), "{end}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn changed_bytes_never_panic_and_show_no_key(at in any::<prop::sample::Index>(), byte: u8) {
            let mut bytes = sample();
            let at = at.index(bytes.len());
            if (33..37).contains(&at) {
                return Ok(());
            }
            bytes[at] = byte;
            let shown = format!("{:?}", Keyring::read_protected(&bytes, b"correct horse"));
            prop_assert!(!shown.contains("abab") && !shown.contains("ABAB"), "{}", shown);
        }
    }
}
