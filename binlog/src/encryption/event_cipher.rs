//! Binlogs encrypted event by event: MariaDB's, and those of Percona Server before 8.0.14.
//!
//! The file's magic and format description are plain. The second event, `START_ENCRYPTION`, is plain too and carries a
//! nonce; every event after it is encrypted by itself, under the nonce and the offset of the event. On the disk the
//! length of an event stays readable at its usual place. `Log_event_writer` in MariaDB's `sql/log_event_server.cc`,
//! `Binlog_crypt_data` in its `sql/rpl_constants.h`, `sql/event_crypt.cc` of Percona Server.

use std::fmt;

use aes::cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, InnerIvInit, KeyInit, StreamCipher as _,
    StreamCipherCoreWrapper, typenum::U16,
};
use aes::{Aes128, Aes192, Aes256};

use crate::cursor::Cursor;
use crate::error::EventError;
use crate::event::{EVENT_HEADER_LEN, EventType, RawEvent};

/// `START_ENCRYPTION_EVENT`
pub const START_ENCRYPTION: EventType = EventType(164);

/// The only scheme there is: one key for the file, the nonce and offset as initialisation vector.
const SCHEME: u8 = 1;

const NONCE_LEN: usize = 12;
const BLOCK_LEN: usize = 16;
/// Where an event's length stands, readable in an encrypted event too.
const LENGTH_AT: std::ops::Range<usize> = 9..13;

/// What `START_ENCRYPTION` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartEncryption {
    /// Which version of the key encrypts the file.
    pub key_version: u32,
    /// Random, one for each file.
    pub nonce: [u8; NONCE_LEN],
}

impl StartEncryption {
    /// Reads a `START_ENCRYPTION` event.
    ///
    /// # Errors
    /// When it is another event, too short, or of an unknown scheme.
    pub fn read(event: &RawEvent<'_>) -> Result<Self, EventError> {
        let mut body: Cursor<'_> = event.body_of(START_ENCRYPTION)?;
        if body.u8() != Some(SCHEME) {
            return Err(event.bad("encryption scheme"));
        }
        let key_version = body.u32().ok_or_else(|| event.bad("key version"))?;
        let nonce = body.array().ok_or_else(|| event.bad("nonce"))?;
        Ok(Self { key_version, nonce })
    }
}

/// How the bytes of an event are encrypted. The file does not say: whichever gives events is the one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventScheme {
    /// MariaDB's default: CBC, and the last partial block under a mask.
    MariaDbCbc,
    /// MariaDB with `file_key_management_encryption_algorithm=AES_CTR`.
    MariaDbCtr,
    /// Percona Server 5.7, and 8.0 before 8.0.14: CBC with an initialisation vector that is itself encrypted.
    PerconaCbc,
}

impl EventScheme {
    /// All of them, the most frequent first.
    pub const ALL: [Self; 3] = [Self::MariaDbCbc, Self::MariaDbCtr, Self::PerconaCbc];
}

/// Decrypts the events of one file.
pub struct EventCipher {
    key: Key,
    scheme: EventScheme,
    nonce: [u8; NONCE_LEN],
}

/// AES with the key's own length.
enum Key {
    Aes128(Box<Aes128>),
    Aes192(Box<Aes192>),
    Aes256(Box<Aes256>),
}

impl EventCipher {
    /// For the file that `start` is from. None for a key that is not of 16, 24 or 32 bytes.
    #[must_use]
    pub fn new(key: &[u8], scheme: EventScheme, start: &StartEncryption) -> Option<Self> {
        let key = match key.len() {
            16 => Key::Aes128(Box::new(Aes128::new_from_slice(key).ok()?)),
            24 => Key::Aes192(Box::new(Aes192::new_from_slice(key).ok()?)),
            32 => Key::Aes256(Box::new(Aes256::new_from_slice(key).ok()?)),
            _ => return None,
        };
        Some(Self { key, scheme, nonce: start.nonce })
    }

    /// Decrypts the event that stands at `offset` of its file; fewer bytes than a header are left as they are. Of an
    /// event that is not all there, only whole blocks come out right.
    pub fn decrypt(&self, offset: u64, event: &mut [u8]) {
        if event.len() < EVENT_HEADER_LEN {
            return;
        }
        let mut length = [0; 4];
        length.copy_from_slice(event.get(LENGTH_AT).unwrap_or_default());
        event.copy_within(..4, LENGTH_AT.start);
        if let Some(message) = event.get_mut(4..) {
            match &self.key {
                Key::Aes128(key) => self.decrypt_message(&**key, offset, message),
                Key::Aes192(key) => self.decrypt_message(&**key, offset, message),
                Key::Aes256(key) => self.decrypt_message(&**key, offset, message),
            }
        }
        event.copy_within(LENGTH_AT, 0);
        if let Some(place) = event.get_mut(LENGTH_AT) {
            place.copy_from_slice(&length);
        }
    }

    fn decrypt_message<C>(&self, key: &C, offset: u64, message: &mut [u8])
    where
        C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Clone,
    {
        let iv = self.vector(offset);
        match self.scheme {
            EventScheme::MariaDbCtr => {
                let counter = ctr::CtrCore::<C, ctr::flavors::Ctr128BE>::inner_iv_init(key.clone(), &iv.into());
                StreamCipherCoreWrapper::from_core(counter).apply_keystream(message);
            }
            EventScheme::MariaDbCbc => decrypt_cbc(key, iv, message),
            EventScheme::PerconaCbc => decrypt_cbc(key, encrypted_block(key, iv), message),
        }
    }

