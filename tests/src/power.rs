//! A power failure: what was never fsynced is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::installation::Installation;

/// What an agent brought to the disk, as it noted it in `HIGHWATER_FSYNC_LOG`.
#[derive(Debug, Clone)]
pub struct FsyncLog {
    path: PathBuf,
}

/// What a power failure took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Files whose names were never on the disk.
    pub files: usize,
    /// Bytes of files that stay.
    pub bytes: u64,
}

impl FsyncLog {
    /// A log in an installation's folder. Agents append to it.
    #[must_use]
    pub fn of(highwater: &Installation) -> Self {
        Self { path: highwater.folder().join("fsync.log") }
    }

    /// The file, for the agent's environment.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Undoes everything in the spool that is not on the disk: bytes behind the last fsync, and files whose folder was
    /// not fsynced since they got their first bytes. The agent must be dead.
    pub fn cut_power(&self, highwater: &Installation) -> Result<Lost> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let (mut lengths, mut named) = (BTreeMap::<&Path, u64>::new(), BTreeSet::new());
        for line in text.lines() {
            let (path, what) = line.rsplit_once('\t').context("a line of the fsync log")?;
            let path = Path::new(path);
            if what == "dir" {
                // Every file that was seen before and lies there has its name on the disk now.
                named.extend(lengths.keys().filter(|file| file.parent() == Some(path)).copied());
            } else {
                lengths.insert(path, what.parse().context("a length in the fsync log")?);
            }
        }
        let mut lost = Lost { files: 0, bytes: 0 };
        for path in highwater.spool()? {
            let size = fs::metadata(&path)?.len();
            if path.extension().is_none_or(|extension| extension != "stretch") {
                continue;
            }
            match lengths.get(path.as_path()) {
                Some(length) if named.contains(path.as_path()) => {
                    lost.bytes += size.saturating_sub(*length);
                    OpenOptions::new().write(true).open(&path)?.set_len(size.min(*length))?;
                }
                _ => {
                    lost.files += 1;
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(lost)
    }
}
