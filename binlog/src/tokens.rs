//! SQL text as words, names and signs; just enough of MySQL's lexer (`sql/sql_lex.cc`) to recognise statements.

use std::borrow::Cow;

/// One piece of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A keyword or a name without quotes, or a number.
    Word(&'a str),
    /// A name in backticks, its doubled ones undone.
    Name(Cow<'a, str>),
    /// Text in single or double quotes, the quotes taken off; doubled quotes and escapes as written.
    Text(&'a str),
    /// Any other character.
    Sign(char),
}

impl Token<'_> {
    pub(crate) fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(text) if text.eq_ignore_ascii_case(word))
    }
}

/// The tokens of a statement. What stands in `/*! … */` is read like anything else, other comments are skipped.
#[derive(Debug, Clone)]
pub(crate) struct Tokens<'a> {
    rest: &'a str,
    peeked: Option<Token<'a>>,
}

impl<'a> Tokens<'a> {
    pub(crate) const fn new(statement: &'a str) -> Self {
        Self { rest: statement, peeked: None }
    }

    pub(crate) fn peek(&mut self) -> Option<&Token<'a>> {
        if self.peeked.is_none() {
            self.peeked = self.read();
        }
        self.peeked.as_ref()
    }

    /// Takes the next token if it is this keyword.
    pub(crate) fn word(&mut self, word: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.is_word(word));
        if found {
            self.peeked = None;
        }
        found
    }

    /// Takes these keywords if all of them are next.
    pub(crate) fn words(&mut self, words: &[&str]) -> bool {
        let mut ahead = self.clone();
        let found = words.iter().all(|word| ahead.word(word));
        if found {
            *self = ahead;
        }
        found
    }

    pub(crate) fn sign(&mut self, sign: char) -> bool {
        let found = self.peek() == Some(&Token::Sign(sign));
        if found {
            self.peeked = None;
        }
        found
    }

    /// Takes a name: without quotes, in backticks, or in double quotes as `ANSI_QUOTES` has it.
    pub(crate) fn name(&mut self) -> Option<String> {
        match self.next()? {
            Token::Word(text) => Some(text.to_owned()),
            Token::Name(text) => Some(text.into_owned()),
            Token::Text(text) => Some(text.replace("\"\"", "\"")),
            Token::Sign(_) => None,
        }
    }

    /// Takes a name with or without a schema before it.
    pub(crate) fn qualified_name(&mut self) -> Option<(Option<String>, String)> {
        let first = self.name()?;
        if self.sign('.') { Some((Some(first), self.name()?)) } else { Some((None, first)) }
    }

    fn read(&mut self) -> Option<Token<'a>> {
        self.skip_space();
        let rest = self.rest;
        let first = rest.chars().next()?;
        let (token, len) = match first {
            '`' => quoted_name(rest),
            '\'' | '"' => quoted_text(rest, first),
            _ if is_word(first) => {
                let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                (Token::Word(rest.get(..len).unwrap_or_default()), len)
            }
            _ => (Token::Sign(first), first.len_utf8()),
        };
        self.rest = rest.get(len..).unwrap_or_default();
        Some(token)
    }

    /// Spaces, comments, and the brackets of executable comments.
    fn skip_space(&mut self) {
        loop {
            let rest = self.rest.trim_start();
            let after = if let Some(executable) = rest.strip_prefix("/*!") {
                executable.trim_start_matches(|c: char| c.is_ascii_digit())
            } else if let Some(comment) = rest.strip_prefix("/*") {
                comment.split_once("*/").map_or("", |(_, after)| after)
            } else if let Some(after) = rest.strip_prefix("*/") {
                after
            } else if rest.starts_with('#') || is_line_comment(rest) {
                rest.split_once('\n').map_or("", |(_, after)| after)
            } else {
                self.rest = rest;
                return;
            };
            self.rest = after;
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.peeked.take().or_else(|| self.read())
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii()
}

fn is_line_comment(rest: &str) -> bool {
    rest.strip_prefix("--")
        .is_some_and(|after| after.is_empty() || after.starts_with(|c: char| c.is_ascii_whitespace()))
}

/// A name that starts with a backtick, and its length with its quotes. One without an end goes to the end.
fn quoted_name(rest: &str) -> (Token<'_>, usize) {
    let mut at = 1;
    loop {
        let Some(found) = rest.get(at..).and_then(|tail| tail.find('`')) else {
            return (Token::Name(Cow::Borrowed(rest.get(1..).unwrap_or_default())), rest.len());
        };
        let end = at + found;
        if rest.get(end + 1..).is_some_and(|tail| tail.starts_with('`')) {
            at = end + 2;
            continue;
        }
        let inside = rest.get(1..end).unwrap_or_default();
        let name = if inside.contains('`') { Cow::Owned(inside.replace("``", "`")) } else { Cow::Borrowed(inside) };
        return (Token::Name(name), end + 1);
    }
}

/// Text that starts with `quote`, and its length with its quotes.
fn quoted_text(rest: &str, quote: char) -> (Token<'_>, usize) {
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if c == quote {
            if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
                continue;
            }
            return (Token::Text(rest.get(1..at).unwrap_or_default()), at + 1);
        }
    }
    (Token::Text(rest.get(1..).unwrap_or_default()), rest.len())
}
