//! SQL with a server, and what is known about it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use highwater_binlog::{GtidSet, ParseError, ServerUuid};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use tokio::time::timeout;

use super::bridge::Bridge;
use super::error::ServerError;
use super::transport::CONNECT_TIMEOUT;
use super::version::ServerVersion;
use crate::server::{ServerAddress, ServerLogin, TlsMode};

/// How long the end of the bridge may take to be known after the driver has failed.
const BRIDGE_END_TIMEOUT: Duration = Duration::from_secs(1);

/// A logged-in SQL connection.
#[derive(Debug)]
pub struct Session {
    conn: Conn,
    facts: ServerFacts,
    account: String,
    address: String,
    /// Carries the connection under TLS; must outlive it.
    _bridge: Option<Bridge>,
}

/// What a server says about itself. Read when the session opens, and by [`Session::refresh`].
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

impl Session {
    /// Logs in and reads the server's facts.
    pub async fn connect(login: &ServerLogin) -> Result<Self, ServerError> {
        let address = login.address.to_string();
        let timed_out = || ServerError::Unreachable {
            address: address.clone(),
            source: std::io::Error::from(std::io::ErrorKind::TimedOut),
        };
        timeout(2 * CONNECT_TIMEOUT, Self::open(login)).await.map_err(|_| timed_out())?
    }

    async fn open(login: &ServerLogin) -> Result<Self, ServerError> {
        let address = login.address.to_string();
        let (conn, bridge) = match (&login.address, login.tls.mode) {
            (ServerAddress::Socket(path), _) => {
                (log_in(options(login).socket(Some(path.to_string_lossy())), login).await?, None)
            }
            (ServerAddress::Tcp { host, port }, TlsMode::DangerDisabled) => {
                (log_in(options(login).ip_or_hostname(host).tcp_port(*port), login).await?, None)
            }
            (ServerAddress::Tcp { .. }, TlsMode::VerifyIdentity | TlsMode::VerifyCa | TlsMode::DangerNoVerify) => {
                let mut bridge = Bridge::open(login).await?;
                let options = options(login).socket(Some(bridge.socket().to_string_lossy()));
                match log_in(options, login).await {
                    Ok(conn) => (conn, Some(bridge)),
                    Err(error) => {
                        // What broke below the driver says more than the driver's broken pipe.
                        let below = timeout(BRIDGE_END_TIMEOUT, bridge.ended()).await;
                        return Err(below.ok().and_then(Result::err).unwrap_or(error));
                    }
                }
            }
        };
        let facts = ServerFacts::unknown();
        let mut session = Self { conn, facts, account: login.user.clone(), address, _bridge: bridge };
        session.refresh().await?;
        Ok(session)
    }

    /// The driver's connection.
    pub fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// What the server said about itself last.
    #[must_use]
    pub fn facts(&self) -> &ServerFacts {
        &self.facts
    }

    /// The account that the server took us for, as GRANT writes it: `'highwater'@'%'`.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Reads the server's facts again.
    pub async fn refresh(&mut self) -> Result<&ServerFacts, ServerError> {
        self.facts = read_facts(&mut self.conn).await.map_err(|error| match error {
            FactsError::Driver(error) => from_driver(error, &self.address, &self.account, "read the server's settings"),
            FactsError::Version(version) => ServerError::Version { version },
            FactsError::Variable(what) => ServerError::Protocol { address: self.address.clone(), what },
        })?;
        let account: Option<String> = self
            .conn
            .query_first("SELECT CURRENT_USER()")
            .await
            .map_err(|error| self.error(error, "read the current account"))?;
        self.account = quoted_account(&account.unwrap_or_default());
        Ok(&self.facts)
    }

    /// The driver's error in our terms. `statement` says what was tried, without values.
    #[must_use]
    pub fn error(&self, error: mysql_async::Error, statement: &str) -> ServerError {
        from_driver(error, &self.address, &self.account, statement)
    }

    /// Says goodbye to the server.
    pub async fn close(self) {
        // The server ends the session either way.
        let _ = timeout(BRIDGE_END_TIMEOUT, self.conn.disconnect()).await;
    }
}

/// `CURRENT_USER()` as GRANT writes it: `'name'@'host'`.
pub(super) fn quoted_account(account: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
    let (name, host) = account.rsplit_once('@').unwrap_or((account, "%"));
    format!("{}@{}", quoted(name), quoted(host))
}

fn options(login: &ServerLogin) -> OptsBuilder {
    // Over TCP the driver would move to the server's socket by itself; LOCAL INFILE has no handler, so it is never
    // answered; the clear password plugin stays off.
    OptsBuilder::default()
        .prefer_socket(false)
        .user(Some(&login.user))
        .pass(login.password.as_ref().map(crate::secret::Password::expose))
        .secure_auth(true)
        .tcp_keepalive(Some(Duration::from_secs(60)))
}

async fn log_in(options: OptsBuilder, login: &ServerLogin) -> Result<Conn, ServerError> {
    Conn::new(Opts::from(options)).await.map_err(|error| {
        match from_driver(error, &login.address.to_string(), &login.user, "connect") {
            ServerError::Lost { address, source } => ServerError::Unreachable { address, source },
            other => other,
        }
    })
}

