//! Bytes that no server wrote, in every reader: errors, never a panic, never more memory than the limits say.

#[path = "support/build.rs"]
mod build;

use build::{Build, payload, query};
use highwater_binlog::{
    ChangeKind, Changes, ChecksumAlgorithm, EventError, EventType, FormatDescription, Framer, GtidEvent, MeaningError,
    PAYLOAD_INFLATED_MAX, PayloadError, QueryEvent, RawEvent, RotateEvent, TransactionTracker, event_statement,
    for_each_payload_event, previous_gtids,
};
use proptest::collection::vec;
use proptest::prelude::*;

const FILES: [&str; 7] = ["endings", "tagged", "compressed", "statements", "rows", "anonymous", "replica"];

/// The events of all files, without checksums, each transaction's in order.
fn events() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for name in FILES {
        let bytes = std::fs::read(format!("{}/tests/data/{name}.binlog", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let mut framer = Framer::new();
        framer.push(&bytes);
        while let Some((_, event)) = framer.next().unwrap() {
            let mut plain = event.bytes()[..19].to_vec();
            plain.extend(event.body());
            all.push(with_len(plain));
        }
    }
    all
}

fn with_len(mut bytes: Vec<u8>) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).unwrap();
    bytes[9..13].copy_from_slice(&len.to_le_bytes());
    bytes
}

