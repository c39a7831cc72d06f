use std::io::{BufReader, Write};
use std::sync::Mutex;

use highwater_catalog::{
    Blake3Digest, Dump, DumpFileKind, Inventory, Segment, TimelineId, segment_manifest_key, segment_object_keys,
};

use self::pieces::large;
use super::*;
use crate::seal::NewIdentity;
use crate::store::{Incoming, MemoryStore, ObjectInfo, StoreError};

mod copies;
mod files;
mod owner;
mod pieces;

const SERVER: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

fn service() -> ServiceName {
    "orders".parse().unwrap()
}

fn archive(store: &MemoryStore) -> Archive {
    let identities = NewIdentity::generate().into_identities();
    let recipients = identities.recipients();
    Archive::create(Arc::new(store.clone()), service(), recipients.clone()).unwrap();
    let archive = Archive::open(Arc::new(store.clone()), Some(identities)).unwrap();
    archive.for_writing(&service(), recipients).unwrap()
}

fn timeline() -> Timeline {
    Timeline {
        id: TimelineId(1),
        parent: None,
        reason: "first start".to_owned(),
        starting_gtids: "".parse().unwrap(),
        created: Micros(1_700_000_000_000_000),
    }
}

fn draft(sequence: u64, plain: &[u8], previous_blake3: Option<Blake3Digest>) -> SegmentDraft {
    let before = if sequence == 0 { String::new() } else { format!("{SERVER}:1-{sequence}") };
    SegmentDraft {
        timeline: TimelineId(1),
        sequence,
        server: SERVER.parse().unwrap(),
        binlog: "binlog.000001".parse().unwrap(),
        start: 100 * sequence,
        end: 100 * sequence + plain.len() as u64,
        gtids_before: before.parse().unwrap(),
        gtids_added: format!("{SERVER}:{}", sequence + 1).parse().unwrap(),
        first_commit: Some(Micros(1_700_000_000_000_000)),
        last_commit: Some(Micros(1_700_000_000_000_001)),
        events: 3,
        transactions: 1,
        previous_blake3,
    }
}

fn read_all(mut reader: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

fn keys(store: &MemoryStore) -> Vec<String> {
    store.list(None).unwrap().into_iter().map(|info| info.key.to_string()).collect()
}

fn published(archive: &Archive) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for sequence in 0..3 {
        let previous = segments.last().map(|segment| segment.plain_blake3);
        let plain = vec![u8::try_from(sequence).unwrap(); 100];
        segments.push(archive.publish_segment(draft(sequence, &plain, previous), &mut &plain[..]).unwrap());
    }
    segments
}

#[test]
fn what_is_published_reads_back_and_is_in_the_inventory() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    archive.publish_timeline(&timeline()).unwrap();
    let segments = published(&archive);
    let inventory = archive.inventory().unwrap();
    assert_eq!(inventory.timelines, [timeline()]);
    assert_eq!(inventory.segments, segments);
    for (index, segment) in segments.iter().enumerate() {
        assert_eq!(read_all(archive.read_segment(segment).unwrap()), vec![u8::try_from(index).unwrap(); 100]);
        assert!(!store.get(&key(&segment_object_keys(segment)[0])).unwrap().windows(8).any(|w| w == [0; 8]), "sealed");
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(read_all(archive.fetch_segment(segment, scratch.path()).unwrap()).len(), 100);
        assert_eq!(scratch.path().read_dir().unwrap().count(), 0, "the fetched file has no name");
    }
}

#[test]
fn an_inventory_takes_known_manifests_and_drops_removed_ones() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    archive.publish_timeline(&timeline()).unwrap();
    let segments = published(&archive);
    let known = Inventory { segments: segments[..2].to_vec(), ..Inventory::default() };
    let scan = archive.scan(&known).unwrap();
    assert_eq!((scan.fetched, scan.inventory.segments.len()), (2, 3), "the timeline and one segment");
    store.delete(&key(&segment_manifest_key(TimelineId(1), 0))).unwrap();
    let inventory = archive.inventory_since(&scan.inventory).unwrap();
    assert_eq!(inventory.segments, segments[1..]);
}