    /// The nonce, then the low 32 bits of the offset, little-endian.
    fn vector(&self, offset: u64) -> [u8; BLOCK_LEN] {
        let mut iv = [0; BLOCK_LEN];
        let low = offset.to_le_bytes();
        for (slot, byte) in iv.iter_mut().zip(self.nonce.iter().chain(low.iter().take(4))) {
            *slot = *byte;
        }
        iv
    }
}

/// CBC without padding; what is left after the last whole block is XORed with the encrypted vector (`MyCTX_nopad`).
fn decrypt_cbc<C>(key: &C, iv: [u8; BLOCK_LEN], message: &mut [u8])
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16>,
{
    let mut previous = iv;
    let (blocks, rest) = message.as_chunks_mut::<BLOCK_LEN>();
    for block in blocks {
        let ciphertext = *block;
        key.decrypt_block(<&mut Array<u8, _>>::from(&mut *block));
        for (byte, mask) in block.iter_mut().zip(previous) {
            *byte ^= mask;
        }
        previous = ciphertext;
    }
    if !rest.is_empty() {
        for (byte, mask) in rest.iter_mut().zip(encrypted_block(key, iv)) {
            *byte ^= mask;
        }
    }
}

fn encrypted_block<C>(key: &C, mut block: [u8; BLOCK_LEN]) -> [u8; BLOCK_LEN]
where
    C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>,
{
    key.encrypt_block(<&mut Array<u8, _>>::from(&mut block));
    block
}

impl fmt::Debug for EventCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventCipher({:?}, ..)", self.scheme)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::ChecksumAlgorithm;

    const START: StartEncryption = StartEncryption { key_version: 1, nonce: *b"NONCEnonce12" };

    /// The bytes that a server would have on its disk, made with whole-message encryption done block by block here.
    fn encrypt(key: &[u8; 32], scheme: EventScheme, offset: u32, plain: &[u8]) -> Vec<u8> {
        let cipher = Aes256::new_from_slice(key).unwrap();
        let mut iv = [&START.nonce[..], &offset.to_le_bytes()].concat();
        let block = |bytes: &[u8]| {
            let mut block = [0u8; 16];
            block.copy_from_slice(bytes);
            encrypted_block(&cipher, block).to_vec()
        };
        if scheme == EventScheme::PerconaCbc {
            iv = block(&iv);
        }
        let mut event = plain.to_vec();
        event[9..13].copy_from_slice(&plain[..4]);
        let mut out = Vec::new();
        let mut previous = iv.clone();
        for piece in event[4..].chunks(16) {
            let xor = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a ^ b).collect::<Vec<u8>>();
            match scheme {
                EventScheme::MariaDbCtr => {
                    out.extend(xor(piece, &block(&previous)));
                    let counter = u128::from_be_bytes(previous.clone().try_into().unwrap()).wrapping_add(1);
                    previous = counter.to_be_bytes().to_vec();
                }
                _ if piece.len() < 16 => out.extend(xor(piece, &block(&iv))),
                _ => {
                    previous = block(&xor(piece, &previous));
                    out.extend_from_slice(&previous);
                }
            }
        }
        event[4..].copy_from_slice(&out);
        let (head, rest) = event.split_at_mut(9);
        head[..4].copy_from_slice(&rest[..4]);
        rest[..4].copy_from_slice(&plain[9..13]);
        event
    }

    proptest! {
        #[test]
        fn every_scheme_undoes_what_the_server_did(
            key: [u8; 32],
            offset: u32,
            plain in prop::collection::vec(any::<u8>(), 19..200),
        ) {
            for scheme in EventScheme::ALL {
                let mut bytes = encrypt(&key, scheme, offset, &plain);
                prop_assert_eq!(&bytes[9..13], &plain[9..13]);
                let cipher = EventCipher::new(&key, scheme, &START).unwrap();
                cipher.decrypt(u64::from(offset) | 1 << 40, &mut bytes);
                prop_assert_eq!(&bytes, &plain, "{:?}", scheme);
            }
        }

        #[test]
        fn any_bytes_never_panic(mut bytes: Vec<u8>, offset: u64) {
            for scheme in EventScheme::ALL {
                EventCipher::new(&[1; 16], scheme, &START).unwrap().decrypt(offset, &mut bytes);
            }
        }
    }

    #[test]
    fn keys_of_other_lengths_are_refused() {
        for len in 0..40 {
            let made = EventCipher::new(&vec![0; len], EventScheme::MariaDbCbc, &START).is_some();
            assert_eq!(made, matches!(len, 16 | 24 | 32), "{len}");
        }
    }

    /// The event of a MariaDB 10.11.18.
    #[test]
    fn the_event_of_a_real_server_is_read() {
        let bytes: Vec<u8> = ["fd37036ba40100000028000000280100000000", "0101000000e413dc157f2ac895cf559ef5"]
            .concat()
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let mut whole = bytes.clone();
        whole[9] = bytes.len() as u8;
        let event = RawEvent::verify(&whole, ChecksumAlgorithm::None).unwrap();
        let start = StartEncryption::read(&event).unwrap();
        assert_eq!((start.key_version, start.nonce[0], start.nonce[11]), (1, 0xe4, 0xf5));
        whole[19] = 2;
        let event = RawEvent::verify(&whole, ChecksumAlgorithm::None).unwrap();
        assert!(StartEncryption::read(&event).is_err());
        assert_eq!(
            format!("{:?}", EventCipher::new(&[7; 16], EventScheme::MariaDbCbc, &start)),
            "Some(EventCipher(MariaDbCbc, ..))"
        );
    }
}
