//! Cutting the bytes of a segment or a kept file into objects.

use std::io::{self, BufRead, Read};
use std::time::{Duration, Instant};

use highwater_catalog::{Blake3Digest, ObjectFacts, Segment};

use super::sealed::Sealed;
use super::{Archive, ArchiveError, object_key};
use crate::failpoint;
use crate::fsync::WriteError;
use crate::seal::{Compression, Tally};
use crate::store::StoreErrorKind;

/// Name of the object with these facts that begins at an offset.
pub(super) type KeyOf<'a> = Box<dyn Fn(u64, &ObjectFacts) -> String + 'a>;

/// Bytes that are to be stored as objects.
pub(super) struct Stretch<'a> {
    /// What they are, for people.
    pub(super) what: String,
    /// Offset of the first byte.
    pub(super) start: u64,
    /// Offset after the last byte.
    pub(super) end: u64,
    /// Its digest, where that is known before.
    pub(super) digest: Option<Blake3Digest>,
    /// How its objects are named.
    pub(super) key: KeyOf<'a>,
}

/// The objects of a stretch that is being stored. Each is sealed and stored before the next one is read, so that a
/// transaction of any size takes the scratch space of one object.
pub(super) struct Pieces<'a> {
    archive: &'a Archive,
    stretch: Stretch<'a>,
    compression: Compression,
    /// Most plain bytes of an object.
    size_max: u64,
    /// Of all bytes so far; one object's own digest is enough for a stretch that fits into it.
    whole: Option<Tally>,
    objects: Vec<ObjectFacts>,
    /// Names of the objects that were stored, or may have been.
    keys: Vec<String>,
    sealing: Duration,
    storing: Duration,
}

/// What came of storing a stretch.
pub(super) struct Stored {
    /// Digest of all its bytes.
    pub(super) digest: Blake3Digest,
    /// Its objects, in order.
    pub(super) objects: Vec<ObjectFacts>,
    /// Their names.
    pub(super) keys: Vec<String>,
    /// Whether the store took longer to take them than they took to be sealed.
    pub(super) waited_for_the_store: bool,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(archive: &'a Archive, stretch: Stretch<'a>, compression: Compression) -> Self {
        let size = stretch.end.saturating_sub(stretch.start);
        // A manifest names so many at most.
        let size_max = archive.object_bytes_max.max(size.div_ceil(Segment::OBJECTS_MAX));
        let whole = (size > size_max).then(Tally::default);
        Self {
            archive,
            stretch,
            compression,
            size_max,
            whole,
            objects: Vec::new(),
            keys: Vec::new(),
            sealing: Duration::ZERO,
            storing: Duration::ZERO,
        }
    }

    /// Stores all of `plain`, which must be as long as the stretch says, and returns its digest.
    fn store_all(&mut self, plain: &mut dyn BufRead) -> Result<Blake3Digest, ArchiveError> {
        let mut start = self.stretch.start;
        while start < self.stretch.end {
            if !self.objects.is_empty() {
                failpoint::crash("up.put.between");
            }
            let end = self.stretch.end.min(start.saturating_add(self.size_max));
            self.store_one(start, end, plain)?;
            start = end;
        }
        if let (None, [only]) = (&self.whole, self.objects.as_slice()) {
            return Ok(only.plain_blake3);
        }
        Ok(self.whole.take().unwrap_or_default().finish().1)
    }

    /// For few bytes, which stay together.
    pub(super) fn in_one(archive: &'a Archive, stretch: Stretch<'a>, compression: Compression) -> Self {
        let size_max = stretch.end.saturating_sub(stretch.start);
        Self { size_max, whole: None, ..Self::new(archive, stretch, compression) }
    }