/// Gives an event to everything that reads events.
fn read_all(event: &RawEvent<'_>, tracker: &mut TransactionTracker, changes: &mut Changes) {
    let _ = GtidEvent::read(event);
    let _ = FormatDescription::read(event);
    let _ = RotateEvent::read(event);
    let _ = previous_gtids(event);
    if let Ok(query) = QueryEvent::read(event) {
        let _ = (query.boundary(), event_statement(&query.text()));
    }
    let _ = tracker.accept(1 << 40, event);
    let _ = changes.observe(event);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn changed_events_never_panic(
        from in any::<prop::sample::Index>(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        // Table maps stay whole, so that changed rows are read against them; one event is changed.
        let all = events();
        let at = from.index(all.len());
        let (mut tracker, mut changes) = (TransactionTracker::new(), Changes::new());
        for (index, bytes) in all.iter().enumerate().skip(at.saturating_sub(3)).take(8) {
            let mut bytes = bytes.clone();
            if index == at {
                for (place, value) in &edits {
                    let place = place.index(bytes.len());
                    bytes[place] = *value;
                }
                if let Some(cut) = &cut {
                    bytes.truncate(19 + cut.index(bytes.len() - 18));
                }
                bytes = with_len(bytes);
            }
            if let Ok(event) = RawEvent::verify(&bytes, ChecksumAlgorithm::None) {
                read_all(&event, &mut tracker, &mut changes);
            }
        }
        let _ = changes.finish();
    }

    #[test]
    fn events_of_random_bytes_never_panic(code in any::<u8>(), body in vec(any::<u8>(), 0..300)) {
        let bytes = Build::new(EventType(code), body).plain();
        if let Ok(event) = RawEvent::verify(&bytes, ChecksumAlgorithm::None) {
            read_all(&event, &mut TransactionTracker::new(), &mut Changes::new());
        }
    }

    #[test]
    fn payloads_of_random_events_never_panic(code in any::<u8>(), body in vec(any::<u8>(), 0..300)) {
        let inner = Build::new(EventType(code), body).plain();
        let bytes = payload(255, inner.len() as u64, &inner).plain();
        let _ = Changes::new().observe(&RawEvent::verify(&bytes, ChecksumAlgorithm::None).unwrap());
    }

    #[test]
    fn random_streams_never_panic(bytes in vec(any::<u8>(), 0..400)) {
        for mut framer in [Framer::new(), Framer::resume(ChecksumAlgorithm::None, 4), Framer::resume(ChecksumAlgorithm::Crc32, 4)] {
            framer.push(&bytes);
            while let Ok(Some(_)) = framer.next() {}
            let _ = framer.finish();
        }
    }
}

fn observe(build: &Build) -> Result<Vec<String>, MeaningError> {
    let bytes = build.plain();
    let mut changes = Changes::new();
    changes.observe(&RawEvent::verify(&bytes, ChecksumAlgorithm::None).unwrap())?;
    Ok(changes.finish().into_iter().map(|change| format!("{} {}", change.kind, change.table)).collect())
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

#[test]
fn payloads_are_read_compressed_or_not() {
    let inner = query("DROP TABLE t").plain();
    let expected = vec!["DROP TABLE t".to_owned()];
    assert_eq!(observe(&payload(0, inner.len() as u64, &compressed(&inner))), Ok(expected.clone()));
    assert_eq!(observe(&payload(255, inner.len() as u64, &inner)), Ok(expected));
}

#[test]
fn payloads_that_do_not_inflate_to_what_they_say_are_refused() {
    let inner = query("DROP TABLE t").plain();
    let size = inner.len() as u64;
    let content = compressed(&inner);
    for wrong in [0, size - 1, size + 1] {
        let error = observe(&payload(0, wrong, &content)).unwrap_err();
        assert_eq!(error, MeaningError::Payload(PayloadError::WrongSize { declared: wrong }));
    }
    let declared = PAYLOAD_INFLATED_MAX + 1;
    let error = observe(&payload(0, declared, &content)).unwrap_err();
    assert_eq!(error, MeaningError::Payload(PayloadError::TooLong { declared }));
    let error = observe(&payload(7, size, &content)).unwrap_err();
    assert_eq!(error, MeaningError::Payload(PayloadError::UnknownCompression(7)));
    let cut = observe(&payload(0, size, &content[..content.len() - 3])).unwrap_err();
    assert!(matches!(cut, MeaningError::Payload(PayloadError::Inflate(_) | PayloadError::WrongSize { .. })), "{cut}");
    let error = observe(&payload(0, 400, &compressed(&[1; 400]))).unwrap_err();
    assert!(matches!(error, MeaningError::Payload(PayloadError::Frame(_))), "{error}");
}

#[test]
fn a_bomb_is_left_at_the_size_it_admits() {
    // A hundred thousand events that say that they are a thousand.
    let inner = query("DROP TABLE t").plain();
    let content = compressed(&inner.repeat(100_000));
    assert!(content.len() < 10_000);
    let declared = 1000 * inner.len() as u64;
    let bytes = payload(0, declared, &content).plain();
    let mut seen = 0;
    let result = for_each_payload_event(&RawEvent::verify(&bytes, ChecksumAlgorithm::None).unwrap(), |_| {
        seen += 1;
        Ok::<(), PayloadError>(())
    });
    assert_eq!(result, Err(PayloadError::WrongSize { declared }));
    assert!(seen <= 1000, "{seen}");
}

#[test]
fn a_payload_inside_a_payload_is_refused() {
    let inner = payload(255, 0, &[]).plain();
    assert_eq!(observe(&payload(255, inner.len() as u64, &inner)), Err(MeaningError::NestedPayload));
}

#[test]
fn rows_without_their_table_are_refused_but_for_the_servers_dummy() {
    let rows = |table_id: u64| {
        let body = [&table_id.to_le_bytes()[..6], &[1, 0, 2, 0, 0]].concat();
        observe(&Build::new(EventType::WRITE_ROWS, body))
    };
    assert_eq!(rows(5), Err(MeaningError::UnknownTable(5)));
    assert_eq!(rows(0x00ff_ffff), Ok(vec![]));
}

/// A table map for `s`.`t` with these column types and metadata.
fn table_map(types: &[u8], metadata: &[u8]) -> Build {
    let len = |bytes: &[u8]| u8::try_from(bytes.len()).unwrap();
    let body = [
        &[5, 0, 0, 0, 0, 0, 1, 0, 1, b's', 0, 1, b't', 0, len(types)],
        types,
        &[len(metadata)],
        metadata,
        &vec![0xff; types.len().div_ceil(8)],
    ]
    .concat();
    Build::new(EventType::TABLE_MAP, body)
}

fn count(table: &Build, rows: &Build) -> Result<Option<u64>, MeaningError> {
    let (table, rows) = (table.plain(), rows.plain());
    let mut changes = Changes::new();
    changes.observe(&RawEvent::verify(&table, ChecksumAlgorithm::None).unwrap())?;
    changes.observe(&RawEvent::verify(&rows, ChecksumAlgorithm::None).unwrap())?;
    Ok(changes.finish()[0].rows)
}

fn insert(columns: u8, bitmap: u8, rows: &[u8]) -> Build {
    Build::new(EventType::WRITE_ROWS, [&[5, 0, 0, 0, 0, 0, 1, 0, 2, 0, columns, bitmap][..], rows].concat())
}

#[test]
fn rows_of_a_type_of_the_future_are_not_counted_and_not_refused() {
    let table = table_map(&[3, 200, 1], &[9, 9]);
    assert_eq!(count(&table, &insert(3, 7, &[0, 1, 2, 3, 4, 5])), Ok(None));
}

#[test]
fn lengths_of_text_have_two_bytes_from_256_on() {
    for (metadata, row) in [([255, 0], vec![0, 1, b'a']), ([0, 1], vec![0, 1, 0, b'a'])] {
        assert_eq!(
            count(&table_map(&[15], &metadata), &insert(1, 1, &row.repeat(3))),
            Ok(Some(3)),
            "VARCHAR {metadata:?}"
        );
    }
    // CHAR keeps two bits of its length in its type, inverted.
    for (metadata, row) in [([254, 255], vec![0, 1, b'a']), ([254 ^ 0x10, 0], vec![0, 1, 0, b'a'])] {
        assert_eq!(
            count(&table_map(&[254], &metadata), &insert(1, 1, &row.repeat(3))),
            Ok(Some(3)),
            "CHAR {metadata:?}"
        );
    }
}

#[test]
fn rows_that_do_not_fit_their_table_are_refused() {
    let table = table_map(&[3, 15], &[10, 0]);
    let row = [0, 1, 0, 0, 0, 2, b'a', b'b'];
    assert_eq!(count(&table, &insert(2, 3, &[row, row].concat())), Ok(Some(2)));
    assert_eq!(count(&table, &insert(2, 3, &[])), Ok(Some(0)));
    for (columns, bitmap, rows) in [(2, 3, &row[..7]), (3, 3, &row[..]), (1, 1, &row[..]), (2, 0, &row[..])] {
        let error = count(&table, &insert(columns, bitmap, rows)).unwrap_err();
        assert!(matches!(error, MeaningError::Event(EventError::Body { .. })), "{columns} {bitmap}: {error}");
    }
}

#[test]
fn kinds_are_printed_as_mysql_writes_them() {
    assert_eq!(ChangeKind::Delete.to_string(), "DELETE");
    assert_eq!(ChangeKind::Statement("DROP TABLE").to_string(), "DROP TABLE");
}
