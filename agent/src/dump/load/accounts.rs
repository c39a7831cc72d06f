//! Accounts and grants on a target that has some accounts already.
//!
//! An account of the dump that exists on the target is dropped and made anew. The one exception is the account that the
//! load runs as: dropping it, or revoking everything from it, would take away what the rest of the restore needs. It is
//! altered instead, and loses what the source's account did not have at the very end.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::super::accounts::CREATE_USER;
use super::super::error::LoadError;
use super::super::quote;
use super::input::Statements;
use super::retry::Retry;
use super::server;

/// `ER_NO_SUCH_TABLE`: a grant on a table that is gone. A grant that includes CREATE needs no table.
const NO_SUCH_TABLE: &str = "1146";

/// Loads accounts and grants.
pub(super) struct AccountLoader {
    own: String,
    /// Accounts of the target, quoted, that the dump has not named.
    existing: BTreeSet<String>,
    own_seen: bool,
}

impl AccountLoader {
    pub(super) async fn new(conn: &mut Conn) -> Result<Self, LoadError> {
        let own: Option<String> = conn
            .query_first("SELECT CURRENT_USER()")
            .await
            .map_err(|source| server("read the current account", source))?;
        let own = own.unwrap_or_default();
        let (user, host) = own.rsplit_once('@').unwrap_or((&own, ""));
        let own = quote::account(user, host);
        let existing: Vec<(String, String)> = conn
            .query(
                "SELECT CONVERT(User USING utf8mb4), CONVERT(Host USING utf8mb4) FROM mysql.user \
                 WHERE NOT (Host = 'localhost' AND User IN ('mysql.infoschema', 'mysql.session', 'mysql.sys'))",
            )
            .await
            .map_err(|source| server("list the target's accounts", source))?;
        let existing = existing.iter().map(|(user, host)| quote::account(user, host)).collect();
        Ok(Self { own, existing, own_seen: false })
    }

    /// The account that the load runs as, quoted.
    pub(super) fn own(&self) -> &str {
        &self.own
    }

    /// Whether the dump has the account that the load runs as.
    pub(super) fn has_own(&self) -> bool {
        self.own_seen
    }

    /// Accounts that only the target has.
    pub(super) fn kept(&self) -> Vec<String> {
        self.existing.iter().cloned().collect()
    }

    /// Makes the dump's accounts.
    pub(super) async fn load_users(&mut self, conn: &mut Conn, mut statements: Statements) -> Result<(), LoadError> {
        while let Some(statement) = statements.next().await? {
            if let Some(account) = account_of(&statement) {
                let exists = self.existing.remove(&account);
                if account == self.own {
                    self.own_seen = true;
                } else if exists {
                    let drop = format!("DROP USER {account}");
                    conn.query_drop(drop)
                        .await
                        .map_err(|source| server(&format!("replace account {account}"), source))?;
                }
            }
            conn.query_drop(statement.as_slice()).await.map_err(|source| server(statements.name(), source))?;
        }
        Ok(())
    }

    /// Grants what the dump grants. Returns what could not be granted.
    pub(super) async fn load_grants(
        &self,
        conn: &mut Conn,
        mut statements: Statements,
    ) -> Result<Vec<String>, LoadError> {
        let before = Grants::of(conn, &self.own).await?;
        let mut wanted = Grants::default();
        let mut retry = Retry::default();
        while let Some(statement) = statements.next().await? {
            wanted.add(&String::from_utf8_lossy(&statement), &self.own);
            retry.run(conn, statement, statements.name()).await?;
        }
        let mut refused = Vec::new();
        for (statement, error) in retry.finish(conn, statements.name()).await? {
            let text = String::from_utf8_lossy(&statement).into_owned();
            if !(error.contains(NO_SUCH_TABLE) && grant_on_nothing(conn, &text).await) {
                refused.push(format!("{text}: {error}"));
            }
        }
        if self.own_seen {
            for revoke in before.surplus(&wanted, &self.own) {
                if let Err(error) = conn.query_drop(revoke.as_str()).await {
                    refused.push(format!("{revoke}: {error}"));
                }
            }
        }
        Ok(refused)
    }
}

/// The quoted account that a statement makes.
fn account_of(statement: &[u8]) -> Option<String> {
    let account = quote::leading_account(statement.strip_prefix(CREATE_USER.as_bytes())?)?;
    String::from_utf8(account.to_vec()).ok()
}

/// Grants on a table that does not exist.
async fn grant_on_nothing(conn: &mut Conn, grant: &str) -> bool {
    let Some((privileges, object, rest)) = split_grant(grant) else { return false };
    let to = rest.strip_suffix(" WITH GRANT OPTION").unwrap_or(rest);
    if conn.query_drop(format!("GRANT CREATE, {privileges} ON {object} TO {rest}")).await.is_err() {
        return false;
    }
    conn.query_drop(format!("REVOKE CREATE ON {object} FROM {to}")).await.is_ok()
}

