//! Writes binlog: a mixed workload, made inside of the source.

use std::fmt::Write as _;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, ensure};
use highwater_tests::MysqlServer;

/// Clients that write at the same time.
const CLIENTS: u64 = 4;

/// Texts that rows are made of: more than zstd's window holds, so that rows compress like rows and not like copies.
const TEXTS: u64 = 40_000;

const WORDS: [&str; 48] = [
    "order", "harbour", "ship", "blue", "window", "paper", "seven", "market", "copper", "river", "engine", "winter",
    "yellow", "garden", "invoice", "pallet", "customer", "north", "delivery", "return", "refund", "bridge", "evening",
    "carton", "weight", "glass", "signal", "museum", "letter", "account", "summer", "timber", "crate", "island",
    "forward", "silver", "option", "number", "granite", "village", "station", "canvas", "pepper", "quarter", "lantern",
    "meadow", "anchor", "voyage",
];

const SCHEMA: &str = "
CREATE DATABASE bench;
CREATE TABLE bench.texts (id INT PRIMARY KEY, text VARCHAR(600) NOT NULL);
CREATE TABLE bench.orders (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, customer INT NOT NULL, code CHAR(36) NOT NULL,
  price DECIMAL(12, 2) NOT NULL, placed DATETIME(6) NOT NULL, token VARBINARY(28) NOT NULL,
  note VARCHAR(600) NOT NULL, facts JSON NOT NULL
);
DELIMITER //
CREATE PROCEDURE bench.insert_orders(IN amount INT)
BEGIN
  SET @first = FLOOR(RAND() * ({TEXTS} - amount));
  INSERT INTO bench.orders (customer, code, price, placed, token, note, facts)
    SELECT FLOOR(RAND() * 1000000), UUID(), RAND() * 1000, NOW(6), UNHEX(SHA2(RAND(), 224)), text,
      JSON_OBJECT('state', ELT(1 + FLOOR(RAND() * 3), 'new', 'paid', 'sent'), 'visits', FLOOR(RAND() * 100))
    FROM bench.texts WHERE id >= @first AND id < @first + amount;
END//
CREATE PROCEDURE bench.write_some(IN transactions INT)
BEGIN
  DECLARE CONTINUE HANDLER FOR 1213, 1205 BEGIN END;
  WHILE transactions > 0 DO
    SET transactions = transactions - 1, @kind = RAND();
    CASE
      WHEN @kind < 0.6 THEN CALL bench.insert_orders(1 + FLOOR(RAND() * 3));
      WHEN @kind < 0.8 THEN
        SET @id = (SELECT MAX(id) FROM bench.orders) * RAND();
        UPDATE bench.orders SET price = price + 1, placed = NOW(6) WHERE id BETWEEN @id AND @id + 4;
      WHEN @kind < 0.9 THEN
        SET @id = (SELECT MAX(id) FROM bench.orders) * RAND();
        DELETE FROM bench.orders WHERE id BETWEEN @id AND @id + 2;
      ELSE CALL bench.insert_orders(200);
    END CASE;
  END WHILE;
END//
DELIMITER ;
";

/// A binlog to fetch.
#[derive(Debug)]
pub(crate) struct Backlog {
    /// The closed binlogs, oldest first.
    pub(crate) binlogs: Vec<String>,
    /// Bytes of each, as the stream has them.
    pub(crate) sizes: Vec<u64>,
    /// Transactions in them.
    pub(crate) transactions: u64,
}

impl Backlog {
    /// Bytes of all binlogs.
    pub(crate) fn bytes(&self) -> u64 {
        self.sizes.iter().sum()
    }
}

/// A source that is quick to fill.
pub(crate) fn source() -> Result<MysqlServer> {
    MysqlServer::builder()
        .option("--sync-binlog=0")
        .option("--innodb-flush-log-at-trx-commit=0")
        .option("--innodb-buffer-pool-size=512M")
        .option("--innodb-redo-log-capacity=512M")
        .option("--max-binlog-size=256M")
        .option("--transaction-isolation=READ-COMMITTED")
        .start()
}

/// Writes this many bytes of binlog, then drops the tables, so that the first dump of an agent is next to nothing.
pub(crate) fn fill(source: &MysqlServer, megabytes: u64) -> Result<Backlog> {
    source.sql(&SCHEMA.replace("{TEXTS}", &TEXTS.to_string()))?;
    source.sql(&texts())?;
    source.sql("CALL bench.insert_orders(200)")?;
    thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| write_until(source, megabytes * 1_000_000))).collect();
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
    })?;
    source.sql("DROP DATABASE bench; FLUSH BINARY LOGS")?;
    closed_binlogs(source)
}

/// All binlogs but the open one.
pub(crate) fn closed_binlogs(source: &MysqlServer) -> Result<Backlog> {
    let listing = source.sql("SHOW BINARY LOGS")?;
    let mut backlog = Backlog { binlogs: Vec::new(), sizes: Vec::new(), transactions: 0 };
    for line in listing.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, size, encrypted] = fields.as_slice() else { anyhow::bail!("SHOW BINARY LOGS says {line:?}") };
        ensure!(*encrypted == "Yes", "{name} is not encrypted");
        backlog.binlogs.push((*name).to_owned());
        // An encrypted file has a header of 512 bytes that is not in the stream.
        backlog.sizes.push(size.parse::<u64>()?.saturating_sub(512));
    }
    backlog.binlogs.pop();
    backlog.sizes.pop();
    let executed = source.gtid_executed()?;
    let last = executed.rsplit(['-', ':']).next().context("no transaction")?;
    backlog.transactions = last.parse().with_context(|| format!("gtid_executed is {executed}"))?;
    Ok(backlog)
}

fn write_until(source: &MysqlServer, bytes: u64) -> Result<()> {
    loop {
        source.sql("CALL bench.write_some(300)")?;
        let written: u64 = sizes(&source.data())?;
        if written >= bytes {
            return Ok(());
        }
    }
}

/// Bytes of all binlog files on the disk.
fn sizes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("binlog.0")) {
            bytes += entry.metadata()?.len();
        }
    }
    Ok(bytes)
}

/// Statements that fill `bench.texts`, outside of the binlog.
fn texts() -> String {
    let mut random = 88_172_645_463_325_252u64;
    let mut draw = move |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % limit
    };
    let mut statements = String::from("SET sql_log_bin = 0;\n");
    for id in 0..TEXTS {
        statements.push_str(match id % 500 {
            0 => "INSERT INTO bench.texts VALUES ",
            _ => ", ",
        });
        let _ = write!(statements, "({id}, '");
        for _ in 0..15 + draw(25) {
            let word = WORDS.get(draw(48) as usize).copied().unwrap_or_default();
            match draw(6) {
                0 => drop(write!(statements, "{word} {} ", draw(100_000))),
                _ => drop(write!(statements, "{word} ")),
            }
        }
        statements.push_str("')");
        if id % 500 == 499 {
            statements.push_str(";\n");
        }
    }
    statements.push_str(";\n");
    statements
}
