//! What kind of statement a text is, and which objects it names. The text itself stays where it is.

use crate::scheduler::skip_definer;
use crate::tokens::Tokens;

/// The kind of a statement, and the objects it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Words in capitals: `DROP TABLE`. `OTHER` for a statement that is not in the list.
    pub(crate) kind: &'static str,
    /// Schema, if given, and name. For statements on schemas, the schema and no name.
    pub(crate) objects: Vec<(Option<String>, String)>,
}

/// Statements that start with these words are of this kind, and a list of names follows.
const KINDS: &[(&[&str], &str)] = &[
    (&["TRUNCATE", "TABLE"], "TRUNCATE TABLE"),
    (&["TRUNCATE"], "TRUNCATE TABLE"),
    (&["RENAME", "TABLE"], "RENAME TABLE"),
    (&["RENAME", "USER"], "RENAME USER"),
    (&["ANALYZE"], "ANALYZE TABLE"),
    (&["OPTIMIZE"], "OPTIMIZE TABLE"),
    (&["REPAIR"], "REPAIR TABLE"),
    (&["INSERT"], "INSERT"),
    (&["REPLACE"], "REPLACE"),
    (&["UPDATE"], "UPDATE"),
    (&["DELETE"], "DELETE"),
    (&["LOAD"], "LOAD DATA"),
    (&["GRANT"], "GRANT"),
    (&["REVOKE"], "REVOKE"),
    (&["SET", "PASSWORD"], "SET PASSWORD"),
    (&["SET", "DEFAULT"], "SET DEFAULT ROLE"),
    (&["FLUSH"], "FLUSH"),
    (&["XA"], "XA"),
    (&["SAVEPOINT"], "SAVEPOINT"),
    (&["ROLLBACK"], "ROLLBACK"),
    (&["IMPORT"], "IMPORT TABLE"),
];

/// Words after `CREATE`, `ALTER` or `DROP`, with the kind for each of the three.
const OBJECTS: &[(&str, [&str; 3])] = &[
    ("TABLE", ["CREATE TABLE", "ALTER TABLE", "DROP TABLE"]),
    ("VIEW", ["CREATE VIEW", "ALTER VIEW", "DROP VIEW"]),
    ("INDEX", ["CREATE INDEX", "ALTER INDEX", "DROP INDEX"]),
    ("TRIGGER", ["CREATE TRIGGER", "ALTER TRIGGER", "DROP TRIGGER"]),
    ("PROCEDURE", ["CREATE PROCEDURE", "ALTER PROCEDURE", "DROP PROCEDURE"]),
    ("FUNCTION", ["CREATE FUNCTION", "ALTER FUNCTION", "DROP FUNCTION"]),
    ("LIBRARY", ["CREATE LIBRARY", "ALTER LIBRARY", "DROP LIBRARY"]),
    ("EVENT", ["CREATE EVENT", "ALTER EVENT", "DROP EVENT"]),
    ("DATABASE", ["CREATE DATABASE", "ALTER DATABASE", "DROP DATABASE"]),
    ("SCHEMA", ["CREATE DATABASE", "ALTER DATABASE", "DROP DATABASE"]),
    ("USER", ["CREATE USER", "ALTER USER", "DROP USER"]),
    ("ROLE", ["CREATE ROLE", "ALTER ROLE", "DROP ROLE"]),
    ("TABLESPACE", ["CREATE TABLESPACE", "ALTER TABLESPACE", "DROP TABLESPACE"]),
    ("SERVER", ["CREATE SERVER", "ALTER SERVER", "DROP SERVER"]),
    ("RESOURCE", ["CREATE RESOURCE GROUP", "ALTER RESOURCE GROUP", "DROP RESOURCE GROUP"]),
    ("INSTANCE", ["CREATE INSTANCE", "ALTER INSTANCE", "DROP INSTANCE"]),
    ("SPATIAL", ["CREATE SPATIAL REFERENCE SYSTEM", "ALTER SPATIAL", "DROP SPATIAL REFERENCE SYSTEM"]),
];

/// The kinds whose names are worth showing: tables and what lives in schemas. Not accounts.
const NAMED: &[&str] = &["TABLE", "VIEW", "TRIGGER", "PROCEDURE", "FUNCTION", "EVENT"];

/// How many names of one statement are read: `DROP TABLE` may list any number.
const OBJECTS_MAX: usize = 256;

/// How many words may stand between `CREATE` and what is created, a definer counted as one.
const MODIFIERS_MAX: usize = 12;

impl Statement {
    /// Looks at the beginning of a statement.
    pub(crate) fn read(text: &str) -> Self {
        let mut tokens = Tokens::new(text);
        for (column, verb) in ["CREATE", "ALTER", "DROP"].into_iter().enumerate() {
            if tokens.word(verb) {
                return Self::of_object(tokens, column);
            }
        }
        let found = KINDS.iter().find(|(words, _)| tokens.words(words));
        let kind = found.map_or("OTHER", |(_, kind)| *kind);
        let objects = match kind {
            "TRUNCATE TABLE" => tokens.qualified_name().into_iter().collect(),
            "RENAME TABLE" => renamed(&mut tokens),
            _ => Vec::new(),
        };
        Self { kind, objects }
    }

