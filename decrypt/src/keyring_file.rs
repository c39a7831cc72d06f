//! Reading keyrings and keys from files.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use highwater_binlog::{ENCRYPTION_MAGIC, MAGIC};
use highwater_keyring::{KEYRING_BYTES_MAX, KeyBundle, Keyring, KeyringError, KeyringFormat, MariaDbKeys, MasterKey};
use zeroize::Zeroizing;

use crate::cli::KeyFile;
use crate::failure::{Exit, Failure, chain};
use crate::keys::KeySource;
use crate::sealed::{self, Identities};

/// A server rewrites its keyring in place, in well under this time altogether.
const READ_ATTEMPTS: u32 = 5;
const READ_PAUSE: Duration = Duration::from_millis(20);

/// What `openssl enc -pbkdf2` does without `-iter`.
const ITERATIONS_OF_OPENSSL: u32 = 10_000;

/// What opens keyrings that are not simply open.
#[derive(Default)]
pub(crate) struct Openers {
    /// Each is tried as it is.
    pub(crate) passwords: Vec<Zeroizing<Vec<u8>>>,
    pub(crate) identities: Identities,
    /// Of PBKDF2, where a file does not say how many.
    pub(crate) iterations: Vec<u32>,
}

impl Openers {
    /// Iterations of PBKDF2 to try.
    fn iterations(&self) -> &[u32] {
        if self.iterations.is_empty() { &[ITERATIONS_OF_OPENSSL] } else { &self.iterations }
    }

    /// Reads the files that were named. A password counts with and without the line end after it: Percona's component
    /// takes the whole file, MariaDB's plug-in does not.
    pub(crate) fn read(passwords: &[PathBuf], identities: &[PathBuf]) -> Result<Self, Failure> {
        let mut openers = Self::default();
        for path in passwords {
            let failed = |text: &str| Failure::new(Exit::Key, format!("password file {}: {text}", path.display()));
            let bytes = read_secret_file(path).map_err(|error| failed(&error.to_string()))?;
            let bytes = bytes.ok_or_else(|| failed("no such file"))?;
            let end = bytes.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |last| last + 1);
            let stripped = Zeroizing::new(bytes.get(..end).unwrap_or_default().to_vec());
            if stripped.len() < bytes.len() {
                openers.passwords.push(stripped);
            }
            openers.passwords.push(bytes);
        }
        openers.identities = Identities::read(identities)?;
        Ok(openers)
    }
}

/// The keyring at `path` and, if there is one, its `.backup`.
///
/// Servers rewrite a keyring in place, with a copy at `PATH.backup` meanwhile: the new state for
/// `component_keyring_file`, the old one for the `keyring_file` plugin. Whichever of the two is whole is used, and both
/// when both are: what a key opens decides, not where it was. One that is being rewritten is read again.
pub(crate) fn read_with_backup(path: &Path, openers: &Openers) -> Result<Vec<KeySource>, Failure> {
    let mut attempt = 1;
    loop {
        match read_once(path, openers) {
            Err(_) if attempt < READ_ATTEMPTS && path.exists() => {}
            Ok(sources) if attempt < READ_ATTEMPTS && sources.iter().all(KeySource::is_empty) => {}
            done => return done,
        }
        std::thread::sleep(READ_PAUSE);
        attempt += 1;
    }
}

