//! What the connections so far mean for the next one: which host, when, and what is made of a source that differs.

use std::time::{Duration, Instant};

use highwater_binlog::GtidSet;
use highwater_catalog::TimelineId;

use super::backoff::Backoff;
use super::continuity::Discontinuity;
use super::error::CaptureError;
use super::follower::StreamError;
use crate::source::ServerFacts;

/// Connections in a row to one host that bring no whole transaction before the next host is asked.
const FRUITLESS_MAX: u32 = 3;

/// What the connections so far mean for the next one.
#[derive(Debug)]
pub(super) struct Course {
    pub(super) backoff: Backoff,
    /// Connections that were made.
    pub(super) connections: u64,
    /// Which login is next.
    pub(super) host: usize,
    /// Hosts tried since the last that was of use.
    pub(super) tried: usize,
    /// Connections in a row that streamed and brought nothing.
    fruitless: u32,
    /// Failures in a row that more tries will not mend.
    pub(super) strikes: u32,
    /// Since when a host has looked like a replica that lags.
    pub(super) lagging_since: Option<Instant>,
    /// Whether the spool had no space the last time.
    pub(super) is_full: bool,
    /// How the source differed the last time: one look is not believed.
    doubt: Option<Discontinuity>,
    /// What the last host said about itself.
    pub(super) facts: Option<ServerFacts>,
    /// The least gap of the hosts asked since the last that was of use.
    least_gap: Option<Gap>,
    /// Whether a binlog that is asked for by position is read from its start on.
    pub(super) reads_whole_binlog: bool,
    /// When the last timeline was begun.
    pub(super) branched: Option<Instant>,
    /// The timeline that was begun behind transactions without GTIDs.
    pub(super) behind: Option<TimelineId>,
}

impl Course {
    /// Before the first connection.
    pub(super) fn new() -> Self {
        Self {
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(60)),
            connections: 0,
            host: 0,
            tried: 0,
            fruitless: 0,
            strikes: 0,
            lagging_since: None,
            is_full: false,
            doubt: None,
            facts: None,
            least_gap: None,
            reads_whole_binlog: false,
            branched: None,
            behind: None,
        }
    }

    /// After a stream. A good one ends whatever went wrong before, and the same host is asked first; one that brings
    /// nothing, again and again, may never.
    pub(super) fn streamed(&mut self, was_good: bool) {
        if was_good {
            self.backoff.reset();
            (self.tried, self.fruitless, self.lagging_since, self.doubt) = (0, 0, None, None);
            (self.least_gap, self.reads_whole_binlog) = (None, false);
            return;
        }
        self.fruitless += 1;
        if self.fruitless < FRUITLESS_MAX {
            self.tried = 0;
        }
    }

    /// Another timeline has begun: what hosts lack of the old one is of no use.
    pub(super) fn has_branched(&mut self) {
        (self.tried, self.lagging_since, self.branched, self.least_gap) = (0, None, Some(Instant::now()), None);
    }

    /// Remembers the last host's gap, if no other host's is less.
    pub(super) fn note(&mut self, error: &CaptureError) {
        let why = match error {
            CaptureError::Discontinuity(why) => why.clone(),
            CaptureError::Stream(StreamError::MissedTransactions { binlog, missing }) => not_sent(binlog, missing),
            _ => return,
        };
        // A host's last answer is the one that counts.
        self.least_gap.take_if(|least| least.host == self.host);
        let (Some(missing), Some(facts)) = (why.missing(), self.facts.clone()) else { return };
        let (host, transactions) = (self.host, missing.count());
        if self.least_gap.as_ref().is_none_or(|least| transactions < least.transactions) {
            self.least_gap = Some(Gap { host, facts, why, transactions });
        }
    }

    /// What the timeline ends with when no host continues it: the least gap and its host, or, if all have other histories,
    /// the last one's.
    pub(super) fn least_break(&mut self, why: Discontinuity) -> Discontinuity {
        let Some(least) = self.least_gap.take() else { return why };
        (self.host, self.facts) = (least.host, Some(least.facts));
        least.why
    }

    /// Whether the source differed in the same way the last time.
    pub(super) fn is_seen_again(&mut self, why: &Discontinuity) -> bool {
        self.doubt.replace(why.clone()).as_ref() == Some(why)
    }
}

/// A host that lacks transactions which the archive lacks too.
#[derive(Debug)]
struct Gap {
    host: usize,
    facts: ServerFacts,
    why: Discontinuity,
    transactions: u64,
}

/// Of a source whose binlog follows transactions that it did not send.
pub(super) fn not_sent(binlog: &str, missing: &GtidSet) -> Discontinuity {
    Discontinuity::NotSent { binlog: binlog.to_owned(), missing: missing.clone() }
}
