//! The catalog, shared by everything in the agent that publishes. Blocking.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use highwater_catalog::{
    Catalog, CatalogError, CatalogProblem, Difference, Dump, Inventory, KeptFile, KeyGeneration, Manifest, Segment,
    Timeline, differences,
};

use super::error::CaptureError;
use crate::archive::Archive;
use crate::failpoint;

/// The open catalog.
#[derive(Debug, Clone)]
pub struct Index(Arc<Mutex<Catalog>>);

impl Index {
    /// Opens the catalog and brings it up to what the store has. A damaged one is made again: it is a cache.
    ///
    /// # Errors
    /// When the file cannot be used, or the store cannot be read.
    pub fn open(path: &Path, archive: &Archive) -> Result<(Self, Inventory), CaptureError> {
        let repository = archive.repository().id;
        let known = Catalog::open(path, repository).and_then(|mut catalog| Ok((catalog.load()?, catalog)));
        let (known, mut catalog) = match known {
            Ok((known, catalog)) => (known, catalog),
            // Only the cache is lost.
            Err(error) if is_damage(&error) => {
                tracing::warn!(error = %error, "catalog made again from the store");
                for suffix in ["", "-wal", "-shm"] {
                    let mut file = path.as_os_str().to_owned();
                    file.push(suffix);
                    // What is not there need not be removed; what cannot be, fails to open.
                    let _ = std::fs::remove_file(file);
                }
                (Inventory::default(), Catalog::open(path, repository)?)
            }
            Err(error) => return Err(error.into()),
        };
        let inventory = archive.inventory_since(&known)?;
        learn(&mut catalog, &known, &inventory)?;
        Ok((Self(Arc::new(Mutex::new(catalog))), inventory))
    }

    /// Records a timeline.
    ///
    /// # Errors
    /// Those of the catalog.
    pub fn timeline(&self, timeline: &Timeline) -> Result<(), CatalogError> {
        self.catalog().record_timeline(timeline)
    }

    /// Records a segment.
    ///
    /// # Errors
    /// Those of the catalog.
    pub fn segment(&self, segment: &Segment) -> Result<(), CatalogError> {
        failpoint::crash("catalog.commit.before");
        let recorded = self.catalog().record_segment(segment);
        failpoint::crash("catalog.commit.after");
        recorded
    }

    /// Records a dump.
    ///
    /// # Errors
    /// Those of the catalog.
    pub fn dump(&self, dump: &Dump) -> Result<(), CatalogError> {
        self.catalog().record_dump(dump)
    }

    /// Records a key bundle.
    ///
    /// # Errors
    /// Those of the catalog.
    pub fn keys(&self, keys: &KeyGeneration) -> Result<(), CatalogError> {
        self.catalog().record_keys(keys)
    }

    /// Records a kept file.
    ///
    /// # Errors
    /// Those of the catalog.
    pub fn file(&self, file: &KeptFile) -> Result<(), CatalogError> {
        self.catalog().record_file(file)
    }

    /// Every call is a transaction of its own: a panic in one leaves nothing half done.
    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds what the store has and the catalog has not. What is gone from the store stays: it is the only trace of it.
fn learn(catalog: &mut Catalog, known: &Inventory, stored: &Inventory) -> Result<(), CatalogError> {
    let mut new = BTreeSet::new();
    for difference in differences(known, stored) {
        match difference {
            Difference::NotCatalogued(name) => {
                new.insert(name);
            }
            Difference::NotStored(name) => {
                tracing::error!(object = name, "gone from the store; run `highwater verify`")
            }
            Difference::Altered(name) => tracing::error!(object = name, "altered in the store; run `highwater verify`"),
        }
    }
    stored.timelines.iter().filter(|r| new.contains(&r.key())).try_for_each(|r| catalog.record_timeline(r))?;
    stored.segments.iter().filter(|r| new.contains(&r.key())).try_for_each(|r| catalog.record_segment(r))?;
    stored.dumps.iter().filter(|r| new.contains(&r.key())).try_for_each(|r| catalog.record_dump(r))?;
    stored.keys.iter().filter(|r| new.contains(&r.key())).try_for_each(|r| catalog.record_keys(r))?;
    stored.files.iter().filter(|r| new.contains(&r.key())).try_for_each(|r| catalog.record_file(r))
}

fn is_damage(error: &CatalogError) -> bool {
    matches!(error.problem, CatalogProblem::Damaged { .. } | CatalogProblem::Row { .. })
}
