//! A file of statements on its way into a dump, and the fingerprint of what was written.

use highwater_catalog::{DumpFile, DumpFileKind};
use sha2::{Digest, Sha256};

use super::error::DumpError;
use super::files::FileWriter;
use super::statements::{StatementWriter, random_delimiter};

/// Bytes of statements collected before they are handed on.
const FLUSH_BYTES: usize = 256 << 10;

/// Statements that must mean the same wherever the file is read: with our loader's session or a person's.
const PREAMBLE: &[&str] = &[
    "SET NAMES utf8mb4",
    "SET SESSION sql_log_bin = 0, foreign_key_checks = 0, unique_checks = 0, time_zone = '+00:00', \
     sql_mode = 'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES', innodb_strict_mode = 0, explicit_defaults_for_timestamp = 1, timestamp = DEFAULT",
    "/*!80013 SET SESSION sql_require_primary_key = 0 */",
    "/*!80030 SET SESSION sql_generate_invisible_primary_key = 0 */",
];

/// Where statements go: into a file, or only into the fingerprint.
pub(super) struct SqlOut<'a> {
    file: Option<(&'a mut FileWriter, StatementWriter, String)>,
    digest: Sha256,
}

impl<'a> SqlOut<'a> {
    /// Only takes the fingerprint.
    pub(super) fn fingerprint() -> Self {
        Self { file: None, digest: Sha256::new() }
    }

    /// Begins a file with the preamble.
    pub(super) fn begin(writer: &'a mut FileWriter, name: &str) -> Result<Self, DumpError> {
        writer.begin(name);
        let mut statements = StatementWriter::new(random_delimiter());
        for statement in PREAMBLE {
            statements
                .push(statement.as_bytes())
                .map_err(|source| DumpError::Statement { file: name.to_owned(), source })?;
        }
        Ok(Self { file: Some((writer, statements, name.to_owned())), digest: Sha256::new() })
    }

    /// Adds a statement.
    pub(super) async fn push(&mut self, statement: impl AsRef<[u8]>) -> Result<(), DumpError> {
        self.push_as(statement.as_ref(), statement.as_ref()).await
    }

    /// Adds a statement that is `same_as` another for the fingerprint.
    pub(super) async fn push_as(&mut self, statement: &[u8], same_as: &[u8]) -> Result<(), DumpError> {
        self.digest.update((same_as.len() as u64).to_le_bytes());
        self.digest.update(same_as);
        if let Some((writer, statements, name)) = &mut self.file {
            statements.push(statement).map_err(|source| DumpError::Statement { file: name.clone(), source })?;
            if statements.pending_bytes() >= FLUSH_BYTES {
                writer.write(statements.take()).await?;
            }
        }
        Ok(())
    }

    /// Ends the file.
    pub(super) async fn finish(self, kind: DumpFileKind) -> Result<(Option<DumpFile>, [u8; 32]), DumpError> {
        let file = match self.file {
            Some((writer, mut statements, _)) => {
                writer.write(statements.take()).await?;
                Some(writer.finish(kind).await?)
            }
            None => None,
        };
        Ok((file, self.digest.finalize().into()))
    }
}
