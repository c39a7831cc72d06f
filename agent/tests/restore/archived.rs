//! An archive of what a server has in its binlogs, with an empty dump before all of it.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use highwater::archive::{Archive, SegmentDraft};
use highwater::dump::{DumpOptions, take};
use highwater::seal::Recipients;
use highwater::store::{DirectoryStore, MemoryStore, ObjectStore};
use highwater_binlog::{BinlogPosition, Framer, Gtid, GtidEvent, GtidSet, Progress, TransactionTracker};
use highwater_catalog::{Dump, DumpFile, Inventory, Micros, Timeline, TimelineId};
use highwater_tests::MysqlServer;

use super::login;

/// A dump of a server that has executed nothing, with the bytes of its files.
static EMPTY_DUMP: OnceLock<(Dump, Files)> = OnceLock::new();

/// Files of a dump and what is in them.
type Files = Vec<(DumpFile, Vec<u8>)>;

fn dump_of_nothing() -> (Dump, Files) {
    // A thread of its own, since callers may be in a runtime.
    std::thread::spawn(|| {
        let server = MysqlServer::builder().start().unwrap();
        let name = "empty".parse().unwrap();
        let archive = Archive::create(Arc::new(MemoryStore::new()), name, Recipients::default()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = DumpOptions::new(TimelineId(1));
        let taken = runtime.block_on(take(&login(&server), &archive, &options, &|_| {})).unwrap();
        assert!(taken.dump.gtids.is_empty());
        let read = |file: &DumpFile| {
            let mut bytes = Vec::new();
            archive.read_dump_file(&taken.dump, file).unwrap().read_to_end(&mut bytes).unwrap();
            (file.clone(), bytes)
        };
        let files = taken.dump.files.iter().map(read).collect();
        let dump = Dump { started: Micros(1), finished: Micros(2), position: None, ..taken.dump.clone() };
        (dump, files)
    })
    .join()
    .unwrap()
}

/// So many that a history has segments that begin within a binlog.
const TRANSACTIONS_PER_SEGMENT: usize = 6;

/// So small that most segments are in several objects, cut within transactions and events.
const OBJECT_BYTES_MAX: u64 = 1500;

/// One archived transaction.
#[derive(Debug, Clone)]
pub(crate) struct ArchivedTransaction {
    pub(crate) gtid: Gtid,
    pub(crate) committed: Micros,
    pub(crate) end: BinlogPosition,
}

pub(crate) struct Archived {
    pub(crate) archive: Archive,
    pub(crate) inventory: Inventory,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) history: Vec<ArchivedTransaction>,
}

impl Archived {
    /// Of everything that the server has now.
    pub(crate) fn of(server: &MysqlServer) -> Self {
        let mut all = Self::new(server);
        all.publish_binlogs(server);
        all
    }

    /// Without binlogs; full dumps may follow.
    pub(crate) fn new(server: &MysqlServer) -> Self {
        let store = Arc::new(MemoryStore::new());
        Self::in_store(server, store.clone(), store)
    }

    /// In a folder, for the program.
    pub(crate) fn in_folder(server: &MysqlServer, folder: &Path) -> Self {
        let mut all = Self::in_store(server, Arc::new(DirectoryStore::open(folder).unwrap()), Arc::default());
        all.publish_binlogs(server);
        all
    }

    fn in_store(server: &MysqlServer, objects: Arc<dyn ObjectStore>, store: Arc<MemoryStore>) -> Self {
        let archive = Archive::create(objects, "orders".parse().unwrap(), Recipients::default()).unwrap();
        let archive = archive.with_object_bytes_max(OBJECT_BYTES_MAX);
        let timeline = Timeline {
            id: TimelineId(1),
            parent: None,
            reason: "first".to_owned(),
            starting_gtids: GtidSet::new(),
            created: Micros(1),
        };
        archive.publish_timeline(&timeline).unwrap();
        let (empty, files) = EMPTY_DUMP.get_or_init(dump_of_nothing);
        let writer = archive.begin_dump(empty.id.clone()).unwrap();
        let publish = |(file, bytes): &(DumpFile, Vec<u8>)| {
            let mut copy = writer.create_file(&file.name).unwrap();
            copy.write_all(bytes).unwrap();
            copy.finish(file.kind.clone()).unwrap()
        };
        let files = files.iter().map(publish).collect();
        let server = server.uuid().unwrap().parse().unwrap();
        writer.publish(Dump { server, files, ..empty.clone() }).unwrap();
        Self { archive, inventory: Inventory::default(), store, history: Vec::new() }
    }

    /// Every binlog of the server, as it is now.
    pub(crate) fn publish_binlogs(&mut self, server: &MysqlServer) {
        let mut last = None;
        for name in server.binlogs().unwrap() {
            self.publish(server, &name, &mut last);
        }
        self.inventory = self.archive.inventory().unwrap();
    }

    /// Everything up to and including transaction `count`.
    pub(crate) fn first(&self, count: usize) -> GtidSet {
        let mut set = GtidSet::new();
        self.history[..count].iter().for_each(|transaction| set.insert(&transaction.gtid));
        set
    }

    fn publish(&mut self, server: &MysqlServer, name: &str, last: &mut Option<highwater_catalog::Segment>) {
        let bytes = server.remote_binlog(name).unwrap();
        let mut framer = Framer::new();
        framer.push(&bytes);
        let mut tracker = TransactionTracker::new();
        let mut events = 0;
        let mut found = Vec::new();
        while let Some((offset, event)) = framer.next().unwrap() {
            events += 1;
            assert!(!GtidEvent::is_one(&event) || tracker.open().is_none());
            if let Progress::Committed(transaction) = tracker.accept(offset, &event).unwrap() {
                found.push(transaction);
            }
        }
        let mut groups: Vec<_> = found.chunks(TRANSACTIONS_PER_SEGMENT).collect();
        if groups.is_empty() {
            groups.push(&[]);
        }
        let mut start = 0;
        for (at, group) in groups.iter().enumerate() {
            let is_last = at + 1 == groups.len();
            let end = if is_last { bytes.len() as u64 } else { group.last().unwrap().end };
            let mut added = GtidSet::new();
            for transaction in *group {
                let gtid = transaction.gtid.clone().unwrap();
                added.insert(&gtid);
                let end = BinlogPosition { binlog: name.parse().unwrap(), offset: transaction.end };
                let committed = Micros(transaction.original_commit_micros);
                self.history.push(ArchivedTransaction { gtid, committed, end });
            }
            let times = || group.iter().map(|transaction| Micros(transaction.original_commit_micros));
            let draft = SegmentDraft {
                timeline: TimelineId(1),
                sequence: last.as_ref().map_or(0, |last| last.sequence + 1),
                server: server.uuid().unwrap().parse().unwrap(),
                binlog: name.parse().unwrap(),
                start,
                end,
                gtids_before: last.as_ref().map_or_else(GtidSet::new, |l| l.gtids_before.union(&l.gtids_added)),
                gtids_added: added,
                first_commit: times().min(),
                last_commit: times().max(),
                events,
                transactions: group.len() as u64,
                previous_blake3: last.as_ref().map(|last| last.plain_blake3),
            };
            let mut plain = &bytes[start as usize..end as usize];
            *last = Some(self.archive.publish_segment(draft, &mut plain).unwrap());
            start = end;
        }
    }
}
