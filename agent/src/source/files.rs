//! A server's disk as a source: its binlogs, encrypted or plain, in the order of its index, running or dead.
//!
//! What is in a file and whole counts, whether or not the server has brought it to the disk: behind a server with
//! `sync_binlog` other than 1, a crash of its machine can take back what was read here.

mod binlog;
mod error;
mod history;
mod keyrings;
mod stream;

pub use error::FilesError;
pub use history::FilesHistory;
pub use keyrings::Keyrings;
pub use stream::{FileItem, FileStep, FileStream};

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use binlog_decrypt::{BinlogFile, Encryption, Input, KeyPlaces, Unlocked, of_index};
use highwater_binlog::{BinlogName, GtidSet, ServerUuid};

/// How often an index is looked for that is not there or is empty: a server that purges puts another one in its place.
const INDEX_ATTEMPTS: u32 = 5;
const INDEX_PAUSE: Duration = Duration::from_millis(50);

/// Where a server keeps its binlogs and what opens them.
#[derive(Debug, Clone)]
pub struct ServerFiles {
    datadir: PathBuf,
    index: PathBuf,
    server: ServerUuid,
    keyrings: Keyrings,
    /// The index as it was read the last time.
    seen: Arc<Mutex<Option<SeenIndex>>>,
}

/// An index that was read, and what its file was then.
#[derive(Debug)]
struct SeenIndex {
    file: IndexFile,
    binlogs: Arc<[Indexed]>,
}

/// What tells one state of an index from another: a server appends to it, or puts another file in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct IndexFile {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// A binlog that the index names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Indexed {
    pub(super) name: BinlogName,
    pub(super) path: PathBuf,
}

impl ServerFiles {
    /// Of the server whose data is in `datadir`. Its keyring is found through its configuration there; `keys` are further
    /// places. Without an `index` the one in the data folder counts.
    ///
    /// # Errors
    /// When the folder is no server's, or has no index of binlogs.
    pub fn open(datadir: &Path, index: Option<&Path>, keys: KeyPlaces) -> Result<Self, FilesError> {
        let server = server_uuid(&datadir.join("auto.cnf"))?;
        let index = match index {
            Some(index) => index.to_owned(),
            None => while_away(|| find_index(datadir), |error| matches!(error, FilesError::NoIndex { .. }))?,
        };
        let mut places = keys;
        places.datadirs.push(datadir.to_owned());
        let files =
            Self { datadir: datadir.to_owned(), index, server, keyrings: Keyrings::new(places), seen: Arc::default() };
        files.binlogs()?;
        Ok(files)
    }

    /// The server's `server_uuid`.
    #[must_use]
    pub fn server(&self) -> ServerUuid {
        self.server
    }

    /// Its data folder.
    #[must_use]
    pub fn datadir(&self) -> &Path {
        &self.datadir
    }

    /// Paths of its binlogs, oldest first.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn paths(&self) -> Result<Vec<PathBuf>, FilesError> {
        Ok(self.binlogs()?.iter().map(|binlog| binlog.path.clone()).collect())
    }

    /// What opens them.
    #[must_use]
    pub fn keyrings(&self) -> &Keyrings {
        &self.keyrings
    }

    /// Bytes on the disk of a binlog and all after it.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn bytes_from(&self, first: &BinlogName) -> Result<u64, FilesError> {
        let binlogs = self.binlogs()?;
        let wanted = binlogs.iter().skip_while(|binlog| binlog.name != *first);
        Ok(wanted.filter_map(|binlog| fs::metadata(&binlog.path).ok()).map(|facts| facts.len()).sum())
    }

    /// The binlogs, oldest first.
    pub(super) fn binlogs(&self) -> Result<Arc<[Indexed]>, FilesError> {
        // What changes after this is found by the next look.
        let file = IndexFile::of(&self.index);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = seen.as_ref().filter(|known| Some(known.file) == file) {
            return Ok(Arc::clone(&known.binlogs));
        }
        let binlogs: Arc<[Indexed]> = self.read_index()?.into();
        *seen = file.map(|file| SeenIndex { file, binlogs: Arc::clone(&binlogs) });
        Ok(binlogs)
    }

    fn read_index(&self) -> Result<Vec<Indexed>, FilesError> {
        // It may be back before anybody could see that it was away.
        let paths = while_away(|| of_index(&self.index), |_| true).map_err(FilesError::Open)?;
        let named = |path: PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            match name {
                Some(name) => Ok(Indexed { name, path }),
                None => Err(FilesError::Name { path }),
            }
        };
        paths.into_iter().map(named).collect()
    }

    /// What the server had executed before the first binlog after `binlog` that is there; absent if none is.
    ///
    /// # Errors
    /// When that one cannot be opened.
    pub(crate) fn executed_after(&self, binlog: &BinlogName) -> Result<Option<GtidSet>, FilesError> {
        let binlogs = self.binlogs()?;
        for indexed in binlogs.iter().skip_while(|indexed| indexed.name != *binlog).skip(1) {
            match self.executed_before(indexed) {
                Err(FilesError::Absent { .. }) => {}
                found => return found,
            }
        }
        Ok(None)
    }

    /// An index of the data folder that was written after the one that is read.
    pub(super) fn newer_index(&self) -> Option<FilesError> {
        let written = |path: &Path| fs::metadata(path).and_then(|facts| facts.modified()).ok();
        let ours = written(&self.index)?;
        let is_ours = |path: &Path| path.file_name() == self.index.file_name();
        let others = indexes(&self.datadir).ok()?;
        let other = others.into_iter().find(|path| !is_ours(path) && written(path).is_some_and(|at| at > ours))?;
        Some(FilesError::OtherIndex { index: self.index.clone(), other })
    }

    /// A binlog that is in the index and not on the disk; or the server has just purged it.
    fn not_there(&self, binlog: &Indexed) -> FilesError {
        let name = binlog.name.clone();
        match self.binlogs() {
            Ok(binlogs) if binlogs.contains(binlog) => FilesError::Absent { binlog: name },
            Ok(_) => FilesError::Changed { binlog: name },
            Err(error) => error,
        }
    }

    /// Opens a binlog: its key is found and proven.
    fn unlock(&self, binlog: &Indexed) -> Result<Unlocked, FilesError> {
        let input = Input::File(binlog.path.clone());
        let unlocked = self.keyrings.open(|keys| BinlogFile::open(&input)?.unlock(keys)).map_err(FilesError::Open)?;
        let version = &unlocked.opening.description.server_version;
        let foreign = matches!(unlocked.encryption, Encryption::Events(_) | Encryption::NoEvents);
        if foreign || version.contains("MariaDB") {
            return Err(FilesError::NotMySql { path: binlog.path.clone(), version: version.clone() });
        }
        if unlocked.opening.relay_log {
            return Err(FilesError::RelayLog { path: binlog.path.clone() });
        }
        Ok(unlocked)
    }
}

