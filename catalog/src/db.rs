//! The catalog: an SQLite index of one archive. A cache: the store is the truth, and [`Catalog::replace_all`] makes the
//! catalog again from it.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use crate::check::{Check, RecordError};
use crate::names::ManifestName;
use crate::record::{Dump, Inventory, KeptFile, KeyGeneration, Segment, Timeline, TimelineId};
use crate::repository::RepositoryId;

mod dumps;
mod files;
mod keys;
mod rows;
mod schema;
mod segments;
mod timelines;

/// How long a writer waits for another process's transaction, such as a rebuild.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// What went wrong with a catalog.
#[derive(Debug, thiserror::Error)]
#[error("catalog {path}: {problem}")]
pub struct CatalogError {
    /// Its file.
    pub path: String,
    /// What is wrong.
    pub problem: CatalogProblem,
}

impl CatalogError {
    /// What the operator can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match &self.problem {
            CatalogProblem::OtherRepository { .. } => {
                "check state_dir and the store's address: they are of two archives"
            }
            CatalogProblem::NotACatalog => "check state_dir: this file belongs to something else",
            CatalogProblem::Newer => "a newer highwater wrote it: use that version, or remove the file and rebuild it",
            CatalogProblem::Damaged { .. } | CatalogProblem::Row { .. } => {
                "remove the file and run `highwater catalog rebuild`: nothing but the store is needed"
            }
            CatalogProblem::Conflict { .. } => {
                "the store is the truth: run `highwater catalog rebuild`, then look for a second agent on this archive"
            }
            CatalogProblem::NoTimeline { .. } => "the manifest of its timeline is gone from the store",
            CatalogProblem::Record { .. } => "the record is not one that a manifest could hold",
            CatalogProblem::Full => "make room on the file system of state_dir",
            CatalogProblem::Busy => "another highwater process uses it: try again",
            CatalogProblem::Io(_) | CatalogProblem::Sqlite(_) => "check state_dir and its permissions",
        }
    }
}

/// What is wrong with a catalog.
#[derive(Debug, thiserror::Error)]
pub enum CatalogProblem {
    /// It indexes another archive.
    #[error("belongs to repository {found}, not to {expected}")]
    OtherRepository {
        /// The archive it indexes.
        found: String,
        /// The archive that was asked for.
        expected: RepositoryId,
    },
    /// It is another program's database, or no database.
    #[error("is not a catalog")]
    NotACatalog,
    /// Its schema is newer than this software.
    #[error("has a newer schema than this software knows")]
    Newer,
    /// SQLite finds it damaged.
    #[error("is damaged: {detail}")]
    Damaged {
        /// What SQLite says.
        detail: String,
    },
    /// A row says what no record can.
    #[error("row of {name}: {error}")]
    Row {
        /// The record's manifest.
        name: String,
        /// What it says.
        error: RecordError,
    },
    /// A different record has that identity already.
    #[error("already has another record for {name}")]
    Conflict {
        /// The record's manifest.
        name: String,
    },
    /// The record's timeline, or its timeline's parent, is not in the catalog.
    #[error("has no timeline for {name}")]
    NoTimeline {
        /// The record's manifest.
        name: String,
    },
    /// The record to be written makes no sense.
    #[error("{name}: {error}")]
    Record {
        /// The record's manifest.
        name: String,
        /// What is wrong with it.
        error: RecordError,
    },
    /// No space left.
    #[error("no space left")]
    Full,
    /// Another process kept it locked.
    #[error("locked by another process")]
    Busy,
    /// The file cannot be created.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Anything else that SQLite reports.
    #[error(transparent)]
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for CatalogProblem {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::NotACatalog,
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { detail: error.to_string() },
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::Sqlite(error),
        }
    }
}

/// An open catalog.
#[derive(Debug)]
pub struct Catalog {
    path: PathBuf,
    connection: Connection,
}