fn from_driver(error: mysql_async::Error, address: &str, user: &str, statement: &str) -> ServerError {
    use mysql_async::{DriverError, Error, IoError};
    let address = address.to_owned();
    match error {
        Error::Server(error) => ServerError::from_server(error.code, &error.message, &address, user, statement),
        Error::Io(IoError::Io(source)) => ServerError::Lost { address, source },
        Error::Io(IoError::Tls(error)) => ServerError::Protocol { address, what: error.to_string() },
        Error::Driver(DriverError::ConnectionClosed) => {
            ServerError::Lost { address, source: std::io::Error::from(std::io::ErrorKind::UnexpectedEof) }
        }
        Error::Driver(DriverError::UnknownAuthPlugin { name }) => ServerError::AuthPlugin { plugin: name },
        Error::Driver(DriverError::CleartextPluginDisabled) => {
            ServerError::AuthPlugin { plugin: "mysql_clear_password".to_owned() }
        }
        Error::Driver(DriverError::MysqlOldPasswordDisabled) => {
            ServerError::AuthPlugin { plugin: "mysql_old_password".to_owned() }
        }
        // The driver's text may carry values of rows: only its kind is told.
        Error::Driver(DriverError::FromValue { .. } | DriverError::FromRow { .. }) => {
            ServerError::Protocol { address, what: format!("unexpected answer to {statement}") }
        }
        Error::Driver(DriverError::UnexpectedPacket { .. }) => {
            ServerError::Protocol { address, what: format!("unexpected packet after {statement}") }
        }
        Error::Driver(error) => ServerError::Protocol { address, what: error.to_string() },
        Error::Other(error) => ServerError::Protocol { address, what: error.to_string() },
        Error::Url(error) => ServerError::Protocol { address, what: error.to_string() },
    }
}

enum FactsError {
    Driver(mysql_async::Error),
    Version(String),
    Variable(String),
}

impl From<mysql_async::Error> for FactsError {
    fn from(error: mysql_async::Error) -> Self {
        Self::Driver(error)
    }
}

impl ServerFacts {
    /// Stands in until the server has been asked.
    fn unknown() -> Self {
        Self {
            uuid: ServerUuid::from_bytes([0; 16]),
            version: ServerVersion::OLDEST,
            version_text: String::new(),
            server_id: 0,
            gtid_mode: GtidMode::Off,
            gtid_executed: GtidSet::new(),
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
        }
    }
}

async fn read_facts(conn: &mut Conn) -> Result<ServerFacts, FactsError> {
    // SHOW VARIABLES cuts values at 1,024 characters, so GTID sets are selected.
    let row: Option<(String, String, String)> =
        conn.query_first("SELECT VERSION(), @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged").await?;
    let (version_text, executed, purged) = row.ok_or_else(|| FactsError::Variable("no version".to_owned()))?;
    let version: ServerVersion = version_text.parse().map_err(|_| FactsError::Version(version_text.clone()))?;
    if version < ServerVersion::OLDEST {
        return Err(FactsError::Version(version_text));
    }
    let rows: Vec<(String, String)> = conn
        .query(
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('server_uuid', 'server_id', 'gtid_mode', 'log_bin', \
             'binlog_format', 'binlog_row_image', 'log_replica_updates', 'log_slave_updates', 'binlog_encryption', \
             'binlog_checksum', 'sync_binlog', 'innodb_flush_log_at_trx_commit', 'read_only', 'super_read_only')",
        )
        .await?;
    let find = |name: &str| rows.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
    let text = |name: &str| find(name).unwrap_or_default().to_owned();
    let on = |name: &str| find(name).is_some_and(|v| v.eq_ignore_ascii_case("ON") || v == "1");
    let bad = |error: &dyn fmt::Display, name: &str| FactsError::Variable(format!("{name}: {error}"));
    Ok(ServerFacts {
        uuid: text("server_uuid").parse().map_err(|e| bad(&e, "server_uuid"))?,
        version,
        version_text,
        server_id: text("server_id").parse().map_err(|e| bad(&e, "server_id"))?,
        gtid_mode: text("gtid_mode").parse().map_err(|e| bad(&e, "gtid_mode"))?,
        gtid_executed: executed.parse().map_err(|e| bad(&e, "gtid_executed"))?,
        gtid_purged: purged.parse().map_err(|e| bad(&e, "gtid_purged"))?,
        log_bin: on("log_bin"),
        binlog_format: text("binlog_format"),
        binlog_row_image: text("binlog_row_image"),
        log_replica_updates: on("log_replica_updates") || on("log_slave_updates"),
        binlog_encryption: on("binlog_encryption"),
        binlog_checksum: text("binlog_checksum"),
        sync_binlog: text("sync_binlog").parse().unwrap_or(0),
        innodb_flush_log_at_trx_commit: text("innodb_flush_log_at_trx_commit").parse().unwrap_or(0),
        read_only: on("read_only") || on("super_read_only"),
    })
}
