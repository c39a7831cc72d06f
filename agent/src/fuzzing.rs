//! Targets for fuzzing: arbitrary bytes to everything that reads what a source sends, or what lies on a disk. Not an
//! interface.
//!
//! `tests/fuzz` runs them under libFuzzer; the test `fuzz` runs them over its corpora. A target panics when it finds
//! something.

mod offline;

use highwater_binlog::{
    ChecksumAlgorithm, EVENT_HEADER_LEN, EventType, EventWalk, FIRST_EVENT_OFFSET, FormatDescription, Framer, GtidSet,
    RawEvent, SegmentPolicy, ServerUuid, previous_gtids,
};
use highwater_catalog::{Micros, Timeline, TimelineId};

use crate::capture::{Effect, Follower, Request, Start, Tip};
use crate::source::fuzzing as source;

/// What bytes are fed to: it must neither panic nor grow.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the folder of its corpus.
pub const TARGETS: [(&str, Target); 14] = [
    ("packets", source::packets),
    ("greeting", source::greeting),
    ("auth_switch", source::auth_switch),
    ("error_packet", source::error_packet),
    ("stream", source::stream),
    ("framer", framer),
    ("gtid_set", gtid_set),
    ("heartbeat", heartbeat),
    ("follower", follower),
    ("encryption_header", offline::encryption_header),
    ("keyring", offline::keyring),
    ("keyring_percona", offline::keyring_percona),
    ("mariadb_keys", offline::mariadb_keys),
    ("key_bundle", offline::key_bundle),
];

/// Gives `bytes` to a target. A name that is none does nothing.
pub fn run(name: &str, bytes: &[u8]) {
    if let Some((_, target)) = TARGETS.iter().find(|(target, _)| *target == name) {
        target(bytes);
    }
}

/// Where the type stands in an event's header.
const TYPE_AT: usize = 4;

/// Where the length stands in an event's header.
const LENGTH_AT: usize = 9;

/// Length of a CRC32.
const CHECKSUM_LEN: usize = 4;

/// `LOG_EVENT_ARTIFICIAL_F`, and where the flags stand in an event's header.
const ARTIFICIAL: (usize, u8) = (17, 0x20);

/// A binlog in pieces: framed in one go or byte for byte, the events are the same.
fn framer(bytes: &[u8]) {
    let read = |step: usize| {
        let mut framer = Framer::new();
        let mut ends = Vec::new();
        for piece in bytes.chunks(step) {
            framer.push(piece);
            loop {
                match framer.next() {
                    Ok(Some((offset, event))) => ends.push((offset, event.bytes().len())),
                    Ok(None) => break,
                    Err(error) => return (ends, error.to_string()),
                }
            }
        }
        (ends, String::new())
    };
    let found = read(bytes.len().max(1));
    assert_eq!(found, read(7));
    walk(bytes, &found.0);
}

/// Events that a framer found in a binlog, each by its offset and length, are right to a walk too.
fn walk(bytes: &[u8], events: &[(u64, usize)]) {
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    let is_description = |offset: u64| bytes.get(at(offset) + TYPE_AT) == Some(&EventType::FORMAT_DESCRIPTION.0);
    let descriptions = events.iter().filter(|(offset, _)| is_description(*offset)).count();
    // How events end changes with each.
    let (Some(&(FIRST_EVENT_OFFSET, len)), Some(&(last, last_len)), 1) = (events.first(), events.last(), descriptions)
    else {
        return;
    };
    let first = &bytes[at(FIRST_EVENT_OFFSET)..][..len];
    let description =
        RawEvent::verify(first, ChecksumAlgorithm::None).and_then(|event| FormatDescription::read(&event));
    // Without checksums a walk looks at places, which are those of another file where only parts are there.
    if !description.is_ok_and(|description| description.checksum_algorithm == ChecksumAlgorithm::Crc32) {
        return;
    }
    let mut walk = EventWalk::new(ChecksumAlgorithm::Crc32, 0);
    for piece in bytes[..at(last) + last_len].chunks(7) {
        assert_eq!(walk.accept(piece), Ok(()));
    }
    assert_eq!(walk.finish(), Ok(()));
}

