//! The file password as an encryption header carries it.

use aes::Aes256;
use aes::cipher::{Array, BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};

use crate::secret::{FilePassword, MasterKey};

/// A file password wrapped with a master key: two blocks of AES-256-CBC without padding
/// (`Rpl_encryption_header_v1::encrypt_file_password` in `sql/rpl_log_encryption.cc`).
///
/// Nothing in it tells a wrong key from the right one; only what the file decrypts to does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrappedFilePassword {
    /// The encrypted password.
    pub ciphertext: [u8; 32],
    /// The initialisation vector, fresh at every wrapping.
    pub iv: [u8; 16],
}

impl WrappedFilePassword {
    /// The file password, if `key` is the key it was wrapped with; otherwise 32 meaningless bytes.
    #[must_use]
    pub fn unwrap_with(&self, key: &MasterKey) -> FilePassword {
        FilePassword::init_with(|password| {
            *password = self.ciphertext;
            let mut cipher = cbc::Decryptor::<Aes256>::new(key.expose().into(), &self.iv.into());
            let (blocks, _) = Array::slice_as_chunks_mut(password);
            cipher.decrypt_blocks(blocks);
        })
    }

    /// Wraps `password` with `key` under an `iv` that must be random and new.
    #[must_use]
    pub fn wrap(password: &FilePassword, key: &MasterKey, iv: [u8; 16]) -> Self {
        let mut ciphertext = *password.expose();
        let mut cipher = cbc::Encryptor::<Aes256>::new(key.expose().into(), &iv.into());
        let (blocks, _) = Array::slice_as_chunks_mut(&mut ciphertext);
        cipher.encrypt_blocks(blocks);
        Self { ciphertext, iv }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// NIST SP 800-38A, F.2.5 (CBC-AES256), first two blocks.
    #[test]
    fn the_nist_vector_of_cbc_aes256_unwraps() {
        let key = MasterKey::from_hex(b"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4").unwrap();
        let mut wrapped = WrappedFilePassword { ciphertext: [0; 32], iv: [0; 16] };
        hex::decode_to_slice("000102030405060708090a0b0c0d0e0f", &mut wrapped.iv).unwrap();
        hex::decode_to_slice(
            "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
            &mut wrapped.ciphertext,
        )
        .unwrap();
        let password = wrapped.unwrap_with(&key);
        assert_eq!(hex::encode(password.expose()), "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        assert_eq!(WrappedFilePassword::wrap(&password, &key, wrapped.iv), wrapped);
    }

    proptest! {
        #[test]
        fn unwrapping_undoes_wrapping(password: [u8; 32], key: [u8; 32], other: [u8; 32], iv: [u8; 16]) {
            prop_assume!(key != other);
            let password = FilePassword::from_slice(&password).unwrap();
            let wrapped = WrappedFilePassword::wrap(&password, &MasterKey::from_slice(&key).unwrap(), iv);
            prop_assert!(wrapped.unwrap_with(&MasterKey::from_slice(&key).unwrap()).is_same_as(&password));
            prop_assert!(!wrapped.unwrap_with(&MasterKey::from_slice(&other).unwrap()).is_same_as(&password));
        }
    }
}
