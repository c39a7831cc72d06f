//! From a wanted point to the exact boundary between two transactions.

use highwater_binlog::{BinlogPosition, GtidSet, Transaction};
use highwater_catalog::{Excluded, Inventory, Micros, Place, RestorePoint, Segment, Stop, TimelineId, locate};

use super::failure::RestoreFailure;
use super::scan::{Seen, Then, scan};
use crate::archive::Archive;

/// An exact stop, and what a person should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The stop.
    pub stop: Stop,
    /// Transactions after the stop, in its segment, that were committed before the wanted time: the order of the binlog
    /// is not that of the clocks. They are left out.
    pub later_with_earlier_time: u64,
}

/// Finds the exact stop for a point; reads one segment at most. Blocking.
///
/// # Errors
/// The point cannot be reached, or the segment cannot be read.
pub fn find_stop(
    archive: &Archive,
    inventory: &Inventory,
    timeline: Option<TimelineId>,
    point: &RestorePoint,
) -> Result<Found, RestoreFailure> {
    let location = locate(inventory, timeline, point)?;
    match location.place {
        Place::Known(stop) => Ok(Found { stop, later_with_earlier_time: 0 }),
        Place::Within(segment) => within(archive, inventory, location.timeline, &segment, point),
    }
}

fn within(
    archive: &Archive,
    inventory: &Inventory,
    timeline: TimelineId,
    segment: &Segment,
    point: &RestorePoint,
) -> Result<Found, RestoreFailure> {
    let mut boundary = Boundary { point, gtids: segment.gtids_before.clone(), after_wanted: false, excluded: None };
    let mut later_with_earlier_time = 0;
    scan(archive, inventory, segment, |seen| {
        let Seen::Transaction(transaction) = seen else { return Ok(Then::Continue) };
        if boundary.excluded.is_none() {
            boundary.accept(segment, &transaction);
        } else if let RestorePoint::Time(time) = point
            && transaction.original_commit_micros <= time.0
        {
            later_with_earlier_time += 1;
        }
        let done = boundary.excluded.is_some() && !matches!(point, RestorePoint::Time(_));
        Ok(if done { Then::Stop } else { Then::Continue })
    })?;
    let Boundary { gtids, excluded, .. } = boundary;
    let stop = Stop { timeline, point: point.clone(), gtids, first_excluded: excluded };
    Ok(Found { stop, later_with_earlier_time })
}

/// Adds up transactions until the point is reached.
struct Boundary<'a> {
    point: &'a RestorePoint,
    gtids: GtidSet,
    /// The wanted transaction of `AfterGtid` has been seen.
    after_wanted: bool,
    excluded: Option<Excluded>,
}

impl Boundary<'_> {
    fn accept(&mut self, segment: &Segment, transaction: &Transaction) {
        // Segments with anonymous transactions are refused by the plan.
        let Some(gtid) = &transaction.gtid else { return };
        let excluded = match self.point {
            RestorePoint::Latest => false,
            RestorePoint::Time(time) => transaction.original_commit_micros > time.0,
            RestorePoint::BeforeGtid(wanted) => gtid == wanted,
            RestorePoint::AfterGtid(_) => self.after_wanted,
            RestorePoint::Position(position) => segment.binlog != position.binlog || transaction.end > position.offset,
        };
        if excluded {
            self.excluded = Some(Excluded {
                gtid: gtid.clone(),
                committed: Some(Micros(transaction.original_commit_micros)),
                position: BinlogPosition { binlog: segment.binlog.clone(), offset: transaction.start },
            });
            return;
        }
        self.gtids.insert(gtid);
        if let RestorePoint::AfterGtid(wanted) = self.point {
            self.after_wanted |= gtid == wanted;
        }
    }
}