#[test]
fn publishing_a_segment_again_returns_the_one_that_is_there() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    let first = archive.publish_segment(draft(0, b"same", None), &mut &b"same"[..]).unwrap();
    let objects = keys(&store);
    let second = archive.publish_segment(draft(0, b"same", None), &mut &b"same"[..]).unwrap();
    assert_eq!(second, first);
    assert_eq!(keys(&store), objects, "the second sealing is removed");
    archive.check_segment(&second).unwrap();
}

#[test]
fn another_segment_under_the_same_number_is_a_conflict() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    let first = archive.publish_segment(draft(0, b"mine", None), &mut &b"mine"[..]).unwrap();
    let error = archive.publish_segment(draft(0, b"your", None), &mut &b"your"[..]).unwrap_err();
    assert_eq!(error.to_string(), "segments/0001/000000000000.json was published by another writer");
    assert_eq!(error.hint().unwrap(), "only one agent may write an archive: stop the other one");
    archive.check_segment(&first).unwrap();
}

/// A store whose `create` fails after so many objects whose name has this ending, as if the writer had been killed there.
#[derive(Debug, Clone)]
struct DyingStore {
    inner: MemoryStore,
    ending: &'static str,
    left: Arc<Mutex<usize>>,
}

impl ObjectStore for DyingStore {
    fn create(&self, key: &ObjectKey, body: &mut dyn Read) -> Result<ObjectInfo, StoreError> {
        if key.as_str().ends_with(self.ending) {
            let mut left = self.left.lock().unwrap();
            if *left == 0 {
                let (key, store) = (key.to_string(), self.describe());
                let source = io::ErrorKind::ConnectionReset.into();
                return Err(StoreError { kind: StoreErrorKind::Transient, action: "create", key, store, source });
            }
            *left -= 1;
        }
        self.inner.create(key, body)
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        self.inner.open(key)
    }

    fn visit(&self, prefix: Option<&ObjectKey>, visitor: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.inner.visit(prefix, visitor)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.delete(key)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// Fault 1: killed between the object and its manifest.
#[test]
fn an_object_without_manifest_is_invisible_and_not_in_the_way() {
    let store = MemoryStore::new();
    let healthy = archive(&store);
    let dying = DyingStore { inner: store.clone(), ending: ".json", left: Arc::new(Mutex::new(0)) };
    let doomed = Archive { store: Arc::new(dying), ..healthy.clone() };
    let before = keys(&store).len();
    doomed.publish_segment(draft(0, b"bytes", None), &mut &b"bytes"[..]).unwrap_err();
    assert_eq!(keys(&store).len(), before + 1, "the orphan is there");
    assert!(healthy.inventory().unwrap().segments.is_empty());

    // Other bytes too: after the crash the segment may be cut elsewhere.
    let segment = healthy.publish_segment(draft(0, b"bytes and more", None), &mut &b"bytes and more"[..]).unwrap();
    assert_eq!(healthy.inventory().unwrap().segments, std::slice::from_ref(&segment));
    assert_eq!(read_all(healthy.read_segment(&segment).unwrap()), b"bytes and more");
}

#[test]
fn a_draft_that_contradicts_its_bytes_is_not_published() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    let before = keys(&store);
    let several = archive.clone().with_object_bytes_max(2);
    for (bytes, count) in [(&b"fives"[..], 5), (b"sixsix", 6), (b"", 0), (b"one", 3)] {
        for archive in [&archive, &several] {
            let mut plain = bytes;
            let error = archive.publish_segment(draft(0, b"four", None), &mut plain).unwrap_err();
            assert_eq!(error.to_string(), format!("segment 0-4 of binlog.000001: {count} bytes were given"));
            assert_eq!(keys(&store), before);
        }
    }
}

#[test]
fn a_segment_that_no_manifest_could_say_is_refused_before_anything_is_stored() {
    let store = MemoryStore::new();
    let archive = archive(&store).with_object_bytes_max(2);
    let before = keys(&store);
    let mut impossible = draft(1, b"four", None);
    let error = archive.publish_segment(impossible.clone(), &mut &b"four"[..]).unwrap_err();
    assert!(matches!(error, ArchiveError::Manifest(_)), "{error}");
    impossible.end = impossible.start;
    archive.publish_segment(impossible, &mut &b""[..]).unwrap_err();
    assert_eq!(keys(&store), before);
}

/// A store that takes the beginning of an object and no more.
#[derive(Debug)]
struct FullStore(MemoryStore);

struct NoRoom;

impl Write for NoRoom {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        let (kind, source) = (io::ErrorKind::StorageFull, io::ErrorKind::StorageFull.into());
        let (key, store) = ("an object".to_owned(), "memory".to_owned());
        Err(io::Error::new(kind, StoreError { kind: StoreErrorKind::Full, action: "write", key, store, source }))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Incoming for NoRoom {
    fn create(self: Box<Self>, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        Ok(ObjectInfo { key: key.clone(), size: 0 })
    }
}

impl ObjectStore for FullStore {
    fn create(&self, key: &ObjectKey, body: &mut dyn Read) -> Result<ObjectInfo, StoreError> {
        self.0.create(key, body)
    }

