//! Faults 8, 9, 18, 40: an archive that lost, repeats or contradicts a segment either still gives the exact plan,
//! because the damage is not on the way, or says what is wrong and where.

use highwater_catalog::{Inventory, Micros, Place, Refusal, RestorePlan, RestorePoint, Segment, Stop, locate, plan};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::plan::needed;
use crate::support::{EPOCH, TIMELINE, Truth, digest, gtid, gtids, simple_truth, truths};

/// What a restore does, without the facts of segments that a test altered.
fn way(plan: &RestorePlan) -> (String, Vec<u64>) {
    (plan.dump.id.to_string(), plan.segments.iter().map(|segment| segment.sequence).collect())
}

/// The truth, its archive, a stop that is reachable, the segment to damage, and those on the way.
fn cases() -> impl Strategy<Value = (Truth, Inventory, Stop, usize, Vec<u64>)> {
    (truths(), any::<Index>(), any::<Index>()).prop_map(|(mut truth, cut, damaged)| {
        truth.dumps.push(0);
        let count = cut.index(truth.transactions.len() + 1);
        let from = truth.dumps.iter().copied().filter(|&dump| dump <= count).max().unwrap();
        let way = needed(&truth, from, count);
        let damaged = damaged.index(truth.cuts.len());
        (truth.clone(), truth.inventory(), truth.stop(count), damaged, way)
    })
}

