//! SQL with a server, and what is known about it.

use std::time::Duration;

use highwater_binlog::BinlogName;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use tokio::time::timeout;

use super::bridge::Bridge;
use super::error::ServerError;
use super::facts::{FactsError, ServerFacts, read_facts};
use super::semi_sync::{self, SemiSyncState};
use super::transport::CONNECT_TIMEOUT;
use crate::server::{ServerAddress, ServerLogin, TlsMode};

/// How long the end of the bridge may take to be known after the driver has failed.
const BRIDGE_END_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a server may take to say what it is and what it has.
const ANSWER_MAX: Duration = Duration::from_secs(30);

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

/// A binlog of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BinlogFile {
    /// Its name, without directory.
    pub name: BinlogName,
    /// Its length on the server's disk, in bytes; an encrypted one has 512 bytes in front of what is streamed.
    pub size: u64,
    /// Whether it is encrypted on the server's disk.
    pub encrypted: bool,
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
        let silent = silent(&self.address);
        timeout(ANSWER_MAX, self.read_facts()).await.map_err(|_| silent)??;
        Ok(&self.facts)
    }

    async fn read_facts(&mut self) -> Result<(), ServerError> {
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
        Ok(())
    }

    /// What the source does about acknowledgements now. Needs no privilege.
    pub async fn semi_sync(&mut self) -> Result<SemiSyncState, ServerError> {
        let read = timeout(ANSWER_MAX, semi_sync::read(&mut self.conn)).await.map_err(|_| silent(&self.address))?;
        read.map_err(|error| self.error(error, "read the state of semi-sync"))
    }

    /// The source's binlogs, oldest first. Needs REPLICATION CLIENT.
    pub async fn binlog_files(&mut self) -> Result<Vec<BinlogFile>, ServerError> {
        let statement = "SHOW BINARY LOGS";
        let read = timeout(ANSWER_MAX, self.conn.query(statement)).await.map_err(|_| silent(&self.address))?;
        let rows: Vec<(String, u64, String)> = read.map_err(|error| self.error(error, statement))?;
        let file = |(name, size, encrypted): (String, u64, String)| match name.parse() {
            Ok(name) => Ok(BinlogFile { name, size, encrypted: encrypted.eq_ignore_ascii_case("yes") }),
            Err(error) => Err(ServerError::Protocol { address: self.address.clone(), what: format!("{error}") }),
        };
        rows.into_iter().map(file).collect()
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

/// A server that took the question and has no answer.
fn silent(address: &str) -> ServerError {
    ServerError::Silent { address: address.to_owned(), seconds: ANSWER_MAX.as_secs() }
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