/// Privileges, object and the rest of `GRANT … ON … TO …`.
fn split_grant(line: &str) -> Option<(&str, &str, &str)> {
    let (privileges, rest) = line.strip_prefix("GRANT ")?.split_once(" ON ")?;
    let (object, rest) = rest.split_once(" TO ")?;
    Some((privileges, object, rest))
}

/// What one account has: privileges by object; roles have an empty object.
#[derive(Debug, Default, PartialEq, Eq)]
struct Grants(BTreeMap<String, BTreeSet<String>>);

impl Grants {
    async fn of(conn: &mut Conn, account: &str) -> Result<Self, LoadError> {
        let lines: Vec<String> = conn
            .query(format!("SHOW GRANTS FOR {account}"))
            .await
            .map_err(|source| server("read the grants of the current account", source))?;
        let mut grants = Self::default();
        lines.iter().for_each(|line| grants.add(line, account));
        Ok(grants)
    }

    /// Takes a line of `SHOW GRANTS` in if it is about the account.
    fn add(&mut self, line: &str, account: &str) {
        let (privileges, object, rest) = match split_grant(line) {
            Some(parts) => parts,
            None => match line.strip_prefix("GRANT ").and_then(|rest| rest.split_once(" TO ")) {
                Some((roles, rest)) => (roles, "", rest),
                None => return,
            },
        };
        let (to, option) = match rest.strip_suffix(" WITH GRANT OPTION") {
            Some(to) => (to, true),
            None => (rest.strip_suffix(" WITH ADMIN OPTION").unwrap_or(rest), false),
        };
        if to != account {
            return;
        }
        let list = self.0.entry(object.to_owned()).or_default();
        list.extend(split_list(privileges));
        if option && !privileges.starts_with("PROXY") {
            list.insert("GRANT OPTION".to_owned());
        }
    }

    /// Statements that take away what `wanted` does not have.
    fn surplus(&self, wanted: &Self, account: &str) -> Vec<String> {
        let none = BTreeSet::new();
        let mut revokes = Vec::new();
        for (object, privileges) in &self.0 {
            let keep = wanted.0.get(object).unwrap_or(&none);
            let take: Vec<&str> =
                privileges.difference(keep).filter(|name| *name != "USAGE").map(String::as_str).collect();
            if !take.is_empty() {
                let on = if object.is_empty() { String::new() } else { format!(" ON {object}") };
                revokes.push(format!("REVOKE {}{on} FROM {account}", take.join(", ")));
            }
        }
        revokes
    }
}

/// `SELECT (`a`, `b`), INSERT` at the commas outside parentheses and backticks.
fn split_list(list: &str) -> Vec<String> {
    let (mut parts, mut current) = (Vec::new(), String::new());
    let (mut depth, mut quoted) = (0u32, false);
    for c in list.chars() {
        match c {
            '`' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                parts.push(std::mem::take(&mut current).trim().to_owned());
                continue;
            }
            _ => {}
        }
        current.push(c);
    }
    parts.push(current.trim().to_owned());
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_of_a_statement_is_found_in_any_name() {
        let statement = |account: &str| format!("CREATE USER IF NOT EXISTS {account} IDENTIFIED WITH 'x'").into_bytes();
        for (user, host) in [("root", "localhost"), ("", "%"), ("a`b@`", "10.%"), ("ü", "::1")] {
            let account = quote::account(user, host);
            assert_eq!(account_of(&statement(&account)), Some(account));
        }
        assert_eq!(account_of(b"ALTER USER `a`@`b`"), None);
    }

    #[test]
    fn only_what_the_source_did_not_grant_is_taken_away() {
        let own = "`root`@`localhost`";
        let mut now = Grants::default();
        now.add("GRANT SELECT, INSERT (`a,b`, `c`), DROP ON *.* TO `root`@`localhost` WITH GRANT OPTION", own);
        now.add("GRANT `r`@`%`,`s`@`%` TO `root`@`localhost`", own);
        let mut wanted = Grants::default();
        wanted.add("GRANT SELECT, INSERT (`a,b`, `c`) ON *.* TO `root`@`localhost`", own);
        wanted.add("GRANT DROP ON *.* TO `other`@`localhost`", own);
        wanted.add("GRANT `r`@`%` TO `root`@`localhost`", own);
        assert_eq!(
            now.surplus(&wanted, own),
            ["REVOKE `s`@`%` FROM `root`@`localhost`", "REVOKE DROP, GRANT OPTION ON *.* FROM `root`@`localhost`"]
        );
        assert!(wanted.surplus(&now, own).is_empty());
    }
}
