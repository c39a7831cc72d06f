//! Taking a dump.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use std::collections::BTreeSet;

use highwater_binlog::{BinlogPosition, GtidSet, ServerUuid};
use highwater_catalog::{Dump, DumpFile, DumpId, Micros, TimelineId};
use mysql_async::Conn;

use super::chunks::{CHUNK_BYTES, Chunks};
use super::error::DumpError;
use super::files::FileWriter;
use super::part::Part;
use super::privileges::Privileges;
use super::pulse;
use super::scope::Scope;
use super::session::{Doing, prepare_reader, run};
use super::snapshot::{self, Point};
use super::sql_file::SqlOut;
use super::{accounts, objects, schema};
use crate::archive::{Archive, DumpWriter};
use crate::failpoint;
use crate::server::ServerLogin;
use crate::source::{GtidMode, ServerFacts, Session};

/// How a dump is taken.
#[derive(Debug, Clone)]
pub struct DumpOptions {
    /// The timeline whose history the dump is a point of.
    pub timeline: TimelineId,
    /// Dump tables in engines without transactions too; writes to the whole server wait while these are read.
    pub allow_non_transactional: bool,
    /// How long to wait for a moment at which the snapshot can be opened.
    pub lock_wait: Duration,
    /// A file of rows ends after this many bytes before sealing.
    pub chunk_bytes: u64,
    /// What a server must be like to have the timeline's history; not looked at when absent.
    pub origin: Option<DumpOrigin>,
}

/// What is known of a timeline when a dump of it begins.
#[derive(Debug, Clone)]
pub struct DumpOrigin {
    /// Servers that its binlogs came from; of a timeline that has none yet it may be any.
    pub servers: BTreeSet<ServerUuid>,
    /// Transactions that were captured: every later point of the same history has them.
    pub captured: GtidSet,
}

/// The point that a dump is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpPoint {
    /// Exactly the transactions in it.
    pub gtids: GtidSet,
    /// The server whose history it is a point of.
    pub server: ServerUuid,
    /// The binlog position, where the account may see it.
    pub position: Option<BinlogPosition>,
    /// Whether every transaction has a GTID.
    pub by_gtids: bool,
}

impl DumpOptions {
    /// The defaults, for a timeline.
    #[must_use]
    pub fn new(timeline: TimelineId) -> Self {
        Self {
            timeline,
            allow_non_transactional: false,
            lock_wait: Duration::from_secs(300),
            chunk_bytes: CHUNK_BYTES,
            origin: None,
        }
    }
}

/// How far a dump is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpProgress {
    /// Tables whose rows are read.
    pub tables_done: usize,
    /// Tables in all.
    pub tables: usize,
    /// Rows read.
    pub rows: u64,
    /// Bytes of rows, before sealing.
    pub bytes: u64,
}

/// A dump that was published.
#[derive(Debug, Clone)]
pub struct TakenDump {
    /// Its record.
    pub dump: Dump,
    /// What it cannot hold, for people: one line for each column, with names.
    pub warnings: Vec<String>,
}

/// A dump that is read and stored, and invisible until it is published.
#[derive(Debug)]
pub struct UnpublishedDump {
    dump: Dump,
    writer: DumpWriter,
    warnings: Vec<String>,
}

/// Takes a dump of everything on a server and publishes it. On any failure nothing is published, and the locks end with
/// the connections.
pub async fn take(
    login: &ServerLogin,
    archive: &Archive,
    options: &DumpOptions,
    progress: &(dyn Fn(DumpProgress) + Send + Sync),
) -> Result<TakenDump, DumpError> {
    read(login, archive, options, &|_| {}, progress).await?.publish().await
}

/// Reads a dump of everything on a server into the archive, without publishing it. `reached` is told the point as soon as
/// the snapshot is open.
pub async fn read(
    login: &ServerLogin,
    archive: &Archive,
    options: &DumpOptions,
    reached: &(dyn Fn(DumpPoint) + Send + Sync),
    progress: &(dyn Fn(DumpProgress) + Send + Sync),
) -> Result<UnpublishedDump, DumpError> {
    let started = now();
    let mut reader = Session::connect(login).await?;
    let mut locker = Session::connect(login).await?;
    let facts = reader.facts().clone();
    if let Some(DumpOrigin { servers, .. }) = &options.origin
        && !servers.is_empty()
        && !servers.contains(&facts.uuid)
    {
        return Err(DumpError::OtherServer { found: facts.uuid, timeline: options.timeline });
    }
    let id = new_id(started)?;
    let writer = archive.begin_dump(id.clone())?;
    let mut work = Work { writer: FileWriter::new(writer.clone()), options, facts: &facts, reached, progress };
    let pulse = Session::connect(login).await?;
    let taken = tokio::select! {
        taken = work.read(reader.conn(), locker.conn()) => taken,
        silent = pulse::watch(pulse) => Err(silent),
    };
    // Whatever happened, the locks go with the connections.
    locker.close().await;
    reader.close().await;
    let Contents { point, method, files, warnings } = match taken {
        Ok(contents) => contents,
        Err(err) => {
            tracing::warn!(dump = %id, error = %err, "dump given up");
            return Err(err);
        }
    };
    let dump = Dump {
        id,
        timeline: options.timeline,
        server: facts.uuid,
        server_version: facts.version_text,
        gtids: point.gtids,
        position: point.position,
        started,
        finished: now(),
        method,
        files,
    };
    Ok(UnpublishedDump { dump, writer, warnings })
}

