//! The command line.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser};
use highwater_keyring::KeyId;
use rustix::fs::{FileType, OFlags};

use crate::decode::Span;
use crate::failure::{Exit, Failure};
use crate::input::{Input, expand};

const EXAMPLES: &str = "\
Examples:
  What is there: keys, transactions, times, damage?
    binlog-decrypt --inspect --datadir /mnt/dead/var/lib/mysql /mnt/dead/var/lib/mysql/binlog.index

  Decrypt the binlogs of a dead server for mysqlbinlog:
    binlog-decrypt --datadir /mnt/dead/var/lib/mysql --output-dir plain /mnt/dead/var/lib/mysql/binlog.index
    mysqlbinlog plain/binlog.000042

  One file, with a keyring from elsewhere, from a position on:
    binlog-decrypt --keyring keyring.json --from 4711 binlog.000042 | mysqlbinlog -

Keyrings that are read: component_keyring_file; the keyring_file plugin, 1.0 and 2.0, of any machine; Percona's
component_percona_keyring_encrypted_file; MariaDB's file_key_management; key bundles of a Highwater archive and their
exports.

Exit codes:
  0 done   1 failed   2 usage   3 key missing or wrong
  4 binlog damaged or cut, or one between two is missing   7 interrupted";

/// Opens MySQL's encrypted binary logs and relay logs with the keyring, without a server.
///
/// The result is the plain file that mysqlbinlog reads and that the server would send. Plain files pass through, so a
/// folder with both kinds can be given as it is. Every event's checksum is verified on the way. A file that ends inside
/// of a transaction gives everything before that. MySQL 8.0.14 to 9.x, and MariaDB's encryption.
#[derive(Debug, Parser)]
#[command(name = "binlog-decrypt", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Binary logs or relay logs, encrypted or plain; an index file (NAME.index) or a folder for all of its; `-` for
    /// stdin
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    #[command(flatten)]
    keys: KeyArgs,

    /// A server's data folder: its keyring is found through its configuration there (repeatable)
    #[arg(long, value_name = "DIR", help_heading = "Keys")]
    datadir: Vec<PathBuf>,

    /// Write the one plain file here, `-` for stdout [default: stdout]
    #[arg(short, long, value_name = "FILE", help_heading = "Output", conflicts_with = "output_dir")]
    output: Option<PathBuf>,

    /// Write plain files of the same names into this folder
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    output_dir: Option<PathBuf>,

    /// Only say what each file is: its key, where that was found, server, GTIDs, times, how it ends, damage
    #[arg(long, help_heading = "Output", conflicts_with_all = ["output", "output_dir", "verify"])]
    inspect: bool,

    /// Only check: verify every event's checksum, every transaction, and that each binlog follows the one before
    #[arg(long, help_heading = "Output", conflicts_with_all = ["output", "output_dir"])]
    verify: bool,

    /// Begin with the event at this position of the first file, as mysqlbinlog counts them
    #[arg(long, value_name = "POSITION", help_heading = "Output")]
    from: Option<u64>,

    /// End before the first event at or after this position of the last file
    #[arg(long, value_name = "POSITION", help_heading = "Output")]
    to: Option<u64>,

    /// Report on stdout as JSON, one line per file
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// Options that name places of keys.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyArgs {
    /// A keyring file: component_keyring_file, the keyring_file plugin, Percona's, MariaDB's, a key bundle (repeatable)
    #[arg(long, value_name = "PATH", help_heading = "Keys")]
    pub keyring: Vec<PathBuf>,

    /// A file with the password of keyrings that have one (repeatable)
    #[arg(long, value_name = "PATH", help_heading = "Keys")]
    pub keyring_password: Vec<PathBuf>,

    /// The server's file_key_management_use_pbkdf2, for MariaDB's key file under a password (repeatable)
    #[arg(long, value_name = "N", help_heading = "Keys")]
    pub keyring_pbkdf2: Vec<u32>,

    /// An age identity, for sealed key bundles (repeatable)
    #[arg(long, value_name = "PATH", help_heading = "Keys")]
    pub identity: Vec<PathBuf>,

    /// The configuration of Percona's component_keyring_vault or keyring_vault: its Vault is asked (repeatable)
    #[cfg(feature = "vault")]
    #[arg(long, value_name = "CONFIG", help_heading = "Keys")]
    pub vault: Vec<PathBuf>,

    /// One key: its id, and a file with its 64 hexadecimal digits (repeatable)
    #[arg(long, value_name = "ID=HEX-FILE", help_heading = "Keys")]
    pub key: Vec<KeyFile>,
}

impl KeyArgs {
    /// The places, and data folders whose configuration leads to further ones.
    #[must_use]
    pub fn places(self, datadirs: Vec<PathBuf>) -> KeyPlaces {
        KeyPlaces {
            keyrings: self.keyring,
            passwords: self.keyring_password,
            iterations: self.keyring_pbkdf2,
            #[cfg(feature = "vault")]
            vaults: self.vault,
            identities: self.identity,
            keys: self.key,
            datadirs,
        }
    }
}

/// `--key ID=HEX-FILE`
#[derive(Debug, Clone)]
pub struct KeyFile {
    /// Whose file it is.
    pub key_id: KeyId,
    /// The file with its hexadecimal digits.
    pub path: PathBuf,
}

