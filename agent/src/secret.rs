//! Passwords, and where a configuration says they are.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use zeroize::{Zeroize, Zeroizing};

/// A secret is one line; more than this is another file.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// A password. Never printed; zeroized when dropped.
#[derive(Clone)]
pub struct Password(SecretString);

impl Password {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(SecretString::from(text))
    }

    /// The text, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Where a secret is. A configuration names the place and never holds the secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum SecretPlace {
    /// The first line of a file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// The first line that a command (program and arguments, no shell) prints.
    Command(Vec<String>),
}

impl SecretPlace {
    /// Fetches the secret. A file that other accounts can read is refused.
    pub fn read(&self) -> Result<Password, SecretError> {
        match self {
            Self::File(path) => read_file(path),
            Self::Env(name) => match std::env::var(name) {
                Ok(text) => Ok(Password::new(text)),
                Err(std::env::VarError::NotPresent) => Err(SecretError::EnvMissing { name: name.clone() }),
                Err(std::env::VarError::NotUnicode(_)) => {
                    Err(SecretError::NotText { place: format!("environment variable {name}") })
                }
            },
            Self::Command(words) => run(words),
        }
    }
}

/// A secret that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("read secret file {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Other accounts of the machine can read the file.
    #[error("secret file {path} can be read by other users (mode {mode:04o})")]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The variable is not set.
    #[error("environment variable {name} is not set")]
    EnvMissing {
        /// Its name.
        name: String,
    },
    /// The command cannot be started, or did not succeed. Arguments may be secrets and are not shown.
    #[error("secret command {program} {what}")]
    Command {
        /// The program.
        program: String,
        /// What happened.
        what: String,
    },
    /// There is nothing in the first line.
    #[error("the first line of {place} is empty")]
    Empty {
        /// The place.
        place: String,
    },
    /// The bytes are no text.
    #[error("{place} is not UTF-8 text")]
    NotText {
        /// The place.
        place: String,
    },
}

impl SecretError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File { .. } => Some("the account that runs highwater must be able to read it".to_owned()),
            Self::Exposed { path, .. } => Some(format!("chmod 600 {path}")),
            Self::EnvMissing { name } => Some(format!("set {name}, or name a file with the password instead")),
            Self::Command { .. } => Some("run it by hand as the same account; it must exit with 0".to_owned()),
            Self::Empty { .. } | Self::NotText { .. } => Some("the secret is the first line, as UTF-8 text".to_owned()),
        }
    }
}

fn read_file(path: &Path) -> Result<Password, SecretError> {
    let name = path.display().to_string();
    let unreadable = |source| SecretError::File { path: name.clone(), source };
    let file = File::open(path).map_err(unreadable)?;
    let facts = file.metadata().map_err(unreadable)?;
    let mode = facts.permissions().mode() & 0o7777;
    if facts.is_file() && mode & 0o007 != 0 {
        return Err(SecretError::Exposed { path: name, mode });
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(SECRET_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    first_line(&bytes, &format!("secret file {name}"))
}

fn run(words: &[String]) -> Result<Password, SecretError> {
    let [program, arguments @ ..] = words else {
        return Err(SecretError::Command { program: "``".to_owned(), what: "names no program".to_owned() });
    };
    let failed = |what: String| SecretError::Command { program: program.clone(), what };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    let mut bytes = output.stdout;
    let password = if output.status.success() {
        first_line(&bytes, &format!("what secret command {program} prints"))
    } else {
        Err(failed(format!("ended with {}", output.status)))
    };
    bytes.zeroize();
    password
}

fn first_line(bytes: &[u8], place: &str) -> Result<Password, SecretError> {
    let text = std::str::from_utf8(bytes).map_err(|_| SecretError::NotText { place: place.to_owned() })?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Password::new(line.to_owned())),
        Some(_) | None => Err(SecretError::Empty { place: place.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file(bytes: &[u8], mode: u32) -> (tempfile::TempDir, SecretPlace, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let name = path.display().to_string();
        (folder, SecretPlace::File(path), name)
    }

    fn message(place: &SecretPlace) -> String {
        place.read().unwrap_err().to_string()
    }

    #[test]
    fn a_file_gives_its_first_line() {
        for text in ["s3cret", "s3cret\n", "s3cret\r\nmore\n"] {
            let (_folder, place, _) = file(text.as_bytes(), 0o600);
            assert_eq!(place.read().unwrap().expose(), "s3cret");
        }
    }

    #[test]
    fn a_file_everyone_can_read_is_refused() {
        let (_folder, place, name) = file(b"s3cret", 0o604);
        assert_eq!(message(&place), format!("secret file {name} can be read by other users (mode 0604)"));
        let (_folder, place, _) = file(b"s3cret", 0o640);
        assert!(place.read().is_ok(), "a group may share it");
    }

    #[test]
    fn an_empty_or_binary_file_is_refused() {
        let (_folder, place, name) = file(b"\nsecond", 0o600);
        assert_eq!(message(&place), format!("the first line of secret file {name} is empty"));
        let (_folder, place, name) = file(b"\xff", 0o600);
        assert_eq!(message(&place), format!("secret file {name} is not UTF-8 text"));
    }

    #[test]
    fn an_unset_variable_is_named() {
        let place = SecretPlace::Env("HIGHWATER_TEST_NOT_SET".to_owned());
        assert_eq!(message(&place), "environment variable HIGHWATER_TEST_NOT_SET is not set");
    }

    #[test]
    fn a_command_gives_its_first_line_and_its_failure_is_told_without_arguments() {
        let command = |words: &[&str]| SecretPlace::Command(words.iter().map(|word| (*word).to_owned()).collect());
        assert_eq!(command(&["echo", "s3cret"]).read().unwrap().expose(), "s3cret");
        assert_eq!(message(&command(&["false", "s3cret"])), "secret command false ended with exit status: 1");
        assert!(message(&command(&["/no/such"])).starts_with("secret command /no/such cannot be started: "));
        assert_eq!(message(&command(&["true"])), "the first line of what secret command true prints is empty");
    }

    #[test]
    fn debug_output_shows_no_password() {
        assert_eq!(format!("{:?}", Password::new("s3cret".to_owned())), "Password(..)");
    }
}
