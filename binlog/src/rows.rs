//! Which table a row event changes, and how many rows: values are stepped over, never kept.
//!
//! Layouts: `libs/mysql/binlog/event/rows_event.h`; sizes of values: `calc_field_size` in `binary_log_funcs.cpp`.

use crate::cursor::Cursor;
use crate::error::EventError;
use crate::event::{EventType, RawEvent};

/// More columns than any table has (`MAX_FIELDS` is 4096).
const COLUMNS_MAX: u64 = 4096;

/// A `TABLE_MAP` event: the name and the column types behind a table id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableMap {
    pub(crate) table_id: u64,
    pub(crate) schema: String,
    pub(crate) table: String,
    columns: Vec<Width>,
}

/// How many bytes the values of a column have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Fixed(usize),
    /// After a length of this many bytes.
    Counted(usize),
    /// The same with 4 bytes; a column of JSON, which may be stored as a difference.
    Json,
    /// A type that this program does not know.
    Unknown,
}

impl TableMap {
    pub(crate) fn read(event: &RawEvent<'_>) -> Result<Self, EventError> {
        let mut body = event.body_of(EventType::TABLE_MAP)?;
        let table_id = body.uint(6).ok_or_else(|| event.bad("table id"))?;
        body.u16().ok_or_else(|| event.bad("flags"))?;
        let schema = name(&mut body).ok_or_else(|| event.bad("schema name"))?;
        let table = name(&mut body).ok_or_else(|| event.bad("table name"))?;
        let count = body.length_encoded().filter(|count| *count <= COLUMNS_MAX);
        let types = count.and_then(|count| body.take_u64(count)).ok_or_else(|| event.bad("column types"))?;
        let metadata = body.length_encoded().and_then(|len| body.take_u64(len));
        let mut metadata = metadata.map(Cursor::new).ok_or_else(|| event.bad("column metadata"))?;
        let mut columns = Vec::with_capacity(types.len());
        for code in types {
            // Where the metadata of an unknown type ends is unknown, and so is every column after it.
            if columns.last() == Some(&Width::Unknown) {
                columns.push(Width::Unknown);
                continue;
            }
            columns.push(width(*code, &mut metadata).ok_or_else(|| event.bad("column metadata"))?);
        }
        Ok(Self { table_id, schema, table, columns })
    }
}

fn name(body: &mut Cursor<'_>) -> Option<String> {
    let len = body.length_encoded()?;
    let text = body.take_u64(len)?;
    (body.u8()? == 0).then(|| String::from_utf8_lossy(text).into_owned())
}

/// The width of a column of type `code` (`enum_field_types`), whose metadata is next.
fn width(code: u8, metadata: &mut Cursor<'_>) -> Option<Width> {
    Some(match code {
        6 => Width::Fixed(0),
        1 | 13 => Width::Fixed(1),
        2 => Width::Fixed(2),
        9 | 10 | 11 | 14 => Width::Fixed(3),
        3 | 7 => Width::Fixed(4),
        8 | 12 => Width::Fixed(8),
        // FLOAT and DOUBLE: their metadata is their size.
        4 | 5 => Width::Fixed(usize::from(metadata.u8()?)),
        // VARCHAR and VAR_STRING: the longest length in bytes.
        15 | 253 => Width::Counted(if metadata.u16()? > 255 { 2 } else { 1 }),
        // BIT: odd bits and whole bytes.
        16 => {
            let (bits, bytes) = (metadata.u8()?, metadata.u8()?);
            Width::Fixed(usize::from(bytes) + usize::from(bits > 0))
        }
        // TIMESTAMP, DATETIME and TIME with fractions: two digits a byte.
        17 => Width::Fixed(4 + fraction(metadata.u8()?)),
        18 => Width::Fixed(5 + fraction(metadata.u8()?)),
        19 => Width::Fixed(3 + fraction(metadata.u8()?)),
        246 => decimal_width(metadata.u8()?, metadata.u8()?)?,
        245 => match metadata.u8()? {
            4 => Width::Json,
            _ => return None,
        },
        // VECTOR, the BLOBs and GEOMETRY: bytes of the length.
        242 | 249..=252 | 255 => match metadata.u8()? {
            len @ 1..=4 => Width::Counted(usize::from(len)),
            _ => return None,
        },
        254 => string_width(metadata.u8()?, metadata.u8()?),
        _ => Width::Unknown,
    })
}

fn fraction(digits: u8) -> usize {
    usize::from(digits).div_ceil(2)
}

/// Nine digits are four bytes; fewer take as many as they need (`decimal_bin_size` in `strings/decimal.cc`).
fn decimal_width(precision: u8, scale: u8) -> Option<Width> {
    let bytes = |digits: u8| {
        let rest = match digits % 9 {
            0 => 0,
            1 | 2 => 1,
            3 | 4 => 2,
            5 | 6 => 3,
            _ => 4,
        };
        usize::from(digits / 9) * 4 + rest
    };
    Some(Width::Fixed(bytes(precision.checked_sub(scale)?) + bytes(scale)))
}

