//! The catalog, shared by everything in the agent that publishes. Blocking.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use highwater_catalog::{
    Catalog, CatalogError, CatalogProblem, Difference, Dump, Inventory, KeptFile, KeyGeneration, Manifest, Segment,
    Timeline, TimelineId, differences,
};

use super::error::CaptureError;
use super::standing::{BrokenTimeline, Standing};
use super::tip::Tip;
use crate::archive::{Archive, Outline, SegmentNumbers};
use crate::failpoint;

/// The open catalog.
#[derive(Debug, Clone)]
pub struct Index(Arc<Mutex<Catalog>>);

/// What is known of an archive when its catalog is open.
#[derive(Debug)]
pub struct OpenedIndex {
    /// The catalog.
    pub index: Index,
    /// What the archive holds, without its segments.
    pub inventory: Inventory,
    /// Where the newest timeline ends; `None` when there is none.
    pub end: Option<(Standing, Tip)>,
}

impl Index {
    /// Opens the catalog and brings it up to what the store has. A damaged one is made again: it is a cache.
    ///
    /// # Errors
    /// When the file cannot be used, the store cannot be read, or a segment of the newest timeline is missing, in the
    /// middle or at the end that the catalog remembers, or does not follow the one before it.
    pub fn open(path: &Path, archive: &Archive) -> Result<OpenedIndex, CaptureError> {
        match Self::try_open(path, archive) {
            // Only the cache is lost.
            Err(CaptureError::Catalog(error)) if is_damage(&error) => {
                tracing::warn!(error = %error, "catalog made again from the store");
                for suffix in ["", "-wal", "-shm"] {
                    let mut file = path.as_os_str().to_owned();
                    file.push(suffix);
                    // What is not there need not be removed; what cannot be, fails to open.
                    let _ = std::fs::remove_file(file);
                }
                Self::try_open(path, archive)
            }
            opened => opened,
        }
    }

    fn try_open(path: &Path, archive: &Archive) -> Result<OpenedIndex, CaptureError> {
        let mut catalog = Catalog::open(path, archive.repository().id)?;
        let known = catalog.load_without_segments()?;
        let Outline { inventory, segments } = archive.outline(&known)?;
        learn(&mut catalog, &known, &inventory)?;
        let newest = inventory.timelines.iter().max_by_key(|timeline| timeline.id);
        let mut end = newest.map(|timeline| (Standing::new(timeline), Tip::new(timeline)));
        let mut timelines: BTreeSet<TimelineId> = segments.keys().copied().collect();
        timelines.extend(known.timelines.iter().chain(&inventory.timelines).map(|timeline| timeline.id));
        for timeline in timelines {
            let listed = segments.get(&timeline).cloned().unwrap_or_default();
            let mut end = end.as_mut().filter(|(standing, _)| standing.timeline == timeline);
            let lost = learn_segments(&mut catalog, archive, timeline, &listed, |segment| {
                if let Some((standing, tip)) = &mut end {
                    standing.advance(segment)?;
                    tip.archived(segment);
                }
                Ok(())
            })?;
            if let (Some(sequence), Some(_)) = (lost, end) {
                let reason = "it was published, and the store has lost it: this is an older copy, or it was removed";
                return Err(BrokenTimeline { timeline, sequence, reason }.into());
            }
        }
        Ok(OpenedIndex { index: Self(Arc::new(Mutex::new(catalog))), inventory, end })
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

/// Adds what the store has and the catalog has not, but no segments. What is gone from the store stays: it is the only
/// trace of it.
fn learn(catalog: &mut Catalog, known: &Inventory, stored: &Inventory) -> Result<(), CatalogError> {
    let mut new = BTreeSet::new();
    for difference in differences(known, stored) {
        match difference {
            Difference::NotCatalogued(name) => {
                new.insert(name);
            }
            Difference::NotStored(name) => gone(&name),
            Difference::Altered(name) => tracing::error!(object = name, "altered in the store; run `highwater verify`"),
        }
    }
    stored.timelines.iter().filter(|r| new.contains(&r.key())).try_for_each(|r| catalog.record_timeline(r))?;
    stored.dumps.iter().filter(|r| new.contains(&r.key())).try_for_each(|r| catalog.record_dump(r))?;
    stored.keys.iter().filter(|r| new.contains(&r.key())).try_for_each(|r| catalog.record_keys(r))?;
    stored.files.iter().filter(|r| new.contains(&r.key())).try_for_each(|r| catalog.record_file(r))
}

/// Segments of a timeline that are in memory at a time.
const PAGE: usize = if cfg!(test) { 2 } else { 1_000 };

/// Adds the segments of a timeline that the store lists and the catalog has not, and hands all that are listed to `take`,
/// in order. Returns the first of those behind them that the catalog has and the store has lost.
fn learn_segments(
    catalog: &mut Catalog,
    archive: &Archive,
    timeline: TimelineId,
    listed: &SegmentNumbers,
    mut take: impl FnMut(&Segment) -> Result<(), CaptureError>,
) -> Result<Option<u64>, CaptureError> {
    let (mut from, mut lost) = (0, None);
    loop {
        let known = catalog.segments_from(timeline, from, PAGE)?;
        let named: Vec<u64> = listed.starting_at(from).take(PAGE).collect();
        // Up to where both pages say all there is.
        let known_to = known.last().filter(|_| known.len() == PAGE).map(|segment| segment.sequence);
        let named_to = named.last().filter(|_| named.len() == PAGE).copied();
        let to = known_to.into_iter().chain(named_to).min();
        let is_within = |number: u64| to.is_none_or(|to| number <= to);
        let mut known = known.into_iter().filter(|segment| is_within(segment.sequence)).peekable();
        let (mut page, mut new) = (Vec::new(), Vec::new());
        for number in named.into_iter().filter(|number| is_within(*number)) {
            while let Some(segment) = known.next_if(|segment| segment.sequence < number) {
                gone(&segment.key());
            }
            lost = None;
            page.push(match known.next_if(|segment| segment.sequence == number) {
                Some(segment) => segment,
                None => {
                    let segment = archive.segment(timeline, number)?;
                    new.push(segment.clone());
                    segment
                }
            });
        }
        known.for_each(|segment| {
            gone(&segment.key());
            lost.get_or_insert(segment.sequence);
        });
        catalog.record_segments(&new)?;
        page.iter().try_for_each(&mut take)?;
        let Some(to) = to else { return Ok(lost) };
        from = to.saturating_add(1);
    }
}

fn gone(object: &str) {
    tracing::error!(object, "gone from the store; run `highwater verify`");
}

fn is_damage(error: &CatalogError) -> bool {
    matches!(error.problem, CatalogProblem::Damaged { .. } | CatalogProblem::Row { .. })
}

#[cfg(test)]
mod tests;
