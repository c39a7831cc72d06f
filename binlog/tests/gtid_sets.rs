//! GTID sets against the plainest possible model: a set of (origin, number) pairs.

use std::collections::BTreeSet;
use std::num::NonZeroU64;

use highwater_binlog::{Gtid, GtidOrigin, GtidSet, Interval, ServerUuid, Tag, WireError};
use proptest::collection::vec;
use proptest::prelude::*;

type Model = BTreeSet<(GtidOrigin, u64)>;

fn origins() -> Vec<GtidOrigin> {
    let server = |last: u8| ServerUuid::from_bytes([7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, last]);
    let tag = |text: &str| text.parse::<Tag>().unwrap();
    vec![
        GtidOrigin { server: server(1), tag: Tag::default() },
        GtidOrigin { server: server(1), tag: tag("a") },
        GtidOrigin { server: server(1), tag: tag("a_tag_of_the_longest_length_of32") },
        GtidOrigin { server: server(2), tag: Tag::default() },
        GtidOrigin { server: server(3), tag: tag("b") },
    ]
}

fn gtid(origin: &GtidOrigin, number: u64) -> Gtid {
    Gtid { origin: origin.clone(), number: NonZeroU64::new(number).unwrap() }
}

/// Intervals as (origin, first, length), over few numbers so that they overlap and touch often.
fn pieces() -> impl Strategy<Value = Vec<(usize, u64, u64)>> {
    vec((0..5usize, 1..40u64, 0..8u64), 0..20)
}

fn untagged_pieces() -> impl Strategy<Value = Vec<(usize, u64, u64)>> {
    vec((Just(0usize).prop_union(Just(3usize)), 1..40u64, 0..8u64), 0..20)
}

fn build(pieces: &[(usize, u64, u64)]) -> (GtidSet, Model) {
    let origins = origins();
    let (mut set, mut model) = (GtidSet::new(), Model::new());
    for (origin, first, len) in pieces {
        set.insert_interval(&origins[*origin], Interval { start: *first, end: first + len });
        model.extend((*first..first + len).map(|number| (origins[*origin].clone(), number)));
    }
    (set, model)
}