    fn begin(&self) -> Result<Option<Box<dyn Incoming>>, StoreError> {
        Ok(Some(Box::new(NoRoom)))
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        self.0.open(key)
    }

    fn visit(&self, prefix: Option<&ObjectKey>, visitor: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.0.visit(prefix, visitor)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.0.delete(key)
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// Whether it is the first write, of age's header, or one of many.
#[test]
fn a_store_that_is_full_while_an_object_is_sealed_is_told_as_such() {
    let store = MemoryStore::new();
    let healthy = archive(&store);
    assert!(healthy.is_encrypted());
    let full = Archive { store: Arc::new(FullStore(store.clone())), ..healthy };
    let before = keys(&store);
    for size in [5, 3 << 20] {
        // Nothing that zstd could make small.
        let mut bytes = vec![0; size];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let error = full.publish_segment(draft(0, &bytes, None), &mut &bytes[..]).unwrap_err();
        assert!(matches!(&error, ArchiveError::Store(error) if error.kind == StoreErrorKind::Full), "{error:?}");
        assert_eq!((error.hint().unwrap(), keys(&store)), ("make room in the store".to_owned(), before.clone()));
    }
}

#[test]
fn bytes_that_cannot_be_read_are_no_fault_of_the_scratch_folder() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("spool"))
        }
    }
    let store = MemoryStore::new();
    let archive = archive(&store);
    let before = keys(&store);
    let error =
        archive.publish_segment(draft(0, b"four", None), &mut BufReader::new((&b"fo"[..]).chain(Broken))).unwrap_err();
    assert_eq!(error.to_string(), "read segment 0-4 of binlog.000001");
    assert_eq!(keys(&store), before);
}

#[test]
fn damage_is_told_with_the_objects_name() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    let segment = archive.publish_segment(draft(0, b"bytes", None), &mut &b"bytes"[..]).unwrap();
    let object = key(&segment_object_keys(&segment)[0]);
    let good = store.get(&object).unwrap();

    store.overwrite(&object, good[..good.len() - 1].to_vec());
    let error = archive.check_segment(&segment).unwrap_err();
    assert!(error.to_string().starts_with(&format!("{object} is damaged: ")), "{error}");
    assert_eq!(error.exit(), crate::exit::Exit::Damaged);

    let scratch = tempfile::tempdir().unwrap();
    assert!(matches!(archive.fetch_segment(&segment, scratch.path()), Err(ArchiveError::Damaged { .. })));

    let error = io::Read::read_to_end(&mut archive.read_segment(&segment).unwrap(), &mut Vec::new()).unwrap_err();
    assert!(matches!(ArchiveError::of_read("x", error), ArchiveError::Damaged { .. }));

    store.delete(&object).unwrap();
    assert_eq!(archive.check_segment(&segment).unwrap_err().to_string(), format!("{object} is missing"));
}

