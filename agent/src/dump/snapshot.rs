//! One point in the source's history, and a connection that sees exactly that.
//!
//! What is visible in a snapshot and what `@@gtid_executed` says agree only while no transaction can commit: InnoDB shows
//! a commit before the server adds its GTID to the set. So the snapshot is opened, and the set read, under a lock that
//! keeps commits out for some milliseconds:
//! - `FLUSH TABLES WITH READ LOCK`. It waits for running statements, and even when it gives up, statements on the tables
//!   of a long one wait until that has ended. So it is tried only when no statement runs for long.
//! - `LOCK TABLES … READ` on all tables. It waits for open transactions that have written, not for readers.
//!
//! Neither keeps schema changes out after that; `LOCK INSTANCE FOR BACKUP` does, for the whole dump, and lets rows be
//! written. It is taken under the short lock and never before it: whoever waits for it holds what the short lock waits for.
//! Without it the caller compares the schema before and after.

use std::time::{Duration, Instant};

use highwater_binlog::{BinlogPosition, GtidSet};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::{sleep, timeout};

use super::error::DumpError;
use super::privileges::Privileges;
use super::scope::{Scope, Table, prepared_xa};
use super::session::{Doing, error_code, record, records, run};
use crate::failpoint;

/// One try for the short lock lasts this long: so long other sessions may have to wait behind it.
const LOCK_WAIT_SECONDS: u64 = 3;

/// A try that has no answer after this long never gets one: its connection is closed, so that no lock is held unnoticed.
const LOCK_ANSWER_MAX: Duration = Duration::from_secs(LOCK_WAIT_SECONDS + 7);

/// Between two tries the others get this much time.
const PAUSE: Duration = Duration::from_secs(2);

/// A statement that runs longer than this keeps `FLUSH TABLES WITH READ LOCK` from being tried.
const LONG_STATEMENT_SECONDS: u64 = 2;

/// How long the dump waits for prepared XA transactions to be decided.
const XA_WAIT: Duration = Duration::from_secs(30);

/// What is done under the lock must be done in this time; else the connections are closed, and the lock is gone.
const LOCKED_MAX: Duration = Duration::from_secs(20);

/// A session with the short lock from which nothing comes for so long is closed by the server: a dump that vanished while it
/// had the lock keeps nobody from writing.
const LOCKER_IDLE_SECONDS: u64 = 30;

/// The same without that lock: tables may be read for days.
const IDLE_SECONDS: u64 = 604_800;

/// A dump that waits says so this often.
const TOLD_EVERY: Duration = Duration::from_secs(20);

/// What `LOCK INSTANCE FOR BACKUP` needs.
pub(super) const BACKUP_LOCK_PRIVILEGE: &str = "BACKUP_ADMIN";

/// `ER_LOCK_WAIT_TIMEOUT`, `ER_LOCK_DEADLOCK`
const LOCK_NOT_HAD: [u16; 2] = [1205, 1213];

/// `ER_NO_SUCH_TABLE`
const NO_SUCH_TABLE: u16 = 1146;

/// A point in the source's history.
#[derive(Debug, Clone)]
pub(super) struct Point {
    /// Exactly the transactions the snapshot shows.
    pub(super) gtids: GtidSet,
    /// The binlog position, where the account may see it.
    pub(super) position: Option<BinlogPosition>,
    /// The lock that was used.
    pub(super) lock: Lock,
    /// Whether `LOCK INSTANCE FOR BACKUP` was had before the snapshot was opened, and is held.
    pub(super) instance_locked: bool,
    /// When the lock was had.
    locked: Instant,
}

/// What keeps commits out for a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// `FLUSH TABLES WITH READ LOCK`
    Global,
    /// `LOCK TABLES … READ`
    Tables,
}

impl Lock {
    fn name(self) -> &'static str {
        match self {
            Self::Global => "FLUSH TABLES WITH READ LOCK",
            Self::Tables => "LOCK TABLES",
        }
    }
}

