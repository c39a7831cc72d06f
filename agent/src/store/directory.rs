//! A store in a folder of a mounted file system.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use highwater_catalog::REPOSITORY_KEY;

use super::{Incoming, ObjectInfo, ObjectKey, ObjectStore, StoreError, StoreErrorKind};
use crate::failpoint;
use crate::fsync::{self, Growing, WriteError};

/// Where bytes are collected before an object gets its name. A part that begins with a dot is no object.
const INCOMING: &str = ".incoming";

/// How often what crashed writers left there is removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// Objects as files below one folder. Files have mode 0600 and folders 0700; whoever else should read them needs the
/// same account, or root.
///
/// The folder is often where a file system is mounted, and still there, empty or with another one, when it no longer is. So
/// it counts only as long as it has the archive that it had when it was opened. Device and inode would not do: the roots of
/// two file systems have the same, and after mounting it again, a network's has others.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    root: PathBuf,
    /// What the folder was when it was opened.
    landmark: Landmark,
    /// When this process has last cleaned up behind crashed writers.
    swept: Arc<Mutex<Option<Instant>>>,
}

/// What tells a folder from another one in its place.
#[derive(Debug, Clone)]
enum Landmark {
    /// The archive that is in it: the bytes of what it says of itself.
    Archive(Vec<u8>),
    /// Device and inode, of a folder in which an archive is still to be made.
    Folder(u64, u64),
}

impl DirectoryStore {
    /// Uses an existing folder. A folder that is absent is an error, never made: it may be a file system that is not
    /// mounted.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let failed = |error| error_in(root, "open", "the folder", error);
        let root = fs::canonicalize(root).map_err(failed)?;
        let facts = fs::metadata(&root).map_err(failed)?;
        if !facts.is_dir() {
            return Err(failed(io::ErrorKind::NotADirectory.into()));
        }
        let landmark = match fs::read(root.join(REPOSITORY_KEY)) {
            Ok(bytes) => Landmark::Archive(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Landmark::Folder(facts.dev(), facts.ino()),
            Err(error) => return Err(error_in(&root, "read", REPOSITORY_KEY, error)),
        };
        Ok(Self { root, landmark, swept: Arc::default() })
    }

    /// Makes the folder (and those above it) unless it exists, and uses it.
    pub fn create_root(root: &Path) -> Result<Self, StoreError> {
        fsync::create_directories(root).map_err(|error| error_in(root, "create", "the folder", error))?;
        Self::open(root)
    }

    fn error(&self, action: &'static str, key: &str, source: io::Error) -> StoreError {
        error_in(&self.root, action, key, source)
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// Fails with `NotFound` when the store went away, also if a folder is left in its place.
    fn present(&self) -> io::Result<()> {
        let is_it = match &self.landmark {
            Landmark::Archive(expected) => {
                let mut found = Vec::with_capacity(expected.len());
                let limit = u64::try_from(expected.len()).unwrap_or(u64::MAX).saturating_add(1);
                File::open(self.root.join(REPOSITORY_KEY))?.take(limit).read_to_end(&mut found)?;
                found == *expected
            }
            Landmark::Folder(device, inode) => {
                let facts = fs::metadata(&self.root)?;
                (facts.dev(), facts.ino()) == (*device, *inode)
            }
        };
        if is_it { Ok(()) } else { Err(io::Error::new(io::ErrorKind::NotFound, "another one has its place")) }
    }

    /// Makes the folders that are to have an object. The store's own is not made again.
    fn make_way(&self, path: &Path) -> io::Result<()> {
        self.inside(path)?;
        let mut folder = self.root.clone();
        let below = path.strip_prefix(&self.root).map_err(io::Error::other)?;
        for part in below.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            fsync::create_directory(&folder)?;
        }
        Ok(())
    }

