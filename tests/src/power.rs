//! A power failure: what was never fsynced is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::dice::Dice;
use crate::installation::Installation;

/// What an agent brought to the disk, as it noted it in `HIGHWATER_FSYNC_LOG`.
#[derive(Debug, Clone)]
pub struct FsyncLog {
    path: PathBuf,
    /// What was in the store before.
    settled: BTreeSet<PathBuf>,
}

/// What is on the disk.
#[derive(Debug, Default)]
struct OnDisk {
    /// Files, and folders that were made, with the bytes of them that are.
    lengths: BTreeMap<PathBuf, u64>,
    /// Those of them whose names are.
    named: BTreeSet<PathBuf>,
}

/// What becomes of bytes that were written and not fsynced.
#[derive(Debug, Clone)]
pub enum Unsynced {
    /// They are gone.
    Gone,
    /// Of each sector (512 bytes) by chance: it is there, or zeros are. Files without a durable name may be there too.
    Torn(Dice),
}

/// Bytes that a disk writes at once.
const SECTOR: u64 = 512;

/// What a power failure took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Files whose names were never on the disk.
    pub files: usize,
    /// Bytes of files that stay.
    pub bytes: u64,
}

impl FsyncLog {
    /// A log in an installation's folder. Agents append to it. What is in the store now is on the disk.
    pub fn of(highwater: &Installation) -> Result<Self> {
        let mut settled = BTreeSet::new();
        walk(&highwater.store(), &mut |path| {
            settled.insert(path.to_owned());
            Ok(())
        })?;
        Ok(Self { path: highwater.folder().join("fsync.log"), settled })
    }

    /// The file, for the agent's environment.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Undoes everything in spool and store that is not on the disk: bytes behind the last fsync, and files and folders
    /// whose folder was not fsynced since they were there. The agent must be dead.
    pub fn cut_power(&self, highwater: &Installation, mut unsynced: Unsynced) -> Result<Lost> {
        let on_disk = self.read()?;
        let mut lost = Lost { files: 0, bytes: 0 };
        for path in highwater.spool()? {
            if path.extension().is_some_and(|extension| extension == "stretch") {
                on_disk.cut(&path, &mut unsynced, &mut lost)?;
            }
        }
        let store = highwater.store();
        walk(&store, &mut |path| {
            let is_settled = |path: &Path| path == store || self.settled.contains(path);
            let is_temporary = path.starts_with(store.join(".incoming"));
            if is_settled(path) || is_temporary || path.is_dir() {
                return Ok(());
            }
            let folders = path.ancestors().skip(1).take_while(|folder| folder.starts_with(&store));
            if folders.into_iter().all(|folder| is_settled(folder) || on_disk.named.contains(folder)) {
                return on_disk.cut(path, &mut unsynced, &mut lost);
            }
            lost.files += 1;
            Ok(fs::remove_file(path)?)
        })?;
        Ok(lost)
    }

    fn read(&self) -> Result<OnDisk> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let mut on_disk = OnDisk::default();
        for line in text.lines() {
            let (path, what) = line.rsplit_once('\t').context("a line of the fsync log")?;
            let path = PathBuf::from(path);
            let OnDisk { lengths, named } = &mut on_disk;
            match what.strip_prefix('=') {
                // Every file that was seen before and lies there has its name on the disk now.
                None if what == "dir" => {
                    named.extend(lengths.keys().filter(|file| file.parent() == Some(&path)).cloned());
                }
                None => drop(lengths.insert(path, what.parse().context("a length in the fsync log")?)),
                Some(from) => {
                    let length = lengths.get(Path::new(from)).copied().unwrap_or(0);
                    lengths.insert(path, length);
                }
            }
        }
        Ok(on_disk)
    }
}

impl OnDisk {
    fn cut(&self, path: &Path, unsynced: &mut Unsynced, lost: &mut Lost) -> Result<()> {
        let size = fs::metadata(path)?.len();
        let durable = self.lengths.get(path).copied().filter(|_| self.named.contains(path));
        match unsynced {
            Unsynced::Torn(dice) if durable.is_some() => lost.bytes += tear(path, durable.unwrap_or(0), size, dice)?,
            Unsynced::Torn(dice) => match dice.between(0, 2) {
                0 => lost.bytes += tear(path, 0, size, dice)?,
                _ => lost.remove(path)?,
            },
            Unsynced::Gone => match durable {
                Some(length) => {
                    lost.bytes += size.saturating_sub(length);
                    OpenOptions::new().write(true).open(path)?.set_len(size.min(length))?;
                }
                None => lost.remove(path)?,
            },
        }
        Ok(())
    }
}

impl Lost {
    fn remove(&mut self, path: &Path) -> Result<()> {
        self.files += 1;
        Ok(fs::remove_file(path)?)
    }
}

/// Puts zeros into some of the sectors behind the durable bytes, and returns how many.
fn tear(path: &Path, durable: u64, size: u64, dice: &mut Dice) -> Result<u64> {
    let file = OpenOptions::new().write(true).open(path)?;
    let (mut from, mut torn) = (durable.min(size), 0);
    while from < size {
        let end = size.min((from / SECTOR + 1) * SECTOR);
        if dice.between(0, 2) == 0 {
            torn += end - from;
            file.write_all_at(&[0; SECTOR as usize][..usize::try_from(end - from)?], from)?;
        }
        from = end;
    }
    Ok(torn)
}

/// Visits everything below a folder, folders before what is in them.
fn walk(folder: &Path, visit: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        visit(&entry.path())?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), visit)?;
        }
    }
    Ok(())
}
