//! Transactions made by hand: where they end, and orders of events that none can have.

#[path = "support/build.rs"]
mod build;

use build::{Build, description, gtid, payload, query};
use highwater_binlog::{
    ChecksumAlgorithm, EventType, Progress, RawEvent, Transaction, TransactionError, TransactionTracker,
};

const START: u64 = 5_000_000_000;

/// Runs events one after the other from beyond 4 GiB; what each did, and the transactions.
fn run(events: &[Build]) -> (String, Result<Vec<Transaction>, TransactionError>) {
    let mut tracker = TransactionTracker::new();
    let (mut offset, mut steps, mut all) = (START, String::new(), Vec::new());
    for build in events {
        let bytes = build.plain();
        let event = RawEvent::verify(&bytes, ChecksumAlgorithm::None).unwrap();
        match tracker.accept(offset, &event) {
            Ok(Progress::Outside) => steps.push('-'),
            Ok(Progress::Inside) => steps.push('i'),
            Ok(Progress::Committed(transaction)) => {
                assert_eq!(transaction.end, offset + event.byte_count());
                steps.push('C');
                all.push(transaction);
            }
            Err(error) => return (steps, Err(error)),
        }
        assert_eq!(tracker.open().is_some(), steps.ends_with('i'));
        if !event.is_artificial() {
            offset += event.byte_count();
        }
    }
    (steps, Ok(all))
}

fn steps(events: &[Build]) -> String {
    let (steps, result) = run(events);
    result.unwrap_or_else(|error| panic!("{steps} then {error}"));
    steps
}

fn error(events: &[Build]) -> TransactionError {
    let (steps, result) = run(events);
    assert_eq!(steps.len(), events.len() - 1, "the last event is the wrong one");
    result.unwrap_err()
}

fn xid() -> Build {
    Build::new(EventType::XID, [0; 8])
}

fn bare(event_type: EventType) -> Build {
    Build::new(event_type, [0; 8])
}

/// The events with a GTID event in front that announces exactly their length.
fn group(events: &[Build]) -> Vec<Build> {
    let len: usize = events.iter().map(|build| build.plain().len()).sum::<usize>() + gtid(1, Some(0)).plain().len();
    [&[gtid(1, Some(len as u64))], events].concat()
}

#[test]
fn every_ending_ends() {
    let q = query;
    for (events, expected) in [
        (vec![q("BEGIN"), bare(EventType::TABLE_MAP), bare(EventType::WRITE_ROWS), xid()], "iiiiC"),
        (vec![q("BEGIN"), bare(EventType::TABLE_MAP), bare(EventType::WRITE_ROWS), q("COMMIT")], "iiiiC"),
        (vec![q("BEGIN"), q("INSERT INTO myisam VALUES (1)"), q("ROLLBACK")], "iiiC"),
        (vec![q("BEGIN"), q("COMMIT")], "iiC"),
        (vec![q("BEGIN"), q("SAVEPOINT `a`"), q("ROLLBACK TO `a`"), q("ROLLBACK TO SAVEPOINT a"), xid()], "iiiiiC"),
        (vec![q("CREATE TABLE t (a INT)")], "iC"),
        (vec![bare(EventType::USER_VAR), q("CREATE TABLE t SELECT @a")], "iiC"),
        (vec![bare(EventType::INTVAR), bare(EventType::RAND), q("INSERT INTO t VALUES (RAND())")], "iiiC"),
        (vec![q("BEGIN"), q("CREATE TABLE `t` (…) START TRANSACTION"), bare(EventType::WRITE_ROWS), xid()], "iiiiC"),
        (
            vec![q("XA START X'61'"), bare(EventType::WRITE_ROWS), q("XA END X'61'"), bare(EventType::XA_PREPARE)],
            "iiiiC",
        ),
        (vec![q("XA COMMIT X'61'")], "iC"),
        (vec![q("XA ROLLBACK X'61'")], "iC"),
        (vec![q("XA START X'61'"), q("XA END X'61'"), q("XA ROLLBACK X'61'")], "iiiC"),
        (vec![payload(255, 0, &[])], "iC"),
        (
            vec![
                q("BEGIN"),
                bare(EventType::BEGIN_LOAD_QUERY),
                bare(EventType::APPEND_BLOCK),
                bare(EventType::EXECUTE_LOAD_QUERY),
                xid(),
            ],
            "iiiiiC",
        ),
        (vec![q("BEGIN"), bare(EventType::VIEW_CHANGE), q("COMMIT")], "iiiC"),
        (vec![bare(EventType::INCIDENT)], "iC"),
        (
            vec![
                q("BEGIN"),
                bare(EventType::ROWS_QUERY),
                bare(EventType::IGNORABLE),
                Build::new(EventType(200), [1]).flags(0x80),
                xid(),
            ],
            "iiiiiC",
        ),
        (vec![bare(EventType::DELETE_FILE), q("BEGIN"), xid()], "iiiC"),
    ] {
        assert_eq!(steps(&group(&events)), expected);
        // The same without the length: the order alone tells.
        assert_eq!(steps(&[&[gtid(1, None)], &events[..]].concat()), expected);
        let mut anonymous = gtid(0, None);
        anonymous.event_type = EventType::ANONYMOUS_GTID;
        assert_eq!(steps(&[&[anonymous], &events[..]].concat()), expected);
    }
}

