//! What the events of one file add up to.

use highwater_binlog::{
    EventType, GtidSet, Progress, RawEvent, RotateEvent, TransactionError, TransactionTracker, previous_gtids,
};

use crate::binlog_file::{FLAG_RELAY_LOG, Opening};
use crate::failure::chain;
use crate::mariadb::{MariaDbGtids, MariaDbStep, MariaDbTracker};

/// What was seen so far.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) events: u64,
    pub(crate) transactions: u64,
    /// What its server had executed before this file.
    pub(crate) previous_gtids: Option<GtidSet>,
    /// What this file adds.
    pub(crate) gtids: GtidSet,
    /// Earliest and latest commit, microseconds since 1970.
    pub(crate) commits: Option<(u64, u64)>,
    /// The binlog that follows, from the last event.
    pub(crate) next_binlog: Option<String>,
    /// Whether its server stopped cleanly.
    pub(crate) stopped: bool,
    /// Transactions that were broken off inside of the file, as a relay log has them after its connection broke.
    pub(crate) unfinished: u64,
    /// Why transactions are not followed any further.
    pub(crate) disorder: Option<String>,
    relay_log: bool,
    follower: Follower,
}

/// Who knows where transactions end.
#[derive(Debug)]
enum Follower {
    /// Before the first GTID event of a file that is not read from its beginning.
    Waiting,
    MySql(TransactionTracker),
    MariaDb(MariaDbTracker),
    /// Nobody: a server from before GTID events, or events in disorder.
    Nobody,
}

/// A transaction that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) gtid: String,
    pub(crate) start: u64,
}

impl Facts {
    /// For a file that begins with `opening` and is read from its beginning, or from a later position.
    pub(crate) fn new(opening: &Opening, from_beginning: bool) -> Self {
        let version = &opening.description.server_version;
        let follower = if version.contains("MariaDB") {
            Follower::MariaDb(MariaDbTracker::default())
        } else if is_before_5_7(version) {
            Follower::Nobody
        } else if from_beginning {
            Follower::MySql(TransactionTracker::new())
        } else {
            Follower::Waiting
        };
        Self {
            events: 0,
            transactions: 0,
            previous_gtids: None,
            gtids: GtidSet::new(),
            commits: None,
            next_binlog: None,
            stopped: false,
            unfinished: 0,
            disorder: None,
            relay_log: opening.relay_log,
            follower,
        }
    }

    /// Takes an event into account; whether its end is one of a transaction, or outside of any.
    pub(crate) fn accept(&mut self, offset: u64, event: &RawEvent<'_>) -> bool {
        self.events += 1;
        if !event.is_artificial() {
            self.note(event);
        }
        match &mut self.follower {
            Follower::Nobody => true,
            Follower::Waiting if !highwater_binlog::GtidEvent::is_one(event) => true,
            Follower::Waiting => {
                self.follower = Follower::MySql(TransactionTracker::new());
                self.follow(offset, event)
            }
            Follower::MySql(_) => self.follow(offset, event),
            Follower::MariaDb(tracker) => match tracker.accept(offset, event) {
                MariaDbStep::Outside => true,
                MariaDbStep::Inside => false,
                MariaDbStep::Unfinished => {
                    self.unfinished += 1;
                    tracker.open().is_none()
                }
                MariaDbStep::Committed => {
                    self.transactions += 1;
                    self.note_commit(u64::from(event.header().timestamp) * 1_000_000);
                    true
                }
            },
        }
    }

    /// What is known of an event without following transactions.
    fn note(&mut self, event: &RawEvent<'_>) {
        match event.event_type() {
            // A relay log has those of its source too, which say nothing about where it goes on itself.
            EventType::ROTATE if !self.relay_log || event.header().flags & FLAG_RELAY_LOG != 0 => {
                self.next_binlog = RotateEvent::read(event).ok().map(|rotate| rotate.next.binlog.to_string());
            }
            EventType::STOP => self.stopped = true,
            EventType::PREVIOUS_GTIDS if self.previous_gtids.is_none() => {
                self.previous_gtids = previous_gtids(event).ok();
            }
            _ => {}
        }
    }

    fn follow(&mut self, offset: u64, event: &RawEvent<'_>) -> bool {
        let Follower::MySql(tracker) = &mut self.follower else { return true };
        match tracker.accept(offset, event) {
            Ok(Progress::Outside) => true,
            Ok(Progress::Inside) => false,
            Ok(Progress::Committed(transaction)) => {
                self.transactions += 1;
                if let Some(gtid) = &transaction.gtid {
                    self.gtids.insert(gtid);
                }
                self.note_commit(transaction.original_commit_micros);
                true
            }
            // A receiver whose connection breaks begins the transaction again, in the same file or the next.
            Err(TransactionError::Unfinished { .. }) if self.relay_log => {
                self.unfinished += 1;
                self.follower = Follower::MySql(TransactionTracker::new());
                self.follow(offset, event)
            }
            Err(TransactionError::OutsideTransaction { .. }) if self.relay_log => {
                self.follower = Follower::Waiting;
                true
            }
            Err(error) => {
                self.disorder = Some(chain(&error));
                self.follower = Follower::Nobody;
                true
            }
        }
    }

    fn note_commit(&mut self, micros: u64) {
        self.commits = Some(match self.commits {
            None => (micros, micros),
            Some((first, last)) => (first.min(micros), last.max(micros)),
        });
    }

    /// The transaction that has begun and not ended.
    pub(crate) fn open(&self) -> Option<Open> {
        match &self.follower {
            Follower::MySql(tracker) => tracker.open().map(|open| Open {
                gtid: open.gtid.as_ref().map_or_else(|| "ANONYMOUS".to_owned(), ToString::to_string),
                start: open.start,
            }),
            Follower::MariaDb(tracker) => tracker.open().map(|(gtid, start)| Open { gtid: gtid.to_string(), start }),
            Follower::Waiting | Follower::Nobody => None,
        }
    }

    /// MariaDB's GTIDs.
    pub(crate) fn mariadb_gtids(&self) -> Option<&MariaDbGtids> {
        match &self.follower {
            Follower::MariaDb(tracker) if !tracker.gtids.is_empty() => Some(&tracker.gtids),
            _ => None,
        }
    }

    /// Whether it is a replica's relay log.
    pub(crate) const fn is_relay_log(&self) -> bool {
        self.relay_log
    }

    /// Whether somebody knew where transactions ended, all the way.
    pub(crate) fn transactions_followed(&self) -> bool {
        !matches!(self.follower, Follower::Nobody)
    }
}

/// Whether a server of this version begins transactions without a GTID event.
fn is_before_5_7(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let major = parts.next().unwrap_or(0);
    let minor = parts.next().unwrap_or(0);
    (major, minor) < (5, 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_from_before_gtid_events_are_known_by_their_version() {
        for (version, before) in [("5.6.51-log", true), ("5.7.44", false), ("8.0.14", false), ("9.7.4", false)] {
            assert_eq!(is_before_5_7(version), before, "{version}");
        }
    }
}
