//! The sealing writer.

use std::io::{self, Write};

use age::stream::StreamWriter;
use highwater_catalog::{ObjectFacts, Sealing, Sha256Digest};
use sha2::{Digest, Sha256};

use super::Recipients;

/// zstd's own default, and fast enough to keep up with a binlog on one core.
const ZSTD_LEVEL: i32 = 3;

/// Compresses and seals what is written to it, and measures both sides.
pub struct SealWriter<W: Write> {
    plain: Tally,
    encoder: zstd::Encoder<'static, Layer<Measured<W>>>,
}

impl<W: Write> SealWriter<W> {
    /// Seals into `inner`; without recipients it only compresses.
    ///
    /// # Errors
    /// Those of `inner`.
    pub fn new(inner: W, recipients: &Recipients) -> io::Result<Self> {
        let measured = Measured { inner, tally: Tally::default() };
        let layer = if recipients.is_empty() {
            Layer::Plain(measured)
        } else {
            let encryptor = age::Encryptor::with_recipients(recipients.iter()).map_err(io::Error::other)?;
            Layer::Age(encryptor.wrap_output(measured)?)
        };
        let mut encoder = zstd::Encoder::new(layer, ZSTD_LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Self { plain: Tally::default(), encoder })
    }

    /// How many plain bytes were written so far.
    #[must_use]
    pub fn plain_size(&self) -> u64 {
        self.plain.size
    }

    /// Writes the end marks of both layers, without which the object does not open.
    ///
    /// # Errors
    /// Those of `inner`.
    pub fn finish(self) -> io::Result<(W, ObjectFacts)> {
        let (Measured { mut inner, tally }, sealing) = match self.encoder.finish()? {
            Layer::Plain(measured) => (measured, Sealing::Zstd),
            Layer::Age(stream) => (stream.finish()?, Sealing::ZstdAge),
        };
        inner.flush()?;
        let (plain_size, plain_sha256) = self.plain.finish();
        let (stored_size, stored_sha256) = tally.finish();
        Ok((inner, ObjectFacts { plain_size, plain_sha256, stored_size, stored_sha256, sealing }))
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.encoder.write(bytes)?;
        self.plain.add(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()
    }
}

/// Size and digest of a stream.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) size: u64,
    hasher: Sha256,
}

impl Tally {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.hasher.update(bytes);
    }

    pub(super) fn finish(self) -> (u64, Sha256Digest) {
        (self.size, Sha256Digest(self.hasher.finalize().into()))
    }

    pub(super) fn digest(&self) -> Sha256Digest {
        Sha256Digest(self.hasher.clone().finalize().into())
    }
}

struct Measured<W> {
    inner: W,
    tally: Tally,
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.tally.add(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

enum Layer<W: Write> {
    Plain(W),
    Age(StreamWriter<W>),
}

impl<W: Write> Write for Layer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(inner) => inner.write(bytes),
            Self::Age(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(inner) => inner.flush(),
            Self::Age(stream) => stream.flush(),
        }
    }
}
