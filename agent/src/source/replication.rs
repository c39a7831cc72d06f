//! A replica's side of MySQL's replication protocol: raw events out.

use std::time::Duration;

use highwater_binlog::{BinlogName, EVENT_LEN_MAX, GtidSet, ServerUuid};
use tokio::time::timeout;

use super::auth::{self, lost};
use super::error::ServerError;
use super::greeting::server_error;
use super::packet::PacketIo;
use super::session::quoted_account;
use super::transport::{CONNECT_TIMEOUT, Transport};
use crate::server::ServerLogin;

/// No answer to our few statements comes near this many bytes.
const ANSWER_LEN_MAX: usize = 64 << 10;

/// A packet of the stream is one status byte and an event.
const EVENT_PACKET_LEN_MAX: u64 = EVENT_LEN_MAX + 1;

/// What is waited for beyond two heartbeats before a source counts as gone.
const SILENCE_SLACK: Duration = Duration::from_secs(5);

/// `USE_HEARTBEAT_EVENT_V2` in `sql/rpl_constants.h` (8.0.26): heartbeats with the file and a 64-bit position. Older servers
/// do not look at it.
const HEARTBEAT_V2: u16 = 0x2;

/// How we present ourselves to the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaIdentity {
    /// The `server_id` we register with.
    pub server_id: u32,
    /// Our UUID: a new connection with the same one replaces the old one at the source.
    pub uuid: ServerUuid,
    /// How often the source lets us know that it is there while nothing happens.
    pub heartbeat: Duration,
}

/// A connection logged in for replication.
#[derive(Debug)]
pub struct ReplicationClient {
    io: PacketIo<Transport>,
    address: String,
    user: String,
    packet: Vec<u8>,
}

impl ReplicationClient {
    /// Connects and logs in.
    pub async fn connect(login: &ServerLogin) -> Result<Self, ServerError> {
        let address = login.address.to_string();
        let io = timeout(2 * CONNECT_TIMEOUT, auth::log_in(login)).await.map_err(|_| ServerError::Unreachable {
            address: address.clone(),
            source: std::io::Error::from(std::io::ErrorKind::TimedOut),
        })??;
        Ok(Self { io, address, user: login.user.clone(), packet: Vec::new() })
    }

    /// The server behind this very connection: names can lead to several.
    pub async fn server_uuid(&mut self) -> Result<ServerUuid, ServerError> {
        let text = self.select_value("SELECT @@GLOBAL.server_uuid").await?;
        text.parse().map_err(|_| self.protocol("its UUID is none"))
    }

    /// Asks for every transaction that is not in `have`. What follows is the stream, from the start of `from`.
    ///
    /// Without a binlog to start from, the source starts with the last one that follows from `have`. It then sets the
    /// creation time in format descriptions to 0 when `have` has the first transaction of that binlog
    /// (`Binlog_sender::check_start_file`), so that they differ from the file. With a binlog it checks neither that
    /// `have` contains what it has purged nor that it is part of what it has executed: that is up to the caller.
    pub async fn dump_gtid(
        mut self,
        identity: &ReplicaIdentity,
        have: &GtidSet,
        from: Option<&BinlogName>,
    ) -> Result<BinlogStream, ServerError> {
        let nanos = identity.heartbeat.as_nanos();
        let uuid = identity.uuid;
        // Servers before 8.0.26 know the old names alone; setting a user variable never fails.
        for statement in [
            format!("SET @source_heartbeat_period = {nanos}, @master_heartbeat_period = {nanos}"),
            "SET @source_binlog_checksum = 'CRC32', @master_binlog_checksum = 'CRC32'".to_owned(),
            format!("SET @replica_uuid = '{uuid}', @slave_uuid = '{uuid}'"),
        ] {
            self.command(0x03, statement.as_bytes(), "prepare replication").await?;
        }
        self.register(identity).await?;
        let request =
            dump_request(identity.server_id, have, from).ok_or_else(|| self.protocol("GTID set too long to send"))?;
        self.io.command(&request).await.map_err(|source| lost(&self.address, source))?;
        let silence = 2 * identity.heartbeat + SILENCE_SLACK;
        self.io.set_silence_max(Some(silence));
        Ok(BinlogStream { client: self, silence })
    }

    async fn register(&mut self, identity: &ReplicaIdentity) -> Result<(), ServerError> {
        let what = "COM_REGISTER_REPLICA";
        match self.command(0x15, &register(identity.server_id), what).await {
            // Without the privilege the server says that access is denied, as to a wrong password.
            Err(ServerError::AccessDenied { code: 1045, .. }) => Err(ServerError::MissingPrivilege {
                user: quoted_account(&self.select_value("SELECT CURRENT_USER()").await?),
                privilege: "REPLICATION SLAVE".to_owned(),
                statement: what.to_owned(),
            }),
            other => other,
        }
    }

