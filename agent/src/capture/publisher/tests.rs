//! Segments side by side, over a store that decides who is first.

use std::io::{self, Read};
use std::sync::{Condvar, Mutex};

use highwater_binlog::{EventHeader, GtidSet, MAGIC, SegmentFacts};
use highwater_catalog::{Inventory, TimelineId};

use super::*;
use crate::capture::index::OpenedIndex;
use crate::capture::spool::{Keep, Spool, StretchName};
use crate::seal::{NewIdentity, Recipients};
use crate::store::{MemoryStore, ObjectInfo, ObjectKey, ObjectStore, StoreError, StoreErrorKind};

const SERVER: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

/// How long the first object may wait for the second: a publisher that does one after the other never brings it.
const LIMIT: Duration = Duration::from_secs(20);

/// What the store does with objects that are not manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Temper {
    /// The first object is stored only after another one.
    LastFirst,
    /// The first attempts fail.
    Refuses(u32),
}

#[derive(Debug)]
struct Store {
    objects: MemoryStore,
    temper: Mutex<Temper>,
    stored: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Store {
    fn new(temper: Temper) -> Arc<Self> {
        let stored = Mutex::new(Vec::new());
        Arc::new(Self { objects: MemoryStore::new(), temper: Mutex::new(temper), stored, changed: Condvar::new() })
    }

    fn failure(&self, kind: StoreErrorKind, key: &ObjectKey) -> StoreError {
        let source = io::Error::from(io::ErrorKind::TimedOut);
        StoreError { kind, action: "create", key: key.to_string(), store: self.describe(), source }
    }
}

impl ObjectStore for Store {
    fn create(&self, key: &ObjectKey, body: &mut dyn Read) -> Result<ObjectInfo, StoreError> {
        if key.as_str().contains(".binlog") {
            let temper = {
                let mut temper = self.temper.lock().unwrap();
                let now = *temper;
                if let Temper::Refuses(times) = &mut *temper {
                    *times = times.saturating_sub(1);
                }
                now
            };
            match temper {
                Temper::Refuses(1..) => return Err(self.failure(StoreErrorKind::Transient, key)),
                Temper::LastFirst if key.as_str().contains("/000000000000-") => {
                    let stored = self.stored.lock().unwrap();
                    let wait = self.changed.wait_timeout_while(stored, LIMIT, |stored| stored.is_empty());
                    if wait.unwrap().1.timed_out() {
                        return Err(self.failure(StoreErrorKind::Other, key));
                    }
                }
                Temper::Refuses(0) | Temper::LastFirst => {}
            }
        }
        let info = self.objects.create(key, body)?;
        self.stored.lock().unwrap().push(key.to_string());
        self.changed.notify_all();
        Ok(info)
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        self.objects.open(key)
    }

    fn visit(&self, prefix: Option<&ObjectKey>, visitor: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.objects.visit(prefix, visitor)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.objects.delete(key)
    }

    fn describe(&self) -> String {
        "a store with a temper".to_owned()
    }
}

struct Bed {
    _folder: tempfile::TempDir,
    spool: Spool,
    archive: Archive,
    publisher: Publisher,
    /// Where the second segment begins.
    second: u64,
}

/// A publisher with three segments to publish.
fn bed(store: &Arc<Store>) -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let recipients: Recipients = NewIdentity::generate().into_identities().recipients();
    let service: highwater_catalog::ServiceName = "orders".parse().unwrap();
    Archive::create(Arc::clone(store) as Arc<dyn ObjectStore>, service.clone(), recipients.clone()).unwrap();
    let archive = Archive::open(Arc::clone(store) as Arc<dyn ObjectStore>, None).unwrap();
    let archive = archive.for_writing(&service, recipients).unwrap();
    let first = Timeline {
        id: TimelineId(1),
        parent: None,
        reason: "first start".to_owned(),
        starting_gtids: GtidSet::new(),
        created: Micros(1_700_000_000_000_000),
    };
    archive.publish_timeline(&first).unwrap();
    store.stored.lock().unwrap().clear();
    let OpenedIndex { index, .. } = Index::open(&folder.path().join("catalog.sqlite"), &archive).unwrap();
    let mut publisher = Publisher::new(archive.clone(), index, (Standing::new(&first), Tip::new(&first)));
    publisher.flights_max = 2;