#[test]
fn reading_without_the_right_identity_says_which_is_needed() {
    let store = MemoryStore::new();
    let writer = archive(&store);
    let recipient = writer.repository().recipients[0].clone();
    let segment = writer.publish_segment(draft(0, b"bytes", None), &mut &b"bytes"[..]).unwrap();
    let object = segment_object_keys(&segment).remove(0);

    let without = Archive::open(Arc::new(store.clone()), None).unwrap();
    assert_eq!(without.inventory().unwrap().segments.len(), 1, "listing needs no identity");
    let error = without.check_segment(&segment).unwrap_err();
    assert_eq!(error.to_string(), format!("{object} is sealed, and no identity was given"));
    assert_eq!(
        error.hint().unwrap(),
        format!("give the identity of {recipient} by --identity FILE or seal.identity_file")
    );
    assert_eq!(error.exit(), crate::exit::Exit::Key);

    let other = Some(NewIdentity::generate().into_identities());
    let other = Archive::open(Arc::new(store), other).unwrap();
    let error = other.check_segment(&segment).unwrap_err();
    assert_eq!(error.to_string(), format!("{object} is sealed to other keys than those of the given identity"));
    assert_eq!(error.hint().unwrap(), format!("the archive was made for {recipient}"));
    assert_eq!(error.exit(), crate::exit::Exit::Key);
}

#[test]
fn a_damaged_manifest_is_an_error_and_a_scan_reads_past_it() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    archive.publish_timeline(&timeline()).unwrap();
    published(&archive);
    let manifest = segment_manifest_key(TimelineId(1), 1);
    store.overwrite(&key(&manifest), b"{".to_vec());
    let error = archive.inventory().unwrap_err();
    assert!(error.to_string().starts_with(&format!("manifest {manifest}: ")), "{error}");
    assert_eq!(error.exit(), crate::exit::Exit::Damaged);
    let scan = archive.scan(&Inventory::default()).unwrap();
    assert_eq!((scan.problems.len(), scan.inventory.segments.len()), (1, 2));
}

fn dump(id: &str, files: Vec<highwater_catalog::DumpFile>) -> Dump {
    Dump {
        id: id.parse().unwrap(),
        timeline: TimelineId(1),
        server: SERVER.parse().unwrap(),
        server_version: "9.7.0".to_owned(),
        gtids: format!("{SERVER}:1-5").parse().unwrap(),
        position: None,
        started: Micros(1_700_000_000_000_000),
        finished: Micros(1_700_000_000_000_009),
        method: "backup lock".to_owned(),
        files,
    }
}

#[test]
fn a_dump_is_invisible_until_it_is_published() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    archive.publish_timeline(&timeline()).unwrap();
    let writer = archive.begin_dump("20261122T150412Z-1f3a".parse().unwrap()).unwrap();
    let mut file = writer.create_file("data/000001.tsv").unwrap();
    file.write_all(b"1\tone\n").unwrap();
    file.write_all(b"2\ttwo\n").unwrap();
    assert_eq!(file.plain_size(), 12);
    let kind = DumpFileKind::Rows { schema: "s".to_owned(), table: "t".to_owned(), rows: 2 };
    let file = file.finish(kind).unwrap();
    assert!(archive.inventory().unwrap().dumps.is_empty());
    let dump = writer.publish(dump("20261122T150412Z-1f3a", vec![file])).unwrap();
    assert_eq!(archive.inventory().unwrap().dumps, std::slice::from_ref(&dump));
    assert_eq!(read_all(archive.read_dump_file(&dump, &dump.files[0]).unwrap()), b"1\tone\n2\ttwo\n");
    archive.check_dump_file(&dump, &dump.files[0]).unwrap();
    let error = archive.begin_dump(dump.id).unwrap_err();
    assert_eq!(error.to_string(), "dumps/20261122T150412Z-1f3a/manifest.json was published by another writer");
}

#[test]
fn a_dump_whose_file_is_not_stored_is_not_published() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    let writer = archive.begin_dump("20261122T150412Z-1f3a".parse().unwrap()).unwrap();
    let file = writer.create_file("schema.sql").unwrap().finish(DumpFileKind::Schema).unwrap();
    writer.clone().abandon(std::slice::from_ref(&file));
    let error = writer.publish(dump("20261122T150412Z-1f3a", vec![file])).unwrap_err();
    assert_eq!(error.to_string(), "dumps/20261122T150412Z-1f3a/schema.sql.zst.age is missing");
    assert!(archive.inventory().unwrap().dumps.is_empty());
}

