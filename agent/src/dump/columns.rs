//! How each column's value becomes bytes in a file, and what makes it a value again.
//!
//! Most types are written as the server prints them over the text protocol without character set conversion, which is
//! exact. The exceptions are here.

use mysql_async::Conn;

use super::error::DumpError;
use super::quote;
use super::scope::Table;
use super::session::records;

/// Field and line form of a file of rows, as `LOAD DATA` words it. These are its defaults, spelled out.
const FORM: &str =
    r"CHARACTER SET binary FIELDS TERMINATED BY '\t' ENCLOSED BY '' ESCAPED BY '\\' LINES TERMINATED BY '\n'";

/// What a column's value is in a file of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    /// The server's own text, or the bytes of the value.
    AsIs,
    /// FLOAT and DOUBLE. The text of a FLOAT has 6 digits; multiplied by a DOUBLE it has all. The bound, for
    /// `FLOAT(M,D)`, undoes a rounding over the largest value that the type takes: `FLOAT(9,1)` holds 100000000.
    Real { bound: Option<String> },
    /// BIT and SET, as an unsigned integer.
    Number,
    /// ENUM as the member's number, from 1; 0 is the value that a failed conversion left. The bytes of a number are
    /// taken for one where no member looks like a number: then 0 raises no warning.
    Enum { members_are_words: bool },
    /// JSON text, which `LOAD DATA` takes only when its character set is said.
    Json,
}

/// A column whose value is stored, not computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    name: String,
    form: Form,
}

impl Column {
    /// The expression that reads it.
    fn read(&self) -> String {
        let name = quote::identifier(&self.name);
        match &self.form {
            Form::AsIs | Form::Json => name,
            Form::Real { bound: None } => format!("{name} * 1e0"),
            Form::Real { bound: Some(bound) } => format!("LEAST(GREATEST({name} * 1e0, -{bound}), {bound})"),
            Form::Number | Form::Enum { .. } => format!("CAST({name} AS UNSIGNED)"),
        }
    }

    /// The expression that makes the value again from variable `variable`; absent when the field goes straight in.
    fn write(&self, variable: &str) -> Option<String> {
        match self.form {
            Form::AsIs | Form::Real { .. } | Form::Enum { members_are_words: true } => None,
            Form::Number | Form::Enum { members_are_words: false } => Some(format!("CAST({variable} AS UNSIGNED)")),
            Form::Json => Some(format!("CONVERT({variable} USING utf8mb4)")),
        }
    }

    /// Whether it holds JSON documents.
    pub(super) fn is_json(&self) -> bool {
        self.form == Form::Json
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// A table's stored columns, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns {
    columns: Vec<Column>,
}

impl Columns {
    /// Asks the server, invisible columns included.
    pub(super) async fn read(conn: &mut Conn, table: &Table) -> Result<Self, DumpError> {
        let rows = records(
            conn,
            "list columns",
            format!(
                "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME, NUMERIC_PRECISION, NUMERIC_SCALE \
                 FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = {} AND TABLE_NAME = {} \
                 AND COALESCE(GENERATION_EXPRESSION, '') = '' ORDER BY ORDINAL_POSITION",
                quote::text(&table.schema),
                quote::text(&table.name)
            ),
        )
        .await?;
        let columns = rows
            .iter()
            .map(|row| {
                let optional = |column| if row.bytes(column).is_some() { row.text(column).map(Some) } else { Ok(None) };
                let form = form(
                    &row.text("DATA_TYPE")?.to_ascii_lowercase(),
                    row.required("COLUMN_TYPE")?,
                    optional("CHARACTER_SET_NAME")?.as_deref(),
                    optional("NUMERIC_PRECISION")?.as_deref(),
                    optional("NUMERIC_SCALE")?.as_deref(),
                );
                Ok(Column { name: row.text("COLUMN_NAME")?, form })
            })
            .collect::<Result<_, DumpError>>()?;
        Ok(Self { columns })
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.columns.len()
    }

    /// Those that hold JSON.
    pub(super) fn json(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.is_json())
    }

    /// The statement that reads the table, with further expressions after the columns. A table without stored columns
    /// gives one empty field a row.
    pub(super) fn select(&self, table: &Table, further: &[String]) -> String {
        let mut list: Vec<String> = self.columns.iter().map(Column::read).collect();
        if list.is_empty() {
            list.push("''".to_owned());
        }
        list.extend_from_slice(further);
        format!("SELECT {} FROM {}", list.join(", "), table.quoted())
    }

