//! A table's rows cut into files of bounded size, so that they can be loaded in parallel.

use highwater_catalog::{DumpFile, DumpFileKind};
use mysql_async::Conn;

use super::columns::Columns;
use super::error::DumpError;
use super::files::FileWriter;
use super::json;
use super::rows::RowReader;
use super::scope::Table;

/// Bytes of a file before sealing, at least; a file ends with the batch of rows that reaches it.
pub(super) const CHUNK_BYTES: u64 = 64 << 20;

/// The files of all tables, and the statements that load them.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// The files, in the order they were written.
    pub(super) files: Vec<DumpFile>,
    /// For each file the statement that loads it.
    pub(super) load: Vec<String>,
    /// What the rows have that files of text cannot hold.
    pub(super) warnings: Vec<String>,
    /// Tables read to their end.
    pub(super) tables: usize,
    /// Rows written.
    pub(super) rows: u64,
    /// Bytes written, before sealing.
    pub(super) bytes: u64,
}

impl Chunks {
    /// Reads a table to its end.
    pub(super) async fn add_table(
        &mut self,
        conn: &mut Conn,
        table: &Table,
        writer: &mut FileWriter,
        chunk_bytes: u64,
        on_progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<(), DumpError> {
        let columns = Columns::read(conn, table).await?;
        let marks: Vec<String> = columns.json().map(|column| json::loses_types(column.name())).collect();
        let mut marked = vec![0u64; marks.len()];
        let select = columns.select(table, &marks);
        let mut reader = RowReader::start(conn, select, columns.len().max(1), label(table)).await?;
        let mut open: Option<(u64, u64)> = None;
        while let Some(batch) = reader.next_batch().await? {
            let (rows, bytes) = match open {
                Some(counts) => counts,
                None => {
                    writer.begin(&format!("data/{:06}.tsv", self.files.len() + 1));
                    (0, 0)
                }
            };
            let added = u64::try_from(batch.bytes.len()).unwrap_or(u64::MAX);
            for (total, count) in marked.iter_mut().zip(&batch.marked) {
                *total += count;
            }
            writer.write(batch.bytes).await?;
            self.rows += batch.rows;
            self.bytes += added;
            on_progress(self.rows, self.bytes);
            open = Some((rows + batch.rows, bytes + added));
            if bytes + added >= chunk_bytes {
                open = None;
                self.finish_file(table, &columns, writer, rows + batch.rows).await?;
            }
        }
        if let Some((rows, _)) = open {
            self.finish_file(table, &columns, writer, rows).await?;
        }
        for (column, count) in columns.json().zip(marked).filter(|(_, count)| *count > 0) {
            self.warnings.push(json::warning(table, column.name(), count));
        }
        self.tables += 1;
        Ok(())
    }

    async fn finish_file(
        &mut self,
        table: &Table,
        columns: &Columns,
        writer: &mut FileWriter,
        rows: u64,
    ) -> Result<(), DumpError> {
        let kind = DumpFileKind::Rows { schema: table.schema.clone(), table: table.name.clone(), rows };
        let file = writer.finish(kind).await?;
        self.load.push(columns.load(table, &file.name));
        self.files.push(file);
        Ok(())
    }
}

fn label(table: &Table) -> String {
    format!("{}.{}", table.schema, table.name)
}
