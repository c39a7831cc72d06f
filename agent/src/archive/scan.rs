//! What an archive holds, from its store alone.

use std::collections::BTreeMap;

use highwater_catalog::{
    DUMPS_PREFIX, Dump, Inventory, KeptFile, KeyGeneration, Manifest, ManifestName, Segment, Timeline, TimelineId,
    segment_manifest_key,
};

use super::{Archive, ArchiveError, SegmentNumbers, object_key};
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

/// What an archive holds, with the segments' numbers in place of them: an archive of years has millions.
#[derive(Debug, Default)]
pub struct Outline {
    /// Everything but segments.
    pub inventory: Inventory,
    /// Which segments each timeline has.
    pub segments: BTreeMap<TimelineId, SegmentNumbers>,
}

impl Archive {
    /// What the archive holds, without reading segments' manifests. Takes others that are still listed from `known`.
    pub fn outline(&self, known: &Inventory) -> Result<Outline, ArchiveError> {
        let (mut segments, mut others) = (BTreeMap::<_, SegmentNumbers>::new(), Vec::new());
        self.store.visit(None, &mut |info| match ManifestName::recognise(info.key.as_str()) {
            Some(ManifestName::Segment(timeline, sequence)) => segments.entry(timeline).or_default().insert(sequence),
            Some(name) => others.push((name, info.key)),
            None => {}
        })?;
        let mut scan = Scan::default();
        others.iter().try_for_each(|(name, key)| self.add(name, key, known, &mut scan))?;
        Ok(Outline { inventory: scan.inventory.sorted(), segments })
    }

    /// One segment.
    pub fn segment(&self, timeline: TimelineId, sequence: u64) -> Result<Segment, ArchiveError> {
        self.read_manifest(&object_key(&segment_manifest_key(timeline, sequence))?)
    }

    /// All dumps, in no order.
    pub fn dumps(&self) -> Result<Vec<Dump>, ArchiveError> {
        let listed = self.store.list(Some(&object_key(DUMPS_PREFIX)?))?;
        let is_manifest =
            |key: &ObjectKey| matches!(ManifestName::recognise(key.as_str()), Some(ManifestName::Dump(_)));
        let manifests = listed.into_iter().map(|info| info.key).filter(is_manifest);
        manifests.map(|key| self.read_manifest(&key)).collect()
    }

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
