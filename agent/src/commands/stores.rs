//! The configured stores: one that decides, and its copies.

use std::sync::Arc;

use crate::archive::{Archive, ArchiveError};
use crate::config::{Config, StoreConfig};
use crate::exit::Failure;
use crate::store::{DirectoryStore, MirrorStore, ObjectStore, StoreError};

/// All of them, each of which must be there.
pub(super) fn open_all(config: &Config) -> Result<MirrorStore, StoreError> {
    let copies = config.copies.iter().map(open).collect::<Result<_, _>>()?;
    Ok(MirrorStore::new(open(&config.store)?, copies))
}

/// Those of them that hold the archive now, for reading: one is enough.
pub(super) fn open_any(config: &Config) -> Result<MirrorStore, ArchiveError> {
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for place in config.stores() {
        match open_archive(place) {
            Ok(store) => found.push(store),
            Err(error) => failures.push(error),
        }
    }
    if found.is_empty() {
        // There is always a first one, and it failed first.
        return Err(failures.swap_remove(0));
    }
    for error in failures {
        let error = Failure::of(&error.into()).error;
        tracing::warn!(error, "a store cannot be read: going on with the others");
    }
    let first = found.remove(0);
    Ok(MirrorStore::new(first, found))
}

/// One of them.
pub(super) fn open(config: &StoreConfig) -> Result<Arc<dyn ObjectStore>, StoreError> {
    match config {
        StoreConfig::Directory { path } => Ok(Arc::new(DirectoryStore::open(path)?)),
    }
}

fn open_archive(config: &StoreConfig) -> Result<Arc<dyn ObjectStore>, ArchiveError> {
    let store = open(config)?;
    if Archive::is_in(&*store)? { Ok(store) } else { Err(ArchiveError::NoArchive { store: store.describe() }) }
}
