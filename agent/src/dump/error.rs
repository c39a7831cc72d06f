//! What can keep a dump from being taken or loaded.

use std::io;

use highwater_binlog::{GtidSet, ServerUuid};
use highwater_catalog::TimelineId;

use super::statements::StatementError;
use crate::archive::ArchiveError;
use crate::source::ServerError;

/// Why a dump was not taken. Nothing is published then, and no lock is left.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The account may not do what a complete dump needs.
    #[error("account {account} lacks {}", .missing.join(", "))]
    Privileges {
        /// The account, as `CURRENT_USER()` says it.
        account: String,
        /// What it lacks, each as `GRANT` names it.
        missing: Vec<String>,
    },
    /// A privilege is revoked for one schema, whose tables would be missing from the dump.
    #[error("account {account} has privileges revoked for single schemas: {revoke}")]
    PartialRevoke {
        /// The account.
        account: String,
        /// The line of `SHOW GRANTS`.
        revoke: String,
    },
    /// Tables whose engine cannot show them as they were at one transaction.
    #[error("{} in engines without transactions: {}", count(.tables.len(), "table"), .tables.join(", "))]
    NonTransactional {
        /// `schema.table (engine)`, 20 at most.
        tables: Vec<String>,
    },
    /// XA transactions stayed prepared for the whole time the dump waited for them.
    #[error("{} prepared and neither committed nor rolled back", count(*.transactions, "XA transaction"))]
    XaPrepared {
        /// How many.
        transactions: usize,
    },
    /// The dump would be of a server whose binlogs are not captured.
    #[error("server {found} is none whose binlogs timeline {timeline} has")]
    OtherServer {
        /// The server.
        found: ServerUuid,
        /// The timeline.
        timeline: TimelineId,
    },
    /// The server's history is not the timeline's.
    #[error("the source lacks transactions that timeline {timeline} has: {missing}")]
    OtherHistory {
        /// The transactions.
        missing: GtidSet,
        /// The timeline.
        timeline: TimelineId,
    },
    /// The server does not answer any more.
    #[error("the source has not answered for {seconds} s")]
    Silent {
        /// How long it was waited for.
        seconds: u64,
    },
    /// The short lock could not be had in time.
    #[error("no moment without long-running statements or transactions within {seconds} s ({tried})")]
    Lock {
        /// How long it was tried.
        seconds: u64,
        /// Which locks were tried.
        tried: String,
    },
    /// Something was created, altered or dropped while the dump was taken.
    #[error("schema or accounts changed during the dump: {what}")]
    Changed {
        /// What differs.
        what: String,
    },
    /// A name or text of the server is not UTF-8, or is not of the form known.
    #[error("unexpected answer to {statement}: {what}")]
    Answer {
        /// What was asked.
        statement: &'static str,
        /// What is odd.
        what: String,
    },
    /// The server refused a statement, or the connection broke.
    #[error("{doing}")]
    Server {
        /// What was being done, with the object's name.
        doing: String,
        /// The driver's error.
        #[source]
        source: mysql_async::Error,
    },
    /// A file of the dump could not be stored.
    #[error("write {file}")]
    Write {
        /// The file.
        file: String,
        /// The archive's failure.
        #[source]
        source: ArchiveError,
    },
    /// A file of the dump could not be compressed and encrypted.
    #[error("seal {file}")]
    Seal {
        /// The file.
        file: String,
        /// The underlying failure.
        #[source]
        source: io::Error,
    },
    /// The archive refuses the dump.
    #[error("publish the dump")]
    Archive(#[from] ArchiveError),
    /// Bytes came while no file was open; a fault of this program.
    #[error("no file of the dump is open")]
    NoFile,
    /// A statement cannot be written down.
    #[error("write {file}")]
    Statement {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: StatementError,
    },
    /// The source cannot be reached, or does not let us in.
    #[error(transparent)]
    Connect(#[from] ServerError),
}

impl DumpError {
    /// What a person can do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Privileges { account, missing } => {
                let grants: Vec<&str> = missing.iter().map(|name| name.split(" or ").next().unwrap_or(name)).collect();
                let (name, host) = account.rsplit_once('@').unwrap_or((account, "%"));
                let quoted = |part: &str| format!("'{}'", part.replace('\\', "\\\\").replace('\'', "''"));
                Some(format!("GRANT {} ON *.* TO {}@{}", grants.join(", "), quoted(name), quoted(host)))
            }
            Self::PartialRevoke { .. } => Some("use an account without partial revokes".to_owned()),
            Self::NonTransactional { .. } => Some(
                "ALTER TABLE … ENGINE=InnoDB, or allow tables without transactions: writes then wait until these are read"
                    .to_owned(),
            ),
            Self::XaPrepared { .. } => Some("XA RECOVER lists them; XA COMMIT or XA ROLLBACK each".to_owned()),
            Self::OtherServer { .. } => {
                Some("a dump belongs to the history of the server it is of: name that one in [source], or let the agent follow this one".to_owned())
            }
            Self::OtherHistory { .. } => Some(
                "it was reset or restored, or lost its last transactions: the agent decides what that means, and takes a dump"
                    .to_owned(),
            ),
            Self::Silent { .. } => Some("look at the network between this machine and the source".to_owned()),
            Self::Lock { .. } => Some("look for long statements in SHOW PROCESSLIST, or dump at a quieter time".to_owned()),
            Self::Changed { .. } => Some("grant BACKUP_ADMIN, so that such changes wait for the dump's end".to_owned()),
            Self::Answer { .. }
            | Self::Server { .. }
            | Self::Write { .. }
            | Self::Statement { .. }
            | Self::Seal { .. }
            | Self::Archive(_)
            | Self::NoFile
            | Self::Connect(_) => None,
        }
    }
}

/// Why a dump was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The target refused a statement, or the connection broke.
    #[error("{doing}")]
    Server {
        /// What was being done, with the object's name.
        doing: String,
        /// The driver's error.
        #[source]
        source: mysql_async::Error,
    },
    /// The dump has a file this version does not know, or lacks one.
    #[error("dump {dump}: {what}")]
    Unknown {
        /// The dump.
        dump: String,
        /// What.
        what: String,
    },
    /// A file could not be read.
    #[error("read {file}")]
    Read {
        /// The file.
        file: String,
        /// The underlying failure.
        #[source]
        source: io::Error,
    },
    /// A file of statements is damaged.
    #[error("read {file}")]
    Statement {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: StatementError,
    },
    /// The target did not take a value as it is.
    #[error("load {file} into {table}: {warning}")]
    Value {
        /// The file.
        file: String,
        /// The table.
        table: String,
        /// The server's words, which name the column and the row.
        warning: String,
    },
    /// The target has another number of rows than the file.
    #[error("load {file} into {table}: {loaded} rows arrived of {expected}")]
    Rows {
        /// The file.
        file: String,
        /// The table.
        table: String,
        /// Rows the target says it took.
        loaded: u64,
        /// Rows in the file.
        expected: u64,
    },
}

/// `1 table`, `3 tables`
fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
