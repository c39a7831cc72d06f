//! Looking for transactions: near a time, by table, by kind, by size.

use std::collections::VecDeque;

use highwater_binlog::{BinlogPosition, Change, ChangeKind, Changes, EventType, Gtid, GtidEvent};
use highwater_catalog::{Inventory, Micros, Segment, TimelineId};

use super::failure::RestoreFailure;
use super::scan::{Seen, Then, scan};
use crate::archive::Archive;

/// What kind of change is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedKind {
    /// Rows added.
    Insert,
    /// Rows changed.
    Update,
    /// Rows removed.
    Delete,
    /// Statements on tables and other objects.
    Ddl,
}

/// Which transactions are looked for. Every condition that is given must hold; those on changes for one and the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FindQuery {
    /// The timeline; the newest when absent.
    pub timeline: Option<TimelineId>,
    /// Committed at this time or later.
    pub from: Option<Micros>,
    /// Committed before this time.
    pub until: Option<Micros>,
    /// The one with this GTID.
    pub gtid: Option<Gtid>,
    /// Touching this schema.
    pub schema: Option<String>,
    /// Touching a table of this name.
    pub table: Option<String>,
    /// Doing one of these; anything when empty.
    pub kinds: Vec<WantedKind>,
    /// Changing at least so many rows of one table in one way.
    pub rows_min: Option<u64>,
    /// At most so many: the first ones after `from`, else the last ones.
    pub limit: usize,
}

/// A transaction that was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundTransaction {
    /// Its GTID; none when anonymous.
    pub gtid: Option<Gtid>,
    /// Its original commit time.
    pub committed: Micros,
    /// Where it begins.
    pub position: BinlogPosition,
    /// Its size in the binlog.
    pub bytes: u64,
    /// Its events.
    pub events: u64,
    /// What it changes.
    pub changes: Vec<Change>,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FindReport {
    /// In the order of the binlog.
    pub transactions: Vec<FoundTransaction>,
    /// Whether there are more than the limit.
    pub more: bool,
}

/// Looks for transactions; reads only segments whose times overlap. Blocking.
///
/// # Errors
/// A segment cannot be read.
pub fn find(archive: &Archive, inventory: &Inventory, query: &FindQuery) -> Result<FindReport, RestoreFailure> {
    let newest = inventory.timelines.iter().map(|timeline| timeline.id).max();
    let timeline = query.timeline.or(newest);
    let overlaps = |segment: &&Segment| Some(segment.timeline) == timeline && query.may_be_in(segment);
    let segments: Vec<&Segment> = inventory.segments.iter().filter(overlaps).collect();
    let mut report = FindReport::default();
    if query.from.is_some() {
        for segment in segments {
            let found = in_segment(archive, inventory, segment, query)?;
            report.transactions.extend(found);
            if report.transactions.len() > query.limit {
                report.transactions.truncate(query.limit);
                report.more = true;
                break;
            }
        }
        return Ok(report);
    }
    let mut last = VecDeque::new();
    for segment in segments.into_iter().rev() {
        for transaction in in_segment(archive, inventory, segment, query)?.into_iter().rev() {
            last.push_front(transaction);
        }
        if last.len() > query.limit {
            last.drain(..last.len() - query.limit);
            report.more = true;
            break;
        }
    }
    report.transactions = last.into();
    Ok(report)
}

fn in_segment(
    archive: &Archive,
    inventory: &Inventory,
    segment: &Segment,
    query: &FindQuery,
) -> Result<Vec<FoundTransaction>, RestoreFailure> {
    let mut found = Vec::new();
    let mut changes = Changes::new();
    // Of a transaction whose changes are not understood, those that were are shown.
    let mut observing = true;
    scan(archive, inventory, segment, |seen| {
        match seen {
            Seen::Event(event) => {
                if GtidEvent::is_one(event) {
                    (changes, observing) = (Changes::new(), true);
                } else if observing && event.event_type() != EventType::FORMAT_DESCRIPTION {
                    observing = changes.observe(event).is_ok();
                }
            }
            Seen::Transaction(transaction) => {
                let candidate = FoundTransaction {
                    gtid: transaction.gtid,
                    committed: Micros(transaction.original_commit_micros),
                    position: BinlogPosition { binlog: segment.binlog.clone(), offset: transaction.start },
                    bytes: transaction.end - transaction.start,
                    events: transaction.events,
                    changes: std::mem::take(&mut changes).finish(),
                };
                if query.wants(&candidate) {
                    found.push(candidate);
                }
            }
        }
        Ok(Then::Continue)
    })?;
    Ok(found)
}

impl FindQuery {
    /// Whether a segment may have such a transaction, as far as its manifest tells.
    fn may_be_in(&self, segment: &Segment) -> bool {
        let (Some(first), Some(last)) = (segment.first_commit, segment.last_commit) else { return false };
        self.from.is_none_or(|from| last >= from)
            && self.until.is_none_or(|until| first < until)
            && self.gtid.as_ref().is_none_or(|gtid| segment.gtids_added.contains(gtid))
    }

    fn wants(&self, transaction: &FoundTransaction) -> bool {
        let of_changes =
            self.schema.is_some() || self.table.is_some() || !self.kinds.is_empty() || self.rows_min.is_some();
        self.from.is_none_or(|from| transaction.committed >= from)
            && self.until.is_none_or(|until| transaction.committed < until)
            && self.gtid.as_ref().is_none_or(|gtid| transaction.gtid.as_ref() == Some(gtid))
            && (!of_changes || transaction.changes.iter().any(|change| self.wants_change(change)))
    }

    fn wants_change(&self, change: &Change) -> bool {
        let kind = match change.kind {
            ChangeKind::Insert => WantedKind::Insert,
            ChangeKind::Update => WantedKind::Update,
            ChangeKind::Delete => WantedKind::Delete,
            ChangeKind::Statement(_) => WantedKind::Ddl,
        };
        self.schema.as_ref().is_none_or(|schema| change.schema == *schema)
            && self.table.as_ref().is_none_or(|table| change.table == *table)
            && (self.kinds.is_empty() || self.kinds.contains(&kind))
            && self.rows_min.is_none_or(|min| change.rows.is_some_and(|rows| rows >= min))
    }
}
