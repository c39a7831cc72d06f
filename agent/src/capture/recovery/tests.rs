use std::fs;
use std::path::Path;

use highwater_binlog::{GtidSet, MAGIC, SegmentFacts};
use highwater_catalog::{Micros, Timeline, TimelineId};

use super::*;
use crate::capture::spool::Keep;

/// A binlog that a server wrote.
const BINLOG: &[u8] = include_bytes!("../../../../binlog/tests/data/rows.binlog");

const POLICY: SegmentPolicy = SegmentPolicy { bytes_max: 1 << 20, age_micros_max: 1_000_000 };

fn tip() -> Tip {
    let (reason, starting_gtids) = (String::new(), GtidSet::new());
    Tip::new(&Timeline { id: TimelineId(1), parent: None, reason, starting_gtids, created: Micros(0) })
}

fn repository() -> RepositoryId {
    RepositoryId::from_random_bytes([7; 16])
}

/// What an agent that died leaves when these bytes of the binlog are on its disk.
fn left_behind(folder: &Path, bytes: &[u8]) {
    left_behind_of(folder, bytes, &Lineage::of(repository(), &tip()));
}

fn left_behind_of(folder: &Path, bytes: &[u8], lineage: &Lineage) {
    let name = StretchName {
        number: 0,
        timeline: TimelineId(1),
        server: "3e11fa47-71ca-11e1-9e33-c80aa9429562".parse().unwrap(),
        binlog: "binlog.000042".parse().unwrap(),
        start: 0,
        follows: lineage.mark(),
    };
    let (mut spool, _) = Spool::open(folder, None).unwrap();
    let len = EventHeader::read(&bytes[MAGIC.len()..]).unwrap().event_len as usize;
    spool.begin(name, &bytes[MAGIC.len()..MAGIC.len() + len], Keep::Spooled).unwrap();
    spool.append(&bytes[MAGIC.len()..]).unwrap();
    spool.sync().unwrap();
}

/// How many transactions the next agent finds, and how many files it puts aside.
fn found(folder: &Path) -> (u64, u64) {
    found_behind(folder, &mut tip())
}

fn found_behind(folder: &Path, tip: &mut Tip) -> (u64, u64) {
    let (spool, left) = Spool::open(folder, None).unwrap();
    let jobs = recover(&spool, &left, repository(), tip, POLICY).unwrap();
    let transactions = jobs.iter().map(|job| job.cut.facts.transactions).sum();
    (transactions, spool.set_aside_count().unwrap())
}

fn found_of(bytes: &[u8]) -> (u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    left_behind(folder.path(), bytes);
    found(folder.path())
}

/// Where events in the middle of the binlog begin.
fn middle() -> usize {
    let mut at = MAGIC.len();
    while at < BINLOG.len() / 2 {
        at += EventHeader::read(&BINLOG[at..]).unwrap().event_len as usize;
    }
    at
}

#[test]
fn what_was_not_written_when_the_agent_died_is_no_damage() {
    let (all, aside) = found_of(BINLOG);
    assert!(all > 1 && aside == 0, "{all} {aside}");
    for len in [BINLOG.len() - 1, middle() + 7, middle()] {
        let (transactions, aside) = found_of(&BINLOG[..len]);
        assert!(transactions < all || len > middle() + 7, "{transactions} at {len}");
        assert_eq!(aside, 0, "at {len}");
        // A file system that knew the length already.
        let mut zeros = BINLOG.to_vec();
        zeros[len..].fill(0);
        assert_eq!(found_of(&zeros), (transactions, 0), "at {len}");
    }
}

#[test]
fn damage_in_front_of_whole_events_is_kept_for_somebody_to_look_at() {
    let (all, _) = found_of(BINLOG);
    // A byte of an event, and the length of one.
    for (at, byte) in [(middle() + 25, 1), (middle() + 11, 0x0f)] {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = BINLOG.to_vec();
        bytes[at] ^= byte;
        left_behind(folder.path(), &bytes);
        let (transactions, aside) = found(folder.path());
        assert!(transactions < all, "{transactions} of {all}");
        assert_eq!(aside, 1, "byte {at}");
        let kept = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let kept = kept.filter(|path| path.extension().is_some_and(|ending| ending == "set-aside"));
        assert_eq!(kept.map(|path| fs::read(path).unwrap()).collect::<Vec<_>>(), [bytes]);
        // Another death before it was published: it is found again.
        assert_eq!(found(folder.path()), (transactions, 1));
    }
}

/// A segment of a server's binlog that comes before, without transactions.
fn earlier(server: &str, binlog: &str, end: u64) -> Cut {
    let gtids_added = GtidSet::new();
    let (start, first_commit_micros, last_commit_micros) = (end - 100, None, None);
    let facts =
        SegmentFacts { start, end, events: 1, transactions: 0, gtids_added, first_commit_micros, last_commit_micros };
    Cut { server: server.parse().unwrap(), binlog: binlog.parse().unwrap(), facts }
}

#[test]
fn what_does_not_follow_the_archive_is_put_aside() {
    const OTHER: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";
    let (all, _) = found_of(BINLOG);
    let with_gtid = |gtid: &str| Tip { captured: gtid.parse().unwrap(), ..tip() };
    let of = |tip: &Tip| Lineage::of(repository(), tip);
    let behind = |cut: &Cut| {
        let mut lineage = of(&tip());
        lineage.advance(cut);
        lineage
    };
    let cases = [
        // A newer store was replaced by an older copy, or an earlier part of the spool is gone.
        (of(&with_gtid(&format!("{OTHER}:1-7"))), tip()),
        // Another machine went on with the archive.
        (of(&tip()), with_gtid(&format!("{OTHER}:1-7"))),
        // Without GTIDs: bytes before it are missing.
        (behind(&earlier(OTHER, "binlog.000041", 500)), tip()),
        (Lineage::of(RepositoryId::from_random_bytes([8; 16]), &tip()), tip()),
    ];
    for (index, (lineage, mut tip)) in cases.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        left_behind_of(folder.path(), BINLOG, &lineage);
        assert_eq!(found_behind(folder.path(), &mut tip), (0, 1), "case {index}");
    }
    // One that was fetched again behind it is no worse for it.
    let folder = tempfile::tempdir().unwrap();
    left_behind_of(folder.path(), BINLOG, &behind(&earlier(OTHER, "binlog.000041", 500)));
    left_behind(folder.path(), BINLOG);
    assert_eq!(found(folder.path()), (all, 1));
    // What was begun behind the same is taken, and what the archive has a part of.
    let (same, folder) = (with_gtid(&format!("{OTHER}:1-7")), tempfile::tempdir().unwrap());
    left_behind_of(folder.path(), BINLOG, &of(&same));
    assert_eq!(found_behind(folder.path(), &mut same.clone()), (all, 0));
    let (mut partly, folder) = (same, tempfile::tempdir().unwrap());
    left_behind_of(folder.path(), BINLOG, &of(&tip()));
    let server = "3e11fa47-71ca-11e1-9e33-c80aa9429562".parse().unwrap();
    let small = SegmentPolicy { bytes_max: 1, ..POLICY };
    let (spool, left) = Spool::open(folder.path(), None).unwrap();
    let mut jobs = recover(&spool, &left, repository(), &mut tip(), small).unwrap();
    let first = jobs.swap_remove(jobs.len() / 2).cut;
    partly.ends.insert((server, first.binlog), first.facts.end);
    let (rest, aside) = found_behind(folder.path(), &mut partly);
    assert!(rest > 0 && rest < all && aside == 0, "{rest} of {all}, {aside}");
}
