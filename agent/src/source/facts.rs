//! What a server says about itself.

use std::fmt;
use std::str::FromStr;

use highwater_binlog::{GtidSet, ParseError, ServerUuid};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::version::ServerVersion;

/// What a server says about itself. Read when a session opens, and by
/// [`super::Session::refresh`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// `@@server_uuid`
    pub uuid: ServerUuid,
    /// `@@version`, read.
    pub version: ServerVersion,
    /// `@@version`, as it is.
    pub version_text: String,
    /// `@@server_id`
    pub server_id: u32,
    /// `@@gtid_mode`
    pub gtid_mode: GtidMode,
    /// `@@gtid_executed`
    pub gtid_executed: GtidSet,
    /// `@@gtid_owned`: transactions in the binlog that still wait for an acknowledgement are here, and not executed.
    pub gtid_owned: GtidSet,
    /// `@@gtid_purged`
    pub gtid_purged: GtidSet,
    /// `@@log_bin`
    pub log_bin: bool,
    /// `@@binlog_format`: `ROW`, `MIXED`, `STATEMENT`.
    pub binlog_format: String,
    /// `@@binlog_row_image`: `FULL`, `MINIMAL`, `NOBLOB`.
    pub binlog_row_image: String,
    /// `@@log_replica_updates`, or its name before 8.0.26.
    pub log_replica_updates: bool,
    /// `@@binlog_encryption`
    pub binlog_encryption: bool,
    /// `@@binlog_checksum`: `CRC32` or `NONE`.
    pub binlog_checksum: String,
    /// `@@sync_binlog`
    pub sync_binlog: u64,
    /// `@@innodb_flush_log_at_trx_commit`
    pub innodb_flush_log_at_trx_commit: u64,
    /// `@@super_read_only` or `@@read_only`
    pub read_only: bool,
    /// `@@binlog_expire_logs_seconds`: the age at which it purges binlogs; 0 is never.
    pub binlog_expire_logs_seconds: u64,
    /// `@@binlog_expire_logs_auto_purge`; on before 8.0.29, which cannot turn it off.
    pub binlog_expire_logs_auto_purge: bool,
    /// `@@binlog_transaction_compression`
    pub binlog_transaction_compression: bool,
    /// `@@binlog_row_metadata`: `MINIMAL`, `FULL`.
    pub binlog_row_metadata: String,
    /// Whether it has a replication channel, running or not. False as well when the account lacks REPLICATION CLIENT.
    pub is_replica: bool,
}

/// `@@gtid_mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GtidMode {
    /// No transaction has a GTID.
    Off,
    /// New transactions have none, replicated ones may.
    OffPermissive,
    /// New transactions have one, replicated ones may have none.
    OnPermissive,
    /// Every transaction has one.
    On,
}

impl fmt::Display for GtidMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "OFF",
            Self::OffPermissive => "OFF_PERMISSIVE",
            Self::OnPermissive => "ON_PERMISSIVE",
            Self::On => "ON",
        })
    }
}

impl FromStr for GtidMode {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        [Self::Off, Self::OffPermissive, Self::OnPermissive, Self::On]
            .into_iter()
            .find(|mode| mode.to_string().eq_ignore_ascii_case(text))
            .ok_or_else(|| ParseError::new("GTID mode", text))
    }
}

/// Why there are no facts.
pub(super) enum FactsError {
    /// The driver's.
    Driver(mysql_async::Error),
    /// A server that is none of ours calls itself so.
    Version(String),
    /// A variable's value makes no sense.
    Variable(String),
}

impl From<mysql_async::Error> for FactsError {
    fn from(error: mysql_async::Error) -> Self {
        Self::Driver(error)
    }
}

impl ServerFacts {
    /// Stands in until the server has been asked.
    pub(super) fn unknown() -> Self {
        Self {
            uuid: ServerUuid::from_bytes([0; 16]),
            version: ServerVersion::OLDEST,
            version_text: String::new(),
            server_id: 0,
            gtid_mode: GtidMode::Off,
            gtid_executed: GtidSet::new(),
            gtid_owned: GtidSet::new(),
            gtid_purged: GtidSet::new(),
            log_bin: false,
            binlog_format: String::new(),
            binlog_row_image: String::new(),
            log_replica_updates: false,
            binlog_encryption: false,
            binlog_checksum: String::new(),
            sync_binlog: 0,
            innodb_flush_log_at_trx_commit: 0,
            read_only: false,
            binlog_expire_logs_seconds: 0,
            binlog_expire_logs_auto_purge: false,
            binlog_transaction_compression: false,
            binlog_row_metadata: String::new(),
            is_replica: false,
        }
    }
}

