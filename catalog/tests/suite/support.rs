//! A history as it truly was, and the archive that captured it. Tests compare plans with the former.

use std::num::NonZeroU64;

use highwater_binlog::{BinlogName, Gtid, GtidOrigin, GtidSet, ServerUuid};
use highwater_catalog::{
    Blake3Digest, Dump, DumpFile, DumpFileKind, Inventory, KeptFile, KeyGeneration, Micros, ObjectFacts, Repository,
    RepositoryId, Sealing, Segment, Stop, Timeline, TimelineId,
};
use highwater_keyring::FileMark;
use proptest::prelude::*;

pub(crate) const SERVER: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
pub(crate) const TIMELINE: TimelineId = TimelineId(1);

pub(crate) fn server(number: u8) -> ServerUuid {
    ServerUuid::from_bytes([number; 16])
}

pub(crate) fn repository_id() -> RepositoryId {
    RepositoryId::from_random_bytes([7; 16])
}

pub(crate) fn repository() -> Repository {
    Repository {
        id: repository_id(),
        service: "orders".parse().unwrap(),
        recipients: vec!["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".to_owned()],
        created: Micros(1_795_356_000_000_000),
    }
}

pub(crate) fn gtid(text: &str) -> Gtid {
    format!("{SERVER}:{text}").parse().unwrap()
}

pub(crate) fn gtids(text: &str) -> GtidSet {
    if text.is_empty() { GtidSet::new() } else { format!("{SERVER}:{text}").parse().unwrap() }
}

pub(crate) fn digest(number: u64) -> Blake3Digest {
    let mut bytes = [0u8; 32];
    for (byte, value) in bytes.iter_mut().zip(number.to_be_bytes().into_iter().cycle()) {
        *byte = value;
    }
    Blake3Digest(bytes)
}

pub(crate) fn facts(number: u64, plain_size: u64) -> ObjectFacts {
    ObjectFacts {
        plain_size,
        plain_blake3: digest(number),
        stored_size: plain_size / 3 + 200,
        stored_blake3: digest(number + (1 << 40)),
        sealing: Sealing::ZstdAge,
    }
}

/// One object for a segment with an even number, three for the others.
fn parts(sequence: u64, size: u64) -> Vec<ObjectFacts> {
    if sequence.is_multiple_of(2) {
        return vec![facts(sequence, size)];
    }
    [(1, 100), (2, 60), (3, size - 160)].map(|(part, size)| facts(sequence + (part << 50), size)).to_vec()
}

/// One transaction as the source committed it.
#[derive(Debug, Clone)]
pub(crate) struct Transaction {
    pub(crate) gtid: Gtid,
    pub(crate) committed: Micros,
}

/// What happened, in binlog order, and where it was cut.
#[derive(Debug, Clone)]
pub(crate) struct Truth {
    pub(crate) starting: GtidSet,
    pub(crate) transactions: Vec<Transaction>,
    /// How many transactions each segment has; 0 is a segment of other events only.
    pub(crate) cuts: Vec<usize>,
    /// After how many transactions each dump was taken.
    pub(crate) dumps: Vec<usize>,
}

impl Truth {
    /// The set after the first `count` transactions.
    pub(crate) fn after(&self, count: usize) -> GtidSet {
        let mut set = self.starting.clone();
        self.transactions[..count].iter().for_each(|transaction| set.insert(&transaction.gtid));
        set
    }

    /// For each segment: the index of its first transaction and the index after its last.
    pub(crate) fn ranges(&self) -> Vec<(usize, usize)> {
        let mut end = 0;
        let range = |&count: &usize| {
            let start = end;
            end += count;
            (start, end)
        };
        self.cuts.iter().map(range).collect()
    }

    pub(crate) fn stop(&self, count: usize) -> Stop {
        let point = highwater_catalog::RestorePoint::Latest;
        Stop { timeline: TIMELINE, point, gtids: self.after(count), first_excluded: None }
    }

    pub(crate) fn inventory(&self) -> Inventory {
        let timeline = Timeline {
            id: TIMELINE,
            parent: None,
            reason: "first capture of this service".to_owned(),
            starting_gtids: self.starting.clone(),
            created: Micros(1),
        };
        let mut segments: Vec<Segment> = Vec::new();
        for (number, (first, end)) in self.ranges().into_iter().enumerate() {
            let segment = self.segment(number, first, end, segments.last());
            segments.push(segment);
        }
        let dumps = self.dumps.iter().enumerate().map(|(number, &count)| dump(number, self.after(count))).collect();
        Inventory { timelines: vec![timeline], segments, dumps, keys: vec![keys(1)], files: vec![kept(1), kept(2)] }
    }

    fn segment(&self, number: usize, first: usize, end: usize, previous: Option<&Segment>) -> Segment {
        let sequence = number as u64;
        let transactions = &self.transactions[first..end];
        let mut added = GtidSet::new();
        transactions.iter().for_each(|transaction| added.insert(&transaction.gtid));
        // Three segments to a binlog.
        let binlog: BinlogName = format!("binlog.{:06}", number / 3 + 1).parse().unwrap();
        let start = previous.filter(|previous| previous.binlog == binlog).map_or(0, |previous| previous.end);
        let size = 200 + 100 * transactions.len() as u64;
        Segment {
            timeline: TIMELINE,
            sequence,
            server: server(1),
            binlog,
            start,
            end: start + size,
            gtids_before: self.after(first),
            gtids_added: added,
            first_commit: transactions.iter().map(|transaction| transaction.committed).min(),
            last_commit: transactions.iter().map(|transaction| transaction.committed).max(),
            events: 2 + 4 * transactions.len() as u64,
            transactions: transactions.len() as u64,
            plain_blake3: digest(sequence),
            objects: parts(sequence, size),
            previous_blake3: previous.map(|previous| previous.plain_blake3),
        }
    }
}

