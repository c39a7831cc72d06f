//! Which schemas and tables a dump has.

use mysql_async::Conn;

use super::error::DumpError;
use super::quote;
use super::session::records;

/// Schemas that belong to the server. What people keep in them is not dumped.
const OWN_SCHEMAS: &[&str] = &["information_schema", "mysql", "ndbinfo", "performance_schema", "sys"];

/// How many tables an error names.
const NAMED_TABLES_MAX: usize = 20;

/// A base table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    /// Its schema.
    pub(super) schema: String,
    /// Its name.
    pub(super) name: String,
    /// Its engine, as `information_schema` says it; empty when the server cannot open the table.
    pub(super) engine: String,
}

impl Table {
    /// The name as SQL writes it.
    pub(super) fn quoted(&self) -> String {
        quote::qualified(&self.schema, &self.name)
    }
}

/// Everything that is dumped, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// Schemas, sorted.
    pub(super) schemas: Vec<String>,
    /// Base tables, sorted by schema and name.
    pub(super) tables: Vec<Table>,
    /// Engines with transactions.
    transactional: Vec<String>,
}

impl Scope {
    /// Asks the server.
    pub(super) async fn read(conn: &mut Conn) -> Result<Self, DumpError> {
        let own: Vec<String> = OWN_SCHEMAS.iter().map(|name| quote::text(name)).collect();
        let own = own.join(", ");
        let schemas = records(
            conn,
            "list schemas",
            format!("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE LOWER(SCHEMA_NAME) NOT IN ({own})"),
        )
        .await?;
        let tables = records(
            conn,
            "list tables",
            format!(
                "SELECT TABLE_SCHEMA, TABLE_NAME, ENGINE FROM information_schema.TABLES \
                 WHERE TABLE_TYPE = 'BASE TABLE' AND LOWER(TABLE_SCHEMA) NOT IN ({own})"
            ),
        )
        .await?;
        let engines = records(
            conn,
            "list engines",
            "SELECT ENGINE FROM information_schema.ENGINES WHERE TRANSACTIONS = 'YES'".to_owned(),
        )
        .await?;
        let mut scope = Self {
            schemas: schemas.iter().map(|row| row.text_at(0)).collect::<Result<_, _>>()?,
            tables: tables
                .iter()
                .map(|row| {
                    let engine = if row.bytes_at(2).is_some() { row.text_at(2)? } else { String::new() };
                    Ok(Table { schema: row.text_at(0)?, name: row.text_at(1)?, engine })
                })
                .collect::<Result<_, DumpError>>()?,
            transactional: engines.iter().map(|row| row.text_at(0)).collect::<Result<_, _>>()?,
        };
        scope.schemas.sort();
        scope.tables.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
        Ok(scope)
    }

    /// Tables with rows of their own that no consistent snapshot covers.
    pub(super) fn non_transactional(&self) -> Vec<&Table> {
        self.tables.iter().filter(|table| !self.is_snapshotted(table) && has_rows(table)).collect()
    }

    /// Tables whose rows are read in the snapshot.
    pub(super) fn snapshotted(&self) -> Vec<&Table> {
        self.tables.iter().filter(|table| self.is_snapshotted(table)).collect()
    }

    fn is_snapshotted(&self, table: &Table) -> bool {
        self.transactional.iter().any(|engine| engine.eq_ignore_ascii_case(&table.engine))
    }

    /// Refuses tables that a snapshot does not cover, unless that is allowed.
    pub(super) fn check_engines(&self, allowed: bool) -> Result<(), DumpError> {
        let tables = self.non_transactional();
        if allowed || tables.is_empty() {
            return Ok(());
        }
        let mut named: Vec<String> = tables
            .iter()
            .take(NAMED_TABLES_MAX)
            .map(|table| format!("{}.{} ({})", table.schema, table.name, table.engine))
            .collect();
        if tables.len() > NAMED_TABLES_MAX {
            named.push(format!("and {} more", tables.len() - NAMED_TABLES_MAX));
        }
        Err(DumpError::NonTransactional { tables: named })
    }
}

/// `BLACKHOLE` keeps none; a `MRG_MYISAM` table shows those of others, which are dumped themselves.
fn has_rows(table: &Table) -> bool {
    !["BLACKHOLE", "MRG_MYISAM"].iter().any(|engine| engine.eq_ignore_ascii_case(&table.engine))
}

/// Transactions that are prepared under XA and have not been decided.
pub(super) async fn prepared_xa(conn: &mut Conn) -> Result<usize, DumpError> {
    Ok(records(conn, "XA RECOVER", "XA RECOVER".to_owned()).await?.len())
}
