//! What a transaction changes, for people who look for it: tables, kinds and numbers of rows, never values.

use std::collections::HashMap;
use std::fmt;

use crate::error::MeaningError;
use crate::event::{EventType, RawEvent};
use crate::payload::for_each_payload_event;
use crate::query::{Boundary, QueryEvent};
use crate::rows::{RowAction, RowsEvent, TableMap};
use crate::statement::{Statement, is_mark};

/// How many tables one transaction may touch before it is refused as hostile; it bounds the memory.
const TABLES_MAX: usize = 65_536;

/// The table id of a row event without rows that only ends a statement (`Rows_event::DUMMY_TABLE_ID`).
const DUMMY_TABLE_ID: u64 = 0x00ff_ffff;

/// What a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChangeKind {
    /// Rows inserted.
    Insert,
    /// Rows updated.
    Update,
    /// Rows deleted.
    Delete,
    /// A statement logged as such, by its first words in capitals: `DROP TABLE`; `OTHER` for rare ones.
    Statement(&'static str),
}

impl fmt::Display for ChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Statement(kind) => kind,
        })
    }
}

/// All changes of one kind that a transaction makes to one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The table's schema; for a statement without a name in it, the one that was current. May be empty.
    pub schema: String,
    /// The table or other object; empty for statements on schemas, and where the statement is not looked into.
    pub table: String,
    /// What is done.
    pub kind: ChangeKind,
    /// How many rows; none for statements, and for tables with columns of a type that is not known here.
    pub rows: Option<u64>,
}

/// Collects the changes of one transaction from its events.
#[derive(Debug, Default)]
pub struct Changes {
    tables: HashMap<u64, TableMap>,
    changes: Vec<Change>,
    /// Where in `changes` a schema, table and kind is.
    index: HashMap<(String, String, ChangeKind), usize>,
}

impl Changes {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes an event of the transaction into account, and the ones inside it if it is a payload. Events without a
    /// meaning here are passed over.
    ///
    /// # Errors
    /// When an event is malformed. What was collected before stays.
    pub fn observe(&mut self, event: &RawEvent<'_>) -> Result<(), MeaningError> {
        if event.event_type() == EventType::TRANSACTION_PAYLOAD {
            return for_each_payload_event(event, |inner| match inner.event_type() {
                EventType::TRANSACTION_PAYLOAD => Err(MeaningError::NestedPayload),
                _ => self.observe_plain(inner),
            });
        }
        self.observe_plain(event)
    }

    /// The changes, in the order of their first event.
    #[must_use]
    pub fn finish(self) -> Vec<Change> {
        self.changes
    }

    fn observe_plain(&mut self, event: &RawEvent<'_>) -> Result<(), MeaningError> {
        match event.event_type() {
            EventType::TABLE_MAP => {
                let table = TableMap::read(event)?;
                if self.tables.len() >= TABLES_MAX {
                    return Err(MeaningError::TooManyTables);
                }
                self.tables.insert(table.table_id, table);
                Ok(())
            }
            EventType::QUERY => {
                let query = QueryEvent::read(event)?;
                match query.boundary() {
                    Boundary::Statement => self.add_statement(&query),
                    Boundary::Begin | Boundary::End | Boundary::EndXa => Ok(()),
                }
            }
            EventType::EXECUTE_LOAD_QUERY => {
                self.add(String::new(), String::new(), ChangeKind::Statement("LOAD DATA"), None)
            }
            _ => match RowsEvent::read(event)? {
                Some(rows) => self.add_rows(&rows),
                None => Ok(()),
            },
        }
    }

    fn add_rows(&mut self, rows: &RowsEvent<'_>) -> Result<(), MeaningError> {
        let Some(table) = self.tables.get(&rows.table_id) else {
            let dummy = rows.table_id == DUMMY_TABLE_ID;
            return if dummy { Ok(()) } else { Err(MeaningError::UnknownTable(rows.table_id)) };
        };
        let count = rows.count(table)?;
        let kind = match rows.action {
            RowAction::Insert => ChangeKind::Insert,
            RowAction::Update => ChangeKind::Update,
            RowAction::Delete => ChangeKind::Delete,
        };
        let (schema, table) = (table.schema.clone(), table.table.clone());
        self.add(schema, table, kind, count)
    }

    fn add_statement(&mut self, query: &QueryEvent<'_>) -> Result<(), MeaningError> {
        let statement = Statement::read(&query.text());
        if is_mark(statement.kind) {
            return Ok(());
        }
        let current = String::from_utf8_lossy(query.schema);
        let kind = ChangeKind::Statement(statement.kind);
        if statement.objects.is_empty() {
            return self.add(current.into_owned(), String::new(), kind, None);
        }
        for (schema, name) in statement.objects {
            self.add(schema.unwrap_or_else(|| current.clone().into_owned()), name, kind, None)?;
        }
        Ok(())
    }

    fn add(&mut self, schema: String, table: String, kind: ChangeKind, rows: Option<u64>) -> Result<(), MeaningError> {
        let key = (schema, table, kind);
        if let Some(change) = self.index.get(&key).and_then(|at| self.changes.get_mut(*at)) {
            change.rows = change.rows.zip(rows).map(|(sum, more)| sum.saturating_add(more));
            return Ok(());
        }
        if self.changes.len() >= TABLES_MAX {
            return Err(MeaningError::TooManyTables);
        }
        self.index.insert(key.clone(), self.changes.len());
        let (schema, table, kind) = key;
        self.changes.push(Change { schema, table, kind, rows });
        Ok(())
    }
}
