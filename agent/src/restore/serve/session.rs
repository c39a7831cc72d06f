//! What a replica asks before it asks for the binlog, by the names of every version from 5.7 to 9.x
//! (`get_master_version_and_clock`, `get_master_uuid`, `io_thread_init_commands` in `sql/rpl_replica.cc`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use highwater_binlog::{GtidSet, ServerUuid};

use super::handshake::{OK, STATUS_AUTOCOMMIT, error_packet};
use super::packet::{Fields, put_text};

/// What the answers are made of.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) server_id: u32,
    pub(super) uuid: ServerUuid,
    pub(super) version: String,
}

/// What a replica asked for with COM_BINLOG_DUMP_GTID.
#[derive(Debug, Clone)]
pub(super) struct DumpRequest {
    /// The replica's own `server_id`.
    pub(super) server_id: u32,
    /// The transactions that it has.
    pub(super) gtids: GtidSet,
    /// Whether it reads heartbeats with 64-bit positions.
    pub(super) heartbeat_v2: bool,
}

/// What to do about a command.
#[derive(Debug)]
pub(super) enum Answer {
    /// Send these payloads, one packet each.
    Packets(Vec<Vec<u8>>),
    /// Begin to stream.
    Stream(DumpRequest),
    /// Close the connection.
    Quit,
}

/// The longest command: a GTID set of some 100,000 intervals.
pub(super) const COMMAND_MAX: usize = 4 << 20;

/// `USE_HEARTBEAT_EVENT_V2` in the flags of a dump command (`sql/rpl_constants.h`).
const USE_HEARTBEAT_V2: u16 = 2;
/// What replicas before 5.5 would use; every one since sets its own.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(30);

/// One replica's conversation, before the stream.
#[derive(Debug)]
pub(super) struct Conversation {
    identity: Identity,
    /// The pause in the stream after which the replica wants to hear from us.
    pub(super) heartbeat: Duration,
    /// The replica's `server_uuid`, once it has told it.
    pub(super) replica_uuid: Option<String>,
}

impl Conversation {
    pub(super) fn new(identity: Identity) -> Self {
        Self { identity, heartbeat: DEFAULT_HEARTBEAT, replica_uuid: None }
    }

    /// The answer to one command packet. `now` is the wall clock.
    pub(super) fn answer(&mut self, command: &[u8], now: SystemTime) -> Answer {
        const COM_QUIT: u8 = 0x01;
        const COM_QUERY: u8 = 0x03;
        const COM_PROCESS_KILL: u8 = 0x0c;
        const COM_PING: u8 = 0x0e;
        const COM_REGISTER_REPLICA: u8 = 0x15;
        const COM_BINLOG_DUMP_GTID: u8 = 0x1e;
        match command.split_first() {
            None | Some((&COM_QUIT, _)) => Answer::Quit,
            Some((&(COM_PING | COM_REGISTER_REPLICA | COM_PROCESS_KILL), _)) => ok(),
            Some((&COM_QUERY, text)) => self.query(&String::from_utf8_lossy(text), now),
            Some((&COM_BINLOG_DUMP_GTID, body)) => match dump_request(body) {
                Some(request) => Answer::Stream(request),
                None => refuse(1236, *b"HY000", "malformed COM_BINLOG_DUMP_GTID"),
            },
            Some(_) => refuse(1047, *b"08S01", "this server only serves binlogs, with auto position"),
        }
    }

    fn query(&mut self, text: &str, now: SystemTime) -> Answer {
        let text = text.trim().trim_end_matches(';');
        let upper = text.to_ascii_uppercase();
        if upper.starts_with("SET ") {
            self.set(text);
            return ok();
        }
        if upper.starts_with("KILL ") {
            return ok();
        }
        if let Some(pattern) = upper.strip_prefix("SHOW VARIABLES LIKE ") {
            let name = pattern.trim().trim_matches(['\'', '"']).to_owned();
            let value = self.variable(&name);
            let rows = value.map(|value| vec![name.to_ascii_lowercase(), value]);
            return result_set(&["Variable_name", "Value"], rows.as_slice());
        }
        let Some(list) = upper.strip_prefix("SELECT ") else {
            return refuse(1064, *b"42000", "this server only answers what replicas ask");
        };
        let columns: Vec<&str> = list.split(',').map(str::trim).collect();
        let mut row = Vec::new();
        for column in &columns {
            match self.expression(column, now) {
                Some(value) => row.push(value),
                None => {
                    let name = column.trim_start_matches("@@GLOBAL.").trim_start_matches("@@").to_ascii_lowercase();
                    return refuse(1193, *b"HY000", &format!("Unknown system variable '{name}'"));
                }
            }
        }
        result_set(&columns, &[row])
    }

