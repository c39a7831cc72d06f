//! A server's version, and the names that statements and variables have in it.

use std::fmt;
use std::str::FromStr;

use highwater_binlog::ParseError;

/// A MySQL server's version, ordered: `8.0.36`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerVersion {
    /// First number.
    pub major: u16,
    /// Second number.
    pub minor: u16,
    /// Third number.
    pub patch: u16,
}

impl ServerVersion {
    /// The oldest version Highwater is written for.
    pub const OLDEST: Self = Self::new(8, 0, 14);

    /// A version from its three numbers.
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// Major and minor, for comparisons of release series: `(8, 4)`.
    #[must_use]
    pub const fn series(self) -> (u16, u16) {
        (self.major, self.minor)
    }

    /// The statement that shows the current binlog and its executed GTIDs. Renamed in 8.2.0; the old one is gone in 8.4.0.
    #[must_use]
    pub fn show_binary_log_status(self) -> &'static str {
        if self >= Self::new(8, 2, 0) { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" }
    }

    /// `RESET BINARY LOGS AND GTIDS`, or its name before 8.2.0.
    #[must_use]
    pub fn reset_binary_logs(self) -> &'static str {
        if self >= Self::new(8, 2, 0) { "RESET BINARY LOGS AND GTIDS" } else { "RESET MASTER" }
    }

    /// Whether statements say `REPLICA` (`START REPLICA`, `SHOW REPLICA STATUS`): 8.0.22.
    #[must_use]
    pub fn says_replica(self) -> bool {
        self >= Self::new(8, 0, 22)
    }

    /// Whether variables and functions say `replica` and `source` (`replica_parallel_workers`): 8.0.26.
    #[must_use]
    pub fn variables_say_replica(self) -> bool {
        self >= Self::new(8, 0, 26)
    }

    /// Whether it is `CHANGE REPLICATION SOURCE TO SOURCE_HOST`, not `CHANGE MASTER TO MASTER_HOST`: 8.0.23.
    #[must_use]
    pub fn says_change_replication_source(self) -> bool {
        self >= Self::new(8, 0, 23)
    }

    /// Whether GTIDs can have tags: 8.3.0.
    #[must_use]
    pub fn has_gtid_tags(self) -> bool {
        self >= Self::new(8, 3, 0)
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for ServerVersion {
    type Err = ParseError;

    /// Reads what `@@version` and the greeting say: `9.7.4`, `8.0.36-0ubuntu0.22.04.1`, `8.4.0-commercial`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = || ParseError::new("MySQL server version", text);
        if text.to_ascii_lowercase().contains("mariadb") {
            return Err(error());
        }
        let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').next().ok_or_else(error)?;
        let mut parts = numbers.split('.').map(str::parse::<u16>);
        let mut part = || parts.next().ok_or_else(error)?.map_err(|_| error());
        Ok(Self { major: part()?, minor: part()?, patch: part()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_real_servers_are_read() {
        let read = |text: &str| text.parse::<ServerVersion>().unwrap();
        assert_eq!(read("9.7.4"), ServerVersion::new(9, 7, 4));
        assert_eq!(read("9.7.4-1"), ServerVersion::new(9, 7, 4));
        assert_eq!(read("8.0.36-0ubuntu0.22.04.1"), ServerVersion::new(8, 0, 36));
        assert_eq!(read("8.4.0-commercial"), ServerVersion::new(8, 4, 0));
        assert_eq!(read("8.0.36-28.1").to_string(), "8.0.36");
    }

    #[test]
    fn what_is_not_mysql_is_refused() {
        for text in ["", "8", "8.0", "x.y.z", "5.5.5-10.11.6-MariaDB-1", "99999.0.1", "8..1"] {
            assert!(text.parse::<ServerVersion>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_change_with_the_version_that_renamed_them() {
        let at = ServerVersion::new;
        assert!(at(8, 0, 36) < at(8, 4, 0) && at(8, 4, 0) < at(9, 0, 1) && at(8, 0, 9) < at(8, 0, 10));
        assert_eq!(at(8, 1, 0).show_binary_log_status(), "SHOW MASTER STATUS");
        assert_eq!(at(8, 2, 0).show_binary_log_status(), "SHOW BINARY LOG STATUS");
        assert_eq!(at(8, 1, 9).reset_binary_logs(), "RESET MASTER");
        assert_eq!((at(8, 0, 21).says_replica(), at(8, 0, 22).says_replica()), (false, true));
        assert_eq!((at(8, 0, 25).variables_say_replica(), at(8, 0, 26).variables_say_replica()), (false, true));
    }
}