/// A set as in COM_BINLOG_DUMP_GTID and PREVIOUS_GTIDS, classic or with tags.
fn gtid_set(bytes: &[u8]) {
    if let Ok(set) = GtidSet::from_wire(bytes) {
        assert_eq!(GtidSet::from_wire(&set.to_wire()).as_ref(), Ok(&set));
        assert_eq!(set.to_string().parse().as_ref(), Ok(&set));
    }
    let event = stamped(EventType::PREVIOUS_GTIDS, bytes);
    if let Ok(event) = RawEvent::verify(&event, ChecksumAlgorithm::Crc32) {
        let _ = previous_gtids(&event);
    }
}

/// The body of a heartbeat, of either version.
fn heartbeat(bytes: &[u8]) {
    let mut rotate = stamped(EventType::ROTATE, b"\x04\0\0\0\0\0\0\0binlog.000001");
    rotate[ARTIFICIAL.0] |= ARTIFICIAL.1;
    stamp(&mut rotate);
    for kind in [EventType::HEARTBEAT, EventType::HEARTBEAT_V2] {
        let mut follower = beginning(0);
        let mut effects = Vec::new();
        for event in [&rotate, &stamped(kind, bytes), &stamped(kind, bytes)] {
            let _ = follower.accept(event, 0..event.len(), 0, &mut effects);
        }
    }
}

/// Events back to back, after a byte that says how the stream was asked for and whether checksums are made right.
fn follower(bytes: &[u8]) {
    let Some((mode, mut rest)) = bytes.split_first() else { return };
    let mut follower = beginning(*mode);
    let mut now = 0;
    while let Some(len) = rest.get(LENGTH_AT..).and_then(<[u8]>::first_chunk::<4>) {
        let len = usize::try_from(u32::from_le_bytes(*len)).unwrap_or(usize::MAX).min(rest.len());
        let (event, after) = rest.split_at(len.max(EVENT_HEADER_LEN + CHECKSUM_LEN).min(rest.len()));
        let mut event = event.to_vec();
        if mode & 4 != 0 && event.len() >= EVENT_HEADER_LEN + CHECKSUM_LEN {
            stamp(&mut event);
        }
        rest = after;
        now += 1_000_000;
        let mut effects = Vec::new();
        if follower.accept(&event, 0..event.len(), now, &mut effects).is_err() {
            break;
        }
        follower.tick(now, &mut effects);
        for effect in effects {
            match effect {
                Effect::Append(range) => assert!(range.end <= event.len()),
                Effect::Cut(cut) => assert!(cut.facts.start < cut.facts.end),
                _ => {}
            }
        }
    }
    follower.cut(&mut Vec::new());
}

fn beginning(mode: u8) -> Follower {
    let binlog = || "binlog.000001".parse().ok();
    let position = binlog().map(|binlog| highwater_binlog::BinlogPosition { binlog, offset: 4 });
    let request = match position {
        Some(position) if mode & 1 != 0 => Request::Position(position),
        _ => Request::Gtids { have: GtidSet::new(), from: binlog() },
    };
    let start = Start { request, compare: None, may_skip: mode & 2 != 0 };
    let policy = SegmentPolicy { bytes_max: 4096, age_micros_max: 2_000_000 };
    let tip = Tip::new(&Timeline {
        id: TimelineId(1),
        parent: None,
        reason: String::new(),
        starting_gtids: GtidSet::new(),
        created: Micros(0),
    });
    Follower::new(ServerUuid::from_bytes([1; 16]), policy, &tip, &start, None)
}

/// An event with this body.
fn stamped(kind: EventType, body: &[u8]) -> Vec<u8> {
    let mut event = vec![0; EVENT_HEADER_LEN];
    event[4] = kind.0;
    event.extend_from_slice(body);
    event.extend_from_slice(&[0; CHECKSUM_LEN]);
    stamp(&mut event);
    event
}

/// Makes length and checksum right.
fn stamp(event: &mut [u8]) {
    let len = u32::try_from(event.len()).unwrap_or(u32::MAX).to_le_bytes();
    event[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&len);
    let at = event.len() - CHECKSUM_LEN;
    let checksum = crc32fast::hash(&event[..at]).to_le_bytes();
    event[at..].copy_from_slice(&checksum);
}
