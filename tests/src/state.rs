//! What a server holds, in a form that two servers can be compared by.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use sha2::{Digest, Sha256};

use crate::mysql::MysqlServer;

/// Schemas that belong to the server itself.
const SYSTEM_SCHEMAS: &str = "('mysql', 'sys', 'information_schema', 'performance_schema')";

/// Everything that must come back: a name for each fact and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    facts: BTreeMap<String, String>,
}

/// One fact in which two servers differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What it is about: `rows of shop.orders`.
    pub fact: String,
    /// The value here, if there is one.
    pub here: Option<String>,
    /// The value there, if there is one.
    pub there: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = || "nothing".to_owned();
        write!(
            f,
            "{}: {} <> {}",
            self.fact,
            self.here.clone().unwrap_or_else(none),
            self.there.clone().unwrap_or_else(none)
        )
    }
}

impl State {
    /// Reads a server's state at one GTID set, while others may write.
    pub async fn read(server: &MysqlServer) -> Result<Self> {
        let mut connection = server.connect().await?;
        let mut reader = Reader { connection: &mut connection, facts: BTreeMap::new() };
        reader.read().await?;
        let facts = reader.facts;
        connection.disconnect().await?;
        Ok(Self { facts })
    }

    /// The same, for callers without a runtime.
    pub fn read_blocking(server: &MysqlServer) -> Result<Self> {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(Self::read(server))
    }

    /// The GTID set of this state.
    #[must_use]
    pub fn gtids(&self) -> &str {
        self.facts.get("gtid_executed").map_or("", String::as_str)
    }

    /// How many tables it has.
    #[must_use]
    pub fn tables(&self) -> usize {
        self.count("rows of ")
    }

    /// How many accounts it has.
    #[must_use]
    pub fn accounts(&self) -> usize {
        self.count("account ")
    }

    /// How many facts it has.
    #[must_use]
    pub fn facts(&self) -> usize {
        self.facts.len()
    }

    /// The names of all facts, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.facts.keys().map(String::as_str)
    }

    /// The value of one fact.
    #[must_use]
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.get(name).map(String::as_str)
    }

    /// Without the facts whose name `drop` picks.
    #[must_use]
    pub fn without(mut self, drop: impl Fn(&str) -> bool) -> Self {
        self.facts.retain(|name, _| !drop(name));
        self
    }

    /// Everything in which `there` is not the same.
    #[must_use]
    pub fn differences(&self, there: &Self) -> Vec<Difference> {
        let names: std::collections::BTreeSet<&String> = self.facts.keys().chain(there.facts.keys()).collect();
        names
            .into_iter()
            .filter(|name| self.facts.get(*name) != there.facts.get(*name))
            .map(|name| Difference {
                fact: name.clone(),
                here: self.facts.get(name).cloned(),
                there: there.facts.get(name).cloned(),
            })
            .collect()
    }

    /// An error that names every difference, if there is one.
    pub fn require_equal(&self, there: &Self) -> Result<()> {
        let differences = self.differences(there);
        let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
        anyhow::ensure!(lines.is_empty(), "{} differences:\n{}", lines.len(), lines.join("\n"));
        Ok(())
    }

    fn count(&self, prefix: &str) -> usize {
        self.facts.keys().filter(|name| name.starts_with(prefix)).count()
    }
}

struct Reader<'a> {
    connection: &'a mut Conn,
    facts: BTreeMap<String, String>,
}

