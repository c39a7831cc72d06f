//! A server's disk whose encrypted binlogs are kept: once, or for as long as the agent runs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use highwater_catalog::KeptFile;
use indicatif::ProgressBar;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{KeepError, Kept, Wanted, keep, survey};
use crate::archive::Archive;
use crate::capture::{Index, chain};
use crate::exit::Exit;
use crate::source::ServerFiles;

/// How often the index is looked at. A server that purges a binlog within this time after it was closed is faster.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// A server's disk whose encrypted binlogs are kept.
#[derive(Debug)]
pub struct Keeper {
    archive: Archive,
    index: Index,
    files: Arc<ServerFiles>,
    known: Vec<KeptFile>,
    /// Files that need no second look, by name, device and inode: a server that is reset begins its names again.
    settled: BTreeSet<(PathBuf, u64, u64)>,
}

impl Keeper {
    /// Of a disk, some of whose files the archive has.
    #[must_use]
    pub fn new(archive: Archive, index: Index, files: Arc<ServerFiles>, known: Vec<KeptFile>) -> Self {
        Self { archive, index, files, known, settled: BTreeSet::new() }
    }

    /// Which files keeping would take. Blocking.
    ///
    /// # Errors
    /// When the disk cannot be read, or no key opens a file.
    pub fn survey(&self) -> Result<Wanted, KeepError> {
        let files = &self.files;
        survey(files.server(), &|| files.keys(), &files.paths()?, &self.known)
    }

    /// Keeps what was closed since the last look. Blocking.
    ///
    /// # Errors
    /// As [`keep`]; the next look tries again.
    pub fn look(&mut self, bar: &ProgressBar) -> Result<Kept, KeepError> {
        let mut new = Vec::new();
        let mut there = BTreeSet::new();
        for path in self.files.paths()? {
            // What was purged between the index and here is gone.
            let Ok(facts) = fs::metadata(&path) else { continue };
            let identity = (path, facts.dev(), facts.ino());
            if !self.settled.contains(&identity) {
                new.push(identity.0.clone());
            }
            there.insert(identity);
        }
        if new.is_empty() {
            return Ok(Kept::default());
        }
        let files = &self.files;
        let kept = keep(&self.archive, files.server(), &|| files.keys(), &new, &self.known, bar)?;
        kept.record(&self.index)?;
        self.known.extend(kept.files.iter().cloned());
        let is_open = |path: &PathBuf| kept.open.iter().any(|binlog| path.ends_with(binlog.as_str()));
        // A key may come later; damage stays.
        let lacks_key = |path: &PathBuf| {
            kept.refused.iter().any(|refused| refused.path == *path && refused.error.exit() == Exit::Key)
        };
        self.settled = there.into_iter().filter(|(path, ..)| !is_open(path) && !lacks_key(path)).collect();
        Ok(kept)
    }

    /// Looks again and again until `stop` is cancelled. Failures are logged and tried again.
    pub async fn watch(mut self, stop: CancellationToken) {
        let mut failed = false;
        let mut told = BTreeSet::new();
        while !stop.is_cancelled() {
            let looking = spawn_blocking(move || {
                let result = self.look(&ProgressBar::hidden());
                (result, self)
            });
            let Ok((result, after)) = looking.await else { return };
            self = after;
            match result {
                Ok(kept) => {
                    for file in &kept.files {
                        tracing::info!(binlog = %file.binlog, bytes = file.body_size(), "encrypted binlog kept");
                    }
                    for refused in kept.refused {
                        if told.insert(refused.path) {
                            tracing::error!(error = %chain(&refused.error), "binlog not kept");
                        }
                    }
                    failed = false;
                }
                Err(error) if !failed => {
                    failed = true;
                    tracing::error!(error = %chain(&error), "binlogs not kept");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = sleep(POLL_INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}