/// Everything that can be asked of `set` is what `model` says.
fn assert_same(set: &GtidSet, model: &Model) {
    let listed: Vec<_> = set.intervals().flat_map(|(o, i)| (i.start..i.end).map(|n| (o.clone(), n))).collect();
    assert!(listed.iter().eq(model.iter()), "{set} is not {model:?}");
    assert_eq!(set.count(), model.len() as u64);
    assert_eq!(set.is_empty(), model.is_empty());
    for origin in origins() {
        for number in 1..50 {
            assert_eq!(set.contains(&gtid(&origin, number)), model.contains(&(origin.clone(), number)));
        }
    }
    let intervals: Vec<_> = set.intervals().collect();
    for pair in intervals.windows(2) {
        assert!(pair[0].0 < pair[1].0 || pair[0].1.end < pair[1].1.start, "{set}: sorted, and nothing touches");
    }
    assert!(intervals.iter().all(|(_, interval)| interval.start < interval.end));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn inserts_and_operations_are_those_of_the_model(left in pieces(), right in pieces()) {
        let ((a, model_a), (b, model_b)) = (build(&left), build(&right));
        assert_same(&a, &model_a);
        assert_same(&a.union(&b), &model_a.union(&model_b).cloned().collect());
        assert_same(&a.subtract(&b), &model_a.difference(&model_b).cloned().collect());
        assert_same(&a.intersect(&b), &model_a.intersection(&model_b).cloned().collect());
        prop_assert_eq!(a.is_subset(&b), model_a.is_subset(&model_b));
        prop_assert!(a.subtract(&b).is_subset(&a) && a.is_subset(&a.union(&b)));
        prop_assert_eq!(a == b, model_a == model_b, "equal sets are written in one way only");
    }

    #[test]
    fn single_gtids_in_any_order_give_the_same_set(numbers in vec((0..5usize, 1..60u64), 0..60)) {
        let origins = origins();
        let mut set = GtidSet::new();
        for (origin, number) in &numbers {
            set.insert(&gtid(&origins[*origin], *number));
        }
        let model = numbers.iter().map(|(origin, number)| (origins[*origin].clone(), *number)).collect();
        let listed: Model = set.intervals().flat_map(|(o, i)| (i.start..i.end).map(|n| (o.clone(), n))).collect();
        prop_assert_eq!(listed, model);
    }

    #[test]
    fn text_and_wire_read_back(pieces in pieces()) {
        let (set, _) = build(&pieces);
        prop_assert_eq!(&set.to_string().parse::<GtidSet>().unwrap(), &set);
        prop_assert_eq!(&GtidSet::from_wire(&set.to_wire()).unwrap(), &set);
    }

    #[test]
    fn sets_without_tags_use_the_encoding_of_every_version(pieces in untagged_pieces()) {
        let (set, _) = build(&pieces);
        let wire = set.to_wire();
        let servers: BTreeSet<_> = set.intervals().map(|(origin, _)| origin.server).collect();
        prop_assert_eq!(&wire[..8], (servers.len() as u64).to_le_bytes());
        prop_assert_eq!(wire.len(), 8 + servers.len() * 24 + set.intervals().count() * 16);
    }

    #[test]
    fn text_in_any_order_and_spacing_is_read(pieces in pieces()) {
        let (set, _) = build(&pieces);
        let origins = origins();
        let scattered: Vec<String> = pieces
            .iter()
            .rev()
            .filter(|(_, _, len)| *len > 0)
            .map(|(origin, first, len)| format!(" {} : {first} - {} ", origins[*origin], first + len - 1).to_uppercase())
            .collect();
        prop_assert_eq!(scattered.join(",\n").parse::<GtidSet>().unwrap(), set);
    }

    #[test]
    fn changed_wire_bytes_never_panic_and_what_is_read_is_whole(
        pieces in pieces(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let mut wire = build(&pieces).0.to_wire();
        let at = at.index(wire.len());
        wire[at] = byte;
        if let Ok(set) = GtidSet::from_wire(&wire) {
            prop_assert_eq!(GtidSet::from_wire(&set.to_wire()).unwrap(), set);
        }
        let _ = GtidSet::from_wire(&wire[..cut.index(wire.len())]);
    }

    #[test]
    fn any_bytes_and_any_text_never_panic(bytes in vec(any::<u8>(), 0..200), text in "[0-9a-f:,\\- \n_]{0,80}") {
        let _ = GtidSet::from_wire(&bytes);
        let _ = text.parse::<GtidSet>();
        let _ = text.parse::<Gtid>();
    }
}

const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

#[test]
fn texts_of_the_manual_are_read_and_printed_in_one_form() {
    for (text, printed) in [
        (format!("{UUID}:1-5"), format!("{UUID}:1-5")),
        (format!("{UUID}:1-3:11:47-49"), format!("{UUID}:1-3:11:47-49")),
        (format!("{UUID}:Domain_1:1-3:15-21:domain_2:8-52"), format!("{UUID}:domain_1:1-3:15-21:domain_2:8-52")),
        (format!("{UUID}:3:1-2:9-8"), format!("{UUID}:1-3")),
        (format!(" {UUID}:1,\n{}:tag:2,,", UUID.to_uppercase()), format!("{UUID}:1:tag:2")),
        (String::new(), String::new()),
        (" , ".to_owned(), String::new()),
    ] {
        assert_eq!(text.parse::<GtidSet>().unwrap().to_string(), printed, "{text}");
    }
}

#[test]
fn texts_that_are_no_sets_are_refused() {
    for rest in
        [":0-1", ":1-9223372036854775807", ":18446744073709551616", ":1-", ":-1", ":1x", ":ta-g:1", ":tag", "::1", " 1"]
    {
        let text = format!("{UUID}{rest}");
        let read = text.parse::<GtidSet>();
        if rest == ":tag" {
            assert!(read.unwrap().is_empty());
        } else {
            assert!(read.is_err(), "{text}");
        }
    }
    for text in ["x", &UUID[1..], "3e11fa47-71ca-11e1-9e33-c80aa942956g:1", &format!("{UUID}:{}:1", "t".repeat(33))] {
        assert!(text.parse::<GtidSet>().is_err(), "{text}");
    }
}

#[test]
fn a_gtid_is_one_number() {
    assert_eq!(format!("{UUID}:nightly:7").parse::<Gtid>().unwrap().to_string(), format!("{UUID}:nightly:7"));
    for rest in ["", ":1-2", ":1:3", ":1,", ":a:b"] {
        let text = format!("{UUID}{rest}");
        assert_eq!(text.parse::<Gtid>().is_ok(), rest == ":1,", "{text}");
    }
}

#[test]
fn the_largest_number_is_a_member_and_no_larger_one_gets_in() {
    let origin = &origins()[0];
    let max = (1u64 << 63) - 2;
    let mut set = GtidSet::new();
    set.insert(&gtid(origin, max));
    set.insert(&gtid(origin, max + 1));
    set.insert(&gtid(origin, u64::MAX));
    set.insert_interval(origin, Interval { start: 0, end: 2 });
    assert_eq!(set.to_string(), format!("{}:1:{max}", origin.server));
    assert_eq!(GtidSet::from_wire(&set.to_wire()).unwrap(), set);
    let all: GtidSet =
        format!("{}:1-{max},{}:1-{max},{UUID}:1-{max}", origins()[0].server, origins()[3].server).parse().unwrap();
    assert_eq!(all.count(), u64::MAX, "more than fit are as many as fit");
}

#[test]
fn wire_bytes_of_a_hostile_peer_are_refused_without_their_memory() {
    let origin =
        [vec![9u8; 16], 1u64.to_le_bytes().to_vec(), 5u64.to_le_bytes().to_vec(), 6u64.to_le_bytes().to_vec()].concat();
    let with_first = |first: u64, rest: &[u8]| GtidSet::from_wire(&[&first.to_le_bytes()[..], rest].concat());
    assert!(matches!(with_first(u64::MAX >> 8, &[]), Err(WireError::Truncated { .. })));
    assert!(matches!(with_first(2 << 56, &[]), Err(WireError::UnknownFormat(2))));
    assert!(matches!(with_first(1, &[0xff; 24]), Err(WireError::Truncated { .. })));
    assert!(matches!(with_first(2, &[&origin[..], &origin].concat()), Err(WireError::RepeatedOrigin(_))));
    assert!(matches!(with_first(1, &[&origin[..], &[0]].concat()), Err(WireError::TrailingBytes { count: 1 })));
    assert!(matches!(GtidSet::from_wire(&[0; 7]), Err(WireError::Truncated { len: 7 })));
    let interval = |start: u64, end: u64| {
        let bytes = [&[9u8; 16][..], &1u64.to_le_bytes(), &start.to_le_bytes(), &end.to_le_bytes()].concat();
        with_first(1, &bytes)
    };
    assert!(interval(1, (1 << 63) - 1).is_ok());
    for (start, end) in [(0, 1), (5, 5), (6, 5), (1, 1 << 63), (u64::MAX, 0)] {
        assert!(matches!(interval(start, end), Err(WireError::BadInterval { .. })), "{start} {end}");
    }
}

#[test]
fn the_tagged_encoding_is_the_servers_bytes() {
    // `PREVIOUS_GTIDS` of MySQL 9.7.4 with one tag: format 1 in the first and the last byte, the tag's length doubled.
    let set: GtidSet = format!("{UUID}:5,{UUID}:ab:1-2").parse().unwrap();
    let mut expected = vec![1, 2, 0, 0, 0, 0, 0, 1];
    let uuid: ServerUuid = UUID.parse().unwrap();
    expected.extend(uuid.as_bytes());
    expected.push(0);
    expected.extend([1u64, 5, 6].iter().flat_map(|word| word.to_le_bytes()));
    expected.extend(uuid.as_bytes());
    expected.extend([4, b'a', b'b']);
    expected.extend([1u64, 1, 3].iter().flat_map(|word| word.to_le_bytes()));
    assert_eq!(set.to_wire(), expected);
}

#[test]
fn large_scattered_sets_stay_quick() {
    let scattered = |first: u64| -> String {
        let numbers: Vec<String> = (0..100_000u64).rev().map(|n| (n * 4 + first).to_string()).collect();
        format!("{UUID}:{}", numbers.join(":"))
    };
    let (odd, even): (GtidSet, GtidSet) = (scattered(1).parse().unwrap(), scattered(3).parse().unwrap());
    let all = odd.union(&even);
    assert_eq!(all.count(), 200_000);
    assert_eq!(all.subtract(&odd), even);
    assert_eq!(GtidSet::from_wire(&all.to_wire()).unwrap(), all);
}
