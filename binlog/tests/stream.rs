//! Framer and segmenter: any chunking, any damage, any clock.

#[path = "support/build.rs"]
mod build;

use build::{Build, description, gtid, query};
use highwater_binlog::{
    ChecksumAlgorithm, EventError, EventType, EventWalk, FrameError, Framer, MAGIC, Progress, RawEvent, SegmentError,
    SegmentPolicy, Segmenter, TransactionTracker,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn data(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/{name}.binlog", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Everything the framer gives for these chunks: offsets with lengths, and how it ended.
fn frame<'a>(mut framer: Framer, chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<(u64, u64)>, Result<(), FrameError>) {
    let mut found = Vec::new();
    for chunk in chunks {
        framer.push(chunk);
        loop {
            match framer.next() {
                Ok(Some((offset, event))) => found.push((offset, event.byte_count())),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(framer.finish(), Err(error.clone()));
                    assert_eq!(framer.next().unwrap_err(), error, "it stays failed");
                    return (found, Err(error));
                }
            }
        }
    }
    (found, framer.finish())
}

fn frame_whole(bytes: &[u8]) -> (Vec<(u64, u64)>, Result<(), FrameError>) {
    frame(Framer::new(), std::iter::once(bytes))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_chunks_give_the_same_events(
        name in prop::sample::select(&["endings", "without_checksum", "tagged", "rows"]), sizes in vec(1..3000usize, 1..8),
    ) {
        let bytes = data(name);
        let mut rest = &bytes[..];
        let mut sizes = sizes.iter().cycle();
        let chunks = std::iter::from_fn(move || {
            let (chunk, after) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
            rest = after;
            (!chunk.is_empty()).then_some(chunk)
        });
        let (found, result) = frame(Framer::new(), chunks);
        prop_assert_eq!(&result, &Ok(()));
        prop_assert_eq!(&found, &frame_whole(&bytes).0);
    }

    #[test]
    fn any_start_of_an_event_is_a_place_to_resume(name in prop::sample::select(&["endings", "without_checksum"]), at in any::<prop::sample::Index>()) {
        let bytes = data(name);
        let all = frame_whole(&bytes).0;
        let algorithm = if name == "endings" { ChecksumAlgorithm::Crc32 } else { ChecksumAlgorithm::None };
        let from = at.index(all.len());
        let start = usize::try_from(all[from].0).unwrap();
        let (found, result) = frame(Framer::resume(algorithm, all[from].0), bytes[start..].chunks(77));
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(&found[..], &all[from..]);
    }
}

/// How a walk from an offset on ends.
fn walk<'a>(
    algorithm: ChecksumAlgorithm,
    start: u64,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> Result<(), FrameError> {
    let mut walk = EventWalk::new(algorithm, start);
    for chunk in chunks {
        if let Err(error) = walk.accept(chunk) {
            assert_eq!((walk.accept(&[]), walk.finish()), (Err(error.clone()), Err(error.clone())), "it stays failed");
            return Err(error);
        }
    }
    walk.finish()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_walk_finds_what_a_framer_finds(
        name in prop::sample::select(&["endings", "without_checksum", "tagged", "rows"]), size in 1..3000usize,
        at in any::<prop::sample::Index>(), end in any::<prop::sample::Index>(), flip in 0..255u8,
    ) {
        let mut bytes = data(name);
        let algorithm = if name == "without_checksum" { ChecksumAlgorithm::None } else { ChecksumAlgorithm::Crc32 };
        prop_assert_eq!(walk(algorithm, 0, bytes.chunks(size)), Ok(()));
        // From any event to any place.
        let all = frame_whole(&bytes).0;
        let (start, _) = all[at.index(all.len())];
        let from = usize::try_from(start).unwrap();
        let to = from + end.index(bytes.len() - from);
        let is_end = |offset: u64| offset == u64::try_from(to).unwrap();
        let is_boundary = is_end(start) || all.iter().any(|(offset, len)| is_end(offset + len));
        let cut = walk(algorithm, start, bytes[from..to].chunks(size));
        match cut {
            Ok(()) => prop_assert!(is_boundary),
            Err(FrameError::Torn { offset, bytes }) => prop_assert!(!is_boundary && is_end(offset + bytes)),
            Err(error) => prop_assert!(false, "{error:?}"),
        }
        // The bit that the server changes in place is no damage.
        let damaged = from + end.index(bytes.len() - from);
        if algorithm == ChecksumAlgorithm::Crc32 && !(damaged == 21 && flip == 1) {
            bytes[damaged] ^= flip;
            let found = walk(algorithm, start, bytes[from..].chunks(size));
            prop_assert_eq!(found.is_err(), flip != 0, "byte {} of {}: {:?}", damaged, name, found);
        }
    }
}

