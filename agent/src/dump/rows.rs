//! Rows as bytes: fields between tabs, rows between newlines, `\N` for NULL, four bytes escaped.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use tokio::time::timeout;

use super::error::DumpError;
use super::session::Doing;

/// Bytes of rows collected before they are handed on.
pub(super) const BATCH_BYTES: usize = 512 << 10;

/// A row that does not come in this time never comes. Tables are read from one end to the other: even on a slow disk a row
/// is there sooner.
const ROW_MAX: Duration = Duration::from_secs(900);

/// Appends a field as `LOAD DATA … FIELDS TERMINATED BY '\t' ESCAPED BY '\\' LINES TERMINATED BY '\n'` reads it.
fn push_field(line: &mut Vec<u8>, value: &[u8]) {
    let mut copied = 0;
    for (at, byte) in value.iter().enumerate() {
        let escape = match byte {
            b'\\' => b'\\',
            b'\t' => b't',
            b'\n' => b'n',
            0 => b'0',
            _ => continue,
        };
        line.extend_from_slice(value.get(copied..at).unwrap_or_default());
        line.extend_from_slice(&[b'\\', escape]);
        copied = at + 1;
    }
    line.extend_from_slice(value.get(copied..).unwrap_or_default());
}

/// Appends a row.
fn push_row(batch: &mut Vec<u8>, values: impl Iterator<Item = Value>) -> Result<(), DumpError> {
    for (i, value) in values.enumerate() {
        if i > 0 {
            batch.push(b'\t');
        }
        match value {
            Value::NULL => batch.extend_from_slice(b"\\N"),
            Value::Bytes(bytes) => push_field(batch, &bytes),
            _ => {
                return Err(DumpError::Answer {
                    statement: "SELECT",
                    what: "a value of the binary protocol".to_owned(),
                });
            }
        }
    }
    batch.push(b'\n');
    Ok(())
}

/// Some rows of a table, as bytes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Whole rows.
    pub(super) bytes: Vec<u8>,
    /// How many.
    pub(super) rows: u64,
    /// How often each of the columns after the stored ones was 1.
    pub(super) marked: Vec<u64>,
}

/// A table being read, row by row.
pub(super) struct RowReader<'a> {
    result: mysql_async::QueryResult<'a, 'static, mysql_async::TextProtocol>,
    fields: usize,
    table: String,
}

impl<'a> RowReader<'a> {
    /// Starts reading. The first `fields` columns of the answer go into the file, the others are marks.
    pub(super) async fn start(
        conn: &'a mut Conn,
        select: String,
        fields: usize,
        table: String,
    ) -> Result<Self, DumpError> {
        let result = conn.query_iter(select).await.doing(|| format!("read {table}"))?;
        Ok(Self { result, fields, table })
    }

    /// The next rows, at least one and about [`BATCH_BYTES`]; absent after the last.
    pub(super) async fn next_batch(&mut self) -> Result<Option<Batch>, DumpError> {
        let mut batch = Batch::default();
        while batch.bytes.len() < BATCH_BYTES {
            let next = timeout(ROW_MAX, self.result.next()).await;
            let next = next.map_err(|_| DumpError::Silent { seconds: ROW_MAX.as_secs() })?;
            let row: Option<Row> = next.doing(|| format!("read {}", self.table))?;
            let Some(row) = row else { break };
            let mut values = row.unwrap().into_iter();
            push_row(&mut batch.bytes, values.by_ref().take(self.fields))?;
            batch.rows += 1;
            for (i, mark) in values.enumerate() {
                if batch.marked.len() <= i {
                    batch.marked.resize(i + 1, 0);
                }
                if let (Some(count), true) = (batch.marked.get_mut(i), mark == Value::Bytes(b"1".to_vec())) {
                    *count += 1;
                }
            }
        }
        Ok((batch.rows > 0).then_some(batch))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `LOAD DATA` makes of a line, from the manual's section on it.
    fn read_line(line: &[u8]) -> Vec<Option<Vec<u8>>> {
        let mut fields = vec![Some(Vec::new())];
        let mut bytes = line.iter().copied();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\t' => fields.push(Some(Vec::new())),
                b'\\' => match bytes.next().unwrap() {
                    b'N' => *fields.last_mut().unwrap() = None,
                    b'0' => fields.last_mut().unwrap().as_mut().unwrap().push(0),
                    b't' => fields.last_mut().unwrap().as_mut().unwrap().push(b'\t'),
                    b'n' => fields.last_mut().unwrap().as_mut().unwrap().push(b'\n'),
                    other => fields.last_mut().unwrap().as_mut().unwrap().push(other),
                },
                other => fields.last_mut().unwrap().as_mut().unwrap().push(other),
            }
        }
        fields
    }

    proptest! {
        #[test]
        fn every_value_is_read_back_as_it_was(
            row in proptest::collection::vec(proptest::option::of(proptest::collection::vec(
                prop_oneof![Just(b'\\'), Just(b'\t'), Just(b'\n'), Just(b'N'), Just(0u8), any::<u8>()], 0..20)), 1..6),
        ) {
            let values = row.iter().map(|value| value.clone().map_or(Value::NULL, Value::Bytes));
            let mut line = Vec::new();
            push_row(&mut line, values).unwrap();
            prop_assert_eq!(line.pop(), Some(b'\n'));
            prop_assert!(!line.contains(&b'\n'));
            prop_assert_eq!(read_line(&line), row);
        }
    }
}
