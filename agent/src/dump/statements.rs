//! Files of SQL statements that both this program and the `mysql` client read.
//!
//! The first line is `DELIMITER ` and a delimiter that was drawn at random and occurs in no statement. Each statement is
//! followed by a newline, the delimiter and a newline. Statements are bytes: each is in the character set that the
//! `SET character_set_client` before it names. There are no comments of ours.

use std::collections::VecDeque;

/// The `mysql` client takes 15 bytes at most.
const DELIMITER_LEN: usize = 13;

/// A statement longer than this was not written by the server: it would not fit into a packet.
const STATEMENT_LEN_MAX: usize = 1 << 30;

const INTRODUCTION: &[u8] = b"DELIMITER ";

/// What is wrong with a statement or a file of statements.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// The statement has the delimiter in it.
    #[error("a statement contains the delimiter")]
    Delimiter,
    /// The file does not begin with `DELIMITER`.
    #[error("not a file of statements: its first line is not a delimiter")]
    Introduction,
    /// The file ends within a statement.
    #[error("the file ends within a statement")]
    Torn,
    /// A statement is larger than any packet.
    #[error("a statement is longer than {STATEMENT_LEN_MAX} bytes")]
    TooLong,
}

/// Draws a delimiter for a file.
#[must_use]
pub fn random_delimiter() -> String {
    format!("$hw{:08x}$$", rand::random::<u32>())
}

/// Writes statements into a growing buffer.
#[derive(Debug)]
pub struct StatementWriter {
    delimiter: String,
    pending: Vec<u8>,
}

impl StatementWriter {
    /// Begins a file.
    #[must_use]
    pub fn new(delimiter: String) -> Self {
        let mut pending = INTRODUCTION.to_vec();
        pending.extend_from_slice(delimiter.as_bytes());
        pending.push(b'\n');
        Self { delimiter, pending }
    }

    /// Adds a statement.
    pub fn push(&mut self, statement: &[u8]) -> Result<(), StatementError> {
        if find(statement, self.delimiter.as_bytes()).is_some() {
            return Err(StatementError::Delimiter);
        }
        self.pending.extend_from_slice(statement);
        self.pending.push(b'\n');
        self.pending.extend_from_slice(self.delimiter.as_bytes());
        self.pending.push(b'\n');
        Ok(())
    }

    /// How many bytes wait to be taken.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending.len()
    }

    /// Takes what was written since the last time.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }
}

/// Reads statements from pieces of a file.
#[derive(Debug, Default)]
pub struct StatementReader {
    /// Newline, delimiter, newline; empty until the first line was read.
    end: Vec<u8>,
    buffer: Vec<u8>,
    /// No statement ends before this offset of `buffer`.
    searched: usize,
    ready: VecDeque<Vec<u8>>,
}

impl StatementReader {
    /// Takes the file's next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StatementError> {
        self.buffer.extend_from_slice(bytes);
        if self.end.is_empty() && !self.read_introduction()? {
            return Ok(());
        }
        let mut start = 0;
        while let Some(at) = find(self.buffer.get(start + self.searched..).unwrap_or_default(), &self.end) {
            let end = start + self.searched + at;
            self.ready.push_back(self.buffer.get(start..end).unwrap_or_default().to_vec());
            start = end + self.end.len();
            self.searched = 0;
        }
        self.buffer.drain(..start);
        self.searched = self.buffer.len().saturating_sub(self.end.len());
        if self.buffer.len() > STATEMENT_LEN_MAX { Err(StatementError::TooLong) } else { Ok(()) }
    }

    /// The next whole statement, if one has arrived.
    pub fn next_statement(&mut self) -> Option<Vec<u8>> {
        self.ready.pop_front()
    }

    /// Says that the file has ended.
    pub fn finish(&self) -> Result<(), StatementError> {
        if self.end.is_empty() {
            Err(StatementError::Introduction)
        } else if self.buffer.is_empty() {
            Ok(())
        } else {
            Err(StatementError::Torn)
        }
    }

    fn read_introduction(&mut self) -> Result<bool, StatementError> {
        let Some(line_end) = self.buffer.iter().position(|&byte| byte == b'\n') else {
            let longest = INTRODUCTION.len() + DELIMITER_LEN;
            return if self.buffer.len() > longest { Err(StatementError::Introduction) } else { Ok(false) };
        };
        let line: Vec<u8> = self.buffer.drain(..=line_end).collect();
        let delimiter = line.strip_prefix(INTRODUCTION).unwrap_or_default();
        if delimiter.len() < 2 || delimiter.len() > DELIMITER_LEN + 1 {
            return Err(StatementError::Introduction);
        }
        self.end = [b"\n", delimiter].concat();
        Ok(true)
    }
}

/// Where `needle` begins in `haystack`.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0;
    while let Some(at) = haystack.get(from..)?.iter().position(|&byte| byte == first) {
        if haystack.get(from + at..)?.starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(file: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, StatementError> {
        let mut reader = StatementReader::default();
        let mut statements = Vec::new();
        for bytes in file.chunks(piece) {
            reader.push(bytes)?;
            while let Some(statement) = reader.next_statement() {
                statements.push(statement);
            }
        }
        reader.finish().map(|()| statements)
    }

    #[test]
    fn a_statement_with_the_delimiter_in_it_is_refused() {
        let mut writer = StatementWriter::new("$hw00000000$$".to_owned());
        assert_eq!(writer.push(b"SELECT '$hw00000000$$'"), Err(StatementError::Delimiter));
    }

    #[test]
    fn a_torn_file_is_reported() {
        let mut writer = StatementWriter::new(random_delimiter());
        writer.push(b"SELECT 1").unwrap();
        let file = writer.take();
        assert_eq!(read(&file[..file.len() - 1], 7), Err(StatementError::Torn));
        assert_eq!(read(b"SELECT 1;\n", 7), Err(StatementError::Introduction));
        assert_eq!(read(b"", 7), Err(StatementError::Introduction));
    }

    #[test]
    fn the_delimiter_fits_the_mysql_client() {
        assert_eq!(random_delimiter().len(), DELIMITER_LEN);
    }

    proptest! {
        #[test]
        fn statements_are_read_back_whatever_the_pieces(
            statements in proptest::collection::vec(proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'$'), Just(b'h'), any::<u8>()], 0..40), 0..10),
            piece in 1usize..60,
        ) {
            let mut writer = StatementWriter::new("$hw1f3a9c2e$$".to_owned());
            for statement in &statements {
                writer.push(statement).unwrap();
            }
            prop_assert_eq!(read(&writer.take(), piece).unwrap(), statements);
        }
    }
}