    fn of_object(mut tokens: Tokens<'_>, column: usize) -> Self {
        let other = Self { kind: "OTHER", objects: Vec::new() };
        for _ in 0..MODIFIERS_MAX {
            skip_definer(&mut tokens);
            // `SPATIAL INDEX` is an index, `SPATIAL REFERENCE SYSTEM` is not; `UNDO TABLESPACE` and the like are fine.
            let is_index = tokens.words(&["SPATIAL", "INDEX"]);
            let word = if is_index { "INDEX" } else { "" };
            let object = OBJECTS.iter().find(|(object, _)| *object == word || tokens.word(object));
            let Some((object, kinds)) = object else {
                match tokens.next() {
                    Some(_) => continue,
                    None => return other,
                }
            };
            let Some(kind) = kinds.get(column).copied() else { return other };
            return Self { kind, objects: objects(&mut tokens, object, column) };
        }
        other
    }
}

fn objects(tokens: &mut Tokens<'_>, object: &str, column: usize) -> Vec<(Option<String>, String)> {
    if !tokens.words(&["IF", "NOT", "EXISTS"]) {
        tokens.words(&["IF", "EXISTS"]);
    }
    if matches!(object, "DATABASE" | "SCHEMA") {
        return tokens.name().map(|name| (Some(name), String::new())).into_iter().collect();
    }
    if !NAMED.contains(&object) {
        return Vec::new();
    }
    let mut names: Vec<_> = tokens.qualified_name().into_iter().collect();
    let is_drop = column == 2;
    while is_drop && names.len() < OBJECTS_MAX && tokens.sign(',') {
        names.extend(tokens.qualified_name());
    }
    names
}

/// Both sides of each `old TO new`.
fn renamed(tokens: &mut Tokens<'_>) -> Vec<(Option<String>, String)> {
    let mut names: Vec<_> = tokens.qualified_name().into_iter().collect();
    while names.len() < OBJECTS_MAX && (tokens.word("TO") || tokens.sign(',')) {
        names.extend(tokens.qualified_name());
    }
    names
}

/// Whether a word is of a statement that only marks a place in its transaction.
pub(crate) fn is_mark(kind: &str) -> bool {
    matches!(kind, "SAVEPOINT" | "ROLLBACK" | "XA")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_have_a_kind_and_names() {
        let own = |name: &str| (None, name.to_owned());
        let of = |schema: &str, name: &str| (Some(schema.to_owned()), name.to_owned());
        for (text, kind, names) in [
            ("CREATE TABLE t (a INT)", "CREATE TABLE", vec![own("t")]),
            ("create temporary table if not exists `a b`.`c` (a int)", "CREATE TABLE", vec![of("a b", "c")]),
            (
                "/* x */ DROP TABLE IF EXISTS a, b.c /* generated by server */",
                "DROP TABLE",
                vec![own("a"), of("b", "c")],
            ),
            ("DROP TABLE `a`,`b`", "DROP TABLE", vec![own("a"), own("b")]),
            (
                "CREATE OR REPLACE ALGORITHM=UNDEFINED DEFINER=`r`@`%` SQL SECURITY DEFINER VIEW `v` AS SELECT 1",
                "CREATE VIEW",
                vec![own("v")],
            ),
            (
                "CREATE DEFINER=`root`@`localhost` TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET @a=1",
                "CREATE TRIGGER",
                vec![own("tr")],
            ),
            ("CREATE UNIQUE INDEX i ON t (a)", "CREATE INDEX", vec![]),
            ("CREATE SPATIAL INDEX i ON t (a)", "CREATE INDEX", vec![]),
            ("TRUNCATE t", "TRUNCATE TABLE", vec![own("t")]),
            ("TRUNCATE TABLE `s`.t", "TRUNCATE TABLE", vec![of("s", "t")]),
            ("RENAME TABLE a TO b, c TO d.e", "RENAME TABLE", vec![own("a"), own("b"), own("c"), of("d", "e")]),
            ("DROP DATABASE `o``dd`", "DROP DATABASE", vec![of("o`dd", "")]),
            ("CREATE SCHEMA IF NOT EXISTS s", "CREATE DATABASE", vec![of("s", "")]),
            ("CREATE USER 'secret'@'localhost' IDENTIFIED BY 'x'", "CREATE USER", vec![]),
            ("GRANT ALL ON *.* TO x", "GRANT", vec![]),
            ("DELETE FROM t", "DELETE", vec![]),
            ("ROLLBACK TO `s1`", "ROLLBACK", vec![]),
            ("SELECT f()", "OTHER", vec![]),
            ("CREATE", "OTHER", vec![]),
            ("", "OTHER", vec![]),
        ] {
            assert_eq!(Statement::read(text), Statement { kind, objects: names }, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(?s)(CREATE |ALTER |DROP |TABLE |RENAME | TO |`|'|,|\"|\\\\|/\\*!?|\\*/|-- |[a-zé.@=() ]){0,20}") {
            let _ = Statement::read(&text);
        }
    }
}
