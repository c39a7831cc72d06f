//! Everything that can be wrong with bytes or text that claim to be MySQL's.

/// Text that is not what it should name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {expected}")]
pub struct ParseError {
    /// What was expected, for people: `server UUID`, `GTID set`.
    pub expected: &'static str,
    /// The text as given, cut to 80 characters.
    pub text: String,
}

impl ParseError {
    /// An error for `text`, cut to a printable length.
    #[must_use]
    pub fn new(expected: &'static str, text: &str) -> Self {
        Self { expected, text: text.chars().take(80).collect() }
    }
}
