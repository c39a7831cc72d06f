//! `binlogs`

use std::path::PathBuf;

use clap::Args;

use super::ArchiveArgs;

pub(super) const EXAMPLES: &str = "\
What it gives back are encrypted binlogs that `highwater salvage --keep-encrypted` kept as the
server had written them: the same bytes, still encrypted, under the same names. Beside them come
the index file and `component_keyring_file` with the master keys. A header whose master key is in
no sealed backup is written anew, under a key that the keyring has.

Examples:
  highwater binlogs --output-dir /var/lib/mysql
  highwater binlogs --output-dir found --from binlog.000017 --to binlog.000023
  highwater binlogs --store /mnt/backup/orders --identity identity.txt --output-dir found
  binlog-decrypt --datadir found found/binlog.000017

A server opens them in its data folder, with the keyring where component_keyring_file.cnf says,
and all of them owned by the account that runs mysqld. To bring a database back, use
`highwater restore`: it needs no files.";

/// `binlogs`
#[derive(Debug, Args)]
pub struct BinlogsArgs {
    /// Folder to write into; made if it is not there
    #[arg(short = 'd', long, value_name = "DIR")]
    pub output_dir: PathBuf,
    /// Whose binlogs; needed if those of several servers were kept
    #[arg(long, value_name = "UUID")]
    pub server: Option<String>,
    /// The first one [default: the first that was kept]
    #[arg(long, value_name = "BINLOG")]
    pub from: Option<String>,
    /// The last one [default: the last that was kept]
    #[arg(long, value_name = "BINLOG")]
    pub to: Option<String>,
    /// Replace files that have the same names; a keyring never
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub archive: ArchiveArgs,
}
