//! The report's files, written beside capture: each write waits for the disk several times, and commits on the source may be
//! waiting for capture.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use super::AgentReport;
use crate::capture::metrics;
use crate::fsync;

/// A thread that writes the newest report. On drop what is left is written.
#[derive(Debug)]
pub(super) struct ReportFiles {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state_dir: PathBuf,
    next: Mutex<Next>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Next {
    /// What is to be written: only the newest matters.
    report: Option<Box<AgentReport>>,
    ended: bool,
}

impl ReportFiles {
    /// In a state folder.
    pub(super) fn new(state_dir: &Path) -> Self {
        let shared =
            Arc::new(Shared { state_dir: state_dir.to_owned(), next: Mutex::default(), changed: Condvar::new() });
        let writing = Arc::clone(&shared);
        let thread = thread::Builder::new().name("report".to_owned()).spawn(move || writing.write_all());
        if let Err(error) = &thread {
            tracing::warn!(error = %error, "no thread for the report: it is not written");
        }
        Self { shared, thread: thread.ok() }
    }

    /// Writes it soon.
    pub(super) fn write(&self, report: AgentReport) {
        self.shared.change(|next| next.report = Some(Box::new(report)));
    }
}

impl Drop for ReportFiles {
    fn drop(&mut self) {
        self.shared.change(|next| next.ended = true);
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there is nothing left to write.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Next)) {
        change(&mut self.next.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    fn write_all(&self) {
        loop {
            let next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = |next: &mut Next| next.report.is_none() && !next.ended;
            let mut next = self.changed.wait_while(next, waiting).unwrap_or_else(PoisonError::into_inner);
            let Some(report) = next.report.take() else { return };
            drop(next);
            let json = serde_json::to_vec_pretty(&report).unwrap_or_default();
            self.replace(AgentReport::FILE_NAME, &json);
            self.replace(metrics::FILE_NAME, metrics::text(&report).as_bytes());
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) {
        let path = self.state_dir.join(name);
        if let Err(error) = fsync::write_atomic(&path, bytes) {
            tracing::warn!(error = %error, path = %path.display(), "report not written");
        }
    }
}
