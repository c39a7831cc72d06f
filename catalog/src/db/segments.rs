//! Rows of segments.

use rusqlite::{Row, Transaction, params};

use super::rows::{SealingCode, reader, signed};
use super::{CatalogProblem, Stored};
use crate::names::ManifestName;
use crate::record::{Segment, TimelineId};
use crate::time::Micros;

const INSERT: &str = "
    INSERT INTO segment (
        timeline, sequence, server, binlog, start_offset, end_offset, gtids_before, gtids_added, first_commit_us,
        last_commit_us, events, transactions, plain_size, plain_sha256, stored_size, stored_sha256, sealing,
        previous_sha256
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

impl Stored for Segment {
    fn name(&self) -> ManifestName {
        ManifestName::Segment(self.timeline, self.sequence)
    }

    fn insert(&self, transaction: &Transaction<'_>) -> Result<(), CatalogProblem> {
        let micros = |time: Option<Micros>| time.map(|micros| signed(micros.0)).transpose();
        transaction.prepare_cached(INSERT)?.execute(params![
            self.timeline.0,
            signed(self.sequence)?,
            self.server.to_string(),
            self.binlog.as_str(),
            signed(self.start)?,
            signed(self.end)?,
            self.gtids_before.to_string(),
            self.gtids_added.to_string(),
            micros(self.first_commit)?,
            micros(self.last_commit)?,
            signed(self.events)?,
            signed(self.transactions)?,
            signed(self.object.plain_size)?,
            self.object.plain_sha256.0,
            signed(self.object.stored_size)?,
            self.object.stored_sha256.0,
            SealingCode::from(self.object.sealing).0,
            self.previous_sha256.map(|digest| digest.0),
        ])?;
        Ok(())
    }

    fn find(transaction: &Transaction<'_>, like: &Self) -> Result<Option<Self>, CatalogProblem> {
        let select = "SELECT * FROM segment WHERE timeline = ? AND sequence = ?";
        let mut statement = transaction.prepare_cached(select)?;
        statement.query(params![like.timeline.0, signed(like.sequence)?])?.next()?.map(read).transpose()
    }

    fn all(transaction: &Transaction<'_>) -> Result<Vec<Self>, CatalogProblem> {
        let mut statement = transaction.prepare("SELECT * FROM segment ORDER BY timeline, sequence")?;
        statement.query_and_then([], read)?.collect()
    }
}

fn read(row: &Row<'_>) -> Result<Segment, CatalogProblem> {
    let row = reader(row, |row| {
        let sequence: i64 = row.get("sequence").ok()?;
        Some(ManifestName::Segment(TimelineId(row.get("timeline").ok()?), sequence.try_into().ok()?))
    });
    row.checked(Segment {
        timeline: TimelineId(row.number("timeline")?),
        sequence: row.number("sequence")?,
        server: row.parse("server")?,
        binlog: row.parse("binlog")?,
        start: row.number("start_offset")?,
        end: row.number("end_offset")?,
        gtids_before: row.parse("gtids_before")?,
        gtids_added: row.parse("gtids_added")?,
        first_commit: row.optional_number("first_commit_us")?.map(Micros),
        last_commit: row.optional_number("last_commit_us")?.map(Micros),
        events: row.number("events")?,
        transactions: row.number("transactions")?,
        object: row.object()?,
        previous_sha256: row.optional_digest("previous_sha256")?,
    })
}