impl Catalog {
    /// Opens the catalog of the archive `repository`, or creates an empty one that only its owner can read.
    ///
    /// # Errors
    /// Also if the file is damaged, belongs to another archive or has a newer schema: it is left as it is then.
    pub fn open(path: &Path, repository: RepositoryId) -> Result<Self, CatalogError> {
        let connection = connect(path, repository).map_err(|problem| error(path, problem))?;
        Ok(Self { path: path.to_owned(), connection })
    }

    /// Counts the transactions that changed this catalog.
    pub fn generation(&self) -> Result<u64, CatalogError> {
        let read = || rows::number(self.connection.query_row("SELECT generation FROM archive", [], |row| row.get(0))?);
        read().map_err(|problem| error(&self.path, problem))
    }

    /// Records a timeline; once more is no error.
    pub fn record_timeline(&mut self, timeline: &Timeline) -> Result<(), CatalogError> {
        self.record(slice::from_ref(timeline))
    }

    /// Records a segment; once more is no error.
    pub fn record_segment(&mut self, segment: &Segment) -> Result<(), CatalogError> {
        self.record(slice::from_ref(segment))
    }

    /// Records segments, all or none of them; once more is no error.
    pub fn record_segments(&mut self, segments: &[Segment]) -> Result<(), CatalogError> {
        self.record(segments)
    }

    /// Records a dump; once more is no error.
    pub fn record_dump(&mut self, dump: &Dump) -> Result<(), CatalogError> {
        self.record(slice::from_ref(dump))
    }

    /// Records a key bundle; once more is no error.
    pub fn record_keys(&mut self, keys: &KeyGeneration) -> Result<(), CatalogError> {
        self.record(slice::from_ref(keys))
    }

    /// Records a kept file; once more is no error.
    pub fn record_file(&mut self, file: &KeptFile) -> Result<(), CatalogError> {
        self.record(slice::from_ref(file))
    }

    /// Everything in it, in the inventory's order.
    pub fn load(&mut self) -> Result<Inventory, CatalogError> {
        self.in_transaction(TransactionBehavior::Deferred, |transaction| {
            Ok(Inventory { segments: Segment::all(transaction)?, ..without_segments(transaction)? })
        })
    }

    /// The same without segments: of them there are more every few seconds.
    pub fn load_without_segments(&mut self) -> Result<Inventory, CatalogError> {
        self.in_transaction(TransactionBehavior::Deferred, without_segments)
    }

    /// The segments of a timeline from number `from` on, in order, `most` of them at most.
    pub fn segments_from(
        &mut self,
        timeline: TimelineId,
        from: u64,
        most: usize,
    ) -> Result<Vec<Segment>, CatalogError> {
        self.in_transaction(TransactionBehavior::Deferred, |transaction| {
            segments::from(transaction, timeline, from, most)
        })
    }

    /// Makes it hold exactly `inventory`: all of it, or nothing changes.
    pub fn replace_all(&mut self, inventory: &Inventory) -> Result<(), CatalogError> {
        let inventory = inventory.clone().sorted();
        self.in_transaction(TransactionBehavior::Immediate, |transaction| {
            transaction.execute_batch(schema::DELETE_ALL)?;
            inventory.timelines.iter().try_for_each(|timeline| insert(transaction, timeline))?;
            inventory.segments.iter().try_for_each(|segment| insert(transaction, segment))?;
            inventory.dumps.iter().try_for_each(|dump| insert(transaction, dump))?;
            inventory.keys.iter().try_for_each(|keys| insert(transaction, keys))?;
            inventory.files.iter().try_for_each(|file| insert(transaction, file))?;
            count(transaction)
        })
    }

    fn record<R: Stored>(&mut self, records: &[R]) -> Result<(), CatalogError> {
        self.in_transaction(TransactionBehavior::Immediate, |transaction| {
            let mut is_changed = false;
            for record in records {
                match R::find(transaction, record)? {
                    Some(known) if known == *record => {}
                    Some(_) => return Err(CatalogProblem::Conflict { name: record.name().key() }),
                    None => {
                        insert(transaction, record)?;
                        is_changed = true;
                    }
                }
            }
            if is_changed { count(transaction) } else { Ok(()) }
        })
    }

