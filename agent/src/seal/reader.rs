//! The reader that unseals and verifies.

use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use age::stream::StreamReader;
use age::{DecryptError, Decryptor};
use highwater_catalog::{Blake3Digest, ObjectFacts, Sealing};

use super::Identities;
use super::writer::Tally;

/// Our own objects use windows of 2 MiB (log 21); this leaves room for other writers and bounds memory to 32 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;

/// Why an object does not open.
#[derive(Debug, thiserror::Error)]
pub enum UnsealError {
    /// It is sealed and no identity was given.
    #[error("it is sealed, and no identity was given")]
    IdentityMissing,
    /// It is sealed to other keys.
    #[error("it is sealed to other keys than those of the given identity")]
    IdentityWrong,
    /// It is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// Its bytes cannot be fetched.
    #[error("read its bytes")]
    Read(#[source] io::Error),
}

/// What an object must turn out to be.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// What was done to its bytes.
    pub sealing: Sealing,
    /// Bytes in the store.
    pub stored_size: u64,
    /// BLAKE3 of the bytes in the store.
    pub stored_blake3: Blake3Digest,
    /// Most bytes it may unseal to.
    pub plain_size_max: u64,
    /// Bytes before sealing and their BLAKE3, where a manifest tells them.
    pub plain: Option<(u64, Blake3Digest)>,
}

impl From<&ObjectFacts> for Expected {
    fn from(facts: &ObjectFacts) -> Self {
        Self {
            sealing: facts.sealing,
            stored_size: facts.stored_size,
            stored_blake3: facts.stored_blake3,
            plain_size_max: facts.plain_size,
            plain: Some((facts.plain_size, facts.plain_blake3)),
        }
    }
}

/// Reads the plain bytes of an object and proves, when the last one is read, that size and BLAKE3 of both the object
/// and its plaintext are what its manifest says.
///
/// Bytes are handed out before the proof is complete: a caller that must not act on damaged bytes reads to the end
/// first. Errors carry an [`UnsealError`].
pub struct Unsealer {
    inner: Box<dyn Read + Send>,
    stored: Arc<Mutex<Stored>>,
    plain: Tally,
    expected: Expected,
    done: bool,
}

impl Unsealer {
    /// Opens an object from its stored bytes.
    pub fn new(
        stored: Box<dyn Read + Send>,
        expected: Expected,
        identities: Option<&Identities>,
    ) -> Result<Self, UnsealError> {
        let facts = Arc::new(Mutex::new(Stored { tally: Tally::default(), failed: false }));
        let measured = Measured { inner: stored, stored: Arc::clone(&facts), limit: expected.stored_size };
        let buffered = BufReader::with_capacity(64 << 10, measured);
        let layer: Box<dyn Read + Send> = match expected.sealing {
            Sealing::Zstd => Box::new(buffered),
            Sealing::ZstdAge => Box::new(open_age(buffered, identities, &facts)?),
        };
        let mut decoder = zstd::Decoder::new(layer).map_err(UnsealError::Read)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(UnsealError::Read)?;
        Ok(Self { inner: Box::new(decoder), stored: facts, plain: Tally::default(), expected, done: false })
    }

