//! Single events made by hand: what is accepted, what is refused, and as what it is read.

#[path = "support/build.rs"]
mod build;

use build::{Build, description, gtid, query, query_in};
use highwater_binlog::{
    Boundary, ChecksumAlgorithm, EVENT_LEN_MAX, EventError, EventType, FormatDescription, GtidEvent, QueryEvent,
    RawEvent, RotateEvent, previous_gtids,
};

fn plain(bytes: &[u8]) -> RawEvent<'_> {
    RawEvent::verify(bytes, ChecksumAlgorithm::None).unwrap()
}

fn refused(bytes: &[u8], algorithm: ChecksumAlgorithm) -> EventError {
    RawEvent::verify(bytes, algorithm).unwrap_err()
}

#[test]
fn an_event_is_its_bytes_without_header_and_checksum() {
    let bytes = Build::new(EventType::XID, [1, 2, 3]).crc32();
    let event = RawEvent::verify(&bytes, ChecksumAlgorithm::Crc32).unwrap();
    assert_eq!(event.body(), [1, 2, 3]);
    assert_eq!(event.bytes(), bytes);
    assert_eq!(event.byte_count(), 26);
    assert_eq!((event.header().timestamp, event.header().server_id), (1_700_000_000, 7));
    assert_eq!(plain(&Build::new(EventType::XID, [1, 2, 3]).plain()).body(), [1, 2, 3]);
}

#[test]
fn lengths_that_no_event_has_are_refused() {
    let mut bytes = Build::new(EventType::XID, [0; 8]).crc32();
    for declared in [0u32, 18, 22, u32::try_from(EVENT_LEN_MAX).unwrap() + 1, u32::MAX] {
        bytes[9..13].copy_from_slice(&declared.to_le_bytes());
        let error = refused(&bytes, ChecksumAlgorithm::Crc32);
        assert!(
            matches!(error, EventError::ImpossibleLength { .. } | EventError::LengthMismatch { .. }),
            "{declared}: {error}"
        );
    }
    bytes[9..13].copy_from_slice(&30u32.to_le_bytes());
    assert_eq!(refused(&bytes, ChecksumAlgorithm::Crc32), EventError::LengthMismatch { declared: 30, given: 31 });
    assert_eq!(refused(&[0; 18], ChecksumAlgorithm::None), EventError::ImpossibleLength { declared: 18 });
    // A header alone has no room for a checksum.
    let header = Build::new(EventType::XID, []).plain();
    assert_eq!(refused(&header, ChecksumAlgorithm::Crc32), EventError::ImpossibleLength { declared: 19 });
}

#[test]
fn every_changed_byte_is_seen() {
    let bytes = query("INSERT INTO t VALUES (1)").crc32();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(RawEvent::verify(&changed, ChecksumAlgorithm::Crc32).is_err(), "byte {at}");
    }
}

#[test]
fn a_format_description_says_itself_how_it_ends() {
    for algorithm in [ChecksumAlgorithm::None, ChecksumAlgorithm::Crc32] {
        let bytes = description("8.0.36", 1).crc32();
        let event = RawEvent::verify(&bytes, algorithm).unwrap();
        assert_eq!(FormatDescription::read(&event).unwrap().checksum_algorithm, ChecksumAlgorithm::Crc32);
        // It has a checksum where the other events have none.
        let bytes = description("5.6.1-log", 0).crc32();
        let event = RawEvent::verify(&bytes, algorithm).unwrap();
        let read = FormatDescription::read(&event).unwrap();
        assert_eq!((read.checksum_algorithm, read.server_version.as_str()), (ChecksumAlgorithm::None, "5.6.1-log"));
        assert_eq!(read.post_header_lens.len(), 41);
        // Before 5.6.1 there was neither.
        let bytes = description("5.5.62", 77).plain();
        let read = FormatDescription::read(&RawEvent::verify(&bytes, algorithm).unwrap()).unwrap();
        assert_eq!((read.checksum_algorithm, read.post_header_lens.len()), (ChecksumAlgorithm::None, 42));
    }
    // Unless the source changed it for the stream, where it does not count the checksum again.
    let mut moved = description("8.0.36", 0).end_log_pos(0).crc32();
    moved[80] ^= 1;
    assert!(plain(&moved).is_artificial());
    assert_eq!(
        refused(&description("8.0.36", 2).crc32(), ChecksumAlgorithm::Crc32),
        EventError::UnknownChecksumAlgorithm(2)
    );
    let short = Build::new(EventType::FORMAT_DESCRIPTION, vec![4; 40]).crc32();
    assert!(matches!(refused(&short, ChecksumAlgorithm::None), EventError::Body { .. }));
}

