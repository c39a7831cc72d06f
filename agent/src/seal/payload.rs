//! The writer of an age file: its header is made by the `age` crate, its payload encrypted by AWS-LC, in half the time.
//!
//! A payload (<https://age-encryption.org/v1>, "Payload") is a nonce of 16 bytes and then chunks of 64 KiB, of which only the
//! last one may be shorter, each followed by its tag of 16 bytes. They are encrypted with ChaCha20-Poly1305 under
//! HKDF-SHA-256(salt: nonce, key: file key, info: "payload"). A chunk's own nonce is its number in 11 bytes, big endian, and
//! a byte that is 1 for the last one.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::{self, Write};

use age::{EncryptError, Encryptor, Recipient};
use age_core::format::{FileKey, Stanza};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::Recipients;

/// Plain bytes of a chunk.
const CHUNK_BYTES: usize = 64 << 10;

/// Bytes of the nonce in front of the chunks.
const NONCE_BYTES: usize = 16;

/// Bytes of a file key.
const FILE_KEY_BYTES: usize = 16;

/// Encrypts what is written to it.
pub(super) struct AgeWriter<W: Write> {
    inner: W,
    key: LessSafeKey,
    /// Plain bytes of the chunk that is not written yet: it may be the last one.
    chunk: Vec<u8>,
    number: u64,
}

impl<W: Write> AgeWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// Those of `inner`.
    pub(super) fn new(mut inner: W, recipients: &Recipients) -> io::Result<Self> {
        let file_key = RefCell::default();
        let observed: Vec<_> = recipients.iter().map(|recipient| Observed { recipient, file_key: &file_key }).collect();
        let encryptor = Encryptor::with_recipients(observed.iter().map(|recipient| recipient as &dyn Recipient));
        let mut head = Vec::new();
        // What is left of it would write the first chunk.
        drop(encryptor.map_err(io::Error::other)?.wrap_output(&mut head)?);
        inner.write_all(&head)?;
        let nonce = head.last_chunk::<NONCE_BYTES>().ok_or_else(failure)?;
        let key = payload_key(file_key.take().ok_or_else(failure)?.as_slice(), nonce).ok_or_else(failure)?;
        Ok(Self { inner, key, chunk: Vec::with_capacity(CHUNK_BYTES), number: 0 })
    }

    /// Writes the last chunk.
    ///
    /// # Errors
    /// Those of the inner writer.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.write_chunk(true)?;
        Ok(self.inner)
    }

    fn write_chunk(&mut self, is_last: bool) -> io::Result<()> {
        let mut nonce = [0; NONCE_LEN];
        nonce[3..NONCE_LEN - 1].copy_from_slice(&self.number.to_be_bytes());
        nonce[NONCE_LEN - 1] = u8::from(is_last);
        let nonce = Nonce::assume_unique_for_key(nonce);
        // Whatever fails: a number is used once.
        self.number += 1;
        let mut chunk = std::mem::take(&mut self.chunk);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut chunk).map_err(|_| failure())?;
        self.inner.write_all(&chunk)?;
        self.inner.write_all(tag.as_ref())?;
        chunk.clear();
        self.chunk = chunk;
        Ok(())
    }
}

impl<W: Write> Write for AgeWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.len() == CHUNK_BYTES && !bytes.is_empty() {
            self.write_chunk(false)?;
        }
        let count = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn failure() -> io::Error {
    io::Error::other("age cannot encrypt")
}

/// The key that chunks are encrypted with.
fn payload_key(file_key: &[u8], nonce: &[u8]) -> Option<LessSafeKey> {
    let derived = Salt::new(HKDF_SHA256, nonce).extract(file_key);
    let key = derived.expand(&[b"payload"], &CHACHA20_POLY1305).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(key)))
}

/// Keeps the file key that a recipient gets.
struct Observed<'a> {
    recipient: &'a dyn Recipient,
    file_key: &'a RefCell<Option<Zeroizing<[u8; FILE_KEY_BYTES]>>>,
}

impl Recipient for Observed<'_> {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        self.file_key.replace(Some(Zeroizing::new(*file_key.expose_secret())));
        self.recipient.wrap_file_key(file_key)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use age::x25519::Identity;

    use super::*;

    fn sealed(plain: &[u8], piece: usize, recipients: &Recipients) -> Vec<u8> {
        let mut writer = AgeWriter::new(Vec::new(), recipients).unwrap();
        plain.chunks(piece).for_each(|bytes| writer.write_all(bytes).unwrap());
        writer.finish().unwrap()
    }

    fn opened(sealed: &[u8], identity: &Identity) -> io::Result<Vec<u8>> {
        let decryptor = age::Decryptor::new(sealed).map_err(io::Error::other)?;
        let mut plain = Vec::new();
        let mut reader =
            decryptor.decrypt(std::iter::once(identity as &dyn age::Identity)).map_err(io::Error::other)?;
        reader.read_to_end(&mut plain).map(|_| plain)
    }

    #[test]
    fn the_age_crate_opens_it_with_each_of_its_recipients_whatever_its_size() {
        let identities = [Identity::generate(), Identity::generate()];
        let texts: Vec<_> = identities.iter().map(|identity| identity.to_public().to_string()).collect();
        let recipients = Recipients::parse(&texts).unwrap();
        for size in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 300 * CHUNK_BYTES + 7] {
            let plain: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            for piece in [1 << 20, 70_001] {
                let sealed = sealed(&plain, piece, &recipients);
                for identity in &identities {
                    assert!(opened(&sealed, identity).unwrap() == plain, "{size} bytes in pieces of {piece}");
                }
            }
        }
    }

    #[test]
    fn what_is_cut_or_changed_does_not_open_and_no_two_are_alike() {
        let identity = Identity::generate();
        let recipients = Recipients::parse(&[identity.to_public().to_string()]).unwrap();
        let plain = vec![7; 2 * CHUNK_BYTES];
        let whole = sealed(&plain, 1 << 20, &recipients);
        assert!(opened(&whole[..whole.len() - CHUNK_BYTES - 16], &identity).is_err(), "a whole chunk is missing");
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(opened(&changed, &identity).is_err());
        assert_ne!(whole, sealed(&plain, 1 << 20, &recipients));
    }
}
