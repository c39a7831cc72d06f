//! Semi-synchronous replication with a source that waits for us.

use std::time::Duration;

use highwater::server::{ServerLogin, TlsMode};
use highwater::source::{Acknowledger, BinlogStream, ReplicationClient, SemiSync, SemiSyncState, Session};
use highwater_binlog::{BinlogName, ChecksumAlgorithm, EventType, GtidSet, RawEvent, RotateEvent};
use highwater_tests::{MysqlServer, MysqlServerBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::logins::{by_socket, by_tcp};
use crate::stream::identity;

/// Longer than any test runs: a commit that comes back was acknowledged.
const NEVER: &str = "--loose-rpl-semi-sync-source-timeout=600000";

/// What a source asked us to acknowledge.
type Asked = (BinlogName, u64);

fn with_plugin() -> MysqlServerBuilder {
    MysqlServer::builder()
        .option("--plugin-load-add=semisync_source.so")
        .option("--loose-rpl-semi-sync-source-enabled=1")
}

/// Without a word in the binlog: a commit would wait for somebody who is not there yet.
fn account(server: &MysqlServer) {
    server
        .sql("SET sql_log_bin = 0; CREATE USER agent IDENTIFIED BY 'pw'; GRANT REPLICATION SLAVE ON *.* TO agent")
        .unwrap();
}

/// Starts where the source is now.
async fn subscribe(server: &MysqlServer, login: &ServerLogin, semi_sync: SemiSync) -> BinlogStream {
    let have: GtidSet = server.gtid_executed().unwrap().parse().unwrap();
    let client = ReplicationClient::connect(login).await.unwrap();
    client.dump_gtid(&identity(), &have, None, semi_sync).await.unwrap()
}

/// Reads on in a task of its own. Each event passes its checksum; what wants an acknowledgement is handed over.
fn read_on(mut stream: BinlogStream) -> (mpsc::UnboundedReceiver<Asked>, JoinHandle<()>) {
    let (asked, receiver) = mpsc::unbounded_channel();
    let reader = tokio::spawn(async move {
        let mut binlog = None;
        while let Ok(Some(event)) = stream.next().await {
            let wants_ack = event.wants_ack;
            let event = RawEvent::verify(event.bytes, ChecksumAlgorithm::Crc32).unwrap();
            if event.event_type() == EventType::ROTATE {
                binlog = Some(RotateEvent::read(&event).unwrap().next.binlog);
            }
            if wants_ack {
                asked.send((binlog.clone().unwrap(), u64::from(event.header().end_log_pos))).unwrap();
            }
        }
    });
    (receiver, reader)
}

/// A status value by its name's end: the plug-in of old has other names than that of new.
fn status(server: &MysqlServer, name: &str) -> String {
    server
        .sql(&format!("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_source_{name}'"))
        .unwrap()
        .split('\t')
        .nth(1)
        .unwrap()
        .into()
}

async fn until_status(server: &MysqlServer, name: &str, value: &str) {
    let reached = async {
        while status(server, name) != value {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), reached).await.unwrap_or_else(|_| panic!("{name} is {}", status(server, name)));
}

/// Runs statements in the background; they may wait for us. Dropped with the test, so that a failure is one at once.
fn commit(server: &MysqlServer, statements: &'static str) -> JoinHandle<()> {
    let mut mysql = tokio::process::Command::new(highwater_tests::mysql_program("mysql").unwrap());
    mysql.arg("--user=root").arg(format!("--socket={}", server.socket().display())).args(["--execute", statements]);
    mysql.kill_on_drop(true);
    tokio::spawn(async move { assert!(mysql.status().await.unwrap().success()) })
}

async fn acknowledge_newest(asked: &mut mpsc::UnboundedReceiver<Asked>, acknowledger: &mut Acknowledger) {
    let mut newest = timeout(Duration::from_secs(30), asked.recv()).await.expect("asked").expect("streaming");
    while let Ok(next) = asked.try_recv() {
        newest = next;
    }
    acknowledger.acknowledge(&newest.0, newest.1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_waits_for_our_acknowledgement_over_every_transport() {
    let server = with_plugin().option(NEVER).start().unwrap();
    account(&server);
    server
        .sql("SET sql_log_bin = 0; CREATE DATABASE d; CREATE TABLE d.t (a INT, b LONGBLOB); SET GLOBAL max_allowed_packet = 1 << 30")
        .unwrap();
    let logins = [
        by_socket(&server, "agent", "pw"),
        by_tcp(&server, "127.0.0.1", TlsMode::DangerDisabled, "agent", "pw"),
        by_tcp(&server, "127.0.0.1", TlsMode::VerifyCa, "agent", "pw"),
    ];
    for (index, login) in logins.iter().enumerate() {
        let mut stream = subscribe(&server, login, SemiSync::Requested).await;
        until_status(&server, "clients", "1").await;
        let mut acknowledger = stream.take_acknowledger().unwrap();
        assert!(stream.take_acknowledger().is_none());
        let (mut asked, reader) = read_on(stream);
        // The second one spans packets, whose numbers have started again after the first acknowledgement.
        for statement in ["INSERT INTO d.t VALUES (1, 'x')", "INSERT INTO d.t VALUES (2, REPEAT('x', 40 << 20))"] {
            let before: u64 = status(&server, "yes_tx").parse().unwrap();
            let commit = commit(&server, statement);
            until_status(&server, "wait_sessions", "1").await;
            let (binlog, offset) = timeout(Duration::from_secs(30), asked.recv()).await.unwrap().unwrap();
            assert!(!commit.is_finished(), "committed without an acknowledgement: {login:?}");
            acknowledger.acknowledge(&binlog, offset).await.unwrap();
            timeout(Duration::from_secs(60), commit).await.expect("released").unwrap();
            until_status(&server, "yes_tx", &(before + 1).to_string()).await;
        }
        assert_eq!(server.sql("SELECT COUNT(*) FROM d.t").unwrap(), (2 * (index + 1)).to_string());
        assert_eq!((status(&server, "no_tx"), status(&server, "status")), ("0".to_owned(), "ON".to_owned()));
        drop(acknowledger);
        reader.abort();
        // Or the next one would not be counted alone.
        until_status(&server, "clients", "0").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_acknowledgements_the_source_goes_asynchronous_and_comes_back_with_them() {
    let server = with_plugin().option("--loose-rpl-semi-sync-source-timeout=500").start().unwrap();
    account(&server);
    let mut stream = subscribe(&server, &by_socket(&server, "agent", "pw"), SemiSync::Requested).await;
    until_status(&server, "clients", "1").await;
    let mut acknowledger = stream.take_acknowledger().unwrap();
    let (mut asked, reader) = read_on(stream);
    let mut session = Session::connect(&by_socket(&server, "agent", "pw")).await.unwrap();
    assert_eq!(session.semi_sync().await.unwrap(), SemiSyncState::Synchronous { clients: 1, wait_for: 1 });
    commit(&server, "CREATE DATABASE withheld").await.unwrap();
    assert_eq!((status(&server, "status"), status(&server, "no_tx")), ("OFF".to_owned(), "1".to_owned()));
    assert_eq!(session.semi_sync().await.unwrap(), SemiSyncState::Asynchronous { clients: 1 });
    acknowledge_newest(&mut asked, &mut acknowledger).await;
    until_status(&server, "status", "ON").await;
    assert_eq!(session.semi_sync().await.unwrap(), SemiSyncState::Synchronous { clients: 1, wait_for: 1 });
    // And it waits again.
    server.sql("SET GLOBAL rpl_semi_sync_source_timeout = 600000").unwrap();
    let waiting = commit(&server, "CREATE DATABASE acknowledged");
    until_status(&server, "wait_sessions", "1").await;
    acknowledge_newest(&mut asked, &mut acknowledger).await;
    waiting.await.unwrap();
    assert_eq!((status(&server, "status"), status(&server, "yes_tx")), ("ON".to_owned(), "1".to_owned()));
    reader.abort();
}

#[tokio::test]
async fn a_stream_without_the_request_has_no_prefix_and_is_not_counted() {
    let server = with_plugin().start().unwrap();
    account(&server);
    let mut stream = subscribe(&server, &by_socket(&server, "agent", "pw"), SemiSync::Off).await;
    assert!(stream.take_acknowledger().is_none());
    expect_rotate(&mut stream, false).await;
    assert_eq!(status(&server, "clients"), "0");
}

#[tokio::test]
async fn a_source_without_the_plugin_streams_without_prefix() {
    let server = MysqlServer::builder().start().unwrap();
    account(&server);
    let mut stream = subscribe(&server, &by_socket(&server, "agent", "pw"), SemiSync::Requested).await;
    assert_eq!(stream.speaks_semi_sync(), None);
    expect_rotate(&mut stream, false).await;
    let mut session = Session::connect(&by_socket(&server, "agent", "pw")).await.unwrap();
    assert_eq!(session.semi_sync().await.unwrap(), SemiSyncState::Unavailable);
}

#[tokio::test]
async fn a_disabled_plugin_streams_with_prefix_and_asks_for_nothing() {
    let server = with_plugin().option("--loose-rpl-semi-sync-source-enabled=0").option(NEVER).start().unwrap();
    account(&server);
    let mut stream = subscribe(&server, &by_socket(&server, "agent", "pw"), SemiSync::Requested).await;
    expect_rotate(&mut stream, true).await;
    let mut session = Session::connect(&by_socket(&server, "agent", "pw")).await.unwrap();
    assert_eq!(session.semi_sync().await.unwrap(), SemiSyncState::Disabled);
    server.sql("CREATE DATABASE d").unwrap();
    let mut heartbeats = 0;
    while heartbeats < 2 {
        let event = stream.next().await.unwrap().unwrap();
        assert!(!event.wants_ack);
        let event = RawEvent::verify(event.bytes, ChecksumAlgorithm::Crc32).unwrap();
        heartbeats += u32::from(event.event_type() == EventType::HEARTBEAT_V2);
    }
}

async fn expect_rotate(stream: &mut BinlogStream, speaks_semi_sync: bool) {
    let event = stream.next().await.unwrap().unwrap();
    assert!(!event.wants_ack);
    let event = RawEvent::verify(event.bytes, ChecksumAlgorithm::Crc32).unwrap();
    assert_eq!(event.event_type(), EventType::ROTATE);
    assert_eq!(stream.speaks_semi_sync(), Some(speaks_semi_sync));
}
