//! Exit codes, and how a failure is told.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use highwater_catalog::{CatalogError, Refusal};

use crate::archive::ArchiveError;
use crate::capture::CaptureError;
use crate::config::ConfigError;
use crate::dump::DumpError;
use crate::kept::KeepError;
use crate::restore::RestoreFailure;
use crate::seal::SealError;
use crate::secret::SecretError;
use crate::source::{FilesError, ServerError};
use crate::store::StoreError;

/// How the program ends. The numbers are documented and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// What was asked is done.
    Done,
    /// It failed for a reason that has no number of its own.
    Failed,
    /// The command line or the configuration is wrong.
    Usage,
    /// A key is missing or wrong.
    Key,
    /// Stored data is damaged or missing.
    Damaged,
    /// The wanted point cannot be reached: a gap, or outside the recoverable window.
    Unreachable,
    /// The target server is not fit, or not empty.
    Target,
    /// A signal ended it.
    Interrupted,
    /// Another agent writes the archive now: starting this one again would only take it back.
    TakenOver,
    /// What a monitoring plug-in answers with, in its own numbers: `status --nagios` only.
    Nagios(u8),
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Key => 3,
            Self::Damaged => 4,
            Self::Unreachable => 5,
            Self::Target => 6,
            Self::Interrupted => 7,
            Self::TakenOver => 8,
            Self::Nagios(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A failure as the person at the terminal sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure.
    pub exit: Exit,
    /// What went wrong: a lowercase fragment that names the object.
    pub error: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(exit: Exit, error: impl Into<String>) -> Self {
        Self { exit, error: error.into(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The failure that an error is: its whole chain as text; exit code and hint of the first cause that has them.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        let mut exit = None;
        let mut hint = None;
        for cause in error.chain() {
            if let Some((code, advice)) = explain(cause) {
                exit = exit.or(code);
                hint = hint.or(advice);
            }
        }
        Self { exit: exit.unwrap_or(Exit::Failed), error: text_of(error), hint }
    }

    /// Writes `error: …` and `hint: …`, or one JSON object.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write, json: bool) -> io::Result<()> {
        if json {
            let object = serde_json::json!({ "error": self.error, "hint": self.hint, "exit": self.exit.code() });
            return writeln!(out, "{object}");
        }
        writeln!(out, "error: {}", self.error)?;
        match &self.hint {
            Some(hint) => writeln!(out, "hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl Error for Failure {}

/// The chain, outermost first, without causes that only repeat what was said.
fn text_of(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let part = cause.to_string();
        if text.ends_with(&part) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part);
    }
    text
}

/// Exit code and hint of an error that knows them. The list of such types is here and nowhere else.
fn explain(error: &(dyn Error + 'static)) -> Option<(Option<Exit>, Option<String>)> {
    if let Some(error) = error.downcast_ref::<Failure>() {
        return Some((Some(error.exit), error.hint.clone()));
    }
    if let Some(error) = error.downcast_ref::<ArchiveError>() {
        return Some((Some(error.exit()), error.hint()));
    }
    if let Some(error) = error.downcast_ref::<RestoreFailure>() {
        return Some((Some(error.exit()), error.hint()));
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return Some((Some(Exit::Failed), crate::archive::store_hint(error)));
    }
    if let Some(error) = error.downcast_ref::<SealError>() {
        return Some((Some(error.exit()), error.hint()));
    }
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return Some((Some(Exit::Usage), error.hint()));
    }
    if let Some(error) = error.downcast_ref::<SecretError>() {
        return Some((Some(Exit::Usage), error.hint()));
    }
    if let Some(error) = error.downcast_ref::<CaptureError>() {
        return Some((Some(error.exit()), error.hint()));
    }
    if let Some(error) = error.downcast_ref::<KeepError>() {
        return Some((Some(error.exit()), error.hint()));
    }
    if let Some(error) = error.downcast_ref::<DumpError>() {
        // Its causes say what kind of failure it is.
        return Some((None, error.hint()));
    }
    if let Some(error) = error.downcast_ref::<FilesError>() {
        return Some((Some(error.exit()), error.hint()));
    }
    if let Some(error) = error.downcast_ref::<ServerError>() {
        return Some((Some(Exit::Failed), error.hint()));
    }
    if let Some(error) = error.downcast_ref::<Refusal>() {
        return Some((Some(Exit::Unreachable), Some(error.hint())));
    }
    if let Some(error) = error.downcast_ref::<CatalogError>() {
        return Some((Some(Exit::Failed), Some(error.hint().to_owned())));
    }
    // An I/O error hides the error it carries from the chain.
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    explain(inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    fn printed(failure: &Failure, json: bool) -> String {
        let mut out = Vec::new();
        failure.write(&mut out, json).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_failure_prints_error_and_hint() {
        let failure = Failure::new(Exit::Unreachable, "no dump").hint("take one");
        assert_eq!(printed(&failure, false), "error: no dump\nhint: take one\n");
        assert_eq!(printed(&failure, true), "{\"error\":\"no dump\",\"exit\":5,\"hint\":\"take one\"}\n");
    }

    #[test]
    fn context_keeps_code_and_hint() {
        let damaged = ArchiveError::Damaged { object: "segments/x".to_owned(), what: "it ends too early".to_owned() };
        let error = Err::<(), _>(damaged).context("restore to 14:02").unwrap_err();
        let failure = Failure::of(&error);
        assert_eq!(failure.error, "restore to 14:02: segments/x is damaged: it ends too early");
        assert_eq!(failure.exit, Exit::Damaged);
        assert!(failure.hint.unwrap().contains("highwater verify"));
    }

    #[test]
    fn an_error_inside_an_io_error_is_found() {
        let inner = ArchiveError::IdentityMissing { object: "x".to_owned(), recipients: vec![] };
        let error = anyhow::Error::new(io::Error::new(io::ErrorKind::InvalidData, inner));
        assert_eq!(Failure::of(&error).exit, Exit::Key);
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let all = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::Key,
            Exit::Damaged,
            Exit::Unreachable,
            Exit::Target,
            Exit::Interrupted,
            Exit::TakenOver,
        ];
        assert_eq!(all.map(Exit::code), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
