//! A server's disk as a source: its binlogs, encrypted or plain, in the order of its index, running or dead.
//!
//! What is in a file and whole counts, whether or not the server has brought it to the disk: behind a server with
//! `sync_binlog` other than 1, a crash of its machine can take back what was read here.

mod binlog;
mod error;
mod history;
mod stream;

pub use error::FilesError;
pub use history::FilesHistory;
pub use stream::{FileItem, FileStep, FileStream};

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use binlog_decrypt::{BinlogFile, Encryption, Exit, Failure, Input, KeyPlaces, Keys, Unlocked, of_index};
use highwater_binlog::{BinlogName, ServerUuid};

/// A key that is not there or does not fit is looked for again: a rotation writes keyring and headers in place.
const KEY_ATTEMPTS: u32 = 5;
const KEY_PAUSE: Duration = Duration::from_millis(50);

/// Where a server keeps its binlogs and what opens them.
#[derive(Debug, Clone)]
pub struct ServerFiles {
    datadir: PathBuf,
    index: PathBuf,
    server: ServerUuid,
    keys: KeyPlaces,
}

/// A binlog that the index names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Indexed {
    pub(super) name: BinlogName,
    pub(super) path: PathBuf,
}

impl ServerFiles {
    /// Of the server whose data is in `datadir`. Its keyring is found through its configuration there; `keyrings` are
    /// further ones. Without an `index` the one in the data folder counts.
    ///
    /// # Errors
    /// When the folder is no server's, or has no index of binlogs.
    pub fn open(datadir: &Path, index: Option<&Path>, keyrings: Vec<PathBuf>) -> Result<Self, FilesError> {
        let server = server_uuid(&datadir.join("auto.cnf"))?;
        let index = match index {
            Some(index) => index.to_owned(),
            None => find_index(datadir)?,
        };
        let keys = KeyPlaces { keyrings, datadirs: vec![datadir.to_owned()], ..KeyPlaces::default() };
        let files = Self { datadir: datadir.to_owned(), index, server, keys };
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
        Ok(self.binlogs()?.into_iter().map(|binlog| binlog.path).collect())
    }

    /// What its keyrings have now.
    ///
    /// # Errors
    /// When a keyring that was named cannot be used.
    pub fn keys(&self) -> Result<Keys, Failure> {
        Keys::collect(&self.keys)
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
    pub(super) fn binlogs(&self) -> Result<Vec<Indexed>, FilesError> {
        let paths = of_index(&self.index).map_err(FilesError::Open)?;
        let named = |path: PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            match name {
                Some(name) => Ok(Indexed { name, path }),
                None => Err(FilesError::Name { path }),
            }
        };
        paths.into_iter().map(named).collect()
    }

    /// Opens a binlog: its key is found and proven.
    fn unlock(&self, binlog: &Indexed) -> Result<Unlocked, FilesError> {
        let mut attempt = 1;
        let unlocked = loop {
            let keys = self.keys().map_err(FilesError::Open)?;
            let file = BinlogFile::open(&Input::File(binlog.path.clone())).map_err(FilesError::Open)?;
            match file.unlock(&keys) {
                Err(failure) if failure.exit == Exit::Key && attempt < KEY_ATTEMPTS => {}
                result => break result.map_err(FilesError::Open)?,
            }
            sleep(KEY_PAUSE);
            attempt += 1;
        };
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

/// The only index of binlogs in a data folder.
fn find_index(datadir: &Path) -> Result<PathBuf, FilesError> {
    let failed = |source| FilesError::Read { path: datadir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(datadir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".index") && !name.contains("relay") {
            found.push(path);
        }
    }
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
        assert!(matches!(ServerFiles::open(datadir, None, vec![]), Err(FilesError::Read { .. })));
        fs::write(datadir.join("auto.cnf"), "[auto]\n").unwrap();
        assert!(matches!(ServerFiles::open(datadir, None, vec![]), Err(FilesError::NoUuid { .. })));
        fs::write(datadir.join("auto.cnf"), "[auto]\nserver-uuid=3e11fa47-71ca-11e1-9e33-c80aa9429562\n").unwrap();
        assert!(matches!(ServerFiles::open(datadir, None, vec![]), Err(FilesError::NoIndex { .. })));
        fs::write(datadir.join("db1-relay-bin.index"), "./db1-relay-bin.000001\n").unwrap();
        fs::write(datadir.join("binlog.index"), "./binlog.000007\n").unwrap();
        let files = ServerFiles::open(datadir, None, vec![]).unwrap();
        assert_eq!(files.server().to_string(), "3e11fa47-71ca-11e1-9e33-c80aa9429562");
        assert_eq!(files.binlogs().unwrap()[0].name.as_str(), "binlog.000007");
        fs::write(datadir.join("old.index"), "./old.000001\n").unwrap();
        assert!(matches!(ServerFiles::open(datadir, None, vec![]), Err(FilesError::SeveralIndexes { .. })));
        let index = datadir.join("old.index");
        let files = ServerFiles::open(datadir, Some(&index), vec![]).unwrap();
        assert_eq!(files.binlogs().unwrap()[0].name.as_str(), "old.000001");
        fs::write(&index, "./..\n").unwrap();
        assert!(ServerFiles::open(datadir, Some(&index), vec![]).is_err());
    }
}
