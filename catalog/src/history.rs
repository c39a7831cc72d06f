//! One timeline's segments in order, and where their chain holds.

use std::fmt;

use highwater_binlog::{BinlogName, GtidSet};

use crate::check::brief;
use crate::record::{Dump, Inventory, Segment, Timeline, TimelineId};
use highwater_binlog::Micros;

/// A timeline with what belongs to it.
pub(crate) struct History<'a> {
    pub(crate) timeline: &'a Timeline,
    /// By sequence.
    pub(crate) segments: Vec<&'a Segment>,
    /// By how much history they have, least first.
    pub(crate) dumps: Vec<&'a Dump>,
}

impl<'a> History<'a> {
    pub(crate) fn of(inventory: &'a Inventory, id: TimelineId) -> Option<Self> {
        let timeline = inventory.timelines.iter().find(|timeline| timeline.id == id)?;
        let mut segments: Vec<_> = inventory.segments.iter().filter(|segment| segment.timeline == id).collect();
        segments.sort_by_key(|segment| segment.sequence);
        let mut dumps: Vec<_> = inventory.dumps.iter().filter(|dump| dump.timeline == id).collect();
        dumps.sort_by_cached_key(|dump| (dump.gtids.count(), dump.finished, dump.id.clone()));
        Some(Self { timeline, segments, dumps })
    }

    /// All of the inventory's timelines, the newest first.
    pub(crate) fn all(inventory: &'a Inventory) -> Vec<Self> {
        let mut ids: Vec<_> = inventory.timelines.iter().map(|timeline| timeline.id).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.dedup();
        ids.into_iter().filter_map(|id| Self::of(inventory, id)).collect()
    }

    /// Every transaction up to the end of the last segment.
    pub(crate) fn end(&self) -> GtidSet {
        self.segments.last().map_or_else(|| self.timeline.starting_gtids.clone(), |last| after(last))
    }

    /// The latest commit time in its segments.
    pub(crate) fn last_commit(&self) -> Option<Micros> {
        self.segments.iter().filter_map(|segment| segment.last_commit).max()
    }

    /// The longest stretches of segments whose chain holds, in order. Time is linear in the segments: the set that
    /// grows along the chain is compared, never recomputed.
    pub(crate) fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (index, segment) in self.segments.iter().enumerate() {
            let previous = index.checked_sub(1).and_then(|at| self.segments.get(at));
            let broken = match (previous, runs.last()) {
                (Some(previous), Some(run)) => broken_link(previous, &run.after, segment),
                _ => broken_beginning(self.timeline, segment),
            };
            match runs.last_mut() {
                Some(run) if broken.is_none() => {
                    run.last = index;
                    add(&mut run.after, &segment.gtids_added);
                }
                _ => runs.push(Run { first: index, last: index, after: after(segment), broken }),
            }
        }
        runs
    }
}

/// Segments `first..=last`, by index, whose chain holds.
pub(crate) struct Run {
    pub(crate) first: usize,
    pub(crate) last: usize,
    /// Every transaction up to its end.
    pub(crate) after: GtidSet,
    /// Why it does not continue the run before it, or the timeline's beginning.
    pub(crate) broken: Option<Break>,
}

/// Every transaction up to the end of a segment.
pub(crate) fn after(segment: &Segment) -> GtidSet {
    segment.gtids_before.union(&segment.gtids_added)
}

/// Adds `more` to `set` in place.
pub(crate) fn add(set: &mut GtidSet, more: &GtidSet) {
    for (origin, interval) in more.intervals() {
        set.insert_interval(origin, interval);
    }
}

/// Where a timeline does not continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Break {
    /// Transactions are missing.
    Gap(Gap),
    /// All transactions are there, but a segment is not the one that was written after the segment before it.
    Chain(ChainBreak),
}

/// Transactions that an archive lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The timeline.
    pub timeline: TimelineId,
    /// Exactly what is missing.
    pub missing: GtidSet,
    /// The last segment before it; absent if it lies before the first.
    pub after: Option<SegmentLabel>,
    /// The first segment after it; absent if it lies behind the last.
    pub before: Option<SegmentLabel>,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timeline, missing, after, before } = self;
        write!(f, "timeline {timeline} lacks {}", brief(missing))?;
        match (after, before) {
            (Some(after), Some(before)) => write!(f, ", between {after} and {before}"),
            (Some(after), None) => write!(f, ", behind its last {after}"),
            (None, Some(before)) => write!(f, ", before its first {before}"),
            (None, None) => f.write_str(" and has no segments"),
        }
    }
}

