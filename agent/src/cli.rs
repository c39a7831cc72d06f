//! The command line: clap structs only.

mod binlogs;
mod restore;

pub use binlogs::BinlogsArgs;
pub use restore::{FindArgs, FoundKind, PointArgs, RestoreArgs, TargetArgs, TargetTls};

use std::path::PathBuf;

use binlog_decrypt::KeyArgs;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  highwater init --service orders --store /backup/orders --host db1.example.net
  highwater agent                              capture until stopped
  highwater status                             what can be restored right now
  highwater find --table shop.orders --kind delete
  highwater restore --before-gtid UUID:4711 --target mysql://root@127.0.0.1:3307 \\
      --target-password-file target.pw
  highwater status --store /mnt/backup/orders  from any machine, without configuration

Exit codes: 0 done, 1 failed, 2 usage, 3 key missing or wrong, 4 damaged data,
5 the wanted point is not reachable, 6 the target is not fit, 7 interrupted,
8 another agent writes the archive now.";

/// Point-in-time backup for MySQL: restore to any transaction.
#[derive(Debug, Parser)]
#[command(name = "highwater", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// Configuration file [default: ./highwater.toml, then /etc/highwater/highwater.toml]
    #[arg(long, global = true, env = "HIGHWATER_CONFIG", value_name = "FILE", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Print results, errors and logs as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more on stderr; twice for even more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write a first configuration, make an age identity and the archive, print the GRANTs
    #[command(after_help = INIT_EXAMPLES)]
    Init(InitArgs),
    /// Check configuration, store, source settings and privileges; say what to change
    Doctor,
    /// Capture the binlog and take scheduled dumps, until stopped
    Agent(AgentArgs),
    /// Take one full dump now
    Dump(DumpArgs),
    /// Show the recoverable window, lag, gaps and the last dump
    Status(StatusArgs),
    /// List what the archive has
    List(ListArgs),
    /// Find transactions near a time, by table or kind
    Find(FindArgs),
    /// Bring everything back, to a time or to just before a transaction, into an empty server
    #[command(after_help = restore::EXAMPLES)]
    Restore(Box<RestoreArgs>),
    /// Give encrypted binlogs back as the server's files, with a keyring that opens them
    #[command(after_help = binlogs::EXAMPLES)]
    Binlogs(BinlogsArgs),
    /// Take what the archive lacks from a server's disk, dead or running
    #[command(after_help = SALVAGE_EXAMPLES)]
    Salvage(SalvageArgs),
    /// Read everything back and prove it: hashes, chain, keys
    Verify(VerifyArgs),
    /// Work on the catalog, the local index of the archive
    Catalog(CatalogArgs),
    /// Replication keys of encrypted binlogs
    Keyring(KeyringArgs),
}

const INIT_EXAMPLES: &str = "\
Examples:
  highwater init --service orders --store /backup/orders --host db1.example.net
  highwater init --service orders --store /backup/orders --socket /run/mysqld/mysqld.sock
  highwater init --service orders --store /backup/orders --recipient age1...
  highwater --config /etc/highwater/highwater.toml init

Running it again changes nothing that exists; with an existing configuration it makes
the archive that the configuration names.";

/// `init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// What is protected, over the years: `orders`
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Folder for the archive, on another disk or machine than the server's
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Host of the MySQL server
    #[arg(long, value_name = "HOST", conflicts_with = "socket", default_value = "localhost")]
    pub host: String,
    /// Its port
    #[arg(long, default_value_t = 3306)]
    pub port: u16,
    /// Unix socket of the MySQL server, instead of host and port
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// MySQL account for the agent
    #[arg(long, default_value = "highwater")]
    pub user: String,
    /// The agent's own folder
    #[arg(long, value_name = "DIR", default_value = "/var/lib/highwater")]
    pub state_dir: PathBuf,
    /// Seal to this age public key instead of a new identity's; may be repeated
    #[arg(long, value_name = "AGE1...", conflicts_with = "danger_unencrypted")]
    pub recipient: Vec<String>,
    /// Leave the archive unencrypted: whoever reads the store reads every row
    #[arg(long)]
    pub danger_unencrypted: bool,
}