#[test]
fn every_changed_bit_is_found_by_a_walk_and_of_lengths_without_checksums_too() {
    let of_lengths = |name: &str| -> Vec<usize> {
        let events = frame_whole(&data(name)).0;
        let lengths = events.iter().map(|(offset, _)| usize::try_from(*offset).unwrap() + 9);
        lengths.flat_map(|at| at..at + 4).collect()
    };
    let all = (0..data("endings").len()).collect();
    for (name, algorithm, places) in [
        ("endings", ChecksumAlgorithm::Crc32, all),
        ("without_checksum", ChecksumAlgorithm::None, of_lengths("without_checksum")),
    ] {
        let mut bytes = data(name);
        for at in places {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let is_flag_in_use = (at, bit) == (21, 0);
                assert_eq!(
                    walk(algorithm, 0, bytes.chunks(4096)).is_ok(),
                    is_flag_in_use,
                    "bit {bit} of byte {at} of {name}"
                );
                bytes[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn the_flag_of_a_binlog_in_use_is_no_damage() {
    let mut bytes = data("endings");
    bytes[21] ^= 1;
    assert_eq!(walk(ChecksumAlgorithm::Crc32, 0, bytes.chunks(7)), Ok(()));
}

#[test]
fn events_without_a_body_and_lengths_that_none_can_have() {
    let header = |len: u32| [&[0; 9][..], &len.to_le_bytes(), &[0; 6]].concat();
    assert_eq!(walk(ChecksumAlgorithm::None, 4, [&header(19)[..], &header(19)].into_iter()), Ok(()));
    for (algorithm, len) in
        [(ChecksumAlgorithm::None, 18), (ChecksumAlgorithm::Crc32, 22), (ChecksumAlgorithm::None, u32::MAX)]
    {
        let error = FrameError::Event { offset: 4, source: EventError::ImpossibleLength { declared: len.into() } };
        assert_eq!(walk(algorithm, 4, std::iter::once(&header(len)[..])), Err(error));
    }
    let error = FrameError::NotABinlog { found: *b"#!/b" };
    assert_eq!(walk(ChecksumAlgorithm::None, 0, std::iter::once(&b"#!/bin/sh"[..])), Err(error));
}

#[test]
fn single_bytes_are_chunks_too() {
    let bytes = data("stopped");
    assert_eq!(frame(Framer::new(), bytes.chunks(1)), frame_whole(&bytes));
}

#[test]
fn a_binlog_cut_anywhere_is_torn_at_the_offset_of_its_last_event() {
    let bytes = data("stopped");
    let all = frame_whole(&bytes).0;
    for len in 0..=bytes.len() {
        let (found, result) = frame_whole(&bytes[..len]);
        let whole: Vec<_> = all.iter().copied().take_while(|(at, count)| at + count <= len as u64).collect();
        assert_eq!(found, whole);
        let boundary = whole.last().map_or(if len < 4 { 0 } else { 4 }, |(at, count)| at + count);
        let torn = FrameError::Torn { offset: boundary, bytes: len as u64 - boundary };
        let is_whole = boundary == len as u64 && len >= 4;
        assert_eq!(result, if is_whole { Ok(()) } else { Err(torn) }, "{len}");
    }
}

#[test]
fn every_changed_bit_of_a_binlog_is_found() {
    let bytes = data("stopped");
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            let in_use = at == 4 + 17 && bit == 0;
            let error = frame_whole(&changed).1.err();
            assert_eq!(error.is_none(), in_use, "byte {at}, bit {bit}");
            if let Some(FrameError::Event { offset, .. } | FrameError::Torn { offset, .. }) = error {
                assert!(offset <= at as u64, "byte {at}: found at {offset}");
            }
        }
    }
}

#[test]
fn zeros_behind_the_last_event_are_no_event() {
    let mut bytes = data("stopped");
    let end = bytes.len() as u64;
    bytes.extend([0; 4096]);
    let source = EventError::ImpossibleLength { declared: 0 };
    assert_eq!(frame_whole(&bytes).1, Err(FrameError::Event { offset: end, source }));
}

#[test]
fn what_is_no_plaintext_binlog_is_told_apart() {
    assert_eq!(frame_whole(b"\xfdbin\x01 and so on").1, Err(FrameError::Encrypted));
    assert_eq!(frame_whole(b"GIF89a").1, Err(FrameError::NotABinlog { found: *b"GIF8" }));
    assert_eq!(frame_whole(b"").1, Err(FrameError::Torn { offset: 0, bytes: 0 }));
    assert_eq!(frame_whole(&MAGIC).1, Ok(()));
    let without = [&MAGIC[..], &query("BEGIN").crc32()].concat();
    assert_eq!(frame_whole(&without).1, Err(FrameError::NoFormatDescription { found: EventType::QUERY }));
}

#[test]
fn a_length_is_refused_before_its_memory_is_waited_for() {
    let mut header = query("BEGIN").crc32();
    header[9..13].copy_from_slice(&u32::MAX.to_le_bytes());
    let bytes = [&MAGIC[..], &description("8.0.36", 1).crc32(), &header[..19]].concat();
    assert!(matches!(
        frame_whole(&bytes).1,
        Err(FrameError::Event { source: EventError::ImpossibleLength { declared: 0xffff_ffff }, .. })
    ));
}

#[test]
fn every_changed_bit_of_a_length_is_told_at_once_as_damage_and_never_as_torn() {
    for name in ["endings", "without_checksum", "rows", "replica"] {
        let bytes = data(name);
        let all = frame_whole(&bytes).0;
        for (index, (offset, len)) in all.iter().enumerate().skip(1) {
            let at = usize::try_from(*offset).unwrap();
            for bit in 0..32 {
                let mut header = bytes[..at + 19].to_vec();
                header[at + 9 + bit / 8] ^= 1 << (bit % 8);
                // No byte behind the header is there yet.
                let (found, result) = frame_whole(&header);
                assert_eq!(found.len(), index, "{name} {offset} {bit}");
                let Err(FrameError::Event { offset: told, source }) = result else {
                    panic!("{name} {offset}: {result:?}")
                };
                assert_eq!(told, *offset);
                if let EventError::Position { declared, end_log_pos, .. } = source {
                    assert_eq!(u64::from(declared), len ^ (1 << bit), "{name} {offset}");
                    assert_eq!(u64::from(end_log_pos), offset + len, "{name} {offset}");
                }
            }
        }
    }
}

#[test]
fn events_behind_a_part_that_was_left_out_keep_their_positions() {
    let bytes = data("endings");
    let all = frame_whole(&bytes).0;
    let (begin, first) = (usize::try_from(all[1].0).unwrap(), usize::try_from(all[4].0).unwrap());
    let part = [&bytes[..begin], &bytes[first..]].concat();
    let (found, result) = frame_whole(&part);
    assert_eq!((found.len(), result), (all.len() - 3, Ok(())));
    // The first of them proves where it stands by being whole; all others must agree with it.
    let mut damaged = part.clone();
    damaged[begin + 11] ^= 1;
    let (found, result) = frame_whole(&damaged);
    assert_eq!(found.len(), 1);
    assert!(matches!(result, Err(FrameError::Event { source: EventError::Position { .. }, .. })), "{result:?}");
    let second = begin + usize::try_from(all[4].1).unwrap();
    let mut damaged = part[..second + 19].to_vec();
    damaged[second + 11] ^= 1;
    let (found, result) = frame_whole(&damaged);
    assert_eq!(found.len(), 2);
    assert!(matches!(result, Err(FrameError::Event { source: EventError::Position { .. }, .. })), "{result:?}");
}

#[test]
fn checksums_follow_the_last_format_description() {
    // A relay log has one from its own server and then one from the source.
    let bytes = [
        &MAGIC[..],
        &description("8.0.36", 1).flags(0x40).crc32(),
        &query("BEGIN").crc32(),
        &description("8.0.36", 0).crc32(),
        &query("BEGIN").plain(),
    ]
    .concat();
    let (found, result) = frame_whole(&bytes);
    assert_eq!((found.len(), result), (4, Ok(())));
}

/// A tracker and a segmenter fed together.
struct Feed {
    tracker: TransactionTracker,
    segmenter: Segmenter,
    offset: u64,
}

impl Feed {
    fn new(policy: SegmentPolicy, start: u64) -> Self {
        let offset = if start == 0 { 4 } else { start };
        Self { tracker: TransactionTracker::new(), segmenter: Segmenter::new(policy, start), offset }
    }

    fn feed(&mut self, build: &Build, now: u64) -> Result<(), SegmentError> {
        let bytes = build.plain();
        let event = RawEvent::verify(&bytes, ChecksumAlgorithm::None).unwrap();
        let progress = self.tracker.accept(self.offset, &event).unwrap();
        self.segmenter.accept(self.offset, &event, &progress, now)?;
        if !event.is_artificial() {
            self.offset += event.byte_count();
        }
        Ok(())
    }
}

const POLICY: SegmentPolicy = SegmentPolicy { bytes_max: 1000, age_micros_max: 5_000_000 };

#[test]
fn an_open_transaction_is_never_cut() {
    let mut feed = Feed::new(POLICY, 0);
    assert_eq!(feed.segmenter.cut(), None);
    feed.feed(&gtid(1, None), 10).unwrap();
    feed.feed(&query("BEGIN"), 11).unwrap();
    feed.feed(&query(&"x".repeat(5000)), 12).unwrap();
    assert_eq!((feed.segmenter.due_at(), feed.segmenter.cut()), (None, None));
    assert!(!feed.segmenter.is_due(u64::MAX));
    feed.feed(&query("COMMIT"), 13).unwrap();
    assert!(feed.segmenter.is_due(13), "larger than the limit: due at once");
    feed.feed(&gtid(2, None), 14).unwrap();
    let facts = feed.segmenter.cut().unwrap();
    let second_start = feed.offset - gtid(2, None).plain().len() as u64;
    assert_eq!((facts.start, facts.end), (0, second_start));
    assert_eq!((facts.events, facts.transactions, facts.gtids_added.count()), (4, 1, 1));
    assert_eq!(feed.segmenter.cut(), None, "what is open stays");
    assert_eq!(feed.segmenter.seen(), feed.offset);
    feed.feed(&query("DROP TABLE t"), 15).unwrap();
    let facts = feed.segmenter.cut().unwrap();
    assert_eq!((facts.start, facts.end, facts.events), (second_start, feed.offset, 2));
}

#[test]
fn age_counts_from_the_first_byte_even_of_a_transaction_that_was_open_at_the_cut() {
    let mut feed = Feed::new(POLICY, 400);
    feed.feed(&Build::new(EventType::STOP, []), 100).unwrap();
    assert_eq!(feed.segmenter.due_at(), Some(5_000_100));
    assert!(!feed.segmenter.is_due(5_000_099) && feed.segmenter.is_due(5_000_100));
    feed.feed(&gtid(1, None), 200).unwrap();
    let facts = feed.segmenter.cut().unwrap();
    assert_eq!((facts.start, facts.end, facts.transactions), (400, 419, 0));
    assert_eq!((facts.first_commit_micros, facts.last_commit_micros), (None, None));
    assert_eq!(feed.segmenter.due_at(), None);
    feed.feed(&query("DROP TABLE t"), 300).unwrap();
    assert_eq!(feed.segmenter.due_at(), Some(5_000_200), "from the GTID event on");
    feed.feed(&Build::new(EventType::STOP, []), 4_000_000).unwrap();
    assert_eq!(feed.segmenter.due_at(), Some(5_000_200));
}

#[test]
fn commit_times_are_the_earliest_and_the_latest_in_any_order() {
    let mut feed = Feed::new(POLICY, 4);
    for (number, second) in [(1, 500), (2, 300), (3, 400)] {
        let mut start = gtid(number, None);
        start.timestamp = second;
        feed.feed(&start, 1).unwrap();
        feed.feed(&query("DROP TABLE t"), 1).unwrap();
    }
    let facts = feed.segmenter.cut().unwrap();
    assert_eq!((facts.first_commit_micros, facts.last_commit_micros), (Some(300_000_000), Some(500_000_000)));
    assert_eq!(facts.gtids_added.to_string(), "09090909-0909-0909-0909-090909090909:1-3");
}

#[test]
fn artificial_events_are_no_bytes_of_a_segment() {
    let mut feed = Feed::new(POLICY, 4);
    let rotate = Build::new(EventType::ROTATE, [4, 0, 0, 0, 0, 0, 0, 0, b'b']).flags(0x20);
    feed.feed(&rotate, 1).unwrap();
    feed.feed(&Build::new(EventType::HEARTBEAT, [b'b']), 2).unwrap();
    assert_eq!((feed.segmenter.cut(), feed.segmenter.seen()), (None, 4));
}

#[test]
fn a_missing_event_and_a_repeated_gtid_stop_the_segment() {
    let mut feed = Feed::new(POLICY, 4);
    feed.feed(&gtid(1, None), 1).unwrap();
    feed.feed(&query("DROP TABLE t"), 1).unwrap();
    let expected = feed.offset;
    feed.offset += 1;
    let found = feed.offset;
    assert_eq!(feed.feed(&Build::new(EventType::STOP, []), 1), Err(SegmentError::NotContiguous { expected, found }));
    feed.offset = expected;
    feed.feed(&gtid(1, None), 1).unwrap();
    assert!(matches!(feed.feed(&query("DROP TABLE t"), 1), Err(SegmentError::RepeatedGtid { .. })));
}

#[test]
fn the_first_event_of_a_binlog_stands_behind_its_magic() {
    let mut segmenter = Segmenter::new(POLICY, 0);
    let bytes = Build::new(EventType::STOP, []).plain();
    let event = RawEvent::verify(&bytes, ChecksumAlgorithm::None).unwrap();
    assert_eq!(
        segmenter.accept(0, &event, &Progress::Outside, 1),
        Err(SegmentError::NotContiguous { expected: 4, found: 0 })
    );
    segmenter.accept(4, &event, &Progress::Outside, 1).unwrap();
    assert_eq!(segmenter.cut().map(|facts| (facts.start, facts.end)), Some((0, 23)));
}
