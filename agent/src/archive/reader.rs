//! Reading one data object back.

use std::io::{self, Read};

use super::ArchiveError;
use crate::seal::{Expected, Identities, UnsealError, Unsealer};

/// The plain bytes of an object, proven when the last one was read.
///
/// Errors carry an [`ArchiveError`] that names the object. Bytes are handed out before the proof is complete.
pub struct ObjectReader {
    object: String,
    recipients: Vec<String>,
    unsealer: Unsealer,
}

impl ObjectReader {
    pub(super) fn open(
        object: &str,
        stored: Box<dyn Read + Send>,
        expected: Expected,
        identities: Option<&Identities>,
        recipients: &[String],
    ) -> Result<Self, ArchiveError> {
        let unsealer = Unsealer::new(stored, expected, identities).map_err(|error| named(object, recipients, error))?;
        Ok(Self { object: object.to_owned(), recipients: recipients.to_vec(), unsealer })
    }

    /// The object's name.
    #[must_use]
    pub fn object(&self) -> &str {
        &self.object
    }

    /// Reads to the end, handing the bytes to `sink`.
    pub fn copy_to(&mut self, sink: &mut dyn io::Write) -> Result<u64, CopyError> {
        let mut buffer = vec![0; 128 << 10];
        let mut total = 0;
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(total),
                Ok(count) => {
                    sink.write_all(&buffer[..count]).map_err(CopyError::Sink)?;
                    total += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CopyError::Object(ArchiveError::of_read(&self.object, error))),
            }
        }
    }

    /// Reads to the end, which proves the object.
    pub fn check(mut self) -> Result<u64, ArchiveError> {
        self.copy_to(&mut io::sink()).map_err(|error| match error {
            CopyError::Object(error) => error,
            // A sink takes everything.
            CopyError::Sink(source) => ArchiveError::Read { object: self.object.clone(), source },
        })
    }
}

/// Which side of a copy failed.
#[derive(Debug)]
pub enum CopyError {
    /// The object.
    Object(ArchiveError),
    /// Where its bytes were to go.
    Sink(io::Error),
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.unsealer.read(buffer).map_err(|error| match error.downcast::<UnsealError>() {
            Ok(error) => io::Error::new(io::ErrorKind::InvalidData, named(&self.object, &self.recipients, error)),
            Err(error) => error,
        })
    }
}

fn named(object: &str, recipients: &[String], error: UnsealError) -> ArchiveError {
    let object = object.to_owned();
    match error {
        UnsealError::IdentityMissing => ArchiveError::IdentityMissing { object, recipients: recipients.to_vec() },
        UnsealError::IdentityWrong => ArchiveError::IdentityWrong { object, recipients: recipients.to_vec() },
        UnsealError::Damaged(what) => ArchiveError::Damaged { object, what },
        UnsealError::Read(source) => ArchiveError::Read { object, source },
    }
}
