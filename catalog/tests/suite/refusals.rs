//! What an operator reads when there is no way: the text, the hint, and which timeline is meant.

use highwater_catalog::{Inventory, Micros, Place, Refusal, RestorePoint, TimelineId, locate, plan};

use crate::support::{EPOCH, digest, dump, gtid, gtids, simple_truth};

fn said(refusal: &Refusal) -> (String, String) {
    (refusal.to_string(), refusal.hint())
}

fn refused(inventory: &Inventory, point: &RestorePoint) -> (String, String) {
    said(&locate(inventory, None, point).unwrap_err())
}

/// Transaction n commits at n + 1 seconds; the only dump has the first five.
fn archive() -> Inventory {
    let mut truth = simple_truth(12);
    truth.dumps = vec![5];
    truth.inventory()
}

#[test]
fn an_empty_archive_says_so() {
    let (text, hint) = refused(&Inventory::default(), &RestorePoint::Latest);
    assert_eq!(text, "the archive has no timeline");
    assert_eq!(hint, "start `highwater agent`: it opens a timeline and takes the first dump");
}

#[test]
fn an_unknown_timeline_is_answered_with_the_known_ones() {
    let refusal = locate(&archive(), Some(TimelineId(3)), &RestorePoint::Latest).unwrap_err();
    assert_eq!(said(&refusal), ("the archive has no timeline 0003".to_owned(), "it has 0001".to_owned()));
}

#[test]
fn an_archive_without_a_dump_says_so() {
    let mut inventory = archive();
    inventory.dumps.clear();
    let (text, hint) = refused(&inventory, &RestorePoint::BeforeGtid(gtid("7")));
    assert_eq!(text, "timeline 0001 has no full dump");
    assert_eq!(hint, "run `highwater dump`; points before it stay out of reach");
    let Place::Known(stop) = locate(&inventory, None, &RestorePoint::Latest).unwrap().place else { panic!() };
    assert!(matches!(plan(&inventory, &stop), Err(Refusal::NoDump { .. })));
}

#[test]
fn a_point_before_every_dump_is_answered_with_the_earliest() {
    let (text, hint) = refused(&archive(), &RestorePoint::Time(Micros(3 * EPOCH)));
    assert_eq!(
        text,
        "1970-01-01T00:00:03.000000Z is before the earliest point of timeline 0001, 1970-01-01T00:00:09.000000Z (dump \
         20261122T150412Z-0000)"
    );
    assert_eq!(hint, "`--to 1970-01-01T00:00:09.000000Z` or later is reachable");
    // What the hint names is reachable.
    assert!(matches!(
        locate(&archive(), None, &RestorePoint::Time(Micros(9 * EPOCH))).unwrap().place,
        Place::Within(segment) if segment.sequence == 2
    ));
    let (text, _) = refused(&archive(), &RestorePoint::BeforeGtid(gtid("5")));
    assert!(text.starts_with(&format!("the point before {} is before the earliest", gtid("5"))), "{text}");
    assert!(locate(&archive(), None, &RestorePoint::BeforeGtid(gtid("6"))).is_ok());
}

#[test]
fn a_gtid_that_only_the_starting_set_has_is_too_early() {
    let mut inventory = archive();
    inventory.timelines[0].starting_gtids = gtids("100");
    let (text, _) = refused(&inventory, &RestorePoint::AfterGtid(gtid("100")));
    assert!(text.starts_with(&format!("the point after {} is before the earliest point", gtid("100"))), "{text}");
}

#[test]
fn a_time_after_the_last_commit_is_answered_with_latest() {
    let (text, hint) = refused(&archive(), &RestorePoint::Time(Micros(13 * EPOCH + 1)));
    assert_eq!(text, "1970-01-01T00:00:13.000001Z is after the end of timeline 0001, 1970-01-01T00:00:13.000000Z");
    assert_eq!(hint, "`--to latest` restores all there is; the latest time is `--to 1970-01-01T00:00:13.000000Z`");
    let found = locate(&archive(), None, &RestorePoint::Time(Micros(13 * EPOCH))).unwrap();
    assert!(matches!(found.place, Place::Known(stop) if stop.gtids == gtids("1-12")));
}

