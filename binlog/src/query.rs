//! Statements in the binlog, as bytes in the client's character set.

use std::borrow::Cow;

use crate::error::EventError;
use crate::event::{EventType, RawEvent};

/// A `QUERY` event: a statement as the server logged it. Never to be written to a log of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueryEvent<'a> {
    /// The schema that was current, empty for none. UTF-8.
    pub schema: &'a [u8],
    /// The statement, in the character set of the client that sent it.
    pub statement: &'a [u8],
}

impl<'a> QueryEvent<'a> {
    /// Reads a query event (`Query_event` in `statement_events.cpp`).
    ///
    /// # Errors
    /// When it is another event, or ends early.
    pub fn read(event: &RawEvent<'a>) -> Result<Self, EventError> {
        let mut body = event.body_of(EventType::QUERY)?;
        let header = body.take(8).and_then(|_| body.u8()).zip(body.u16().and_then(|_| body.u16()));
        let (schema_len, variables_len) = header.ok_or_else(|| event.bad("header"))?;
        body.take(usize::from(variables_len)).ok_or_else(|| event.bad("status variables"))?;
        let schema = body.take(usize::from(schema_len)).ok_or_else(|| event.bad("schema"))?;
        if body.u8() != Some(0) {
            return Err(event.bad("schema"));
        }
        Ok(Self { schema, statement: body.rest() })
    }

    /// The statement as text. Clients other than UTF-8 ones are read as Latin-1, so that keywords and quotes stay what
    /// they are; names may come out wrong then.
    #[must_use]
    pub fn text(&self) -> Cow<'a, str> {
        match std::str::from_utf8(self.statement) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(self.statement.iter().map(|byte| char::from(*byte)).collect()),
        }
    }

    /// What the statement does to the transaction around it. The server writes these texts itself, so they need no
    /// parsing (`Transaction_boundary_parser` in `trx_boundary_parser.cpp` compares them in the same way).
    #[must_use]
    pub fn boundary(&self) -> Boundary {
        let text = self.statement.trim_ascii();
        let starts = |word: &[u8]| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
        if text.eq_ignore_ascii_case(b"BEGIN") || starts(b"XA START") {
            Boundary::Begin
        } else if text.eq_ignore_ascii_case(b"COMMIT") || (starts(b"ROLLBACK") && !starts(b"ROLLBACK TO")) {
            Boundary::End
        } else if starts(b"XA COMMIT") || starts(b"XA ROLLBACK") {
            Boundary::EndXa
        } else {
            Boundary::Statement
        }
    }
}

/// What a statement does to the transaction around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// `BEGIN`, `XA START`: opens the part that a commit will close.
    Begin,
    /// `COMMIT`, `ROLLBACK`, but not `ROLLBACK TO`.
    End,
    /// `XA COMMIT`, `XA ROLLBACK`: alone after its GTID, or at the end of what `XA START` opened.
    EndXa,
    /// Anything else: a whole transaction when it follows a GTID, a part of one after `BEGIN`.
    Statement,
}
