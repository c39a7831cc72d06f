//! The archive as a replication source, with a real replica.

use std::io::{self, Cursor, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater::restore::serve::{BinlogServer, Replay, ReplicaAccount, ServeOptions};
use highwater::restore::{ReplayBinlog, ReplayPart, ReplaySource};
use highwater::secret::Password;
use highwater_binlog::{Framer, Gtid, GtidEvent, GtidSet, ServerUuid};
use highwater_tests::MysqlServer;

/// Whole binlogs, in parts of a few transactions.
struct Binlogs {
    binlogs: Vec<ReplayBinlog>,
    bytes: Vec<Vec<u8>>,
    /// All transactions in order.
    history: Vec<Gtid>,
}

/// No divisor of where the test breaks the connection: the replica comes back within a part.
const TRANSACTIONS_PER_PART: usize = 8;

impl Binlogs {
    fn of(server: &MysqlServer) -> Self {
        let mut all = Self { binlogs: Vec::new(), bytes: Vec::new(), history: Vec::new() };
        for name in server.binlogs().unwrap() {
            let bytes = server.remote_binlog(&name).unwrap();
            let mut framer = Framer::new();
            let mut starts = Vec::new();
            for chunk in bytes.chunks(1 << 20) {
                framer.push(chunk);
                while let Some((offset, event)) = framer.next().unwrap() {
                    if GtidEvent::is_one(&event) {
                        starts.push((offset, GtidEvent::read(&event).unwrap().gtid.unwrap()));
                    }
                }
            }
            let mut parts = Vec::new();
            for (at, group) in starts.chunks(TRANSACTIONS_PER_PART).enumerate() {
                let start = if at == 0 { 0 } else { group[0].0 };
                let end = starts.get((at + 1) * TRANSACTIONS_PER_PART).map_or(bytes.len() as u64, |next| next.0);
                let mut gtids = GtidSet::new();
                group.iter().for_each(|(_, gtid)| gtids.insert(gtid));
                parts.push(ReplayPart { start, end, gtids });
            }
            all.history.extend(starts.into_iter().map(|(_, gtid)| gtid));
            all.binlogs.push(ReplayBinlog { name: name.parse().unwrap(), parts });
            all.bytes.push(bytes);
        }
        all
    }

    /// The first transactions, leaving out the last `rest`.
    fn but_the_last(&self, rest: usize) -> GtidSet {
        let mut set = GtidSet::new();
        self.history[..self.history.len() - rest].iter().for_each(|gtid| set.insert(gtid));
        set
    }
}

impl ReplaySource for Binlogs {
    fn binlogs(&self) -> &[ReplayBinlog] {
        &self.binlogs
    }

    fn open_head(&self, binlog: usize) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.bytes[binlog][..1000.min(self.bytes[binlog].len())].to_vec())))
    }

    fn open_part(&self, binlog: usize, part: usize) -> io::Result<Box<dyn Read + Send>> {
        let part = &self.binlogs[binlog].parts[part];
        Ok(Box::new(Cursor::new(self.bytes[binlog][part.start as usize..part.end as usize].to_vec())))
    }
}

fn options(port: u16) -> ServeOptions {
    ServeOptions {
        listen: ([127, 0, 0, 1], port).into(),
        account: ReplicaAccount { user: "highwater".to_owned(), password: Password::new("0123456789abcdef".repeat(2)) },
        server_id: 4_000_000_001,
        server_uuid: ServerUuid::from_bytes([0x42; 16]),
        server_version: "9.7.4".to_owned(),
    }
}

fn change_source(port: u16, ssl: u8) -> String {
    format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={port}, SOURCE_USER='highwater', \
         SOURCE_PASSWORD='{}', SOURCE_AUTO_POSITION=1, SOURCE_SSL={ssl}, SOURCE_CONNECT_RETRY=1, \
         SOURCE_HEARTBEAT_PERIOD=1 FOR CHANNEL 'hw'; START REPLICA FOR CHANNEL 'hw';",
        "0123456789abcdef".repeat(2)
    )
}

/// State and last error of the replica's receiver.
fn receiver(target: &MysqlServer) -> String {
    let columns = "SERVICE_STATE, LAST_ERROR_NUMBER, LAST_ERROR_MESSAGE";
    let sql =
        format!("SELECT {columns} FROM performance_schema.replication_connection_status WHERE CHANNEL_NAME = 'hw'");
    target.sql(&sql).unwrap()
}