impl Reader<'_> {
    async fn read(&mut self) -> Result<()> {
        for statement in [
            // Values as they are stored, in no client's character set or time zone.
            "SET SESSION time_zone = '+00:00', character_set_results = NULL, print_identified_with_as_hex = ON",
            "FLUSH TABLES WITH READ LOCK",
            "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
            "START TRANSACTION WITH CONSISTENT SNAPSHOT",
        ] {
            self.connection.query_drop(statement).await.context(statement)?;
        }
        let gtids: Vec<u8> = self.one("SELECT @@GLOBAL.gtid_executed").await?;
        self.put("gtid_executed", String::from_utf8_lossy(&gtids).replace('\n', ""));
        let tables = self.definitions().await?;
        self.accounts().await?;
        self.connection.query_drop("UNLOCK TABLES").await?;
        for (schema, table) in tables {
            self.rows(&schema, &table).await?;
        }
        self.connection.query_drop("COMMIT").await?;
        Ok(())
    }

    /// Records how everything was created; returns the base tables.
    async fn definitions(&mut self) -> Result<Vec<(String, String)>> {
        let schemas = self
            .names(&format!(
                "SELECT schema_name, '' FROM information_schema.schemata WHERE schema_name NOT IN {SYSTEM_SCHEMAS}"
            ))
            .await?;
        for (schema, _) in &schemas {
            self.created("schema", "DATABASE", &quoted(schema)).await?;
        }
        let select = |what: &str, from: &str, column: &str| {
            format!("SELECT {column}, {what} FROM information_schema.{from} WHERE {column} NOT IN {SYSTEM_SCHEMAS}")
        };
        let tables = self
            .names(&format!("{} AND table_type = 'BASE TABLE'", select("table_name", "tables", "table_schema")))
            .await?;
        let views = self.names(&select("table_name", "views", "table_schema")).await?;
        let triggers = self.names(&select("trigger_name", "triggers", "trigger_schema")).await?;
        let events = self.names(&select("event_name", "events", "event_schema")).await?;
        for (kind, list) in [("TABLE", &tables), ("VIEW", &views), ("TRIGGER", &triggers), ("EVENT", &events)] {
            for (schema, name) in list {
                self.created(&kind.to_lowercase(), kind, &format!("{}.{}", quoted(schema), quoted(name))).await?;
            }
        }
        for kind in ["PROCEDURE", "FUNCTION"] {
            let routines = self
                .names(&format!("{} AND routine_type = '{kind}'", select("routine_name", "routines", "routine_schema")))
                .await?;
            for (schema, name) in routines {
                self.created(&kind.to_lowercase(), kind, &format!("{}.{}", quoted(&schema), quoted(&name))).await?;
            }
        }
        let order: Vec<(String, String)> = self
            .names(&select(
                "CONCAT(trigger_name, ' ', event_object_table, ' ', action_order)",
                "triggers",
                "trigger_schema",
            ))
            .await?;
        for (schema, name) in order {
            self.put(format!("trigger order {schema} {name}"), String::new());
        }
        Ok(tables)
    }

    async fn created(&mut self, kind: &str, keyword: &str, name: &str) -> Result<()> {
        let query = format!("SHOW CREATE {keyword} {name}");
        let row: Row = self.connection.query_first(query.clone()).await.context(query.clone())?.context(query)?;
        let mut text = String::new();
        for (column, value) in row.columns_ref().iter().zip(row.clone().unwrap()) {
            // A trigger's creation time is its own on each server.
            if column.name_str() != "Created" {
                text.push_str(&show(&value));
                text.push('\n');
            }
        }
        // Rolled back inserts use numbers up, and no log tells of them.
        let text = if kind == "table" { without_auto_increment(&text) } else { text };
        self.put(format!("{kind} {name}"), text);
        Ok(())
    }

    async fn accounts(&mut self) -> Result<()> {
        let accounts = self
            .names("SELECT user, host FROM mysql.user WHERE user NOT IN ('mysql.sys', 'mysql.session', 'mysql.infoschema')")
            .await?;
        for (user, host) in accounts {
            let account = format!("'{}'@'{}'", user.replace('\'', "''"), host);
            let create: Vec<u8> = self.one(&format!("SHOW CREATE USER {account}")).await?;
            let mut grants: Vec<Vec<u8>> = self.connection.query(format!("SHOW GRANTS FOR {account}")).await?;
            grants.sort();
            grants.insert(0, create);
            let text = grants.iter().map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>().join("\n");
            self.put(format!("account {account}"), text);
        }
        Ok(())
    }

    /// Count and order-independent sum of the SHA-256 of every row, over the values the binary protocol sends:
    /// floats and doubles by their bits, text by its stored bytes.
    async fn rows(&mut self, schema: &str, table: &str) -> Result<()> {
        let columns: Vec<Vec<u8>> = self
            .connection
            .exec(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position",
                (schema, table),
            )
            .await?;
        let columns: Vec<String> = columns.iter().map(|name| quoted(&String::from_utf8_lossy(name))).collect();
        let query = format!("SELECT {} FROM {}.{}", columns.join(", "), quoted(schema), quoted(table));
        let mut result = self.connection.exec_iter(query.clone(), ()).await.context(query)?;
        let (mut count, mut sum) = (0u64, [0u8; 32]);
        while let Some(row) = result.next().await? {
            let mut hash = Sha256::new();
            for value in row.unwrap() {
                let bytes = encode(&value);
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(&bytes);
            }
            add(&mut sum, &hash.finalize());
            count += 1;
        }
        self.put(format!("rows of {schema}.{table}"), format!("{count} rows, checksum {}", hex::encode(&sum[..16])));
        Ok(())
    }

    async fn names(&mut self, query: &str) -> Result<Vec<(String, String)>> {
        let rows: Vec<(Vec<u8>, Vec<u8>)> = self.connection.query(query).await.context(query.to_owned())?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let mut names: Vec<_> = rows.into_iter().map(|(a, b)| (text(a), text(b))).collect();
        names.sort();
        Ok(names)
    }

    async fn one(&mut self, query: &str) -> Result<Vec<u8>> {
        self.connection.query_first(query).await.context(query.to_owned())?.context(query.to_owned())
    }

    fn put(&mut self, fact: impl Into<String>, value: impl Into<String>) {
        self.facts.insert(fact.into(), value.into());
    }
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn show(value: &Value) -> String {
    match value {
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    }
}

fn encode(value: &Value) -> Vec<u8> {
    match value {
        Value::NULL => b"N".to_vec(),
        Value::Bytes(bytes) => [b"B".as_slice(), bytes].concat(),
        Value::Float(float) => [b"F".as_slice(), &float.to_bits().to_le_bytes()].concat(),
        Value::Double(double) => [b"D".as_slice(), &double.to_bits().to_le_bytes()].concat(),
        other => format!("O{other:?}").into_bytes(),
    }
}

/// Adds as 256-bit little-endian numbers, dropping the carry out.
fn add(sum: &mut [u8; 32], other: &[u8]) {
    let mut carry = 0u16;
    for (a, b) in sum.iter_mut().zip(other) {
        let total = u16::from(*a) + u16::from(*b) + carry;
        *a = (total & 0xff) as u8;
        carry = total >> 8;
    }
}

fn without_auto_increment(create: &str) -> String {
    let marker = " AUTO_INCREMENT=";
    let Some(start) = create.find(marker) else { return create.to_owned() };
    let digits = create[start + marker.len()..].bytes().take_while(u8::is_ascii_digit).count();
    format!("{}{}", &create[..start], &create[start + marker.len() + digits..])
}
