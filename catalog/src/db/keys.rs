//! Rows of key bundles.

use rusqlite::{Row, Transaction, params};

use super::rows::{reader, signed};
use super::{CatalogProblem, Stored};
use crate::names::ManifestName;
use crate::record::KeyGeneration;

impl Stored for KeyGeneration {
    fn name(&self) -> ManifestName {
        ManifestName::Keys(self.server, self.generation)
    }

    fn insert(&self, transaction: &Transaction<'_>) -> Result<(), CatalogProblem> {
        let server = self.server.to_string();
        let insert = "INSERT INTO key_generation (server, generation, taken_us, stored_size, stored_blake3)
            VALUES (?, ?, ?, ?, ?)";
        transaction.prepare_cached(insert)?.execute(params![
            server,
            self.generation,
            signed(self.taken.0)?,
            signed(self.stored_size)?,
            self.stored_blake3.0,
        ])?;
        let insert = "INSERT INTO keys_in_generation (server, generation, place, key_id) VALUES (?, ?, ?, ?)";
        let mut statement = transaction.prepare_cached(insert)?;
        for (place, key_id) in (0i64..).zip(&self.key_ids) {
            statement.execute(params![server, self.generation, place, key_id])?;
        }
        Ok(())
    }

    fn find(transaction: &Transaction<'_>, like: &Self) -> Result<Option<Self>, CatalogProblem> {
        let select = "SELECT * FROM key_generation WHERE server = ? AND generation = ?";
        let mut statement = transaction.prepare_cached(select)?;
        let mut rows = statement.query(params![like.server.to_string(), like.generation])?;
        rows.next()?.map(|row| read(transaction, row)).transpose()
    }

    fn all(transaction: &Transaction<'_>) -> Result<Vec<Self>, CatalogProblem> {
        let mut statement = transaction.prepare("SELECT * FROM key_generation ORDER BY server, generation")?;
        statement.query_and_then([], |row| read(transaction, row))?.collect()
    }
}

fn read(transaction: &Transaction<'_>, row: &Row<'_>) -> Result<KeyGeneration, CatalogProblem> {
    let server: String = row.get("server")?;
    let generation: i64 = row.get("generation")?;
    let row = reader(row, |_| Some(ManifestName::Keys(server.parse().ok()?, generation.try_into().ok()?)));
    let select = "SELECT key_id FROM keys_in_generation WHERE server = ? AND generation = ? ORDER BY place";
    let mut statement = transaction.prepare_cached(select)?;
    let key_ids = statement.query_map(params![server, generation], |row| row.get(0))?;
    row.checked(KeyGeneration {
        server: row.parse("server")?,
        generation: row.number("generation")?,
        key_ids: key_ids.collect::<Result<_, _>>()?,
        taken: row.micros("taken_us")?,
        stored_size: row.number("stored_size")?,
        stored_blake3: row.digest("stored_blake3")?,
    })
}
