use highwater_binlog::BinlogPosition;
use highwater_catalog::{Micros, Timeline, TimelineId};

use super::*;
use crate::capture::tip::{Piece, PieceBytes};

#[path = "../../../../binlog/tests/support/build.rs"]
mod build;

use build::{Build, description, gtid, query};

/// Where a 32-bit offset would begin again, and a bit more.
const FAR: u64 = (1 << 32) + 5000;

/// A source's stream of one binlog, made by hand.
struct Stream {
    follower: Follower,
    effects: Vec<Effect>,
    /// Where the next event stands.
    offset: u64,
    /// The events that stand in the binlog.
    sent: Vec<u8>,
}

fn server() -> ServerUuid {
    ServerUuid::from_bytes([9; 16])
}

fn binlog() -> BinlogName {
    "binlog.000001".parse().unwrap()
}

fn tip() -> Tip {
    let reason = String::new();
    let starting_gtids = GtidSet::new();
    Tip::new(&Timeline { id: TimelineId(1), parent: None, reason, starting_gtids, created: Micros(0) })
}

impl Stream {
    /// After the artificial event that names the binlog, and the format description.
    fn new(tip: &Tip) -> Self {
        Self::comparing(tip, None)
    }

    /// The same, with a piece that is to be sent again.
    fn comparing(tip: &Tip, piece: Option<&Piece>) -> Self {
        Self::asked(Request::Gtids { have: tip.captured.clone(), from: None }, tip, piece)
    }

    fn asked(request: Request, tip: &Tip, piece: Option<&Piece>) -> Self {
        let policy = SegmentPolicy { bytes_max: 1 << 20, age_micros_max: 1_000_000 };
        let start = Start { request, compare: piece.cloned(), may_skip: true };
        let follower = Follower::new(server(), policy, tip, &start, piece.map(|piece| piece.digest().unwrap()));
        let mut stream = Self { follower, effects: Vec::new(), offset: 4, sent: Vec::new() };
        stream.announce(binlog().as_str()).unwrap();
        stream.event(description("8.0.36", 1)).unwrap();
        stream
    }

    /// The artificial event that names the binlog of those that follow.
    fn announce(&mut self, binlog: &str) -> Result<(), StreamError> {
        let rotate = Build { timestamp: 0, ..rotate(binlog) }.flags(0x20).end_log_pos(0);
        self.give(&rotate.crc32())
    }

    fn give(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.follower.accept(bytes, 0..bytes.len(), 0, &mut self.effects)
    }

    /// An event that stands where the one before it ends.
    fn event(&mut self, event: Build) -> Result<(), StreamError> {
        let end = self.offset + event.crc32().len() as u64;
        let bytes = event.end_log_pos(end as u32).crc32();
        self.give(&bytes)?;
        self.offset = end;
        self.sent.extend(bytes);
        Ok(())
    }

    /// Says that the source is at `position` and has left out what lies before it.
    fn heartbeat(&mut self, position: u64) -> Result<(), StreamError> {
        // A field of type 2, 9 bytes long.
        let body = [&[2, 9, 0xfe][..], &position.to_le_bytes(), &[0]].concat();
        let heartbeat = Build { timestamp: 0, ..Build::new(EventType::HEARTBEAT_V2, body) };
        self.give(&heartbeat.end_log_pos(position as u32).crc32())
    }

    fn transaction(&mut self, number: u64) -> Result<(), StreamError> {
        self.event(gtid(number, None))?;
        self.event(query("BEGIN"))?;
        self.event(Build::new(EventType::XID, [0; 8]))
    }
}

/// The event that ends a binlog.
fn rotate(next: &str) -> Build {
    Build::new(EventType::ROTATE, [&4u64.to_le_bytes()[..], next.as_bytes()].concat())
}

fn number(number: u64) -> Gtid {
    format!("{}:{number}", server()).parse().unwrap()
}

#[test]
fn events_that_the_source_lost_end_the_timeline_and_what_came_before_is_kept() {
    let mut stream = Stream::new(&tip());
    stream.transaction(1).unwrap();
    stream.event(gtid(2, None)).unwrap();
    let offset = stream.offset;
    let error = stream.event(Build::new(EventType::INCIDENT, [1, 0, 0])).unwrap_err();
    let incident = Discontinuity::Incident { binlog: binlog(), offset, gtid: Some(number(2)) };
    assert_eq!(error, StreamError::Discontinuity(incident));
    let whole = stream.follower.whole().unwrap();
    assert_eq!(whole.facts.gtids_added.to_string(), number(1).to_string());
}

#[test]
fn offsets_beyond_four_gigabytes_are_counted() {
    let mut tip = tip();
    tip.captured.insert(&number(1));
    tip.ends.insert((server(), binlog()), FAR);
    let mut stream = Stream::new(&tip);
    // What we have is left out; a heartbeat tells where it ends.
    stream.heartbeat(FAR).unwrap();
    stream.offset = FAR;
    stream.transaction(2).unwrap();
    assert!(matches!(stream.effects.first(), Some(Effect::Open { start: FAR, .. })), "{:?}", stream.effects);
    assert_eq!(stream.follower.position(), Some((&binlog(), stream.offset)));
    let whole = stream.follower.whole().unwrap();
    assert_eq!((whole.facts.start, whole.facts.end), (FAR, stream.offset));
}

#[test]
fn an_event_across_the_archives_end_is_another_history() {
    let mut tip = tip();
    tip.ends.insert((server(), binlog()), 500);
    let mut stream = Stream::new(&tip);
    let mut last = Ok(());
    for round in 1..20 {
        last = stream.transaction(round);
        if last.is_err() {
            break;
        }
    }
    assert!(matches!(last, Err(StreamError::Discontinuity(Discontinuity::Differs { end: 500, .. }))), "{last:?}");
}

