//! What sessions find out about a server.

use highwater::source::{ServerError, Session};
use highwater_tests::MysqlServer;

use crate::logins::by_socket;

#[tokio::test]
async fn settings_are_those_of_the_server() {
    let server = MysqlServer::builder()
        .option("--binlog-expire-logs-seconds=7200")
        .option("--binlog-transaction-compression=ON")
        .option("--binlog-row-metadata=FULL")
        .start()
        .unwrap();
    server.sql("CREATE USER agent IDENTIFIED BY 'pw'; GRANT REPLICATION CLIENT ON *.* TO agent").unwrap();
    let mut session = Session::connect(&by_socket(&server, "agent", "pw")).await.unwrap();
    let facts = session.facts().clone();
    assert_eq!((facts.binlog_expire_logs_seconds, facts.binlog_row_metadata.as_str()), (7200, "FULL"));
    assert!(facts.binlog_transaction_compression && facts.binlog_expire_logs_auto_purge && !facts.is_replica);
    server
        .sql(
            "SET GLOBAL binlog_expire_logs_seconds = 0; SET GLOBAL binlog_expire_logs_auto_purge = OFF; \
             SET GLOBAL binlog_transaction_compression = OFF; SET GLOBAL binlog_row_metadata = MINIMAL; \
             CHANGE REPLICATION SOURCE TO SOURCE_HOST = 'nowhere' FOR CHANNEL 'c'",
        )
        .unwrap();
    let facts = session.refresh().await.unwrap().clone();
    assert_eq!((facts.binlog_expire_logs_seconds, facts.binlog_row_metadata.as_str()), (0, "MINIMAL"));
    assert!(!facts.binlog_transaction_compression && !facts.binlog_expire_logs_auto_purge && facts.is_replica);
    // Who may not ask is not told, and gets the other facts.
    server.sql("CREATE USER nobody IDENTIFIED BY 'pw'").unwrap();
    let session = Session::connect(&by_socket(&server, "nobody", "pw")).await.unwrap();
    assert!(!session.facts().is_replica);
    assert_eq!(session.facts().uuid, facts.uuid);
}

#[tokio::test]
async fn binlog_files_are_those_on_the_disk() {
    let server = MysqlServer::builder().start().unwrap();
    server.sql("CREATE USER agent IDENTIFIED BY 'pw'; GRANT REPLICATION CLIENT ON *.* TO agent").unwrap();
    server.sql("SET GLOBAL binlog_encryption = OFF; FLUSH BINARY LOGS; CREATE USER nobody IDENTIFIED BY 'pw'").unwrap();
    let mut session = Session::connect(&by_socket(&server, "agent", "pw")).await.unwrap();
    let files = session.binlog_files().await.unwrap();
    assert_eq!(files.iter().map(|file| file.name.to_string()).collect::<Vec<_>>(), server.binlogs().unwrap());
    for file in &files {
        let bytes = std::fs::read(server.data().join(file.name.as_str())).unwrap();
        assert_eq!((file.size, file.encrypted), (bytes.len() as u64, bytes.starts_with(b"\xfdbin")), "{}", file.name);
    }
    assert!(files.first().unwrap().encrypted && !files.last().unwrap().encrypted);
    let mut session = Session::connect(&by_socket(&server, "nobody", "pw")).await.unwrap();
    let error = session.binlog_files().await.expect_err("refused");
    assert!(matches!(&error, ServerError::MissingPrivilege { .. }), "{error}");
    assert!(error.hint().unwrap().contains("REPLICATION CLIENT"), "{error:?}");
}
