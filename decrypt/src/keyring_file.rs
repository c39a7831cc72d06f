//! Reading keyrings and keys from files.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use highwater_keyring::{KEYRING_BYTES_MAX, Keyring, MasterKey};
use zeroize::Zeroizing;

use crate::cli::KeyFile;
use crate::failure::{Exit, Failure, chain};
use crate::keys::KeySource;

/// The keyring at `path` and, if there is one, its `.backup`.
///
/// Servers rewrite a keyring in place, with a copy at `PATH.backup` meanwhile: the new state for
/// `component_keyring_file`, the old one for the `keyring_file` plugin. Whichever of the two is whole is used, and both
/// when both are: what a key opens decides, not where it was.
pub(crate) fn read_with_backup(path: &Path) -> Result<Vec<KeySource>, Failure> {
    let mut backup_path = path.as_os_str().to_owned();
    backup_path.push(".backup");
    let main = read(path);
    let backup = read(Path::new(&backup_path));
    match (main, backup) {
        (Ok(main), Ok(Some(backup))) => Ok(main.into_iter().chain([backup]).collect()),
        (Ok(Some(main)), Ok(None)) => Ok(vec![main]),
        (Ok(Some(main)), Err(failure)) => {
            eprintln!("warning: {}", failure.error);
            Ok(vec![main])
        }
        (Err(failure), Ok(Some(backup))) => {
            eprintln!("warning: {}; its .backup is used", failure.error);
            Ok(vec![backup])
        }
        (Ok(None), Ok(None)) => Err(missing(path)),
        (Err(failure), _) | (Ok(None), Err(failure)) => Err(failure),
    }
}

fn missing(path: &Path) -> Failure {
    Failure::new(Exit::Key, format!("keyring {}: no such file", path.display()))
        .hint("the path is in component_keyring_file.cnf, or in keyring_file_data for the plugin")
}

/// The keyring at `path`; none if there is no such file.
fn read(path: &Path) -> Result<Option<KeySource>, Failure> {
    let Some(bytes) = read_secret_file(path).map_err(|error| unreadable(path, &error))? else { return Ok(None) };
    let keyring = Keyring::read(&bytes).map_err(|error| {
        Failure::new(Exit::Key, format!("keyring {}: {}", path.display(), chain(&error)))
            .hint("export it with mysql_migrate_keyring to component_keyring_file, or give the keys with --key")
    })?;
    for warning in keyring.warnings() {
        eprintln!("warning: keyring {}: {warning}", path.display());
    }
    Ok(Some(KeySource { place: path.to_owned(), keyring }))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::new(Exit::Key, format!("keyring {}: {error}", path.display()));
    match error.kind() {
        ErrorKind::PermissionDenied => failure.hint("read it as the account that runs mysqld, or as root"),
        ErrorKind::IsADirectory => failure.hint("give the keyring's file, or the data folder with --datadir"),
        _ => failure,
    }
}

/// A key from a file with 64 hexadecimal digits, white space around them allowed.
pub(crate) fn read_key(given: &KeyFile) -> Result<KeySource, Failure> {
    let path = &given.path;
    let failed = |text: String| {
        Failure::new(Exit::Key, format!("key file {}: {text}", path.display()))
            .hint("the file must hold the key's 64 hexadecimal digits and nothing else")
    };
    let bytes = read_secret_file(path).map_err(|error| failed(error.to_string()))?;
    let bytes = bytes.ok_or_else(|| failed("no such file".to_owned()))?;
    let key = MasterKey::from_hex(bytes.trim_ascii()).map_err(|error| failed(error.to_string()))?;
    let mut keyring = Keyring::new();
    keyring.insert(given.key_id.clone(), key);
    Ok(KeySource { place: path.clone(), keyring })
}

/// All bytes of a file that may hold secrets, at most one more than a keyring may have; none if there is no such file.
fn read_secret_file(path: &Path) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Room for all of it from the start: growing would leave copies behind.
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(KEYRING_BYTES_MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 64));
    file.take(KEYRING_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// The first of `paths` that exist, each once.
pub(crate) fn existing(paths: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for path in paths {
        let mut backup = path.as_os_str().to_owned();
        backup.push(".backup");
        if (path.is_file() || Path::new(&backup).is_file()) && !found.contains(&path) {
            found.push(path);
        }
    }
    found
}
