//! A catalog and a store that know different segments.

use highwater_catalog::{Blake3Digest, Micros};
use tempfile::TempDir;

use super::*;
use crate::archive::SegmentDraft;
use crate::capture::BrokenTimeline;
use crate::seal::Recipients;
use crate::store::{MemoryStore, ObjectStore};

const SERVER: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

struct Bed {
    folder: TempDir,
    store: MemoryStore,
    archive: Archive,
}

/// Two timelines of `segments` segments each.
fn bed(segments: u64) -> Bed {
    let store = MemoryStore::new();
    let service: highwater_catalog::ServiceName = "orders".parse().unwrap();
    let archive = Archive::create(Arc::new(store.clone()), service, Recipients::default()).unwrap();
    for timeline in [TimelineId(1), TimelineId(2)] {
        let record = Timeline {
            id: timeline,
            parent: (timeline == TimelineId(2)).then_some(TimelineId(1)),
            reason: "first start".to_owned(),
            starting_gtids: "".parse().unwrap(),
            created: Micros(1_700_000_000_000_000),
        };
        archive.publish_timeline(&record).unwrap();
        let mut previous = None;
        for sequence in 0..segments {
            previous = Some(publish(&archive, timeline, sequence, previous));
        }
    }
    Bed { folder: tempfile::tempdir().unwrap(), store, archive }
}

fn publish(archive: &Archive, timeline: TimelineId, sequence: u64, previous: Option<Blake3Digest>) -> Blake3Digest {
    let before = if sequence == 0 { String::new() } else { format!("{SERVER}:1-{sequence}") };
    let draft = SegmentDraft {
        timeline,
        sequence,
        server: SERVER.parse().unwrap(),
        binlog: "binlog.000001".parse().unwrap(),
        start: 100 * sequence,
        end: 100 * (sequence + 1),
        gtids_before: before.parse().unwrap(),
        gtids_added: format!("{SERVER}:{}", sequence + 1).parse().unwrap(),
        first_commit: None,
        last_commit: None,
        events: 3,
        transactions: 1,
        previous_blake3: previous,
    };
    archive.publish_segment(draft, &mut &[7; 100][..]).unwrap().plain_blake3
}

impl Bed {
    fn open(&self) -> Result<OpenedIndex, CaptureError> {
        Index::open(&self.folder.path().join("catalog.sqlite"), &self.archive)
    }

    fn remove(&self, timeline: u32, sequence: u64) {
        let name = format!("segments/{:04}/{sequence:012}.json", timeline);
        self.store.delete(&name.parse().unwrap()).unwrap();
    }

    /// How many segments of each timeline the catalog has.
    fn catalogued(&self, opened: &OpenedIndex) -> [usize; 2] {
        let segments = opened.index.catalog().load().unwrap().segments;
        [1, 2].map(|id| segments.iter().filter(|segment| segment.timeline == TimelineId(id)).count())
    }
}

#[test]
fn the_end_is_that_of_the_newest_timeline_however_much_the_catalog_knew() {
    for segments in 0..6 {
        let bed = bed(segments);
        let expected = Standing::of(&bed.archive.inventory().unwrap()).unwrap().unwrap();
        for _ in 0..2 {
            let opened = bed.open().unwrap();
            assert!(opened.inventory.segments.is_empty());
            assert_eq!(bed.catalogued(&opened), [segments as usize; 2]);
            let (standing, tip) = opened.end.unwrap();
            assert_eq!((&standing, tip.captured), (&expected.0, expected.1.captured.clone()));
            assert_eq!((tip.tail.len(), standing.next_sequence), (usize::from(segments > 0), segments));
        }
        let digest = expected.0.previous_blake3;
        publish(&bed.archive, TimelineId(2), segments, digest);
        let opened = bed.open().unwrap();
        assert_eq!(opened.end.as_ref().unwrap().0.next_sequence, segments + 1);
        assert_eq!(bed.catalogued(&opened), [segments as usize, segments as usize + 1]);
    }
}

#[test]
fn a_segment_that_is_gone_is_remembered_and_breaks_the_newest_timeline() {
    for sequence in 0..5 {
        let bed = bed(5);
        drop(bed.open().unwrap());
        bed.remove(1, sequence);
        let opened = bed.open().unwrap();
        assert_eq!((bed.catalogued(&opened), opened.end.as_ref().unwrap().0.next_sequence), ([5, 5], 5));
        drop(opened);
        bed.remove(2, sequence);
        let broken = bed.open().unwrap_err();
        let CaptureError::BrokenTimeline(BrokenTimeline { timeline, sequence: found, .. }) = broken else {
            panic!("{broken}")
        };
        assert_eq!((timeline, found), (TimelineId(2), if sequence == 4 { 4 } else { sequence + 1 }));
    }
}

#[test]
fn a_store_put_back_from_an_older_copy_is_gone_on_with_when_the_catalog_is_made_again() {
    let bed = bed(5);
    drop(bed.open().unwrap());
    (2..5).for_each(|sequence| bed.remove(2, sequence));
    let broken = bed.open().unwrap_err();
    assert!(matches!(broken, CaptureError::BrokenTimeline(BrokenTimeline { sequence: 2, .. })), "{broken}");
    std::fs::remove_file(bed.folder.path().join("catalog.sqlite")).unwrap();
    assert_eq!(bed.open().unwrap().end.unwrap().0.next_sequence, 2);
}

#[test]
fn without_the_catalog_too_a_hole_is_no_end() {
    let bed = bed(5);
    bed.remove(2, 3);
    assert!(matches!(bed.open().unwrap_err(), CaptureError::BrokenTimeline(_)));
}

#[test]
fn a_damaged_catalog_is_made_again() {
    let bed = bed(5);
    drop(bed.open().unwrap());
    let path = bed.folder.path().join("catalog.sqlite");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(bed.catalogued(&bed.open().unwrap()), [5, 5]);
}
