//! Binlogs that a real server wrote, compared with what `mysqlbinlog` says about them (`data/README.md`).

use std::collections::{BTreeMap, BTreeSet};

use highwater_binlog::{
    Change, ChangeKind, Changes, ChecksumAlgorithm, EventError, EventHeader, EventType, FormatDescription, Framer,
    GtidEvent, GtidSet, Progress, RawEvent, RotateEvent, SegmentPolicy, Segmenter, Transaction, TransactionTracker,
    previous_gtids,
};

const FILES: [&str; 10] = [
    "endings",
    "tagged",
    "compressed",
    "statements",
    "rows",
    "without_checksum",
    "anonymous",
    "replica",
    "open",
    "stopped",
];

fn data(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn for_each_event(bytes: &[u8], mut visit: impl FnMut(u64, &RawEvent<'_>)) {
    let mut framer = Framer::new();
    for chunk in bytes.chunks(1000) {
        framer.push(chunk);
        while let Some((offset, event)) = framer.next().unwrap() {
            visit(offset, &event);
        }
    }
    framer.finish().unwrap();
}

fn transactions(bytes: &[u8]) -> Vec<Transaction> {
    let mut tracker = TransactionTracker::new();
    let mut all = Vec::new();
    for_each_event(bytes, |offset, event| {
        if let Progress::Committed(transaction) = tracker.accept(offset, event).unwrap() {
            all.push(transaction);
        }
    });
    assert!(tracker.open().is_none());
    all
}

/// What `mysqlbinlog` printed about one file.
#[derive(Default)]
struct Oracle {
    offsets: BTreeSet<u64>,
    /// Its word for the event that ends at an offset; more than one where events of a payload repeat the payload's.
    words: BTreeMap<u64, Vec<String>>,
    /// Rows by transaction, table and kind, as it prints them.
    rows: Vec<BTreeMap<(String, ChangeKind), u64>>,
    /// GTID text, original commit time, offset of the GTID event's end, transaction length.
    gtids: Vec<(String, u64, u64, u64)>,
}

fn oracle(name: &str) -> Oracle {
    let text = String::from_utf8(data(&format!("{name}.txt"))).unwrap();
    let mut oracle = Oracle::default();
    let number = |text: &str| text.parse::<u64>().unwrap();
    let after = |line: &str, key: &str| {
        let rest = line.split_once(key).unwrap_or_else(|| panic!("{key} in {line}")).1;
        rest.chars().take_while(char::is_ascii_digit).collect::<String>()
    };
    let mut pending = None;
    for (count, line) in text.lines().map(|line| line.split_once(' ').unwrap()) {
        if let Some(offset) = line.strip_prefix("# at ") {
            oracle.offsets.insert(number(offset));
        } else if let Some((_, rest)) = line.split_once(" end_log_pos ") {
            let end = number(&after(line, " end_log_pos "));
            let word = rest.split('\t').nth(1).unwrap_or_default();
            let word = word.split([':', ' ', '\t']).next().unwrap_or_default();
            oracle.words.entry(end).or_default().push(word.to_owned());
            if word.ends_with("GTID") {
                let time = number(&after(line, "original_committed_timestamp="));
                pending = Some((time, end, number(&after(line, "transaction_length="))));
            }
        } else if let Some(gtid) = line.strip_prefix("SET @@SESSION.GTID_NEXT= '")
            && let Some((time, end, length)) = pending.take()
        {
            oracle.gtids.push((gtid.split('\'').next().unwrap().to_owned(), time, end, length));
            oracle.rows.push(BTreeMap::new());
        } else if let Some(row) = line.strip_prefix("### ") {
            let kinds = [
                ("INSERT INTO ", ChangeKind::Insert),
                ("UPDATE ", ChangeKind::Update),
                ("DELETE FROM ", ChangeKind::Delete),
            ];
            let (table, kind) = kinds.iter().find_map(|(verb, kind)| Some((row.strip_prefix(verb)?, *kind))).unwrap();
            let rows = oracle.rows.last_mut().unwrap().entry((table.to_owned(), kind)).or_default();
            *rows += number(count);
        }
    }
    oracle
}

fn word(event_type: EventType) -> &'static str {
    match event_type {
        EventType::QUERY => "Query",
        EventType::STOP => "Stop",
        EventType::ROTATE => "Rotate",
        EventType::INTVAR => "Intvar",
        EventType::RAND => "Rand",
        EventType::USER_VAR => "User_var",
        EventType::FORMAT_DESCRIPTION => "Start",
        EventType::XID => "Xid",
        // Printed on a line of its own.
        EventType::BEGIN_LOAD_QUERY => "",
        EventType::EXECUTE_LOAD_QUERY => "Execute_load_query",
        EventType::TABLE_MAP => "Table_map",
        EventType::WRITE_ROWS => "Write_rows",
        EventType::UPDATE_ROWS => "Update_rows",
        EventType::PARTIAL_UPDATE_ROWS => "Update_rows_partial",
        EventType::DELETE_ROWS => "Delete_rows",
        EventType::GTID | EventType::GTID_TAGGED => "GTID",
        EventType::ANONYMOUS_GTID => "Anonymous_GTID",
        EventType::PREVIOUS_GTIDS => "Previous-GTIDs",
        EventType::XA_PREPARE => "XA",
        EventType::TRANSACTION_PAYLOAD => "Transaction_Payload",
        other => panic!("{other} is in no file"),
    }
}

#[test]
fn events_are_where_mysqlbinlog_sees_them() {
    for name in FILES {
        let bytes = data(&format!("{name}.binlog"));
        let oracle = oracle(name);
        let mut offsets = BTreeSet::new();
        let mut end = 4;
        for_each_event(&bytes, |offset, event| {
            assert_eq!(offset, end, "{name}");
            offsets.insert(offset);
            end = offset + event.byte_count();
            assert_eq!(u64::from(event.header().end_log_pos), end, "{name}");
            assert!(!event.is_artificial());
            if event.event_type() == EventType::ROWS_QUERY {
                return; // `mysqlbinlog -v` leaves them out.
            }
            let words = oracle.words.get(&end).unwrap_or_else(|| panic!("{name}: nothing ends at {end}"));
            assert!(words.contains(&word(event.event_type()).to_owned()), "{name} {offset}: {words:?}");
        });
        assert_eq!(end, bytes.len() as u64);
        // Events of a payload are shown at the payload's end, which is where the next event starts.
        assert!(offsets.is_subset(&oracle.offsets), "{name}");
        let rest: Vec<u64> = oracle.offsets.difference(&offsets).copied().collect();
        assert!(rest.iter().all(|offset| *offset == end), "{name}: {rest:?}");
    }
}

#[test]
fn transactions_are_those_that_mysqlbinlog_prints() {
    for name in FILES {
        let found = transactions(&data(&format!("{name}.binlog")));
        let oracle = oracle(name);
        assert!(!oracle.gtids.is_empty(), "{name}");
        assert_eq!(found.len(), oracle.gtids.len(), "{name}");
        for (transaction, (gtid, micros, gtid_end, length)) in found.iter().zip(&oracle.gtids) {
            let text = transaction.gtid.as_ref().map_or_else(|| "ANONYMOUS".to_owned(), ToString::to_string);
            assert_eq!(&text, gtid, "{name}");
            assert_eq!(transaction.original_commit_micros, *micros, "{name} {gtid}");
            assert_eq!(transaction.end - transaction.start, *length, "{name} {gtid}");
            assert!(transaction.start < *gtid_end && *gtid_end < transaction.end, "{name} {gtid}");
        }
        for pair in found.windows(2) {
            assert_eq!(pair[0].end, pair[1].start, "{name}: no bytes between transactions in these files");
        }
    }
}

#[test]
fn transactions_of_a_replica_have_both_commit_times_and_versions() {
    let mut seen = 0;
    for_each_event(&data("replica.binlog"), |_, event| {
        if GtidEvent::is_one(event) {
            let gtid_event = GtidEvent::read(event).unwrap();
            assert!(gtid_event.original_commit_micros.unwrap() < gtid_event.immediate_commit_micros.unwrap());
            assert_eq!(gtid_event.original_server_version, Some(90704));
            assert_eq!(gtid_event.immediate_server_version, Some(90704));
            seen += 1;
        }
    });
    assert_eq!(seen, 4);
}

#[test]
fn an_open_binlog_has_its_checksum_without_the_in_use_flag() {
    let mut bytes = data("open.binlog");
    let len = usize::try_from(EventHeader::read(&bytes[4..]).unwrap().event_len).unwrap();
    let description = &mut bytes[4..4 + len];
    assert_eq!(description[17], 1, "the file was copied while the server wrote it");
    let read =
        |bytes: &[u8]| RawEvent::verify(bytes, ChecksumAlgorithm::None).map(|event| FormatDescription::read(&event));
    let open = read(description).unwrap().unwrap();
    assert_eq!(open.server_version, "9.7.4-2");
    assert_eq!(open.checksum_algorithm, ChecksumAlgorithm::Crc32);
    assert_eq!(open.post_header_len(EventType::TABLE_MAP), 8);
    assert_eq!(open.post_header_len(EventType::QUERY), 13);
    description[17] = 0;
    assert_eq!(read(description).unwrap().unwrap(), open);
    description[17] = 2;
    assert!(matches!(read(description), Err(EventError::Checksum { .. })), "no other flag is left out");
}

#[test]
fn rotations_name_the_next_binlog() {
    let mut next = None;
    for_each_event(&data("replica.binlog"), |_, event| {
        if event.event_type() == EventType::ROTATE {
            next = Some(RotateEvent::read(event).unwrap().next.to_string());
        }
    });
    assert_eq!(next.as_deref(), Some("replica.000002:4"));
}

#[test]
fn previous_gtids_and_transactions_chain_from_file_to_file() {
    let mut executed = GtidSet::new();
    for name in ["endings", "tagged", "compressed", "statements", "rows"] {
        let bytes = data(&format!("{name}.binlog"));
        for_each_event(&bytes, |_, event| {
            if event.event_type() == EventType::PREVIOUS_GTIDS {
                assert_eq!(previous_gtids(event).unwrap(), executed, "{name}");
                assert_eq!(executed.to_wire(), event.body(), "{name}: our encoding is the server's");
            }
        });
        for transaction in transactions(&bytes) {
            executed.insert(&transaction.gtid.unwrap());
        }
    }
    let text = executed.to_string();
    assert!(text.contains(":nightly:1-2:packed:1"), "{text}");
    assert!(text.contains("very_long_tag_of_thirty_two_char:9007199254740993"), "{text}");
}

#[test]
fn segments_tile_a_file_on_transaction_boundaries() {
    let policy = SegmentPolicy { bytes_max: 1500, age_micros_max: u64::MAX };
    for name in FILES {
        let bytes = data(&format!("{name}.binlog"));
        let (mut tracker, mut segmenter) = (TransactionTracker::new(), Segmenter::new(policy, 0));
        let mut segments = Vec::new();
        let mut events = 0;
        for_each_event(&bytes, |offset, event| {
            let progress = tracker.accept(offset, event).unwrap();
            segmenter.accept(offset, event, &progress, offset).unwrap();
            events += 1;
            if segmenter.is_due(offset) {
                segments.extend(segmenter.cut());
            }
        });
        segments.extend(segmenter.cut());
        let all = transactions(&bytes);
        assert_eq!(segments[0].start, 0);
        assert_eq!(segments[segments.len() - 1].end, bytes.len() as u64);
        assert!(segments.windows(2).all(|pair| pair[0].end == pair[1].start), "{name}");
        assert_eq!(segments.iter().map(|segment| segment.events).sum::<u64>(), events);
        let ends: BTreeSet<u64> = all.iter().map(|transaction| transaction.end).collect();
        for segment in &segments {
            let inside: Vec<&Transaction> =
                all.iter().filter(|t| segment.start <= t.start && t.end <= segment.end).collect();
            assert_eq!(segment.transactions, inside.len() as u64, "{name}");
            assert_eq!(segment.gtids_added.count(), inside.iter().filter(|t| t.gtid.is_some()).count() as u64);
            assert_eq!(segment.first_commit_micros, inside.iter().map(|t| t.original_commit_micros).min());
            assert_eq!(segment.last_commit_micros, inside.iter().map(|t| t.original_commit_micros).max());
            assert!(ends.contains(&segment.end) || segment.end == bytes.len() as u64, "{name}");
        }
        assert_eq!(segments.iter().map(|segment| segment.transactions).sum::<u64>(), all.len() as u64);
    }
}

/// The changes of each transaction of a file.
fn changes(bytes: &[u8]) -> Vec<Vec<Change>> {
    let mut tracker = TransactionTracker::new();
    let (mut open, mut all) = (Changes::new(), Vec::new());
    for_each_event(bytes, |offset, event| {
        open.observe(event).unwrap();
        if let Progress::Committed(_) = tracker.accept(offset, event).unwrap() {
            all.push(std::mem::take(&mut open).finish());
        }
    });
    all
}

#[test]
fn rows_are_counted_as_mysqlbinlog_prints_them() {
    for name in FILES {
        let found = changes(&data(&format!("{name}.binlog")));
        let oracle = oracle(name);
        assert_eq!(found.len(), oracle.rows.len());
        for (changes, expected) in found.iter().zip(&oracle.rows) {
            if changes.iter().any(|change| change.table == "shapes") {
                continue; // `mysqlbinlog` gives up on GEOMETRY.
            }
            let mut rows = BTreeMap::new();
            for change in changes.iter().filter(|change| !matches!(change.kind, ChangeKind::Statement(_))) {
                let table = format!("`{}`.`{}`", change.schema, change.table);
                let before = rows.insert((table, change.kind), change.rows.unwrap());
                assert_eq!(before, None, "one change for each table and kind");
            }
            assert_eq!(&rows, expected, "{name}");
        }
    }
}

#[test]
fn rows_with_geometry_and_vectors_are_counted() {
    let all = changes(&data("rows.binlog"));
    let shapes = all.into_iter().flatten().filter(|change| change.table == "shapes" && change.rows.is_some());
    let found: Vec<_> = shapes.map(|change| (change.kind, change.rows.unwrap())).collect();
    assert_eq!(found, [(ChangeKind::Insert, 3), (ChangeKind::Update, 2), (ChangeKind::Delete, 3)]);
}

#[test]
fn statements_are_told_by_kind_and_name() {
    let text = |name: &str| -> Vec<String> {
        let all = changes(&data(&format!("{name}.binlog")));
        let statements = all.into_iter().flatten().filter(|c| matches!(c.kind, ChangeKind::Statement(_)));
        statements.map(|c| format!("{} {}.{}", c.kind, c.schema, c.table)).collect()
    };
    assert_eq!(
        text("endings"),
        [
            "CREATE DATABASE shop.",
            "CREATE TABLE shop.item",
            "CREATE TABLE shop.legacy",
            "CREATE TABLE shop.item2",
            "CREATE TABLE shop.item3",
            "CREATE VIEW shop.cheap",
            "CREATE USER shop.",
            "GRANT shop.",
            "TRUNCATE TABLE shop.item2",
            "ALTER TABLE shop.item",
            "DROP TABLE shop.item2",
            "DROP TABLE shop.item3",
            "ANALYZE TABLE shop.",
            "FLUSH shop.",
            "DROP USER shop.",
            "CREATE DATABASE o`dd name.",
            "DROP DATABASE o`dd name.",
        ]
    );
    assert_eq!(text("statements")[..4], ["INSERT shop.", "INSERT shop.", "INSERT shop.", "UPDATE shop."]);
    assert!(
        text("rows")
            .ends_with(&["CREATE EVENT shop.tick", "ALTER EVENT shop.tick", "DROP EVENT shop.tick"].map(str::to_owned))
    );
}
