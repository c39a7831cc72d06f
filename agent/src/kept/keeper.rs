//! A server's disk whose encrypted binlogs are kept: once, or for as long as the agent runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use highwater_catalog::KeptFile;
use highwater_keyring::FileMark;
use indicatif::ProgressBar;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{KeepError, Keeping, Kept, Wanted, keep, survey};
use crate::archive::Archive;
use crate::capture::{Index, chain};
use crate::exit::Exit;
use crate::source::ServerFiles;

/// How long a keeper waits.
#[derive(Debug, Clone, Copy)]
struct Pauses {
    /// How often the index is looked at. A server that purges a binlog within this time after it was closed is faster.
    poll: Duration,
    /// Longest pause after a failure, and how long a file is left alone that could not be read or whose key is missing:
    /// every attempt may read and seal a whole file, or ask for keys over a network.
    retry: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { poll: Duration::from_secs(5), retry: Duration::from_secs(60) }
    }
}

impl Pauses {
    /// What follows `before`.
    fn after<E>(self, before: Duration, result: &Result<(), E>) -> Duration {
        match result {
            Ok(()) => self.poll,
            Err(_) => self.retry.min(before * 2),
        }
    }
}

/// How long the file that is being kept may take after the signal to stop. Dropping it leaves objects that nothing names.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// A server's disk whose encrypted binlogs are kept.
#[derive(Debug)]
pub struct Keeper {
    archive: Archive,
    index: Index,
    files: Arc<ServerFiles>,
    known: Vec<KeptFile>,
    /// Passwords that were published, and in which generation of the key bundle.
    bundled: BTreeMap<FileMark, u32>,
    settled: Settled,
    pauses: Pauses,
}

/// Files that need no second look, or none before a time.
#[derive(Debug, Default)]
struct Settled(BTreeMap<Identity, Option<Instant>>);

/// What a look at a file led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It is kept, or nothing that is to be kept.
    Done,
    /// Its server still writes it.
    Open,
    /// It was not kept.
    Refused(Exit),
}

impl Settled {
    fn is_due(&self, file: &Identity, now: Instant) -> bool {
        match self.0.get(file) {
            None => true,
            Some(until) => until.is_some_and(|until| until <= now),
        }
    }

    fn note(&mut self, file: Identity, look: Look, now: Instant, pauses: Pauses) {
        match look {
            Look::Open => self.0.remove(&file),
            // A key may come later, and so may a disk that reads; damage stays.
            Look::Refused(Exit::Key | Exit::Failed) => self.0.insert(file, Some(now + pauses.retry)),
            Look::Done | Look::Refused(_) => self.0.insert(file, None),
        };
    }
}

/// One file of a name: a server that is reset begins its names again, and its file system the inodes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Where the file system tells.
    born: Option<SystemTime>,
}

impl Identity {
    /// None if the file is gone.
    fn of(path: PathBuf) -> Option<Self> {
        let facts = fs::metadata(&path).ok()?;
        Some(Self { path, device: facts.dev(), inode: facts.ino(), born: facts.created().ok() })
    }
}

impl Keeper {
    /// Of a disk, some of whose files the archive has.
    #[must_use]
    pub fn new(archive: Archive, index: Index, files: Arc<ServerFiles>, known: Vec<KeptFile>) -> Self {
        Self {
            archive,
            index,
            files,
            known,
            bundled: BTreeMap::new(),
            settled: Settled::default(),
            pauses: Pauses::default(),
        }
    }

    /// Which files keeping would take. Blocking.
    ///
    /// # Errors
    /// When the disk cannot be read, or no key opens a file.
    pub fn survey(&self) -> Result<Wanted, KeepError> {
        let files = &self.files;
        survey(files.server(), files.keyrings(), &files.paths()?, &self.known)
    }

