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
//! written. Without it the caller compares the schema before and after.

use std::time::{Duration, Instant};

use highwater_binlog::{BinlogPosition, GtidSet};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::{sleep, timeout};

use super::error::DumpError;
use super::privileges::Privileges;
use super::scope::{Table, prepared_xa};
use super::session::{Doing, error_code, record, records, run};

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

/// `ER_LOCK_WAIT_TIMEOUT`, `ER_LOCK_DEADLOCK`
const LOCK_NOT_HAD: [u16; 2] = [1205, 1213];

/// A point in the source's history.
#[derive(Debug, Clone)]
pub(super) struct Point {
    /// Exactly the transactions the snapshot shows.
    pub(super) gtids: GtidSet,
    /// The binlog position, where the account may see it.
    pub(super) position: Option<BinlogPosition>,
    /// The lock that was used.
    pub(super) lock: Lock,
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

/// Takes `LOCK INSTANCE FOR BACKUP` on the reading connection, if the account may. It is held until that connection
/// closes or [`unlock_instance`] is called.
pub(super) async fn lock_instance(
    reader: &mut Conn,
    privileges: &Privileges,
    wait: Duration,
) -> Result<bool, DumpError> {
    if !privileges.has("BACKUP_ADMIN") {
        return Ok(false);
    }
    let started = Instant::now();
    run(reader, &format!("SET SESSION lock_wait_timeout = {LOCK_WAIT_SECONDS}")).await?;
    loop {
        match reader.query_drop("LOCK INSTANCE FOR BACKUP").await {
            Ok(()) => break,
            Err(err) if is_lock_not_had(&err) && started.elapsed() < wait => sleep(PAUSE).await,
            Err(err) if is_lock_not_had(&err) => return Err(gave_up(wait, "LOCK INSTANCE FOR BACKUP")),
            Err(err) => return Err(err).doing(|| "LOCK INSTANCE FOR BACKUP".to_owned()),
        }
    }
    Ok(true)
}

/// Proves that the backup lock was held until now, and releases it.
pub(super) async fn unlock_instance(reader: &mut Conn) -> Result<(), DumpError> {
    run(reader, "UNLOCK INSTANCE").await
}

/// Opens the snapshot on `reader`. The lock stays on `locker` until [`release`].
pub(super) async fn open(
    reader: &mut Conn,
    locker: &mut Conn,
    privileges: &Privileges,
    tables: &[Table],
    wait: Duration,
) -> Result<Point, DumpError> {
    let started = Instant::now();
    let mut xa_since: Option<Instant> = None;
    let mut tried: Vec<&'static str> = Vec::new();
    run(locker, &format!("SET SESSION lock_wait_timeout = {LOCK_WAIT_SECONDS}")).await?;
    loop {
        if let Some(lock) = next_lock(locker, privileges).await? {
            if !tried.contains(&lock.name()) {
                tried.push(lock.name());
            }
            if acquire(locker, lock, tables).await? {
                match timeout(LOCKED_MAX, open_locked(reader, locker, lock)).await {
                    Err(_) => return Err(gave_up(LOCKED_MAX, "the snapshot itself")),
                    Ok(Err(err)) => return Err(err),
                    Ok(Ok(Locked::Open(point))) => return Ok(point),
                    Ok(Ok(Locked::XaPrepared(transactions))) => {
                        let since = *xa_since.get_or_insert_with(Instant::now);
                        if since.elapsed() >= XA_WAIT.min(wait) {
                            return Err(DumpError::XaPrepared { transactions });
                        }
                    }
                }
            }
        }
        if started.elapsed() >= wait {
            return Err(gave_up(wait, &if tried.is_empty() { "long statements".to_owned() } else { tried.join(", ") }));
        }
        sleep(PAUSE).await;
    }
}

/// Releases the lock and says how the point was reached.
pub(super) async fn release(locker: &mut Conn, point: &Point, instance_locked: bool) -> Result<String, DumpError> {
    run(locker, "UNLOCK TABLES").await?;
    let held = point.locked.elapsed().as_millis();
    let ddl = if instance_locked { "LOCK INSTANCE FOR BACKUP" } else { "schema compared before and after" };
    Ok(format!("{ddl}; {} held {held} ms for the snapshot", point.lock.name()))
}

enum Locked {
    Open(Point),
    XaPrepared(usize),
}

async fn open_locked(reader: &mut Conn, locker: &mut Conn, lock: Lock) -> Result<Locked, DumpError> {
    let locked = Instant::now();
    // A transaction that is prepared is in the GTID set, and its rows are in no snapshot.
    let prepared = prepared_xa(locker).await?;
    if prepared > 0 {
        run(locker, "UNLOCK TABLES").await?;
        return Ok(Locked::XaPrepared(prepared));
    }
    run(reader, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY").await?;
    let gtids = record(locker, "@@gtid_executed", "SELECT @@GLOBAL.gtid_executed".to_owned()).await?.text_at(0)?;
    let gtids =
        gtids.parse().map_err(|err| DumpError::Answer { statement: "@@gtid_executed", what: format!("{err}") })?;
    let position = position(locker).await?;
    Ok(Locked::Open(Point { gtids, position, lock, locked }))
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

async fn acquire(locker: &mut Conn, lock: Lock, tables: &[Table]) -> Result<bool, DumpError> {
    let statement = match lock {
        Lock::Global => "FLUSH TABLES WITH READ LOCK".to_owned(),
        Lock::Tables if tables.is_empty() => return Ok(true),
        Lock::Tables => {
            let list: Vec<String> = tables.iter().map(|table| format!("{} READ", table.quoted())).collect();
            format!("LOCK TABLES {}", list.join(", "))
        }
    };
    match timeout(LOCK_ANSWER_MAX, locker.query_drop(statement)).await {
        Err(_) => Err(gave_up(LOCK_ANSWER_MAX, lock.name())),
        Ok(Ok(())) => Ok(true),
        Ok(Err(err)) if is_lock_not_had(&err) => Ok(false),
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
