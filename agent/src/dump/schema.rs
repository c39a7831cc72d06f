//! Schemas and tables, and what tables stand on: spatial reference systems and tablespaces.

use mysql_async::Conn;

use super::error::DumpError;
use super::privileges::Privileges;
use super::quote;
use super::scope::Scope;
use super::session::{record, records};
use super::sql_file::SqlOut;

/// Writes statements that create all schemas and, without rows, all tables.
pub(super) async fn write_tables(
    conn: &mut Conn,
    scope: &Scope,
    privileges: &Privileges,
    out: &mut SqlOut<'_>,
) -> Result<(), DumpError> {
    write_spatial_reference_systems(conn, out).await?;
    if privileges.has("PROCESS") {
        write_tablespaces(conn, out).await?;
    }
    for schema in &scope.schemas {
        let row =
            record(conn, "SHOW CREATE DATABASE", format!("SHOW CREATE DATABASE {}", quote::identifier(schema))).await?;
        let text = row.required("Create Database")?;
        let rest = text.strip_prefix(b"CREATE DATABASE ").ok_or_else(|| odd("SHOW CREATE DATABASE", schema))?;
        out.push([b"CREATE DATABASE IF NOT EXISTS ", rest].concat()).await?;
    }
    let mut current = None;
    for table in &scope.tables {
        if current != Some(&table.schema) {
            out.push(format!("USE {}", quote::identifier(&table.schema))).await?;
            current = Some(&table.schema);
        }
        let row = record(conn, "SHOW CREATE TABLE", format!("SHOW CREATE TABLE {}", table.quoted()))
            .await
            .map_err(|err| name_object(err, &table.schema, &table.name))?;
        let text = row.required("Create Table")?;
        out.push_as(text, &without_auto_increment(text)).await?;
    }
    Ok(())
}

/// Puts the object's name into an error about a statement.
pub(super) fn name_object(error: DumpError, schema: &str, name: &str) -> DumpError {
    match error {
        DumpError::Server { doing, source } => DumpError::Server { doing: format!("{doing} {schema}.{name}"), source },
        other => other,
    }
}

fn odd(statement: &'static str, object: &str) -> DumpError {
    DumpError::Answer { statement, what: format!("{object} is not written as known") }
}

/// The table options begin after the last line that starts with `)`; the next number to be given out changes with every
/// insert, so it is no part of the fingerprint.
fn without_auto_increment(text: &[u8]) -> Vec<u8> {
    const OPTION: &[u8] = b" AUTO_INCREMENT=";
    let options = text.windows(2).rposition(|pair| pair == b"\n)").unwrap_or(0);
    let (head, tail) = text.split_at(options);
    let Some(at) = tail.windows(OPTION.len()).position(|window| window == OPTION) else { return text.to_vec() };
    let (before, number) = tail.split_at(at);
    let digits = number.iter().skip(OPTION.len()).take_while(|byte| byte.is_ascii_digit()).count();
    [head, before, number.get(OPTION.len() + digits..).unwrap_or_default()].concat()
}

/// Those outside the ranges that EPSG and MySQL keep for themselves (manual, `CREATE SPATIAL REFERENCE SYSTEM`).
async fn write_spatial_reference_systems(conn: &mut Conn, out: &mut SqlOut<'_>) -> Result<(), DumpError> {
    let rows = records(
        conn,
        "list spatial reference systems",
        "SELECT SRS_ID, SRS_NAME, ORGANIZATION, ORGANIZATION_COORDSYS_ID, DEFINITION, DESCRIPTION \
         FROM information_schema.ST_SPATIAL_REFERENCE_SYSTEMS \
         WHERE SRS_ID > 32767 AND SRS_ID NOT BETWEEN 60000000 AND 69999999 ORDER BY SRS_ID"
            .to_owned(),
    )
    .await?;
    for row in rows {
        let mut statement = format!(
            "CREATE SPATIAL REFERENCE SYSTEM IF NOT EXISTS {} NAME {} DEFINITION {}",
            row.text("SRS_ID")?,
            quote::plain_text(&row.text("SRS_NAME")?),
            quote::plain_text(&row.text("DEFINITION")?)
        );
        if row.bytes("ORGANIZATION").is_some() {
            let organization = quote::plain_text(&row.text("ORGANIZATION")?);
            let id = row.text("ORGANIZATION_COORDSYS_ID")?;
            statement.push_str(&format!(" ORGANIZATION {organization} IDENTIFIED BY {id}"));
        }
        if row.bytes("DESCRIPTION").is_some() {
            statement.push_str(&format!(" DESCRIPTION {}", quote::plain_text(&row.text("DESCRIPTION")?)));
        }
        out.push(statement).await?;
    }
    Ok(())
}

/// General tablespaces; each gets a file of its own name in the target's data directory.
async fn write_tablespaces(conn: &mut Conn, out: &mut SqlOut<'_>) -> Result<(), DumpError> {
    let rows = records(
        conn,
        "list tablespaces",
        "SELECT NAME, ZIP_PAGE_SIZE, COALESCE(ENCRYPTION, 'N') AS ENCRYPTION FROM information_schema.INNODB_TABLESPACES \
         WHERE SPACE_TYPE = 'General' AND NAME <> 'mysql' ORDER BY NAME"
            .to_owned(),
    )
    .await?;
    for row in rows {
        let block = match row.text("ZIP_PAGE_SIZE")?.as_str() {
            "0" => String::new(),
            bytes => format!(" FILE_BLOCK_SIZE = {bytes}"),
        };
        let encryption = if row.required("ENCRYPTION")? == b"Y" { " ENCRYPTION = 'Y'" } else { "" };
        let name = quote::identifier(&row.text("NAME")?);
        out.push(format!("CREATE TABLESPACE {name}{block}{encryption} ENGINE = InnoDB")).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_number_is_no_part_of_the_fingerprint() {
        let text =
            b"CREATE TABLE `t` (\n  `a` int COMMENT ' AUTO_INCREMENT=5'\n) ENGINE=InnoDB AUTO_INCREMENT=17 COMMENT='x'";
        let expected: &[u8] = b"CREATE TABLE `t` (\n  `a` int COMMENT ' AUTO_INCREMENT=5'\n) ENGINE=InnoDB COMMENT='x'";
        assert_eq!(without_auto_increment(text), expected);
        assert_eq!(without_auto_increment(expected), expected);
    }
}
