//! What a server that does not let us in is answered with: message and hint, the same for both clients.

use std::io::{Read, Write};
use std::net::TcpListener;

use highwater::server::{ServerAddress, ServerLogin, TlsMode, TlsPolicy};
use highwater::source::{ReplicationClient, ServerError, Session};
use highwater_tests::{MysqlServer, TlsFiles};

use crate::logins::{by_socket, by_tcp};

/// The error of each client, and that both say the same.
async fn refusal(login: &ServerLogin) -> ServerError {
    let replication = ReplicationClient::connect(login).await.expect_err("the replication client must be refused");
    let session = Session::connect(login).await.expect_err("the session must be refused");
    assert_eq!(replication.to_string(), session.to_string());
    assert_eq!(replication.hint(), session.hint());
    session
}

#[tokio::test]
async fn logins_that_fail_say_what_is_wrong_and_what_to_do() {
    let server = MysqlServer::builder().start().unwrap();
    server.sql("CREATE USER agent IDENTIFIED BY 'right'; CREATE USER locked IDENTIFIED BY 'pw' ACCOUNT LOCK").unwrap();

    let error = refusal(&by_socket(&server, "agent", "wrong")).await;
    assert!(error.to_string().contains("refuses user agent: Access denied for user 'agent'@'localhost'"), "{error}");
    assert_eq!(error.hint().unwrap(), "check user, password and the account's host part");
    for mode in [TlsMode::VerifyCa, TlsMode::DangerDisabled] {
        let error = refusal(&by_tcp(&server, "127.0.0.1", mode, "agent", "wrong")).await;
        assert!(matches!(error, ServerError::AccessDenied { code: 1045, .. }), "{error}");
    }
    let error = refusal(&by_socket(&server, "locked", "pw")).await;
    assert!(matches!(error, ServerError::AccessDenied { code: 3118, .. }), "{error}");

    // Another authority than the one that signed the server's certificate.
    let folder = tempfile::tempdir().unwrap();
    let other = TlsFiles::create(folder.path()).unwrap();
    let mut login = by_tcp(&server, "127.0.0.1", TlsMode::VerifyCa, "agent", "right");
    login.tls.ca = Some(other.ca.clone());
    let error = refusal(&login).await;
    assert!(matches!(error, ServerError::TlsNotVerified { name_only: false, .. }), "{error}");
    assert!(error.hint().unwrap().starts_with("set ca to the PEM file of the authority"));
    // The system's authorities did not sign it either.
    login.tls = TlsPolicy::default();
    assert!(matches!(
        refusal(&login).await,
        ServerError::TlsNotVerified { name_only: false, .. } | ServerError::TlsAuthorities { .. }
    ));
    // The right authority, another name.
    let login = by_tcp(&server, "127.0.0.2", TlsMode::VerifyIdentity, "agent", "right");
    match Session::connect(&login).await.expect_err("refused") {
        error @ ServerError::TlsNotVerified { name_only: true, .. } => {
            assert!(error.hint().unwrap().contains("verify-ca"), "{error}");
        }
        // The server listens at 127.0.0.1 alone.
        ServerError::Unreachable { .. } => {}
        other => panic!("{other}"),
    }
    // A file without a certificate.
    let mut login = by_tcp(&server, "127.0.0.1", TlsMode::VerifyCa, "agent", "right");
    login.tls.ca = Some(server.tls().key.clone());
    assert!(matches!(refusal(&login).await, ServerError::TlsAuthorities { .. }));
}

#[tokio::test]
async fn the_certificate_that_mysqld_generates_needs_verify_ca() {
    let server = MysqlServer::builder()
        .option("--ssl-ca=ca.pem")
        .option("--ssl-cert=server-cert.pem")
        .option("--ssl-key=server-key.pem")
        .start()
        .unwrap();
    server.sql("CREATE USER agent IDENTIFIED BY 'pw'").unwrap();
    let mut login = by_tcp(&server, "127.0.0.1", TlsMode::VerifyCa, "agent", "pw");
    login.tls.ca = Some(server.data().join("ca.pem"));
    Session::connect(&login).await.unwrap();
    ReplicationClient::connect(&login).await.unwrap();
    login.tls.mode = TlsMode::VerifyIdentity;
    let error = refusal(&login).await;
    assert!(matches!(error, ServerError::TlsNotVerified { name_only: true, .. }), "{error}");
    assert!(error.hint().unwrap().contains("tls = \"verify-ca\""));
}

