//! Where to cut a binlog into segments: on transaction boundaries, by age and by size.

use crate::error::SegmentError;
use crate::event::{FIRST_EVENT_OFFSET, RawEvent};
use crate::gtid::GtidSet;
use crate::transaction::{Progress, Transaction};

/// When a segment is due. The time is whatever the caller counts with, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentPolicy {
    /// A segment is due when it has this many bytes. One with a larger transaction gets larger.
    pub bytes_max: u64,
    /// A segment is due this long after the first of its bytes came.
    pub age_micros_max: u64,
}

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentFacts {
    /// Offset of its first byte in the binlog; 0 includes the magic.
    pub start: u64,
    /// Offset after its last byte.
    pub end: u64,
    /// The transactions in it.
    pub gtids_added: GtidSet,
    /// Earliest original commit time in it, microseconds since 1970; none without transactions.
    pub first_commit_micros: Option<u64>,
    /// Latest original commit time in it.
    pub last_commit_micros: Option<u64>,
    /// Events in it, all kinds.
    pub events: u64,
    /// Transactions in it, anonymous ones included.
    pub transactions: u64,
}

impl SegmentFacts {
    const fn from(start: u64) -> Self {
        Self {
            start,
            end: start,
            gtids_added: GtidSet::new(),
            first_commit_micros: None,
            last_commit_micros: None,
            events: 0,
            transactions: 0,
        }
    }

    /// Bytes in it.
    #[must_use]
    pub const fn byte_count(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    fn add(&mut self, transaction: &Transaction) -> Result<(), SegmentError> {
        let micros = transaction.original_commit_micros;
        self.transactions += 1;
        self.first_commit_micros = Some(self.first_commit_micros.map_or(micros, |first| first.min(micros)));
        self.last_commit_micros = Some(self.last_commit_micros.map_or(micros, |last| last.max(micros)));
        if let Some(gtid) = &transaction.gtid {
            if self.gtids_added.contains(gtid) {
                return Err(SegmentError::RepeatedGtid { gtid: gtid.clone(), offset: transaction.start });
            }
            self.gtids_added.insert(gtid);
        }
        Ok(())
    }
}

/// Follows the events of one binlog and says what can be cut off as a segment.
///
/// `[start, end)` of the facts it keeps always ends at a safe boundary; bytes of an open transaction come after it.
/// Artificial events are in no file and count nowhere.
#[derive(Debug, Clone)]
pub struct Segmenter {
    policy: SegmentPolicy,
    facts: SegmentFacts,
    /// Offset after the last event seen, at or behind the boundary.
    seen: u64,
    /// Events behind the boundary.
    open_events: u64,
    /// When the first byte of `facts` came.
    since: Option<u64>,
    /// When the first byte behind the boundary came.
    open_since: Option<u64>,
}

impl Segmenter {
    /// For a binlog from `start` on: 0 for its first byte, else the offset of an event outside of any transaction.
    #[must_use]
    pub const fn new(policy: SegmentPolicy, start: u64) -> Self {
        let facts = SegmentFacts::from(start);
        Self { policy, facts, seen: start, open_events: 0, since: None, open_since: None }
    }

    /// Takes the event at `offset` into account, which came `now` and after which a transaction tracker said `progress`.
    ///
    /// # Errors
    /// When the event does not follow the one before it, or its GTID was in the segment already.
    pub fn accept(
        &mut self,
        offset: u64,
        event: &RawEvent<'_>,
        progress: &Progress,
        now_micros: u64,
    ) -> Result<(), SegmentError> {
        if event.is_artificial() {
            return Ok(());
        }
        // The magic in front of the first event belongs to the first segment.
        let expected = if self.seen == 0 { FIRST_EVENT_OFFSET } else { self.seen };
        if offset != expected {
            return Err(SegmentError::NotContiguous { expected, found: offset });
        }
        self.seen = offset.saturating_add(event.byte_count());
        self.open_events += 1;
        self.open_since.get_or_insert(now_micros);
        match progress {
            Progress::Inside => return Ok(()),
            Progress::Outside => {}
            Progress::Committed(transaction) => self.facts.add(transaction)?,
        }
        self.facts.end = self.seen;
        self.facts.events += std::mem::take(&mut self.open_events);
        self.since = self.since.or(self.open_since);
        self.open_since = None;
        Ok(())
    }

    /// What a cut would give now.
    #[must_use]
    pub const fn facts(&self) -> &SegmentFacts {
        &self.facts
    }

    /// Offset after the last event seen; behind the boundary while a transaction is open.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    /// When the next segment is due: at once when it is large enough, else when it is old enough; none without bytes.
    #[must_use]
    pub fn due_at(&self) -> Option<u64> {
        let since = self.since?;
        let full = self.facts.byte_count() >= self.policy.bytes_max;
        Some(if full { since } else { since.saturating_add(self.policy.age_micros_max) })
    }

    /// Whether a segment should be cut.
    #[must_use]
    pub fn is_due(&self, now_micros: u64) -> bool {
        self.due_at().is_some_and(|at| at <= now_micros)
    }

    /// Whether a segment should be cut for its size alone.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.since.is_some() && self.facts.byte_count() >= self.policy.bytes_max
    }

    /// Cuts everything up to the last boundary, due or not; none when there is nothing.
    pub fn cut(&mut self) -> Option<SegmentFacts> {
        self.since.take()?;
        let end = self.facts.end;
        Some(std::mem::replace(&mut self.facts, SegmentFacts::from(end)))
    }
}