    let binlog: &[u8] = include_bytes!("../../../../binlog/tests/data/rows.binlog");
    let next = |offset: &usize| Some(offset + EventHeader::read(&binlog[*offset..]).unwrap().event_len as usize);
    let places: Vec<usize> = std::iter::successors(Some(MAGIC.len()), next).take(7).collect();
    let (mut spool, _) = Spool::open(&folder.path().join("spool"), None).unwrap();
    let name = StretchName {
        number: 0,
        timeline: first.id,
        server: SERVER.parse().unwrap(),
        binlog: "binlog.000001".parse().unwrap(),
        start: 0,
        follows: publisher.lineage().mark(),
    };
    spool.begin(name, &binlog[places[0]..places[1]], Keep::Spooled).unwrap();
    spool.append(&binlog[places[0]..places[6]]).unwrap();
    spool.sync().unwrap();
    let stretch = spool.current().unwrap();
    let ends = [0, places[2] as u64, places[4] as u64, places[6] as u64];
    for (number, range) in ends.windows(2).enumerate() {
        let (start, end) = (range[0], range[1]);
        let facts = SegmentFacts {
            start,
            end,
            gtids_added: format!("{SERVER}:{}", number + 1).parse().unwrap(),
            first_commit_micros: Some(1_700_000_000_000_000),
            last_commit_micros: Some(1_700_000_000_000_000),
            events: 2,
            transactions: 1,
        };
        let cut = Cut { server: SERVER.parse().unwrap(), binlog: "binlog.000001".parse().unwrap(), facts };
        publisher.push(Job { cut, stretch: Arc::clone(&stretch) });
    }
    Bed { _folder: folder, spool, archive, publisher, second: ends[1] }
}

/// Publishes everything; numbers of the segments, and how many attempts failed.
async fn publish_all(publisher: &mut Publisher) -> (Vec<u64>, u32) {
    let (mut numbers, mut failures) = (Vec::new(), 0);
    while publisher.is_busy() {
        match publisher.advance().await.unwrap() {
            Some(published) => numbers.push(published.release().sequence),
            None => failures += 1,
        }
    }
    (numbers, failures)
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_are_stored_side_by_side_and_published_in_order() {
    let store = Store::new(Temper::LastFirst);
    let mut bed = bed(&store);
    let (numbers, failures) = publish_all(&mut bed.publisher).await;
    assert_eq!((numbers, failures), (vec![0, 1, 2], 0));
    let stored = store.stored.lock().unwrap().clone();
    assert!(stored[0].contains(&format!("/{:012}-", bed.second)), "the second object came first: {stored:?}");
    let manifests: Vec<_> = stored.iter().filter(|key| key.ends_with(".json")).collect();
    assert!(manifests.is_sorted(), "{manifests:?}");
    let Inventory { segments, .. } = bed.archive.inventory().unwrap();
    assert_eq!(segments.len(), 3);
    assert_eq!(segments[1].previous_blake3, Some(segments[0].plain_blake3));
    assert_eq!(segments[2].previous_blake3, Some(segments[1].plain_blake3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_is_tried_again_and_order_holds() {
    let store = Store::new(Temper::Refuses(3));
    let mut bed = bed(&store);
    let (numbers, failures) = publish_all(&mut bed.publisher).await;
    assert_eq!(numbers, [0, 1, 2]);
    assert!(failures > 0 && !bed.publisher.is_blocked(), "{failures}");
    assert_eq!(bed.publisher.standing().next_sequence, 3);
    assert_eq!(bed.archive.inventory().unwrap().segments.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_is_told() {
    let store = Store::new(Temper::LastFirst);
    let mut bed = bed(&store);
    (bed.publisher.flights_max, bed.publisher.answer_max) = (1, Duration::from_millis(100));
    assert!(!bed.publisher.is_blocked());
    tokio::time::timeout(Duration::from_millis(300), bed.publisher.advance()).await.unwrap_err();
    let trouble = bed.publisher.trouble().unwrap();
    assert!(bed.publisher.is_blocked() && trouble.contains("a temper has not answered"), "{trouble}");
    store.stored.lock().unwrap().push("another object".to_owned());
    store.changed.notify_all();
    bed.publisher.answer_max = LIMIT;
    assert_eq!(publish_all(&mut bed.publisher).await, (vec![0, 1, 2], 0));
    assert!(!bed.publisher.is_blocked());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_before_damage_in_the_spool_is_published_and_nothing_behind_it() {
    let store = Store::new(Temper::Refuses(0));
    let mut bed = bed(&store);
    let path = bed.spool.current().unwrap().path().to_owned();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[bed.second as usize + 30] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(bed.publisher.advance().await.unwrap().map(|published| published.release().sequence), Some(0));
    for _ in 0..2 {
        let error = bed.publisher.advance().await.unwrap_err();
        assert!(matches!(&error, CaptureError::SpoolDamaged { file, .. } if *file == path), "{error}");
        assert!(error.to_string().contains("CRC32"), "{error}");
    }
    assert_eq!(bed.archive.inventory().unwrap().segments.len(), 1);
}