    /// Keeps what was closed since the last look. Ends after the file it is at when `stop` is cancelled. Blocking.
    ///
    /// # Errors
    /// As [`keep`]: what was published before is in `kept`, and the next look goes on behind it.
    pub fn look(&mut self, bar: &ProgressBar, stop: &CancellationToken, kept: &mut Kept) -> Result<(), KeepError> {
        let now = Instant::now();
        // What was purged between the index and here is gone.
        let there: BTreeSet<Identity> = self.files.paths()?.into_iter().filter_map(Identity::of).collect();
        self.settled.0.retain(|file, _| there.contains(file));
        let new: Vec<Identity> = there.into_iter().filter(|file| self.settled.is_due(file, now)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let paths: Vec<PathBuf> = new.iter().map(|file| file.path.clone()).collect();
        let files = &self.files;
        let (archive, server, known) = (&self.archive, files.server(), &self.known);
        let keeping = Keeping { archive, server, keys: files.keyrings(), known, bar, stop };
        let outcome = keep(&keeping, &paths, &mut self.bundled, kept);
        self.known.extend(kept.files.iter().cloned());
        kept.record(&self.index)?;
        outcome?;
        if !stop.is_cancelled() {
            self.settle(new, kept, now);
        }
        Ok(())
    }

    /// Notes which of the files that were looked at need no second look.
    fn settle(&mut self, looked_at: Vec<Identity>, kept: &Kept, now: Instant) {
        for file in looked_at {
            let refused = kept.refused.iter().find(|refused| refused.path == file.path);
            let is_open = kept.open.iter().any(|binlog| file.path.ends_with(binlog.as_str()));
            let look = match refused {
                Some(refused) => Look::Refused(refused.error.exit()),
                None if is_open => Look::Open,
                None => Look::Done,
            };
            self.settled.note(file, look, now, self.pauses);
        }
    }

    /// Looks again and again until `stop` is cancelled. Failures are logged and tried again.
    pub async fn watch(mut self, stop: CancellationToken) {
        let pauses = self.pauses;
        let mut pause = pauses.poll;
        let mut told = BTreeSet::new();
        while !stop.is_cancelled() {
            let stopped = stop.clone();
            let mut looking = spawn_blocking(move || {
                let mut kept = Kept::default();
                let result = self.look(&ProgressBar::hidden(), &stopped, &mut kept);
                (result, kept, self)
            });
            let looked = tokio::select! {
                looked = &mut looking => looked,
                () = stop.cancelled() => match timeout(STOP_DEADLINE, looking).await {
                    Ok(looked) => looked,
                    Err(_) => return,
                },
            };
            let Ok((result, kept, after)) = looked else { return };
            self = after;
            for file in &kept.files {
                tracing::info!(binlog = %file.binlog, bytes = file.body_size(), "encrypted binlog kept");
            }
            for refused in kept.refused {
                if told.insert(refused.path) {
                    tracing::error!(error = %chain(&refused.error), "binlog not kept");
                }
            }
            if let (Err(error), true) = (&result, pause == pauses.poll) {
                tracing::error!(error = %chain(error), "binlogs not kept");
            }
            pause = pauses.after(pause, &result);
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSES: Pauses = Pauses { poll: Duration::from_secs(5), retry: Duration::from_secs(60) };

    #[test]
    fn pauses_grow_with_failures_to_a_limit_and_end_with_them() {
        let mut pause = PAUSES.poll;
        let mut after = |failed: bool| {
            pause = PAUSES.after(pause, &if failed { Err(()) } else { Ok(()) });
            pause.as_secs()
        };
        assert_eq!([true, true, true, true, true, false, true].map(&mut after), [10, 20, 40, 60, 60, 5, 10]);
    }

    #[test]
    fn a_file_is_looked_at_again_if_that_may_help_and_not_too_soon() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("binlog.000001");
        fs::write(&path, "binlog").unwrap();
        let file = || Identity::of(path.clone()).unwrap();
        let now = Instant::now();
        let later = [now, now + PAUSES.retry - Duration::from_millis(1), now + PAUSES.retry];
        for (look, due) in [
            (Look::Open, [true, true, true]),
            (Look::Refused(Exit::Key), [false, false, true]),
            (Look::Refused(Exit::Failed), [false, false, true]),
            (Look::Refused(Exit::Damaged), [false, false, false]),
            (Look::Done, [false, false, false]),
        ] {
            let mut settled = Settled::default();
            assert!(settled.is_due(&file(), now));
            settled.note(file(), look, now, PAUSES);
            assert_eq!(later.map(|at| settled.is_due(&file(), at)), due, "{look:?}");
        }
    }

    #[test]
    fn a_file_made_anew_under_its_name_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("binlog.000001");
        fs::write(&path, "old").unwrap();
        let old = Identity::of(path.clone()).unwrap();
        fs::write(&path, "old, and more").unwrap();
        assert_eq!(Identity::of(path.clone()).unwrap(), old);
        // Inodes come back at once where birth times have coarse clocks: not every new file differs, a later one does.
        let is_another = (0..100_000).any(|_| {
            fs::remove_file(&path).unwrap();
            fs::write(&path, "new").unwrap();
            Identity::of(path.clone()).unwrap() != old
        });
        assert!(is_another, "{old:?}");
        fs::remove_file(&path).unwrap();
        assert_eq!(Identity::of(path), None);
    }
}