#[tokio::test]
async fn a_server_without_tls_gets_no_password() {
    let server = MysqlServer::builder().option("--tls-version=").start().unwrap();
    server.sql("CREATE USER agent IDENTIFIED BY 'pw'").unwrap();
    for mode in [TlsMode::VerifyIdentity, TlsMode::VerifyCa, TlsMode::DangerNoVerify] {
        let error = refusal(&by_tcp(&server, "127.0.0.1", mode, "agent", "pw")).await;
        assert!(matches!(error, ServerError::TlsUnsupported { .. }), "{error}");
    }
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let tcp = ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port };
    let socket = ServerAddress::Socket("/nonexistent/mysql.sock".into());
    for (address, mode) in
        [(tcp.clone(), TlsMode::VerifyCa), (tcp, TlsMode::DangerDisabled), (socket, TlsMode::VerifyCa)]
    {
        let tls = TlsPolicy { mode, ca: None };
        let login = ServerLogin { address, user: "agent".to_owned(), password: None, tls };
        let error = refusal(&login).await;
        assert!(matches!(error, ServerError::Unreachable { .. }), "{error}");
        assert!(error.hint().unwrap().starts_with("check that the server runs"));
    }
}

/// A server made of fixed packets, for one client.
fn scripted(packets: Vec<Vec<u8>>) -> ServerLogin {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for (i, payload) in packets.iter().enumerate() {
            let len = u32::try_from(payload.len()).unwrap().to_le_bytes();
            stream.write_all(&[len[0], len[1], len[2], (2 * i) as u8]).unwrap();
            stream.write_all(payload).unwrap();
            let _ = stream.read(&mut [0; 4096]);
        }
        let _ = stream.read(&mut [0; 4096]);
    });
    ServerLogin {
        address: ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port },
        user: "agent".to_owned(),
        password: Some(highwater::secret::Password::new("secret".to_owned())),
        tls: TlsPolicy { mode: TlsMode::DangerDisabled, ca: None },
    }
}

fn greeting() -> Vec<u8> {
    let mut packet = b"\x0a9.7.4\0\x08\0\0\0abcdefgh\0".to_vec();
    packet.extend_from_slice(&[0xff, 0xff, 0xff, 2, 0, 0xff, 0xdf, 21]);
    packet.extend_from_slice(&[0; 10]);
    packet.extend_from_slice(b"ijklmnopqrst\0caching_sha2_password\0");
    packet
}

#[tokio::test]
async fn a_hostile_server_gets_neither_password_nor_file_nor_memory() {
    // A password in the clear.
    let login = scripted(vec![greeting(), b"\xfemysql_clear_password\0".to_vec()]);
    let error = ReplicationClient::connect(&login).await.err().unwrap();
    assert_eq!(error.to_string(), "server asks for authentication plugin mysql_clear_password");
    // A public key that is none.
    let login = scripted(vec![greeting(), vec![1, 4], b"\x01-----BEGIN NONSENSE".to_vec()]);
    let error = ReplicationClient::connect(&login).await.err().unwrap();
    assert!(error.to_string().ends_with("public key is not usable"), "{error}");
    // A file of ours, before login and after.
    let login = scripted(vec![greeting(), b"\xfb/etc/passwd".to_vec()]);
    assert!(matches!(ReplicationClient::connect(&login).await, Err(ServerError::Protocol { .. })));
    let login = scripted(vec![greeting(), vec![0, 0, 0, 2, 0, 0, 0], b"\xfb/etc/passwd".to_vec()]);
    let mut client = ReplicationClient::connect(&login).await.unwrap();
    assert!(matches!(client.server_uuid().await, Err(ServerError::Protocol { .. })));
    // A greeting of 16 MiB.
    let login = scripted(vec![vec![10; 1 << 20]]);
    let error = ReplicationClient::connect(&login).await.err().unwrap();
    assert!(error.to_string().contains("longer than the limit of 4096 bytes"), "{error}");
    // Another product.
    let login = scripted(vec![b"HTTP/1.1 400 Bad Request".to_vec()]);
    let error = ReplicationClient::connect(&login).await.err().unwrap();
    assert!(error.to_string().ends_with("greeting is not protocol version 10"), "{error}");
}