impl FromStr for KeyFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, path) = text.split_once('=').ok_or("expected ID=HEX-FILE, the key itself in the file")?;
        if path.is_empty() {
            return Err("expected the name of a file after =".to_owned());
        }
        Ok(Self { key_id: id.parse().map_err(|error| format!("{error}"))?, path: path.into() })
    }
}

/// Where the key may be.
#[derive(Debug, Clone, Default)]
pub struct KeyPlaces {
    /// Keyring files.
    pub keyrings: Vec<PathBuf>,
    /// Files with passwords of keyrings.
    pub passwords: Vec<PathBuf>,
    /// Iterations of PBKDF2 for MariaDB's key files.
    pub iterations: Vec<u32>,
    /// Configurations of components that keep keys in a Vault.
    #[cfg(feature = "vault")]
    pub vaults: Vec<PathBuf>,
    /// age identities, for sealed key bundles.
    pub identities: Vec<PathBuf>,
    /// Single keys.
    pub keys: Vec<KeyFile>,
    /// Data folders, whose configuration leads to a keyring.
    pub datadirs: Vec<PathBuf>,
}

/// What to do with each file.
#[derive(Debug)]
pub(crate) enum Task {
    /// Say what it is.
    Inspect,
    /// Read it all.
    Verify,
    /// Decrypt the only one to stdout.
    ToStdout,
    /// Decrypt the only one to this file.
    ToFile(PathBuf),
    /// Decrypt each to a file of its name in this folder.
    ToFolder(PathBuf),
}

impl Task {
    /// Where the plaintext of `input` goes.
    pub(crate) fn target(&self, input: &Input) -> PathBuf {
        match self {
            Self::ToFolder(folder) => folder.join(input.file_name().unwrap_or_default()),
            Self::ToFile(path) => path.clone(),
            Self::Inspect | Self::Verify | Self::ToStdout => PathBuf::new(),
        }
    }
}

/// A command line that can be meant.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) files: Vec<Input>,
    pub(crate) span: Span,
    pub(crate) places: KeyPlaces,
    pub(crate) task: Task,
    pub(crate) json: bool,
}

impl TryFrom<Arguments> for Job {
    type Error = Failure;

    fn try_from(arguments: Arguments) -> Result<Self, Failure> {
        let usage = |error: &str, hint: &str| Failure::new(Exit::Usage, error).hint(hint);
        let task = match (arguments.inspect, arguments.verify, arguments.output, arguments.output_dir) {
            (true, ..) => Task::Inspect,
            (_, true, ..) => Task::Verify,
            (_, _, Some(path), _) if path.as_os_str() != "-" => Task::ToFile(path),
            (_, _, _, Some(folder)) => Task::ToFolder(folder),
            _ => Task::ToStdout,
        };
        let files = expand(&arguments.files)?;
        if matches!(task, Task::ToStdout | Task::ToFile(_)) && files.len() > 1 {
            let error = format!("{} files cannot become one", files.len());
            return Err(usage(&error, "give --output-dir DIR: each file is written there under its own name"));
        }
        if matches!(task, Task::ToStdout) {
            if std::io::stdout().is_terminal() {
                let hint = "give -o FILE, or pipe it: binlog-decrypt ... | mysqlbinlog -";
                return Err(usage("a binary log is not written to a terminal", hint));
            }
            if leads_nowhere(std::io::stdout()) {
                return Err(usage("stdout is closed", "give -o FILE, or --verify"));
            }
            if arguments.json {
                return Err(usage("stdout cannot carry both the binlog and --json", "give -o FILE"));
            }
        }
        if matches!(task, Task::ToFolder(_)) {
            refuse_equal_names(&files)?;
        }
        let span = Span { from: arguments.from, to: arguments.to };
        if span.from.zip(span.to).is_some_and(|(from, to)| files.len() == 1 && to <= from) {
            return Err(usage("--to lies before --from", "both are positions of the decrypted file"));
        }
        let places = arguments.keys.places(arguments.datadir);
        Ok(Self { files, span, places, task, json: arguments.json })
    }
}

/// Whether a stream was closed when the program began: `/dev/null` is in its place then, open for reading too, as no
/// shell's `>` opens it.
fn leads_nowhere(stream: impl AsFd) -> bool {
    let is_null = rustix::fs::fstat(&stream).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3)
    });
    is_null && rustix::fs::fcntl_getfl(&stream).is_ok_and(|flags| flags.contains(OFlags::RDWR))
}

/// Two files of one name would become the same file of the output folder.
fn refuse_equal_names(files: &[Input]) -> Result<(), Failure> {
    let mut names = BTreeSet::<OsString>::new();
    for file in files {
        let Some(name) = file.file_name().map(ToOwned::to_owned) else {
            return Err(Failure::new(Exit::Usage, "stdin has no name to be written under").hint("give -o FILE"));
        };
        let shown = name.to_string_lossy().into_owned();
        if !names.insert(name) {
            let failure = Failure::new(Exit::Usage, format!("two files are called {shown}"));
            return Err(failure.hint("decrypt them in two runs, into two folders"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_key_is_given_by_id_and_file() {
        let key: KeyFile = "MySQLReplicationKey_x_1=/keys/a=b".parse().unwrap();
        assert_eq!((key.key_id.as_str(), key.path), ("MySQLReplicationKey_x_1", PathBuf::from("/keys/a=b")));
        for text in ["abc", "=file", "id="] {
            assert!(text.parse::<KeyFile>().is_err(), "{text}");
        }
    }
}