proptest! {
    #[test]
    fn a_removed_segment_is_a_gap_with_exactly_its_transactions(
        (_, mut inventory, stop, damaged, way_true) in cases()
    ) {
        let whole = plan(&inventory, &stop).unwrap();
        let removed = inventory.segments.remove(damaged);
        match plan(&inventory, &stop) {
            Ok(plan) => {
                prop_assert!(!way_true.contains(&removed.sequence));
                prop_assert_eq!(way(&plan), way(&whole));
            }
            Err(Refusal::Gap { gap, .. }) => {
                prop_assert_eq!(&gap.missing, &removed.gtids_added.intersect(&whole.replay));
                prop_assert_eq!(gap.after.map(|label| label.sequence + 1), removed.sequence.checked_sub(1).map(|s| s + 1));
                prop_assert!(gap.before.is_none_or(|label| label.sequence == removed.sequence + 1));
            }
            Err(Refusal::BrokenChain { broken, .. }) => {
                prop_assert!(removed.gtids_added.is_empty() && way_true.contains(&removed.sequence));
                prop_assert_eq!(broken.segment.sequence, removed.sequence + 1);
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_repeated_segment_is_refused_where_it_is_needed((_, mut inventory, stop, damaged, way_true) in cases()) {
        let whole = plan(&inventory, &stop).unwrap();
        let copy = inventory.segments[damaged].clone();
        inventory.segments.insert(damaged, copy.clone());
        match plan(&inventory, &stop) {
            Ok(plan) => {
                prop_assert!(!way_true.contains(&copy.sequence));
                prop_assert_eq!(way(&plan), way(&whole));
            }
            Err(Refusal::BrokenChain { broken, .. }) => prop_assert_eq!(broken.segment.sequence, copy.sequence),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_exchanged_segment_is_refused_by_the_one_after_it((_, mut inventory, stop, damaged, way_true) in cases()) {
        let whole = plan(&inventory, &stop).unwrap();
        let sequence = damaged as u64;
        inventory.segments[damaged].plain_blake3 = digest(123_456);
        let linked = way_true.contains(&sequence) && way_true.contains(&(sequence + 1));
        match plan(&inventory, &stop) {
            Ok(plan) => {
                prop_assert!(!linked);
                prop_assert_eq!(way(&plan), way(&whole));
            }
            Err(Refusal::BrokenChain { broken, .. }) => {
                prop_assert!(linked);
                prop_assert_eq!(broken.segment.sequence, sequence + 1);
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_segment_that_claims_less_than_it_has_is_a_gap((truth, mut inventory, stop, damaged, _) in cases()) {
        let whole = plan(&inventory, &stop).unwrap();
        let (first, end) = truth.ranges()[damaged];
        let Some(dropped) = truth.transactions[first..end].first() else { return Ok(()) };
        let segment = &mut inventory.segments[damaged];
        let mut one = highwater_binlog::GtidSet::new();
        one.insert(&dropped.gtid);
        segment.gtids_added = segment.gtids_added.subtract(&one);
        segment.transactions -= 1;
        match plan(&inventory, &stop) {
            Ok(plan) => {
                prop_assert!(!whole.replay.contains(&dropped.gtid));
                prop_assert!(plan.replay == whole.replay && plan.dump == whole.dump);
            }
            Err(Refusal::Gap { gap, .. }) => prop_assert_eq!(gap.missing, one),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_plan_never_leaves_out_or_adds_a_transaction_whatever_is_altered(
        (_, mut inventory, stop, damaged, _) in cases(), other in any::<Index>(), what in 0u8..8
    ) {
        let other = inventory.segments[other.index(inventory.segments.len())].clone();
        alter(&mut inventory.segments[damaged], &other, what);
        if let Ok(plan) = plan(&inventory, &stop) {
            let given = plan.segments.iter().fold(plan.dump.gtids.clone(), |set, segment| set.union(&segment.gtids_added));
            prop_assert!(stop.gtids.is_subset(&given));
            prop_assert!(plan.dump.gtids.is_subset(&stop.gtids));
            let whole = plan.segments.split_last().map_or(&[][..], |(_, whole)| whole);
            prop_assert!(whole.iter().all(|segment| segment.gtids_added.is_subset(&stop.gtids)));
        }
    }
}

fn alter(segment: &mut Segment, other: &Segment, what: u8) {
    match what {
        0 => segment.gtids_before = other.gtids_before.clone(),
        1 => segment.gtids_added = other.gtids_added.clone(),
        2 => segment.sequence = other.sequence,
        3 => segment.previous_blake3 = other.previous_blake3,
        4 => segment.gtids_before = segment.gtids_before.union(&other.gtids_added),
        5 => segment.gtids_added = segment.gtids_added.union(&other.gtids_added),
        6 => (segment.start, segment.end) = (other.start, other.end),
        _ => segment.timeline = highwater_catalog::TimelineId(2),
    }
}

/// 24 transactions, segments 2 and 3 (9 to 16) never captured, a dump after the gap at 18.
fn archive_with_gap() -> (Truth, Inventory) {
    let mut truth = simple_truth(24);
    truth.dumps.push(18);
    let mut inventory = truth.inventory();
    inventory.segments.retain(|segment| segment.sequence != 2 && segment.sequence != 3);
    let mut previous: Option<Segment> = None;
    for (sequence, segment) in (0u64..).zip(&mut inventory.segments) {
        segment.sequence = sequence;
        segment.previous_blake3 = previous.map(|previous| previous.plain_blake3);
        previous = Some(segment.clone());
    }
    (truth, inventory)
}

#[test]
fn both_sides_of_a_gap_are_reachable_and_its_inside_is_not() {
    let (truth, inventory) = archive_with_gap();
    for count in 0..=24 {
        let result = plan(&inventory, &truth.stop(count));
        match count {
            0..=8 | 18..=24 => assert!(result.is_ok(), "{count}: {result:?}"),
            _ => {
                let Err(Refusal::Gap { gap, reachable }) = result else { panic!("{count}: {result:?}") };
                assert_eq!(gap.missing, gtids(&format!("9-{}", count.min(16))));
                assert_eq!((gap.after.unwrap().sequence, gap.before.unwrap().sequence), (1, 2));
                assert_eq!(reachable.unwrap().time, Some(Micros(9 * EPOCH)));
            }
        }
    }
}

#[test]
fn a_time_inside_a_gap_is_refused_and_the_last_commit_before_it_is_not() {
    let (_, inventory) = archive_with_gap();
    // Transaction n commits at n + 1 seconds; the gap is 9 to 16.
    let at = |time: u64| locate(&inventory, None, &RestorePoint::Time(Micros(time)));
    let Place::Known(stop) = at(9 * EPOCH).unwrap().place else { panic!() };
    assert_eq!(stop.gtids, gtids("1-8"));
    assert_eq!(plan(&inventory, &stop).unwrap().replay, gtids("1-8"));
    for time in [9 * EPOCH + 1, 13 * EPOCH, 18 * EPOCH - 1] {
        let Err(Refusal::Gap { gap, reachable }) = at(time) else { panic!("{time}") };
        assert_eq!(gap.missing, gtids("9-16"));
        assert_eq!(reachable.unwrap().gtids, gtids("1-8"));
    }
    // After the gap the dump decides, once its reader knows the transaction.
    assert!(matches!(at(18 * EPOCH).unwrap().place, Place::Within(_)));
}

#[test]
fn a_gtid_inside_a_gap_is_refused_with_the_gap() {
    let (_, inventory) = archive_with_gap();
    for point in [RestorePoint::BeforeGtid(gtid("12")), RestorePoint::AfterGtid(gtid("12"))] {
        let Err(Refusal::Gap { gap, reachable }) = locate(&inventory, None, &point) else { panic!() };
        assert_eq!(gap.missing, gtids("9-16"));
        assert_eq!(reachable.unwrap().gtids, gtids("1-8"));
    }
}

#[test]
fn a_time_at_the_very_beginning_is_refused_unless_the_dump_was_complete_by_then() {
    let truth = simple_truth(8);
    let mut inventory = truth.inventory();
    let stop = |time| Stop { point: RestorePoint::Time(Micros(time)), ..truth.stop(0) };
    inventory.dumps[0].finished = Micros(500);
    assert!(matches!(plan(&inventory, &stop(499)), Err(Refusal::BeforeEarliest { .. })));
    assert!(plan(&inventory, &stop(500)).is_ok());
    // One archived transaction before the stop proves by its commit time that the dump is early enough.
    let after_one = Stop { point: RestorePoint::Time(Micros(499)), ..truth.stop(1) };
    assert!(plan(&inventory, &after_one).is_ok());
}

#[test]
fn a_time_at_the_beginning_of_a_stretch_after_a_gap_needs_a_dump_that_was_complete_by_then() {
    let (truth, mut inventory) = archive_with_gap();
    inventory.dumps.push(crate::support::dump(7, truth.after(16)));
    inventory.dumps.last_mut().unwrap().finished = Micros(17 * EPOCH);
    let stop = |time| Stop { point: RestorePoint::Time(Micros(time)), ..truth.stop(16) };
    assert!(matches!(plan(&inventory, &stop(17 * EPOCH - 1)), Err(Refusal::Gap { .. })));
    assert!(plan(&inventory, &stop(17 * EPOCH)).is_ok());
}

#[test]
fn a_stop_that_skips_transactions_is_not_a_beginning_of_the_history() {
    let truth = simple_truth(12);
    let stop = Stop { gtids: gtids("1-5:7-10"), timeline: TIMELINE, ..truth.stop(0) };
    let refused = plan(&truth.inventory(), &stop).unwrap_err();
    assert!(matches!(&refused, Refusal::NotABeginning { segment, .. } if segment.sequence == 1), "{refused:?}");
}

#[test]
fn transactions_beyond_the_end_are_a_gap_behind_the_last_segment() {
    let truth = simple_truth(12);
    let stop = Stop { gtids: gtids("1-14"), ..truth.stop(0) };
    let Err(Refusal::Gap { gap, .. }) = plan(&truth.inventory(), &stop) else { panic!() };
    assert_eq!((gap.missing, gap.after.unwrap().sequence, gap.before), (gtids("13-14"), 2, None));
}

#[test]
fn a_dump_from_before_the_first_segment_shows_the_gap_between() {
    let mut truth = simple_truth(12);
    truth.starting = gtids("1-100");
    truth.transactions.iter_mut().zip(101..).for_each(|(transaction, number)| {
        transaction.gtid = gtid(&format!("{number}"));
    });
    let mut inventory = truth.inventory();
    inventory.dumps[0].gtids = gtids("1-90");
    let Err(Refusal::Gap { gap, .. }) = plan(&inventory, &truth.stop(4)) else { panic!() };
    assert_eq!((gap.missing, gap.after, gap.before.unwrap().sequence), (gtids("91-100"), None, 0));
}

#[test]
fn transactions_without_gtid_are_not_replayed() {
    let truth = simple_truth(12);
    let mut inventory = truth.inventory();
    inventory.segments[1].transactions += 1;
    assert!(plan(&inventory, &truth.stop(4)).is_ok());
    let refused = plan(&inventory, &truth.stop(9)).unwrap_err();
    assert!(matches!(&refused, Refusal::WithoutGtids { segment, .. } if segment.sequence == 1), "{refused:?}");
}

#[test]
fn a_timeline_without_gtids_is_not_restored_as_if_it_had_no_transactions() {
    let truth = simple_truth(12);
    let mut inventory = truth.inventory();
    for segment in &mut inventory.segments {
        (segment.gtids_before, segment.gtids_added) = (gtids(""), gtids(""));
    }
    inventory.dumps.iter_mut().for_each(|dump| dump.gtids = gtids(""));
    let refused = plan(&inventory, &truth.stop(0)).unwrap_err();
    assert!(matches!(&refused, Refusal::WithoutGtids { segment, .. } if segment.sequence == 0), "{refused:?}");
}

#[test]
fn overlapping_bytes_of_one_binlog_break_the_chain() {
    let truth = simple_truth(12);
    let mut inventory = truth.inventory();
    inventory.segments[1].start -= 1;
    let refused = plan(&inventory, &truth.stop(12)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "segment 1 (binlog.000001:599-1200) of timeline 0001 begins before the segment before it ends, at offset 600"
    );
}

#[test]
fn a_number_that_was_skipped_breaks_the_chain_though_nothing_else_tells() {
    let truth = simple_truth(12);
    let mut inventory = truth.inventory();
    inventory.segments[2].sequence = 3;
    let refused = plan(&inventory, &truth.stop(12)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "segment 3 (binlog.000001:1200-1800) of timeline 0001 follows number 1: the segments between are gone"
    );
}
