//! Where something is: a server, a binlog of it, an offset in that binlog.

use std::fmt;
use std::str::FromStr;

use crate::error::ParseError;

/// A server's `server_uuid`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerUuid([u8; 16]);

impl ServerUuid {
    /// From the 16 bytes that a GTID event carries.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes, in the order of the text.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ServerUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ServerUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ServerUuid {
    type Err = ParseError;

    /// Reads the 36-character form, either case (`sql/uuid.cc` of MySQL also takes braces; we do not).
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new("server UUID", text);
        let bytes = text.as_bytes();
        if bytes.len() != 36 {
            return Err(error());
        }
        let mut uuid = [0u8; 16];
        let mut digits = 0usize;
        for (i, &c) in bytes.iter().enumerate() {
            if matches!(i, 8 | 13 | 18 | 23) {
                if c != b'-' {
                    return Err(error());
                }
                continue;
            }
            let value = char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or_else(error)?;
            let slot = uuid.get_mut(digits / 2).ok_or_else(error)?;
            *slot = (*slot << 4) | value;
            digits += 1;
        }
        Ok(Self(uuid))
    }
}

/// The name of a binlog in its server's index, without directory: `binlog.000042`.
///
/// Only `[A-Za-z0-9._-]`, never `.` or `..`, at most 255 bytes: it becomes part of object names and paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BinlogName(String);

impl BinlogName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BinlogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BinlogName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty() || text.len() > 255 || text.starts_with('.') || !text.chars().all(allowed) {
            return Err(ParseError::new("binlog name", text));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A byte offset in the plaintext stream of one binlog. Counted by us: the 32-bit `log_pos` of events wraps.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BinlogPosition {
    /// The binlog.
    pub binlog: BinlogName,
    /// Bytes from the start of the plaintext file; 4 is the first event.
    pub offset: u64,
}

impl fmt::Display for BinlogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.binlog, self.offset)
    }
}

impl FromStr for BinlogPosition {
    type Err = ParseError;

    /// Reads `FILE:OFFSET`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new("binlog position (FILE:OFFSET)", text);
        let (binlog, offset) = text.rsplit_once(':').ok_or_else(error)?;
        Ok(Self { binlog: binlog.parse()?, offset: offset.parse().map_err(|_| error())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn uuids_and_positions_read_back(bytes: [u8; 16], offset: u64, name in "[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,254}") {
            let uuid = ServerUuid::from_bytes(bytes);
            proptest::prop_assert_eq!(uuid.to_string().parse::<ServerUuid>(), Ok(uuid));
            proptest::prop_assert_eq!(uuid.to_string().to_uppercase().parse::<ServerUuid>(), Ok(uuid));
            let position = BinlogPosition { binlog: name.parse().unwrap(), offset };
            proptest::prop_assert_eq!(position.to_string().parse::<BinlogPosition>(), Ok(position));
        }

        #[test]
        fn no_text_makes_them_panic(text in "\\PC{0,40}") {
            let _ = (text.parse::<ServerUuid>(), text.parse::<BinlogName>(), text.parse::<BinlogPosition>());
        }
    }

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        for name in ["", ".", "..", "../x", "a/b", "/a", "a\\b", "a\0", "a b", "é", ".a", &"x".repeat(256)] {
            assert!(name.parse::<BinlogName>().is_err(), "{name:?}");
        }
        for position in
            ["binlog.000001", "binlog.000001:", ":4", "binlog.000001:-1", "binlog.000001:18446744073709551616"]
        {
            assert!(position.parse::<BinlogPosition>().is_err(), "{position}");
        }
        for uuid in [
            "3e11fa47-71ca-11e1-9e33-c80aa942956",
            "3e11fa4771ca-11e1-9e33-c80aa9429562-",
            "{3e11fa47-71ca-11e1-9e33-c80aa942956",
        ] {
            assert!(uuid.parse::<ServerUuid>().is_err(), "{uuid}");
        }
    }
}