    /// Sends a command whose answer is OK or an error.
    async fn command(&mut self, code: u8, body: &[u8], what: &str) -> Result<(), ServerError> {
        let mut request = vec![code];
        request.extend_from_slice(body);
        self.io.command(&request).await.map_err(|source| lost(&self.address, source))?;
        self.read_answer(what).await?;
        match self.packet.first() {
            Some(0x00) => Ok(()),
            _ => Err(self.protocol(&format!("unexpected answer to {what}"))),
        }
    }

    /// The single value of a result with one row and one column.
    async fn select_value(&mut self, statement: &str) -> Result<String, ServerError> {
        let mut request = vec![0x03];
        request.extend_from_slice(statement.as_bytes());
        self.io.command(&request).await.map_err(|source| lost(&self.address, source))?;
        // Column count, column, EOF, row, EOF.
        self.read_answer(statement).await?;
        if self.packet != [1] {
            return Err(self.protocol("not one column"));
        }
        self.read_answer(statement).await?;
        self.read_answer(statement).await?;
        self.read_answer(statement).await?;
        let value = match self.packet.as_slice() {
            [len, text @ ..] if *len < 0xfb && text.len() == usize::from(*len) => {
                String::from_utf8_lossy(text).into_owned()
            }
            _ => return Err(self.protocol("not one row")),
        };
        self.read_answer(statement).await?;
        match self.packet.first() {
            Some(0xfe) => Ok(value),
            _ => Err(self.protocol("more than one row")),
        }
    }

    async fn read_answer(&mut self, what: &str) -> Result<(), ServerError> {
        let read = timeout(CONNECT_TIMEOUT, self.io.read(&mut self.packet, ANSWER_LEN_MAX)).await;
        match read {
            Ok(result) => result.map_err(|source| lost(&self.address, source))?,
            Err(_) => {
                return Err(ServerError::Silent { address: self.address.clone(), seconds: CONNECT_TIMEOUT.as_secs() });
            }
        }
        if self.packet.first() == Some(&0xff) {
            return Err(server_error(&self.packet, &self.address, &self.user, what));
        }
        Ok(())
    }

    fn protocol(&self, what: &str) -> ServerError {
        ServerError::Protocol { address: self.address.clone(), what: what.to_owned() }
    }
}

/// The events that a source sends, one at a time, as it sends them: nothing is verified yet.
#[derive(Debug)]
pub struct BinlogStream {
    client: ReplicationClient,
    silence: Duration,
}

impl BinlogStream {
    /// The next event's bytes; `None` when the source says that it has no more to send. Not cancel safe.
    pub async fn next(&mut self) -> Result<Option<&[u8]>, ServerError> {
        let limit = usize::try_from(EVENT_PACKET_LEN_MAX).unwrap_or(usize::MAX);
        let client = &mut self.client;
        client.io.read(&mut client.packet, limit).await.map_err(|source| match source.kind() {
            std::io::ErrorKind::TimedOut => {
                ServerError::Silent { address: client.address.clone(), seconds: self.silence.as_secs() }
            }
            _ => lost(&client.address, source),
        })?;
        match client.packet.as_slice() {
            [0x00, event @ ..] => Ok(Some(event)),
            [0xff, ..] => Err(server_error(&client.packet, &client.address, &client.user, "COM_BINLOG_DUMP_GTID")),
            [0xfe, rest @ ..] if rest.len() < 8 => Ok(None),
            _ => Err(client.protocol("unknown packet in the binlog stream")),
        }
    }

    /// Whether the next event has arrived already.
    #[must_use]
    pub fn has_next(&self) -> bool {
        self.client.io.has_packet()
    }
}

/// The body of COM_REGISTER_REPLICA: id, then host, user and password (each empty), port, rank, the source's id.
fn register(server_id: u32) -> Vec<u8> {
    let mut body = server_id.to_le_bytes().to_vec();
    body.extend_from_slice(&[0; 3 + 2 + 4 + 4]);
    body
}

/// COM_BINLOG_DUMP_GTID: flags, id, file name, position 4, the set. `None`: longer than its length field.
fn dump_request(server_id: u32, have: &GtidSet, from: Option<&BinlogName>) -> Option<Vec<u8>> {
    let set = have.to_wire();
    let name = from.map_or("", BinlogName::as_str);
    let mut request = vec![0x1e];
    request.extend_from_slice(&HEARTBEAT_V2.to_le_bytes());
    request.extend_from_slice(&server_id.to_le_bytes());
    request.extend_from_slice(&u32::try_from(name.len()).ok()?.to_le_bytes());
    request.extend_from_slice(name.as_bytes());
    request.extend_from_slice(&4u64.to_le_bytes());
    request.extend_from_slice(&u32::try_from(set.len()).ok()?.to_le_bytes());
    request.extend_from_slice(&set);
    Some(request)
}
