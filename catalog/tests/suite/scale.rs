//! A large archive: 200,000 segments.

use std::time::{Duration, Instant};

use highwater_catalog::{Catalog, Micros, Place, RestorePoint, locate, plan, windows};

use crate::support::{EPOCH, Truth, gtid, repository_id, simple_truth};

/// Far more than it takes even on a busy two-core machine; quadratic work would take hours.
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn two_hundred_thousand_segments_are_planned_in_linear_time() {
    const SEGMENTS: usize = 200_000;
    const CATALOGUED: usize = 20_000;
    let mut truth: Truth = simple_truth(0);
    // One transaction in each: the sets of the truth would be quadratic themselves otherwise.
    truth.cuts = vec![0; 3];
    let mut inventory = truth.inventory();
    let pattern = inventory.segments[2].clone();
    inventory.segments.clear();
    let mut before = truth.starting.clone();
    let mut previous = None;
    for number in 0..SEGMENTS as u64 {
        let mut segment = pattern.clone();
        segment.sequence = number;
        segment.binlog = format!("binlog.{:06}", number / 100 + 1).parse().unwrap();
        segment.start = number % 100 * 200;
        segment.end = segment.start + 200;
        segment.gtids_before = before.clone();
        segment.gtids_added.insert(&gtid(&(number + 1).to_string()));
        before.insert(&gtid(&(number + 1).to_string()));
        (segment.transactions, segment.first_commit) = (1, Some(Micros(EPOCH * (number + 1))));
        segment.last_commit = segment.first_commit;
        segment.objects = vec![crate::support::facts(number, 200)];
        segment.plain_blake3 = segment.objects[0].plain_blake3;
        segment.previous_blake3 = previous.replace(segment.plain_blake3);
        inventory.segments.push(segment);
    }

    let began = Instant::now();
    let Place::Known(stop) = locate(&inventory, None, &RestorePoint::Latest).unwrap().place else { panic!() };
    let whole = plan(&inventory, &stop).unwrap();
    assert_eq!(whole.segments.len(), SEGMENTS);
    let at = RestorePoint::Time(Micros(EPOCH * 150_000));
    assert!(matches!(locate(&inventory, None, &at).unwrap().place, Place::Within(s) if s.sequence == 150_000));
    assert_eq!(windows(&inventory)[0].spans.len(), 1);
    let planned = began.elapsed();

    inventory.segments.truncate(CATALOGUED);
    let folder = tempfile::tempdir().unwrap();
    let mut catalog = Catalog::open(&folder.path().join("catalog.sqlite"), repository_id()).unwrap();
    catalog.replace_all(&inventory).unwrap();
    assert_eq!(catalog.load().unwrap(), inventory);
    let catalogued = began.elapsed() - planned;
    println!("planned in {planned:?}, catalogued and loaded in {catalogued:?}");
    assert!(planned < LIMIT && catalogued < LIMIT, "{planned:?}, {catalogued:?}");
}
