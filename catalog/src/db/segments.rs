//! Rows of segments.

use rusqlite::{Row, Rows, Transaction, params};

use super::rows::{SealingCode, reader, signed};
use super::{CatalogProblem, Stored};
use crate::names::ManifestName;
use crate::record::{ObjectFacts, Segment, TimelineId};
use highwater_binlog::Micros;

const INSERT: &str = "
    INSERT INTO segment (
        timeline, sequence, server, binlog, start_offset, end_offset, gtids_before, gtids_added, first_commit_us,
        last_commit_us, events, transactions, plain_blake3, previous_blake3
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

const INSERT_OBJECT: &str = "
    INSERT INTO segment_object (
        timeline, sequence, place, plain_size, plain_blake3, stored_size, stored_blake3, sealing
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";

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
            self.plain_blake3.0,
            self.previous_blake3.map(|digest| digest.0),
        ])?;
        let mut insert = transaction.prepare_cached(INSERT_OBJECT)?;
        for (place, object) in (0i64..).zip(&self.objects) {
            insert.execute(params![
                self.timeline.0,
                signed(self.sequence)?,
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
        let place = params![like.timeline.0, signed(like.sequence)?];
        let select = "SELECT * FROM segment WHERE timeline = ? AND sequence = ?";
        let mut segments = transaction.prepare_cached(select)?;
        let select = "SELECT * FROM segment_object WHERE timeline = ? AND sequence = ? ORDER BY place";
        let mut objects = transaction.prepare_cached(select)?;
        let mut objects = objects.query(place)?;
        segments.query(place)?.next()?.map(|row| read(row, &mut Objects::of(&mut objects)?)).transpose()
    }

    fn all(transaction: &Transaction<'_>) -> Result<Vec<Self>, CatalogProblem> {
        let mut segments = transaction.prepare("SELECT * FROM segment ORDER BY timeline, sequence")?;
        let mut objects = transaction.prepare("SELECT * FROM segment_object ORDER BY timeline, sequence, place")?;
        let mut objects = objects.query([])?;
        let mut objects = Objects::of(&mut objects)?;
        segments.query_and_then([], |row| read(row, &mut objects))?.collect()
    }
}

/// The segments of a timeline from a number on, in order.
pub(super) fn from(
    transaction: &Transaction<'_>,
    timeline: TimelineId,
    from: u64,
    most: usize,
) -> Result<Vec<Segment>, CatalogProblem> {
    let Ok(from) = signed(from) else { return Ok(Vec::new()) };
    let select = "SELECT * FROM segment WHERE timeline = ? AND sequence >= ? ORDER BY sequence LIMIT ?";
    let mut segments = transaction.prepare_cached(select)?;
    let select = "SELECT * FROM segment_object WHERE timeline = ? AND sequence >= ? ORDER BY sequence, place";
    let mut objects = transaction.prepare_cached(select)?;
    let mut objects = objects.query(params![timeline.0, from])?;
    let mut objects = Objects::of(&mut objects)?;
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    segments.query_and_then(params![timeline.0, from, most], |row| read(row, &mut objects))?.collect()
}

/// The objects of segments, read beside the segments and in the same order.
struct Objects<'r, 's> {
    rows: &'r mut Rows<'s>,
    /// The next one and the segment it is of.
    next: Option<(Place, ObjectFacts)>,
}

/// Timeline and sequence, as columns hold them.
type Place = (i64, i64);

impl<'r, 's> Objects<'r, 's> {
    fn of(rows: &'r mut Rows<'s>) -> Result<Self, CatalogProblem> {
        let mut objects = Self { rows, next: None };
        objects.step()?;
        Ok(objects)
    }

    fn step(&mut self) -> Result<(), CatalogProblem> {
        let read = |row: &Row<'_>| {
            let place: Place = (row.get("timeline")?, row.get("sequence")?);
            Ok::<_, CatalogProblem>((place, reader(row, name).object()?))
        };
        self.next = self.rows.next()?.map(read).transpose()?;
        Ok(())
    }

    /// All objects of a segment. Those of segments before it, which are not there, are passed over.
    fn take(&mut self, place: Place) -> Result<Vec<ObjectFacts>, CatalogProblem> {
        let mut found = Vec::new();
        while let Some((of, object)) = self.next.filter(|(of, _)| *of <= place) {
            if of == place {
                found.push(object);
            }
            self.step()?;
        }
        Ok(found)
    }
}

fn name(row: &Row<'_>) -> Option<ManifestName> {
    let sequence: i64 = row.get("sequence").ok()?;
    Some(ManifestName::Segment(TimelineId(row.get("timeline").ok()?), sequence.try_into().ok()?))
}

fn read(row: &Row<'_>, objects: &mut Objects<'_, '_>) -> Result<Segment, CatalogProblem> {
    let objects = objects.take((row.get("timeline")?, row.get("sequence")?))?;
    let row = reader(row, name);
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
        plain_blake3: row.digest("plain_blake3")?,
        objects,
        previous_blake3: row.optional_digest("previous_blake3")?,
    })
}