#[test]
fn a_transaction_knows_its_place_its_gtid_and_its_time() {
    let events = group(&[query("BEGIN"), xid()]);
    let (_, result) = run(&[&[bare(EventType::STOP)], &events[..], &[gtid(2, None), query("DROP TABLE t")]].concat());
    let all = result.unwrap();
    let stop = bare(EventType::STOP).plain().len() as u64;
    assert_eq!(all[0].start, START + stop);
    assert_eq!(all[0].original_commit_micros, 1_234_567_890_123_456);
    assert_eq!(all[0].gtid.as_ref().unwrap().to_string(), "09090909-0909-0909-0909-090909090909:1");
    assert_eq!((all[0].events, all[1].events), (3, 2));
    assert_eq!(all[0].end, all[1].start);
    assert_eq!(all[1].original_commit_micros, 1_700_000_000_000_000, "the second of its header, without a better one");
}

#[test]
fn the_open_transaction_is_known_from_its_gtid_event_on() {
    let mut tracker = TransactionTracker::new();
    let bytes = gtid(41, None).plain();
    tracker.accept(99, &RawEvent::verify(&bytes, ChecksumAlgorithm::None).unwrap()).unwrap();
    let open = tracker.open().unwrap();
    assert_eq!((open.start, open.events), (99, 1));
    assert_eq!(open.gtid.as_ref().unwrap().number.get(), 41);
}

#[test]
fn events_of_the_binlog_itself_are_outside() {
    let stop = Build::new(EventType::STOP, []);
    let rotate = bare(EventType::ROTATE);
    let unknown = Build::new(EventType(99), [1, 2]);
    assert_eq!(steps(&[bare(EventType::PREVIOUS_GTIDS), unknown, bare(EventType::INCIDENT), rotate, stop]), "-----");
}

#[test]
fn artificial_events_change_nothing() {
    let heartbeat = bare(EventType::HEARTBEAT);
    let rotate = bare(EventType::ROTATE).flags(0x20);
    let events = group(&[query("BEGIN"), bare(EventType::WRITE_ROWS), xid()]);
    let mixed: Vec<Build> = events.into_iter().flat_map(|event| [heartbeat.clone(), event, rotate.clone()]).collect();
    assert_eq!(steps(&mixed), "-iiiiiiiiiC-");
}

