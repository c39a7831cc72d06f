//! How a run ends, and what a person is told.

use std::fmt::{self, Display};
use std::io::{ErrorKind, Write};

use serde::Serialize;

/// The exit codes, the same in all of Highwater's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    /// Everything was done.
    Done,
    /// Something outside of the binlog and the keyring failed: reading, writing.
    Failed,
    /// The command line cannot be meant.
    Usage,
    /// The key is missing or wrong.
    Key,
    /// The binlog is damaged or cut, or does not follow the one before it.
    Damaged,
    /// A signal ended the run.
    Interrupted,
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Key => 3,
            Self::Damaged => 4,
            Self::Interrupted => 7,
        }
    }
}

/// Why something was not done, and what to do about it.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// What kind of failure.
    #[serde(rename = "kind")]
    pub exit: Exit,
    /// What went wrong: a lowercase fragment that names the object.
    pub error: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<String>) -> Self {
        Self { exit, error: error.into(), hint: None }
    }

    /// A failure of reading or writing `what`.
    pub(crate) fn io(what: impl Display, error: &std::io::Error) -> Self {
        let failure = Self::new(Exit::Failed, format!("{what}: {error}"));
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                failure.hint("make room there, or choose another place")
            }
            _ => failure,
        }
    }

    /// The same with advice.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Tells it on stderr.
    pub(crate) fn print(&self) {
        say(&format!("error: {}", self.error));
        if let Some(hint) = &self.hint {
            say(&format!("hint: {hint}"));
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl std::error::Error for Failure {}

/// Writes a line on stderr. That nobody listens there changes nothing about the run.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// An error with everything it was caused by, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