    fn in_transaction<T>(
        &mut self,
        behavior: TransactionBehavior,
        act: impl FnOnce(&Transaction<'_>) -> Result<T, CatalogProblem>,
    ) -> Result<T, CatalogError> {
        let path = &self.path;
        let transaction = self.connection.transaction_with_behavior(behavior).map_err(|e| error(path, e.into()))?;
        let result = act(&transaction).map_err(|problem| error(path, problem))?;
        transaction.commit().map_err(|e| error(path, e.into()))?;
        Ok(result)
    }
}

/// A record that has rows.
trait Stored: Check + PartialEq + Sized {
    /// Its identity.
    fn name(&self) -> ManifestName;

    /// Writes its rows.
    fn insert(&self, transaction: &Transaction<'_>) -> Result<(), CatalogProblem>;

    /// The record with the identity of `like`.
    fn find(transaction: &Transaction<'_>, like: &Self) -> Result<Option<Self>, CatalogProblem>;

    /// All records, in the inventory's order.
    fn all(transaction: &Transaction<'_>) -> Result<Vec<Self>, CatalogProblem>;
}

fn without_segments(transaction: &Transaction<'_>) -> Result<Inventory, CatalogProblem> {
    Ok(Inventory {
        timelines: Timeline::all(transaction)?,
        segments: Vec::new(),
        dumps: Dump::all(transaction)?,
        keys: KeyGeneration::all(transaction)?,
        files: KeptFile::all(transaction)?,
    })
}

fn insert<R: Stored>(transaction: &Transaction<'_>, record: &R) -> Result<(), CatalogProblem> {
    let name = || record.name().key();
    record.check().map_err(|error| CatalogProblem::Record { name: name(), error })?;
    record.insert(transaction).map_err(|problem| match &problem {
        CatalogProblem::Sqlite(error) => match error.sqlite_error().map(|e| e.extended_code) {
            Some(rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY) => CatalogProblem::NoTimeline { name: name() },
            Some(rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY | rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE) => {
                CatalogProblem::Conflict { name: name() }
            }
            _ => problem,
        },
        _ => problem,
    })
}

fn count(transaction: &Transaction<'_>) -> Result<(), CatalogProblem> {
    transaction.execute("UPDATE archive SET generation = generation + 1", [])?;
    Ok(())
}

fn error(path: &Path, problem: CatalogProblem) -> CatalogError {
    CatalogError { path: path.display().to_string(), problem }
}

fn connect(path: &Path, repository: RepositoryId) -> Result<Connection, CatalogProblem> {
    // One process at a time: neither SQLite's switch to WAL nor a migration waits for another one's.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let opening = File::open(folder)?;
    opening.lock()?;
    // Created here and not by SQLite, for its mode; SQLite gives the same one to -wal and -shm.
    match OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        Ok(_) | Err(_) => {}
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    schema::refuse_strangers(&connection)?;
    refuse_damage(&connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    schema::migrate(&mut connection)?;
    belongs_to(&mut connection, repository)?;
    Ok(connection)
}

fn refuse_damage(connection: &Connection) -> Result<(), CatalogProblem> {
    let detail: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if detail == "ok" { Ok(()) } else { Err(CatalogProblem::Damaged { detail }) }
}

fn belongs_to(connection: &mut Connection, expected: RepositoryId) -> Result<(), CatalogProblem> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found =
        transaction.query_row("SELECT repository FROM archive", [], |row| row.get::<_, String>(0)).optional()?;
    match found {
        Some(found) if found == expected.to_string() => {}
        Some(found) => return Err(CatalogProblem::OtherRepository { found, expected }),
        None => {
            let insert = "INSERT INTO archive (one, repository, generation) VALUES (1, ?1, 0)";
            transaction.execute(insert, [expected.to_string()])?;
        }
    }
    transaction.commit()?;
    Ok(())
}
