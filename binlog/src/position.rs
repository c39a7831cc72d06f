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
