//! A replica's side of MySQL's replication protocol: raw events out.

use std::time::Duration;

use highwater_binlog::{BinlogName, BinlogPosition, GtidSet, ServerUuid};
use tokio::time::timeout;

use super::auth::{self, lost};
use super::error::ServerError;
use super::greeting::server_error;
use super::packet::PacketIo;
use super::session::quoted_account;
use super::stream::BinlogStream;
use super::transport::{CONNECT_TIMEOUT, Transport};
use crate::server::ServerLogin;

/// No answer to our few statements comes near this many bytes.
const ANSWER_LEN_MAX: usize = 64 << 10;

/// A source that sends nothing for two heartbeats counts as gone, but never before this: machines stall that long.
const SILENCE_MIN: Duration = Duration::from_secs(3);

/// `USE_HEARTBEAT_EVENT_V2` in `sql/rpl_constants.h` (8.0.26): heartbeats with the file and a 64-bit position. Older servers
/// do not look at it.
const HEARTBEAT_V2: u16 = 0x2;

/// Whether we ask the source to wait for our acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SemiSync {
    /// No: it never waits for us.
    Off,
    /// Yes. Whether it does depends on its plug-in and settings: [`super::Session::semi_sync`] tells.
    Requested,
}

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
        self,
        identity: &ReplicaIdentity,
        have: &GtidSet,
        from: Option<&BinlogName>,
        semi_sync: SemiSync,
    ) -> Result<BinlogStream, ServerError> {
        let request = dump_gtid_request(identity.server_id, have, from)
            .ok_or_else(|| self.protocol("GTID set too long to send"))?;
        self.dump(identity, &request, semi_sync).await
    }

    /// Asks for what stands in a binlog from a position on, and in the binlogs after it. Except at the start of the
    /// binlog, the source sends its format description first, with its position and creation time set to 0.
    ///
    /// The source trusts that the position is where an event starts; an offset over 32 bits cannot be asked for.
    pub async fn dump_position(
        self,
        identity: &ReplicaIdentity,
        from: &BinlogPosition,
        semi_sync: SemiSync,
    ) -> Result<BinlogStream, ServerError> {
        let request = dump_position_request(identity.server_id, from)
            .ok_or_else(|| ServerError::PositionTooLarge { position: from.clone() })?;
        self.dump(identity, &request, semi_sync).await
    }

    async fn dump(
        mut self,
        identity: &ReplicaIdentity,
        request: &[u8],
        semi_sync: SemiSync,
    ) -> Result<BinlogStream, ServerError> {
        for statement in preparation(identity, semi_sync) {
            self.command(0x03, statement.as_bytes(), "prepare replication").await?;
        }
        self.register(identity).await?;
        self.io.command(request).await.map_err(|source| lost(&self.address, source))?;
        let silence_max = (2 * identity.heartbeat).max(SILENCE_MIN);
        let Self { io, address, user, .. } = self;
        BinlogStream::begin(io, address, user, silence_max, semi_sync)
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

/// The body of COM_REGISTER_REPLICA: id, then host, user and password (each empty), port, rank, the source's id.
fn register(server_id: u32) -> Vec<u8> {
    let mut body = server_id.to_le_bytes().to_vec();
    body.extend_from_slice(&[0; 3 + 2 + 4 + 4]);
    body
}

/// What a replica sets before it asks for the stream. Servers before 8.0.26 know the old names alone; setting a user
/// variable never fails.
fn preparation(identity: &ReplicaIdentity, semi_sync: SemiSync) -> Vec<String> {
    let ReplicaIdentity { uuid, heartbeat, .. } = identity;
    let nanos = heartbeat.as_nanos();
    let mut statements = vec![
        format!("SET @source_heartbeat_period = {nanos}, @master_heartbeat_period = {nanos}"),
        "SET @source_binlog_checksum = 'CRC32', @master_binlog_checksum = 'CRC32'".to_owned(),
        format!("SET @replica_uuid = '{uuid}', @slave_uuid = '{uuid}'"),
    ];
    if semi_sync == SemiSync::Requested {
        statements.push("SET @rpl_semi_sync_replica = 1, @rpl_semi_sync_slave = 1".to_owned());
    }
    statements
}

/// COM_BINLOG_DUMP_GTID: flags, id, file name, position 4, the set. `None`: longer than its length field.
fn dump_gtid_request(server_id: u32, have: &GtidSet, from: Option<&BinlogName>) -> Option<Vec<u8>> {
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

/// COM_BINLOG_DUMP: position, flags, id, file name. `None`: more than 32 bits of position.
fn dump_position_request(server_id: u32, from: &BinlogPosition) -> Option<Vec<u8>> {
    let mut request = vec![0x12];
    request.extend_from_slice(&u32::try_from(from.offset).ok()?.to_le_bytes());
    request.extend_from_slice(&HEARTBEAT_V2.to_le_bytes());
    request.extend_from_slice(&server_id.to_le_bytes());
    request.extend_from_slice(from.binlog.as_str().as_bytes());
    Some(request)
}