/// CHAR, BINARY, ENUM and SET share a type; the first byte tells which, with two bits of the length inverted in it
/// (`Field_string::do_save_field_metadata`).
fn string_width(first: u8, second: u8) -> Width {
    let kind = first | 0x30;
    let len = u16::from(second) | (u16::from((first & 0x30) ^ 0x30) << 4);
    match kind {
        // ENUM and SET
        247 | 248 => Width::Fixed(usize::from(second)),
        _ if len > 255 => Width::Counted(2),
        _ => Width::Counted(1),
    }
}

/// What a row event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowAction {
    Insert,
    Update,
    Delete,
}

/// A row event, its rows not yet looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowsEvent<'a> {
    pub(crate) action: RowAction,
    pub(crate) table_id: u64,
    event_type: EventType,
    column_count: usize,
    before: &'a [u8],
    /// The same as `before` when there is one image only.
    after: &'a [u8],
    rows: Cursor<'a>,
}

impl<'a> RowsEvent<'a> {
    /// Reads a row event of version 1 or 2; none for other events.
    pub(crate) fn read(event: &RawEvent<'a>) -> Result<Option<Self>, EventError> {
        let (action, has_extra) = match event.event_type() {
            EventType::WRITE_ROWS_V1 => (RowAction::Insert, false),
            EventType::UPDATE_ROWS_V1 => (RowAction::Update, false),
            EventType::DELETE_ROWS_V1 => (RowAction::Delete, false),
            EventType::WRITE_ROWS => (RowAction::Insert, true),
            EventType::UPDATE_ROWS | EventType::PARTIAL_UPDATE_ROWS => (RowAction::Update, true),
            EventType::DELETE_ROWS => (RowAction::Delete, true),
            _ => return Ok(None),
        };
        let mut body = Cursor::new(event.body());
        let table_id = body.uint(6).ok_or_else(|| event.bad("table id"))?;
        body.u16().ok_or_else(|| event.bad("flags"))?;
        if has_extra {
            // Its length includes the two bytes of itself.
            let extra = body.u16().and_then(|len| len.checked_sub(2)).and_then(|len| body.take(usize::from(len)));
            extra.ok_or_else(|| event.bad("extra row data"))?;
        }
        let count = body.length_encoded().filter(|count| *count <= COLUMNS_MAX);
        let column_count = count.and_then(|count| usize::try_from(count).ok()).ok_or_else(|| event.bad("width"))?;
        let mut bitmap = || body.take(column_count.div_ceil(8)).ok_or_else(|| event.bad("column bitmap"));
        let before = bitmap()?;
        let after = if action == RowAction::Update { bitmap()? } else { before };
        Ok(Some(Self { action, table_id, event_type: event.event_type(), column_count, before, after, rows: body }))
    }

    /// How many rows it changes; none when the table has a column of an unknown type.
    pub(crate) fn count(&self, table: &TableMap) -> Result<Option<u64>, EventError> {
        if table.columns.contains(&Width::Unknown) {
            return Ok(None);
        }
        let bad = |field| EventError::Body { event_type: self.event_type, field };
        if table.columns.len() != self.column_count {
            return Err(bad("width"));
        }
        let (mut rows, mut count) = (self.rows, 0u64);
        while !rows.is_empty() {
            let left = rows.rest().len();
            skip_row(&mut rows, &table.columns, self.before).ok_or_else(|| bad("row"))?;
            if self.action == RowAction::Update {
                if self.event_type == EventType::PARTIAL_UPDATE_ROWS {
                    skip_value_options(&mut rows, &table.columns).ok_or_else(|| bad("row"))?;
                }
                skip_row(&mut rows, &table.columns, self.after).ok_or_else(|| bad("row"))?;
            }
            if rows.rest().len() == left {
                // Rows without any column take no bytes: there is no number of them.
                return Err(bad("row"));
            }
            count += 1;
        }
        Ok(Some(count))
    }
}

fn bit(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

/// Steps over one image of a row: a bit for each column in it that says NULL, then the other values.
fn skip_row(rows: &mut Cursor<'_>, columns: &[Width], present: &[u8]) -> Option<()> {
    let in_image = || columns.iter().enumerate().filter(|(at, _)| bit(present, *at)).map(|(_, width)| width);
    let nulls = rows.take(in_image().count().div_ceil(8))?;
    for (at, width) in in_image().enumerate() {
        if bit(nulls, at) {
            continue;
        }
        match width {
            Width::Fixed(len) => {
                rows.take(*len)?;
            }
            Width::Counted(len_bytes) => skip_counted(rows, *len_bytes)?,
            Width::Json => skip_counted(rows, 4)?,
            Width::Unknown => return None,
        }
    }
    Some(())
}

fn skip_counted(rows: &mut Cursor<'_>, len_bytes: usize) -> Option<()> {
    let len = rows.uint(len_bytes)?;
    rows.take_u64(len)?;
    Some(())
}

/// Steps over what precedes the after-image of a partial update: options and, if they say so, a bit for each JSON column
/// of the table, in the image or not. A difference is stored with the same 4-byte length as a whole value.
fn skip_value_options(rows: &mut Cursor<'_>, columns: &[Width]) -> Option<()> {
    /// `PARTIAL_JSON_UPDATES` of `enum_binlog_row_value_options`.
    const PARTIAL_JSON: u64 = 1;
    if rows.length_encoded()? & PARTIAL_JSON != 0 {
        let json = columns.iter().filter(|width| **width == Width::Json).count();
        rows.take(json.div_ceil(8))?;
    }
    Some(())
}