    /// Takes note of the user variables that steer the stream: `SET @a = x, @b = y`.
    fn set(&mut self, text: &str) {
        for assignment in text.get(4..).unwrap_or_default().split(',') {
            let Some((name, value)) = assignment.split_once('=') else { continue };
            let value = value.trim().trim_matches(['\'', '"']);
            match name.trim().to_ascii_lowercase().as_str() {
                "@master_heartbeat_period" | "@source_heartbeat_period" => {
                    if let Some(nanos) = value.parse::<u64>().ok().filter(|nanos| *nanos > 0) {
                        self.heartbeat = Duration::from_nanos(nanos);
                    }
                }
                "@slave_uuid" | "@replica_uuid" => self.replica_uuid = Some(value.to_ascii_lowercase()),
                _ => {}
            }
        }
    }

    /// The value of an upper-case expression, if it is one that replicas ask for.
    fn expression(&self, text: &str, now: SystemTime) -> Option<String> {
        match text {
            "UNIX_TIMESTAMP()" => {
                let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
                Some(since.as_secs().to_string())
            }
            "VERSION()" => Some(self.identity.version.clone()),
            "1" => Some("1".to_owned()),
            // Events before the first format description carry a CRC32; those after it what it says.
            "@MASTER_BINLOG_CHECKSUM" | "@SOURCE_BINLOG_CHECKSUM" => Some("CRC32".to_owned()),
            _ => self.variable(text.strip_prefix("@@GLOBAL.").or_else(|| text.strip_prefix("@@"))?),
        }
    }

    fn variable(&self, upper_name: &str) -> Option<String> {
        let value = match upper_name {
            "SERVER_ID" => return Some(self.identity.server_id.to_string()),
            "SERVER_UUID" => return Some(self.identity.uuid.to_string()),
            "VERSION" => return Some(self.identity.version.clone()),
            "GTID_MODE" => "ON",
            "BINLOG_CHECKSUM" => "CRC32",
            "COLLATION_SERVER" => "utf8mb4_0900_ai_ci",
            "TIME_ZONE" => "SYSTEM",
            _ => return None,
        };
        Some(value.to_owned())
    }
}

/// COM_BINLOG_DUMP_GTID (`com_binlog_dump_gtid` in `sql/rpl_source.cc`). The file name and position say nothing with
/// auto position.
fn dump_request(body: &[u8]) -> Option<DumpRequest> {
    let mut fields = Fields::new(body);
    let flags = fields.u16()?;
    let server_id = fields.u32()?;
    let name_len = fields.u32()?;
    fields.bytes(usize::try_from(name_len).ok()?)?;
    fields.u64()?;
    let set_len = fields.u32()?;
    let gtids = GtidSet::from_wire(fields.bytes(usize::try_from(set_len).ok()?)?).ok()?;
    Some(DumpRequest { server_id, gtids, heartbeat_v2: flags & USE_HEARTBEAT_V2 != 0 })
}

fn ok() -> Answer {
    Answer::Packets(vec![OK.to_vec()])
}

fn refuse(code: u16, state: [u8; 5], message: &str) -> Answer {
    Answer::Packets(vec![error_packet(code, state, message)])
}

