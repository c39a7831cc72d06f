//! What a hostile or broken source gets from us: a typed error. The peer is a script, not a stand-in for MySQL: no server
//! behaves like this.

use highwater::capture::{Follower, Request, Start, StreamError, Tip};
use highwater::server::{ServerAddress, ServerLogin, TlsMode, TlsPolicy};
use highwater::source::{BinlogStream, ReplicationClient, SemiSync, ServerError, Session};
use highwater_binlog::{GtidSet, SegmentPolicy, ServerUuid};
use highwater_catalog::{Micros, Timeline, TimelineId};
use highwater_tests::MysqlServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::stream::identity;

const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
const FILE_REQUEST: &[u8] = b"\xfb/etc/passwd";
/// What we say before the stream: greeting answered, three or four settings, registration, and the command itself.
const COMMANDS: usize = 7;

fn greeting() -> Vec<u8> {
    let mut packet = b"\x0a9.7.4\0\x08\0\0\0abcdefgh\0".to_vec();
    packet.extend_from_slice(&[0xff, 0xff, 0xff, 2, 0, 0xff, 0xdf, 21]);
    packet.extend_from_slice(&[0; 10]);
    packet.extend_from_slice(b"ijklmnopqrst\0caching_sha2_password\0");
    packet
}

fn framed(payload: &[u8], sequence: u8) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_le_bytes();
    [&[len[0], len[1], len[2], sequence][..], payload].concat()
}

/// Sends the first bytes, then one of `answers` after each packet of ours. Ends with all that we sent to it.
async fn peer(first: Vec<u8>, answers: Vec<Vec<u8>>) -> (ServerLogin, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let login = ServerLogin {
        address: ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() },
        user: "agent".to_owned(),
        password: None,
        tls: TlsPolicy { mode: TlsMode::DangerDisabled, ca: None },
    };
    let script = async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut said = Vec::new();
        let _ = stream.write_all(&first).await;
        for answer in answers {
            if packet_of_ours(&mut stream, &mut said).await.is_none() {
                return said;
            }
            let _ = stream.write_all(&answer).await;
        }
        let _ = stream.shutdown().await;
        // Whatever we say to the last answer.
        let _ = stream.read_to_end(&mut said).await;
        said
    };
    (login, tokio::spawn(script))
}

async fn packet_of_ours(stream: &mut TcpStream, said: &mut Vec<u8>) -> Option<()> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.ok()?;
    let mut payload = vec![0; usize::from(header[0]) | usize::from(header[1]) << 8];
    stream.read_exact(&mut payload).await.ok()?;
    said.extend_from_slice(&payload);
    Some(())
}

/// All goes well until the stream, which is `stream`.
async fn streaming(stream: Vec<u8>, semi_sync: SemiSync) -> BinlogStream {
    let mut answers = vec![framed(OK, 2)];
    let settings = if semi_sync == SemiSync::Off { COMMANDS - 3 } else { COMMANDS - 2 };
    answers.resize(1 + settings, framed(OK, 1));
    answers.push(stream);
    let (login, _peer) = peer(framed(&greeting(), 0), answers).await;
    let client = ReplicationClient::connect(&login).await.unwrap();
    client.dump_gtid(&identity(), &GtidSet::new(), None, semi_sync).await.unwrap()
}

async fn stream_error(stream: Vec<u8>, semi_sync: SemiSync) -> ServerError {
    let mut stream = streaming(stream, semi_sync).await;
    loop {
        match stream.next().await {
            Ok(event) => assert!(event.is_some()),
            Err(error) => return error,
        }
    }
}

fn is_typed(error: &ServerError) -> bool {
    matches!(error, ServerError::Protocol { .. } | ServerError::Lost { .. } | ServerError::AuthPlugin { .. })
}

#[tokio::test]
async fn a_file_asked_for_in_answer_to_any_command_is_not_sent() {
    for asked in 0..COMMANDS {
        let mut answers = vec![framed(OK, 2)];
        answers.resize(asked, framed(OK, 1));
        answers.truncate(asked);
        answers.push(framed(FILE_REQUEST, if asked == 0 { 2 } else { 1 }));
        let (login, peer) = peer(framed(&greeting(), 0), answers).await;
        let attempt = async {
            let client = ReplicationClient::connect(&login).await?;
            let mut stream = client.dump_gtid(&identity(), &GtidSet::new(), None, SemiSync::Requested).await?;
            stream.next().await.map(|_| ())
        };
        let error = attempt.await.expect_err("refused");
        assert!(matches!(error, ServerError::Protocol { .. }), "command {asked}: {error}");
        let said = peer.await.unwrap();
        assert!(!said.windows(5).any(|part| part == b"root:"), "command {asked}");
        let capabilities = u32::from_le_bytes(*said.first_chunk().unwrap());
        assert_eq!(capabilities & 0x80, 0, "CLIENT_LOCAL_FILES is announced");
    }
}

