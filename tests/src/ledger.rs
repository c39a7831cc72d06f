//! Clients that write down what they saw committed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};

use crate::mysql::MysqlServer;

/// How long a client waits before it tries a server again that is not there.
const RECONNECT: Duration = Duration::from_millis(20);

/// How long a test waits for clients to get on.
const PROGRESS_LIMIT: Duration = Duration::from_secs(90);

/// Client connections that insert entries, each with a text of its own (a *marker*) that stands in the binlog as it is.
/// After a commit returned, and only then, the marker counts as seen committed.
#[derive(Debug)]
pub struct Ledger {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeSet<String>>>,
    failures: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// What one client needs.
struct Client {
    socket: PathBuf,
    writer: usize,
    rest: Duration,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<BTreeSet<String>>>,
    failures: Arc<AtomicU64>,
}

impl Ledger {
    /// Creates the table.
    pub fn create(server: &MysqlServer) -> Result<()> {
        server.sql(
            "CREATE DATABASE ledger;
             CREATE TABLE ledger.entries (
               writer INT NOT NULL, sequence BIGINT NOT NULL, marker VARCHAR(40) NOT NULL, filler VARBINARY(4000) NOT NULL,
               PRIMARY KEY (writer, sequence))",
        )?;
        Ok(())
    }

    /// Starts so many clients, each resting after every transaction.
    pub fn start(server: &MysqlServer, writers: usize, rest: Duration) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
        let failures = Arc::new(AtomicU64::new(0));
        let threads = (0..writers)
            .map(|writer| {
                let client = Client {
                    socket: server.socket(),
                    writer,
                    rest,
                    stop: Arc::clone(&stop),
                    seen: Arc::clone(&seen),
                    failures: Arc::clone(&failures),
                };
                thread::spawn(move || client.run())
            })
            .collect();
        Self { stop, seen, failures, threads }
    }

    /// Markers of the entries whose commit returned to the client, so far.
    #[must_use]
    pub fn seen_committed(&self) -> BTreeSet<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many there are.
    #[must_use]
    pub fn committed(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Transactions whose outcome no client knows, and connections that failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Waits for so many more commits.
    pub fn wait_for(&self, more: usize) -> Result<()> {
        let (started, goal) = (Instant::now(), self.committed() + more);
        while self.committed() < goal {
            let missing = goal - self.committed();
            ensure!(
                started.elapsed() < PROGRESS_LIMIT,
                "{missing} of {more} commits did not come in {PROGRESS_LIMIT:?}"
            );
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Ends it, when every client has its answer; returns what was seen committed.
    pub fn stop(mut self) -> Result<BTreeSet<String>> {
        self.stop.store(true, Ordering::Relaxed);
        let started = Instant::now();
        for thread in self.threads.drain(..) {
            while !thread.is_finished() {
                ensure!(started.elapsed() < PROGRESS_LIMIT, "a client waits for its commit for {PROGRESS_LIMIT:?}");
                thread::sleep(Duration::from_millis(2));
            }
            let _ = thread.join();
        }
        Ok(self.seen_committed())
    }

    /// The entries that a server has.
    pub fn rows(server: &MysqlServer) -> Result<BTreeSet<String>> {
        Ok(server.sql("SELECT marker FROM ledger.entries")?.lines().map(str::to_owned).collect())
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // A client may wait for a commit that never ends: it is not waited for.
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Client {
    fn run(self) {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let mut connection = None;
            let mut sequence = 0u64;
            while !self.stop.load(Ordering::Relaxed) {
                let Some(open) = &mut connection else {
                    connection = self.connect().await;
                    continue;
                };
                // An entry whose outcome is unknown is never tried again: it may be there.
                sequence += 1;
                match self.insert(open, sequence).await {
                    Ok(marker) => {
                        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(marker);
                        if !self.rest.is_zero() {
                            tokio::time::sleep(self.rest).await;
                        }
                    }
                    Err(_) => {
                        self.failures.fetch_add(1, Ordering::Relaxed);
                        connection = None;
                    }
                }
            }
        });
    }

    async fn connect(&self) -> Option<Conn> {
        let options = OptsBuilder::default().socket(Some(self.socket.display().to_string())).user(Some("root"));
        let connection = Conn::new(options).await.ok();
        if connection.is_none() {
            tokio::time::sleep(RECONNECT).await;
        }
        connection
    }

    async fn insert(&self, connection: &mut Conn, sequence: u64) -> Result<String, mysql_async::Error> {
        let writer = self.writer;
        let marker = format!("<entry.{writer}.{sequence:08}>");
        // Every size class of event, and now and then a transaction of several.
        let filler = (sequence * 37 + writer as u64 * 11) % 1500;
        let rows = if sequence.is_multiple_of(7) { 3 } else { 1 };
        if rows > 1 {
            connection.query_drop("BEGIN").await?;
        }
        for row in 1..rows {
            connection
                .query_drop(format!(
                    "INSERT INTO ledger.entries VALUES ({writer}, -{}, '', REPEAT('f', {filler}))",
                    sequence * 10 + row
                ))
                .await?;
        }
        connection
            .query_drop(format!(
                "INSERT INTO ledger.entries VALUES ({writer}, {sequence}, '{marker}', REPEAT('e', {filler}))"
            ))
            .await?;
        if rows > 1 {
            connection.query_drop("COMMIT").await?;
        }
        Ok(marker)
    }
}
