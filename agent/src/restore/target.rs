//! The connection to the target that lives as long as the restore.

use mysql_async::prelude::{FromRow, Queryable};

use highwater_binlog::GtidSet;

use crate::server::ServerLogin;
use crate::source::{ServerError, ServerFacts, ServerVersion, Session};

/// The control connection: nothing it does is written to the target's binlog.
///
/// It is opened before the dump's accounts are loaded and kept to the end, since those may change the password of the
/// very account that we log in with.
#[derive(Debug)]
pub(crate) struct Target {
    session: Session,
}

impl Target {
    pub(crate) async fn connect(login: &ServerLogin) -> Result<Self, ServerError> {
        let mut target = Self { session: Session::connect(login).await? };
        // One day: the longest that a dump may load while this connection is silent.
        target.run("SET SESSION wait_timeout = 86400, interactive_timeout = 86400", "keep the connection").await?;
        target.run("SET NAMES utf8mb4", "set the character set").await?;
        target.run("SET SESSION time_zone = '+00:00', sql_mode = ''", "set the session's modes").await?;
        Ok(target)
    }

    /// From now on nothing of this connection is logged. A part of the preflight: it needs a privilege.
    pub(crate) async fn stop_logging(&mut self) -> Result<(), ServerError> {
        self.run("SET SESSION sql_log_bin = 0", "SET sql_log_bin").await
    }

    pub(crate) fn facts(&self) -> &ServerFacts {
        self.session.facts()
    }

    pub(crate) fn version(&self) -> ServerVersion {
        self.session.facts().version
    }

    /// The account that the server took us for: `'root'@'localhost'`.
    pub(crate) fn account(&self) -> &str {
        self.session.account()
    }

    pub(crate) fn conn(&mut self) -> &mut mysql_async::Conn {
        self.session.conn()
    }

    /// Runs a statement without result. `what` names it in errors, without values.
    pub(crate) async fn run(&mut self, sql: &str, what: &str) -> Result<(), ServerError> {
        let result = self.session.conn().query_drop(sql).await;
        result.map_err(|error| self.session.error(error, what))
    }

    /// All rows of a query.
    pub(crate) async fn rows<T>(&mut self, sql: &str, what: &str) -> Result<Vec<T>, ServerError>
    where
        T: FromRow + Send + 'static,
    {
        let result = self.session.conn().query(sql).await;
        result.map_err(|error| self.session.error(error, what))
    }

    /// The first row of a query, if any.
    pub(crate) async fn row<T>(&mut self, sql: &str, what: &str) -> Result<Option<T>, ServerError>
    where
        T: FromRow + Send + 'static,
    {
        Ok(self.rows(sql, what).await?.into_iter().next())
    }

    /// A global variable's text; `None` when this version does not have it.
    pub(crate) async fn variable(&mut self, name: &str) -> Result<Option<String>, ServerError> {
        // SHOW VARIABLES LIKE takes a pattern: `_` would match any character.
        let sql = format!("SHOW GLOBAL VARIABLES WHERE Variable_name = '{name}'");
        let row: Option<(String, String)> = self.row(&sql, "read a variable").await?;
        Ok(row.map(|(_, value)| value))
    }

    /// `@@GLOBAL.gtid_executed`
    pub(crate) async fn gtid_executed(&mut self) -> Result<GtidSet, ServerError> {
        let row: Option<String> = self.row("SELECT @@GLOBAL.gtid_executed", "read gtid_executed").await?;
        let text = row.unwrap_or_default();
        text.parse().map_err(|_| ServerError::Protocol { address: String::new(), what: "gtid_executed".to_owned() })
    }

    pub(crate) async fn close(self) {
        self.session.close().await;
    }
}

/// A string literal, correct whatever `sql_mode` says: hexadecimal.
pub(crate) fn literal(text: &str) -> String {
    if text.is_empty() { "''".to_owned() } else { format!("CONVERT(0x{} USING utf8mb4)", hex::encode(text)) }
}

/// A string in single quotes, for statements that take no expression. The connection's `sql_mode` is empty, so that a
/// backslash escapes.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A name in backticks.
pub(crate) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
