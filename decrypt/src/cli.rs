//! The command line.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use highwater_keyring::KeyId;

use crate::failure::{Exit, Failure};

const EXAMPLES: &str = "\
Examples:
  Which key does a file need, and is it there?
    binlog-decrypt --inspect --datadir /mnt/dead/var/lib/mysql /mnt/dead/var/lib/mysql/binlog.000042

  Decrypt the binlogs of a dead server for mysqlbinlog:
    binlog-decrypt --datadir /mnt/dead/var/lib/mysql --output-dir plain /mnt/dead/var/lib/mysql/binlog.[0-9]*
    mysqlbinlog plain/binlog.000042

  One file, with a keyring from elsewhere:
    binlog-decrypt --keyring keyring.json binlog.000042 | mysqlbinlog -

Exit codes:
  0 done   1 failed   2 usage   3 key missing or wrong   4 binlog damaged or cut";

/// Opens MySQL's encrypted binary logs and relay logs with the keyring, without a server.
///
/// The result is the plain file that mysqlbinlog reads and that the server would send. Plain files pass through, so a
/// folder with both kinds can be given as it is. Every event's checksum is verified on the way. MySQL 8.0.14 to 9.x.
#[derive(Debug, Parser)]
#[command(name = "binlog-decrypt", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Binary logs or relay logs, encrypted or plain
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// A keyring: the file of component_keyring_file or of the keyring_file plugin (repeatable)
    #[arg(long, value_name = "PATH", help_heading = "Keys")]
    keyring: Vec<PathBuf>,

    /// One key: its id, and a file with its 64 hexadecimal digits (repeatable)
    #[arg(long, value_name = "ID=HEX-FILE", help_heading = "Keys")]
    key: Vec<KeyFile>,

    /// A server's data folder: its keyring is found through its configuration there (repeatable)
    #[arg(long, value_name = "DIR", help_heading = "Keys")]
    datadir: Vec<PathBuf>,

    /// Write the one plain file here, `-` for stdout [default: stdout]
    #[arg(short, long, value_name = "FILE", help_heading = "Output", conflicts_with = "output_dir")]
    output: Option<PathBuf>,

    /// Write plain files of the same names into this folder
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    output_dir: Option<PathBuf>,

    /// Only say what each file is: its key, where that was found, server version, size
    #[arg(long, help_heading = "Output", conflicts_with_all = ["output", "output_dir", "verify"])]
    inspect: bool,

    /// Only check: read everything, verify every event's checksum, write nothing
    #[arg(long, help_heading = "Output", conflicts_with_all = ["output", "output_dir"])]
    verify: bool,

    /// Report on stdout as JSON, one line per file
    #[arg(long, help_heading = "Output")]
    json: bool,
}

/// `--key ID=HEX-FILE`
#[derive(Debug, Clone)]
pub(crate) struct KeyFile {
    pub(crate) key_id: KeyId,
    pub(crate) path: PathBuf,
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
#[derive(Debug)]
pub(crate) struct KeyPlaces {
    pub(crate) keyrings: Vec<PathBuf>,
    pub(crate) keys: Vec<KeyFile>,
    pub(crate) datadirs: Vec<PathBuf>,
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

/// A command line that can be meant.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) files: Vec<PathBuf>,
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
        if matches!(task, Task::ToStdout | Task::ToFile(_)) && arguments.files.len() > 1 {
            let error = format!("{} files cannot become one", arguments.files.len());
            return Err(usage(&error, "give --output-dir DIR: each file is written there under its own name"));
        }
        if matches!(task, Task::ToStdout) {
            if std::io::stdout().is_terminal() {
                let hint = "give -o FILE, or pipe it: binlog-decrypt ... | mysqlbinlog -";
                return Err(usage("a binary log is not written to a terminal", hint));
            }
            if arguments.json {
                return Err(usage("stdout cannot carry both the binlog and --json", "give -o FILE"));
            }
        }
        if matches!(task, Task::ToFolder(_)) {
            refuse_equal_names(&arguments.files)?;
        }
        let places = KeyPlaces { keyrings: arguments.keyring, keys: arguments.key, datadirs: arguments.datadir };
        Ok(Self { files: arguments.files, places, task, json: arguments.json })
    }
}

/// Two files of one name would become the same file of the output folder.
fn refuse_equal_names(files: &[PathBuf]) -> Result<(), Failure> {
    let mut names = BTreeSet::<OsString>::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_owned();
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
