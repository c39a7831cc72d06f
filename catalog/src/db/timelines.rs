//! Rows of timelines.

use rusqlite::{Row, Transaction, params};

use super::rows::{reader, signed};
use super::{CatalogProblem, Stored};
use crate::names::ManifestName;
use crate::record::{Timeline, TimelineId};

impl Stored for Timeline {
    fn name(&self) -> ManifestName {
        ManifestName::Timeline(self.id)
    }

    fn insert(&self, transaction: &Transaction<'_>) -> Result<(), CatalogProblem> {
        let insert = "INSERT INTO timeline (id, parent, reason, starting_gtids, created_us) VALUES (?, ?, ?, ?, ?)";
        transaction.prepare_cached(insert)?.execute(params![
            self.id.0,
            self.parent.map(|parent| parent.0),
            self.reason,
            self.starting_gtids.to_string(),
            signed(self.created.0)?,
        ])?;
        Ok(())
    }

    fn find(transaction: &Transaction<'_>, like: &Self) -> Result<Option<Self>, CatalogProblem> {
        let mut statement = transaction.prepare_cached("SELECT * FROM timeline WHERE id = ?")?;
        statement.query([like.id.0])?.next()?.map(read).transpose()
    }

    fn all(transaction: &Transaction<'_>) -> Result<Vec<Self>, CatalogProblem> {
        let mut statement = transaction.prepare("SELECT * FROM timeline ORDER BY id")?;
        statement.query_and_then([], read)?.collect()
    }
}

fn read(row: &Row<'_>) -> Result<Timeline, CatalogProblem> {
    let row = reader(row, |row| Some(ManifestName::Timeline(TimelineId(row.get("id").ok()?))));
    row.checked(Timeline {
        id: TimelineId(row.number("id")?),
        parent: row.optional_number("parent")?.map(TimelineId),
        reason: row.get("reason")?,
        starting_gtids: row.parse("starting_gtids")?,
        created: row.micros("created_us")?,
    })
}
