//! Accounts, roles and what they may do.

use mysql_async::Conn;

use super::error::DumpError;
use super::quote;
use super::session::{record, records};
use super::sql_file::SqlOut;

/// How `users.sql` begins the statement that makes an account.
pub(super) const CREATE_USER: &str = "CREATE USER IF NOT EXISTS ";

/// An account of the source.
struct Account {
    user: String,
    host: String,
}

impl Account {
    fn quoted(&self) -> String {
        quote::account(&self.user, &self.host)
    }
}

/// All but those that every server makes for itself.
async fn list(conn: &mut Conn) -> Result<Vec<Account>, DumpError> {
    let rows = records(
        conn,
        "list accounts",
        "SELECT User, Host FROM mysql.user WHERE NOT (Host = 'localhost' AND User IN \
         ('mysql.infoschema', 'mysql.session', 'mysql.sys')) ORDER BY User, Host"
            .to_owned(),
    )
    .await?;
    rows.iter().map(|row| Ok(Account { user: row.text_at(0)?, host: row.text_at(1)? })).collect()
}

/// Writes statements that make every account, or bring an existing one to the same state. Grants come later.
pub(super) async fn write_users(conn: &mut Conn, out: &mut SqlOut<'_>) -> Result<(), DumpError> {
    for account in list(conn).await? {
        let quoted = account.quoted();
        let row = record(conn, "SHOW CREATE USER", format!("SHOW CREATE USER {quoted}")).await?;
        let text = row.bytes_at(0).unwrap_or_default();
        let clauses = text.strip_prefix(format!("CREATE USER {quoted}").as_bytes()).ok_or_else(|| {
            DumpError::Answer { statement: "SHOW CREATE USER", what: "not written as known".to_owned() }
        })?;
        let clauses = without_default_role(clauses);
        out.push([CREATE_USER.as_bytes(), quoted.as_bytes(), &clauses].concat()).await?;
        out.push([b"ALTER USER ", quoted.as_bytes(), &with_credentials(&clauses)].concat()).await?;
    }
    Ok(())
}

/// Writes all grants, then the default roles.
pub(super) async fn write_grants(conn: &mut Conn, out: &mut SqlOut<'_>) -> Result<(), DumpError> {
    let accounts = list(conn).await?;
    let mut partial_revokes = false;
    for account in &accounts {
        let lines = records(conn, "SHOW GRANTS", format!("SHOW GRANTS FOR {}", account.quoted())).await?;
        for line in lines {
            let statement = line.bytes_at(0).unwrap_or_default();
            if statement.starts_with(b"REVOKE ") && !partial_revokes {
                // Restrictions exist only where this is on.
                out.push("SET GLOBAL partial_revokes = ON").await?;
                partial_revokes = true;
            }
            out.push(statement).await?;
        }
    }
    for account in &accounts {
        let roles = records(
            conn,
            "list default roles",
            format!(
                "SELECT DEFAULT_ROLE_USER, DEFAULT_ROLE_HOST FROM mysql.default_roles WHERE USER = {} AND HOST = {} \
                 ORDER BY 1, 2",
                quote::text(&account.user),
                quote::text(&account.host)
            ),
        )
        .await?;
        let roles: Vec<String> = roles
            .iter()
            .map(|row| Ok(quote::account(&row.text_at(0)?, &row.text_at(1)?)))
            .collect::<Result<_, DumpError>>()?;
        let roles = if roles.is_empty() { "NONE".to_owned() } else { roles.join(", ") };
        out.push(format!("SET DEFAULT ROLE {roles} TO {}", account.quoted())).await?;
    }
    Ok(())
}

/// The clauses of `SHOW CREATE USER` without ` DEFAULT ROLE …`: a role can be a default only once it was granted. The
/// clause stands before ` REQUIRE `, and both are looked for outside quotes.
fn without_default_role(clauses: &[u8]) -> Vec<u8> {
    let (Some(start), Some(end)) = (find_unquoted(clauses, b" DEFAULT ROLE "), find_unquoted(clauses, b" REQUIRE "))
    else {
        return clauses.to_vec();
    };
    match (clauses.get(..start), clauses.get(end..)) {
        (Some(before), Some(after)) if start < end => [before, after].concat(),
        _ => clauses.to_vec(),
    }
}

/// The clauses for `ALTER USER`, where a plugin without credentials would mean: forget them, and expire the account.
fn with_credentials(clauses: &[u8]) -> Vec<u8> {
    const PLUGIN: &[u8] = b" IDENTIFIED WITH '";
    let plugin_end = clauses
        .strip_prefix(PLUGIN)
        .and_then(|rest| rest.iter().position(|&byte| byte == b'\''))
        .map(|at| PLUGIN.len() + at + 1);
    match plugin_end.and_then(|end| clauses.split_at_checked(end)) {
        Some((head, tail)) if !tail.starts_with(b" AS ") => [head, b" AS ''", tail].concat(),
        _ => clauses.to_vec(),
    }
}

fn find_unquoted(text: &[u8], wanted: &[u8]) -> Option<usize> {
    let mut quote: Option<u8> = None;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match quote {
            // A doubled quote closes and opens again, which comes to the same.
            Some(open) if byte == open => quote = None,
            Some(b'\'' | b'"') if byte == b'\\' => at += 1,
            Some(_) => {}
            None if matches!(byte, b'\'' | b'"' | b'`') => quote = Some(byte),
            None if text.get(at..)?.starts_with(wanted) => return Some(at),
            None => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_without_a_password_is_not_expired_by_altering_it() {
        assert_eq!(with_credentials(b" IDENTIFIED WITH 'p' REQUIRE NONE"), b" IDENTIFIED WITH 'p' AS '' REQUIRE NONE");
        let given = b" IDENTIFIED WITH 'p' AS 0x00 REQUIRE NONE";
        assert_eq!(with_credentials(given), given);
    }

    #[test]
    fn the_default_role_is_taken_out_and_nothing_else() {
        let clauses = b" IDENTIFIED WITH 'p' AS '\\' DEFAULT ROLE ' DEFAULT ROLE `r`@`%`,` REQUIRE `@`%` REQUIRE NONE COMMENT ' DEFAULT ROLE '";
        assert_eq!(
            without_default_role(clauses),
            b" IDENTIFIED WITH 'p' AS '\\' DEFAULT ROLE ' REQUIRE NONE COMMENT ' DEFAULT ROLE '"
        );
        let plain = b" IDENTIFIED WITH 'p' REQUIRE NONE PASSWORD EXPIRE DEFAULT";
        assert_eq!(without_default_role(plain), plain);
    }
}
