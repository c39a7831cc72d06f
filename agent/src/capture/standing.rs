//! Where a timeline of the archive ends: what the next segment follows.

use highwater_binlog::GtidSet;
use highwater_catalog::{Blake3Digest, Inventory, Segment, Timeline, TimelineId};

use super::tip::Tip;

/// The end of a timeline, as far as it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The timeline.
    pub timeline: TimelineId,
    /// Number of the next segment.
    pub next_sequence: u64,
    /// `plain_blake3` of the last segment.
    pub previous_blake3: Option<Blake3Digest>,
    /// Every transaction before the next segment.
    pub captured: GtidSet,
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
            previous_blake3: None,
            captured: timeline.starting_gtids.clone(),
        }
    }

    /// Of the archive's newest timeline, with its tip; `None` when it has none yet.
    ///
    /// # Errors
    /// When a segment is missing or does not follow the one before it.
    pub fn of(inventory: &Inventory) -> Result<Option<(Self, Tip)>, BrokenTimeline> {
        let Some(timeline) = inventory.timelines.iter().max_by_key(|timeline| timeline.id) else { return Ok(None) };
        let (mut standing, mut tip) = (Self::new(timeline), Tip::new(timeline));
        for segment in inventory.segments.iter().filter(|segment| segment.timeline == timeline.id) {
            standing.advance(segment)?;
            tip.archived(segment);
        }
        Ok(Some((standing, tip)))
    }

    /// Takes the next segment into account.
    ///
    /// # Errors
    /// When it does not follow.
    pub fn advance(&mut self, segment: &Segment) -> Result<(), BrokenTimeline> {
        let broken = |reason| BrokenTimeline { timeline: self.timeline, sequence: segment.sequence, reason };
        if segment.timeline != self.timeline {
            return Err(broken("it belongs to another timeline"));
        }
        if segment.sequence != self.next_sequence {
            return Err(broken("its number is not the next"));
        }
        if segment.previous_blake3 != self.previous_blake3 {
            return Err(broken("it names another segment before it"));
        }
        if segment.gtids_before != self.captured {
            return Err(broken("the transactions before it are others"));
        }
        self.next_sequence += 1;
        self.previous_blake3 = Some(segment.plain_blake3);
        self.captured = self.captured.union(&segment.gtids_added);
        Ok(())
    }
}
