//! Loading a dump into an empty server.

mod accounts;
mod input;
mod retry;
mod rows;
mod views;

use std::sync::Arc;

use highwater_catalog::{Dump, DumpFile, DumpFileKind};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use self::accounts::AccountLoader;
use self::input::Statements;
use super::error::LoadError;
use super::part::Part;
use super::session::{error_code, prepare_loader};
use crate::archive::Archive;

/// How far a load is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// What is being loaded: `tables`, `rows`, `views` …
    pub phase: &'static str,
    /// Rows loaded.
    pub rows: u64,
    /// Rows in the dump.
    pub rows_total: u64,
    /// Bytes of rows loaded, before sealing.
    pub bytes: u64,
    /// Bytes of rows in the dump, before sealing.
    pub bytes_total: u64,
}

/// An event of the scheduler as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventState {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `ENABLED`, `DISABLED`, `SLAVESIDE_DISABLED` (from 8.2 on `REPLICA_SIDE_DISABLED`).
    pub status: String,
}

/// What a load did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Rows loaded.
    pub rows: u64,
    /// Every event, in the state it had in the dump.
    pub events: Vec<EventState>,
    /// What the target does not have as the source had it, for people: one line each, with the server's words.
    pub not_restored: Vec<String>,
    /// Accounts that the target had and the dump has not; they were left alone.
    pub kept_accounts: Vec<String>,
    /// The dump has the account this load ran as, so its password may be another one now.
    pub own_account_replaced: bool,
}

/// Loads a dump into a server that has no schemas of its own. Nothing goes into the target's binlog. The scheduler must
/// be off: events are made in the state they had. Settings that loading needs are set back before this returns.
pub async fn load(
    conn: &mut Conn,
    archive: &Archive,
    dump: &Dump,
    progress: &(dyn Fn(LoadProgress) + Send + Sync),
) -> Result<LoadReport, LoadError> {
    check_files(dump)?;
    prepare_loader(conn).await.map_err(|source| server("set up the loading session", source))?;
    let settings = Settings::change(conn).await?;
    let mut loader = Loader::new(archive, dump, progress);
    let loaded = loader.run(conn).await;
    let restored = settings.restore(conn).await;
    let report = loaded?;
    restored?;
    Ok(report)
}

/// Global settings that loading needs, and that are set back.
struct Settings {
    local_infile: bool,
    trust_function_creators: bool,
}

impl Settings {
    async fn change(conn: &mut Conn) -> Result<Self, LoadError> {
        let read: Option<(bool, bool)> = conn
            .query_first("SELECT @@GLOBAL.local_infile, @@GLOBAL.log_bin_trust_function_creators")
            .await
            .map_err(|source| server("read the target's settings", source))?;
        let (local_infile, trust_function_creators) = read.unwrap_or_default();
        let before = Self { local_infile, trust_function_creators };
        before.set(conn, true, true).await?;
        Ok(before)
    }

    async fn restore(&self, conn: &mut Conn) -> Result<(), LoadError> {
        self.set(conn, self.local_infile, self.trust_function_creators).await
    }

    async fn set(&self, conn: &mut Conn, local_infile: bool, trust: bool) -> Result<(), LoadError> {
        if !self.local_infile {
            let sql = format!("SET GLOBAL local_infile = {}", u8::from(local_infile));
            conn.query_drop(sql).await.map_err(|source| server("set local_infile", source))?;
        }
        if !self.trust_function_creators {
            let sql = format!("SET GLOBAL log_bin_trust_function_creators = {}", u8::from(trust));
            conn.query_drop(sql).await.map_err(|source| server("set log_bin_trust_function_creators", source))?;
        }
        Ok(())
    }
}

struct Loader<'a> {
    archive: &'a Archive,
    dump: Arc<Dump>,
    progress: &'a (dyn Fn(LoadProgress) + Send + Sync),
    report: LoadReport,
    state: LoadProgress,
}

impl<'a> Loader<'a> {
    fn new(archive: &'a Archive, dump: &Dump, progress: &'a (dyn Fn(LoadProgress) + Send + Sync)) -> Self {
        let (mut rows_total, mut bytes_total) = (0, 0);
        for file in &dump.files {
            if let DumpFileKind::Rows { rows, .. } = file.kind {
                rows_total += rows;
                bytes_total += file.object.plain_size;
            }
        }
        let state = LoadProgress { phase: "", rows: 0, rows_total, bytes: 0, bytes_total };
        Self { archive, dump: Arc::new(dump.clone()), progress, report: LoadReport::default(), state }
    }

