//! What the connections so far mean for the next one: which host, when, and what is made of a source that differs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use highwater_binlog::GtidSet;
use highwater_catalog::TimelineId;

use super::backoff::Backoff;
use super::continuity::Discontinuity;
use super::error::CaptureError;
use super::follower::StreamError;
use crate::source::{GtidMode, ServerFacts};

/// Connections in a row to one host that bring no whole transaction before the next host is asked.
const FRUITLESS_MAX: u32 = 3;

/// A binlog that a source has not had for so long will not come back.
const GONE_MIN: Duration = Duration::from_secs(10);

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
    doubt: Option<(Discontinuity, Instant)>,
    /// What the last host said about itself.
    pub(super) facts: Option<ServerFacts>,
    /// What each host lacks, of those asked since the last that was of use.
    gaps: BTreeMap<usize, Gap>,
    /// Since when there are any.
    gaps_since: Option<Instant>,
    /// Hosts that did not answer the last time.
    away: BTreeSet<usize>,
    /// Whether the source could not read what it was asked for.
    pub(super) passes_unreadable: bool,
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
            gaps: BTreeMap::new(),
            gaps_since: None,
            away: BTreeSet::new(),
            passes_unreadable: false,
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
            self.passes_unreadable = false;
            self.forget_gaps();
            return;
        }
        self.fruitless += 1;
        if self.fruitless < FRUITLESS_MAX {
            self.tried = 0;
        }
    }

    /// Another timeline has begun: what hosts lack of the old one is of no use.
    pub(super) fn has_branched(&mut self) {
        (self.tried, self.fruitless, self.strikes) = (0, 0, 0);
        (self.lagging_since, self.doubt, self.branched) = (None, None, Some(Instant::now()));
        self.forget_gaps();
    }

    /// Remembers what the last host lacks, or that it is away. Its last answer is the one that counts.
    pub(super) fn note(&mut self, error: &CaptureError) {
        let why = match error {
            CaptureError::Discontinuity(why) => why.clone(),
            CaptureError::Stream(StreamError::MissedTransactions { binlog, missing }) => not_sent(binlog, missing),
            CaptureError::Source(_) => {
                self.away.insert(self.host);
                return;
            }
            _ => return,
        };
        self.away.remove(&self.host);
        let transactions = match &why {
            // None that is known. Without GTIDs no other host goes on.
            Discontinuity::BinlogGone { .. } => {
                self.facts.as_ref().filter(|facts| facts.gtid_mode == GtidMode::On).map(|_| 0)
            }
            why => why.missing().map(GtidSet::count),
        };
        match (transactions, self.facts.clone()) {
            (Some(transactions), Some(facts)) => {
                self.gaps.insert(self.host, Gap { facts, why, transactions });
                self.gaps_since.get_or_insert_with(Instant::now);
            }
            _ => {
                self.gaps.remove(&self.host);
            }
        }
    }

    /// Whether a host that is away may have what the others lack: it is given `patience` to come back.
    pub(super) fn is_host_waited_for(&self, patience: Duration) -> bool {
        !self.away.is_empty() && self.gaps_since.is_some_and(|since| since.elapsed() < patience)
    }

    /// What the timeline ends with when no host continues it: the least gap and its host, or, if all have other histories,
    /// the last one's.
    pub(super) fn least_break(&mut self, why: Discontinuity) -> Discontinuity {
        let reachable = self.gaps.iter().filter(|(host, _)| !self.away.contains(host));
        let Some((&host, _)) = reachable.min_by_key(|(_, gap)| gap.transactions) else { return why };
        let Some(least) = self.gaps.remove(&host) else { return why };
        (self.host, self.facts) = (host, Some(least.facts));
        least.why
    }

    fn forget_gaps(&mut self) {
        self.gaps.clear();
        self.away.clear();
        self.gaps_since = None;
    }

    /// The same host is next: its answer does not count yet.
    pub(super) fn asks_again(&mut self) {
        self.tried = self.tried.saturating_sub(1);
    }

    /// Whether a binlog has been away for so long that it will not come back: one may be purged between two answers, or cannot
    /// be opened for a moment.
    pub(super) fn is_gone_for_good(&mut self, why: &Discontinuity) -> bool {
        self.seen_for(why).is_some_and(|since| since >= GONE_MIN)
    }

    /// The source has what was away.
    pub(super) fn has_all_binlogs(&mut self) {
        let is_gone = |why: &Discontinuity| matches!(why, Discontinuity::BinlogGone { .. });
        self.doubt.take_if(|(why, _)| is_gone(why));
        if self.gaps.get(&self.host).is_some_and(|gap| is_gone(&gap.why)) {
            self.gaps.remove(&self.host);
        }
    }

    /// For how long the source has differed in the same way, if it did the last time.
    pub(super) fn seen_for(&mut self, why: &Discontinuity) -> Option<Duration> {
        match &self.doubt {
            Some((before, since)) if before == why => Some(since.elapsed()),
            _ => {
                self.doubt = Some((why.clone(), Instant::now()));
                None
            }
        }
    }
}

/// A host that lacks transactions which the archive lacks too.
#[derive(Debug)]
struct Gap {
    facts: ServerFacts,
    why: Discontinuity,
    transactions: u64,
}

/// Of a source whose binlog follows transactions that it did not send.
pub(super) fn not_sent(binlog: &str, missing: &GtidSet) -> Discontinuity {
    Discontinuity::NotSent { binlog: binlog.to_owned(), missing: missing.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(binlog: &str) -> Discontinuity {
        Discontinuity::BinlogGone { binlog: binlog.parse().unwrap(), offset: 4 }
    }

    #[test]
    fn a_binlog_is_gone_when_it_has_been_away_for_a_while() {
        let mut course = Course::new();
        assert!(!course.is_gone_for_good(&gone("binlog.000001")) && !course.is_gone_for_good(&gone("binlog.000001")));
        let age = |course: &mut Course| course.doubt.as_mut().unwrap().1 -= GONE_MIN;
        age(&mut course);
        assert!(course.is_gone_for_good(&gone("binlog.000001")));
        // Another one has only now been missed, and one that was there meanwhile too.
        assert!(!course.is_gone_for_good(&gone("binlog.000002")));
        age(&mut course);
        course.has_all_binlogs();
        assert!(!course.is_gone_for_good(&gone("binlog.000002")));
    }

    #[test]
    fn asking_the_same_host_again_is_no_other_host() {
        let mut course = Course::new();
        course.tried = 1;
        course.asks_again();
        assert_eq!(course.tried, 0);
    }
}