#[test]
fn key_bundles_are_generations_and_always_sealed() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    let server = SERVER.parse().unwrap();
    let first = archive.publish_keys(server, vec!["MySQLReplicationKey_a_1".to_owned()], b"bundle 1").unwrap();
    let second = archive.publish_keys(server, vec!["MySQLReplicationKey_a_2".to_owned()], b"bundle 2").unwrap();
    assert_eq!((first.generation, second.generation), (1, 2));
    assert_eq!(archive.inventory().unwrap().keys, [first.clone(), second.clone()]);
    assert_eq!(&**archive.read_keys(&first).unwrap(), b"bundle 1");
    assert_eq!(&**archive.read_keys(&second).unwrap(), b"bundle 2");

    let open = MemoryStore::new();
    let open = Archive::create(Arc::new(open), service(), Recipients::default()).unwrap();
    let error = open.publish_keys(server, vec![], b"bundle").unwrap_err();
    assert_eq!(error.to_string(), "keys are only stored sealed, and the archive is not encrypted");
}

/// A store that has what it was given and says that it failed.
#[derive(Debug)]
struct LyingStore(MemoryStore);

impl ObjectStore for LyingStore {
    fn create(&self, key: &ObjectKey, body: &mut dyn Read) -> Result<ObjectInfo, StoreError> {
        self.0.create(key, body)?;
        let (key, store, source) = (key.to_string(), self.describe(), io::ErrorKind::ConnectionReset.into());
        Err(StoreError { kind: StoreErrorKind::Transient, action: "create", key, store, source })
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        self.0.open(key)
    }

    fn visit(&self, prefix: Option<&ObjectKey>, visitor: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.0.visit(prefix, visitor)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.0.delete(key)
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

#[test]
fn a_key_bundle_that_is_not_stored_leaves_nothing() {
    let store = MemoryStore::new();
    let healthy = archive(&store);
    let before = keys(&store);
    let doomed = Archive { store: Arc::new(LyingStore(store.clone())), ..healthy };
    doomed.publish_keys(SERVER.parse().unwrap(), vec![], b"bundle").unwrap_err();
    assert_eq!(keys(&store), before);
}

#[test]
fn an_archive_is_created_once_and_only_in_an_empty_store() {
    let store = MemoryStore::new();
    let create = |store: &MemoryStore| Archive::create(Arc::new(store.clone()), service(), Recipients::default());
    let first = create(&store).unwrap();
    assert_eq!(create(&store).unwrap_err().to_string(), "memory holds an archive already");
    assert_eq!(Archive::open(Arc::new(store), None).unwrap().repository(), first.repository());
    let other = MemoryStore::new();
    other.create(&key("a-photo"), &mut &b""[..]).unwrap();
    assert_eq!(create(&other).unwrap_err().to_string(), "memory is not empty: it has a-photo");
}

#[test]
fn an_archive_is_never_made_by_opening() {
    let store = MemoryStore::new();
    let error = Archive::open(Arc::new(store.clone()), None).unwrap_err();
    assert_eq!(error.to_string(), "memory holds no archive");
    assert!(keys(&store).is_empty());
}

#[test]
fn a_writer_must_fit_the_archive() {
    let sealed = MemoryStore::new();
    archive(&sealed);
    let open = MemoryStore::new();
    Archive::create(Arc::new(open.clone()), service(), Recipients::default()).unwrap();
    let recipients = NewIdentity::generate().into_identities().recipients();
    let attempt = |store: &MemoryStore, service: &str, recipients: &Recipients| {
        let archive = Archive::open(Arc::new(store.clone()), None).unwrap();
        archive.for_writing(&service.parse().unwrap(), recipients.clone()).map(drop).map_err(|e| e.to_string())
    };
    assert_eq!(attempt(&sealed, "orders", &recipients), Ok(()), "recipients may change");
    assert_eq!(attempt(&open, "orders", &Recipients::default()), Ok(()));
    let error = attempt(&sealed, "billing", &recipients).unwrap_err();
    assert_eq!(error, "the archive in memory is of service `orders`, not `billing`");
    let error = attempt(&sealed, "orders", &Recipients::default()).unwrap_err();
    assert_eq!(error, "the archive in memory is encrypted, and seal.recipients is empty");
    let error = attempt(&open, "orders", &recipients).unwrap_err();
    assert_eq!(error, "the archive in memory is not encrypted, and seal.recipients asks for it");
}