#[tokio::test]
async fn a_file_asked_for_from_a_session_is_not_sent() {
    let (login, peer) = peer(framed(&greeting(), 0), vec![framed(OK, 2), framed(FILE_REQUEST, 1)]).await;
    Session::connect(&login).await.map(|_| ()).expect_err("refused");
    assert!(!peer.await.unwrap().windows(5).any(|part| part == b"root:"));
}

#[tokio::test]
async fn a_handshake_cut_anywhere_is_a_typed_error() {
    let whole = framed(&greeting(), 0);
    for len in 0..whole.len() {
        // The connection ends there, or the packet does.
        for first in [whole[..len].to_vec(), framed(&greeting()[..len.min(greeting().len())], 0)] {
            let (login, _peer) = peer(first, Vec::new()).await;
            let error = ReplicationClient::connect(&login).await.expect_err("refused");
            assert!(is_typed(&error), "{len}: {error}");
        }
    }
}

#[tokio::test]
async fn a_broken_login_is_a_typed_error() {
    let switch = b"\xfecaching_sha2_password\0abcdefghijklmnopqrst\0";
    let mut answers: Vec<Vec<u8>> = (0..switch.len()).map(|len| switch[..len].to_vec()).collect();
    answers.extend([vec![0xfe; 300], vec![0x01], vec![0x01, 9], vec![0xfb], vec![0xff], vec![0xff, 0x15], vec![7; 99]]);
    for answer in answers {
        let (login, _peer) = peer(framed(&greeting(), 0), vec![framed(&answer, 2)]).await;
        let error = ReplicationClient::connect(&login).await.expect_err("refused");
        assert!(is_typed(&error), "{answer:?}: {error}");
    }
    let twice = vec![framed(switch, 2), framed(switch, 4), framed(switch, 6)];
    let (login, _peer) = peer(framed(&greeting(), 0), twice).await;
    let error = ReplicationClient::connect(&login).await.expect_err("refused");
    assert!(error.to_string().contains("more than one switch"), "{error}");
    // 16 MiB announced, before and after the login.
    for answers in [vec![vec![0xfe, 0xff, 0xff, 2]], vec![framed(OK, 2), vec![0xff, 0xff, 0xff, 1]]] {
        let (login, _peer) = peer(framed(&greeting(), 0), answers).await;
        let attempt = async { ReplicationClient::connect(&login).await?.server_uuid().await };
        let error = attempt.await.expect_err("refused");
        assert!(error.to_string().contains("longer than the limit"), "{error}");
    }
}

#[tokio::test]
async fn a_broken_stream_is_a_typed_error() {
    for semi_sync in [SemiSync::Off, SemiSync::Requested] {
        for packet in [&b""[..], b"\x01", b"\xfb/etc/passwd", b"\xff", b"\xff\x10", b"\xfe12345678"] {
            let error = stream_error(framed(packet, 1), semi_sync).await;
            assert!(matches!(error, ServerError::Protocol { .. }), "{packet:?}: {error}");
        }
        let error = stream_error(vec![0xff, 0xff, 0xff, 1, 0, 0], semi_sync).await;
        assert!(matches!(error, ServerError::Lost { .. }), "{error}");
    }
    let changed = [framed(b"\0\xef\0event", 1), framed(b"\0event", 2)].concat();
    let error = stream_error(changed, SemiSync::Requested).await;
    assert!(error.to_string().ends_with("a packet without the prefix of a semi-sync stream"), "{error}");
}

#[tokio::test]
async fn packets_without_end_stop_where_the_event_says_that_it_ends() {
    let mut part = vec![0u8; 4 + 0xff_ffff];
    part[..4].copy_from_slice(&[0xff, 0xff, 0xff, 1]);
    // After the status byte, an event of 100 bytes.
    part[4 + 1 + 9] = 100;
    let mut wire = part.clone();
    wire.extend_from_slice(&part);
    let error = stream_error(wire, SemiSync::Off).await;
    assert!(error.to_string().contains("longer than the limit"), "{error}");
}

