//! Making views whose definers do not exist, or may not yet do what their views do.
//!
//! The server refuses a view over another view or a function whose definer is missing or lacks privileges, although such
//! views exist: the account was dropped later. So all views are made with the loading account as definer first, each
//! after those it stands on, and then get their own definers from the top down, so that what a view stands on is always
//! in order when the server looks at it.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::super::error::LoadError;
use super::super::quote;
use super::super::session::error_code;
use super::input::Statements;
use super::retry::Context;
use super::server;

/// `ER_NO_SUCH_USER`: a function's definer does not exist.
const NO_SUCH_USER: u16 = 1449;

/// A view's statement, and what the session must be set to for it.
struct View {
    context: Context,
    statement: Vec<u8>,
}

/// Makes all views. Returns those that could not be made, with the server's words: they were broken on the source too.
pub(super) async fn load(conn: &mut Conn, mut statements: Statements, own: &str) -> Result<Vec<String>, LoadError> {
    let file = statements.name().to_owned();
    let mut context = Context::default();
    let mut waiting = Vec::new();
    while let Some(statement) = statements.next().await? {
        if context.accept(&statement) {
            // Faults of the session's settings show here, not as faults of a view.
            conn.query_drop(statement.as_slice()).await.map_err(|source| server(&file, source))?;
        } else {
            waiting.push(View { context: context.clone(), statement });
        }
    }
    let mut stand_ins = StandIns::default();
    let (made, broken) = make_all(conn, waiting, own, &file, &mut stand_ins).await?;
    let mut refused = broken;
    for view in made.iter().rev() {
        if let Some(replace) = replacing(&view.statement, own) {
            view.context.set(conn, &file).await?;
            if let Err(error) = conn.query_drop(replace).await {
                refused.push(format!("definer of view {}: {error}", name(&view.statement)));
            }
        }
    }
    stand_ins.drop_all(conn, &file).await?;
    Ok(refused)
}

/// Makes views with the loading account as definer, in passes until none gets further. Returns the views made, in the
/// order in which they were.
async fn make_all(
    conn: &mut Conn,
    mut waiting: Vec<View>,
    own: &str,
    file: &str,
    stand_ins: &mut StandIns,
) -> Result<(Vec<View>, Vec<String>), LoadError> {
    let mut made = Vec::new();
    loop {
        let mut refused = Vec::new();
        let before = waiting.len();
        for view in std::mem::take(&mut waiting) {
            view.context.set(conn, file).await?;
            let statement = with_definer(&view.statement, own).unwrap_or_else(|| view.statement.clone());
            let mut result = conn.query_drop(statement.as_slice()).await;
            while let Err(error) = &result {
                if error_code(error) != Some(NO_SUCH_USER) || !stand_ins.make(conn, &error.to_string()).await {
                    break;
                }
                result = conn.query_drop(statement.as_slice()).await;
            }
            match result {
                Ok(()) => made.push(view),
                Err(error) if error_code(&error).is_some() => {
                    refused.push(format!("view {}: {error}", name(&view.statement)));
                    waiting.push(view);
                }
                Err(error) => return Err(server(file, error)),
            }
        }
        if waiting.is_empty() || waiting.len() == before {
            return Ok((made, refused));
        }
    }
}

/// Accounts made for as long as views are made, for functions whose definers do not exist.
#[derive(Debug, Default)]
struct StandIns(Vec<String>);

impl StandIns {
    /// Makes the account that the server misses. Says whether that is something new.
    async fn make(&mut self, conn: &mut Conn, error: &str) -> bool {
        let Some((user, host)) = missing_account(error) else { return false };
        let account = quote::account(user, host);
        if self.0.contains(&account) {
            return false;
        }
        let made = conn.query_drop(format!("CREATE USER {account} ACCOUNT LOCK")).await.is_ok()
            && conn.query_drop(format!("GRANT SELECT, EXECUTE ON *.* TO {account}")).await.is_ok();
        self.0.push(account);
        made
    }

    async fn drop_all(self, conn: &mut Conn, file: &str) -> Result<(), LoadError> {
        for account in self.0 {
            conn.query_drop(format!("DROP USER IF EXISTS {account}")).await.map_err(|source| server(file, source))?;
        }
        Ok(())
    }
}

/// `The user specified as a definer ('u'@'h') does not exist`
fn missing_account(error: &str) -> Option<(&str, &str)> {
    let (_, rest) = error.split_once("('")?;
    let (account, _) = rest.rsplit_once("')")?;
    account.rsplit_once("'@'")
}

/// The statement with another definer.
fn with_definer(statement: &[u8], definer: &str) -> Option<Vec<u8>> {
    const CLAUSE: &[u8] = b" DEFINER=";
    let start = statement.windows(CLAUSE.len()).position(|window| window == CLAUSE)? + CLAUSE.len();
    let account = quote::leading_account(statement.get(start..)?)?;
    Some([statement.get(..start)?, definer.as_bytes(), statement.get(start + account.len()..)?].concat())
}

/// The statement that gives a view its own definer; absent when it has it already.
fn replacing(statement: &[u8], own: &str) -> Option<Vec<u8>> {
    if with_definer(statement, own).is_none_or(|other| other == statement) {
        return None;
    }
    Some([b"CREATE OR REPLACE ", statement.strip_prefix(b"CREATE ")?].concat())
}

/// The view's name, as far as it can be seen in the statement that makes it.
fn name(statement: &[u8]) -> String {
    let text = String::from_utf8_lossy(statement);
    let after = text.split_once(" VIEW ").map_or("", |(_, rest)| rest);
    after.split_once(" AS ").map_or(after, |(name, _)| name).chars().take(130).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIEW: &[u8] =
        b"CREATE ALGORITHM=UNDEFINED DEFINER=`a`` VIEW `@`%` SQL SECURITY DEFINER VIEW `v` AS select 1 AS `x`";

    #[test]
    fn only_the_definer_is_replaced() {
        let expected: &[u8] =
            b"CREATE ALGORITHM=UNDEFINED DEFINER=`me`@`h` SQL SECURITY DEFINER VIEW `v` AS select 1 AS `x`";
        assert_eq!(with_definer(VIEW, "`me`@`h`").unwrap(), expected);
        assert!(replacing(VIEW, "`me`@`h`").unwrap().starts_with(b"CREATE OR REPLACE ALGORITHM="));
        assert_eq!(replacing(expected, "`me`@`h`"), None);
    }

    #[test]
    fn the_missing_definer_is_read_from_the_error() {
        let error =
            "Server error: `ERROR HY000 (1449): The user specified as a definer ('it's'@'10.%') does not exist'";
        assert_eq!(missing_account(error), Some(("it's", "10.%")));
    }
}
