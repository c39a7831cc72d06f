//! The sealing writer.

use std::io::{self, BufRead, BufWriter, ErrorKind, Write};

use blake3::Hasher;
use highwater_catalog::{Blake3Digest, ObjectFacts, Sealing};
use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

use super::Recipients;
use super::payload::AgeWriter;
use crate::fsync::WriteError;

/// How hard zstd tries. What reads it back does not notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// For what comes as it is written.
    #[default]
    Regular,
    /// For a backlog: in four fifths of the time, and binlogs get 9 % larger.
    Fast,
}

impl Compression {
    fn zstd_level(self) -> i32 {
        match self {
            // Level 3 makes binlogs 4 % smaller and takes twice the time.
            Self::Regular => 1,
            Self::Fast => -4,
        }
    }
}

/// Plain bytes of a frame, as many as stay in a core's cache between digest and compression. Each is compressed in one go,
/// where possible out of the buffer that it was read into: zstd's streaming copies everything into a ring first, and searches
/// a ring at two thirds of the speed. Larger frames are slower and, with the tables that zstd makes for them at these levels,
/// compress binlogs no better.
pub(crate) const FRAME_BYTES: usize = 256 << 10;

/// Sealed bytes written in one go: age writes chunks of 64 KiB and 16 bytes, and its header word by word, whose errors it
/// would put into words of its own.
const WRITE_BYTES: usize = 256 << 10;

/// Compresses and seals what is written to it, and measures both sides.
pub struct SealWriter<W: Write> {
    plain: Tally,
    /// The frame that is being collected out of smaller pieces: never all of it.
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
    pub fn new(inner: W, recipients: &Recipients, compression: Compression) -> io::Result<Self> {
        let measured = Measured { inner: BufWriter::with_capacity(WRITE_BYTES, inner), tally: Tally::default() };
        let layer = if recipients.is_empty() {
            Layer::Plain(measured)
        } else {
            Layer::Age(AgeWriter::new(measured, recipients)?)
        };
        let mut compressor = Compressor::new(compression.zstd_level())?;
        // age authenticates every byte.
        compressor.include_checksum(recipients.is_empty())?;
        let (frame, compressed) = (Vec::new(), Vec::new());
        Ok(Self { plain: Tally::default(), frame, compressed, compressor, frames: 0, layer })
    }

    /// How many plain bytes were written so far.
    #[must_use]
    pub fn plain_size(&self) -> u64 {
        self.plain.size + self.frame.len() as u64
    }

    /// Seals the next bytes of `source`, at most `most`, and returns how many it had.
    pub fn read_from(&mut self, source: &mut dyn BufRead, most: u64) -> Result<u64, WriteError> {
        let mut left = most;
        while left > 0 {
            let ready = match source.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                ready => ready.map_err(WriteError::Body)?,
            };
            if ready.is_empty() {
                break;
            }
            let count = ready.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = self.write(&ready[..count]).map_err(WriteError::File)?;
            source.consume(count);
            left -= count as u64;
        }
        Ok(most - left)
    }

    /// Writes the end marks of both layers, without which the object does not open.
    ///
    /// # Errors
    /// Those of `inner`.
    pub fn finish(mut self) -> io::Result<(W, ObjectFacts)> {
        if !self.frame.is_empty() || self.frames == 0 {
            self.end_frame()?;
        }
        let (Measured { inner, tally }, sealing) = match self.layer {
            Layer::Plain(measured) => (measured, Sealing::Zstd),
            Layer::Age(stream) => (stream.finish()?, Sealing::ZstdAge),
        };
        let mut inner = inner.into_inner().map_err(io::IntoInnerError::into_error)?;
        inner.flush()?;
        let (plain_size, plain_blake3) = self.plain.finish();
        let (stored_size, stored_blake3) = tally.finish();
        Ok((inner, ObjectFacts { plain_size, plain_blake3, stored_size, stored_blake3, sealing }))
    }

    fn end_frame(&mut self) -> io::Result<()> {
        let frame = std::mem::take(&mut self.frame);
        self.write_frame(&frame)?;
        self.frame = frame;
        self.frame.clear();
        Ok(())
    }

    fn write_frame(&mut self, frame: &[u8]) -> io::Result<()> {
        self.plain.add(frame);
        self.compressed.clear();
        self.compressed.reserve(compress_bound(frame.len()));
        self.compressor.compress_to_buffer(frame, &mut self.compressed)?;
        self.frames += 1;
        self.layer.write_all(&self.compressed)
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(FRAME_BYTES - self.frame.len());
        let bytes = &bytes[..count];
        if count == FRAME_BYTES {
            self.write_frame(bytes)?;
            return Ok(count);
        }
        self.frame.extend_from_slice(bytes);
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
#[derive(Clone, Default)]
pub(crate) struct Tally {
    pub(crate) size: u64,
    hasher: Hasher,
}

impl Tally {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.hasher.update(bytes);
    }

    pub(crate) fn finish(self) -> (u64, Blake3Digest) {
        (self.size, Blake3Digest(self.hasher.finalize().into()))
    }

    pub(crate) fn digest(&self) -> Blake3Digest {
        self.clone().finish().1
    }
}

