//! In which segment a point lies.

use highwater_binlog::{BinlogPosition, Gtid, GtidSet, ServerUuid};

use super::{RestorePoint, Stop, before_earliest, history, refuse};
use crate::history::{Break, History, Run, after};
use crate::record::{Inventory, Segment, TimelineId};
use crate::refusal::Refusal;
use crate::window::spans;
use highwater_binlog::Micros;

/// Where a point lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The timeline: the wanted one, or else the newest one that has the point.
    pub timeline: TimelineId,
    /// The place in it.
    pub place: Place,
}

/// How exactly manifests tell a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Exactly: it is the end of what is archived, or of a stretch of it.
    Known(Stop),
    /// Before, at or in this segment, and not after its last transaction: reading it from its start, with the
    /// transactions `gtids_before`, finds the exact stop.
    Within(Segment),
}

/// Where `point` lies, without reading a segment.
///
/// A time after the last archived commit is refused, however quiet the source may be: manifests only tell when
/// transactions were committed, so nothing proves that none was committed between the last one and that time.
///
/// # Errors
/// The reason why the point cannot be reached, as far as manifests tell.
pub fn locate(inventory: &Inventory, timeline: Option<TimelineId>, point: &RestorePoint) -> Result<Location, Refusal> {
    if let Some(timeline) = timeline {
        return Search::new(&history(inventory, timeline)?, point).find();
    }
    let mut refusal: Option<Refusal> = None;
    for history in History::all(inventory) {
        match Search::new(&history, point).find() {
            Ok(location) => return Ok(location),
            Err(next) => {
                let may_lie_elsewhere = may_lie_elsewhere(point, &next);
                refusal = refusal.filter(|newer| !is_unknown(newer)).or(Some(next));
                if !may_lie_elsewhere {
                    break;
                }
            }
        }
    }
    Err(refusal.unwrap_or(Refusal::Empty))
}

/// Whether a refusal says only that a timeline has nothing to do with the point.
fn is_unknown(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::UnknownGtid { .. } | Refusal::UnknownPosition { .. })
}

/// Whether an older timeline can have a point that a newer one refuses.
fn may_lie_elsewhere(point: &RestorePoint, refusal: &Refusal) -> bool {
    match refusal {
        Refusal::NoDump { .. } | Refusal::BeforeEarliest { .. } => *point != RestorePoint::Latest,
        Refusal::UnknownGtid { .. } | Refusal::UnknownPosition { .. } => true,
        Refusal::AfterLatest { latest, .. } => latest.is_none(),
        Refusal::Empty
        | Refusal::UnknownTimeline { .. }
        | Refusal::Gap { .. }
        | Refusal::BrokenChain { .. }
        | Refusal::AmbiguousPosition { .. }
        | Refusal::NotABeginning { .. }
        | Refusal::WithoutGtids { .. } => false,
    }
}

struct Search<'a> {
    history: &'a History<'a>,
    runs: Vec<Run>,
    point: &'a RestorePoint,
}

impl<'a> Search<'a> {
    fn new(history: &'a History<'a>, point: &'a RestorePoint) -> Self {
        Self { history, runs: history.runs(), point }
    }

    fn find(&self) -> Result<Location, Refusal> {
        let place = match self.point {
            RestorePoint::Latest => Ok(self.latest()),
            RestorePoint::Time(time) => self.time(*time),
            RestorePoint::BeforeGtid(gtid) => self.gtid(gtid, true),
            RestorePoint::AfterGtid(gtid) => self.gtid(gtid, false),
            RestorePoint::Position(position) => self.position(position),
        };
        Ok(Location { timeline: self.history.timeline.id, place: place? })
    }

    fn stop(&self, gtids: GtidSet) -> Place {
        let (timeline, point) = (self.history.timeline.id, self.point.clone());
        Place::Known(Stop { timeline, point, gtids, first_excluded: None })
    }

    /// The end of the segments, or a dump that is already further.
    fn latest(&self) -> Place {
        let end = self.history.end();
        match self.history.dumps.last() {
            Some(dump) if end.is_subset(&dump.gtids) => self.stop(dump.gtids.clone()),
            _ => self.stop(end),
        }
    }

