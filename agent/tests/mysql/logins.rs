//! Who can log in, over what.

use highwater::secret::Password;
use highwater::server::{ServerAddress, ServerLogin, TlsMode, TlsPolicy};
use highwater::source::{ReplicationClient, Session};
use highwater_tests::MysqlServer;

/// A login over the server's socket.
pub(crate) fn by_socket(server: &MysqlServer, user: &str, password: &str) -> ServerLogin {
    ServerLogin {
        address: ServerAddress::Socket(server.socket()),
        user: user.to_owned(),
        password: (!password.is_empty()).then(|| Password::new(password.to_owned())),
        tls: TlsPolicy::default(),
    }
}

/// A login over TCP.
pub(crate) fn by_tcp(server: &MysqlServer, host: &str, mode: TlsMode, user: &str, password: &str) -> ServerLogin {
    let ca = matches!(mode, TlsMode::VerifyIdentity | TlsMode::VerifyCa).then(|| server.tls().ca.clone());
    ServerLogin {
        address: ServerAddress::Tcp { host: host.to_owned(), port: server.port() },
        tls: TlsPolicy { mode, ca },
        ..by_socket(server, user, password)
    }
}

/// Every transport: socket, each TLS mode, and none.
fn transports(server: &MysqlServer, user: &str, password: &str) -> Vec<ServerLogin> {
    let tcp = |host, mode| by_tcp(server, host, mode, user, password);
    vec![
        by_socket(server, user, password),
        tcp("localhost", TlsMode::VerifyIdentity),
        tcp("127.0.0.1", TlsMode::VerifyIdentity),
        tcp("127.0.0.1", TlsMode::VerifyCa),
        tcp("127.0.0.1", TlsMode::DangerNoVerify),
        tcp("127.0.0.1", TlsMode::DangerDisabled),
    ]
}

#[tokio::test]
async fn caching_sha2_accounts_come_in_over_every_transport_with_a_cold_and_a_warm_cache() {
    let server = MysqlServer::builder().start().unwrap();
    let password = "geh\u{e4}im 'quoted\\ and long enough to be split over the nonce";
    server
        .sql(&format!(
            "CREATE USER agent IDENTIFIED BY '{}'; GRANT REPLICATION SLAVE ON *.* TO agent; CREATE USER open",
            password.replace('\\', "\\\\").replace('\'', "''")
        ))
        .unwrap();
    let uuid = server.uuid().unwrap();
    for login in transports(&server, "agent", password) {
        // FLUSH PRIVILEGES empties the server's cache of passwords: the first login needs the password itself.
        server.sql("FLUSH PRIVILEGES").unwrap();
        for cache in ["cold", "warm"] {
            let mut client =
                ReplicationClient::connect(&login).await.unwrap_or_else(|e| panic!("{cache} {login:?}: {e}"));
            assert_eq!(client.server_uuid().await.unwrap().to_string(), uuid);
        }
        server.sql("FLUSH PRIVILEGES").unwrap();
        for cache in ["cold", "warm"] {
            let session = Session::connect(&login).await.unwrap_or_else(|e| panic!("{cache} {login:?}: {e}"));
            assert_eq!(session.facts().uuid.to_string(), uuid);
            assert_eq!(session.account(), "'agent'@'%'");
            session.close().await;
        }
    }
    for login in transports(&server, "open", "") {
        ReplicationClient::connect(&login).await.unwrap_or_else(|e| panic!("no password, {login:?}: {e}"));
        Session::connect(&login).await.unwrap_or_else(|e| panic!("no password, {login:?}: {e}"));
    }
}

#[tokio::test]
async fn sessions_under_tls_are_encrypted_and_carry_large_answers() {
    use mysql_async::prelude::Queryable;
    let server = MysqlServer::builder().start().unwrap();
    server.sql("CREATE USER agent IDENTIFIED BY 'pw'").unwrap();
    let mut session = Session::connect(&by_tcp(&server, "127.0.0.1", TlsMode::VerifyCa, "agent", "pw")).await.unwrap();
    let row: Option<(String, String)> =
        session.conn().query_first("SHOW SESSION STATUS LIKE 'Ssl_cipher'").await.unwrap();
    assert!(!row.unwrap().1.is_empty());
    let long: Option<String> = session.conn().query_first("SELECT REPEAT('x', 20000000)").await.unwrap();
    assert_eq!(long.map(|text| text.len()), Some(20_000_000));
    let facts = session.facts();
    assert!(facts.log_bin && facts.binlog_encryption && facts.gtid_mode == highwater::source::GtidMode::On);
    assert_eq!(facts.gtid_executed.to_string(), server.gtid_executed().unwrap());
}

#[tokio::test]
async fn accounts_with_mysql_native_password_come_in_where_the_server_still_has_it() {
    let server = MysqlServer::builder().start().unwrap();
    if server.sql("CREATE USER agent IDENTIFIED WITH mysql_native_password BY 'pw'").is_err() {
        // Gone since 9.0; the reply is checked against the protocol's own vectors.
        return;
    }
    for login in transports(&server, "agent", "pw") {
        ReplicationClient::connect(&login).await.unwrap_or_else(|e| panic!("{login:?}: {e}"));
        Session::connect(&login).await.unwrap_or_else(|e| panic!("{login:?}: {e}"));
    }
}
