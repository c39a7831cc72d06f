//! Why a point cannot be restored to, as data.

use highwater_binlog::{BinlogPosition, Gtid, ServerUuid};

use crate::history::{ChainBreak, Gap, SegmentLabel};
use crate::plan::RestorePoint;
use crate::record::TimelineId;
use crate::window::{DumpPoint, EndPoint};
use highwater_binlog::Micros;

/// Why there is no way to a wanted point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The archive has nothing yet.
    #[error("the archive has no timeline")]
    Empty,
    /// There is no such timeline.
    #[error("the archive has no timeline {timeline}")]
    UnknownTimeline {
        /// The wanted one.
        timeline: TimelineId,
        /// Those that exist, newest first.
        known: Vec<TimelineId>,
    },
    /// The timeline has no dump to begin with.
    #[error("timeline {timeline} has no full dump")]
    NoDump {
        /// The timeline.
        timeline: TimelineId,
    },
    /// Every dump already has what must not be there, or has it later than wanted.
    #[error("{point} is before the earliest point of timeline {timeline}, {} (dump {})", earliest.time, earliest.dump)]
    BeforeEarliest {
        /// The timeline.
        timeline: TimelineId,
        /// What was asked for.
        point: RestorePoint,
        /// The earliest point there is.
        earliest: DumpPoint,
    },
    /// The archive cannot know what was committed up to the wanted time.
    #[error("{point} is after the end of timeline {timeline}{}", ended(.latest))]
    AfterLatest {
        /// The timeline.
        timeline: TimelineId,
        /// What was asked for.
        point: RestorePoint,
        /// The latest commit time in the archive, if it has any binlog.
        latest: Option<Micros>,
    },
    /// Transactions between the dump and the wanted point are not in the archive.
    #[error("{gap}")]
    Gap {
        /// What is missing and where.
        gap: Box<Gap>,
        /// The last point before it that can be restored to.
        reachable: Option<Box<EndPoint>>,
    },
    /// A segment on the way is not the one that was written there.
    #[error("{broken}")]
    BrokenChain {
        /// What does not fit and where.
        broken: Box<ChainBreak>,
        /// The last point before it that can be restored to.
        reachable: Option<Box<EndPoint>>,
    },
    /// No segment has the transaction.
    #[error("no segment has transaction {gtid}")]
    UnknownGtid {
        /// The wanted transaction.
        gtid: Gtid,
    },
    /// No segment has the position.
    #[error("no segment has position {position}")]
    UnknownPosition {
        /// The wanted position.
        position: BinlogPosition,
    },
    /// Several servers wrote a binlog of this name.
    #[error("{} servers have a binlog {}", servers.len(), position.binlog)]
    AmbiguousPosition {
        /// The wanted position.
        position: BinlogPosition,
        /// The servers.
        servers: Vec<ServerUuid>,
    },
    /// The wanted transactions are not a beginning of the history.
    #[error(
        "{segment} of timeline {timeline} has transactions that the wanted point leaves out and later ones that it has"
    )]
    NotABeginning {
        /// The timeline.
        timeline: TimelineId,
        /// The first such segment.
        segment: SegmentLabel,
    },
    /// Transactions without a GTID cannot be replayed exactly once.
    #[error("{segment} of timeline {timeline} has transactions without a GTID")]
    WithoutGtids {
        /// The timeline.
        timeline: TimelineId,
        /// The first such segment.
        segment: SegmentLabel,
    },
}

impl Refusal {
    /// What the operator can do now.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Empty => "start `highwater agent`: it opens a timeline and takes the first dump".to_owned(),
            Self::UnknownTimeline { known, .. } => {
                let known: Vec<_> = known.iter().map(ToString::to_string).collect();
                format!("it has {}", known.join(", "))
            }
            Self::NoDump { .. } => "run `highwater dump`; points before it stay out of reach".to_owned(),
            Self::BeforeEarliest { earliest, .. } => format!("`--to {}` or later is reachable", earliest.time),
            Self::AfterLatest { latest: Some(latest), .. } => {
                format!("`--to latest` restores all there is; the latest time is `--to {latest}`")
            }
            Self::AfterLatest { latest: None, .. } => "`--to latest` restores the newest dump".to_owned(),
            Self::Gap { reachable, .. } => {
                before_break(reachable.as_deref(), "a dump taken after the gap reaches later ones")
            }
            Self::BrokenChain { reachable, .. } => {
                before_break(reachable.as_deref(), "look for the original objects in another copy of the store")
            }
            Self::UnknownGtid { .. } => {
                "`highwater find` lists archived transactions; `highwater status` shows how far the archive reaches"
                    .to_owned()
            }
            Self::UnknownPosition { .. } => "`highwater list segments` shows which positions are archived".to_owned(),
            Self::AmbiguousPosition { .. } => {
                "name the transaction by `--to-gtid` or `--before-gtid` instead".to_owned()
            }
            Self::NotABeginning { .. } => "choose a point by time, GTID or position".to_owned(),
            Self::WithoutGtids { .. } => {
                "set gtid_mode=ON on the source; `docs/by-hand.md` shows how to replay such a segment".to_owned()
            }
        }
    }
}

fn ended(latest: &Option<Micros>) -> String {
    latest.map_or_else(|| ", which has no binlog".to_owned(), |latest| format!(", {latest}"))
}

fn before_break(reachable: Option<&EndPoint>, otherwise: &str) -> String {
    match reachable.and_then(|point| point.time) {
        Some(time) => format!("the last point before it is `--to {time}`; {otherwise}"),
        None => format!("no point before it is reachable; {otherwise}"),
    }
}
