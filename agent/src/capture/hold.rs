//! Whether what was received may wait in memory for the store, and never be on our disk.
//!
//! A backlog is in binlogs that the source closed: it has them until it purges them, and nobody was told that they are safe
//! with us. On the disk first, they would be written twice; from memory they are sealed at once.

use std::collections::BTreeSet;
use std::time::Duration;

use highwater_binlog::BinlogName;

use super::spool::Keep;

/// Most memory for what waits: what is sealed at once, and as much as comes meanwhile.
pub(super) const HELD_MEMORY_MAX: u64 = 80 << 20;

/// Segments of what is held are no larger than this, so that several are sealed at once.
pub(super) const HELD_SEGMENT_BYTES_MAX: u64 = 16 << 20;

/// What is larger than this and came together goes to the disk: it would be in memory twice.
const HELD_AT_ONCE_MAX: u64 = 16 << 20;

/// Longest that anything waits: a store that takes longer gets it from the disk.
pub(super) const HELD_TIME_MAX: Duration = Duration::from_secs(2);

/// The binlogs whose bytes may wait in memory; by default none.
#[derive(Debug, Default)]
pub(super) struct Hold {
    closed: BTreeSet<BinlogName>,
}

/// What it depends on.
#[derive(Debug)]
pub(super) struct Situation<'a> {
    /// Whether the source is told what is safe with us.
    pub(super) acknowledges: bool,
    /// Whether the store refuses, or does not answer.
    pub(super) is_blocked: bool,
    /// Whether segments are on their way to the store.
    pub(super) is_busy: bool,
    /// The binlog that comes; before its first event it is not known.
    pub(super) binlog: Option<&'a BinlogName>,
    /// Bytes that came together and are to be kept.
    pub(super) came: u64,
    /// What is held, oldest first.
    pub(super) held: Vec<HeldStretch>,
}

/// What is held of a binlog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldStretch {
    /// The binlog.
    pub(super) binlog: BinlogName,
    /// Memory that it takes, bytes.
    pub(super) memory: u64,
    /// Since when.
    pub(super) age: Duration,
}

impl Hold {
    /// For a source that has closed these binlogs.
    pub(super) fn new(closed: BTreeSet<BinlogName>) -> Self {
        Self { closed }
    }

    /// The connection ends: whatever waits goes to the disk, in case that the source does not come back.
    pub(super) fn end(&mut self) {
        self.closed.clear();
    }

    /// Where what came is to be safe first.
    pub(super) fn keep(&self, situation: &Situation<'_>) -> Keep {
        let Situation { acknowledges, is_blocked, is_busy, binlog, came, held } = situation;
        let is_closed = |binlog: &BinlogName| self.closed.contains(binlog);
        let memory: u64 = held.iter().map(|held| held.memory).sum();
        let may_wait = match held.first() {
            // What follows closed binlogs waits with them: nothing is on the disk before what comes before it.
            Some(oldest) => oldest.age < HELD_TIME_MAX && held.iter().any(|held| is_closed(&held.binlog)),
            // What is on the disk and not published comes first.
            None => !is_busy && binlog.is_none_or(is_closed),
        };
        // Inside of a transaction that is larger there is nothing to seal.
        let has_room = *is_busy || memory < HELD_MEMORY_MAX;
        let is_fit = !self.closed.is_empty() && !acknowledges && !is_blocked && *came <= HELD_AT_ONCE_MAX;
        if is_fit && may_wait && has_room { Keep::Held } else { Keep::Spooled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binlog(number: u32) -> BinlogName {
        format!("binlog.{number:06}").parse().unwrap()
    }

    fn held(number: u32, memory: u64, age_millis: u64) -> HeldStretch {
        HeldStretch { binlog: binlog(number), memory, age: Duration::from_millis(age_millis) }
    }

    /// 1 and 2 are closed, 3 is not.
    fn keep(change: impl FnOnce(&mut Situation<'_>), at: Option<u32>) -> Keep {
        let hold = Hold::new([binlog(1), binlog(2)].into());
        let at = at.map(binlog);
        let mut situation = Situation {
            acknowledges: false,
            is_blocked: false,
            is_busy: false,
            binlog: at.as_ref(),
            came: 1,
            held: Vec::new(),
        };
        change(&mut situation);
        hold.keep(&situation)
    }

    #[test]
    fn a_backlog_waits_in_memory_and_what_is_being_written_does_not() {
        assert_eq!(keep(|_| {}, Some(1)), Keep::Held);
        assert_eq!(keep(|_| {}, Some(3)), Keep::Spooled);
        assert_eq!(keep(|_| {}, None), Keep::Held, "the first bytes of a connection");
    }

    #[test]
    fn nothing_waits_of_which_the_source_is_told_that_it_is_safe() {
        assert_eq!(keep(|now| now.acknowledges = true, Some(1)), Keep::Spooled);
    }

    #[test]
    fn what_is_on_the_disk_is_published_before_anything_is_held() {
        assert_eq!(keep(|now| now.is_busy = true, Some(1)), Keep::Spooled);
    }

    #[test]
    fn a_store_that_is_slow_or_refuses_gets_it_from_the_disk() {
        assert_eq!(keep(|now| now.is_blocked = true, Some(1)), Keep::Spooled);
        let waited = |millis| {
            let old = move |now: &mut Situation<'_>| (now.is_busy, now.held) = (true, vec![held(1, 9, millis)]);
            keep(old, Some(2))
        };
        assert_eq!((waited(1999), waited(2000)), (Keep::Held, Keep::Spooled));
    }

    #[test]
    fn memory_is_limited() {
        let full = |is_busy| {
            let change = move |now: &mut Situation<'_>| {
                (now.is_busy, now.held) = (is_busy, vec![held(1, HELD_MEMORY_MAX - 9, 2), held(1, 9, 1)]);
            };
            keep(change, Some(1))
        };
        // The stream is not read on until some of it is published.
        assert_eq!(full(true), Keep::Held);
        assert_eq!(full(false), Keep::Spooled, "one transaction");
        assert_eq!(keep(|now| now.came = HELD_AT_ONCE_MAX + 1, Some(1)), Keep::Spooled, "one event");
    }

    #[test]
    fn what_follows_the_backlog_waits_only_as_long_as_the_backlog_does() {
        let behind = |numbers: &'static [u32]| {
            keep(|now| (now.is_busy, now.held) = (true, numbers.iter().map(|n| held(*n, 9, 5)).collect()), Some(3))
        };
        assert_eq!((behind(&[2, 3]), behind(&[3])), (Keep::Held, Keep::Spooled));
    }

    #[test]
    fn nothing_waits_behind_the_end_of_a_connection() {
        let mut hold = Hold::new([binlog(1)].into());
        hold.end();
        let at = binlog(1);
        let held = vec![held(1, 9, 5)];
        let situation =
            Situation { acknowledges: false, is_blocked: false, is_busy: true, binlog: Some(&at), came: 0, held };
        assert_eq!(hold.keep(&situation), Keep::Spooled);
    }
}