#[test]
fn a_gap_is_named_with_its_transactions_and_place() {
    let truth = simple_truth(12);
    let mut inventory = truth.inventory();
    inventory.segments.remove(1);
    let (text, hint) = said(&plan(&inventory, &truth.stop(10)).unwrap_err());
    assert_eq!(
        text,
        format!(
            "timeline 0001 lacks {}, between segment 0 (binlog.000001:0-600) and segment 2 (binlog.000001:1200-1800)",
            gtids("5-8")
        )
    );
    assert_eq!(
        hint,
        "the last point before it is `--to 1970-01-01T00:00:05.000000Z`; a dump taken after the gap reaches later ones"
    );
    // What the hint names is reachable.
    let found = locate(&inventory, None, &RestorePoint::Time(Micros(5 * EPOCH))).unwrap();
    let Place::Known(stop) = found.place else { panic!("{found:?}") };
    assert_eq!(plan(&inventory, &stop).unwrap().stop.gtids, gtids("1-4"));
}

#[test]
fn a_broken_chain_is_named_with_its_segment() {
    let truth = simple_truth(12);
    let mut inventory = truth.inventory();
    inventory.segments[1].previous_blake3 = Some(digest(99));
    let (text, hint) = said(&plan(&inventory, &truth.stop(10)).unwrap_err());
    assert_eq!(
        text,
        "segment 1 (binlog.000001:600-1200) of timeline 0001 was written after another segment than the one before it"
    );
    assert_eq!(
        hint,
        "the last point before it is `--to 1970-01-01T00:00:05.000000Z`; look for the original objects in another copy \
         of the store"
    );
}

#[test]
fn an_unknown_gtid_and_position_are_named() {
    let (text, hint) = refused(&archive(), &RestorePoint::BeforeGtid(gtid("13")));
    assert_eq!(text, format!("no segment has transaction {}", gtid("13")));
    assert!(hint.contains("highwater find") && hint.contains("highwater status"), "{hint}");
    let (text, hint) = refused(&archive(), &RestorePoint::Position("binlog.000009:4".parse().unwrap()));
    assert_eq!(text, "no segment has position binlog.000009:4");
    assert!(hint.contains("highwater list segments"), "{hint}");
}

#[test]
fn a_huge_set_is_cut_in_messages() {
    let truth = simple_truth(4);
    let numbers: Vec<String> = (1..5000).map(|number| (number * 2).to_string()).collect();
    let stop = highwater_catalog::Stop { gtids: gtids(&numbers.join(":")), ..truth.stop(0) };
    let text = plan(&truth.inventory(), &stop).unwrap_err().to_string();
    assert!(text.len() < 700 && text.contains("… (4997 transactions)"), "{text}");
}

/// The first timeline ended at 12 (dump at 5); the second one began there, its dump at 12, and went on to 20.
fn two_timelines() -> Inventory {
    let mut truth = simple_truth(20);
    truth.dumps = vec![5];
    let mut inventory = truth.inventory();
    let second = TimelineId(2);
    let mut timeline = inventory.timelines[0].clone();
    (timeline.id, timeline.parent, timeline.starting_gtids) = (second, Some(TimelineId(1)), gtids("1-12"));
    inventory.timelines.push(timeline);
    for (sequence, segment) in (0u64..).zip(&mut inventory.segments[3..]) {
        (segment.timeline, segment.sequence) = (second, sequence);
    }
    inventory.segments[3].previous_blake3 = None;
    inventory.dumps.push(dump(2, gtids("1-12")));
    inventory.dumps[1].timeline = second;
    inventory.dumps[1].finished = Micros(13 * EPOCH + 5);
    inventory
}

#[test]
fn without_a_wanted_timeline_the_newest_that_has_the_point_is_taken() {
    let inventory = two_timelines();
    let at = |point: RestorePoint| locate(&inventory, None, &point).unwrap().timeline.0;
    assert_eq!(at(RestorePoint::Latest), 2);
    assert_eq!(at(RestorePoint::Time(Micros(16 * EPOCH))), 2);
    assert_eq!(at(RestorePoint::AfterGtid(gtid("13"))), 2);
    assert_eq!(at(RestorePoint::AfterGtid(gtid("12"))), 1);
    assert_eq!(at(RestorePoint::BeforeGtid(gtid("7"))), 1);
    assert_eq!(at(RestorePoint::Position("binlog.000001:1300".parse().unwrap())), 1);
}

#[test]
fn a_point_that_no_timeline_has_is_refused_by_the_newest() {
    let inventory = two_timelines();
    let (text, _) = refused(&inventory, &RestorePoint::Time(Micros(99 * EPOCH)));
    assert!(text.contains("after the end of timeline 0002"), "{text}");
    let (text, _) = refused(&inventory, &RestorePoint::BeforeGtid(gtid("3")));
    assert!(text.contains("before the earliest point of timeline 0002"), "{text}");
    let (text, _) = refused(&inventory, &RestorePoint::BeforeGtid(gtid("21")));
    assert!(text.contains("no segment has transaction"), "{text}");
}
