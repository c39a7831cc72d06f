//! The archive itself: which one it is, and for whom it is sealed.

use std::fmt;
use std::str::FromStr;

use highwater_binlog::{ParseError, ServerUuid};

use highwater_binlog::Micros;

/// Identifies one archive for good: a random UUID, chosen when the archive is created and repeated in every manifest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryId([u8; 16]);

impl RepositoryId {
    /// A random (version 4) UUID from 16 random bytes.
    #[must_use]
    pub const fn from_random_bytes(mut bytes: [u8; 16]) -> Self {
        // RFC 9562, section 5.4: the version in octet 6, the variant in octet 8.
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&ServerUuid::from_bytes(self.0), f)
    }
}

impl fmt::Debug for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RepositoryId {
    type Err = ParseError;

    /// Reads the 36-character form in lower case.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new("repository id", text);
        let uuid: ServerUuid = text.parse().map_err(|_| error())?;
        let id = Self(*uuid.as_bytes());
        if id.to_string() == text { Ok(id) } else { Err(error()) }
    }
}

/// Longest service name.
const SERVICE_LEN_MAX: usize = 64;

/// What is protected over the years, whichever server runs it: `orders`. `[A-Za-z0-9._-]`, not starting with a dot, at
/// most 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName(String);

impl ServiceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServiceName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if text.is_empty() || text.len() > SERVICE_LEN_MAX || text.starts_with('.') || !text.chars().all(allowed) {
            return Err(ParseError::new("service name", text));
        }
        Ok(Self(text.to_owned()))
    }
}

/// What `highwater.json` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Which archive this is.
    pub id: RepositoryId,
    /// What it protects.
    pub service: ServiceName,
    /// age public keys (`age1…`) it was created for; none: not encrypted. Public, so that any reader can say which
    /// identity is needed.
    pub recipients: Vec<String>,
    /// When it was created.
    pub created: Micros,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_ids_are_version_4_uuids_that_read_back() {
        let id = RepositoryId::from_random_bytes([0xff; 16]);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("FFFFFFFF-ffff-4fff-bfff-ffffffffffff".parse::<RepositoryId>().is_err());
        assert!("ffffffff".parse::<RepositoryId>().is_err());
    }

    #[test]
    fn service_names_cannot_leave_their_folder() {
        for wrong in ["", ".", "..", ".hidden", "a/b", "a b", "a\nb", "ü", &"x".repeat(65)] {
            assert!(wrong.parse::<ServiceName>().is_err(), "{wrong}");
        }
        assert_eq!("orders-eu_1.2".parse::<ServiceName>().unwrap().as_str(), "orders-eu_1.2");
    }
}