    fn time(&self, time: Micros) -> Result<Place, Refusal> {
        let segments = &self.history.segments;
        let later = |segment: &&Segment| segment.last_commit.is_some_and(|last| last > time);
        let Some(index) = segments.iter().position(later) else {
            let latest = self.history.last_commit();
            if latest == Some(time) {
                return Ok(self.stop(self.history.end()));
            }
            let (timeline, point) = (self.history.timeline.id, self.point.clone());
            return Err(Refusal::AfterLatest { timeline, point, latest });
        };
        let run = self.runs.iter().find(|run| run.first == index);
        if let (Some(segment), Some(Run { broken: Some(broken), .. })) = (segments.get(index), run)
            && segment.first_commit.is_some_and(|first| first > time)
        {
            return self.time_in_break(index, time, broken);
        }
        self.within(index, |_| true)
    }

    /// Between the last transaction before a break and the first one after it.
    fn time_in_break(&self, index: usize, time: Micros, broken: &Break) -> Result<Place, Refusal> {
        let before = self.history.segments.get(..index).unwrap_or_default();
        if let Some(last) = before.last()
            && before.iter().filter_map(|segment| segment.last_commit).max() == Some(time)
        {
            return Ok(self.stop(after(last)));
        }
        if index == 0 {
            return Err(before_earliest(self.history, &self.runs, self.point));
        }
        let spans = spans(self.history, &self.runs);
        let earlier = spans.iter().rev().find(|span| span.latest.time.is_some_and(|end| end <= time));
        Err(refuse(broken.clone(), earlier))
    }

    fn gtid(&self, gtid: &Gtid, before: bool) -> Result<Place, Refusal> {
        let segments = &self.history.segments;
        if let Some(index) = segments.iter().position(|segment| segment.gtids_added.contains(gtid)) {
            return self.within(index, |gtids| !(before && gtids.contains(gtid)));
        }
        let gap = self.runs.iter().find_map(|run| match &run.broken {
            Some(Break::Gap(gap)) if gap.missing.contains(gtid) => Some((run, gap)),
            Some(Break::Gap(_) | Break::Chain(_)) | None => None,
        });
        if let Some((run, gap)) = gap {
            let spans = spans(self.history, &self.runs);
            let starts = segments.get(run.first).map(|first| &first.gtids_before);
            let earlier = |gtids: &GtidSet| starts.is_some_and(|starts| gtids.is_subset(starts));
            let span = spans.iter().rev().find(|span| earlier(&span.latest.gtids) && !span.latest.gtids.contains(gtid));
            return Err(refuse(Break::Gap(gap.clone()), span));
        }
        let known = self.history.timeline.starting_gtids.contains(gtid)
            || self.history.dumps.iter().any(|dump| dump.gtids.contains(gtid));
        if known {
            return Err(before_earliest(self.history, &self.runs, self.point));
        }
        Err(Refusal::UnknownGtid { gtid: gtid.clone() })
    }

    fn position(&self, position: &BinlogPosition) -> Result<Place, Refusal> {
        let segments = &self.history.segments;
        let unknown = || Refusal::UnknownPosition { position: position.clone() };
        let of_binlog = || segments.iter().enumerate().filter(|(_, segment)| segment.binlog == position.binlog);
        let mut servers: Vec<ServerUuid> = of_binlog().map(|(_, segment)| segment.server).collect();
        servers.sort_unstable();
        servers.dedup();
        if servers.len() > 1 {
            return Err(Refusal::AmbiguousPosition { position: position.clone(), servers });
        }
        // Where bytes were left out, transactions that came from another server may lie: no boundary is known there.
        let contains = |segment: &Segment| segment.start <= position.offset && position.offset < segment.end;
        if let Some((index, _)) = of_binlog().find(|(_, segment)| contains(segment)) {
            return self.within(index, |_| true);
        }
        // The end of the last segment of the binlog; what follows, if anything, is in another one.
        let (index, last) = of_binlog().next_back().ok_or_else(unknown)?;
        match (last.end == position.offset, index + 1 < segments.len()) {
            (false, _) => Err(unknown()),
            (true, true) => self.within(index + 1, |_| true),
            (true, false) => Ok(self.stop(self.history.end())),
        }
    }

    /// In the segment, provided that a dump leads to it.
    fn within(&self, index: usize, dump_fits: impl Fn(&GtidSet) -> bool) -> Result<Place, Refusal> {
        let segment = self.history.segments.get(index).copied();
        let fits = |segment: &Segment| {
            let after = after(segment);
            self.history.dumps.iter().any(|dump| dump_fits(&dump.gtids) && dump.gtids.is_subset(&after))
        };
        match segment.filter(|segment| fits(segment)) {
            Some(segment) => Ok(Place::Within(segment.clone())),
            None => Err(before_earliest(self.history, &self.runs, self.point)),
        }
    }
}
