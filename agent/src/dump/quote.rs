//! The one place where names and texts become SQL.

use std::fmt::Write;

/// An identifier in backticks, whatever characters it has: `` a`b `` becomes `` `a``b` ``.
#[must_use]
pub fn identifier(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    quoted.push('`');
    for c in name.chars() {
        if c == '`' {
            quoted.push('`');
        }
        quoted.push(c);
    }
    quoted.push('`');
    quoted
}

/// `` `schema`.`name` ``
#[must_use]
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// A text as a literal that means the same in every `sql_mode` and connection character set: hexadecimal, with an
/// introducer.
#[must_use]
pub fn text(value: &str) -> String {
    let mut literal = String::with_capacity(2 * value.len() + 12);
    literal.push_str("_utf8mb4 X'");
    for byte in value.bytes() {
        // Writing to a String cannot fail.
        let _ = write!(literal, "{byte:02X}");
    }
    literal.push('\'');
    literal
}

/// A text in quotes, for the few places whose grammar takes no other literal. Only for connections with `utf8mb4` and
/// without `NO_BACKSLASH_ESCAPES`, as every file of statements sets them.
#[must_use]
pub fn plain_text(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for c in value.chars() {
        if matches!(c, '\'' | '\\') {
            quoted.push(c);
        }
        quoted.push(c);
    }
    quoted.push('\'');
    quoted
}

/// An account as SQL writes it: `` `user`@`host` ``.
#[must_use]
pub fn account(user: &str, host: &str) -> String {
    format!("{}@{}", identifier(user), identifier(host))
}

/// The quoted account that `text` begins with.
#[must_use]
pub fn leading_account(text: &[u8]) -> Option<&[u8]> {
    let user = leading_identifier(text)?;
    let host = leading_identifier(text.get(user + 1..).filter(|_| text.get(user) == Some(&b'@'))?)?;
    text.get(..user + 1 + host)
}

/// The length of the identifier in backticks that `text` begins with.
fn leading_identifier(text: &[u8]) -> Option<usize> {
    let mut at = text.starts_with(b"`").then_some(1)?;
    loop {
        at += 1 + text.get(at..)?.iter().position(|&byte| byte == b'`')?;
        if text.get(at) != Some(&b'`') {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the server's lexer makes of a backticked identifier.
    fn read_identifier(quoted: &str) -> Option<String> {
        let inner = quoted.strip_prefix('`')?.strip_suffix('`')?;
        let mut name = String::new();
        let mut chars = inner.chars();
        while let Some(c) = chars.next() {
            if c == '`' && chars.next() != Some('`') {
                return None;
            }
            name.push(c);
        }
        Some(name)
    }

    proptest! {
        #[test]
        fn every_name_is_read_back_as_it_was(name in "\\PC{0,64}|[`'\"\\\\\n\r\t;*/-]{0,20}") {
            prop_assert_eq!(read_identifier(&identifier(&name)), Some(name));
        }

        #[test]
        fn an_account_is_found_at_the_start(user in "[a`@ ]{0,6}", host in "[a`@%]{0,6}", rest in "[ a@']{0,6}") {
            let quoted = account(&user, &host);
            let text = format!("{quoted}{rest}");
            prop_assert_eq!(leading_account(text.as_bytes()), Some(quoted.as_bytes()));
            let other = format!("x{text}");
            prop_assert_eq!(leading_account(other.as_bytes()), None);
        }

        #[test]
        fn a_text_literal_has_nothing_to_escape(value in any::<String>()) {
            let literal = text(&value);
            let hex = literal.strip_prefix("_utf8mb4 X'").and_then(|rest| rest.strip_suffix('\'')).unwrap();
            prop_assert_eq!(hex::decode(hex).unwrap(), value.into_bytes());
        }
    }
}