/// Opens the snapshot on `reader`, with `LOCK INSTANCE FOR BACKUP` on it from before the snapshot if the account may take
/// that: it is held until the connection closes or [`unlock_instance`] is called. The short lock stays on `locker` until
/// [`release`].
pub(super) async fn open(
    reader: &mut Conn,
    locker: &mut Conn,
    privileges: &Privileges,
    mut tables: Vec<Table>,
    wait: Duration,
) -> Result<Point, DumpError> {
    let started = Instant::now();
    let mut told = started;
    let mut xa_since: Option<Instant> = None;
    let mut tried: Vec<&'static str> = Vec::new();
    for conn in [&mut *reader, &mut *locker] {
        run(conn, &format!("SET SESSION lock_wait_timeout = {LOCK_WAIT_SECONDS}")).await?;
    }
    run(locker, &format!("SET SESSION wait_timeout = {LOCKER_IDLE_SECONDS}")).await?;
    loop {
        if let Some(lock) = next_lock(locker, privileges).await? {
            if !tried.contains(&lock.name()) {
                tried.push(lock.name());
            }
            match attempt(reader, locker, privileges, lock, &tables).await? {
                Attempt::Open(point) => return Ok(point),
                Attempt::LockNotHad => {}
                Attempt::OtherTables(found) => tables = found,
                Attempt::XaPrepared(transactions) => {
                    let since = *xa_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= XA_WAIT.min(wait) {
                        return Err(DumpError::XaPrepared { transactions });
                    }
                }
            }
        }
        let tried = if tried.is_empty() { "long statements".to_owned() } else { tried.join(", ") };
        if started.elapsed() >= wait {
            return Err(gave_up(wait, &tried));
        }
        if told.elapsed() >= TOLD_EVERY {
            told = Instant::now();
            tracing::info!(tried, seconds = started.elapsed().as_secs(), "dump waits for its lock");
        }
        sleep(PAUSE).await;
    }
}

/// Proves that the backup lock was held until now, and releases it.
pub(super) async fn unlock_instance(reader: &mut Conn) -> Result<(), DumpError> {
    run(reader, "UNLOCK INSTANCE").await
}

/// Releases the lock and says how the point was reached.
pub(super) async fn release(locker: &mut Conn, point: &Point) -> Result<String, DumpError> {
    run(locker, "UNLOCK TABLES").await?;
    keep(locker).await?;
    let held = point.locked.elapsed().as_millis();
    let ddl = if point.instance_locked { "LOCK INSTANCE FOR BACKUP" } else { "schema compared before and after" };
    Ok(format!("{ddl}; {} held {held} ms for the snapshot", point.lock.name()))
}

/// Lets the locking session be idle.
pub(super) async fn keep(locker: &mut Conn) -> Result<(), DumpError> {
    run(locker, &format!("SET SESSION wait_timeout = {IDLE_SECONDS}")).await
}

/// What came of one try.
enum Attempt {
    /// The snapshot is open, under all locks.
    Open(Point),
    /// A lock was not to be had in time. None is held.
    LockNotHad,
    /// These are the tables now, and not all of them were locked. No lock is held.
    OtherTables(Vec<Table>),
    /// There are so many prepared XA transactions. No lock is held.
    XaPrepared(usize),
}

/// Tries once. Whatever keeps the snapshot from being opened, no lock stays: a schema change, and the event scheduler with
/// any event, waits for the backup lock while it holds what `FLUSH TABLES WITH READ LOCK` and `LOCK TABLES` wait for, and the
/// server sees no deadlock in that.
async fn attempt(
    reader: &mut Conn,
    locker: &mut Conn,
    privileges: &Privileges,
    lock: Lock,
    tables: &[Table],
) -> Result<Attempt, DumpError> {
    match acquire(locker, lock, tables).await? {
        Acquired::Locked => {}
        Acquired::NotHad => return Ok(Attempt::LockNotHad),
        Acquired::NoSuchTable => return Ok(Attempt::OtherTables(Scope::read(reader).await?.tables)),
    }
    let locked = timeout(LOCKED_MAX, open_locked(reader, locker, privileges, lock, tables));
    let opened = locked.await.map_err(|_| gave_up(LOCKED_MAX, "the snapshot itself"))??;
    match opened {
        Attempt::Open(_) => {}
        Attempt::LockNotHad | Attempt::OtherTables(_) | Attempt::XaPrepared(_) => {
            run(locker, "UNLOCK TABLES").await?;
            if privileges.has(BACKUP_LOCK_PRIVILEGE) {
                unlock_instance(reader).await?;
            }
        }
    }
    Ok(opened)
}