struct Measured<W: Write> {
    inner: BufWriter<W>,
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
    Age(AgeWriter<W>),
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
    use std::io::{BufReader, Read};

    use super::*;

    #[test]
    fn what_one_frame_cannot_hold_is_in_several_that_decode_as_one() {
        let plain: Vec<u8> = (0..FRAME_BYTES + 3).map(|i| (i % 251) as u8).collect();
        let mut writer = SealWriter::new(Vec::new(), &Recipients::default(), Compression::Regular).unwrap();
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
    fn as_much_is_read_as_was_asked_for_or_as_there_is() {
        let plain: Vec<u8> = (0..FRAME_BYTES + 7).map(|i| (i % 249) as u8).collect();
        for (compression, ready) in [(Compression::Regular, 1 << 20), (Compression::Fast, 1000)] {
            let mut writer = SealWriter::new(Vec::new(), &Recipients::default(), compression).unwrap();
            let mut source = BufReader::with_capacity(ready, &plain[..]);
            assert_eq!(writer.read_from(&mut source, 5).unwrap(), 5);
            assert_eq!(writer.read_from(&mut source, u64::MAX).unwrap(), plain.len() as u64 - 5);
            let (stored, facts) = writer.finish().unwrap();
            assert_eq!(facts.plain_size, plain.len() as u64);
            assert_eq!(zstd::stream::decode_all(&stored[..]).unwrap(), plain);
        }
    }

    #[test]
    fn a_failure_tells_its_side() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("body"))
            }
        }
        let mut writer = SealWriter::new(Vec::new(), &Recipients::default(), Compression::Regular).unwrap();
        assert!(matches!(writer.read_from(&mut BufReader::new(Broken), 1), Err(WriteError::Body(_))));
        let full = &mut [0u8; 4][..];
        let mut writer = SealWriter::new(full, &Recipients::default(), Compression::Regular).unwrap();
        let mut noise = vec![0; FRAME_BYTES];
        Hasher::new().finalize_xof().fill(&mut noise);
        assert!(matches!(writer.read_from(&mut &noise[..], u64::MAX), Err(WriteError::File(_))));
    }

    #[test]
    fn nothing_is_a_frame_too() {
        let (stored, facts) =
            SealWriter::new(Vec::new(), &Recipients::default(), Compression::Regular).unwrap().finish().unwrap();
        assert_eq!((facts.plain_size, facts.stored_size), (0, stored.len() as u64));
        assert_eq!(zstd::stream::decode_all(&stored[..]).unwrap(), b"");
        assert!(!stored.is_empty());
    }

    #[test]
    fn the_digest_is_blake3() {
        let mut tally = Tally::default();
        tally.add(b"ab");
        tally.add(b"c");
        let expected = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        assert_eq!(tally.digest().to_string(), expected);
        assert_eq!(tally.finish().1.to_string(), expected);
    }
}
