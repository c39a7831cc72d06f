//! What an archive holds, from its store alone.

use highwater_catalog::{Dump, Inventory, KeptFile, KeyGeneration, Manifest, ManifestName, Segment, Timeline};

use super::{Archive, ArchiveError};
use crate::store::{ObjectInfo, ObjectKey};

/// All manifests of an archive, and what is wrong with those that could not be read.
#[derive(Debug, Default)]
pub struct Scan {
    /// Everything readable.
    pub inventory: Inventory,
    /// One per manifest that is not.
    pub problems: Vec<ArchiveError>,
    /// Every object that the store lists.
    pub objects: Vec<ObjectInfo>,
    /// How many manifests were fetched, not known before.
    pub fetched: usize,
}

impl Archive {
    /// All that the archive holds. A manifest that cannot be read is an error.
    pub fn inventory(&self) -> Result<Inventory, ArchiveError> {
        self.inventory_since(&Inventory::default())
    }

    /// Like `inventory`, but takes manifests that are still listed from `known`: they are written once and never change.
    pub fn inventory_since(&self, known: &Inventory) -> Result<Inventory, ArchiveError> {
        let mut scan = self.scan(known)?;
        if scan.problems.is_empty() { Ok(scan.inventory) } else { Err(scan.problems.swap_remove(0)) }
    }

    /// Like `inventory_since`, but reads past manifests that are damaged.
    pub fn scan(&self, known: &Inventory) -> Result<Scan, ArchiveError> {
        let mut scan = Scan { objects: self.store.list(None)?, ..Scan::default() };
        for index in 0..scan.objects.len() {
            let key = scan.objects[index].key.clone();
            let Some(name) = ManifestName::recognise(key.as_str()) else { continue };
            if let Err(problem) = self.add(&name, &key, known, &mut scan) {
                match problem {
                    ArchiveError::Manifest(_) => scan.problems.push(problem),
                    other => return Err(other),
                }
            }
        }
        scan.inventory = scan.inventory.sorted();
        Ok(scan)
    }

    fn add(
        &self,
        name: &ManifestName,
        key: &ObjectKey,
        known: &Inventory,
        scan: &mut Scan,
    ) -> Result<(), ArchiveError> {
        let Scan { inventory, fetched, .. } = scan;
        match name {
            // Who writes is no part of what there is.
            ManifestName::Repository | ManifestName::Agent(_) => {}
            ManifestName::Timeline(id) => {
                let known = known.timelines.iter().find(|timeline| timeline.id == *id);
                inventory.timelines.push(self.known_or_read::<Timeline>(known, key, fetched)?);
            }
            ManifestName::Segment(timeline, sequence) => {
                let place = |segment: &Segment| (segment.timeline, segment.sequence);
                let found = known.segments.binary_search_by_key(&(*timeline, *sequence), place);
                let known = found.ok().and_then(|index| known.segments.get(index));
                inventory.segments.push(self.known_or_read::<Segment>(known, key, fetched)?);
            }
            ManifestName::Dump(id) => {
                let known = known.dumps.iter().find(|dump| dump.id == *id);
                inventory.dumps.push(self.known_or_read::<Dump>(known, key, fetched)?);
            }
            ManifestName::Keys(server, generation) => {
                let known = known.keys.iter().find(|keys| keys.server == *server && keys.generation == *generation);
                inventory.keys.push(self.known_or_read::<KeyGeneration>(known, key, fetched)?);
            }
            ManifestName::File(server, binlog, mark) => {
                let name = |file: &KeptFile| (file.server, file.binlog.clone(), file.mark);
                let found = known.files.binary_search_by_key(&(*server, binlog.clone(), *mark), name);
                let known = found.ok().and_then(|index| known.files.get(index));
                inventory.files.push(self.known_or_read::<KeptFile>(known, key, fetched)?);
            }
        }
        Ok(())
    }

    fn known_or_read<M: Manifest + Clone>(
        &self,
        known: Option<&M>,
        key: &ObjectKey,
        fetched: &mut usize,
    ) -> Result<M, ArchiveError> {
        if let Some(known) = known {
            return Ok(known.clone());
        }
        *fetched += 1;
        self.read_manifest(key)
    }
}
