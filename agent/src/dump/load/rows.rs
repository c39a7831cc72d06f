//! Loading one file of rows, and believing it only when every value arrived.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::unfold;
use highwater_catalog::{Dump, DumpFile, DumpFileKind};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::super::error::LoadError;
use super::super::files::read_ahead;
use super::super::quote;
use super::{server, unknown};
use crate::archive::Archive;

/// `WARN_DATA_TRUNCATED`
const TRUNCATED: u16 = 1265;

/// What an expression of the table may complain about, and complained about on the source too: `ER_DIVISION_BY_ZERO`,
/// `ER_TRUNCATED_WRONG_VALUE`.
const FROM_EXPRESSIONS: [u16; 2] = [1365, 1292];

/// Loads a file with its statement and returns the number of rows.
pub(super) async fn load(
    conn: &mut Conn,
    archive: &Archive,
    dump: &Arc<Dump>,
    file: &DumpFile,
    statement: &[u8],
) -> Result<u64, LoadError> {
    let DumpFileKind::Rows { schema, table, rows } = &file.kind else {
        return Err(unknown(dump, &format!("{} is not a file of rows", file.name)));
    };
    let begin = format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE {} ", file.name, quote::qualified(schema, table));
    if !statement.starts_with(begin.as_bytes()) {
        return Err(unknown(dump, &format!("the statement for {} is for another file or table", file.name)));
    }
    let name = format!("{schema}.{table}");
    let doing = |source| match source {
        // The file could not be read: its own error says why.
        mysql_async::Error::Other(inner) => {
            LoadError::Read { file: file.name.clone(), source: io::Error::other(inner) }
        }
        source => server(&format!("load {} into {name}", file.name), source),
    };
    let pieces = read_ahead(archive, dump, file);
    let stream = unfold(pieces, |mut pieces| async move {
        let piece = pieces.recv().await?;
        Some((piece.map(Into::into), pieces))
    });
    conn.set_infile_handler(async move { Ok(stream.boxed()) });
    conn.query_drop("START TRANSACTION").await.map_err(doing)?;
    let result = conn.query_iter(statement).await.map_err(doing)?;
    let (loaded, warnings) = (result.affected_rows(), result.warnings());
    result.drop_result().await.map_err(doing)?;
    if warnings > 0 {
        check_warnings(conn, file, schema, table).await?;
    }
    if loaded != *rows {
        return Err(LoadError::Rows { file: file.name.clone(), table: name, loaded, expected: *rows });
    }
    conn.query_drop("COMMIT").await.map_err(doing)?;
    Ok(loaded)
}

/// What a table's column is to the check of warnings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ColumnKind {
    Stored,
    Enum,
    Generated,
}

/// Refuses every warning that can mean that a value is not what it was.
async fn check_warnings(conn: &mut Conn, file: &DumpFile, schema: &str, table: &str) -> Result<(), LoadError> {
    let doing = |source| server(&format!("read the warnings for {}", file.name), source);
    let warnings: Vec<(String, u16, String)> = conn.query("SHOW WARNINGS").await.map_err(doing)?;
    let columns: Vec<(String, String, bool)> = conn
        .query(format!(
            "SELECT COLUMN_NAME, LOWER(DATA_TYPE), COALESCE(GENERATION_EXPRESSION, '') <> '' \
             FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {}",
            quote::text(schema),
            quote::text(table)
        ))
        .await
        .map_err(doing)?;
    let columns: HashMap<String, ColumnKind> = columns
        .into_iter()
        .map(|(name, data_type, generated)| {
            let kind = match (generated, data_type.as_str()) {
                (true, _) => ColumnKind::Generated,
                (false, "enum") => ColumnKind::Enum,
                (false, _) => ColumnKind::Stored,
            };
            (name, kind)
        })
        .collect();
    for (level, code, message) in warnings {
        if level != "Note" && !is_harmless(code, &message, &columns) {
            let table = format!("{schema}.{table}");
            return Err(LoadError::Value { file: file.name.clone(), table, warning: message });
        }
    }
    Ok(())
}

/// Harmless are: the number 0 of an ENUM, which the server stores and warns about; what generated columns, which are
/// computed again, say of themselves; what expressions without a column's name say.
fn is_harmless(code: u16, message: &str, columns: &HashMap<String, ColumnKind>) -> bool {
    let named = message
        .split_once(" column '")
        .and_then(|(_, rest)| rest.rsplit_once("' at row "))
        .and_then(|(name, _)| columns.get(name));
    match named {
        Some(ColumnKind::Enum) => code == TRUNCATED,
        Some(ColumnKind::Generated) => true,
        Some(ColumnKind::Stored) => false,
        None => !message.contains(" column '") && FROM_EXPRESSIONS.contains(&code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_warnings_that_change_no_value_are_harmless() {
        let columns = HashMap::from([
            ("plain".to_owned(), ColumnKind::Stored),
            ("choice".to_owned(), ColumnKind::Enum),
            ("made".to_owned(), ColumnKind::Generated),
        ]);
        let harmless = |code, message| is_harmless(code, message, &columns);
        assert!(harmless(1265, "Data truncated for column 'choice' at row 3"));
        assert!(harmless(1264, "Out of range value for column 'made' at row 3"));
        assert!(harmless(1292, "Truncated incorrect INTEGER value: 'x'"));
        assert!(!harmless(1265, "Data truncated for column 'plain' at row 3"));
        assert!(!harmless(1366, "Incorrect string value: 'x' for column 'plain' at row 3"));
        assert!(!harmless(1366, "Incorrect string value: 'x' for column 'unheard' at row 3"));
        assert!(!harmless(1062, "Duplicate entry '1' for key 't.PRIMARY'"));
    }
}
