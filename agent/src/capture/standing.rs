//! Where a timeline of the archive ends: what the next segment follows.

use std::collections::{BTreeMap, BTreeSet};

use highwater_binlog::{BinlogName, GtidSet, ServerUuid};
use highwater_catalog::{Inventory, Segment, Sha256Digest, Timeline, TimelineId};

/// The end of a timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The timeline.
    pub timeline: TimelineId,
    /// Number of the next segment.
    pub next_sequence: u64,
    /// `plain_sha256` of the last segment.
    pub previous_sha256: Option<Sha256Digest>,
    /// Every transaction before the next segment.
    pub captured: GtidSet,
    /// The last segment with transactions and all after it.
    pub tail: Vec<Segment>,
    /// Where the archive's bytes of each binlog end.
    pub ends: BTreeMap<(ServerUuid, BinlogName), u64>,
    /// Every server that segments came from.
    pub servers: BTreeSet<ServerUuid>,
}

/// A timeline whose segments do not follow each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("timeline {timeline} is broken before segment {sequence}: {reason}")]
pub struct BrokenTimeline {
    /// The timeline.
    pub timeline: TimelineId,
    /// The segment that does not follow the one before it.
    pub sequence: u64,
    /// What does not fit.
    pub reason: &'static str,
}

impl Standing {
    /// Of a timeline without segments.
    #[must_use]
    pub fn new(timeline: &Timeline) -> Self {
        Self {
            timeline: timeline.id,
            next_sequence: 0,
            previous_sha256: None,
            captured: timeline.starting_gtids.clone(),
            tail: Vec::new(),
            ends: BTreeMap::new(),
            servers: BTreeSet::new(),
        }
    }

    /// Of the archive's newest timeline; `None` when it has none yet.
    ///
    /// # Errors
    /// When a segment is missing or does not follow the one before it.
    pub fn of(inventory: &Inventory) -> Result<Option<Self>, BrokenTimeline> {
        let Some(timeline) = inventory.timelines.iter().max_by_key(|timeline| timeline.id) else { return Ok(None) };
        let mut standing = Self::new(timeline);
        for segment in inventory.segments.iter().filter(|segment| segment.timeline == timeline.id) {
            standing.advance(segment)?;
        }
        Ok(Some(standing))
    }

    /// Takes the next segment into account.
    ///
    /// # Errors
    /// When it does not follow.
    pub fn advance(&mut self, segment: &Segment) -> Result<(), BrokenTimeline> {
        let broken = |reason| BrokenTimeline { timeline: self.timeline, sequence: segment.sequence, reason };
        if segment.sequence != self.next_sequence {
            return Err(broken("its number is not the next"));
        }
        if segment.previous_sha256 != self.previous_sha256 {
            return Err(broken("it names another segment before it"));
        }
        if segment.gtids_before != self.captured {
            return Err(broken("the transactions before it are others"));
        }
        self.next_sequence += 1;
        self.previous_sha256 = Some(segment.object.plain_sha256);
        self.captured = self.captured.union(&segment.gtids_added);
        if !segment.gtids_added.is_empty() {
            self.tail.clear();
        }
        self.tail.push(segment.clone());
        self.ends.insert((segment.server, segment.binlog.clone()), segment.end);
        self.servers.insert(segment.server);
        Ok(())
    }

    /// Where the archive's bytes of each binlog of one server end.
    #[must_use]
    pub fn ends_of(&self, server: ServerUuid) -> BTreeMap<BinlogName, u64> {
        let ends = self.ends.iter().filter(|((of, _), _)| *of == server);
        ends.map(|((_, binlog), end)| (binlog.clone(), *end)).collect()
    }
}
