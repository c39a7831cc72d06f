//! A client that keeps writing to a server while a test does other things.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use mysql_async::{Conn, OptsBuilder};

use crate::mysql::MysqlServer;
use crate::workload::Workload;

/// A thread that runs the workload's transactions on a server until it is stopped.
#[derive(Debug)]
pub struct Writer {
    stop: Arc<AtomicBool>,
    gate: Arc<Mutex<()>>,
    transactions: Arc<AtomicU64>,
    failure: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Writer {
    /// Starts writing the sequence of a seed, with a rest after each transaction.
    pub fn start(server: &MysqlServer, seed: u64, rest: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let gate = Arc::new(Mutex::new(()));
        let transactions = Arc::new(AtomicU64::new(0));
        let options = OptsBuilder::default().socket(Some(server.socket().display().to_string())).user(Some("root"));
        let (stopped, door, counter) = (Arc::clone(&stop), Arc::clone(&gate), Arc::clone(&transactions));
        let failure = Arc::new(Mutex::new(None));
        let told = Arc::clone(&failure);
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let mut connection = runtime.block_on(Conn::new(options))?;
            let mut workload = Workload::new(seed);
            while !stopped.load(Ordering::Relaxed) {
                {
                    let _open = door.lock().unwrap_or_else(PoisonError::into_inner);
                    runtime.block_on(workload.step(&mut connection))?;
                }
                counter.fetch_add(1, Ordering::Relaxed);
                thread::sleep(rest);
            }
            runtime.block_on(connection.disconnect())?;
            Ok(workload.steps())
        };
        let thread = thread::spawn(move || {
            let outcome: Result<u64> = work();
            if let Err(error) = &outcome {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{error:#}"));
            }
            outcome
        });
        Ok(Self { stop, gate, transactions, failure, thread: Some(thread) })
    }

    /// Keeps it between two transactions while the guard lives.
    pub fn pause(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Transactions so far.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Waits for so many more transactions.
    pub fn wait_for(&self, more: u64) -> Result<()> {
        let (started, goal) = (Instant::now(), self.transactions() + more);
        while self.transactions() < goal {
            let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
            anyhow::ensure!(failure.is_none(), "the writer ended: {}", failure.unwrap_or_default());
            anyhow::ensure!(started.elapsed() < Duration::from_secs(120), "the writer is stuck");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends it and returns how many transactions it tried, or the error that ended it.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the writer was stopped")?;
        thread.join().map_err(|_| anyhow!("the writer panicked"))?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
