//! The bytes of a stretch in its file: plain, or in MySQL's container for encrypted binlogs.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use highwater_binlog::{
    ChecksumAlgorithm, ENCRYPTION_HEADER_LEN, ENCRYPTION_MAGIC, EventWalk, FrameError, MAGIC, StreamCipher,
};

use super::byte_count;
use super::cipher::SpoolKey;
use super::stretch::Stretch;
use crate::failpoint;
use crate::fsync;

/// Bytes encrypted at a time.
const CIPHER_BYTES: usize = 256 << 10;

/// A file that is being written.
#[derive(Debug)]
pub(super) struct SpoolFile {
    file: File,
    cipher: Option<StreamCipher>,
}

impl SpoolFile {
    /// Makes the file of a stretch, with what stands in front of its bytes; or none, if that cannot be written.
    /// `description` is the binlog's format description event.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn create(stretch: &Stretch, key: Option<&SpoolKey>, description: &[u8]) -> io::Result<Self> {
        failpoint::io("spool.open")?;
        let sealed = key.map(SpoolKey::create).transpose()?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(stretch.path())?;
        failpoint::crash("seg.open.tmp");
        let write_front = || {
            failpoint::io("spool.front")?;
            let header: &[u8] = sealed.as_ref().map_or(&[], |(header, _)| header);
            file.write_all(header)?;
            stretch.grow(byte_count(header.len()));
            let mut file = Self { file, cipher: sealed.map(|(_, cipher)| cipher) };
            if stretch.name().start > 0 {
                file.write_at(stretch, 0, &[&MAGIC, description].concat())?;
            }
            Ok(file)
        };
        write_front().inspect_err(|_| stretch.remove_file())
    }

    /// Writes the bytes of a stretch from an offset of its binlog on.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn write(&mut self, stretch: &Stretch, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_at(stretch, stretch.place(offset), bytes)
    }

    /// Writes plain bytes, encrypted if the file is, that stand at `place` of its plain bytes.
    fn write_at(&mut self, stretch: &Stretch, place: u64, bytes: &[u8]) -> io::Result<()> {
        match &mut self.cipher {
            None => self.file.write_all(bytes)?,
            Some(cipher) => {
                let mut at = place;
                for part in bytes.chunks(CIPHER_BYTES) {
                    let mut part = part.to_vec();
                    cipher.apply(at, &mut part);
                    self.file.write_all(&part)?;
                    at = at.saturating_add(byte_count(part.len()));
                }
            }
        }
        stretch.grow(byte_count(bytes.len()));
        Ok(())
    }

    /// Brings to the disk what was written of a stretch, up to an offset of its binlog.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn sync(&self, stretch: &Stretch, end: u64) -> io::Result<()> {
        if failpoint::is_broken("broken.fsync") {
            return Ok(());
        }
        failpoint::io("spool.fsync")?;
        failpoint::crash("seg.fsync.before");
        fsync::sync_data(&self.file, stretch.path(), stretch.file_len(end))?;
        failpoint::crash("seg.fsync.after");
        Ok(())
    }
}

/// Reads plain bytes of a spool file.
#[derive(Debug)]
pub(in crate::capture) struct FileReader {
    file: File,
    cipher: Option<StreamCipher>,
    /// Bytes of the encryption header.
    header: u64,
    /// The place of the next plain byte.
    at: u64,
    left: u64,
}

/// Reads events of a spool file, and checks them: the disk or the memory may have changed what was right when it came.
#[derive(Debug)]
pub(super) struct EventReader {
    bytes: FileReader,
    walk: EventWalk,
}

impl EventReader {
    /// Reads whole events, as many as `bytes` has, of which the first stands at `start` of its binlog.
    pub(super) fn new(bytes: FileReader, checksum: ChecksumAlgorithm, start: u64) -> Self {
        Self { bytes, walk: EventWalk::new(checksum, start) }
    }

    fn check(&mut self, bytes: &[u8], is_at_end: bool) -> Result<(), FrameError> {
        self.walk.accept(bytes)?;
        // A length that reaches behind the end would leave all that follows unchecked.
        if is_at_end { self.walk.finish() } else { Ok(()) }
    }
}

impl Read for EventReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        if count == 0 && self.bytes.left > 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file ends early"));
        }
        let is_at_end = self.bytes.left == 0;
        match self.check(&buffer[..count], is_at_end) {
            Err(error) if !failpoint::is_broken("broken.crc") => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            Ok(()) | Err(_) => Ok(count),
        }
    }
}

impl FileReader {
    /// The plain bytes of a file from a place on.
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` when the file is encrypted and its key is not ours.
    pub(super) fn open(path: &Path, from: u64, key: Option<&SpoolKey>) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut magic = [0u8; ENCRYPTION_MAGIC.len()];
        let encrypted = file.read(&mut magic)? == magic.len() && magic == ENCRYPTION_MAGIC;
        let mut header_len = 0;
        let cipher = if encrypted {
            let key = key.ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, "encrypted, and capture.spool_keyring is not configured")
            })?;
            let mut header = [0u8; ENCRYPTION_HEADER_LEN];
            file.seek(SeekFrom::Start(0))?;
            file.read_exact(&mut header)?;
            header_len = u64::try_from(ENCRYPTION_HEADER_LEN).unwrap_or(0);
            Some(key.reopen(&header)?)
        } else {
            None
        };
        file.seek(SeekFrom::Start(header_len.saturating_add(from)))?;
        Ok(Self { file, cipher, header: header_len, at: from, left: u64::MAX })
    }

    /// At most `bytes` of them.
    pub(super) fn limited(self, bytes: u64) -> Self {
        Self { left: bytes, ..self }
    }

    /// Bytes of the encryption header.
    pub(super) fn header_len(&self) -> u64 {
        self.header
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        if let Some(cipher) = &mut self.cipher {
            cipher.apply(self.at, &mut buffer[..count]);
        }
        let count_wide = u64::try_from(count).unwrap_or(u64::MAX);
        self.at = self.at.saturating_add(count_wide);
        self.left = self.left.saturating_sub(count_wide);
        Ok(count)
    }
}
