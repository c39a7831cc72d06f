//! Sealed bytes that wait for the name that their digest gives them.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{ArchiveError, scratch_error};
use crate::store::{Incoming, ObjectInfo, ObjectKey, ObjectStore, StoreError};

/// Where sealed bytes are collected: in the store itself, if it takes what has no name yet.
pub(super) enum Sealed {
    /// In the store.
    Incoming {
        /// The object.
        object: Box<dyn Incoming>,
        /// How long the store took so far to take its bytes.
        waited: Duration,
    },
    /// In an unnamed file of the scratch folder.
    Scratch(File),
}

impl Sealed {
    /// Where the first byte goes.
    pub(super) fn begin(store: &dyn ObjectStore, scratch: &Path) -> Result<Self, ArchiveError> {
        let began = Instant::now();
        if let Some(object) = store.begin()? {
            return Ok(Self::Incoming { object, waited: began.elapsed() });
        }
        tempfile::tempfile_in(scratch).map(Self::Scratch).map_err(|source| scratch_error(scratch, source))
    }

    /// How long writing has waited for the store.
    pub(super) fn waited(&self) -> Duration {
        match self {
            Self::Incoming { waited, .. } => *waited,
            Self::Scratch(_) => Duration::ZERO,
        }
    }

    /// Makes an object of all bytes: durably, or fails with `Exists` and changes nothing.
    pub(super) fn create(self, store: &dyn ObjectStore, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        match self {
            Self::Incoming { object, .. } => object.create(key),
            Self::Scratch(mut file) => store.create(key, &mut file),
        }
    }

    /// Goes back to the start of bytes that the store is still to get.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        match self {
            Self::Incoming { .. } => Ok(()),
            Self::Scratch(file) => file.seek(SeekFrom::Start(0)).map(drop),
        }
    }
}

impl Write for Sealed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Incoming { object, waited } => {
                let began = Instant::now();
                let count = object.write(bytes);
                *waited += began.elapsed();
                count
            }
            Self::Scratch(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Incoming { object, .. } => object.flush(),
            Self::Scratch(file) => file.flush(),
        }
    }
}
