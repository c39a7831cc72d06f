//! The catalog's tables, and how older ones become them.

use rusqlite::Connection;
use rusqlite_migration::{M, Migrations};

use super::CatalogProblem;

/// `PRAGMA application_id` of a catalog: `HWTR`.
const APPLICATION_ID: i64 = 0x4857_5452;

/// One step per released schema, never edited: `PRAGMA user_version` counts them.
const STEPS: &[M<'static>] = &[M::up(include_str!("0001.sql")), M::up(include_str!("0002.sql"))];

/// Empties all tables, those that refer to others first.
pub(super) const DELETE_ALL: &str = "
    DELETE FROM file_object;
    DELETE FROM file;
    DELETE FROM keys_in_generation;
    DELETE FROM key_generation;
    DELETE FROM dump_file;
    DELETE FROM dump;
    DELETE FROM segment_object;
    DELETE FROM segment;
    DELETE FROM timeline;
";

/// Leaves a database alone that is not empty and not a catalog.
pub(super) fn refuse_strangers(connection: &Connection) -> Result<(), CatalogProblem> {
    let id: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let objects: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if id == APPLICATION_ID || (id == 0 && objects == 0) { Ok(()) } else { Err(CatalogProblem::NotACatalog) }
}

pub(super) fn migrate(connection: &mut Connection) -> Result<(), CatalogProblem> {
    use rusqlite_migration::{Error, MigrationDefinitionError};

    Migrations::from_slice(STEPS).to_latest(connection).map_err(|error| match error {
        Error::MigrationDefinition(MigrationDefinitionError::DatabaseTooFarAhead) => CatalogProblem::Newer,
        Error::RusqliteError { err, .. } => err.into(),
        other => CatalogProblem::Damaged { detail: other.to_string() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_valid_and_mark_the_file_as_a_catalog() {
        assert_eq!(Migrations::from_slice(STEPS).validate(), Ok(()));
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        let id: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).unwrap();
        assert_eq!(id, APPLICATION_ID);
        refuse_strangers(&connection).unwrap();
    }

    #[test]
    fn processes_that_open_a_new_catalog_at_once_all_get_it() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("catalog.sqlite");
            let repository = crate::RepositoryId::from_random_bytes([7; 16]);
            std::thread::scope(|scope| {
                let open = || crate::Catalog::open(&path, repository).map(drop);
                let opening: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
                for opened in opening {
                    opened.join().unwrap().unwrap();
                }
            });
        }
    }
}