/// The `server-uuid` in a data folder's `auto.cnf`.
fn server_uuid(path: &Path) -> Result<ServerUuid, FilesError> {
    let text = fs::read_to_string(path).map_err(|source| FilesError::Read { path: path.to_owned(), source })?;
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        matches!(name.trim(), "server-uuid" | "server_uuid").then(|| value.trim().to_owned())
    });
    value.and_then(|value| value.parse().ok()).ok_or_else(|| FilesError::NoUuid { path: path.to_owned() })
}

impl IndexFile {
    fn of(index: &Path) -> Option<Self> {
        let facts = fs::metadata(index).ok()?;
        Some(Self { inode: facts.ino(), size: facts.len(), changed: (facts.mtime(), facts.mtime_nsec()) })
    }
}

/// Looks for an index, several times if it may only be away for the moment: a server removes the old one before the new one
/// gets its name (`MYSQL_BIN_LOG::move_crash_safe_index_file_to_index_file` in `sql/binlog.cc`).
fn while_away<T, E>(look: impl Fn() -> Result<T, E>, is_away: impl Fn(&E) -> bool) -> Result<T, E> {
    let mut attempt = 1;
    loop {
        match look() {
            Err(error) if attempt < INDEX_ATTEMPTS && is_away(&error) => {}
            found => return found,
        }
        sleep(INDEX_PAUSE);
        attempt += 1;
    }
}

/// What may be indexes of a server's binlogs in its data folder.
fn indexes(datadir: &Path) -> Result<Vec<PathBuf>, FilesError> {
    let failed = |source| FilesError::Read { path: datadir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(datadir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".index") && !name.contains("relay") {
            found.push(path);
        }
    }
    Ok(found)
}

/// The only index of binlogs in a data folder.
fn find_index(datadir: &Path) -> Result<PathBuf, FilesError> {
    let mut found = indexes(datadir)?;
    match (found.pop(), found.is_empty()) {
        (Some(index), true) => Ok(index),
        (None, _) => Err(FilesError::NoIndex { datadir: datadir.to_owned() }),
        (Some(_), false) => Err(FilesError::SeveralIndexes { datadir: datadir.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_says_which_server_it_is_and_where_its_binlogs_are() {
        let folder = tempfile::tempdir().unwrap();
        let datadir = folder.path();
        assert!(matches!(ServerFiles::open(datadir, None, KeyPlaces::default()), Err(FilesError::Read { .. })));
        fs::write(datadir.join("auto.cnf"), "[auto]\n").unwrap();
        assert!(matches!(ServerFiles::open(datadir, None, KeyPlaces::default()), Err(FilesError::NoUuid { .. })));
        fs::write(datadir.join("auto.cnf"), "[auto]\nserver-uuid=3e11fa47-71ca-11e1-9e33-c80aa9429562\n").unwrap();
        assert!(matches!(ServerFiles::open(datadir, None, KeyPlaces::default()), Err(FilesError::NoIndex { .. })));
        fs::write(datadir.join("db1-relay-bin.index"), "./db1-relay-bin.000001\n").unwrap();
        fs::write(datadir.join("binlog.index"), "./binlog.000007\n").unwrap();
        let files = ServerFiles::open(datadir, None, KeyPlaces::default()).unwrap();
        assert_eq!(files.server().to_string(), "3e11fa47-71ca-11e1-9e33-c80aa9429562");
        assert_eq!(files.binlogs().unwrap()[0].name.as_str(), "binlog.000007");
        fs::write(datadir.join("old.index"), "./old.000001\n").unwrap();
        assert!(matches!(
            ServerFiles::open(datadir, None, KeyPlaces::default()),
            Err(FilesError::SeveralIndexes { .. })
        ));
        let index = datadir.join("old.index");
        let files = ServerFiles::open(datadir, Some(&index), KeyPlaces::default()).unwrap();
        assert_eq!(files.binlogs().unwrap()[0].name.as_str(), "old.000001");
        fs::write(&index, "./..\n").unwrap();
        assert!(ServerFiles::open(datadir, Some(&index), KeyPlaces::default()).is_err());
    }
}