async fn wait_for(target: &MysqlServer, wanted: &GtidSet) {
    let begun = Instant::now();
    loop {
        let executed: GtidSet = target.gtid_executed().unwrap().parse().unwrap();
        if executed == *wanted {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{executed} is not {wanted}: {}", receiver(target));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Writes what a stream may meet: several binlogs, both checksum algorithms, an event over 16 MiB, tagged GTIDs,
/// compressed transactions, XA.
fn fill(source: &MysqlServer) {
    let mut sql =
        "CREATE DATABASE app; USE app; CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, v LONGBLOB);".to_owned();
    let insert = "INSERT INTO t (v) VALUES (RANDOM_BYTES(100));";
    sql += &insert.repeat(30);
    sql += "FLUSH BINARY LOGS; SET GLOBAL binlog_checksum = NONE;";
    sql += &insert.repeat(30);
    sql += "INSERT INTO t (v) VALUES (REPEAT('x', 40000000));";
    sql += "SET GLOBAL binlog_checksum = CRC32; SET SESSION binlog_transaction_compression = ON;";
    sql += &insert.repeat(10);
    sql += "SET SESSION binlog_transaction_compression = OFF; SET GTID_NEXT = 'AUTOMATIC:tagged';";
    sql += &insert.repeat(10);
    sql += "SET GTID_NEXT = 'AUTOMATIC'; XA START 'x'; INSERT INTO t (v) VALUES ('xa'); XA END 'x'; XA PREPARE 'x'; XA COMMIT 'x';";
    sql += "CREATE TABLE copy AS SELECT * FROM t LIMIT 3; FLUSH BINARY LOGS;";
    sql += &insert.repeat(20);
    source.sql(&sql).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_ends_at_exactly_the_replay_set_even_when_the_connection_breaks() {
    let big = "--max-allowed-packet=1G";
    let source = MysqlServer::builder().option(big).start().unwrap();
    let target = MysqlServer::builder().server_id(2).option(big).start().unwrap();
    fill(&source);
    let binlogs = Binlogs::of(&source);
    let (half, stop) = (binlogs.but_the_last(binlogs.history.len() / 2), binlogs.but_the_last(5));
    let binlogs: Arc<dyn ReplaySource> = Arc::new(binlogs);
    let serve = |gtids: &GtidSet, port| {
        BinlogServer::start(options(port), Replay { source: binlogs.clone(), gtids: gtids.clone() })
    };

    let server = serve(&half, 0).await.unwrap();
    let port = server.address().port();
    target.sql(&change_source(port, 1)).unwrap();
    wait_for(&target, &half).await;
    // Heartbeats keep the connection over more than two of its periods.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let state = server.state().borrow().clone();
    assert_eq!((state.streams, state.caught_up, state.failure), (1, true, None));
    assert_eq!(state.transactions_sent, half.count());

    // The connection breaks; the replica comes back by itself and gets only what it lacks.
    server.stop().await;
    let server = serve(&stop, port).await.unwrap();
    wait_for(&target, &stop).await;
    let state = server.state().borrow().clone();
    assert_eq!(state.transactions_sent, stop.count() - half.count());
    assert_eq!(state.failure, None);
    assert_eq!(receiver(&target), "ON\t0\t");
    let count = "SELECT COUNT(*) FROM app.t";
    assert_eq!(
        source.sql(count).unwrap().parse::<u64>().unwrap(),
        target.sql(count).unwrap().parse::<u64>().unwrap() + 5
    );

    // Without TLS too.
    target.sql("STOP REPLICA FOR CHANNEL 'hw'; RESET REPLICA ALL FOR CHANNEL 'hw'").unwrap();
    target.sql(&change_source(port, 0)).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    wait_for(&target, &stop).await;
    assert_eq!(receiver(&target), "ON\t0\t");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_with_the_archived_server_id_is_refused_loudly() {
    let source = MysqlServer::builder().server_id(9).start().unwrap();
    let target = MysqlServer::builder().server_id(9).start().unwrap();
    source.sql("CREATE DATABASE app; CREATE TABLE app.t (id INT PRIMARY KEY); INSERT INTO app.t VALUES (1)").unwrap();
    let binlogs = Binlogs::of(&source);
    let gtids = binlogs.but_the_last(0);
    let server = BinlogServer::start(options(0), Replay { source: Arc::new(binlogs), gtids }).await.unwrap();
    target.sql(&change_source(server.address().port(), 1)).unwrap();
    let mut state = server.state();
    let failed = state.wait_for(|state| state.failure.is_some());
    let failure =
        tokio::time::timeout(Duration::from_secs(60), failed).await.unwrap().unwrap().failure.clone().unwrap();
    assert_eq!(failure, "the replica's server_id 9 is also that of archived events, which it would skip");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_that_lack_a_transaction_are_a_failure() {
    let source = MysqlServer::builder().start().unwrap();
    let target = MysqlServer::builder().server_id(2).start().unwrap();
    source.sql("CREATE DATABASE app; CREATE TABLE app.t (id INT PRIMARY KEY); INSERT INTO app.t VALUES (1)").unwrap();
    let binlogs = Binlogs::of(&source);
    let mut gtids = binlogs.but_the_last(0);
    let missing: Gtid = format!("{}:1000", source.uuid().unwrap()).parse().unwrap();
    gtids.insert(&missing);
    let server = BinlogServer::start(options(0), Replay { source: Arc::new(binlogs), gtids }).await.unwrap();
    target.sql(&change_source(server.address().port(), 1)).unwrap();
    let mut state = server.state();
    let failed = state.wait_for(|state| state.failure.is_some());
    let failure =
        tokio::time::timeout(Duration::from_secs(60), failed).await.unwrap().unwrap().failure.clone().unwrap();
    assert_eq!(failure, format!("archived binlogs lack {missing}"));
    server.stop().await;
}
