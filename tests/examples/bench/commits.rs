//! Clients that commit small transactions at a steady rate.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use highwater_tests::MysqlServer;
use mysql_async::prelude::Queryable;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

/// Connections that share the rate.
const CONNECTIONS: u64 = 16;

const SCHEMA: &str = "
CREATE DATABASE IF NOT EXISTS bench;
CREATE TABLE IF NOT EXISTS bench.commits (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, client INT NOT NULL, number BIGINT NOT NULL, note VARCHAR(200) NOT NULL
);
";

/// What the clients saw.
#[derive(Debug)]
pub(crate) struct Commits {
    /// Milliseconds from sending each INSERT, which commits by itself, to its OK.
    pub(crate) milliseconds: Vec<f64>,
    /// Committed transactions a second.
    pub(crate) rate: f64,
}

/// Creates the table, unless it is there.
pub(crate) fn prepare(source: &MysqlServer) -> Result<()> {
    source.sql(SCHEMA)?;
    Ok(())
}

/// Commits `rate` transactions a second for so many seconds.
pub(crate) fn run(source: &MysqlServer, rate: u64, seconds: u64) -> Result<Commits> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(source.connect().await?);
        }
        let pause = Duration::from_secs_f64(CONNECTIONS as f64 / rate as f64);
        let started = Instant::now();
        let end = started + Duration::from_secs(seconds);
        let mut clients = JoinSet::new();
        for (client, mut connection) in connections.into_iter().enumerate() {
            let mut due = started + pause.mul_f64(client as f64 / CONNECTIONS as f64);
            clients.spawn(async move {
                let mut milliseconds = Vec::new();
                let statement =
                    connection.prep("INSERT INTO bench.commits (client, number, note) VALUES (?, ?, ?)").await?;
                while due < end {
                    sleep_until(due.into()).await;
                    let sent = Instant::now();
                    let row = (client, milliseconds.len(), "a note of some length, as rows have one; nothing special");
                    connection.exec_drop(&statement, row).await?;
                    milliseconds.push(sent.elapsed().as_secs_f64() * 1e3);
                    // A client that fell behind goes on at once, and does not try to make up for it.
                    due = (due + pause).max(sent);
                }
                connection.disconnect().await?;
                anyhow::Ok(milliseconds)
            });
        }
        let mut milliseconds = Vec::new();
        while let Some(client) = clients.join_next().await {
            milliseconds.extend(client.context("a client panicked")??);
        }
        let rate = milliseconds.len() as f64 / started.elapsed().as_secs_f64();
        Ok(Commits { milliseconds, rate })
    })
}
