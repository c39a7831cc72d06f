//! Values as columns hold them. SQLite's integers are signed, and a catalog is input like any other.

use highwater_binlog::ParseError;
use rusqlite::Row;
use rusqlite::types::FromSql;

use super::CatalogProblem;
use crate::check::{Check, RecordError};
use crate::digest::Blake3Digest;
use crate::names::ManifestName;
use crate::record::{ObjectFacts, Sealing};
use highwater_binlog::Micros;

/// A row being read, with the name of the record it belongs to.
pub(super) struct Reader<'r> {
    pub(super) row: &'r Row<'r>,
    pub(super) name: String,
}

impl Reader<'_> {
    pub(super) fn get<T: FromSql>(&self, column: &'static str) -> Result<T, CatalogProblem> {
        Ok(self.row.get(column)?)
    }

    pub(super) fn number<N: TryFrom<i64>>(&self, column: &'static str) -> Result<N, CatalogProblem> {
        self.narrow(column, self.get::<i64>(column)?)
    }

    pub(super) fn optional_number<N: TryFrom<i64>>(&self, column: &'static str) -> Result<Option<N>, CatalogProblem> {
        self.get::<Option<i64>>(column)?.map(|value| self.narrow(column, value)).transpose()
    }

    pub(super) fn parse<T: std::str::FromStr<Err = ParseError>>(
        &self,
        column: &'static str,
    ) -> Result<T, CatalogProblem> {
        let text: String = self.get(column)?;
        text.parse().map_err(|error| self.problem(RecordError::parse(column, &error)))
    }

    pub(super) fn micros(&self, column: &'static str) -> Result<Micros, CatalogProblem> {
        self.number(column).map(Micros)
    }

    pub(super) fn digest(&self, column: &'static str) -> Result<Blake3Digest, CatalogProblem> {
        self.optional_digest(column)?.ok_or_else(|| self.problem(RecordError::new(column, "no digest")))
    }

    pub(super) fn optional_digest(&self, column: &'static str) -> Result<Option<Blake3Digest>, CatalogProblem> {
        let bytes: Option<Vec<u8>> = self.get(column)?;
        let digest = |bytes: Vec<u8>| {
            let wrong = |bytes: Vec<u8>| self.problem(RecordError::new(column, format!("{} bytes", bytes.len())));
            <[u8; 32]>::try_from(bytes).map(Blake3Digest).map_err(wrong)
        };
        bytes.map(digest).transpose()
    }

    pub(super) fn object(&self) -> Result<ObjectFacts, CatalogProblem> {
        let code: i64 = self.get("sealing")?;
        Ok(ObjectFacts {
            plain_size: self.number("plain_size")?,
            plain_blake3: self.digest("plain_blake3")?,
            stored_size: self.number("stored_size")?,
            stored_blake3: self.digest("stored_blake3")?,
            sealing: SealingCode(code).try_into().map_err(|error| self.problem(error))?,
        })
    }

    /// The record, if it makes sense and is the one that its identity says.
    pub(super) fn checked<R: Check>(&self, record: R) -> Result<R, CatalogProblem> {
        record.check().map_err(|error| self.problem(error))?;
        Ok(record)
    }

    pub(super) fn problem(&self, error: RecordError) -> CatalogProblem {
        CatalogProblem::Row { name: self.name.clone(), error }
    }

    fn narrow<N: TryFrom<i64>>(&self, column: &'static str, value: i64) -> Result<N, CatalogProblem> {
        N::try_from(value).map_err(|_| self.problem(RecordError::new(column, format!("{value} is out of range"))))
    }
}

/// A row whose record's name is not known before it is read.
pub(super) fn reader<'r>(row: &'r Row<'r>, name: impl FnOnce(&Row<'r>) -> Option<ManifestName>) -> Reader<'r> {
    Reader { row, name: name(row).map_or_else(|| "an unknown record".to_owned(), |name| name.key()) }
}

/// How a way of sealing is written down.
pub(super) struct SealingCode(pub(super) i64);

impl From<Sealing> for SealingCode {
    fn from(sealing: Sealing) -> Self {
        Self(match sealing {
            Sealing::Zstd => 1,
            Sealing::ZstdAge => 2,
        })
    }
}

impl TryFrom<SealingCode> for Sealing {
    type Error = RecordError;

    fn try_from(SealingCode(code): SealingCode) -> Result<Self, RecordError> {
        match code {
            1 => Ok(Self::Zstd),
            2 => Ok(Self::ZstdAge),
            _ => Err(RecordError::new("sealing", format!("unknown code {code}"))),
        }
    }
}

/// A number that records keep within SQLite's range.
pub(super) fn signed(value: u64) -> Result<i64, CatalogProblem> {
    i64::try_from(value).map_err(|_| CatalogProblem::Sqlite(rusqlite::Error::IntegralValueOutOfRange(0, i64::MAX)))
}

/// The other way round.
pub(super) fn number(value: i64) -> Result<u64, CatalogProblem> {
    u64::try_from(value).map_err(|_| CatalogProblem::Damaged { detail: format!("number {value}") })
}
