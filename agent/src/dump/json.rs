//! JSON values of types that JSON text does not have.
//!
//! A JSON column can hold a DATETIME, DATE, TIME, DECIMAL, BLOB or BIT that was put there by a function. As text they
//! become strings and numbers. Such values are counted where they are, so that nobody finds out after a restore.

use super::quote;
use super::scope::Table;

/// An SQL expression that is 1 where a document does not come back from its text as it was.
///
/// Comparing the document with itself made from its text finds values that change; the size finds those that only change
/// their type. A DECIMAL can be equal to a DOUBLE in value and size, so wherever the text has a point the types are
/// looked at one by one.
pub(super) fn loses_types(column: &str) -> String {
    let j = quote::identifier(column);
    let again = format!("CAST(CONVERT({j} USING utf8mb4) AS JSON)");
    let typed = |path: &str| {
        format!(
            "EXISTS (SELECT 1 FROM JSON_TABLE({j}, '{path}' COLUMNS (v JSON PATH '$')) AS parts \
             WHERE JSON_TYPE(v) NOT IN ('NULL', 'BOOLEAN', 'STRING', 'INTEGER', 'UNSIGNED INTEGER', 'DOUBLE', 'OBJECT', 'ARRAY'))"
        )
    };
    format!(
        "IF({j} IS NULL OR ({j} = {again} AND JSON_STORAGE_SIZE({j}) = JSON_STORAGE_SIZE({again}) AND INSTR({j}, '.') = 0), \
         0, {j} <> {again} OR {} OR {} OR {})",
        typed("$"),
        typed("$**.*"),
        typed("$**[*]")
    )
}

/// What to tell the operator.
pub(super) fn warning(table: &Table, column: &str, rows: u64) -> String {
    format!(
        "{}.{}.{column}: {rows} JSON documents hold values of types that JSON text does not have (DATETIME, DECIMAL, BLOB …); \
         a restore of this dump makes them strings and numbers",
        table.schema, table.name
    )
}
