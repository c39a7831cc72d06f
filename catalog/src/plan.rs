//! From a wanted point to what must be done to get there: the dump to load and the segments to replay, or the reason why
//! that is impossible. Pure: sets in, sets out.
//!
//! Two steps, because manifests know transactions only by the segment. [`locate`] says in which segment a point lies;
//! its reader finds the exact transaction and makes a [`Stop`] of it; [`plan`] proves the way there.

use std::fmt;

use highwater_binlog::{BinlogPosition, Gtid, GtidSet};

use crate::history::{Break, Gap, History, Run};
use crate::record::{Dump, Inventory, Segment, TimelineId};
use crate::refusal::Refusal;
use crate::window::{Span, spans};
use highwater_binlog::Micros;

mod locate;

pub use locate::{Location, Place, locate};

/// A point in the history, as an operator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestorePoint {
    /// Everything that is archived.
    Latest,
    /// Before the first transaction, in binlog order, that was committed after this time.
    Time(Micros),
    /// Before this transaction.
    BeforeGtid(Gtid),
    /// After this transaction.
    AfterGtid(Gtid),
    /// Before the first transaction that does not end at or before this position.
    Position(BinlogPosition),
}

impl fmt::Display for RestorePoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("the latest point"),
            Self::Time(time) => write!(f, "{time}"),
            Self::BeforeGtid(gtid) => write!(f, "the point before {gtid}"),
            Self::AfterGtid(gtid) => write!(f, "the point after {gtid}"),
            Self::Position(position) => write!(f, "position {position}"),
        }
    }
}

/// An exact boundary between two transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// The timeline.
    pub timeline: TimelineId,
    /// What was asked for.
    pub point: RestorePoint,
    /// Exactly what the target must have afterwards.
    pub gtids: GtidSet,
    /// The transaction that comes next in the history, if it is known.
    pub first_excluded: Option<Excluded>,
}

/// The first transaction that a restore leaves out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excluded {
    /// Its GTID.
    pub gtid: Gtid,
    /// Its original commit time.
    pub committed: Option<Micros>,
    /// Where it begins.
    pub position: BinlogPosition,
}

/// A proven way to a stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePlan {
    /// What the target will have.
    pub stop: Stop,
    /// The dump to load first.
    pub dump: Dump,
    /// The segments to replay, in order; none if the dump is the stop.
    pub segments: Vec<Segment>,
    /// If the first of `segments` does not begin its binlog: the archived beginning of that binlog, with the format
    /// description its reader needs.
    pub binlog_head: Option<Segment>,
    /// The transactions to replay: the stop's without the dump's.
    pub replay: GtidSet,
}

/// The way to a stop. Proven is that the newest fitting dump and the segments together have exactly the stop's
/// transactions, that every segment continues the one before it, and that the stop is a beginning of the history.
///
/// # Errors
/// The reason why there is no such way.
pub fn plan(inventory: &Inventory, stop: &Stop) -> Result<RestorePlan, Refusal> {
    let history = history(inventory, stop.timeline)?;
    let runs = history.runs();
    let way = Way { history: &history, runs: &runs, stop };
    let dump = way.dump()?;
    let replay = stop.gtids.subtract(&dump.gtids);
    let segments = way.segments(dump, &replay)?;
    let binlog_head = segments.first().and_then(|first| head(&history, first));
    Ok(RestorePlan {
        stop: stop.clone(),
        dump: dump.clone(),
        segments: segments.iter().map(|segment| (*segment).clone()).collect(),
        binlog_head,
        replay,
    })
}

/// The history of a timeline that must exist.
fn history(inventory: &Inventory, timeline: TimelineId) -> Result<History<'_>, Refusal> {
    History::of(inventory, timeline).ok_or_else(|| {
        let known: Vec<_> = History::all(inventory).iter().map(|history| history.timeline.id).collect();
        if known.is_empty() { Refusal::Empty } else { Refusal::UnknownTimeline { timeline, known } }
    })
}

/// The segment with the beginning of `first`'s binlog, if that is another one.
fn head(history: &History<'_>, first: &Segment) -> Option<Segment> {
    let begins =
        |segment: &&&Segment| segment.start == 0 && segment.server == first.server && segment.binlog == first.binlog;
    let earlier = history.segments.iter().filter(|segment| segment.sequence < first.sequence);
    if first.start == 0 { None } else { earlier.rev().find(begins).map(|segment| (*segment).clone()) }
}

/// What a plan is made from.
struct Way<'a> {
    history: &'a History<'a>,
    runs: &'a [Run],
    stop: &'a Stop,
}

