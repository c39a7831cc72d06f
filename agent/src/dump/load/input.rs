//! Statements from a stored file, one at a time.

use std::io;
use std::sync::Arc;

use highwater_catalog::{Dump, DumpFile};
use tokio::sync::mpsc;

use super::super::error::LoadError;
use super::super::files::read_ahead;
use super::super::statements::StatementReader;
use crate::archive::Archive;

/// A stored file of statements being read.
pub(super) struct Statements {
    name: String,
    pieces: mpsc::Receiver<io::Result<Vec<u8>>>,
    reader: StatementReader,
}

impl Statements {
    pub(super) fn open(archive: &Archive, dump: &Arc<Dump>, file: &DumpFile) -> Self {
        Self { name: file.name.clone(), pieces: read_ahead(archive, dump, file), reader: StatementReader::default() }
    }

    /// The file's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The next statement; absent after the last, when the file was read whole and found undamaged.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, LoadError> {
        let damaged = |source| LoadError::Statement { file: self.name.clone(), source };
        loop {
            if let Some(statement) = self.reader.next_statement() {
                return Ok(Some(statement));
            }
            match self.pieces.recv().await {
                Some(Ok(piece)) => self.reader.push(&piece).map_err(damaged)?,
                Some(Err(source)) => return Err(LoadError::Read { file: self.name.clone(), source }),
                None => return self.reader.finish().map(|()| None).map_err(damaged),
            }
        }
    }
}

/// Whether a statement only sets up the session for those after it.
pub(super) fn is_session_setting(statement: &[u8]) -> bool {
    [&b"SET NAMES "[..], b"SET SESSION ", b"/*!80013 SET SESSION ", b"/*!80030 SET SESSION "]
        .iter()
        .any(|start| statement.starts_with(start))
}