    /// The folder for temporaries, made when needed and swept now and then.
    fn incoming(&self) -> io::Result<PathBuf> {
        self.present()?;
        failpoint::io("store.create")?;
        let folder = self.root.join(INCOMING);
        fsync::create_directory(&folder)?;
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.is_none_or(|at| at.elapsed() >= SWEEP_INTERVAL) {
            *swept = Some(Instant::now());
            let count = fsync::sweep_temporaries(&folder)?;
            if count > 0 {
                tracing::info!(store = %self.describe(), count, "removed what an interrupted writer left");
            }
        }
        Ok(folder)
    }

    /// Names a file of the store.
    fn name(&self, file: Growing, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        let path = self.path(key);
        let named = self.make_way(&path).and_then(|()| file.create_new(&path)).and_then(|size| {
            // It was, and may have got its name in what is left in its place.
            self.present().map(|()| size)
        });
        let size = named.map_err(|error| self.error("create", key.as_str(), error))?;
        Ok(ObjectInfo { key: key.clone(), size })
    }

    /// Refuses a key that a symbolic link in the store would lead elsewhere.
    fn inside(&self, path: &Path) -> io::Result<()> {
        let mut current = self.root.clone();
        let below = path.strip_prefix(&self.root).map_err(io::Error::other)?;
        for part in below.components() {
            current.push(part);
            match fs::symlink_metadata(&current) {
                Ok(facts) if facts.is_symlink() => {
                    return Err(io::Error::other(format!("{} is a symbolic link", current.display())));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn try_open(&self, key: &ObjectKey) -> io::Result<File> {
        let path = self.path(key);
        self.inside(&path)?;
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        Ok(file)
    }

    fn try_delete(&self, key: &ObjectKey) -> io::Result<()> {
        let path = self.path(key);
        self.inside(&path)?;
        if !fs::symlink_metadata(&path)?.is_file() {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        fsync::remove(&path)
    }

    /// Shows the objects below `folder`, whose key is `name`.
    fn walk(&self, folder: &Path, name: &str, visitor: &mut dyn FnMut(ObjectInfo)) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let file_name = entry.file_name();
            let Some(part) = file_name.to_str() else { continue };
            let text = if name.is_empty() { part.to_owned() } else { format!("{name}/{part}") };
            let Ok(key) = text.parse::<ObjectKey>() else { continue };
            let kind = entry.file_type()?;
            let listed = if kind.is_dir() {
                self.walk(&entry.path(), key.as_str(), visitor)
            } else if kind.is_file() {
                entry.metadata().map(|facts| visitor(ObjectInfo { key, size: facts.len() }))
            } else {
                Ok(())
            };
            match listed {
                // Somebody removed it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                listed => listed?,
            }
        }
        Ok(())
    }

    fn try_visit(&self, prefix: Option<&ObjectKey>, visitor: &mut dyn FnMut(ObjectInfo)) -> io::Result<()> {
        // A store that went away is not an empty one.
        self.present()?;
        let Some(prefix) = prefix else { return self.walk(&self.root, "", visitor) };
        let path = self.path(prefix);
        self.inside(&path)?;
        match fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_dir() => self.walk(&path, prefix.as_str(), visitor),
            Ok(facts) if facts.is_file() => {
                visitor(ObjectInfo { key: prefix.clone(), size: facts.len() });
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.present(),
            Err(error) => Err(error),
        }
    }
}

impl ObjectStore for DirectoryStore {
    fn create(&self, key: &ObjectKey, body: &mut dyn Read) -> Result<ObjectInfo, StoreError> {
        let failed = |error| self.error("create", key.as_str(), error);
        let mut file = self.incoming().and_then(|folder| Growing::begin(&folder)).map_err(failed)?;
        file.fill(body).map_err(|error| match error {
            WriteError::File(error) => failed(error),
            WriteError::Body(source) => {
                let kind = StoreErrorKind::Other;
                let store = self.describe();
                StoreError { kind, action: "read the bytes of", key: key.to_string(), store, source }
            }
        })?;
        failpoint::crash("up.put.mid");
        self.name(file, key)
    }

    fn begin(&self) -> Result<Option<Box<dyn Incoming>>, StoreError> {
        let begun = self.incoming().and_then(|folder| Growing::begin(&folder));
        let file = begun.map_err(|error| self.error("begin", "an object", error))?;
        Ok(Some(Box::new(IncomingFile { store: self.clone(), file })))
    }

    fn lacking(&self, key: &ObjectKey) -> Result<Option<String>, StoreError> {
        match self.try_open(key) {
            Ok(_) => Ok(None),
            // A store that went away lacks everything.
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.present() {
                Ok(()) => Ok(Some(self.describe())),
                Err(error) => Err(self.error("open", key.as_str(), error)),
            },
            Err(error) => Err(self.error("open", key.as_str(), error)),
        }
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        let file = self.try_open(key).map_err(|error| self.error("open", key.as_str(), error))?;
        Ok(Box::new(file))
    }

    fn visit(&self, prefix: Option<&ObjectKey>, visitor: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.try_visit(prefix, visitor)
            .map_err(|error| self.error("list", prefix.map_or("objects", ObjectKey::as_str), error))
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.try_delete(key).map_err(|error| self.error("delete", key.as_str(), error))
    }

    fn describe(&self) -> String {
        self.root.display().to_string()
    }
}

/// A file of the store that has no name yet.
struct IncomingFile {
    store: DirectoryStore,
    file: Growing,
}

impl Incoming for IncomingFile {
    fn create(self: Box<Self>, key: &ObjectKey) -> Result<ObjectInfo, StoreError> {
        self.store.name(self.file, key)
    }
}

impl Write for IncomingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = failpoint::io("store.write").and_then(|()| self.file.write(bytes));
        failpoint::crash("up.put.mid");
        written.map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, self.store.error("write", "an object", error)),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn error_in(root: &Path, action: &'static str, key: &str, source: io::Error) -> StoreError {
    StoreError { kind: kind_of(&source), action, key: key.to_owned(), store: root.display().to_string(), source }
}

fn kind_of(error: &io::Error) -> StoreErrorKind {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::AlreadyExists => StoreErrorKind::Exists,
        ErrorKind::NotFound => StoreErrorKind::Missing,
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Denied,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => StoreErrorKind::Full,
        // Of ours, or in the way whenever it is tried.
        ErrorKind::Other
        | ErrorKind::InvalidInput
        | ErrorKind::InvalidData
        | ErrorKind::InvalidFilename
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::Unsupported => StoreErrorKind::Other,
        // EIO, ENOTCONN, ESTALE, EMFILE and their like: a disk, a network or a machine that may be well again.
        _ => StoreErrorKind::Transient,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract;
    use std::os::unix::fs::PermissionsExt;

    fn key(text: &str) -> ObjectKey {
        text.parse().unwrap()
    }

    #[test]
    fn keeps_the_contract() {
        contract::check(&|| {
            let folder = tempfile::tempdir().unwrap().keep();
            Box::new(DirectoryStore::open(&folder).unwrap())
        });
    }

    #[test]
    fn an_absent_folder_is_refused_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("not-mounted");
        let error = DirectoryStore::open(&absent).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Missing);
        assert!(!absent.exists());
    }