fn read_once(path: &Path, openers: &Openers) -> Result<Vec<KeySource>, Failure> {
    let mut backup_path = path.as_os_str().to_owned();
    backup_path.push(".backup");
    let main = read(path, openers);
    let backup = read(Path::new(&backup_path), openers);
    match (main, backup) {
        (Ok(main), Ok(Some(backup))) => Ok(main.into_iter().chain([backup]).collect()),
        (Ok(Some(main)), Ok(None)) => Ok(vec![main]),
        (Ok(Some(mut main)), Err(failure)) => {
            main.warnings.push(failure.error);
            Ok(vec![main])
        }
        (Err(failure), Ok(Some(mut backup))) => {
            backup.warnings.push(format!("{}; its .backup is used", failure.error));
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
fn read(path: &Path, openers: &Openers) -> Result<Option<KeySource>, Failure> {
    let Some(bytes) = read_secret_file(path).map_err(|error| unreadable(path, &error))? else { return Ok(None) };
    let mut source = parse(&bytes, openers)
        .map_err(|(text, hint)| Failure::new(Exit::Key, format!("keyring {}: {text}", path.display())).hint(hint))?;
    source.place = path.display().to_string();
    let warnings = source.keyring.warnings().iter();
    source.warnings = warnings.map(|warning| format!("keyring {}: {warning}", path.display())).collect();
    Ok(Some(source))
}

/// What is wrong, and what to do about it.
type Refused = (String, &'static str);

/// Reads a keyring of whichever kind it is.
fn parse(bytes: &[u8], openers: &Openers) -> Result<KeySource, Refused> {
    if bytes.starts_with(&MAGIC) || bytes.starts_with(&ENCRYPTION_MAGIC) {
        let hint = "binlogs are given by their names alone: binlog-decrypt --keyring KEYRING BINLOG";
        return Err(("this is a binary log, no keyring".to_owned(), hint));
    }
    if sealed::looks_like(bytes) {
        let plain = openers.identities.open(bytes)?;
        return bundle(&plain);
    }
    if bundle_version(bytes) {
        return bundle(bytes);
    }
    if MariaDbKeys::looks_like(bytes) {
        let open = |password: Option<&[u8]>| match password {
            None => MariaDbKeys::read(bytes),
            Some(password) => MariaDbKeys::read_encrypted(bytes, password, openers.iterations()),
        };
        let event_keys = with_passwords(MariaDbKeys::is_encrypted(bytes), openers, open)?;
        return Ok(KeySource { event_keys, ..KeySource::default() });
    }
    let protected = matches!(Keyring::detect(bytes), Ok(KeyringFormat::PerconaEncrypted));
    let open = |password: Option<&[u8]>| match password {
        None => Keyring::read(bytes),
        Some(password) => Keyring::read_protected(bytes, password),
    };
    let keyring = with_passwords(protected, openers, open)?;
    Ok(KeySource { keyring, ..KeySource::default() })
}

/// Opens with each password until one fits; without any where none is needed.
fn with_passwords<T>(
    protected: bool,
    openers: &Openers,
    open: impl Fn(Option<&[u8]>) -> Result<T, KeyringError>,
) -> Result<T, Refused> {
    let mut result = open(None);
    if protected {
        for password in &openers.passwords {
            result = open(Some(password));
            if !matches!(result, Err(KeyringError::WrongPassword { .. })) {
                break;
            }
        }
    }
    result.map_err(|error| (chain(&error), hint_of(&error)))
}

fn hint_of(error: &KeyringError) -> &'static str {
    match error {
        KeyringError::PasswordNeeded { .. } => "give the file with its password with --keyring-password PATH",
        KeyringError::WrongPassword { .. } => {
            "the password's file counts as it is; look for the configuration of its time; for MariaDB's key file give its \
             server's file_key_management_use_pbkdf2 with --keyring-pbkdf2 N"
        }
        KeyringError::UnknownFormat => {
            "keyrings of Enterprise components and plug-ins are readable by their server only: \
             mysql_migrate_keyring --source-keyring=NAME --destination-keyring=component_keyring_file \
             --component-dir=DIR writes one that is read here"
        }
        KeyringError::TooLarge { .. }
        | KeyringError::ProtectedCut { .. }
        | KeyringError::Iterations { .. }
        | KeyringError::MariaDbLine { .. }
        | KeyringError::Json { .. }
        | KeyringError::PluginVersion
        | KeyringError::PluginEndMissing { .. }
        | KeyringError::PluginRecords => {
            "look for a copy of it, or export it with mysql_migrate_keyring to component_keyring_file"
        }
    }
}

/// Whether `bytes` are a key bundle, open: the only JSON here that begins with a number.
fn bundle_version(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii_start().strip_prefix(b"{").unwrap_or_default().trim_ascii_start();
    let value = text.strip_prefix(b"\"version\"").unwrap_or_default().trim_ascii_start();
    let value = value.strip_prefix(b":").unwrap_or_default().trim_ascii_start();
    value.first().is_some_and(u8::is_ascii_digit)
}

fn bundle(bytes: &[u8]) -> Result<KeySource, Refused> {
    let refused = |error| (chain(&error), "get the bundle again from the archive's keys/ folder");
    let (keyring, files) = KeyBundle::decode(bytes).map_err(refused)?.into_parts();
    Ok(KeySource { keyring, files, ..KeySource::default() })
}

impl KeySource {
    fn is_empty(&self) -> bool {
        self.keyring.is_empty() && self.files.is_empty() && self.event_keys.is_empty()
    }
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
    Ok(KeySource { place: path.display().to_string(), keyring, ..KeySource::default() })
}

/// All bytes of a file that may hold secrets, at most one more than a keyring may have; none if there is no such file.
pub(crate) fn read_secret_file(path: &Path) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
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

/// Whether a file is there, or a folder that may not be looked into: reading it then says so.
fn may_be_there(path: &Path) -> bool {
    match path.metadata() {
        Ok(facts) => facts.is_file(),
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    }
}

/// Those of `paths` that exist, each once.
pub(crate) fn existing(paths: impl IntoIterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for path in paths {
        let mut backup = path.as_os_str().to_owned();
        backup.push(".backup");
        if (may_be_there(&path) || may_be_there(Path::new(&backup))) && !found.contains(&path) {
            found.push(path);
        }
    }
    found
}
