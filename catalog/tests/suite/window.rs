//! What `status` is told.

use highwater_catalog::{Break, ChainFault, Inventory, Micros, windows};
use proptest::prelude::*;

use crate::support::{EPOCH, Truth, dump, gtids, simple_truth, truths};

proptest! {
    #[test]
    fn an_undamaged_timeline_is_one_span_from_its_oldest_dump_to_its_end(truth in truths()) {
        let windows = windows(&truth.inventory());
        let [window] = windows.as_slice() else { panic!("{windows:?}") };
        let oldest = truth.dumps.iter().copied().min().unwrap();
        let end = truth.after(truth.transactions.len());
        prop_assert!(window.breaks.is_empty());
        prop_assert_eq!(window.spans.len(), 1);
        prop_assert_eq!(&window.spans[0].earliest.gtids, &truth.after(oldest));
        prop_assert_eq!(&window.spans[0].latest.gtids, &end);
        prop_assert_eq!(&window.high_water, &end);
        let latest = truth.transactions.iter().map(|transaction| transaction.committed).max();
        prop_assert_eq!((window.last_commit, window.spans[0].latest.time), (latest, latest));
        prop_assert_eq!(window.transactions, truth.transactions.len() as u64);
        prop_assert_eq!(window.segments, truth.cuts.len() as u64);
    }

    #[test]
    fn a_stop_at_the_earliest_time_includes_the_oldest_dump(truth in truths()) {
        let windows = windows(&truth.inventory());
        let earliest = &windows[0].spans[0].earliest;
        let count = truth.transactions.iter().position(|transaction| transaction.committed > earliest.time);
        prop_assert!(earliest.gtids.is_subset(&truth.after(count.unwrap_or(truth.transactions.len()))));
    }
}

#[test]
fn bytes_and_dumps_are_summed() {
    let inventory = simple_truth(8).inventory();
    let window = &windows(&inventory)[0];
    assert_eq!((window.binlog_plain_bytes, window.dumps), (1200, 1));
    let of_three_objects = (100 / 3 + 200) + (60 / 3 + 200) + (440 / 3 + 200);
    assert_eq!(window.binlog_stored_bytes, 600 / 3 + 200 + of_three_objects);
    assert_eq!(window.dump_stored_bytes, 5000 / 3 + 200 + 200 + 70 / 3 + 200);
}

#[test]
fn a_gap_splits_the_window_where_a_dump_follows_it() {
    let truth = Truth { dumps: vec![2, 14], ..simple_truth(20) };
    let mut inventory = truth.inventory();
    inventory.segments.remove(2);
    let window = &windows(&inventory)[0];
    let spans: Vec<_> = window
        .spans
        .iter()
        .map(|span| {
            (span.earliest.gtids.to_string(), span.earliest.time, span.latest.gtids.to_string(), span.latest.time)
        })
        .collect();
    let text = |numbers: &str| gtids(numbers).to_string();
    assert_eq!(
        spans,
        [
            (text("1-2"), Micros(5 * EPOCH), text("1-8"), Some(Micros(9 * EPOCH))),
            (text("1-14"), Micros(17 * EPOCH), text("1-20"), Some(Micros(21 * EPOCH))),
        ]
    );
    let [Break::Gap(gap)] = window.breaks.as_slice() else { panic!("{:?}", window.breaks) };
    assert_eq!(gap.missing, gtids("9-12"));
}

#[test]
fn without_a_dump_after_it_a_gap_ends_the_window() {
    let truth = simple_truth(20);
    let mut inventory = truth.inventory();
    inventory.segments.remove(2);
    let window = &windows(&inventory)[0];
    assert_eq!(window.spans.len(), 1);
    assert_eq!(window.spans[0].latest.gtids, gtids("1-8"));
    assert_eq!(window.high_water, gtids("1-20"));
}

#[test]
fn a_dump_that_is_ahead_of_the_binlog_is_a_point_by_itself() {
    let mut inventory = simple_truth(8).inventory();
    inventory.dumps.push(dump(3, gtids("1-9")));
    let window = &windows(&inventory)[0];
    assert_eq!(window.spans.len(), 2);
    assert_eq!(window.spans[1].earliest.gtids, window.spans[1].latest.gtids);
    assert_eq!((window.spans[1].earliest.time, window.spans[1].latest.time), (Micros(4), None));
}

#[test]
fn a_missing_beginning_is_a_break_though_no_transaction_is_known_to_be_gone() {
    let mut truth = simple_truth(8);
    truth.cuts = vec![0, 4, 4];
    let mut inventory = truth.inventory();
    inventory.segments.remove(0);
    let window = &windows(&inventory)[0];
    let [Break::Chain(broken)] = window.breaks.as_slice() else { panic!("{:?}", window.breaks) };
    assert_eq!(broken.fault, ChainFault::Beheaded);
    assert_eq!(window.spans.len(), 1);
}

#[test]
fn an_empty_archive_has_no_window() {
    assert!(windows(&Inventory::default()).is_empty());
}
