//! What the source's account may do.

use std::collections::BTreeSet;

use mysql_async::Conn;

use super::error::DumpError;
use super::session::{record, records};

/// Without one of these, parts of the server are invisible and would be missing without a word, or an XA transaction
/// that is prepared would be lost.
const REQUIRED: &[&str] = &["SELECT", "SHOW VIEW", "TRIGGER", "EVENT", "XA_RECOVER_ADMIN"];

/// Whether the account may do what a complete dump needs: everything it lacks is named.
pub async fn check_privileges(conn: &mut Conn) -> Result<(), DumpError> {
    Privileges::read(conn).await?.check()
}

/// The account's global privileges, those of its active roles included.
#[derive(Debug, Clone)]
pub(super) struct Privileges {
    account: String,
    global: BTreeSet<String>,
}

impl Privileges {
    /// Asks the server.
    pub(super) async fn read(conn: &mut Conn) -> Result<Self, DumpError> {
        let who = record(conn, "CURRENT_USER()", "SELECT CURRENT_USER(), CURRENT_ROLE()".to_owned()).await?;
        let (account, roles) = (who.text_at(0)?, who.text_at(1)?);
        let using = if roles == "NONE" { String::new() } else { format!(" USING {roles}") };
        let lines = records(conn, "SHOW GRANTS", format!("SHOW GRANTS FOR CURRENT_USER(){using}")).await?;
        let lines: Vec<String> = lines.iter().map(|line| line.text_at(0)).collect::<Result<_, _>>()?;
        Self::parse(account, &lines)
    }

    fn parse(account: String, lines: &[String]) -> Result<Self, DumpError> {
        let mut global = BTreeSet::new();
        for line in lines {
            if let Some(list) = line.strip_prefix("GRANT ").and_then(|rest| rest.split(" ON *.* TO ").next())
                && list.len() + "GRANT ".len() < line.len()
            {
                global.extend(list.split(',').map(|name| name.trim().to_ascii_uppercase()));
            }
        }
        if let Some(revoke) = lines.iter().find(|line| {
            line.strip_prefix("REVOKE ").and_then(|rest| rest.split(" ON ").next()).is_some_and(|list| {
                list.split(',').any(|name| REQUIRED.contains(&name.trim()) || name == "LOCK TABLES")
            })
        }) {
            return Err(DumpError::PartialRevoke { account, revoke: revoke.clone() });
        }
        Ok(Self { account, global })
    }

    /// Whether the account has a privilege on everything.
    pub(super) fn has(&self, privilege: &str) -> bool {
        self.global.contains(privilege) || self.global.contains("ALL PRIVILEGES")
    }

    /// Whether `FLUSH TABLES WITH READ LOCK` is allowed.
    pub(super) fn may_lock_globally(&self) -> bool {
        self.has("RELOAD") || self.has("FLUSH_TABLES")
    }

    /// Refuses an account whose dump could not be complete, naming everything it lacks.
    pub(super) fn check(&self) -> Result<(), DumpError> {
        let mut missing: Vec<String> =
            REQUIRED.iter().filter(|name| !self.has(name)).map(|name| (*name).to_owned()).collect();
        if !self.may_lock_globally() && !self.has("LOCK TABLES") {
            missing.push("RELOAD or FLUSH_TABLES or LOCK TABLES".to_owned());
        }
        if missing.is_empty() { Ok(()) } else { Err(DumpError::Privileges { account: self.account.clone(), missing }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Result<Privileges, DumpError> {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        Privileges::parse("backup@%".to_owned(), &lines)
    }

    #[test]
    fn privileges_on_one_schema_do_not_count() {
        let privileges = parse(&["GRANT RELOAD ON *.* TO `b`@`%`", "GRANT SELECT ON `shop`.* TO `b`@`%`"]).unwrap();
        assert!(privileges.has("RELOAD") && !privileges.has("SELECT"));
    }

    #[test]
    fn every_missing_privilege_is_named() {
        let error = parse(&["GRANT SELECT, EVENT ON *.* TO `b`@`%`"]).unwrap().check().unwrap_err();
        assert_eq!(
            error.to_string(),
            "account backup@% lacks SHOW VIEW, TRIGGER, XA_RECOVER_ADMIN, RELOAD or FLUSH_TABLES or LOCK TABLES"
        );
        assert_eq!(error.hint().unwrap(), "GRANT SHOW VIEW, TRIGGER, XA_RECOVER_ADMIN, RELOAD ON *.* TO 'backup'@'%'");
    }

    #[test]
    fn a_partial_revoke_is_refused() {
        let lines = ["GRANT SELECT ON *.* TO `b`@`%`", "REVOKE SELECT ON `secret`.* FROM `b`@`%`"];
        assert!(matches!(parse(&lines), Err(DumpError::PartialRevoke { .. })));
    }
}