/// A segment that does not fit to the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainBreak {
    /// The timeline.
    pub timeline: TimelineId,
    /// The segment.
    pub segment: SegmentLabel,
    /// What does not fit.
    pub fault: ChainFault,
}

impl fmt::Display for ChainBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of timeline {} {}", self.segment, self.timeline, self.fault)
    }
}

/// How a segment contradicts the one before it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// Segments before it are gone, though no transaction is.
    #[error("follows number {previous}: the segments between are gone")]
    Skipped {
        /// The number of the segment before it.
        previous: u64,
    },
    /// Two segments have its number.
    #[error("exists twice")]
    Twice,
    /// Segments before it are gone; whether transactions were in them is not known.
    #[error("is the first one, and the ones before it are gone")]
    Beheaded,
    /// Its set of earlier transactions lacks some that come before it.
    #[error("does not count {} among the transactions before it", brief(.lacks))]
    Forgets {
        /// What it lacks.
        lacks: GtidSet,
    },
    /// It was written after a segment with other bytes.
    #[error("was written after another segment than the one before it")]
    OtherPrevious,
    /// It repeats bytes of the segment before it.
    #[error("begins before the segment before it ends, at offset {end}")]
    Overlaps {
        /// Where the segment before it ends.
        end: u64,
    },
}

/// A segment, as messages name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentLabel {
    /// Its number in its timeline.
    pub sequence: u64,
    /// Its binlog.
    pub binlog: BinlogName,
    /// Offset of its first byte.
    pub start: u64,
    /// Offset after its last byte.
    pub end: u64,
}

impl From<&Segment> for SegmentLabel {
    fn from(segment: &Segment) -> Self {
        let Segment { sequence, binlog, start, end, .. } = segment;
        Self { sequence: *sequence, binlog: binlog.clone(), start: *start, end: *end }
    }
}

impl fmt::Display for SegmentLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {} ({}:{}-{})", self.sequence, self.binlog, self.start, self.end)
    }
}

/// Why `next` does not continue `previous`, whose end has the transactions `after`.
///
/// Bytes may be left out between two segments of one binlog as long as no transaction is: a source that is asked for
/// what an archive lacks skips over the transactions that the archive has from another server.
fn broken_link(previous: &Segment, after: &GtidSet, next: &Segment) -> Option<Break> {
    let chain = |fault| Some(Break::Chain(ChainBreak { timeline: next.timeline, segment: next.into(), fault }));
    if next.sequence <= previous.sequence {
        return chain(ChainFault::Twice);
    }
    if next.gtids_before != *after {
        let missing = next.gtids_before.subtract(after);
        if missing.is_empty() {
            return chain(ChainFault::Forgets { lacks: after.subtract(&next.gtids_before) });
        }
        let (after, before) = (Some(previous.into()), Some(next.into()));
        return Some(Break::Gap(Gap { timeline: next.timeline, missing, after, before }));
    }
    if next.sequence - previous.sequence != 1 {
        return chain(ChainFault::Skipped { previous: previous.sequence });
    }
    if next.previous_blake3 != Some(previous.plain_blake3) {
        return chain(ChainFault::OtherPrevious);
    }
    let same_file = next.server == previous.server && next.binlog == previous.binlog;
    if same_file && next.start < previous.end {
        return chain(ChainFault::Overlaps { end: previous.end });
    }
    None
}

/// Why `first` does not begin `timeline`.
fn broken_beginning(timeline: &Timeline, first: &Segment) -> Option<Break> {
    let chain = |fault| Some(Break::Chain(ChainBreak { timeline: timeline.id, segment: first.into(), fault }));
    if first.gtids_before != timeline.starting_gtids {
        let missing = first.gtids_before.subtract(&timeline.starting_gtids);
        if missing.is_empty() {
            return chain(ChainFault::Forgets { lacks: timeline.starting_gtids.subtract(&first.gtids_before) });
        }
        return Some(Break::Gap(Gap { timeline: timeline.id, missing, after: None, before: Some(first.into()) }));
    }
    if first.sequence != 0 { chain(ChainFault::Beheaded) } else { None }
}