impl<'a> Way<'a> {
    /// The newest dump that has nothing beyond the stop.
    fn dump(&self) -> Result<&'a Dump, Refusal> {
        let newest = self.history.dumps.iter().rev().find(|dump| dump.gtids.is_subset(&self.stop.gtids));
        let Some(dump) = newest else { return Err(before_earliest(self.history, self.runs, &self.stop.point)) };
        match self.stop.point {
            RestorePoint::Time(time) => self.dump_fits_time(dump, time).map(|()| *dump),
            RestorePoint::Latest
            | RestorePoint::BeforeGtid(_)
            | RestorePoint::AfterGtid(_)
            | RestorePoint::Position(_) => Ok(dump),
        }
    }

    /// If the stop is where a stretch of binlog begins, nothing archived tells whether the dump's last transactions were
    /// committed before `time`; only the time of the dump itself does.
    fn dump_fits_time(&self, dump: &Dump, time: Micros) -> Result<(), Refusal> {
        if dump.finished <= time || dump.gtids != self.stop.gtids {
            return Ok(());
        }
        let begins =
            |run: &&Run| self.history.segments.get(run.first).is_some_and(|first| first.gtids_before == dump.gtids);
        match self.runs.iter().find(begins) {
            None => Ok(()),
            Some(Run { broken: Some(broken), .. }) => Err(self.refuse(broken.clone())),
            Some(Run { broken: None, .. }) => Err(before_earliest(self.history, self.runs, &self.stop.point)),
        }
    }

    /// The segments that have `replay`, proven to be one stretch of the history from the dump to the stop.
    fn segments(&self, dump: &Dump, replay: &GtidSet) -> Result<&'a [&'a Segment], Refusal> {
        if replay.is_empty() {
            // Sets say nothing about transactions that have no GTID: those may be wanted.
            let unknown = |segment: &&&Segment| {
                segment.gtids_added.count() < segment.transactions && segment.gtids_before.is_subset(&self.stop.gtids)
            };
            return match self.history.segments.iter().find(unknown) {
                Some(segment) => {
                    Err(Refusal::WithoutGtids { timeline: self.stop.timeline, segment: (*segment).into() })
                }
                None => Ok(&[]),
            };
        }
        let mut found = GtidSet::new();
        let mut range: Option<(usize, usize)> = None;
        for (index, segment) in self.history.segments.iter().enumerate() {
            let part = segment.gtids_added.intersect(replay);
            if !part.is_empty() {
                crate::history::add(&mut found, &part);
                range = Some((range.map_or(index, |(first, _)| first), index));
            }
        }
        let missing = replay.subtract(&found);
        if !missing.is_empty() {
            return Err(self.gap(missing));
        }
        let (first, last) = range.unwrap_or_default();
        let broken = self.runs.iter().find(|run| first < run.first && run.first <= last);
        if let Some(Run { broken: Some(broken), .. }) = broken {
            return Err(self.refuse(broken.clone()));
        }
        let segments = self.history.segments.get(first..=last).unwrap_or_default();
        self.is_a_beginning(dump, segments)?;
        Ok(segments)
    }

    /// That everything before the last of `segments` is wanted, and that GTIDs tell all of it apart.
    fn is_a_beginning(&self, dump: &Dump, segments: &[&Segment]) -> Result<(), Refusal> {
        let timeline = self.stop.timeline;
        if let Some(first) = segments.first() {
            let missing = first.gtids_before.subtract(&dump.gtids);
            if !missing.is_empty() {
                return Err(self.gap(missing));
            }
        }
        if let Some(segment) = segments.iter().find(|segment| segment.gtids_added.count() < segment.transactions) {
            return Err(Refusal::WithoutGtids { timeline, segment: (*segment).into() });
        }
        let whole = segments.split_last().map_or(&[][..], |(_, whole)| whole);
        match whole.iter().find(|segment| !segment.gtids_added.is_subset(&self.stop.gtids)) {
            Some(segment) => Err(Refusal::NotABeginning { timeline, segment: (*segment).into() }),
            None => Ok(()),
        }
    }

    /// Says where `missing` is missing.
    fn gap(&self, missing: GtidSet) -> Refusal {
        let segments = &self.history.segments;
        let known = self.runs.iter().find_map(|run| match &run.broken {
            Some(Break::Gap(gap)) if !gap.missing.intersect(&missing).is_empty() => {
                Some((gap.after.clone(), gap.before.clone()))
            }
            Some(Break::Gap(_) | Break::Chain(_)) | None => None,
        });
        let before_first = segments.first().filter(|first| !first.gtids_before.intersect(&missing).is_empty());
        let (after, before) = known.unwrap_or_else(|| match before_first {
            Some(first) => (None, Some((*first).into())),
            None => (segments.last().map(|last| (*last).into()), None),
        });
        self.refuse(Break::Gap(Gap { timeline: self.stop.timeline, missing, after, before }))
    }

    fn refuse(&self, broken: Break) -> Refusal {
        let spans = spans(self.history, self.runs);
        let before = |span: &&Span| span.latest.gtids.is_subset(&self.stop.gtids);
        refuse(broken, spans.iter().rev().find(before))
    }
}

/// A break as a refusal; `span` is the stretch before it.
fn refuse(broken: Break, span: Option<&Span>) -> Refusal {
    let reachable = span.map(|span| Box::new(span.latest.clone()));
    match broken {
        Break::Gap(gap) => Refusal::Gap { gap: Box::new(gap), reachable },
        Break::Chain(broken) => Refusal::BrokenChain { broken: Box::new(broken), reachable },
    }
}

/// No dump is early enough for `point`.
fn before_earliest(history: &History<'_>, runs: &[Run], point: &RestorePoint) -> Refusal {
    let timeline = history.timeline.id;
    match spans(history, runs).into_iter().next() {
        Some(Span { earliest, .. }) => Refusal::BeforeEarliest { timeline, point: point.clone(), earliest },
        None => Refusal::NoDump { timeline },
    }
}
