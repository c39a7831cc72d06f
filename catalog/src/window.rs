//! What can be restored: from which point to which, and what stands between.

use highwater_binlog::GtidSet;

use crate::history::{Break, History, Run};
use crate::record::{Dump, DumpId, Inventory, TimelineId};
use highwater_binlog::Micros;

/// What one timeline holds and reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The timeline.
    pub timeline: TimelineId,
    /// Every stretch in which each transaction boundary can be restored to, oldest first. More than one if transactions
    /// are missing between.
    pub spans: Vec<Span>,
    /// Where it does not continue, in order.
    pub breaks: Vec<Break>,
    /// Every transaction up to the end of its last segment, whether restorable or not.
    pub high_water: GtidSet,
    /// Latest commit time in its segments.
    pub last_commit: Option<Micros>,
    /// Segments in it.
    pub segments: u64,
    /// Transactions in its segments.
    pub transactions: u64,
    /// Dumps of it.
    pub dumps: u64,
    /// Bytes of its binlogs, before sealing.
    pub binlog_plain_bytes: u64,
    /// Bytes of its segments in the store, manifests not counted.
    pub binlog_stored_bytes: u64,
    /// Bytes of its dumps in the store, manifests not counted.
    pub dump_stored_bytes: u64,
}

/// A stretch of history without a gap, from a dump on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its oldest point.
    pub earliest: DumpPoint,
    /// Its newest point.
    pub latest: EndPoint,
}

/// The point a dump restores to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpPoint {
    /// The dump.
    pub dump: DumpId,
    /// What it has.
    pub gtids: GtidSet,
    /// The earliest time that is known to be reachable from it: by commit times if binlog from before it is archived,
    /// otherwise the time at which the dump was complete.
    pub time: Micros,
}

/// The newest point of a stretch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndPoint {
    /// Every transaction up to it.
    pub gtids: GtidSet,
    /// The latest commit time up to it; absent where no binlog is archived.
    pub time: Option<Micros>,
}

/// The windows of all timelines, the newest timeline first.
#[must_use]
pub fn windows(inventory: &Inventory) -> Vec<Window> {
    History::all(inventory).iter().map(window).collect()
}

/// The window of one timeline.
pub(crate) fn window(history: &History<'_>) -> Window {
    let runs = history.runs();
    let sum = |values: &mut dyn Iterator<Item = u64>| values.fold(0u64, u64::saturating_add);
    let segments = || history.segments.iter();
    let files = || history.dumps.iter().flat_map(|dump| &dump.files);
    Window {
        timeline: history.timeline.id,
        spans: spans(history, &runs),
        breaks: runs.iter().filter_map(|run| run.broken.clone()).collect(),
        high_water: history.end(),
        last_commit: history.last_commit(),
        segments: sum(&mut segments().map(|_| 1)),
        transactions: sum(&mut segments().map(|segment| segment.transactions)),
        dumps: sum(&mut history.dumps.iter().map(|_| 1)),
        binlog_plain_bytes: sum(&mut segments().map(|segment| segment.plain_size())),
        binlog_stored_bytes: sum(&mut segments().map(|segment| segment.stored_size())),
        dump_stored_bytes: sum(&mut files().map(|file| file.object.stored_size)),
    }
}

/// The restorable stretches, given where the chain holds.
pub(crate) fn spans(history: &History<'_>, runs: &[Run]) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut latest = None;
    let mut alone: Vec<&Dump> = history.dumps.clone();
    for run in runs {
        let Some(segments) = history.segments.get(run.first..=run.last) else { continue };
        let latest_before = latest;
        latest = segments.iter().filter_map(|segment| segment.last_commit).max().max(latest);
        let before = segments.first().map(|first| &first.gtids_before);
        let fits = |dump: &Dump| {
            before.is_some_and(|before| before.is_subset(&dump.gtids)) && dump.gtids.is_subset(&run.after)
        };
        if let Some(dump) = history.dumps.iter().find(|dump| fits(dump)) {
            let time = reached_time(dump, segments, latest_before);
            let earliest = DumpPoint { dump: dump.id.clone(), gtids: dump.gtids.clone(), time };
            spans.push(Span { earliest, latest: EndPoint { gtids: run.after.clone(), time: latest } });
        }
        alone.retain(|dump| !fits(dump));
    }
    // A dump that no binlog leads away from is a point by itself.
    for dump in alone {
        let earliest = DumpPoint { dump: dump.id.clone(), gtids: dump.gtids.clone(), time: dump.finished };
        spans.push(Span { earliest, latest: EndPoint { gtids: dump.gtids.clone(), time: None } });
    }
    spans.sort_by_cached_key(|span| span.earliest.gtids.count());
    spans
}

/// The earliest time from which on a stop by time is sure to include everything in `dump`.
fn reached_time(dump: &Dump, segments: &[&crate::record::Segment], latest_before: Option<Micros>) -> Micros {
    let Some(first) = segments.first() else { return dump.finished };
    if dump.gtids.is_subset(&first.gtids_before) {
        return dump.finished;
    }
    let mut lacking = dump.gtids.subtract(&first.gtids_before);
    let mut latest = latest_before;
    for segment in segments {
        latest = latest.max(segment.last_commit);
        lacking = lacking.subtract(&segment.gtids_added);
        if lacking.is_empty() {
            break;
        }
    }
    latest.unwrap_or(dump.finished)
}
