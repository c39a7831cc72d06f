//! A small business to back up: every kind of object a schema can hold, and a sum that never changes.

use anyhow::{Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::mysql::MysqlServer;

/// Sum of all balances in `bank`, whatever is transferred.
pub const TOTAL_BALANCE: i64 = 100_000;

const SCHEMA: &str = r#"
CREATE DATABASE shop CHARACTER SET utf8mb4;
CREATE DATABASE bank;
CREATE DATABASE `audit-log` CHARACTER SET latin1;

CREATE TABLE shop.customers (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(80) NOT NULL,
  profile JSON,
  city VARCHAR(40) GENERATED ALWAYS AS (profile->>'$.city') VIRTUAL,
  joined TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  UNIQUE KEY name_key (name),
  KEY city_key (city)
);
CREATE TABLE shop.orders (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  customer INT UNSIGNED NOT NULL,
  state ENUM('new', 'paid', 'sent') NOT NULL DEFAULT 'new',
  placed DATETIME(3) NOT NULL,
  weight FLOAT,
  CONSTRAINT orders_customer FOREIGN KEY (customer) REFERENCES shop.customers (id) ON DELETE CASCADE
);
CREATE TABLE shop.items (
  `order` BIGINT NOT NULL,
  line SMALLINT NOT NULL,
  price DECIMAL(12, 2) NOT NULL,
  amount INT NOT NULL,
  total DECIMAL(14, 2) GENERATED ALWAYS AS (price * amount) STORED,
  PRIMARY KEY (`order`, line),
  CONSTRAINT items_order FOREIGN KEY (`order`) REFERENCES shop.orders (id) ON DELETE CASCADE
);
CREATE TABLE shop.order_count (customer INT UNSIGNED PRIMARY KEY, orders INT NOT NULL);
CREATE VIEW shop.totals AS
  SELECT o.id, o.customer, SUM(i.total) AS total FROM shop.orders o JOIN shop.items i ON i.`order` = o.id GROUP BY o.id;
CREATE VIEW shop.best AS SELECT customer, MAX(total) AS best FROM shop.totals GROUP BY customer;

CREATE TABLE bank.accounts (
  id INT PRIMARY KEY, owner VARBINARY(16) NOT NULL, balance BIGINT NOT NULL, CHECK (balance >= 0)
);
CREATE TABLE bank.transfers (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, source INT NOT NULL, target INT NOT NULL, amount BIGINT NOT NULL,
  CONSTRAINT transfer_source FOREIGN KEY (source) REFERENCES bank.accounts (id),
  CONSTRAINT transfer_target FOREIGN KEY (target) REFERENCES bank.accounts (id)
);

CREATE TABLE `audit-log`.entries (
  at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, who VARCHAR(80), what BLOB, flags BIT(12), place POINT
);
CREATE TABLE `audit-log`.months (
  id BIGINT NOT NULL, month TINYINT NOT NULL, note TEXT, PRIMARY KEY (id, month)
) PARTITION BY LIST (month) (PARTITION early VALUES IN (1, 2, 3, 4, 5, 6), PARTITION late VALUES IN (7, 8, 9, 10, 11, 12));

DELIMITER //
CREATE TRIGGER shop.count_orders AFTER INSERT ON shop.orders FOR EACH ROW
BEGIN
  INSERT INTO shop.order_count VALUES (NEW.customer, 1) ON DUPLICATE KEY UPDATE orders = orders + 1;
END//
CREATE PROCEDURE bank.transfer(IN from_id INT, IN to_id INT, IN transferred BIGINT)
BEGIN
  START TRANSACTION;
  UPDATE bank.accounts SET balance = balance - transferred WHERE id = from_id;
  UPDATE bank.accounts SET balance = balance + transferred WHERE id = to_id;
  INSERT INTO bank.transfers (source, target, amount) VALUES (from_id, to_id, transferred);
  COMMIT;
END//
CREATE FUNCTION bank.worth(account INT) RETURNS BIGINT READS SQL DATA
BEGIN
  RETURN (SELECT balance FROM bank.accounts WHERE id = account);
END//
CREATE EVENT `audit-log`.trim_entries ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 03:00:00' DO
  DELETE FROM `audit-log`.entries WHERE at < NOW() - INTERVAL 1 YEAR//
CREATE EVENT bank.paused ON SCHEDULE EVERY 1 HOUR STARTS '2030-01-01 00:00:00' DISABLE COMMENT 'stays off' DO
  DELETE FROM bank.transfers//
DELIMITER ;

CREATE ROLE reader;
GRANT SELECT, SHOW VIEW ON shop.* TO reader;
CREATE USER 'app'@'%' IDENTIFIED BY 'app password' WITH MAX_USER_CONNECTIONS 50 COMMENT 'the shop';
GRANT SELECT, INSERT, UPDATE, DELETE ON shop.* TO 'app'@'%';
GRANT EXECUTE ON PROCEDURE bank.transfer TO 'app'@'%';
GRANT SELECT (id, owner) ON bank.accounts TO 'app'@'%' WITH GRANT OPTION;
CREATE USER 'report'@'localhost' IDENTIFIED BY 'report password' DEFAULT ROLE reader ACCOUNT LOCK;
"#;

/// An event that fires every second: it must stay silent while a restore runs.
const TICKER: &str = "
CREATE TABLE `audit-log`.ticks (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, server INT NOT NULL, at TIMESTAMP(6) NOT NULL);
CREATE EVENT `audit-log`.tick ON SCHEDULE EVERY 1 SECOND DO
  INSERT INTO `audit-log`.ticks (server, at) VALUES (@@server_id, NOW(6));
";

/// Error numbers of the server that belong to a business.
const LOCK_WAIT: u16 = 1205;
const DEADLOCK: u16 = 1213;
const CHECK_VIOLATED: u16 = 3819;

/// How many accounts share the total.
const ACCOUNTS: i64 = 20;
/// How many customers there are before the first order.
const CUSTOMERS: u32 = 30;

/// The schemas `shop`, `bank` and `audit-log`, and the transactions that are run on them.
#[derive(Debug)]
pub struct Workload {
    random: u64,
    steps: u64,
}

impl Workload {
    /// Creates the schemas and accounts on a server, and the first rows.
    pub fn create(server: &MysqlServer) -> Result<()> {
        server.sql(SCHEMA)?;
        let accounts: Vec<String> =
            (1..=ACCOUNTS).map(|id| format!("({id}, X'{id:032x}', {})", TOTAL_BALANCE / ACCOUNTS)).collect();
        let customers: Vec<String> = (1..=CUSTOMERS)
            .map(|id| {
                format!("('Zoë {id} 😀', JSON_OBJECT('city', 'Köln {}', 'tags', JSON_ARRAY(1, 2.5, 'x')))", id % 4)
            })
            .collect();
        server.sql(&format!(
            "INSERT INTO bank.accounts VALUES {};\nINSERT INTO shop.customers (name, profile) VALUES {};",
            accounts.join(", "),
            customers.join(", ")
        ))?;
        Ok(())
    }

    /// Adds an event that writes every second.
    pub fn create_ticker(server: &MysqlServer) -> Result<()> {
        server.sql(TICKER)?;
        Ok(())
    }

    /// The sequence of transactions that a seed gives.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { random: seed | 1, steps: 0 }
    }

    /// Runs the next transaction. One that loses a deadlock is undone and left out, as an application may do.
    pub async fn step(&mut self, connection: &mut Conn) -> Result<()> {
        let outcome = self.run(connection).await;
        let Err(error) = &outcome else { return Ok(()) };
        match error.downcast_ref::<mysql_async::Error>() {
            Some(mysql_async::Error::Server(error)) if matches!(error.code, LOCK_WAIT | DEADLOCK) => {
                Ok(connection.query_drop("ROLLBACK").await?)
            }
            _ => outcome,
        }
    }

    async fn run(&mut self, connection: &mut Conn) -> Result<()> {
        self.steps += 1;
        let (a, b, c) = (self.draw(1000), self.draw(1000), self.draw(1000));
        match self.draw(10) {
            0..=3 => self.place_order(connection, a, b).await,
            4..=6 => {
                let (from, to) = (a % 20 + 1, b % 20 + 1);
                let amount = c % 50;
                let transfer = format!("CALL bank.transfer({from}, {to}, {amount})");
                match connection.query_drop(transfer).await {
                    // An account without enough money: the transfer is undone.
                    Err(mysql_async::Error::Server(error)) if error.code == CHECK_VIOLATED => {
                        Ok(connection.query_drop("ROLLBACK").await?)
                    }
                    other => Ok(other?),
                }
            }
            7 => {
                let customer = a % u64::from(CUSTOMERS) + 1;
                Ok(connection
                    .query_drop(format!("UPDATE shop.customers SET profile = JSON_SET(profile, '$.visits', {}, '$.city', 'Graz {}') WHERE id = {customer}", self.steps, b % 7))
                    .await?)
            }
            8 => Ok(connection
                .query_drop(format!(
                    "INSERT INTO `audit-log`.entries (who, what, flags, place) VALUES ('caf\u{e9} {a}', REPEAT(X'00ff27', {b}), {}, POINT({a}, {c}.5))",
                    c % 4096
                ))
                .await?),
            _ => Ok(connection
                .query_drop(format!(
                    "INSERT INTO `audit-log`.months VALUES ({}, {}, 'a''b\\\\c') ON DUPLICATE KEY UPDATE note = CONCAT(note, '\\n')",
                    a,
                    b % 12 + 1
                ))
                .await?),
        }
    }

    /// How many transactions were run.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// An error unless all balances add up.
    pub fn check_balance(server: &MysqlServer) -> Result<()> {
        let total = server.sql("SELECT SUM(balance) FROM bank.accounts")?;
        ensure!(total == TOTAL_BALANCE.to_string(), "balances add up to {total}, not {TOTAL_BALANCE}");
        Ok(())
    }

    async fn place_order(&mut self, connection: &mut Conn, a: u64, b: u64) -> Result<()> {
        let customer = a % u64::from(CUSTOMERS) + 1;
        connection.query_drop("START TRANSACTION").await?;
        connection
            .query_drop(format!(
                "INSERT INTO shop.orders (customer, placed, weight) VALUES ({customer}, NOW(3), {b} / 7)"
            ))
            .await?;
        let order = connection.last_insert_id().unwrap_or_default();
        for line in 0..=b % 3 {
            connection
                .query_drop(format!(
                    "INSERT INTO shop.items (`order`, line, price, amount) VALUES ({order}, {line}, {a}.{:02}, {})",
                    b % 100,
                    line + 1
                ))
                .await?;
        }
        if b.is_multiple_of(9) {
            connection
                .query_drop(format!("UPDATE shop.orders SET state = 'sent' WHERE id < {order} AND state = 'new'"))
                .await?;
        }
        Ok(connection.query_drop("COMMIT").await?)
    }

    /// A number below `limit` (xorshift64).
    fn draw(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % limit
    }
}
