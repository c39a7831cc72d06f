//! Rows of dumps and their files.

use highwater_binlog::BinlogPosition;
use rusqlite::{Row, Transaction, params};

use super::rows::{Reader, SealingCode, reader, signed};
use super::{CatalogProblem, Stored};
use crate::check::RecordError;
use crate::names::ManifestName;
use crate::record::{Dump, DumpFile, DumpFileKind, TimelineId};

const INSERT: &str = "
    INSERT INTO dump (
        id, timeline, server, server_version, gtids, position_binlog, position_offset, started_us, finished_us, method
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

const INSERT_FILE: &str = "
    INSERT INTO dump_file (
        dump, load_order, name, kind, schema_name, table_name, table_rows, plain_size, plain_blake3, stored_size,
        stored_blake3, sealing
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

impl Stored for Dump {
    fn name(&self) -> ManifestName {
        ManifestName::Dump(self.id.clone())
    }

    fn insert(&self, transaction: &Transaction<'_>) -> Result<(), CatalogProblem> {
        transaction.prepare_cached(INSERT)?.execute(params![
            self.id.as_str(),
            self.timeline.0,
            self.server.to_string(),
            self.server_version,
            self.gtids.to_string(),
            self.position.as_ref().map(|at| at.binlog.as_str()),
            self.position.as_ref().map(|at| signed(at.offset)).transpose()?,
            signed(self.started.0)?,
            signed(self.finished.0)?,
            self.method,
        ])?;
        (0i64..).zip(&self.files).try_for_each(|(order, file)| insert_file(transaction, self, order, file))
    }

    fn find(transaction: &Transaction<'_>, like: &Self) -> Result<Option<Self>, CatalogProblem> {
        let mut statement = transaction.prepare_cached("SELECT * FROM dump WHERE id = ?")?;
        statement.query([like.id.as_str()])?.next()?.map(|row| read(transaction, row)).transpose()
    }

    fn all(transaction: &Transaction<'_>) -> Result<Vec<Self>, CatalogProblem> {
        let mut statement = transaction.prepare("SELECT * FROM dump ORDER BY started_us, id")?;
        statement.query_and_then([], |row| read(transaction, row))?.collect()
    }
}

fn insert_file(transaction: &Transaction<'_>, dump: &Dump, order: i64, file: &DumpFile) -> Result<(), CatalogProblem> {
    let (kind, table) = match &file.kind {
        DumpFileKind::Schema => (1, None),
        DumpFileKind::Accounts => (2, None),
        DumpFileKind::Rows { schema, table, rows } => (3, Some((schema, table, signed(*rows)?))),
    };
    transaction.prepare_cached(INSERT_FILE)?.execute(params![
        dump.id.as_str(),
        order,
        file.name,
        kind,
        table.map(|(schema, _, _)| schema),
        table.map(|(_, table, _)| table),
        table.map(|(_, _, rows)| rows),
        signed(file.object.plain_size)?,
        file.object.plain_blake3.0,
        signed(file.object.stored_size)?,
        file.object.stored_blake3.0,
        SealingCode::from(file.object.sealing).0,
    ])?;
    Ok(())
}

fn read(transaction: &Transaction<'_>, row: &Row<'_>) -> Result<Dump, CatalogProblem> {
    let id: String = row.get("id")?;
    let row = reader(row, |_| Some(ManifestName::Dump(id.parse().ok()?)));
    let binlog: Option<String> = row.get("position_binlog")?;
    let position = binlog.map(|text| {
        let binlog = text.parse().map_err(|error| row.problem(RecordError::parse("position_binlog", &error)))?;
        Ok::<_, CatalogProblem>(BinlogPosition { binlog, offset: row.number("position_offset")? })
    });
    let select = "SELECT * FROM dump_file WHERE dump = ? ORDER BY load_order";
    let mut statement = transaction.prepare_cached(select)?;
    let files = statement.query_and_then([&id], |file| read_file(&Reader { row: file, name: row.name.clone() }))?;
    row.checked(Dump {
        id: row.parse("id")?,
        timeline: TimelineId(row.number("timeline")?),
        server: row.parse("server")?,
        server_version: row.get("server_version")?,
        gtids: row.parse("gtids")?,
        position: position.transpose()?,
        started: row.micros("started_us")?,
        finished: row.micros("finished_us")?,
        method: row.get("method")?,
        files: files.collect::<Result<_, _>>()?,
    })
}

fn read_file(row: &Reader<'_>) -> Result<DumpFile, CatalogProblem> {
    let kind = match row.get::<i64>("kind")? {
        1 => DumpFileKind::Schema,
        2 => DumpFileKind::Accounts,
        3 => DumpFileKind::Rows {
            schema: row.get("schema_name")?,
            table: row.get("table_name")?,
            rows: row.number("table_rows")?,
        },
        code => return Err(row.problem(RecordError::new("kind", format!("unknown code {code}")))),
    };
    Ok(DumpFile { name: row.get("name")?, kind, object: row.object()? })
}
