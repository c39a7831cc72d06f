//! The sealing writer.

use std::io::{self, Write};

use age::stream::StreamWriter;
use aws_lc_rs::digest::{Context, SHA256};
use highwater_catalog::{ObjectFacts, Sealing, Sha256Digest};
use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

use super::Recipients;

/// The fastest of the regular levels. Level 3 makes binlogs 4 % smaller and takes twice the time.
const ZSTD_LEVEL: i32 = 1;

/// Plain bytes of a frame. Each is compressed in one go, out of the buffer it was collected in: zstd's streaming copies
/// everything into a ring first, and searches a ring at two thirds of the speed.
const FRAME_BYTES: usize = 2 << 20;

/// Compresses and seals what is written to it, and measures both sides.
pub struct SealWriter<W: Write> {
    plain: Tally,
    /// Bytes of the frame that is being collected: never full.
    frame: Vec<u8>,
    compressed: Vec<u8>,
    compressor: Compressor<'static>,
    frames: u64,
    layer: Layer<Measured<W>>,
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
        let mut compressor = Compressor::new(ZSTD_LEVEL)?;
        compressor.include_checksum(true)?;
        let (frame, compressed) = (Vec::new(), Vec::new());
        Ok(Self { plain: Tally::default(), frame, compressed, compressor, frames: 0, layer })
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
    pub fn finish(mut self) -> io::Result<(W, ObjectFacts)> {
        if !self.frame.is_empty() || self.frames == 0 {
            self.end_frame()?;
        }
        let (Measured { mut inner, tally }, sealing) = match self.layer {
            Layer::Plain(measured) => (measured, Sealing::Zstd),
            Layer::Age(stream) => (stream.finish()?, Sealing::ZstdAge),
        };
        inner.flush()?;
        let (plain_size, plain_sha256) = self.plain.finish();
        let (stored_size, stored_sha256) = tally.finish();
        Ok((inner, ObjectFacts { plain_size, plain_sha256, stored_size, stored_sha256, sealing }))
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.compressed.clear();
        self.compressed.reserve(compress_bound(self.frame.len()));
        self.compressor.compress_to_buffer(&self.frame, &mut self.compressed)?;
        self.frame.clear();
        self.frames += 1;
        self.layer.write_all(&self.compressed)
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(FRAME_BYTES - self.frame.len());
        let bytes = &bytes[..count];
        self.frame.extend_from_slice(bytes);
        self.plain.add(bytes);
        if self.frame.len() == FRAME_BYTES {
            self.end_frame()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.frame.is_empty() {
            self.end_frame()?;
        }
        self.layer.flush()
    }
}

/// Size and digest of a stream.
///
/// The digest is aws-lc's: where the processor has no instructions for SHA-256, it takes half the time of sha2's.
#[derive(Clone)]
pub(crate) struct Tally {
    pub(crate) size: u64,
    hasher: Context,
}

impl Default for Tally {
    fn default() -> Self {
        Self { size: 0, hasher: Context::new(&SHA256) }
    }
}

impl Tally {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.hasher.update(bytes);
    }

    pub(crate) fn finish(self) -> (u64, Sha256Digest) {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.hasher.finish().as_ref());
        (self.size, Sha256Digest(digest))
    }

    pub(crate) fn digest(&self) -> Sha256Digest {
        self.clone().finish().1
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_frame_cannot_hold_is_in_several_that_decode_as_one() {
        let plain: Vec<u8> = (0..FRAME_BYTES + 3).map(|i| (i % 251) as u8).collect();
        let mut writer = SealWriter::new(Vec::new(), &Recipients::default()).unwrap();
        for part in plain.chunks(1_000_003) {
            writer.write_all(part).unwrap();
        }
        let (stored, facts) = writer.finish().unwrap();
        assert_eq!(facts.plain_size, plain.len() as u64);
        assert_eq!(zstd::stream::decode_all(&stored[..]).unwrap(), plain);
        let first = zstd::zstd_safe::find_frame_compressed_size(&stored).unwrap();
        assert!(first < stored.len(), "there is a second frame");
    }

    #[test]
    fn nothing_is_a_frame_too() {
        let (stored, facts) = SealWriter::new(Vec::new(), &Recipients::default()).unwrap().finish().unwrap();
        assert_eq!((facts.plain_size, facts.stored_size), (0, stored.len() as u64));
        assert_eq!(zstd::stream::decode_all(&stored[..]).unwrap(), b"");
        assert!(!stored.is_empty());
    }

    #[test]
    fn the_digest_is_sha_256() {
        let mut tally = Tally::default();
        tally.add(b"ab");
        tally.add(b"c");
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(tally.digest().to_string(), expected);
        assert_eq!(tally.finish().1.to_string(), expected);
    }
}
