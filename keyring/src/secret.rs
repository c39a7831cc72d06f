//! The secrets: filled in place, wiped when dropped, never printed, copied or compared with `==`.

use std::fmt;

use secrecy::{ExposeSecret, ExposeSecretMut, SecretBox};
use subtle::ConstantTimeEq;

use crate::error::SecretError;

/// A replication master key: the AES-256 key that wraps file passwords. Lives in a keyring.
pub struct MasterKey(SecretBox<[u8; 32]>);

/// The password of one encrypted binlog: its cipher's key and nonce come from it. Made with the file and never changed.
pub struct FilePassword(SecretBox<[u8; 32]>);

macro_rules! secret_of_32_bytes {
    ($type:ident, $redacted:literal) => {
        impl $type {
            /// Lets `fill` write the 32 bytes where they stay.
            #[must_use]
            pub fn init_with(fill: impl FnOnce(&mut [u8; 32])) -> Self {
                Self(SecretBox::init_with_mut(fill))
            }

            /// Copies 32 raw bytes.
            ///
            /// # Errors
            /// Any other length.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, SecretError> {
                let mut secret = SecretBox::<[u8; 32]>::default();
                let source = <&[u8; 32]>::try_from(bytes).map_err(|_| SecretError::Length { bytes: bytes.len() })?;
                secret.expose_secret_mut().copy_from_slice(source);
                Ok(Self(secret))
            }

            /// Reads 64 hexadecimal digits of either case.
            ///
            /// # Errors
            /// Another count of digits, or a character that is none.
            pub fn from_hex(text: &[u8]) -> Result<Self, SecretError> {
                if text.len() != 64 {
                    return Err(SecretError::HexLength { digits: text.len() });
                }
                let mut secret = SecretBox::<[u8; 32]>::default();
                hex::decode_to_slice(text, secret.expose_secret_mut()).map_err(|_| SecretError::NotHex)?;
                Ok(Self(secret))
            }

            /// The bytes, for the one place that computes with them.
            #[must_use]
            pub fn expose(&self) -> &[u8; 32] {
                self.0.expose_secret()
            }

            /// Whether both are the same secret, in constant time.
            #[must_use]
            pub fn is_same_as(&self, other: &Self) -> bool {
                self.expose().ct_eq(other.expose()).into()
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($redacted)
            }
        }
    };
}

secret_of_32_bytes!(MasterKey, "MasterKey(..)");
secret_of_32_bytes!(FilePassword, "FilePassword(..)");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_of_either_case_gives_the_same_key() {
        let lower = MasterKey::from_hex("ab".repeat(32).as_bytes()).unwrap();
        let upper = MasterKey::from_hex("AB".repeat(32).as_bytes()).unwrap();
        assert!(lower.is_same_as(&upper));
        assert_eq!(lower.expose(), &[0xab; 32]);
        assert!(!lower.is_same_as(&MasterKey::from_slice(&[0xac; 32]).unwrap()));
    }

    #[test]
    fn another_length_or_alphabet_is_refused() {
        assert_eq!(MasterKey::from_slice(&[0; 31]).unwrap_err(), SecretError::Length { bytes: 31 });
        assert_eq!(MasterKey::from_hex(b"abc").unwrap_err(), SecretError::HexLength { digits: 3 });
        assert_eq!(MasterKey::from_hex("zz".repeat(32).as_bytes()).unwrap_err(), SecretError::NotHex);
    }

    #[test]
    fn debug_output_shows_nothing() {
        let key = MasterKey::from_slice(&[0x41; 32]).unwrap();
        let password = FilePassword::from_slice(&[0x41; 32]).unwrap();
        assert_eq!(format!("{key:?} {password:#?}"), "MasterKey(..) FilePassword(..)");
    }
}