/// A result of the text protocol whose columns are all VARCHAR.
fn result_set(columns: &[&str], rows: &[Vec<String>]) -> Answer {
    const TYPE_VAR_STRING: u8 = 0xfd;
    let [status_low, status_high] = STATUS_AUTOCOMMIT.to_le_bytes();
    let eof = vec![0xfe, 0, 0, status_low, status_high];
    let mut packets = vec![vec![u8::try_from(columns.len()).unwrap_or(u8::MAX)]];
    for name in columns {
        let mut packet = Vec::new();
        put_text(&mut packet, b"def");
        for part in ["", "", "", name, name] {
            put_text(&mut packet, part.as_bytes());
        }
        packet.push(0x0c);
        // utf8mb4, 1024 bytes at most, VARCHAR, no flags, no decimals.
        packet.extend_from_slice(&[255, 0, 0, 4, 0, 0, TYPE_VAR_STRING, 0, 0, 0, 0, 0]);
        packets.push(packet);
    }
    packets.push(eof.clone());
    for row in rows {
        let mut packet = Vec::new();
        row.iter().for_each(|value| put_text(&mut packet, value.as_bytes()));
        packets.push(packet);
    }
    packets.push(eof);
    Answer::Packets(packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation() -> Conversation {
        let uuid = ServerUuid::from_bytes([7; 16]);
        Conversation::new(Identity { server_id: 77, uuid, version: "8.4.0".to_owned() })
    }

    fn query(text: &str) -> Vec<Vec<u8>> {
        let command = [&[3], text.as_bytes()].concat();
        match conversation().answer(&command, UNIX_EPOCH + Duration::from_secs(1_000)) {
            Answer::Packets(packets) => packets,
            other => panic!("{other:?}"),
        }
    }

    /// The only row's only value.
    fn value(text: &str) -> String {
        let packets = query(text);
        assert_eq!(packets.len(), 5, "{text}: {packets:?}");
        String::from_utf8(packets[3][1..].to_vec()).unwrap()
    }

    #[test]
    fn both_generations_of_names_are_answered() {
        assert_eq!(value("SELECT UNIX_TIMESTAMP()"), "1000");
        assert_eq!(value("SELECT @@GLOBAL.SERVER_ID"), "77");
        assert_eq!(value("select @@global.gtid_mode"), "ON");
        assert_eq!(value("SELECT @master_binlog_checksum"), "CRC32");
        assert_eq!(value("SELECT @source_binlog_checksum"), "CRC32");
        assert_eq!(value("SELECT @@GLOBAL.SERVER_UUID"), "07070707-0707-0707-0707-070707070707");
        let rows = query("SHOW VARIABLES LIKE 'SERVER_UUID'");
        assert!(rows[4].ends_with(b"07070707-0707-0707-0707-070707070707"));
        assert!(rows[4].starts_with(b"\x0bserver_uuid"));
    }

    #[test]
    fn semi_sync_is_an_unknown_variable() {
        let answer = query("SELECT @@global.rpl_semi_sync_source_enabled").remove(0);
        assert_eq!(answer[..3], [0xff, 0xa9, 0x04]);
        assert!(answer.ends_with(b"Unknown system variable 'rpl_semi_sync_source_enabled'"));
    }

    #[test]
    fn statements_beyond_a_replicas_are_refused() {
        assert_eq!(query("DROP TABLE a.b").remove(0)[0], 0xff);
        assert_eq!(query("SELECT 1 FROM mysql.user").remove(0)[0], 0xff);
    }

    #[test]
    fn heartbeat_period_and_replica_uuid_are_noted() {
        let mut talk = conversation();
        talk.set("SET @master_heartbeat_period = 1500000000, @source_heartbeat_period = 1500000000");
        talk.set("SET @slave_uuid = 'AB', @replica_uuid = 'AB'");
        assert_eq!(talk.heartbeat, Duration::from_millis(1500));
        assert_eq!(talk.replica_uuid.as_deref(), Some("ab"));
    }

    #[test]
    fn truncated_dump_command_is_refused() {
        let mut body = vec![0x1e, 2, 0, 9, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0];
        body.extend_from_slice(&[0; 8]);
        let now = UNIX_EPOCH;
        match conversation().answer(&body, now) {
            Answer::Stream(request) => {
                assert_eq!((request.server_id, request.heartbeat_v2), (9, true));
                assert!(request.gtids.is_empty());
            }
            other => panic!("{other:?}"),
        }
        for len in 1..body.len() {
            assert!(matches!(conversation().answer(&body[..len], now), Answer::Packets(p) if p[0][0] == 0xff), "{len}");
        }
    }
}