/// The variables of [`ServerFacts`], old names and new; a server leaves out those it does not have.
const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('server_uuid', 'server_id', 'gtid_mode', \
    'log_bin', 'binlog_format', 'binlog_row_image', 'binlog_row_metadata', 'log_replica_updates', 'log_slave_updates', \
    'binlog_encryption', 'binlog_checksum', 'binlog_transaction_compression', 'binlog_expire_logs_seconds', \
    'binlog_expire_logs_auto_purge', 'sync_binlog', 'innodb_flush_log_at_trx_commit', 'read_only', 'super_read_only')";

/// `ER_ACCESS_DENIED_ERROR` and `ER_SPECIFIC_ACCESS_DENIED_ERROR`
const NOT_ALLOWED: [u16; 2] = [1045, 1227];

/// Asks for everything anew.
pub(super) async fn read_facts(conn: &mut Conn) -> Result<ServerFacts, FactsError> {
    // SHOW VARIABLES cuts values at 1,024 characters, so GTID sets are selected. What is owned first: what is executed
    // meanwhile is in one of the two.
    let row: Option<(String, String, String, String)> =
        conn.query_first("SELECT VERSION(), @@GLOBAL.gtid_owned, @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged").await?;
    let (version_text, owned, executed, purged) = row.ok_or_else(|| FactsError::Variable("no version".to_owned()))?;
    let version: ServerVersion = version_text.parse().map_err(|_| FactsError::Version(version_text.clone()))?;
    if version < ServerVersion::OLDEST {
        return Err(FactsError::Version(version_text));
    }
    let rows: Vec<(String, String)> = conn.query(VARIABLES).await?;
    let is_replica = is_replica(conn, version).await?;
    let find = |name: &str| rows.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
    let text = |name: &str| find(name).unwrap_or_default().to_owned();
    let number = |name: &str| text(name).parse().unwrap_or(0);
    let is_on = |value: &str| value.eq_ignore_ascii_case("ON") || value == "1";
    let on = |name: &str| find(name).is_some_and(is_on);
    let bad = |error: &dyn fmt::Display, name: &str| FactsError::Variable(format!("{name}: {error}"));
    Ok(ServerFacts {
        uuid: text("server_uuid").parse().map_err(|e| bad(&e, "server_uuid"))?,
        version,
        version_text,
        server_id: text("server_id").parse().map_err(|e| bad(&e, "server_id"))?,
        gtid_mode: text("gtid_mode").parse().map_err(|e| bad(&e, "gtid_mode"))?,
        gtid_owned: owned_gtids(&owned).map_err(|e| bad(&e, "gtid_owned"))?,
        gtid_executed: executed.parse().map_err(|e| bad(&e, "gtid_executed"))?,
        gtid_purged: purged.parse().map_err(|e| bad(&e, "gtid_purged"))?,
        log_bin: on("log_bin"),
        binlog_format: text("binlog_format"),
        binlog_row_image: text("binlog_row_image"),
        log_replica_updates: on("log_replica_updates") || on("log_slave_updates"),
        binlog_encryption: on("binlog_encryption"),
        binlog_checksum: text("binlog_checksum"),
        sync_binlog: number("sync_binlog"),
        innodb_flush_log_at_trx_commit: number("innodb_flush_log_at_trx_commit"),
        read_only: on("read_only") || on("super_read_only"),
        binlog_expire_logs_seconds: number("binlog_expire_logs_seconds"),
        binlog_expire_logs_auto_purge: find("binlog_expire_logs_auto_purge").is_none_or(is_on),
        binlog_transaction_compression: on("binlog_transaction_compression"),
        binlog_row_metadata: text("binlog_row_metadata"),
        is_replica,
    })
}

/// The GTIDs of `@@GLOBAL.gtid_owned`, where each is followed by `#` and its thread (`Owned_gtids::to_string` in
/// `sql/rpl_gtid.h`).
fn owned_gtids(text: &str) -> Result<GtidSet, ParseError> {
    let mut gtids = String::with_capacity(text.len());
    let mut is_thread = false;
    for character in text.chars() {
        is_thread = character == '#' || (is_thread && character.is_ascii_digit());
        if !is_thread {
            gtids.push(character);
        }
    }
    gtids.parse()
}

/// Whether a channel is configured, as far as the account may know.
async fn is_replica(conn: &mut Conn, version: ServerVersion) -> Result<bool, FactsError> {
    let statement = if version.says_replica() { "SHOW REPLICA STATUS" } else { "SHOW SLAVE STATUS" };
    match conn.query_first::<Row, _>(statement).await {
        Ok(row) => Ok(row.is_some()),
        Err(mysql_async::Error::Server(error)) if NOT_ALLOWED.contains(&error.code) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
