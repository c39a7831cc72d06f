//! Statements that may only succeed once others have.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::super::error::LoadError;
use super::super::session::error_code;
use super::input::is_session_setting;
use super::server;

/// What the session was set to when a statement was to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Context {
    names: Option<Vec<u8>>,
    schema: Option<Vec<u8>>,
    settings: Option<Vec<u8>>,
}

impl Context {
    /// Takes notice of a statement that sets up the session.
    pub(super) fn accept(&mut self, statement: &[u8]) -> bool {
        if statement.starts_with(b"SET NAMES ") {
            *self = Self { names: Some(statement.to_vec()), schema: self.schema.take(), settings: None };
        } else if statement.starts_with(b"USE ") {
            self.schema = Some(statement.to_vec());
        } else if is_session_setting(statement) {
            self.settings = Some(statement.to_vec());
        } else {
            return false;
        }
        true
    }

    pub(super) async fn set(&self, conn: &mut Conn, file: &str) -> Result<(), LoadError> {
        for statement in [&self.names, &self.schema, &self.settings].into_iter().flatten() {
            conn.query_drop(statement.as_slice()).await.map_err(|source| server(file, source))?;
        }
        Ok(())
    }
}

/// Statements that failed and are tried again at the end, until none of them gets further.
#[derive(Debug, Default)]
pub(super) struct Retry {
    context: Context,
    failed: Vec<(Context, Vec<u8>, String)>,
}

impl Retry {
    /// Runs a statement; what the server refuses is kept for later.
    pub(super) async fn run(&mut self, conn: &mut Conn, statement: Vec<u8>, file: &str) -> Result<(), LoadError> {
        let setting = self.context.accept(&statement);
        match conn.query_drop(statement.as_slice()).await {
            Ok(()) => Ok(()),
            Err(error) if !setting && error_code(&error).is_some() => {
                self.failed.push((self.context.clone(), statement, error.to_string()));
                Ok(())
            }
            Err(error) => Err(server(file, error)),
        }
    }

    /// Tries again what failed. Returns what never succeeded, with the server's last words.
    pub(super) async fn finish(mut self, conn: &mut Conn, file: &str) -> Result<Vec<(Vec<u8>, String)>, LoadError> {
        loop {
            let before = self.failed.len();
            for (context, statement, _) in std::mem::take(&mut self.failed) {
                context.set(conn, file).await?;
                match conn.query_drop(statement.as_slice()).await {
                    Ok(()) => {}
                    Err(error) if error_code(&error).is_some() => {
                        self.failed.push((context, statement, error.to_string()));
                    }
                    Err(error) => return Err(server(file, error)),
                }
            }
            if self.failed.is_empty() || self.failed.len() == before {
                return Ok(self.failed.into_iter().map(|(_, statement, error)| (statement, error)).collect());
            }
        }
    }
}
