//! What has reached the store, seen from outside: its manifests.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use highwater_tests::Background;
use serde_json::Value;

/// How often the store is looked at.
const POLL: Duration = Duration::from_millis(5);

/// A published segment.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    /// Its binlog.
    pub(crate) binlog: String,
    /// Offset after its last byte.
    pub(crate) end: u64,
    /// Its transactions, as a GTID set.
    pub(crate) gtids_added: String,
    /// When its manifest got its name, seconds since 1970: the moment from which the segment is in the archive.
    pub(crate) at: f64,
}

/// The manifests of segments in a store, each read once.
#[derive(Debug)]
pub(crate) struct ArchiveWatch {
    folder: PathBuf,
    seen: BTreeSet<PathBuf>,
}

impl ArchiveWatch {
    /// Of a directory store.
    pub(crate) fn new(store: &Path) -> Self {
        Self { folder: store.join("segments"), seen: BTreeSet::new() }
    }

    /// Segments that were published since the last call.
    pub(crate) fn published(&mut self) -> Result<Vec<Published>> {
        let mut published = Vec::new();
        let Ok(timelines) = fs::read_dir(&self.folder) else { return Ok(published) };
        for timeline in timelines {
            let timeline = timeline?.path();
            if !timeline.is_dir() {
                continue;
            }
            for entry in fs::read_dir(timeline)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "json") && !self.seen.contains(&path) {
                    published.push(read(&path)?);
                    self.seen.insert(path);
                }
            }
        }
        Ok(published)
    }

    /// Waits until the archive has a binlog up to an offset.
    pub(crate) fn wait_for(&mut self, agent: &mut Background, binlog: &str, end: u64, limit: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            let published = self.published()?;
            if published.iter().any(|segment| segment.binlog == binlog && segment.end >= end) {
                return Ok(());
            }
            if !agent.is_running()? {
                bail!("the agent ended: {}", agent.stderr());
            }
            if started.elapsed() > limit {
                bail!("{binlog}:{end} is not in the store after {limit:?}; the agent says: {}", agent.stderr());
            }
            thread::sleep(POLL);
        }
    }
}

/// Bytes of all objects in a folder and below.
pub(crate) fn stored_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { stored_bytes(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}

fn read(path: &Path) -> Result<Published> {
    let text = fs::read(path)?;
    let manifest: Value = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    // A name is given by a link, which changes the inode's time of change and nothing later does.
    let facts = fs::metadata(path)?;
    Ok(Published {
        binlog: manifest["binlog"].as_str().unwrap_or_default().to_owned(),
        end: manifest["end"].as_u64().unwrap_or_default(),
        gtids_added: manifest["gtids_added"].as_str().unwrap_or_default().to_owned(),
        at: facts.ctime() as f64 + facts.ctime_nsec() as f64 / 1e9,
    })
}
