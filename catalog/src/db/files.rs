//! Rows of kept files.

use highwater_keyring::FileMark;
use rusqlite::{Row, Transaction, params};

use super::rows::{SealingCode, reader, signed};
use super::{CatalogProblem, Stored};
use crate::check::RecordError;
use crate::names::ManifestName;
use crate::record::KeptFile;
use highwater_binlog::Micros;

const INSERT: &str = "
    INSERT INTO file (
        server, binlog, mark, server_version, gtids_before, gtids_added, first_commit_us, last_commit_us, events,
        transactions, key_id, key_generation, taken_us, body_blake3
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

const INSERT_OBJECT: &str = "
    INSERT INTO file_object (
        server, binlog, mark, place, plain_size, plain_blake3, stored_size, stored_blake3, sealing
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";

impl Stored for KeptFile {
    fn name(&self) -> ManifestName {
        ManifestName::File(self.server, self.binlog.clone(), self.mark)
    }

    fn insert(&self, transaction: &Transaction<'_>) -> Result<(), CatalogProblem> {
        let micros = |time: Option<Micros>| time.map(|micros| signed(micros.0)).transpose();
        let (server, mark) = (self.server.to_string(), self.mark.to_string());
        transaction.prepare_cached(INSERT)?.execute(params![
            server,
            self.binlog.as_str(),
            mark,
            self.server_version,
            self.gtids_before.to_string(),
            self.gtids_added.to_string(),
            micros(self.first_commit)?,
            micros(self.last_commit)?,
            signed(self.events)?,
            signed(self.transactions)?,
            self.key_id,
            self.key_generation,
            signed(self.taken.0)?,
            self.body_blake3.0,
        ])?;
        let mut insert = transaction.prepare_cached(INSERT_OBJECT)?;
        for (place, object) in (0i64..).zip(std::iter::once(&self.header).chain(&self.objects)) {
            insert.execute(params![
                server,
                self.binlog.as_str(),
                mark,
                place,
                signed(object.plain_size)?,
                object.plain_blake3.0,
                signed(object.stored_size)?,
                object.stored_blake3.0,
                SealingCode::from(object.sealing).0,
            ])?;
        }
        Ok(())
    }

    fn find(transaction: &Transaction<'_>, like: &Self) -> Result<Option<Self>, CatalogProblem> {
        let select = "SELECT * FROM file WHERE server = ? AND binlog = ? AND mark = ?";
        let mut statement = transaction.prepare_cached(select)?;
        let mut rows =
            statement.query(params![like.server.to_string(), like.binlog.as_str(), like.mark.to_string()])?;
        rows.next()?.map(|row| read(transaction, row)).transpose()
    }

    fn all(transaction: &Transaction<'_>) -> Result<Vec<Self>, CatalogProblem> {
        let mut statement = transaction.prepare("SELECT * FROM file ORDER BY server, binlog, mark")?;
        statement.query_and_then([], |row| read(transaction, row))?.collect()
    }
}

fn read(transaction: &Transaction<'_>, row: &Row<'_>) -> Result<KeptFile, CatalogProblem> {
    let (server, binlog): (String, String) = (row.get("server")?, row.get("binlog")?);
    let mark_text: String = row.get("mark")?;
    let mark = FileMark::from_hex(&mark_text);
    let row = reader(row, |_| Some(ManifestName::File(server.parse().ok()?, binlog.parse().ok()?, mark?)));
    let select = "SELECT * FROM file_object WHERE server = ? AND binlog = ? AND mark = ? ORDER BY place";
    let mut statement = transaction.prepare_cached(select)?;
    let objects = statement.query_and_then(params![server, binlog, mark_text], |row| reader(row, |_| None).object())?;
    let mut objects = objects.collect::<Result<Vec<_>, CatalogProblem>>()?.into_iter();
    let header = objects.next().ok_or_else(|| row.problem(RecordError::new("header", "no object")))?;
    row.checked(KeptFile {
        server: row.parse("server")?,
        binlog: row.parse("binlog")?,
        mark: mark.ok_or_else(|| row.problem(RecordError::new("mark", "not 32 hexadecimal digits")))?,
        server_version: row.get("server_version")?,
        gtids_before: row.parse("gtids_before")?,
        gtids_added: row.parse("gtids_added")?,
        first_commit: row.optional_number("first_commit_us")?.map(Micros),
        last_commit: row.optional_number("last_commit_us")?.map(Micros),
        events: row.number("events")?,
        transactions: row.number("transactions")?,
        key_id: row.get("key_id")?,
        key_generation: row.number("key_generation")?,
        taken: row.micros("taken_us")?,
        body_blake3: row.digest("body_blake3")?,
        header,
        objects: objects.collect(),
    })
}
