//! What the command line's names stand for: files, the files of a folder, those of an index, stdin.

use std::cmp::Ordering;
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::iter;
use std::path::{Path, PathBuf};

use highwater_binlog::{ENCRYPTION_MAGIC, MAGIC};

use crate::failure::{Exit, Failure};

/// The largest index file read. A line is a name; a server keeps at most 2^31 binlogs and in practice thousands.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// One binary log or relay log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// What the program is given.
    Stdin,
    /// A file.
    File(PathBuf),
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("stdin"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Input {
    /// The name that its plaintext gets.
    pub(crate) fn file_name(&self) -> Option<&std::ffi::OsStr> {
        match self {
            Self::Stdin => None,
            Self::File(path) => path.file_name(),
        }
    }

    /// Folder and name without the number: what the files of one sequence have in common.
    pub(crate) fn sequence(&self) -> Option<(&Path, &str)> {
        let Self::File(path) = self else { return None };
        let (stem, _) = numbered(path.file_name()?.to_str()?)?;
        Some((path.parent().unwrap_or(Path::new("")), stem))
    }
}

/// The binlogs that `names` stand for, in the order given; those of a folder in the order of their numbers.
///
/// # Errors
/// A folder or an index that cannot be read or has none.
pub(crate) fn expand(names: &[PathBuf]) -> Result<Vec<Input>, Failure> {
    let mut inputs = Vec::new();
    for name in names {
        if name.as_os_str() == "-" {
            inputs.push(Input::Stdin);
        } else if name.is_dir() {
            inputs.extend(of_folder(name)?.into_iter().map(Input::File));
        } else if name.extension().is_some_and(|extension| extension == "index") {
            inputs.extend(named_by(name, false)?.into_iter().map(Input::File));
        } else {
            inputs.push(Input::File(name.clone()));
        }
    }
    Ok(inputs)
}

/// The files of a folder that begin like a binlog.
fn of_folder(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let shown = folder.display();
    let failed = &|error: std::io::Error| Failure::io(&shown, &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // One that cannot be looked into may be anything, and tells why itself if its name is a binlog's.
        let is_binlog = path.is_file() && begins_like_a_binlog(&path).unwrap_or_else(|_| is_numbered(&path));
        if is_binlog {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Err(Failure::new(Exit::Usage, format!("{shown} has no binary logs"))
            .hint("the folder is the one that log_bin or relay_log names, by default the data folder"));
    }
    found.sort_by(|a, b| by_number(a, b));
    Ok(found)
}

fn begins_like_a_binlog(path: &Path) -> std::io::Result<bool> {
    let mut magic = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut magic)?;
    Ok(magic == MAGIC || magic == ENCRYPTION_MAGIC)
}

fn is_numbered(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).and_then(numbered).is_some()
}

/// `binlog` and 42 for `binlog.000042`.
fn numbered(name: &str) -> Option<(&str, u64)> {
    let (stem, digits) = name.rsplit_once('.')?;
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((stem, digits.parse().ok().filter(|_| all_digits)?))
}