    /// The statement that loads a file of rows.
    pub(super) fn load(&self, table: &Table, file: &str) -> String {
        let mut fields = Vec::new();
        let mut sets = Vec::new();
        for (i, column) in self.columns.iter().enumerate() {
            let name = quote::identifier(&column.name);
            let variable = format!("@c{}", i + 1);
            match column.write(&variable) {
                None => fields.push(name),
                Some(expression) => {
                    fields.push(variable);
                    sets.push(format!("{name} = {expression}"));
                }
            }
        }
        if fields.is_empty() {
            fields.push("@c0".to_owned());
        }
        let set = if sets.is_empty() { String::new() } else { format!(" SET {}", sets.join(", ")) };
        format!("LOAD DATA LOCAL INFILE '{file}' INTO TABLE {} {FORM} ({}){set}", table.quoted(), fields.join(", "))
    }
}

fn form(
    data_type: &str,
    column_type: &[u8],
    character_set: Option<&str>,
    precision: Option<&str>,
    scale: Option<&str>,
) -> Form {
    match data_type {
        "float" => Form::Real { bound: bound(precision, scale) },
        "double" => Form::Real { bound: None },
        "bit" | "set" => Form::Number,
        "enum" => Form::Enum {
            members_are_words: character_set.is_some_and(is_ascii_superset) && !has_numeric_member(column_type),
        },
        "json" => Form::Json,
        _ => Form::AsIs,
    }
}

/// The largest value of `FLOAT(M,D)`; absent without `(M,D)`.
fn bound(precision: Option<&str>, scale: Option<&str>) -> Option<String> {
    let scale: usize = scale?.parse().ok()?;
    let precision: usize = precision?.parse().ok()?;
    let whole = "9".repeat(precision.saturating_sub(scale).max(1));
    let whole = if precision > scale { whole } else { "0".to_owned() };
    Some(format!("{whole}.{}e0", if scale == 0 { "0".to_owned() } else { "9".repeat(scale) }))
}

/// Character sets in which the bytes of a decimal number are its ASCII digits.
fn is_ascii_superset(character_set: &str) -> bool {
    !matches!(character_set, "ucs2" | "utf16" | "utf16le" | "utf32" | "swe7")
}

/// Whether any text within the quotes of `enum('a','7')` has a digit first, after spaces and a sign: the server could
/// take it for what the number of another member was meant to be. Looks at bytes, so it may see more than there are.
fn has_numeric_member(column_type: &[u8]) -> bool {
    column_type.windows(2).enumerate().any(|(at, pair)| {
        pair.first() == Some(&b'\'')
            && column_type
                .get(at + 1..)
                .unwrap_or_default()
                .iter()
                .find(|byte| !matches!(byte, b' ' | b'\t' | b'+' | b'-'))
                .is_some_and(u8::is_ascii_digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(data_type: &str, column_type: &str) -> Column {
        Column { name: "a`b".to_owned(), form: form(data_type, column_type.as_bytes(), Some("latin1"), None, None) }
    }

    fn table() -> Table {
        Table { schema: "s".to_owned(), name: "t".to_owned(), engine: "InnoDB".to_owned() }
    }

    #[test]
    fn a_load_statement_names_every_stored_column() {
        let columns = Columns {
            columns: vec![
                column("int", "int"),
                column("bit", "bit(3)"),
                column("json", "json"),
                column("float", "float"),
            ],
        };
        assert_eq!(
            columns.load(&table(), "data/000001.tsv"),
            "LOAD DATA LOCAL INFILE 'data/000001.tsv' INTO TABLE `s`.`t` CHARACTER SET binary FIELDS TERMINATED BY '\\t' \
             ENCLOSED BY '' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' (`a``b`, @c2, @c3, `a``b`) \
             SET `a``b` = CAST(@c2 AS UNSIGNED), `a``b` = CONVERT(@c3 USING utf8mb4)"
        );
        assert_eq!(
            columns.select(&table(), &[]),
            "SELECT `a``b`, CAST(`a``b` AS UNSIGNED), `a``b`, `a``b` * 1e0 FROM `s`.`t`"
        );
    }

    #[test]
    fn a_table_without_stored_columns_is_read_and_loaded() {
        let columns = Columns { columns: Vec::new() };
        assert_eq!(columns.select(&table(), &[]), "SELECT '' FROM `s`.`t`");
        assert!(columns.load(&table(), "f").ends_with("(@c0)"));
    }

    #[test]
    fn an_enum_with_a_member_like_a_number_is_loaded_by_number() {
        assert!(has_numeric_member(b"enum('a','1')"));
        assert!(has_numeric_member(b"enum('a',' +7x')"));
        assert!(!has_numeric_member(b"enum('a','x1','')"));
        assert_eq!(column("enum", "enum('a','b')").write("@c1"), None);
        assert!(column("enum", "enum('2','1')").write("@c1").is_some());
    }

    #[test]
    fn the_bound_of_a_float_is_its_largest_value() {
        assert_eq!(bound(Some("9"), Some("1")).unwrap(), "99999999.9e0");
        assert_eq!(bound(Some("7"), Some("7")).unwrap(), "0.9999999e0");
        assert_eq!(bound(Some("5"), Some("0")).unwrap(), "99999.0e0");
        assert_eq!(bound(Some("12"), None), None);
    }
}