impl UnpublishedDump {
    /// Makes it visible.
    ///
    /// # Errors
    /// Those of the archive. Whether it is visible then is not known.
    pub async fn publish(self) -> Result<TakenDump, DumpError> {
        let Self { dump, writer, warnings } = self;
        failpoint::crash("dump.manifest.before");
        let publish = tokio::task::spawn_blocking(move || writer.publish(dump));
        let dump =
            publish.await.map_err(|err| DumpError::Seal { file: "manifest.json".to_owned(), source: err.into() })??;
        failpoint::crash("dump.manifest.after");
        for warning in &warnings {
            tracing::warn!(dump = %dump.id, warning, "dump is not exact");
        }
        tracing::info!(dump = %dump.id, method = dump.method, files = dump.files.len(), "dump published");
        Ok(TakenDump { dump, warnings })
    }
}

struct Contents {
    point: Point,
    method: String,
    files: Vec<DumpFile>,
    warnings: Vec<String>,
}

struct Work<'a> {
    writer: FileWriter,
    options: &'a DumpOptions,
    facts: &'a ServerFacts,
    reached: &'a (dyn Fn(DumpPoint) + Send + Sync),
    progress: &'a (dyn Fn(DumpProgress) + Send + Sync),
}

impl Work<'_> {
    async fn read(&mut self, reader: &mut Conn, locker: &mut Conn) -> Result<Contents, DumpError> {
        prepare_reader(reader).await.doing(|| "set up the reading session".to_owned())?;
        prepare_reader(locker).await.doing(|| "set up the locking session".to_owned())?;
        let privileges = Privileges::read(reader).await?;
        privileges.check()?;
        let mut scope = Scope::read(reader).await?;
        scope.check_engines(self.options.allow_non_transactional)?;
        let may_lock_instance = privileges.has(snapshot::BACKUP_LOCK_PRIVILEGE);
        let before = if may_lock_instance { None } else { Some(fingerprint(locker, &privileges).await?) };

        failpoint::crash("dump.lock.before");
        let point = snapshot::open(reader, locker, &privileges, scope.tables.clone(), self.options.lock_wait).await?;
        failpoint::crash("dump.lock.after");
        self.arrive(&point)?;
        let mut chunks = Chunks::default();
        let method = if self.options.allow_non_transactional {
            snapshot::keep(locker).await?;
            scope = self.scope_at(&point, locker, scope).await?;
            // Tables without transactions are as they were at the point only while the lock is held.
            self.read_tables(reader, &scope, scope.non_transactional(), &mut chunks).await?;
            snapshot::release(locker, &point).await?
        } else {
            let method = snapshot::release(locker, &point).await?;
            scope = self.scope_at(&point, locker, scope).await?;
            method
        };
        let instance_locked = point.instance_locked;
        failpoint::crash("dump.unlock");

        let mut files = Vec::new();
        let mut digests = Vec::new();
        for part in Part::ALL.into_iter().filter(|part| *part != Part::Load) {
            let mut out = SqlOut::begin(&mut self.writer, part.file_name())?;
            // Definitions are not versioned, and reading accounts takes row locks, with which the snapshot's transaction
            // could not let go of any table until its end: they are read beside it.
            write_part(locker, part, &scope, &privileges, &mut out).await?;
            let (file, digest) = out.finish(part.kind()).await?;
            files.extend(file.map(|file| (part, file)));
            digests.push((part, digest));
        }
        compare(before.as_deref(), &digests, "before the snapshot")?;
        failpoint::crash("dump.schema");
        self.read_tables(reader, &scope, scope.snapshotted(), &mut chunks).await?;
        if !instance_locked {
            let after = fingerprint(locker, &privileges).await?;
            compare(Some(&after), &digests, "while rows were read")?;
        }
        run(reader, "COMMIT").await?;
        if instance_locked {
            snapshot::unlock_instance(reader).await?;
        }
        files.push((Part::Load, self.write_load(&chunks.load).await?));
        Ok(Contents { point, method, files: in_order(files, chunks.files), warnings: chunks.warnings })
    }

    /// Refuses a point that is none of the timeline's history, and tells of one that may be.
    fn arrive(&self, point: &Point) -> Result<(), DumpError> {
        if let Some(DumpOrigin { captured, .. }) = &self.options.origin {
            let missing = captured.subtract(&point.gtids);
            if !missing.is_empty() {
                return Err(DumpError::OtherHistory { missing, timeline: self.options.timeline });
            }
        }
        (self.reached)(DumpPoint {
            gtids: point.gtids.clone(),
            server: self.facts.uuid,
            position: point.position.clone(),
            by_gtids: self.facts.gtid_mode == GtidMode::On,
        });
        Ok(())
    }

    /// What there is at the point: read again if nothing can change from then on, else what was read before, which is
    /// compared later.
    async fn scope_at(&self, point: &Point, locker: &mut Conn, before: Scope) -> Result<Scope, DumpError> {
        if !point.instance_locked {
            return Ok(before);
        }
        let scope = Scope::read(locker).await?;
        scope.check_engines(self.options.allow_non_transactional)?;
        Ok(scope)
    }

    /// Reads the rows of some of the tables. After each, the transaction lets go of the table, so that schema changes do
    /// not wait for the dump's end with everybody else behind them.
    async fn read_tables(
        &mut self,
        reader: &mut Conn,
        scope: &Scope,
        tables: Vec<&super::scope::Table>,
        chunks: &mut Chunks,
    ) -> Result<(), DumpError> {
        let total = scope.tables.len();
        let progress = self.progress;
        for table in tables {
            run(reader, "SAVEPOINT highwater").await?;
            let done = chunks.tables;
            chunks
                .add_table(reader, table, &mut self.writer, self.options.chunk_bytes, &mut |rows, bytes| {
                    failpoint::crash("dump.table.mid");
                    progress(DumpProgress { tables_done: done, tables: total, rows, bytes });
                })
                .await?;
            run(reader, "ROLLBACK TO SAVEPOINT highwater").await?;
            progress(DumpProgress {
                tables_done: chunks.tables,
                tables: total,
                rows: chunks.rows,
                bytes: chunks.bytes,
            });
        }
        Ok(())
    }

    async fn write_load(&mut self, statements: &[String]) -> Result<DumpFile, DumpError> {
        let mut out = SqlOut::begin(&mut self.writer, Part::Load.file_name())?;
        for statement in statements {
            out.push(statement).await?;
        }
        let (file, _) = out.finish(Part::Load.kind()).await?;
        file.ok_or(DumpError::NoFile)
    }
}