/// `binlog.1000000` comes after `binlog.999999`.
fn by_number(a: &Path, b: &Path) -> Ordering {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (a, b) = (name(a), name(b));
    match (numbered(&a), numbered(&b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.cmp(&b),
    }
}

/// The files that an index names. A path of the server's machine is looked for beside the index and below the folders
/// above it, and taken as it stands if it is not there: the caller must know that the files are that server's.
///
/// # Errors
/// An index that cannot be read or names none.
pub fn of_index(index: &Path) -> Result<Vec<PathBuf>, Failure> {
    named_by(index, true)
}

/// The files that an index names. On a machine with a server of its own, a path of the dead server's machine may be a file
/// of the wrong server: only `is_own_disk` allows to take it as it stands.
fn named_by(index: &Path, is_own_disk: bool) -> Result<Vec<PathBuf>, Failure> {
    let shown = index.display();
    let mut text = String::new();
    let read = File::open(index).and_then(|file| file.take(INDEX_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            return Err(Failure::new(Exit::Usage, format!("{shown} is not an index: it is not text")));
        }
        Err(error) => return Err(Failure::io(shown, &error)),
    }
    let folder = index.parent().unwrap_or(Path::new(""));
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let files: Vec<PathBuf> = lines.map(|line| place_of(Path::new(line), folder, is_own_disk)).collect();
    if files.is_empty() {
        return Err(Failure::new(Exit::Usage, format!("{shown} names no binary logs")));
    }
    Ok(files)
}

fn place_of(line: &Path, folder: &Path, is_own_disk: bool) -> PathBuf {
    let beside = folder.join(line.file_name().unwrap_or_default());
    let Ok(below_root) = line.strip_prefix("/") else {
        let named = folder.join(line.strip_prefix(".").unwrap_or(line));
        return if named.exists() { named } else { beside };
    };
    let real = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let above = real.ancestors().filter(|above| above.parent().is_some()).map(|above| above.join(below_root));
    let as_it_stands = is_own_disk.then(|| line.to_owned());
    let mut places = iter::once(beside.clone()).chain(above).chain(as_it_stands);
    places.find(|place| place.exists()).unwrap_or(beside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_folder_come_in_the_order_of_their_numbers_and_other_files_do_not_come() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["binlog.1000000", "binlog.999999", "binlog.000002", "relay-bin.000001"] {
            fs::write(folder.path().join(name), b"\xfdbin....").unwrap();
        }
        fs::write(folder.path().join("binlog.000003"), b"\xfebin").unwrap();
        fs::write(folder.path().join("ibdata1"), b"other").unwrap();
        fs::write(folder.path().join("binlog.index"), b"./binlog.000002\n").unwrap();
        let found = expand(&[folder.path().to_owned()]).unwrap();
        let names: Vec<_> = found.iter().map(|input| input.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["binlog.000002", "binlog.000003", "binlog.999999", "binlog.1000000", "relay-bin.000001"]);
        assert_eq!(found[0].sequence(), Some((folder.path(), "binlog")));
    }

    #[test]
    fn an_index_names_its_files_wherever_the_disk_is_mounted() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("binlog.000002"), b"").unwrap();
        let index = folder.path().join("binlog.index");
        fs::write(&index, "/var/lib/mysql/binlog.000002\n\n./binlog.000003\nsub/binlog.000004\n").unwrap();
        let expected = ["binlog.000002", "binlog.000003", "binlog.000004"];
        let expected: Vec<_> = expected.iter().map(|name| Input::File(folder.path().join(name))).collect();
        assert_eq!(expand(&[index]).unwrap(), expected);
    }

    #[test]
    fn a_path_of_an_index_never_leads_to_the_files_of_another_server_on_this_machine() {
        // What is there as it stands is of the server that runs here; the dead one's disk is mounted elsewhere.
        let (here, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ours = here.path().join("binlog.000003");
        fs::write(&ours, b"").unwrap();
        let root = disk.path().canonicalize().unwrap();
        let index = root.join("var/lib/mysql/binlog.index");
        fs::create_dir_all(index.parent().unwrap()).unwrap();
        fs::write(&index, format!("{}\n", ours.display())).unwrap();
        let beside = index.with_file_name("binlog.000003");
        assert_eq!(expand(std::slice::from_ref(&index)).unwrap(), [Input::File(beside.clone())], "told as missing");
        assert_eq!(of_index(&index).unwrap(), std::slice::from_ref(&ours), "the disk is known to be the server's own");

        let mounted = root.join(ours.strip_prefix("/").unwrap());
        fs::create_dir_all(mounted.parent().unwrap()).unwrap();
        fs::write(&mounted, b"").unwrap();
        assert_eq!(expand(std::slice::from_ref(&index)).unwrap(), [Input::File(mounted)]);
        fs::write(&beside, b"").unwrap();
        assert_eq!(expand(&[index]).unwrap(), [Input::File(beside)]);
    }

    #[test]
    fn folders_and_indexes_without_binlogs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(expand(&[folder.path().to_owned()]).is_err());
        let index = folder.path().join("binlog.index");
        for bytes in [&b"\n\n"[..], b"\xff\xfe"] {
            fs::write(&index, bytes).unwrap();
            assert!(expand(std::slice::from_ref(&index)).is_err());
        }
        assert!(expand(&[folder.path().join("missing.index")]).is_err());
        assert_eq!(expand(&["-".into()]).unwrap(), [Input::Stdin]);
    }
}
