//! Plans of an undamaged archive are exact.

use highwater_catalog::{Location, Micros, Place, Refusal, RestorePoint, Stop, locate, plan};
use proptest::prelude::*;

use crate::support::{EPOCH, TIMELINE, Truth, gtid, gtids, simple_truth, truths};

/// The segments between a dump and a stop, by the truth: those that have at least one of the transactions, and all that
/// lie between these.
pub(crate) fn needed(truth: &Truth, from: usize, to: usize) -> Vec<u64> {
    let ranges = truth.ranges();
    let has = |(start, end): &(usize, usize)| from.max(*start) < to.min(*end);
    let first = ranges.iter().position(has);
    let last = ranges.iter().rposition(has);
    match (first, last) {
        (Some(first), Some(last)) => (first as u64..=last as u64).collect(),
        _ => Vec::new(),
    }
}

/// What a reader of the segment finds: after how many transactions of the history a time stops.
fn stop_by_time(truth: &Truth, time: Micros) -> Option<usize> {
    truth.transactions.iter().position(|transaction| transaction.committed > time)
}

proptest! {
    #[test]
    fn every_boundary_is_reached_with_exactly_its_transactions(truth in truths(), cut in any::<prop::sample::Index>()) {
        let count = cut.index(truth.transactions.len() + 1);
        let result = plan(&truth.inventory(), &truth.stop(count));
        let Some(from) = truth.dumps.iter().copied().filter(|&dump| dump <= count).max() else {
            prop_assert!(matches!(result, Err(Refusal::BeforeEarliest { .. })), "{:?}", result);
            return Ok(());
        };
        let plan = result.unwrap();
        prop_assert_eq!(&plan.dump.gtids, &truth.after(from));
        prop_assert_eq!(&plan.replay, &truth.after(count).subtract(&truth.after(from)));
        let sequences: Vec<u64> = plan.segments.iter().map(|segment| segment.sequence).collect();
        prop_assert_eq!(sequences, needed(&truth, from, count));
        // The proof, once more and by the definition: dump and segments give the stop, and nothing before the last
        // segment is left out.
        let mut given = plan.dump.gtids.clone();
        for (at, segment) in plan.segments.iter().enumerate() {
            prop_assert!(segment.gtids_before.is_subset(&given));
            given = given.union(&segment.gtids_added);
            prop_assert!(at + 1 == plan.segments.len() || given.is_subset(&plan.stop.gtids));
        }
        prop_assert!(plan.stop.gtids.is_subset(&given));
    }

    #[test]
    fn a_time_lies_in_the_segment_of_the_first_later_commit(truth in truths(), offset in 0u64..1500) {
        let time = Micros(EPOCH - 300 + offset);
        let inventory = truth.inventory();
        let found = locate(&inventory, None, &RestorePoint::Time(time));
        let Some(count) = stop_by_time(&truth, time) else {
            let latest = truth.transactions.iter().map(|transaction| transaction.committed).max();
            if latest == Some(time) {
                let Ok(Location { place: Place::Known(stop), .. }) = found else { panic!("{found:?}") };
                prop_assert_eq!(stop.gtids, truth.after(truth.transactions.len()));
            } else {
                prop_assert!(matches!(found, Err(Refusal::AfterLatest { latest: at, .. }) if at == latest), "{:?}", found);
            }
            return Ok(());
        };
        let at = truth.ranges().iter().position(|&(start, end)| start <= count && count < end).unwrap();
        match found {
            Ok(Location { place: Place::Within(segment), .. }) => prop_assert_eq!(segment.sequence, at as u64),
            Err(Refusal::BeforeEarliest { .. }) => {
                // No dump leads to any point of that segment.
                prop_assert!(truth.dumps.iter().all(|&dump| dump > truth.ranges()[at].1));
                return Ok(());
            }
            other => panic!("{other:?}"),
        }
        let stop = Stop { point: RestorePoint::Time(time), ..truth.stop(count) };
        let dump = truth.dumps.iter().copied().filter(|&dump| dump <= count).max();
        match plan(&inventory, &stop) {
            Ok(plan) => prop_assert_eq!(Some(plan.dump.gtids), dump.map(|dump| truth.after(dump))),
            Err(Refusal::BeforeEarliest { .. }) => prop_assert_eq!(dump, None),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_gtid_lies_in_the_segment_that_added_it(truth in truths(), chosen in any::<prop::sample::Index>()) {
        let at = chosen.index(truth.transactions.len());
        let wanted = truth.transactions[at].gtid.clone();
        let index = truth.ranges().iter().position(|&(start, end)| start <= at && at < end).unwrap();
        let (_, end) = truth.ranges()[index];
        for (point, fits) in [
            (RestorePoint::BeforeGtid(wanted.clone()), truth.dumps.iter().any(|&dump| dump <= at)),
            (RestorePoint::AfterGtid(wanted.clone()), truth.dumps.iter().any(|&dump| dump <= end)),
        ] {
            match locate(&truth.inventory(), Some(TIMELINE), &point) {
                Ok(Location { place: Place::Within(segment), .. }) => {
                    prop_assert!(fits);
                    prop_assert_eq!(segment.sequence, index as u64);
                }
                Err(Refusal::BeforeEarliest { .. }) => prop_assert!(!fits),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_order_of_the_inventory_does_not_matter(truth in truths(), cut in any::<prop::sample::Index>()) {
        let count = cut.index(truth.transactions.len() + 1);
        let mut inventory = truth.inventory();
        let expected = plan(&inventory, &truth.stop(count));
        inventory.segments.reverse();
        inventory.dumps.reverse();
        prop_assert_eq!(plan(&inventory, &truth.stop(count)), expected);
    }
}

#[test]
fn latest_is_the_end_of_the_last_segment() {
    let truth = simple_truth(10);
    let found = locate(&truth.inventory(), None, &RestorePoint::Latest).unwrap();
    let Place::Known(stop) = found.place else { panic!("{found:?}") };
    let plan = plan(&truth.inventory(), &stop).unwrap();
    assert_eq!(plan.replay, gtids("1-10"));
    assert_eq!(plan.segments.len(), 3);
}

#[test]
fn latest_is_the_newest_dump_where_it_is_ahead_of_the_binlog() {
    let truth = simple_truth(10);
    let mut inventory = truth.inventory();
    inventory.segments.truncate(1);
    inventory.dumps.push(crate::support::dump(1, gtids("1-9")));
    let found = locate(&inventory, None, &RestorePoint::Latest).unwrap();
    let Place::Known(stop) = found.place else { panic!("{found:?}") };
    let plan = plan(&inventory, &stop).unwrap();
    assert_eq!((plan.stop.gtids, plan.segments.len()), (gtids("1-9"), 0));
}

#[test]
fn a_dump_without_any_binlog_is_restorable_as_latest_only() {
    let mut inventory = simple_truth(4).inventory();
    inventory.segments.clear();
    let found = locate(&inventory, None, &RestorePoint::Latest).unwrap();
    let Place::Known(stop) = found.place else { panic!("{found:?}") };
    assert_eq!(plan(&inventory, &stop).unwrap().dump, inventory.dumps[0]);
    let refused = locate(&inventory, None, &RestorePoint::Time(Micros(EPOCH))).unwrap_err();
    assert!(matches!(refused, Refusal::AfterLatest { latest: None, .. }), "{refused:?}");
}

#[test]
fn replay_from_the_middle_of_a_binlog_names_the_segment_with_its_head() {
    let mut truth = simple_truth(24);
    truth.dumps.push(18);
    let inventory = truth.inventory();
    let plan = plan(&inventory, &truth.stop(20)).unwrap();
    assert_eq!(plan.segments[0].sequence, 4);
    assert_eq!(plan.segments[0].start, 600);
    let head = plan.binlog_head.unwrap();
    assert_eq!((head.sequence, head.start, head.binlog), (3, 0, plan.segments[0].binlog.clone()));
}

#[test]
fn positions_are_found_in_their_binlog_and_at_its_end() {
    let truth = simple_truth(20);
    let inventory = truth.inventory();
    let place = |text: &str| {
        locate(&inventory, None, &RestorePoint::Position(text.parse().unwrap())).map(|location| match location.place {
            Place::Within(segment) => segment.sequence,
            Place::Known(_) => u64::MAX,
        })
    };
    assert_eq!(place("binlog.000001:4"), Ok(0));
    assert_eq!(place("binlog.000001:599"), Ok(0));
    assert_eq!(place("binlog.000001:600"), Ok(1));
    // The end of the first binlog is the beginning of the next one's first segment.
    assert_eq!(place("binlog.000001:1800"), Ok(3));
    assert_eq!(place("binlog.000002:1200"), Ok(u64::MAX));
    for unknown in ["binlog.000001:1801", "binlog.000002:1201", "binlog.000003:4"] {
        assert!(matches!(place(unknown), Err(Refusal::UnknownPosition { .. })), "{unknown}");
    }
}

#[test]
fn a_position_in_bytes_that_were_left_out_is_unknown() {
    let truth = simple_truth(8);
    let mut inventory = truth.inventory();
    inventory.segments[1].start += 1000;
    inventory.segments[1].end += 1000;
    assert!(plan(&inventory, &truth.stop(8)).is_ok());
    for (offset, known) in [(599, true), (600, false), (1599, false), (1600, true)] {
        let point = RestorePoint::Position(format!("binlog.000001:{offset}").parse().unwrap());
        assert_eq!(locate(&inventory, None, &point).is_ok(), known, "{offset}");
    }
}

#[test]
fn a_binlog_of_two_servers_makes_a_position_ambiguous() {
    let mut inventory = simple_truth(8).inventory();
    inventory.segments[1].server = crate::support::server(9);
    let point = RestorePoint::Position("binlog.000001:4".parse().unwrap());
    let refused = locate(&inventory, None, &point).unwrap_err();
    assert!(matches!(&refused, Refusal::AmbiguousPosition { servers, .. } if servers.len() == 2), "{refused:?}");
}

#[test]
fn the_point_before_the_first_transaction_is_the_dump_alone() {
    let truth = simple_truth(8);
    let point = RestorePoint::BeforeGtid(gtid("1"));
    let found = locate(&truth.inventory(), None, &point).unwrap();
    let Place::Within(segment) = found.place else { panic!("{found:?}") };
    let stop = Stop { timeline: TIMELINE, point, gtids: segment.gtids_before, first_excluded: None };
    let plan = plan(&truth.inventory(), &stop).unwrap();
    assert!(plan.replay.is_empty() && plan.segments.is_empty());
}