/// A source without checksums that leaves out transactions clears the time in it, and leaves the checksum.
#[test]
fn a_format_description_whose_time_the_source_cleared_is_none_that_was_changed() {
    let cleared = |algorithm: u8, time: u32| {
        let mut build = description("9.7.4", algorithm);
        build.body[52..56].copy_from_slice(&time.to_le_bytes());
        let mut bytes = build.crc32();
        bytes[71..75].fill(0);
        bytes
    };
    let written = Build::new(EventType::QUERY, []).timestamp;
    let bytes = cleared(0, written);
    let is_right = |bytes: &[u8]| RawEvent::verify(bytes, ChecksumAlgorithm::None).is_ok();
    assert!(is_right(&bytes));
    // Where the checksum is counted again, or the time was another one, it is damage.
    assert!(!is_right(&cleared(1, written)) && !is_right(&cleared(0, written + 1)));
    for at in (0..bytes.len()).filter(|at| *at != 4) {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            // One that is in no binlog is not looked at.
            let is_flag = at == 17 && (bit == 0 || bit == 5);
            assert_eq!(is_right(&changed), is_flag, "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn a_changed_format_description_is_seen_but_for_its_in_use_flag() {
    let bytes = description("9.7.4", 1).crc32();
    let flip = |at: usize, bit: u32| {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << bit;
        RawEvent::verify(&changed, ChecksumAlgorithm::None).is_ok()
    };
    // Another type is another event, checked as such.
    for at in (0..bytes.len()).filter(|at| *at != 4) {
        for bit in 0..8 {
            let in_use = at == 17 && bit == 0;
            assert_eq!(flip(at, bit), in_use, "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn artificial_events_are_told_from_those_of_files() {
    let heartbeat = Build::new(EventType::HEARTBEAT, b"binlog.000001".to_vec()).plain();
    let heartbeat_v2 = Build::new(EventType::HEARTBEAT_V2, []).plain();
    let rotate = Build::new(EventType::ROTATE, [4, 0, 0, 0, 0, 0, 0, 0, b'b']).flags(0x20).end_log_pos(0).plain();
    let moved = description("8.0.36", 1).end_log_pos(0).crc32();
    for bytes in [&heartbeat, &heartbeat_v2, &rotate, &moved] {
        assert!(plain(bytes).is_artificial(), "{}", plain(bytes).event_type());
    }
    // In a file of 4 GiB the 32 bits of the position are zero once.
    let wrapped = Build::new(EventType::XID, [0; 8]).end_log_pos(0).plain();
    let rotate = Build::new(EventType::ROTATE, [4, 0, 0, 0, 0, 0, 0, 0, b'b']).plain();
    for bytes in [&wrapped, &rotate, &description("8.0.36", 1).crc32()] {
        assert!(!plain(bytes).is_artificial());
    }
    assert!(plain(&Build::new(EventType(43), []).flags(0x80).plain()).is_ignorable());
}

#[test]
fn rotations_with_names_that_are_paths_are_refused() {
    let rotate = |name: &str| {
        let body = [&4u64.to_le_bytes()[..], name.as_bytes()].concat();
        let bytes = Build::new(EventType::ROTATE, body).plain();
        RotateEvent::read(&plain(&bytes)).map(|rotate| rotate.next.to_string())
    };
    assert_eq!(rotate("binlog.1000000").unwrap(), "binlog.1000000:4");
    for name in ["", "../../x", "/etc/passwd", "a\0b", "..", ".hidden", "a/b", &"x".repeat(256)] {
        assert!(rotate(name).is_err(), "{name:?}");
    }
    let short = Build::new(EventType::ROTATE, [0; 7]).plain();
    assert!(RotateEvent::read(&plain(&short)).is_err());
}

#[test]
fn events_are_not_read_as_others() {
    let bytes = query("BEGIN").plain();
    let event = plain(&bytes);
    let expected = |expected| EventError::NotThisType { expected, found: EventType::QUERY };
    assert_eq!(GtidEvent::read(&event).unwrap_err(), expected(EventType::GTID));
    assert_eq!(RotateEvent::read(&event).unwrap_err(), expected(EventType::ROTATE));
    assert_eq!(FormatDescription::read(&event).unwrap_err(), expected(EventType::FORMAT_DESCRIPTION));
    assert_eq!(previous_gtids(&event).unwrap_err(), expected(EventType::PREVIOUS_GTIDS));
}

#[test]
fn queries_are_read_behind_their_status_variables() {
    let bytes = query_in("shop", "DROP TABLE t").plain();
    let read = QueryEvent::read(&plain(&bytes)).unwrap();
    assert_eq!((read.schema, read.statement), (&b"shop"[..], &b"DROP TABLE t"[..]));
    for len in 19..19 + 8 + 5 + 3 + 5 {
        let mut cut = bytes[..len].to_vec();
        cut[9..13].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
        assert!(QueryEvent::read(&plain(&cut)).is_err(), "{len}");
    }
}

#[test]
fn query_texts_open_and_close_transactions() {
    for (text, expected) in [
        ("BEGIN", Boundary::Begin),
        ("begin", Boundary::Begin),
        ("XA START X'61',X'62',7", Boundary::Begin),
        ("COMMIT", Boundary::End),
        ("ROLLBACK", Boundary::End),
        ("ROLLBACK TO `s1`", Boundary::Statement),
        ("SAVEPOINT `s1`", Boundary::Statement),
        ("XA END X'61',X'',1", Boundary::Statement),
        ("XA COMMIT X'61',X'',1", Boundary::EndXa),
        ("XA ROLLBACK X'61',X'',1", Boundary::EndXa),
        ("BEGINNING", Boundary::Statement),
        ("COMMIT AND CHAIN", Boundary::Statement),
        ("", Boundary::Statement),
        ("/* BEGIN */ INSERT INTO t VALUES (1)", Boundary::Statement),
    ] {
        let bytes = query(text).plain();
        assert_eq!(QueryEvent::read(&plain(&bytes)).unwrap().boundary(), expected, "{text}");
    }
}

#[test]
fn gtid_events_of_older_servers_lack_what_they_did_not_write() {
    let mut build = gtid(7, None);
    for body_len in [42, 25, 26, 30] {
        build.body.truncate(body_len);
        let bytes = build.plain();
        let read = GtidEvent::read(&plain(&bytes)).unwrap();
        assert_eq!(read.gtid.unwrap().number.get(), 7);
        assert_eq!((read.original_commit_micros, read.transaction_length), (None, None), "{body_len}");
    }
    build.body.truncate(24);
    assert!(GtidEvent::read(&plain(&build.plain())).is_err());
    let bytes = gtid(7, Some(300)).plain();
    let read = GtidEvent::read(&plain(&bytes)).unwrap();
    assert_eq!(read.original_commit_micros, Some(1_234_567_890_123_456));
    assert_eq!(read.transaction_length.unwrap().get(), 300);
    assert_eq!(read.immediate_server_version, Some(80036));
}

#[test]
fn gtid_events_with_numbers_that_no_gtid_has_are_refused() {
    let read = |number: u64, event_type| {
        let mut build = gtid(number, None);
        build.event_type = event_type;
        let bytes = build.plain();
        GtidEvent::read(&plain(&bytes)).map(|read| read.gtid.is_some())
    };
    assert_eq!(read(1, EventType::GTID), Ok(true));
    assert_eq!(read((1 << 63) - 2, EventType::GTID), Ok(true));
    assert_eq!(read(0, EventType::ANONYMOUS_GTID), Ok(false));
    for (number, event_type) in [
        (0, EventType::GTID),
        ((1 << 63) - 1, EventType::GTID),
        (u64::MAX, EventType::GTID),
        (1, EventType::ANONYMOUS_GTID),
    ] {
        assert!(read(number, event_type).is_err(), "{number} {event_type}");
    }
}

/// A tagged GTID event: `fields` behind an envelope that fits.
fn tagged(last_needed: u8, fields: &[u8]) -> Build {
    let size = u8::try_from(3 + fields.len()).unwrap() << 1;
    Build::new(EventType::GTID_TAGGED, [&[1 << 1, size, last_needed << 1][..], fields].concat())
}

/// Fields 0 to 3: no flags, a server of zeros, number 5, tag `ab`.
const TAGGED_FIELDS: &[u8] = &[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 20, 6, 4, b'a', b'b'];

#[test]
fn tagged_gtid_events_may_have_fields_of_the_future_that_are_ignorable() {
    let read = |build: Build| GtidEvent::read(&plain(&build.plain())).map(|read| read.gtid.unwrap().to_string());
    let expected = "00000000-0000-0000-0000-000000000000:ab:5";
    assert_eq!(read(tagged(4, TAGGED_FIELDS)).unwrap(), expected);
    let with_more = [TAGGED_FIELDS, &[12 << 1, 1, 2, 3]].concat();
    assert_eq!(read(tagged(12, &with_more)).unwrap(), expected);
    assert!(read(tagged(13, &with_more)).is_err(), "field 12 may not be ignored");
    let backwards = [TAGGED_FIELDS, &[0, 0]].concat();
    assert!(read(tagged(4, &backwards)).is_err(), "fields come in order");
    for len in 0..TAGGED_FIELDS.len() {
        let cut = read(tagged(4, &TAGGED_FIELDS[..len]));
        assert!(cut.is_err() || len == 21, "{len}: only the tag may be missing");
    }
    let mut other = tagged(4, TAGGED_FIELDS);
    other.body[0] = 4;
    assert!(read(other).is_err(), "another serialisation");
    let mut longer = tagged(4, TAGGED_FIELDS);
    longer.body[1] += 2;
    assert!(read(longer).is_err(), "a message longer than its event");
}

#[test]
fn event_types_have_the_names_of_the_manual() {
    assert_eq!(EventType::TRANSACTION_PAYLOAD.to_string(), "TRANSACTION_PAYLOAD");
    assert_eq!(EventType(43).to_string(), "type 43");
}