#[tokio::test]
async fn an_event_of_1_gib_that_never_comes_is_silence() {
    let mut wire = vec![0xff, 0xff, 0xff, 1, 0];
    wire.extend_from_slice(&[0, 0, 0, 0, 30, 1, 0, 0, 0, 0, 0, 0, 0x40]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
    let tls = TlsPolicy { mode: TlsMode::DangerDisabled, ca: None };
    let login = ServerLogin { address, user: "agent".to_owned(), password: None, tls };
    let _peer = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&framed(&greeting(), 0)).await.unwrap();
        for command in 0..COMMANDS - 1 {
            packet_of_ours(&mut stream, &mut Vec::new()).await.unwrap();
            let last = command == COMMANDS - 2;
            let answer = if last { wire.clone() } else { framed(OK, if command == 0 { 2 } else { 1 }) };
            stream.write_all(&answer).await.unwrap();
        }
        // Says nothing more, until we go.
        let _ = stream.read(&mut [0; 16]).await;
    });
    let client = ReplicationClient::connect(&login).await.unwrap();
    let mut stream = client.dump_gtid(&identity(), &GtidSet::new(), None, SemiSync::Off).await.unwrap();
    let error = stream.next().await.expect_err("silent");
    assert!(matches!(error, ServerError::Silent { .. }), "{error}");
}

fn follower() -> Follower {
    let tip = Tip::new(&Timeline {
        id: TimelineId(1),
        parent: None,
        reason: String::new(),
        starting_gtids: GtidSet::new(),
        created: Micros(0),
    });
    let request = Request::Gtids { have: GtidSet::new(), from: None };
    let start = Start { request, compare: None, may_skip: false };
    let policy = SegmentPolicy { bytes_max: 1 << 20, age_micros_max: 1_000_000 };
    Follower::new(ServerUuid::from_bytes([1; 16]), policy, &tip, &start, None)
}

/// An artificial ROTATE.
fn rotate(name: &str) -> Vec<u8> {
    let len = u32::try_from(19 + 8 + name.len() + 4).unwrap();
    let mut event = vec![0, 0, 0, 0, 4, 1, 0, 0, 0];
    event.extend_from_slice(&len.to_le_bytes());
    event.extend_from_slice(&[0, 0, 0, 0, 0x20, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    event.extend_from_slice(name.as_bytes());
    event.extend_from_slice(&crc32fast::hash(&event).to_le_bytes());
    event
}

fn follow(events: &[Vec<u8>]) -> Result<(), StreamError> {
    let mut follower = follower();
    for event in events {
        follower.accept(event, 0..event.len(), 0, &mut Vec::new())?;
    }
    Ok(())
}

#[test]
fn a_rotate_to_a_path_is_refused() {
    for name in ["../../x", "/etc/x", "..", "a/b", "x\0y", "", &"x".repeat(300)] {
        assert!(matches!(follow(&[rotate(name)]), Err(StreamError::Event { .. })), "{name:?}");
    }
    assert_eq!(follow(&[rotate("binlog.000001")]), Ok(()));
}

#[test]
fn damaged_or_reordered_events_of_a_real_binlog_are_refused() {
    let server = MysqlServer::builder().start().unwrap();
    server
        .sql("CREATE DATABASE d; CREATE TABLE d.t (a INT); INSERT INTO d.t VALUES (1), (2); DELETE FROM d.t")
        .unwrap();
    let name = server.binlogs().unwrap().remove(0);
    let file = server.remote_binlog(&name).unwrap();
    let mut events = vec![rotate(&name)];
    let mut rest = &file[4..];
    while let Some(len) = rest.get(9..13) {
        let len = u32::from_le_bytes(len.try_into().unwrap()) as usize;
        events.push(rest[..len].to_vec());
        rest = &rest[len..];
    }
    assert!(events.len() > 10);
    follow(&events).unwrap();
    for at in 1..events.len() {
        for byte in [0, events[at].len() / 2, events[at].len() - 1] {
            let mut damaged = events.clone();
            damaged[at][byte] ^= 0x10;
            assert!(matches!(follow(&damaged), Err(StreamError::Event { .. })), "byte {byte} of event {at}");
        }
        let mut cut = events.clone();
        let len = cut[at].len();
        cut[at].truncate(len - 1);
        assert!(matches!(follow(&cut), Err(StreamError::Event { .. })), "event {at} cut");
    }
    for at in 1..events.len() - 1 {
        let mut reordered = events.clone();
        reordered.swap(at, at + 1);
        assert!(follow(&reordered).is_err(), "events {at} and {} swapped", at + 1);
        let mut without = events.clone();
        without.remove(at);
        assert!(follow(&without).is_err(), "event {at} left out");
    }
}
