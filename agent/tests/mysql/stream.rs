//! The replication client's stream.

use std::time::Duration;

use highwater::server::ServerLogin;
use highwater::source::{BinlogStream, ReplicaIdentity, ReplicationClient, SemiSync, ServerError};
use highwater_binlog::{BinlogPosition, ChecksumAlgorithm, EventType, GtidSet, RawEvent, RotateEvent};
use highwater_tests::MysqlServer;

use crate::logins::by_socket;

pub(crate) fn identity() -> ReplicaIdentity {
    ReplicaIdentity {
        server_id: 4711,
        uuid: "11111111-2222-3333-4444-555555555555".parse().unwrap(),
        heartbeat: Duration::from_millis(300),
    }
}

async fn stream(login: &ServerLogin, have: &GtidSet) -> Result<BinlogStream, ServerError> {
    ReplicationClient::connect(login).await?.dump_gtid(&identity(), have, None, SemiSync::Off).await
}

fn account(server: &MysqlServer, privileges: &str) -> ServerLogin {
    server.sql(&format!("CREATE USER agent IDENTIFIED BY 'pw'; {privileges}")).unwrap();
    by_socket(server, "agent", "pw")
}

#[tokio::test]
async fn from_the_empty_set_come_the_bytes_of_the_file_and_then_heartbeats() {
    let server = MysqlServer::builder().start().unwrap();
    let login = account(&server, "GRANT REPLICATION SLAVE ON *.* TO agent");
    // An event that spans packets.
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (a LONGBLOB); SET GLOBAL max_allowed_packet = 1 << 30").unwrap();
    server.sql("INSERT INTO d.t VALUES (REPEAT('x', 40 * 1024 * 1024))").unwrap();
    let name = server.binlogs().unwrap().pop().unwrap();
    let file = server.remote_binlog(&name).unwrap();

    let mut stream = stream(&login, &GtidSet::new()).await.unwrap();
    let mut bytes = highwater_binlog::MAGIC.to_vec();
    let mut heartbeats = 0;
    while heartbeats < 2 {
        let event = stream.next().await.unwrap().expect("a stream without end");
        let event = RawEvent::verify(event.bytes, ChecksumAlgorithm::Crc32).unwrap();
        match event.event_type() {
            EventType::HEARTBEAT | EventType::HEARTBEAT_V2 => heartbeats += 1,
            EventType::ROTATE if event.is_artificial() => bytes.truncate(4),
            _ => bytes.extend_from_slice(event.bytes()),
        }
    }
    assert!(bytes == file, "{} bytes streamed, {} in the file", bytes.len(), file.len());
}

#[tokio::test]
async fn the_missing_privilege_is_named() {
    let server = MysqlServer::builder().start().unwrap();
    let login = account(&server, "GRANT REPLICATION CLIENT, SELECT ON *.* TO agent");
    let error = stream(&login, &GtidSet::new()).await.expect_err("refused");
    assert_eq!(error.to_string(), "user 'agent'@'%' lacks the REPLICATION SLAVE privilege for COM_REGISTER_REPLICA");
    assert_eq!(error.hint().unwrap(), "GRANT REPLICATION SLAVE ON *.* TO 'agent'@'%'");
}

#[tokio::test]
async fn purged_transactions_and_foreign_histories_are_refused_by_the_source() {
    let server = MysqlServer::builder().start().unwrap();
    let login = account(&server, "GRANT REPLICATION SLAVE ON *.* TO agent");
    server.sql("CREATE DATABASE d; FLUSH BINARY LOGS; CREATE DATABASE e").unwrap();
    let last = server.binlogs().unwrap().pop().unwrap();
    server.sql(&format!("PURGE BINARY LOGS TO '{last}'")).unwrap();
    let mut purged = stream(&login, &GtidSet::new()).await.unwrap();
    let error = loop {
        match purged.next().await {
            Ok(event) => assert!(event.is_some()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ServerError::BinlogUnavailable { code: 1236, .. }), "{error}");
    // More of the source's own transactions than it ever had.
    let ours: GtidSet = format!("{}:1-1000000", server.uuid().unwrap()).parse().unwrap();
    let mut ahead = stream(&login, &ours).await.unwrap();
    let error = loop {
        match ahead.next().await {
            Ok(event) => assert!(event.is_some()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ServerError::BinlogUnavailable { code: 1236, .. }), "{error}");
}

#[tokio::test]
async fn a_source_that_falls_silent_is_noticed() {
    let server = MysqlServer::builder().start().unwrap();
    let login = account(&server, "GRANT REPLICATION SLAVE ON *.* TO agent");
    let mut stream = stream(&login, &GtidSet::new()).await.unwrap();
    assert!(stream.next().await.unwrap().is_some());
    let pid = pid(&server);
    signal(&pid, "STOP");
    let waited = std::time::Instant::now();
    let error = loop {
        match stream.next().await {
            Ok(event) => assert!(event.is_some()),
            Err(error) => break error,
        }
    };
    signal(&pid, "CONT");
    assert!(matches!(error, ServerError::Silent { .. }), "{error}");
    assert!(waited.elapsed() < Duration::from_secs(15));
}

fn pid(server: &MysqlServer) -> String {
    std::fs::read_to_string(server.sql("SELECT @@pid_file").unwrap().trim()).unwrap()
}

fn signal(pid: &str, name: &str) {
    let done = std::process::Command::new("kill").arg(format!("-{name}")).arg(pid.trim()).status().unwrap();
    assert!(done.success());
}

#[tokio::test]
async fn from_a_position_come_the_bytes_of_the_file_after_it() {
    let server = MysqlServer::builder().without_gtids().start().unwrap();
    let login = account(&server, "GRANT REPLICATION SLAVE ON *.* TO agent");
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT)").unwrap();
    let name = server.binlogs().unwrap().pop().unwrap();
    let start = server.remote_binlog(&name).unwrap().len();
    server.sql("INSERT INTO d.t VALUES (1), (2)").unwrap();
    let file = server.remote_binlog(&name).unwrap();

    let at = |offset| BinlogPosition { binlog: name.parse().unwrap(), offset };
    let client = ReplicationClient::connect(&login).await.unwrap();
    let mut stream = client.dump_position(&identity(), &at(start as u64), SemiSync::Off).await.unwrap();
    let mut bytes = Vec::new();
    loop {
        let event = stream.next().await.unwrap().expect("a stream without end");
        let event = RawEvent::verify(event.bytes, ChecksumAlgorithm::Crc32).unwrap();
        match event.event_type() {
            EventType::HEARTBEAT | EventType::HEARTBEAT_V2 => break,
            EventType::ROTATE => {
                assert_eq!(RotateEvent::read(&event).unwrap().next, at(start as u64));
            }
            // What the source sends to read the rest with.
            EventType::FORMAT_DESCRIPTION => assert_eq!(event.header().end_log_pos, 0),
            _ => bytes.extend_from_slice(event.bytes()),
        }
    }
    assert!(bytes == file[start..], "{} bytes streamed, {} in the file", bytes.len(), file.len() - start);
    assert!(!bytes.is_empty());

    let client = ReplicationClient::connect(&login).await.unwrap();
    let error = client.dump_position(&identity(), &at(1 << 32), SemiSync::Off).await.expect_err("more than 32 bits");
    assert!(matches!(error, ServerError::PositionTooLarge { .. }), "{error}");
}
