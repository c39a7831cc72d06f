//! Reading data objects back.

use std::io::{self, Read};
use std::vec;

use highwater_catalog::{Blake3Digest, KeptFile, Manifest, Segment};

use super::{Archive, ArchiveError, StoredFacts};
use crate::seal::{Tally, UnsealError, Unsealer};

/// The plain bytes of an object, or of the objects of a segment or a kept file one after the other. Each object is proven
/// when its last byte was read, and the whole when its last object's was.
///
/// Errors carry an [`ArchiveError`] that names the object. Bytes are handed out before the proof is complete.
pub struct ObjectReader {
    archive: Archive,
    object: String,
    unsealer: Unsealer,
    /// Objects that follow.
    rest: vec::IntoIter<StoredFacts>,
    /// What all of them must be together.
    whole: Option<WholeDigest>,
}

/// The digest of the plain bytes of a segment or a kept file, which its objects must have together.
#[derive(Clone)]
pub struct WholeDigest {
    manifest: String,
    expected: Blake3Digest,
    bytes: Tally,
}

impl WholeDigest {
    /// Of a segment; `None` for one whose only object proves it.
    #[must_use]
    pub fn of_segment(segment: &Segment) -> Option<Self> {
        (segment.objects.len() > 1).then(|| Self::new(segment.key(), segment.plain_blake3))
    }

    /// Of a kept file's body; `None` for one whose only object proves it.
    #[must_use]
    pub fn of_file(file: &KeptFile) -> Option<Self> {
        (file.objects.len() > 1).then(|| Self::new(file.key(), file.body_blake3))
    }

    fn new(manifest: String, expected: Blake3Digest) -> Self {
        Self { manifest, expected, bytes: Tally::default() }
    }

    /// Tells whether the bytes so far are the whole.
    pub fn prove(&self) -> Result<(), ArchiveError> {
        if self.bytes.digest() == self.expected {
            return Ok(());
        }
        let what = "the BLAKE3 of its objects together is another".to_owned();
        Err(ArchiveError::Damaged { object: self.manifest.clone(), what })
    }
}

impl io::Write for WholeDigest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ObjectReader {
    /// Of one object.
    pub(super) fn of_object(archive: &Archive, facts: &StoredFacts) -> Result<Self, ArchiveError> {
        let (archive, object, unsealer) = (archive.clone(), facts.key().to_owned(), archive.unseal(facts)?);
        Ok(Self { archive, object, unsealer, rest: Vec::new().into_iter(), whole: None })
    }

    /// Of the objects of a segment, of which there is at least one.
    pub(super) fn of_segment(archive: &Archive, segment: &Segment) -> Result<Self, ArchiveError> {
        Self::of_all(archive, &segment.key(), StoredFacts::of_segment(segment), WholeDigest::of_segment(segment))
    }

    /// Of the objects of a kept file's body, of which there is at least one.
    pub(super) fn of_file(archive: &Archive, file: &KeptFile) -> Result<Self, ArchiveError> {
        Self::of_all(archive, &file.key(), StoredFacts::of_file_body(file), WholeDigest::of_file(file))
    }

    fn of_all(
        archive: &Archive,
        manifest: &str,
        objects: Vec<StoredFacts>,
        whole: Option<WholeDigest>,
    ) -> Result<Self, ArchiveError> {
        let mut objects = objects.into_iter();
        let first = objects.next().ok_or_else(|| ArchiveError::ObjectMissing { object: manifest.to_owned() })?;
        Ok(Self { rest: objects, whole, ..Self::of_object(archive, &first)? })
    }

    /// The name of the object that is being read.
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
        let of_archive = |error: ArchiveError| io::Error::new(io::ErrorKind::InvalidData, error);
        loop {
            let count = self.unsealer.read(buffer).map_err(|error| match error.downcast::<UnsealError>() {
                Ok(error) => of_archive(self.archive.unseal_error(&self.object, error)),
                Err(error) => error,
            })?;
            if let Some(whole) = &mut self.whole {
                io::Write::write_all(whole, &buffer[..count])?;
            }
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            // A reader that goes on after an error meets it again: nothing is passed over.
            let Some(next) = self.rest.as_slice().first() else {
                return self.whole.as_ref().map_or(Ok(()), WholeDigest::prove).map(|()| 0).map_err(of_archive);
            };
            self.unsealer = self.archive.unseal(next).map_err(of_archive)?;
            self.object = next.key().to_owned();
            self.rest.next();
        }
    }
}

impl Archive {
    fn unseal(&self, facts: &StoredFacts) -> Result<Unsealer, ArchiveError> {
        let stored = self.open_stored(facts.key())?;
        Unsealer::new(stored, facts.expected(), self.identities.as_deref())
            .map_err(|error| self.unseal_error(facts.key(), error))
    }

    fn unseal_error(&self, object: &str, error: UnsealError) -> ArchiveError {
        let object = object.to_owned();
        let recipients = || self.repository.recipients.clone();
        match error {
            UnsealError::IdentityMissing => ArchiveError::IdentityMissing { object, recipients: recipients() },
            UnsealError::IdentityWrong => ArchiveError::IdentityWrong { object, recipients: recipients() },
            UnsealError::Damaged(what) => ArchiveError::Damaged { object, what },
            UnsealError::Read(source) => ArchiveError::Read { object, source },
        }
    }
}
