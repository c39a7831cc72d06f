//! The plaintext of one file, in pieces.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};

use highwater_binlog::{ENCRYPTION_HEADER_LEN, EventCipher, EventHeader, StreamCipher};

/// Bytes read at a time.
pub(crate) const CHUNK_LEN: usize = 1 << 20;

/// From the bytes of the disk to those of the stream.
pub(crate) enum Decoder {
    Plain,
    /// MySQL: one keystream for the whole file.
    Stream(Box<StreamCipher>),
    /// MariaDB: each event from offset `first` on by itself.
    Events {
        cipher: Box<EventCipher>,
        first: u64,
    },
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Stream(_) => "Stream(..)",
            Self::Events { .. } => "Events(..)",
        })
    }
}

/// The plaintext of one file from some offset on.
#[derive(Debug)]
pub struct PlainStream {
    file: File,
    seekable: bool,
    decoder: Decoder,
    /// Bytes read and not yet decoded: at the beginning the file's first ones, later a part of an event.
    raw: Vec<u8>,
    /// Stream offset of the next byte that is given out, `raw`'s first one.
    offset: u64,
    at_end: bool,
}

impl PlainStream {
    /// For a file whose first stream bytes, as they are on the disk, are read already.
    pub(crate) fn new(file: File, seekable: bool, decoder: Decoder, head: Vec<u8>) -> Self {
        Self { file, seekable, decoder, raw: head, offset: 0, at_end: false }
    }

    /// Goes on at `offset`, which must be that of an event. What is before it is not read where the file can be moved
    /// in, and not decrypted.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn skip_to(&mut self, offset: u64) -> std::io::Result<()> {
        let known = usize::try_from(offset).ok().filter(|known| *known <= self.raw.len());
        if let Some(known) = known {
            self.raw.drain(..known);
        } else if self.seekable {
            let header = if let Decoder::Stream(_) = self.decoder { ENCRYPTION_HEADER_LEN as u64 } else { 0 };
            self.raw.clear();
            let place = header.saturating_add(offset);
            if place > self.file.metadata()?.len() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.file.seek(SeekFrom::Start(place))?;
        } else {
            let missing = offset - self.raw.len() as u64;
            self.raw.clear();
            if std::io::copy(&mut Read::take(&mut self.file, missing), &mut std::io::sink())? < missing {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        self.offset = offset;
        Ok(())
    }

    /// The next plaintext bytes, in place of what `chunk` had; none at the end. A file that grows may have more later.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn next(&mut self, chunk: &mut Vec<u8>) -> std::io::Result<bool> {
        match &self.decoder {
            Decoder::Events { .. } => {
                chunk.clear();
                self.next_events(chunk)?;
            }
            Decoder::Plain | Decoder::Stream(_) => self.next_bytes(chunk)?,
        }
        Ok(!chunk.is_empty())
    }

    fn next_bytes(&mut self, chunk: &mut Vec<u8>) -> std::io::Result<()> {
        if self.raw.is_empty() {
            // What a buffer that comes back has is overwritten, not cleared first.
            chunk.resize(CHUNK_LEN, 0);
            let count = read_some(&mut self.file, chunk)?;
            chunk.truncate(count);
        } else {
            std::mem::swap(chunk, &mut self.raw);
            self.raw.clear();
        }
        if let Decoder::Stream(cipher) = &self.decoder {
            cipher.apply(self.offset, chunk);
        }
        self.offset += chunk.len() as u64;
        Ok(())
    }

    /// Whole events only, the last piece of a file excepted.
    fn next_events(&mut self, chunk: &mut Vec<u8>) -> std::io::Result<()> {
        loop {
            let taken = self.whole_events();
            if taken > 0 || self.at_end {
                // What is left at the end is no whole event: it goes as it is, for the framer to judge.
                let taken = if taken > 0 { taken } else { self.raw.len() };
                chunk.extend_from_slice(self.raw.get(..taken).unwrap_or_default());
                self.raw.drain(..taken);
                self.offset += taken as u64;
                return Ok(());
            }
            let filled = self.raw.len();
            self.raw.resize(filled + CHUNK_LEN, 0);
            let count = read_some(&mut self.file, self.raw.get_mut(filled..).unwrap_or_default())?;
            self.raw.truncate(filled + count);
            self.at_end = count == 0;
        }
    }

    /// Decrypts the whole events in `raw` and says how many bytes they are.
    fn whole_events(&mut self) -> usize {
        let Decoder::Events { cipher, first } = &self.decoder else { return self.raw.len() };
        let plain = usize::try_from(first.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let mut taken = plain.min(self.raw.len());
        loop {
            let rest = self.raw.get_mut(taken..).unwrap_or_default();
            let len = match EventHeader::read(rest).map(|header| header.checked_len()) {
                None => return taken,
                Some(Ok(len)) => len,
                // No event begins here: the framer says so.
                Some(Err(_)) => return self.raw.len(),
            };
            let Some(event) = rest.get_mut(..len) else { return taken };
            cipher.decrypt(self.offset + taken as u64, event);
            taken += len;
        }
    }
}

fn read_some(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
