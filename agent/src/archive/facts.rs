//! What a manifest says about a data object.

use std::io::Read;

use highwater_catalog::{
    Dump, DumpFile, KeptFile, KeyGeneration, Sealing, Segment, dump_object_key, file_body_keys, file_header_key,
    key_object_key, segment_object_keys,
};

use super::{Archive, ArchiveError, ObjectReader, object_key};
use crate::seal::{Expected, Tally};
use crate::store::StoreErrorKind;

/// Longest key bundle before sealing: some thousands of keys.
const KEY_BUNDLE_LEN_MAX: u64 = 4 << 20;

/// A data object: its name, and what it must turn out to be.
#[derive(Debug, Clone)]
pub struct StoredFacts {
    key: String,
    expected: Expected,
}

impl StoredFacts {
    /// Of a segment's objects, in order.
    #[must_use]
    pub fn of_segment(segment: &Segment) -> Vec<Self> {
        let keys = segment_object_keys(segment).into_iter();
        keys.zip(&segment.objects).map(|(key, object)| Self { key, expected: object.into() }).collect()
    }

    /// Of a dump's file.
    #[must_use]
    pub fn of_dump_file(dump: &Dump, file: &DumpFile) -> Self {
        Self { key: dump_object_key(&dump.id, file), expected: (&file.object).into() }
    }

    /// Of a key bundle.
    #[must_use]
    pub fn of_keys(keys: &KeyGeneration) -> Self {
        let expected = Expected {
            sealing: Sealing::ZstdAge,
            stored_size: keys.stored_size,
            stored_blake3: keys.stored_blake3,
            plain_size_max: KEY_BUNDLE_LEN_MAX,
            plain: None,
        };
        Self { key: key_object_key(keys), expected }
    }

    /// Of a kept file's header.
    #[must_use]
    pub fn of_file_header(file: &KeptFile) -> Self {
        let KeptFile { server, binlog, mark, header, .. } = file;
        Self { key: file_header_key(server, binlog, mark, header), expected: header.into() }
    }

    /// Of the objects of a kept file's body, in order.
    #[must_use]
    pub fn of_file_body(file: &KeptFile) -> Vec<Self> {
        let keys = file_body_keys(file).into_iter();
        keys.zip(&file.objects).map(|(key, object)| Self { key, expected: object.into() }).collect()
    }

    /// Its name.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its bytes in the store.
    #[must_use]
    pub fn stored_size(&self) -> u64 {
        self.expected.stored_size
    }

    pub(super) fn expected(&self) -> Expected {
        self.expected
    }
}

impl Archive {
    /// The plain bytes of an object, proven at their end.
    pub fn read_object(&self, facts: &StoredFacts) -> Result<ObjectReader, ArchiveError> {
        ObjectReader::of_object(self, facts)
    }

    /// Proves an object's stored bytes without unsealing them, which needs no identity.
    pub fn check_stored(&self, facts: &StoredFacts) -> Result<(), ArchiveError> {
        let damaged = |what: String| Err(ArchiveError::Damaged { object: facts.key.clone(), what });
        let Expected { stored_size, stored_blake3, .. } = facts.expected;
        let mut read = Tally::default();
        // One byte more shows that there is more.
        let mut stored = self.open_stored(&facts.key)?.take(stored_size.saturating_add(1));
        let mut buffer = vec![0; 128 << 10];
        loop {
            match stored.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    read.add(&buffer[..count]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ArchiveError::Read { object: facts.key.clone(), source }),
            }
        }
        let (size, digest) = read.finish();
        if size > stored_size {
            return damaged(format!("it has more than {stored_size} bytes"));
        }
        if size < stored_size {
            return damaged(format!("it has {size} bytes instead of {stored_size}"));
        }
        if digest != stored_blake3 {
            return damaged("its BLAKE3 is not the manifest's".to_owned());
        }
        Ok(())
    }

    pub(super) fn open_stored(&self, key: &str) -> Result<Box<dyn Read + Send>, ArchiveError> {
        self.store.open(&object_key(key)?).map_err(|error| match error.kind {
            StoreErrorKind::Missing => ArchiveError::ObjectMissing { object: key.to_owned() },
            _ => error.into(),
        })
    }
}