#[test]
fn a_transaction_that_does_not_end_is_reported_with_its_gtid() {
    for found in
        [gtid(2, None), bare(EventType::ROTATE), Build::new(EventType::STOP, []), bare(EventType::PREVIOUS_GTIDS)]
    {
        let found_type = found.event_type;
        for inside in [vec![], vec![query("BEGIN")], vec![query("BEGIN"), bare(EventType::WRITE_ROWS)]] {
            match error(&[&[gtid(1, None)], &inside[..], std::slice::from_ref(&found)].concat()) {
                TransactionError::Unfinished { found, start, gtid, .. } => {
                    assert_eq!((found, start), (found_type, START));
                    assert_eq!(gtid.unwrap().number.get(), 1);
                }
                other => panic!("{other}"),
            }
        }
    }
    let text = error(&[gtid(1, None), query("BEGIN"), Build::new(EventType::STOP, [])]).to_string();
    assert!(text.starts_with("STOP event at offset 5000000"), "{text}");
    assert!(text.ends_with("inside the transaction 09090909-0909-0909-0909-090909090909:1 that started at 5000000000"));
}

#[test]
fn a_format_description_inside_a_transaction_is_not_passed_over() {
    let bytes = description("8.0.36", 1).crc32();
    let mut tracker = TransactionTracker::new();
    let start = gtid(1, None).plain();
    tracker.accept(4, &RawEvent::verify(&start, ChecksumAlgorithm::None).unwrap()).unwrap();
    let error = tracker.accept(65, &RawEvent::verify(&bytes, ChecksumAlgorithm::None).unwrap()).unwrap_err();
    assert!(matches!(error, TransactionError::Unfinished { .. }));
}

#[test]
fn parts_of_a_transaction_without_its_gtid_are_refused() {
    for event in [
        query("BEGIN"),
        query("DROP TABLE t"),
        bare(EventType::TABLE_MAP),
        xid(),
        bare(EventType::INTVAR),
        payload(255, 0, &[]),
    ] {
        assert!(matches!(error(&[event]), TransactionError::OutsideTransaction { offset: START, .. }));
    }
}

#[test]
fn events_that_cannot_follow_are_refused() {
    for events in [
        vec![xid()],
        vec![query("COMMIT")],
        vec![bare(EventType::XA_PREPARE)],
        vec![query("BEGIN"), query("BEGIN")],
        vec![query("BEGIN"), payload(255, 0, &[])],
        vec![bare(EventType::INTVAR), xid()],
        vec![bare(EventType::INTVAR), query("BEGIN")],
    ] {
        let found = error(&[&[gtid(1, None)], &events[..]].concat());
        assert!(matches!(found, TransactionError::Unexpected { .. }), "{found}");
    }
}

#[test]
fn a_length_that_is_not_the_announced_one_is_refused() {
    let events = [query("BEGIN"), bare(EventType::WRITE_ROWS), xid()];
    let exact: u64 = group(&events).iter().map(|build| build.plain().len() as u64).sum();
    for wrong in [1, exact - 1, exact + 1, u64::MAX] {
        let (_, result) = run(&[&[gtid(1, Some(wrong))], &events[..]].concat());
        match result.unwrap_err() {
            TransactionError::Length { announced, .. } => assert_eq!(announced, wrong),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_length_that_ends_before_the_commit_is_refused_at_once() {
    let events = group(&[query("BEGIN")]);
    let (steps, result) = run(&[&events[..], &[xid()]].concat());
    assert_eq!(steps, "i", "at BEGIN, which may not be the last");
    assert!(matches!(result, Err(TransactionError::Length { .. })));
}

#[test]
fn an_event_of_an_unknown_type_ends_a_transaction_only_where_its_length_says_so() {
    let unknown = || Build::new(EventType(99), [1, 2, 3]);
    assert_eq!(steps(&group(&[unknown()])), "iC", "alone");
    assert_eq!(steps(&group(&[query("BEGIN"), unknown(), xid()])), "iiiC", "among others");
    assert_eq!(steps(&group(&[query("BEGIN"), unknown()])), "iiC", "as another kind of commit");
    assert_eq!(steps(&[gtid(1, None), query("BEGIN"), unknown(), xid()]), "iiiC");
    let open = error(&[gtid(1, None), unknown(), gtid(2, None)]);
    assert!(matches!(open, TransactionError::Unfinished { .. }), "without a length nothing says that it ended");
}