/// The files as they must be loaded: those of rows right after the statements that load them.
fn in_order(mut parts: Vec<(Part, DumpFile)>, rows: Vec<DumpFile>) -> Vec<DumpFile> {
    parts.sort_by_key(|(part, _)| *part);
    let mut rows = Some(rows);
    parts
        .into_iter()
        .flat_map(|(part, file)| {
            let follow = if part == Part::Load { rows.take().unwrap_or_default() } else { Vec::new() };
            std::iter::once(file).chain(follow)
        })
        .collect()
}

async fn write_part(
    conn: &mut Conn,
    part: Part,
    scope: &Scope,
    privileges: &Privileges,
    out: &mut SqlOut<'_>,
) -> Result<(), DumpError> {
    match part {
        Part::Users => accounts::write_users(conn, out).await,
        Part::Tables => schema::write_tables(conn, scope, privileges, out).await,
        Part::Load => Ok(()),
        Part::Routines => objects::write_routines(conn, out).await,
        Part::Views => objects::write_views(conn, out).await,
        Part::Triggers => objects::write_triggers(conn, out).await,
        Part::Events => objects::write_events(conn, out).await,
        Part::Grants => accounts::write_grants(conn, out).await,
    }
}

/// What every part's statements are now, as digests.
async fn fingerprint(conn: &mut Conn, privileges: &Privileges) -> Result<Vec<(Part, [u8; 32])>, DumpError> {
    let scope = Scope::read(conn).await?;
    let mut digests = Vec::new();
    for part in Part::ALL.into_iter().filter(|part| *part != Part::Load) {
        let mut out = SqlOut::fingerprint();
        write_part(conn, part, &scope, privileges, &mut out).await?;
        digests.push((part, out.finish(part.kind()).await?.1));
    }
    Ok(digests)
}

fn compare(other: Option<&[(Part, [u8; 32])]>, dumped: &[(Part, [u8; 32])], when: &str) -> Result<(), DumpError> {
    let Some(other) = other else { return Ok(()) };
    match other.iter().zip(dumped).find(|(a, b)| a != b) {
        None => Ok(()),
        Some(((part, _), _)) => Err(DumpError::Changed { what: format!("{} {when}", part.noun()) }),
    }
}

fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// `20261122T150412Z-1f3a0b7c`
fn new_id(started: Micros) -> Result<DumpId, DumpError> {
    let time: String = started.to_string().chars().filter(|c| c.is_ascii_alphanumeric()).collect();
    let seconds = time.get(.."20261122T150412".len()).unwrap_or(&time);
    format!("{seconds}Z-{:08x}", rand::random::<u32>())
        .parse()
        .map_err(|err| DumpError::Answer { statement: "name the dump", what: format!("{err}") })
}