    fn proof(&mut self) -> Result<(), UnsealError> {
        let damaged = |what: String| Err(UnsealError::Damaged(what));
        let stored = lock(&self.stored);
        let expected = &self.expected;
        if stored.tally.size != expected.stored_size {
            return damaged(format!("it has {} bytes instead of {}", stored.tally.size, expected.stored_size));
        }
        if stored.tally.digest() != expected.stored_blake3 {
            return damaged("its BLAKE3 is not the manifest's".to_owned());
        }
        let Some((plain_size, plain_blake3)) = expected.plain else { return Ok(()) };
        if self.plain.size != plain_size {
            return damaged(format!("it unseals to {} bytes instead of {plain_size}", self.plain.size));
        }
        if self.plain.digest() != plain_blake3 {
            return damaged("the BLAKE3 of its plaintext is not the manifest's".to_owned());
        }
        Ok(())
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, UnsealError> {
        if self.done || buffer.is_empty() {
            return Ok(0);
        }
        let count = match self.inner.read(buffer) {
            Ok(count) => count,
            Err(error) if lock(&self.stored).failed => return Err(UnsealError::Read(error)),
            Err(error) => return Err(damage(&error)),
        };
        if count == 0 {
            self.proof()?;
            self.done = true;
            return Ok(0);
        }
        self.plain.add(&buffer[..count]);
        if self.plain.size > self.expected.plain_size_max {
            return Err(UnsealError::Damaged(format!(
                "it unseals to more than {} bytes",
                self.expected.plain_size_max
            )));
        }
        Ok(count)
    }
}

impl Read for Unsealer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_some(buffer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

fn open_age<R: io::BufRead + Send>(
    input: R,
    identities: Option<&Identities>,
    stored: &Mutex<Stored>,
) -> Result<StreamReader<R>, UnsealError> {
    let explain = |error: DecryptError| match error {
        DecryptError::NoMatchingKeys => UnsealError::IdentityWrong,
        DecryptError::Io(error) if lock(stored).failed => UnsealError::Read(error),
        DecryptError::Io(error) => damage(&error),
        other => UnsealError::Damaged(other.to_string().trim_end_matches('.').to_lowercase()),
    };
    let decryptor = Decryptor::new_buffered(input).map_err(explain)?;
    let identities = identities.ok_or(UnsealError::IdentityMissing)?;
    decryptor.decrypt(identities.iter()).map_err(explain)
}

fn damage(error: &io::Error) -> UnsealError {
    let what = match error.kind() {
        io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        _ => error.to_string(),
    };
    UnsealError::Damaged(what)
}

struct Stored {
    tally: Tally,
    /// The store could not deliver, which is no damage.
    failed: bool,
}

fn lock(stored: &Mutex<Stored>) -> MutexGuard<'_, Stored> {
    stored.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Measures stored bytes on their way, and stops where the object should have ended.
struct Measured {
    inner: Box<dyn Read + Send>,
    stored: Arc<Mutex<Stored>>,
    limit: u64,
}

impl Read for Measured {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = self.inner.read(buffer);
        let mut stored = lock(&self.stored);
        match outcome {
            Ok(count) => {
                stored.tally.add(&buffer[..count]);
                if stored.tally.size > self.limit {
                    return Err(io::Error::other(format!("it has more than {} bytes", self.limit)));
                }
                Ok(count)
            }
            Err(error) => {
                stored.failed = error.kind() != io::ErrorKind::Interrupted;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{Compression, NewIdentity, Recipients, SealWriter};
    use std::io::{Cursor, Write};

    fn seal(plain: &[u8], recipients: &Recipients) -> (Vec<u8>, ObjectFacts) {
        let mut writer = SealWriter::new(Vec::new(), recipients, Compression::Regular).unwrap();
        writer.write_all(plain).unwrap();
        writer.finish().unwrap()
    }

    fn open(stored: &[u8], facts: ObjectFacts, identities: Option<&Identities>) -> Result<Vec<u8>, UnsealError> {
        let mut reader = Unsealer::new(Box::new(Cursor::new(stored.to_vec())), (&facts).into(), identities)?;
        let mut plain = Vec::new();
        match reader.read_to_end(&mut plain) {
            Ok(_) => Ok(plain),
            Err(error) => Err(*error.into_inner().unwrap().downcast().unwrap()),
        }
    }

    fn pair() -> (Recipients, Identities) {
        let identities = NewIdentity::generate().into_identities();
        (identities.recipients(), identities)
    }

    fn sample(size: u32) -> Vec<u8> {
        (0..size).flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect()
    }

    #[test]
    fn sealed_bytes_open_again() {
        let (recipients, identities) = pair();
        for size in [0, 1, 100_000] {
            let plain = sample(size);
            let (stored, facts) = seal(&plain, &recipients);
            assert_eq!((facts.plain_size, facts.stored_size), (plain.len() as u64, stored.len() as u64));
            assert_eq!(open(&stored, facts, Some(&identities)).unwrap(), plain);
            let (stored, facts) = seal(&plain, &Recipients::default());
            assert_eq!(open(&stored, facts, None).unwrap(), plain);
        }
    }

    #[test]
    fn the_wrong_identity_and_none_are_told_apart() {
        let (recipients, _) = pair();
        let (_, other) = pair();
        let (stored, facts) = seal(b"x", &recipients);
        assert!(matches!(open(&stored, facts, Some(&other)), Err(UnsealError::IdentityWrong)));
        assert!(matches!(open(&stored, facts, None), Err(UnsealError::IdentityMissing)));
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let (recipients, identities) = pair();
        for (recipients, identities) in [(recipients, Some(&identities)), (Recipients::default(), None)] {
            let (stored, facts) = seal(&sample(40), &recipients);
            for index in 0..stored.len() {
                let mut damaged = stored.clone();
                damaged[index] ^= 1;
                let error = open(&damaged, facts, identities).unwrap_err();
                // The header's stanza is opened by trial: damage in it looks like another key.
                assert!(matches!(error, UnsealError::Damaged(_) | UnsealError::IdentityWrong), "byte {index}: {error}");
            }
        }
    }

    #[test]
    fn every_truncation_and_trailing_junk_is_found() {
        let (recipients, identities) = pair();
        for (recipients, identities) in [(recipients, Some(&identities)), (Recipients::default(), None)] {
            let (stored, facts) = seal(&sample(40), &recipients);
            for length in 0..stored.len() {
                let error = open(&stored[..length], facts, identities).unwrap_err();
                assert!(matches!(error, UnsealError::Damaged(_)), "length {length}: {error}");
            }
            let longer = [&stored[..], b"x"].concat();
            let error = open(&longer, facts, identities).unwrap_err();
            assert!(matches!(error, UnsealError::Damaged(_)), "{error}");
        }
    }

    #[test]
    fn another_object_in_its_place_is_found() {
        let (_, facts) = seal(b"one", &Recipients::default());
        let (other, _) = seal(b"two", &Recipients::default());
        let error = open(&other, facts, None).unwrap_err();
        assert_eq!(error.to_string(), "its BLAKE3 is not the manifest's");
    }

    #[test]
    fn a_bomb_stops_at_the_size_the_manifest_says() {
        let (bomb, mut facts) = seal(&vec![0; 8 << 20], &Recipients::default());
        facts.plain_size = 1000;
        let error = open(&bomb, facts, None).unwrap_err();
        assert_eq!(error.to_string(), "it unseals to more than 1000 bytes");
    }

    #[test]
    fn a_store_that_cannot_deliver_is_no_damage() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::TimedOut))
            }
        }
        let (recipients, identities) = pair();
        let (stored, facts) = seal(&sample(1000), &recipients);
        let broken = Cursor::new(stored[..stored.len() - 100].to_vec()).chain(Broken);
        let mut reader = Unsealer::new(Box::new(broken), (&facts).into(), Some(&identities)).unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(matches!(error.into_inner().unwrap().downcast_ref(), Some(UnsealError::Read(_))));
    }
}