/// Where the archive is, without a configuration.
#[derive(Debug, Args, Clone)]
pub struct ArchiveArgs {
    /// The archive's folder; no configuration is needed then
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// File with the age identity that opens the archive
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// `agent`
#[derive(Debug, Args)]
pub struct AgentArgs {}

/// `dump`
#[derive(Debug, Args)]
pub struct DumpArgs {}

/// `status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub archive: ArchiveArgs,
    /// One line and the exit codes of a Nagios plug-in: 0 ok, 1 warning, 2 critical, 3 unknown
    #[arg(long)]
    pub nagios: bool,
    /// Warn when the newest transaction in the archive is older than this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "nagios")]
    pub warn_lag: u64,
    /// Critical when it is older than this
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, requires = "nagios")]
    pub critical_lag: u64,
}

/// `list`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// What to list
    #[arg(value_enum)]
    pub what: Listed,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub archive: ArchiveArgs,
}

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Listed {
    /// Full backups
    Dumps,
    /// Pieces of binlog
    Segments,
    /// Histories of the service
    Timelines,
    /// Sealed backups of keyring keys
    Keys,
    /// Encrypted binlogs that were kept as they were
    Files,
}

const SALVAGE_EXAMPLES: &str = "\
Examples:
  highwater salvage --datadir /mnt/dead/var/lib/mysql --dry-run    what would be taken?
  highwater salvage --datadir /mnt/dead/var/lib/mysql              take it; then: restore --to latest
  highwater salvage --datadir /mnt/dead/var/lib/mysql --keyring /mnt/keys/component_keyring_file
  highwater salvage --datadir /var/lib/mysql --keep-encrypted      and the encrypted files as they are

The disk must continue the archive's newest timeline: GTID sets and the last captured bytes
decide, and nothing is taken across a gap, from a fork or from another server. Everything is
read and proven before anything is published; what the server had not wholly written is left
out and told. Needs the configuration (store, recipients) and the disk, and no server.

Encrypted binlogs are opened with the keyring that the data folder leads to, with what is named
under Keys, and at last with the archive's own key bundles, if --identity or seal.identity_file is
there to open them.

An agent of the same state_dir must be stopped first. One that runs elsewhere is ended: the
archive belongs to whoever took it over last, and salvage takes it over only when it has
something to publish. What an agent left in the spool is published first. Running it again,
also after an interruption, takes what is still lacking.";

/// `salvage`
#[derive(Debug, Args)]
pub struct SalvageArgs {
    /// The server's data folder, wherever its disk is mounted
    #[arg(long, value_name = "DIR")]
    pub datadir: PathBuf,
    /// The index of its binlogs, if that is not in the data folder or not the only one there
    #[arg(long, value_name = "FILE")]
    pub index: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub keys: KeyArgs,
    /// Keep closed encrypted binlogs as they are, too: `highwater binlogs` gives them back
    #[arg(long)]
    pub keep_encrypted: bool,
    /// Only say what would be taken
    #[arg(long)]
    pub dry_run: bool,
}

/// `verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub archive: ArchiveArgs,
}

/// `catalog`
#[derive(Debug, Args)]
pub struct CatalogArgs {
    /// What to do with it
    #[command(subcommand)]
    pub action: CatalogAction,
}

/// `catalog …`
#[derive(Debug, Subcommand)]
pub enum CatalogAction {
    /// Make the catalog again, from the store alone
    Rebuild,
}

/// `keyring`
#[derive(Debug, Args)]
pub struct KeyringArgs {
    /// What to do
    #[command(subcommand)]
    pub action: KeyringAction,
}

/// `keyring …`
#[derive(Debug, Subcommand)]
pub enum KeyringAction {
    /// Which keys are in the archive
    List {
        #[command(flatten)]
        #[allow(missing_docs)]
        archive: ArchiveArgs,
    },
    /// Write the keys of the archive as a file that `component_keyring_file` starts with
    Export {
        #[command(flatten)]
        #[allow(missing_docs)]
        archive: ArchiveArgs,
        /// File to write, with mode 0600; must not exist
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Only keys of this server's keyring
        #[arg(long, value_name = "UUID")]
        server: Option<String>,
    },
}
