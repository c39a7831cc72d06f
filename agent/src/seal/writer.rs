//! The sealing writer.

use std::io::{self, BufWriter, ErrorKind, Read, Write};

use age::stream::StreamWriter;
use blake3::Hasher;
use highwater_catalog::{Blake3Digest, ObjectFacts, Sealing};
use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

use super::Recipients;
use crate::fsync::WriteError;

/// How hard zstd tries. What reads it back does not notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// For what comes as it is written.
    #[default]
    Regular,
    /// For a backlog: in three quarters of the time, and binlogs get 12 % larger.
    Fast,
}

impl Compression {
    fn zstd_level(self) -> i32 {
        match self {
            // Level 3 makes binlogs 4 % smaller and takes twice the time.
            Self::Regular => 1,
            Self::Fast => -5,
        }
    }
}

/// Plain bytes of a frame. Each is compressed in one go, out of the buffer it was collected in: zstd's streaming copies
/// everything into a ring first, and searches a ring at two thirds of the speed.
const FRAME_BYTES: usize = 2 << 20;

/// Bytes read and digested in one go, so that they are still in the processor's cache.
const READ_BYTES: usize = 256 << 10;

/// Sealed bytes written in one go: age writes chunks of 64 KiB and 16 bytes, and its header word by word, whose errors it
/// would put into words of its own.
const WRITE_BYTES: usize = 256 << 10;

/// Compresses and seals what is written to it, and measures both sides.
pub struct SealWriter<W: Write> {
    plain: Tally,
    /// The frame that is being collected, and how much of it there is: never all.
    frame: Box<[u8]>,
    filled: usize,
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
            let encryptor = age::Encryptor::with_recipients(recipients.iter()).map_err(io::Error::other)?;
            Layer::Age(encryptor.wrap_output(measured)?)
        };
        let mut compressor = Compressor::new(compression.zstd_level())?;
        compressor.include_checksum(true)?;
        let (frame, compressed) = (vec![0; FRAME_BYTES].into_boxed_slice(), Vec::new());
        Ok(Self { plain: Tally::default(), frame, filled: 0, compressed, compressor, frames: 0, layer })
    }

    /// How many plain bytes were written so far.
    #[must_use]
    pub fn plain_size(&self) -> u64 {
        self.plain.size
    }

    /// Seals the next bytes of `source`, at most `most`, and returns how many it had.
    pub fn read_from(&mut self, source: &mut dyn Read, most: u64) -> Result<u64, WriteError> {
        let mut left = most;
        while left > 0 {
            let room = self.frame.get_mut(self.filled..).unwrap_or_default();
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(room.len()).min(READ_BYTES);
            let count = match source.read(&mut room[..want]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.map_err(WriteError::Body)?,
            };
            if count == 0 {
                break;
            }
            self.collected(count).map_err(WriteError::File)?;
            left -= count as u64;
        }
        Ok(most - left)
    }

    /// Writes the end marks of both layers, without which the object does not open.
    ///
    /// # Errors
    /// Those of `inner`.
    pub fn finish(mut self) -> io::Result<(W, ObjectFacts)> {
        if self.filled > 0 || self.frames == 0 {
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

    /// Takes bytes into account that stand in the frame behind those that were there.
    fn collected(&mut self, count: usize) -> io::Result<()> {
        let end = self.filled + count;
        self.plain.add(&self.frame[self.filled..end]);
        self.filled = end;
        if end == FRAME_BYTES { self.end_frame() } else { Ok(()) }
    }

    fn end_frame(&mut self) -> io::Result<()> {
        let frame = &self.frame[..self.filled];
        self.compressed.clear();
        self.compressed.reserve(compress_bound(frame.len()));
        self.compressor.compress_to_buffer(frame, &mut self.compressed)?;
        self.filled = 0;
        self.frames += 1;
        self.layer.write_all(&self.compressed)
    }
}

impl<W: Write> Write for SealWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(FRAME_BYTES - self.filled);
        self.frame[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
        self.collected(count)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.filled > 0 {
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
        for compression in [Compression::Regular, Compression::Fast] {
            let mut writer = SealWriter::new(Vec::new(), &Recipients::default(), compression).unwrap();
            let mut source = &plain[..];
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
        assert!(matches!(writer.read_from(&mut Broken, 1), Err(WriteError::Body(_))));
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