    #[test]
    fn a_folder_that_goes_away_is_missing_not_empty() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let store = DirectoryStore::create_root(&root).unwrap();
        fs::remove_dir(&root).unwrap();
        assert_eq!(store.list(None).unwrap_err().kind, StoreErrorKind::Missing);
        assert_eq!(store.list(Some(&key("segments"))).unwrap_err().kind, StoreErrorKind::Missing);
        assert_eq!(store.create(&key("a"), &mut &b""[..]).unwrap_err().kind, StoreErrorKind::Missing);
        assert!(!root.exists());
    }

    #[test]
    fn nothing_is_made_where_the_folder_was() {
        let folder = tempfile::tempdir().unwrap();
        let (root, away) = (folder.path().join("store"), folder.path().join("away"));
        let store = DirectoryStore::create_root(&root).unwrap();
        let mut begun = store.begin().unwrap().unwrap();
        begun.write_all(b"sealed").unwrap();
        fs::rename(&root, &away).unwrap();
        assert_eq!(begun.create(&key("a/b")).unwrap_err().kind, StoreErrorKind::Missing);
        assert!(!root.exists());
    }

    /// A file system that is not mounted any more leaves the folder that it was mounted on.
    #[test]
    fn a_folder_in_the_stores_place_is_not_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let (root, away) = (folder.path().join("store"), folder.path().join("away"));
        let made = DirectoryStore::create_root(&root).unwrap();
        made.create(&key(REPOSITORY_KEY), &mut &b"{}"[..]).unwrap();
        let store = DirectoryStore::open(&root).unwrap();
        let mut begun = store.begin().unwrap().unwrap();
        begun.write_all(b"sealed").unwrap();
        fs::rename(&root, &away).unwrap();
        fs::create_dir(&root).unwrap();
        assert_eq!(store.create(&key("a"), &mut &b""[..]).unwrap_err().kind, StoreErrorKind::Missing);
        assert_eq!(store.begin().err().unwrap().kind, StoreErrorKind::Missing);
        assert_eq!(store.list(None).unwrap_err().kind, StoreErrorKind::Missing);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        assert_eq!(made.begin().err().unwrap().kind, StoreErrorKind::Missing);
        assert_eq!(begun.create(&key("b")).unwrap_err().kind, StoreErrorKind::Missing);
        // Another archive.
        fs::write(root.join(REPOSITORY_KEY), b"[]").unwrap();
        assert_eq!(store.create(&key("a"), &mut &b""[..]).unwrap_err().kind, StoreErrorKind::Missing);
        // Mounted again, under another number.
        fs::write(root.join(REPOSITORY_KEY), b"{}").unwrap();
        store.create(&key("a"), &mut &b""[..]).unwrap();
        assert_eq!(store.list(None).unwrap().len(), 2);
    }

    #[test]
    fn what_a_disk_or_a_network_answers_is_worth_another_try() {
        use rustix::io::Errno;
        for errno in
            [Errno::IO, Errno::NOTCONN, Errno::STALE, Errno::MFILE, Errno::NFILE, Errno::HOSTDOWN, Errno::AGAIN]
        {
            assert_eq!(kind_of(&errno.into()), StoreErrorKind::Transient, "{errno:?}");
        }
        for errno in [Errno::NOTDIR, Errno::INVAL] {
            assert_eq!(kind_of(&errno.into()), StoreErrorKind::Other, "{errno:?}");
        }
        assert_eq!(kind_of(&io::Error::other("a symbolic link")), StoreErrorKind::Other);
    }

    #[test]
    fn everything_made_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryStore::create_root(&folder.path().join("store")).unwrap();
        store.create(&key("a/b"), &mut &b"x"[..]).unwrap();
        let mode = |path: &str| {
            let path = folder.path().join("store").join(path);
            fs::metadata(path).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode(""), mode("a"), mode("a/b"), mode(".incoming")), (0o700, 0o700, 0o600, 0o700));
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("secret"), b"s").unwrap();
        let store = DirectoryStore::create_root(&root).unwrap();
        std::os::unix::fs::symlink(&elsewhere, root.join("link")).unwrap();
        assert!(store.open(&key("link/secret")).is_err());
        assert!(store.create(&key("link/new"), &mut &b""[..]).is_err());
        assert!(store.delete(&key("link/secret")).is_err());
        assert!(store.list(None).unwrap().is_empty());
        assert!(elsewhere.join("secret").exists() && !elsewhere.join("new").exists());
    }

    #[test]
    fn leftovers_of_a_crash_are_no_objects_and_are_removed_by_the_next_writer() {
        let folder = tempfile::tempdir().unwrap();
        let incoming = folder.path().join(INCOMING);
        fs::create_dir(&incoming).unwrap();
        fs::write(incoming.join(".incoming-dead"), b"half").unwrap();
        let store = DirectoryStore::open(folder.path()).unwrap();
        assert!(store.list(None).unwrap().is_empty());
        assert!(incoming.join(".incoming-dead").exists(), "reading changes nothing");
        store.create(&key("a"), &mut &b""[..]).unwrap();
        assert!(!incoming.join(".incoming-dead").exists());
    }
}