#[test]
fn another_transaction_where_the_archive_has_bytes_is_another_history() {
    let mut tip = tip();
    tip.captured.insert(&number(1));
    tip.ends.insert((server(), binlog()), FAR);
    let mut stream = Stream::new(&tip);
    stream.transaction(1).unwrap();
    let start = stream.offset;
    let error = stream.transaction(2).unwrap_err();
    assert_eq!(error, StreamError::Discontinuity(Discontinuity::Differs { binlog: binlog(), start, end: FAR }));
}

/// A tip that ends in a binlog's second transaction, which is to be compared; where the first one begins and ends.
fn tip_of_two() -> (Tip, Piece, [u64; 2]) {
    let mut stream = Stream::new(&tip());
    stream.event(Build::new(EventType::PREVIOUS_GTIDS, [0; 8])).unwrap();
    let begin = stream.offset;
    stream.transaction(1).unwrap();
    let (start, before) = (stream.offset, stream.sent.len());
    stream.transaction(2).unwrap();
    let second = stream.sent.split_off(before);
    let mut gtids_added = GtidSet::new();
    gtids_added.insert(&number(2));
    let bytes = PieceBytes::Published(Blake3Digest(blake3::hash(&second).into()));
    let end = stream.offset;
    let piece = Piece { server: server(), binlog: binlog(), start, end, gtids_added, transactions: 1, bytes };
    let mut tip = tip();
    tip.captured.insert(&number(1));
    tip.captured.insert(&number(2));
    tip.ends.insert((server(), binlog()), end);
    (tip, piece, [begin, start])
}

#[test]
fn a_source_that_takes_long_to_pass_over_what_we_have_is_no_fork() {
    let (tip, piece, [begin, start]) = tip_of_two();
    let mut stream = Stream::comparing(&tip, Some(&piece));
    stream.event(Build::new(EventType::PREVIOUS_GTIDS, [0; 8])).unwrap();
    // One each period, and one more before the events.
    for position in [begin + 10, begin + 40, start, start] {
        stream.heartbeat(position).unwrap();
    }
    stream.offset = start;
    stream.transaction(2).unwrap();
    stream.heartbeat(piece.end).unwrap();
    stream.transaction(3).unwrap();
    assert!(matches!(stream.effects.first(), Some(Effect::Open { start, .. }) if *start == piece.end));
}

#[test]
fn a_piece_that_the_source_passes_or_has_not_is_a_fork() {
    let (tip, piece, [begin, start]) = tip_of_two();
    let differs = Discontinuity::Differs { binlog: binlog(), start: piece.start, end: piece.end };
    for positions in [&[start, piece.end][..], &[begin, begin, begin]] {
        let mut stream = Stream::comparing(&tip, Some(&piece));
        let (last, first) = positions.split_last().unwrap();
        first.iter().for_each(|position| stream.heartbeat(*position).unwrap());
        assert_eq!(stream.heartbeat(*last), Err(StreamError::Discontinuity(differs.clone())), "{positions:?}");
    }
}

#[test]
fn transactions_without_gtid_and_repeated_ones_are_refused() {
    let mut stream = Stream::new(&tip());
    stream.transaction(1).unwrap();
    let again = stream.transaction(1).unwrap_err();
    assert!(matches!(&again, StreamError::Repeated { gtid, .. } if *gtid == number(1)), "{again}");
    let mut stream = Stream::new(&tip());
    stream.event(Build { event_type: EventType::ANONYMOUS_GTID, ..gtid(0, None) }).unwrap();
    stream.event(query("BEGIN")).unwrap();
    let anonymous = stream.event(Build::new(EventType::XID, [0; 8])).unwrap_err();
    assert!(matches!(anonymous, StreamError::Anonymous { .. }), "{anonymous}");
}

#[test]
fn a_damaged_event_is_named_with_its_place() {
    let mut stream = Stream::new(&tip());
    let mut bytes = gtid(1, None).end_log_pos(999).crc32();
    bytes[25] ^= 1;
    let offset = stream.offset;
    let error = stream.give(&bytes).unwrap_err();
    assert!(
        matches!(&error, StreamError::Event { place, .. } if *place == format!("binlog.000001:{offset}")),
        "{error}"
    );
}

#[test]
fn without_gtids_the_binlog_that_comes_next_is_the_one_that_was_said_to() {
    let first = BinlogPosition { binlog: binlog(), offset: 4 };
    for (found, is_it) in [("binlog.000002", true), ("binlog.000003", false)] {
        let mut stream = Stream::asked(Request::Position(first.clone()), &tip(), None);
        stream.event(rotate("binlog.000002")).unwrap();
        let skipped = Discontinuity::BinlogSkipped {
            binlog: binlog(),
            next: "binlog.000002".parse().unwrap(),
            found: found.parse().unwrap(),
        };
        let expected = if is_it { Ok(()) } else { Err(StreamError::Discontinuity(skipped)) };
        assert_eq!(stream.announce(found), expected);
        // By GTIDs the binlog itself tells.
        let mut stream = Stream::new(&tip());
        stream.event(rotate("binlog.000002")).unwrap();
        assert_eq!(stream.announce(found), Ok(()));
    }
    // A server that was killed wrote none.
    let mut stream = Stream::asked(Request::Position(first), &tip(), None);
    assert_eq!(stream.announce("binlog.000002"), Ok(()));
}