async fn open_locked(
    reader: &mut Conn,
    locker: &mut Conn,
    privileges: &Privileges,
    lock: Lock,
    tables: &[Table],
) -> Result<Attempt, DumpError> {
    let locked = Instant::now();
    let instance_locked = privileges.has(BACKUP_LOCK_PRIVILEGE);
    if instance_locked && !acquire_instance(reader).await? {
        return Ok(Attempt::LockNotHad);
    }
    if instance_locked && lock == Lock::Tables {
        // Rows of a table that is not locked could be committed between the snapshot and the GTID set.
        let found = Scope::read(reader).await?.tables;
        if found != tables {
            return Ok(Attempt::OtherTables(found));
        }
    }
    // A transaction that is prepared is in the GTID set, and its rows are in no snapshot.
    let prepared = prepared_xa(locker).await?;
    if prepared > 0 {
        return Ok(Attempt::XaPrepared(prepared));
    }
    run(reader, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
    failpoint::crash("dump.snapshot");
    let gtids = record(locker, "@@gtid_executed", "SELECT @@GLOBAL.gtid_executed".to_owned()).await?.text_at(0)?;
    let gtids =
        gtids.parse().map_err(|err| DumpError::Answer { statement: "@@gtid_executed", what: format!("{err}") })?;
    let position = position(locker).await?;
    Ok(Attempt::Open(Point { gtids, position, lock, instance_locked, locked }))
}

/// Keeps schema changes out. Under the global lock none can be under way, so that nothing is waited for.
async fn acquire_instance(reader: &mut Conn) -> Result<bool, DumpError> {
    match reader.query_drop("LOCK INSTANCE FOR BACKUP").await {
        Ok(()) => Ok(true),
        Err(err) if is_lock_not_had(&err) => Ok(false),
        Err(err) => Err(err).doing(|| "LOCK INSTANCE FOR BACKUP".to_owned()),
    }
}

/// The lock to try now; none while a long statement forbids the only one allowed.
async fn next_lock(locker: &mut Conn, privileges: &Privileges) -> Result<Option<Lock>, DumpError> {
    let by_table = privileges.has("LOCK TABLES").then_some(Lock::Tables);
    if !privileges.may_lock_globally() {
        return Ok(by_table);
    }
    // Without PROCESS other accounts' statements are not shown.
    let quiet = match by_table {
        Some(_) => privileges.has("PROCESS") && !has_long_statement(locker).await?,
        None => !has_long_statement(locker).await?,
    };
    Ok(if quiet { Some(Lock::Global) } else { by_table })
}

async fn has_long_statement(locker: &mut Conn) -> Result<bool, DumpError> {
    let threads = records(locker, "SHOW PROCESSLIST", "SHOW PROCESSLIST".to_owned()).await?;
    for thread in &threads {
        let works = matches!(thread.required("Command")?, b"Query" | b"Execute");
        let own = matches!(thread.bytes("User"), Some(b"system user" | b"event_scheduler"));
        let seconds: i64 = match thread.bytes("Time") {
            Some(_) => thread.text("Time")?.parse().unwrap_or(0),
            None => 0,
        };
        if works && !own && seconds >= i64::try_from(LONG_STATEMENT_SECONDS).unwrap_or(i64::MAX) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What came of asking for the short lock.
enum Acquired {
    Locked,
    NotHad,
    /// A table was dropped since they were listed.
    NoSuchTable,
}

async fn acquire(locker: &mut Conn, lock: Lock, tables: &[Table]) -> Result<Acquired, DumpError> {
    let statement = match lock {
        Lock::Global => "FLUSH TABLES WITH READ LOCK".to_owned(),
        Lock::Tables if tables.is_empty() => return Ok(Acquired::Locked),
        Lock::Tables => {
            let list: Vec<String> = tables.iter().map(|table| format!("{} READ", table.quoted())).collect();
            format!("LOCK TABLES {}", list.join(", "))
        }
    };
    match timeout(LOCK_ANSWER_MAX, locker.query_drop(statement)).await {
        Err(_) => Err(gave_up(LOCK_ANSWER_MAX, lock.name())),
        Ok(Ok(())) => Ok(Acquired::Locked),
        Ok(Err(err)) if is_lock_not_had(&err) => Ok(Acquired::NotHad),
        Ok(Err(err)) if error_code(&err) == Some(NO_SUCH_TABLE) => Ok(Acquired::NoSuchTable),
        Ok(Err(err)) => Err(err).doing(|| lock.name().to_owned()),
    }
}

/// The statement has another name from 8.2 on, and needs `REPLICATION CLIENT`.
async fn position(locker: &mut Conn) -> Result<Option<BinlogPosition>, DumpError> {
    for statement in ["SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"] {
        let Ok(rows) = records(locker, "SHOW BINARY LOG STATUS", statement.to_owned()).await else { continue };
        let Some(row) = rows.first() else { return Ok(None) };
        let (binlog, offset) = (row.text("File")?.parse(), row.text("Position")?.parse());
        return Ok(match (binlog, offset) {
            (Ok(binlog), Ok(offset)) => Some(BinlogPosition { binlog, offset }),
            _ => None,
        });
    }
    Ok(None)
}

fn is_lock_not_had(error: &mysql_async::Error) -> bool {
    error_code(error).is_some_and(|code| LOCK_NOT_HAD.contains(&code))
}

fn gave_up(wait: Duration, tried: &str) -> DumpError {
    DumpError::Lock { seconds: wait.as_secs(), tried: tried.to_owned() }
}
