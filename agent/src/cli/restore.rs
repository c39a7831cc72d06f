//! The command line of `restore` and `find`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::ArchiveArgs;

pub(super) const EXAMPLES: &str = "\
Examples:
  highwater restore --to '2026-11-22 14:02:31' --dry-run
  highwater restore --to latest --target mysql://root@127.0.0.1:3307 --target-password-file pw
  highwater restore --before-gtid 3e11fa47-71ca-11e1-9e33-c80aa9429562:4711 \\
      --target-socket /run/new/mysqld.sock --target-user root --target-password-env TARGET_PW
  highwater restore --store /mnt/backup/orders --identity key.txt --to latest --dry-run

The target must be an empty MySQL server of the same version or newer, with GTIDs on.
Nothing is written to it before the whole plan (chain, hashes, keys, target) is proven.";

/// `restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub archive: ArchiveArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub point: PointArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: TargetArgs,
    /// Timeline to restore [default: the newest that has the point]
    #[arg(long, value_name = "N")]
    pub timeline: Option<u32>,
    /// Prove and print the plan, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Go on with a restore that was interrupted on this target
    #[arg(long = "continue")]
    pub resume: bool,
    /// Leave this transaction out; may be repeated
    #[arg(long, value_name = "GTID")]
    pub exclude_gtid: Vec<String>,
    /// Leave all events of the scheduler disabled, whatever they were on the source
    #[arg(long)]
    pub keep_events_disabled: bool,
    /// Address of this machine at which the target can reach it, for the replay [default: found from the connection]
    #[arg(long, value_name = "ADDRESS")]
    pub serve_address: Option<IpAddr>,
    /// Port to serve the replay at [default: any free one]
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    pub serve_port: u16,
}

/// The wanted moment.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PointArgs {
    /// Stop before the first transaction committed after TIME: `2026-11-22 14:02:31` (local), RFC 3339, or `latest`
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
    /// Stop after this transaction
    #[arg(long, value_name = "GTID")]
    pub to_gtid: Option<String>,
    /// Stop just before this transaction
    #[arg(long, value_name = "GTID")]
    pub before_gtid: Option<String>,
    /// Stop at this position of a binlog
    #[arg(long, value_name = "FILE:POS")]
    pub to_position: Option<String>,
}

/// The server restored into.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// The server to restore into: mysql://USER@HOST:PORT
    #[arg(long, value_name = "URL", conflicts_with = "target_socket")]
    pub target: Option<String>,
    /// Its unix socket, instead of --target
    #[arg(long, value_name = "PATH", requires = "target_user")]
    pub target_socket: Option<PathBuf>,
    /// The account, with --target-socket
    #[arg(long, value_name = "USER", requires = "target_socket")]
    pub target_user: Option<String>,
    /// File whose first line is the account's password
    #[arg(long, value_name = "FILE", conflicts_with = "target_password_env")]
    pub target_password_file: Option<PathBuf>,
    /// Environment variable that has the account's password
    #[arg(long, value_name = "NAME")]
    pub target_password_env: Option<String>,
    /// What the target's TLS certificate must prove
    #[arg(long, value_enum, default_value_t = TargetTls::VerifyIdentity)]
    pub target_tls: TargetTls,
    /// PEM file of the authority that signed it [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub target_ca: Option<PathBuf>,
}

/// `--target-tls`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TargetTls {
    /// Signed by a trusted authority, for this host name
    VerifyIdentity,
    /// Signed by a trusted authority
    VerifyCa,
    /// Nothing: whoever sits between can read and change everything
    DangerNoVerify,
    /// No TLS at all: everything travels in the clear
    DangerDisabled,
}

/// `find`
#[derive(Debug, Args)]
pub struct FindArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub archive: ArchiveArgs,
    /// Only transactions committed at TIME or later: `2026-11-22 14:00` (local) or RFC 3339
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Only transactions committed before TIME
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only transactions that touch this table: SCHEMA.TABLE
    #[arg(long, value_name = "SCHEMA.TABLE")]
    pub table: Option<String>,
    /// Only transactions that touch this schema
    #[arg(long, value_name = "SCHEMA")]
    pub schema: Option<String>,
    /// Only this kind of change; may be repeated
    #[arg(long, value_enum)]
    pub kind: Vec<FoundKind>,
    /// Only transactions that change at least this many rows
    #[arg(long, value_name = "N")]
    pub rows_min: Option<u64>,
    /// The transaction with this GTID
    #[arg(long, value_name = "GTID")]
    pub gtid: Option<String>,
    /// Timeline to look in [default: the newest]
    #[arg(long, value_name = "N")]
    pub timeline: Option<u32>,
    /// Stop after this many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
}

/// `--kind`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FoundKind {
    /// Rows added
    Insert,
    /// Rows changed
    Update,
    /// Rows removed
    Delete,
    /// CREATE, ALTER, DROP, TRUNCATE, RENAME
    Ddl,
}
