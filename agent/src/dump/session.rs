//! How a connection must be set so that what is read and written means the same on both sides.

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};

use super::error::DumpError;

/// For the reading side: statements in UTF-8, answers as the bytes the server has, times in UTC, no limits but one: locks of a
/// dump that is gone without a word, or whose store takes nothing, end with its connections in an hour.
const READER: &[&str] = &[
    "SET NAMES utf8mb4",
    "SET SESSION character_set_results = NULL, sql_mode = '', time_zone = '+00:00', sql_quote_show_create = 1, \
     sql_select_limit = 18446744073709551615, sql_big_selects = 1, autocommit = 1, max_execution_time = 0, \
     lc_messages = 'en_US', net_write_timeout = 3600, net_read_timeout = 3600, wait_timeout = 3600, \
     transaction_isolation = 'REPEATABLE-READ'",
];

/// Variables that not every version has, or not every account may set.
const READER_WHERE_KNOWN: &[&str] = &[
    "SET SESSION show_gipk_in_create_table_and_information_schema = ON",
    "SET SESSION print_identified_with_as_hex = ON",
    "SET SESSION show_create_table_verbosity = OFF",
    "SET SESSION show_create_table_skip_secondary_engine = OFF",
    "SET SESSION use_secondary_engine = OFF",
];

/// For the loading side; statement files set the rest (character set, `sql_mode`) themselves.
const LOADER: &[&str] = &[
    "SET NAMES utf8mb4",
    "SET SESSION sql_log_bin = 0, foreign_key_checks = 0, unique_checks = 0, time_zone = '+00:00', \
     sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES', lc_messages = 'en_US', max_error_count = 65535, \
     autocommit = 1, max_execution_time = 0, net_read_timeout = 86400, net_write_timeout = 86400, \
     wait_timeout = 604800, innodb_strict_mode = 0, explicit_defaults_for_timestamp = 1, \
     default_table_encryption = 0",
];

const LOADER_WHERE_KNOWN: &[&str] = &[
    "SET SESSION sql_generate_invisible_primary_key = OFF",
    "SET SESSION sql_require_primary_key = OFF",
    "SET SESSION restrict_fk_on_non_standard_key = OFF",
    "SET SESSION show_gipk_in_create_table_and_information_schema = ON",
];

/// `ER_UNKNOWN_SYSTEM_VARIABLE`
const UNKNOWN_VARIABLE: u16 = 1193;
/// `ER_SPECIFIC_ACCESS_DENIED_ERROR`
const ACCESS_DENIED: u16 = 1227;

/// Sets a connection up for reading a dump.
pub(super) async fn prepare_reader(conn: &mut Conn) -> Result<(), mysql_async::Error> {
    prepare(conn, READER, READER_WHERE_KNOWN).await
}

/// Sets a connection up for loading a dump.
pub(super) async fn prepare_loader(conn: &mut Conn) -> Result<(), mysql_async::Error> {
    prepare(conn, LOADER, LOADER_WHERE_KNOWN).await
}

async fn prepare(conn: &mut Conn, always: &[&str], where_known: &[&str]) -> Result<(), mysql_async::Error> {
    for statement in always {
        conn.query_drop(*statement).await?;
    }
    for statement in where_known {
        match conn.query_drop(*statement).await {
            Err(mysql_async::Error::Server(err)) if matches!(err.code, UNKNOWN_VARIABLE | ACCESS_DENIED) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Names what was being done when the server refused.
pub(super) trait Doing<T> {
    /// Wraps the driver's error.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, DumpError>;
}

impl<T> Doing<T> for Result<T, mysql_async::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, DumpError> {
        self.map_err(|source| DumpError::Server { doing: what(), source })
    }
}

/// A row as bytes.
#[derive(Debug)]
pub(super) struct Record {
    statement: &'static str,
    columns: Vec<String>,
    values: Vec<Option<Vec<u8>>>,
}

impl Record {
    fn new(statement: &'static str, row: Row) -> Result<Self, DumpError> {
        let columns = row.columns_ref().iter().map(|column| column.name_str().into_owned()).collect();
        let values = row
            .unwrap()
            .into_iter()
            .map(|value| match value {
                Value::NULL => Ok(None),
                Value::Bytes(bytes) => Ok(Some(bytes)),
                _ => Err(DumpError::Answer { statement, what: "a value of the binary protocol".to_owned() }),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { statement, columns, values })
    }

    /// The value in a column given by number from 0; `NULL` is absent.
    pub(super) fn bytes_at(&self, column: usize) -> Option<&[u8]> {
        self.values.get(column).and_then(Option::as_deref)
    }

    /// The value in a named column; `NULL` or no such column is absent.
    pub(super) fn bytes(&self, column: &str) -> Option<&[u8]> {
        let at = self.columns.iter().position(|name| name.eq_ignore_ascii_case(column))?;
        self.bytes_at(at)
    }

    /// The value in a named column, which must be there.
    pub(super) fn required(&self, column: &str) -> Result<&[u8], DumpError> {
        self.bytes(column).ok_or_else(|| DumpError::Answer {
            statement: self.statement,
            what: format!("no value in column {column}"),
        })
    }

    /// The text in a column given by number from 0.
    pub(super) fn text_at(&self, column: usize) -> Result<String, DumpError> {
        self.read_text(self.bytes_at(column), || format!("column {}", column + 1))
    }

    /// The text in a named column, which must be there.
    pub(super) fn text(&self, column: &str) -> Result<String, DumpError> {
        self.read_text(self.bytes(column), || format!("column {column}"))
    }

    fn read_text(&self, bytes: Option<&[u8]>, column: impl Fn() -> String) -> Result<String, DumpError> {
        let odd = |what: String| DumpError::Answer { statement: self.statement, what };
        let bytes = bytes.ok_or_else(|| odd(format!("no value in {}", column())))?;
        String::from_utf8(bytes.to_vec()).map_err(|_| odd(format!("{} is not UTF-8", column())))
    }
}

/// All rows of a small answer. `what` names the statement in errors, without names or texts of the server.
pub(super) async fn records(conn: &mut Conn, what: &'static str, sql: String) -> Result<Vec<Record>, DumpError> {
    let rows: Vec<Row> = conn.query(sql).await.doing(|| what.to_owned())?;
    rows.into_iter().map(|row| Record::new(what, row)).collect()
}

/// The only row of an answer.
pub(super) async fn record(conn: &mut Conn, what: &'static str, sql: String) -> Result<Record, DumpError> {
    let none = || DumpError::Answer { statement: what, what: "no row".to_owned() };
    records(conn, what, sql).await?.into_iter().next().ok_or_else(none)
}

/// Runs a statement whose answer does not matter.
pub(super) async fn run(conn: &mut Conn, sql: &str) -> Result<(), DumpError> {
    conn.query_drop(sql).await.doing(|| sql.to_owned())
}

/// The server's error number, if it was the server that refused.
pub(super) fn error_code(error: &mysql_async::Error) -> Option<u16> {
    match error {
        mysql_async::Error::Server(server) => Some(server.code),
        _ => None,
    }
}