    async fn run(&mut self, conn: &mut Conn) -> Result<LoadReport, LoadError> {
        let dump = Arc::clone(&self.dump);
        let mut accounts = AccountLoader::new(conn).await?;
        for file in &dump.files {
            let Some(part) = Part::from_file_name(&file.name) else { continue };
            self.state.phase = part.noun();
            (self.progress)(self.state);
            let statements = Statements::open(self.archive, &dump, file);
            match part {
                Part::Users => accounts.load_users(conn, statements).await?,
                Part::Load => self.load_rows(conn, statements).await?,
                Part::Tables | Part::Routines | Part::Triggers | Part::Events => run_all(conn, statements).await?,
                Part::Views => self.report.not_restored.extend(views::load(conn, statements, accounts.own()).await?),
                Part::Grants => self.report.not_restored.extend(accounts.load_grants(conn, statements).await?),
            }
        }
        self.report.rows = self.state.rows;
        self.report.events = events(conn).await?;
        self.report.own_account_replaced = accounts.has_own();
        self.report.kept_accounts = accounts.kept();
        Ok(std::mem::take(&mut self.report))
    }

    async fn load_rows(&mut self, conn: &mut Conn, mut statements: Statements) -> Result<(), LoadError> {
        let dump = Arc::clone(&self.dump);
        let mut files = dump.files.iter().filter(|file| matches!(file.kind, DumpFileKind::Rows { .. }));
        while let Some(statement) = statements.next().await? {
            if input::is_session_setting(&statement) {
                run(conn, &statement, statements.name()).await?;
                continue;
            }
            let file = files.next().ok_or_else(|| unknown(&dump, "more load statements than files of rows"))?;
            let loaded = rows::load(conn, self.archive, &dump, file, &statement).await?;
            self.state.rows += loaded;
            self.state.bytes += file.object.plain_size;
            (self.progress)(self.state);
        }
        match files.next() {
            None => Ok(()),
            Some(file) => Err(unknown(&dump, &format!("no statement loads {}", file.name))),
        }
    }
}

/// A dump of this version has every part once, and nothing that is not known.
fn check_files(dump: &Dump) -> Result<(), LoadError> {
    for part in Part::ALL {
        if dump.files.iter().filter(|file| file.name == part.file_name()).count() != 1 {
            return Err(unknown(dump, &format!("{} is not there once", part.file_name())));
        }
    }
    match dump.files.iter().find(|file| !is_rows(file) && Part::from_file_name(&file.name).is_none()) {
        None => Ok(()),
        Some(file) => Err(unknown(dump, &format!("{} is not known to this version", file.name))),
    }
}

fn is_rows(file: &DumpFile) -> bool {
    matches!(file.kind, DumpFileKind::Rows { .. })
}

fn unknown(dump: &Dump, what: &str) -> LoadError {
    LoadError::Unknown { dump: dump.id.to_string(), what: what.to_owned() }
}

fn server(doing: &str, source: mysql_async::Error) -> LoadError {
    LoadError::Server { doing: doing.to_owned(), source }
}

/// Runs a file's statements one after the other.
async fn run_all(conn: &mut Conn, mut statements: Statements) -> Result<(), LoadError> {
    while let Some(statement) = statements.next().await? {
        run(conn, &statement, statements.name()).await?;
    }
    Ok(())
}

/// `ER_WRONG_VALUE`-like answers to a table's DATA DIRECTORY that this machine does not have: 1210, 3121, 1103.
const NO_SUCH_DIRECTORY: [u16; 3] = [1210, 3121, 1103];

async fn run(conn: &mut Conn, statement: &[u8], file: &str) -> Result<(), LoadError> {
    let Err(error) = conn.query_drop(statement).await else { return Ok(()) };
    if statement.starts_with(b"CREATE TABLE ")
        && error_code(&error).is_some_and(|code| NO_SUCH_DIRECTORY.contains(&code))
    {
        // The table then lies in the data directory, which every server has.
        let modes = "SET @highwater_mode = @@SESSION.sql_mode, SESSION sql_mode = CONCAT(@@SESSION.sql_mode, ',NO_DIR_IN_CREATE')";
        conn.query_drop(modes).await.map_err(|source| server(file, source))?;
        let again = conn.query_drop(statement).await;
        conn.query_drop("SET SESSION sql_mode = @highwater_mode").await.map_err(|source| server(file, source))?;
        return again.map_err(|source| server(file, source));
    }
    Err(server(file, error))
}

async fn events(conn: &mut Conn) -> Result<Vec<EventState>, LoadError> {
    let rows: Vec<(String, String, String)> = conn
        .query("SELECT EVENT_SCHEMA, EVENT_NAME, STATUS FROM information_schema.EVENTS WHERE EVENT_SCHEMA <> 'sys' ORDER BY 1, 2")
        .await
        .map_err(|source| server("list events", source))?;
    Ok(rows.into_iter().map(|(schema, name, status)| EventState { schema, name, status }).collect())
}