/// The dump's clock is far behind every commit time of the tests unless a test says otherwise.
pub(crate) fn dump(number: usize, gtids: GtidSet) -> Dump {
    Dump {
        id: format!("20261122T150412Z-{number:04}").parse().unwrap(),
        timeline: TIMELINE,
        server: server(1),
        server_version: "9.7.0".to_owned(),
        gtids,
        position: Some("binlog.000001:4".parse().unwrap()),
        started: Micros(number as u64),
        finished: Micros(number as u64 + 1),
        method: "backup lock + brief global read lock".to_owned(),
        files: vec![
            DumpFile { name: "schema.sql".to_owned(), kind: DumpFileKind::Schema, object: facts(900, 5000) },
            DumpFile {
                name: "data/000001.tsv".to_owned(),
                kind: DumpFileKind::Rows { schema: "sh\"op".to_owned(), table: "näme\n`;".to_owned(), rows: 3 },
                object: facts(901, 0),
            },
            DumpFile { name: "accounts.sql".to_owned(), kind: DumpFileKind::Accounts, object: facts(902, 70) },
        ],
    }
}

pub(crate) fn keys(generation: u32) -> KeyGeneration {
    KeyGeneration {
        server: server(1),
        generation,
        key_ids: vec![format!("MySQLReplicationKey_{}_1", server(1)), format!("MySQLReplicationKey_{}_2", server(1))],
        taken: Micros(77),
        stored_size: 812,
        stored_blake3: digest(5),
    }
}

/// The server's kept file of this number, with transactions 10 x number + 1 to 10 x number + 10; those with an even number
/// have several objects.
pub(crate) fn kept(number: u64) -> KeptFile {
    let objects = match number % 2 {
        0 => vec![facts(700 + number, 4096), facts(800 + number, 100)],
        _ => vec![facts(700 + number, 4196)],
    };
    let first = 10 * number + 1;
    KeptFile {
        server: server(1),
        binlog: format!("binlog.{number:06}").parse().unwrap(),
        mark: FileMark::of_body(&[u8::try_from(number % 256).unwrap(); 16]).unwrap(),
        server_version: "9.7.0".to_owned(),
        gtids_before: gtids(&format!("1-{}", first - 1)),
        gtids_added: gtids(&format!("{first}-{}", first + 9)),
        first_commit: Some(Micros(1_000 * number)),
        last_commit: Some(Micros(1_000 * number + 9)),
        events: 52,
        transactions: 10,
        key_id: format!("MySQLReplicationKey_{}_1", server(1)),
        key_generation: 1,
        taken: Micros(78 + number),
        body_blake3: digest(700 + number),
        header: facts(600 + number, KeptFile::HEADER_LEN),
        objects,
    }
}

/// Times in the tests lie after this, dumps before.
pub(crate) const EPOCH: u64 = 1_000_000;

/// Histories of three servers, one with a tag, whose numbers may come out of order and whose clocks may go back.
pub(crate) fn truths() -> impl Strategy<Value = Truth> {
    (1usize..60).prop_flat_map(|count| {
        let steps = prop::collection::vec((0usize..3, 0u64..40), count);
        let order = prop::collection::vec(0usize..4, count);
        let cuts = prop::collection::vec(0usize..8, 0..20);
        let dumps = prop::collection::vec(0..=count, 1..4);
        (steps, order, cuts, dumps).prop_map(|(steps, order, cuts, dumps)| truth(&steps, &order, &cuts, dumps))
    })
}

fn truth(steps: &[(usize, u64)], order: &[usize], cuts: &[usize], dumps: Vec<usize>) -> Truth {
    let origins: Vec<GtidOrigin> =
        [format!("{}:1", server(1)), format!("{}:1", server(2)), format!("{}:t:1", server(2))]
            .iter()
            .map(|text| text.parse::<Gtid>().unwrap().origin)
            .collect();
    let mut numbers = [10u64; 3];
    let mut clock = EPOCH;
    let mut transactions: Vec<Transaction> = Vec::new();
    for (&(origin, tick), &late) in steps.iter().zip(order) {
        numbers[origin] += 1;
        clock = (clock + tick).saturating_sub(7);
        let gtid = Gtid { origin: origins[origin].clone(), number: NonZeroU64::new(numbers[origin]).unwrap() };
        let place = transactions.len().saturating_sub(late);
        transactions.insert(place, Transaction { gtid, committed: Micros(clock) });
    }
    let mut starting = GtidSet::new();
    for origin in &origins {
        starting.insert_interval(origin, highwater_binlog::Interval { start: 1, end: 11 });
    }
    let mut left = transactions.len();
    let mut cuts: Vec<usize> = cuts
        .iter()
        .map(|&cut| {
            let cut = cut.min(left);
            left -= cut;
            cut
        })
        .collect();
    cuts.push(left);
    Truth { starting, transactions, cuts, dumps }
}

/// `count` transactions of one server, one second apart, four to a segment, with a dump at the beginning.
pub(crate) fn simple_truth(count: usize) -> Truth {
    let transactions = (1..=count)
        .map(|number| Transaction { gtid: gtid(&number.to_string()), committed: Micros(EPOCH * (1 + number as u64)) })
        .collect();
    let mut cuts = vec![4; count / 4];
    if !count.is_multiple_of(4) {
        cuts.push(count % 4);
    }
    Truth { starting: GtidSet::new(), transactions, cuts, dumps: vec![0] }
}