    /// Stores all of `plain`; removes the objects if it fails.
    pub(super) fn store(mut self, plain: &mut dyn BufRead) -> Result<Stored, ArchiveError> {
        let expected = self.stretch.digest;
        let stored = match self.store_all(plain) {
            Ok(digest) if expected.is_some_and(|expected| expected != digest) => {
                Err(ArchiveError::Changed { what: self.stretch.what.clone() })
            }
            stored => stored,
        };
        match stored {
            Ok(digest) => {
                let waited_for_the_store = self.storing > self.sealing;
                Ok(Stored { digest, objects: self.objects, keys: self.keys, waited_for_the_store })
            }
            Err(error) => {
                self.discard();
                Err(error)
            }
        }
    }

    /// Removes what was stored, as far as the store lets us. Only sealed objects are surely nobody else's: without
    /// encryption, another writer's of the same bytes has the same name.
    fn discard(self) {
        if !self.archive.recipients.is_empty() {
            self.archive.discard(self.keys);
        }
    }

    fn store_one(&mut self, start: u64, end: u64, plain: &mut dyn BufRead) -> Result<(), ArchiveError> {
        let archive = self.archive;
        let began = Instant::now();
        let mut writer = archive.seal_writer(self.compression)?;
        let size = end.saturating_sub(start);
        let mut observed = Observed { plain: &mut *plain, whole: self.whole.as_mut() };
        let count = match writer.read_from(&mut observed, size) {
            Ok(count) => count,
            Err(WriteError::Body(source)) => return Err(self.unreadable(source)),
            Err(WriteError::File(source)) => return Err(archive.not_sealed(source)),
        };
        if count < size {
            return Err(self.contradiction(start.saturating_add(count)));
        }
        if end == self.stretch.end {
            let rest = io::copy(plain, &mut io::sink()).map_err(|source| self.unreadable(source))?;
            if rest > 0 {
                return Err(self.contradiction(end.saturating_add(rest)));
            }
        }
        let (sealed, facts) = archive.sealed(writer)?;
        let (waited, is_sealed) = (sealed.waited(), Instant::now());
        self.put(start, &facts, sealed)?;
        self.sealing += (is_sealed - began).saturating_sub(waited);
        self.storing += is_sealed.elapsed() + waited;
        self.objects.push(facts);
        Ok(())
    }

    fn put(&mut self, start: u64, facts: &ObjectFacts, sealed: Sealed) -> Result<(), ArchiveError> {
        let key = (self.stretch.key)(start, facts);
        self.keys.push(key.clone());
        failpoint::crash("up.put.before");
        match sealed.create(&*self.archive.store, &object_key(&key)?) {
            Ok(_) => {}
            // The name holds the digest of these very bytes.
            Err(error) if error.kind == StoreErrorKind::Exists => {}
            Err(error) => return Err(error.into()),
        }
        failpoint::crash("up.put.after");
        Ok(())
    }

    fn unreadable(&self, source: io::Error) -> ArchiveError {
        ArchiveError::Read { object: self.stretch.what.clone(), source }
    }

    /// The bytes end at an offset that the stretch does not say.
    fn contradiction(&self, offset: u64) -> ArchiveError {
        ArchiveError::Draft { what: self.stretch.what.clone(), bytes: offset.saturating_sub(self.stretch.start) }
    }
}

impl Archive {
    /// Removes objects that nothing needs, as far as the store lets us.
    pub(super) fn discard(&self, keys: impl IntoIterator<Item = String>) {
        for key in keys {
            let removed = object_key(&key).map(|key| self.store.delete(&key));
            if !matches!(removed, Ok(Ok(()))) {
                tracing::debug!(object = key, "object that is not needed stays");
            }
        }
    }
}

/// Plain bytes on their way into an object, of which the whole segment has a digest too.
struct Observed<'a> {
    plain: &'a mut dyn BufRead,
    whole: Option<&'a mut Tally>,
}

impl Read for Observed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Observed<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.plain.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        if let Some(whole) = &mut self.whole
            && let Ok(ready) = self.plain.fill_buf()
        {
            whole.add(ready.get(..count).unwrap_or_default());
        }
        self.plain.consume(count);
    }
}
