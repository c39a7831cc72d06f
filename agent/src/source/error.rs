//! What can go wrong between us and a server, and what the reader can do about it.

use std::io;
use std::path::PathBuf;

use highwater_binlog::BinlogPosition;

/// A failure with one server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Nothing listens there, or it does not answer.
    #[error("server {address} is unreachable")]
    Unreachable {
        /// Where we tried.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The server offers no TLS and the policy asks for it.
    #[error("server {address} offers no TLS")]
    TlsUnsupported {
        /// The server.
        address: String,
    },
    /// The server's certificate is not what the policy asks for.
    #[error("server {address} is not proven to be itself: {reason}")]
    TlsNotVerified {
        /// The server.
        address: String,
        /// What TLS says.
        reason: String,
        /// Whether only the name in the certificate is wrong.
        name_only: bool,
    },
    /// The trusted authorities cannot be read.
    #[error("certificate authorities of {place}: {reason}")]
    TlsAuthorities {
        /// A PEM file, or the system's store.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server does not let this account in.
    #[error("server {address} refuses user {user}: {message} (error {code})")]
    AccessDenied {
        /// The server.
        address: String,
        /// The account's user name.
        user: String,
        /// MySQL's error number.
        code: u16,
        /// The server's text.
        message: String,
    },
    /// The account's authentication plugin is not one we speak.
    #[error("server asks for authentication plugin {plugin}")]
    AuthPlugin {
        /// Its name.
        plugin: String,
    },
    /// The account lacks a privilege.
    #[error("user {user} lacks the {privilege} privilege for {statement}")]
    MissingPrivilege {
        /// The account.
        user: String,
        /// As GRANT names it: `REPLICATION SLAVE`.
        privilege: String,
        /// What needed it.
        statement: String,
    },
    /// A setting of the server makes the task impossible.
    #[error("server has {variable} = {value}, needed is {needed}")]
    Unfit {
        /// The variable.
        variable: String,
        /// What it is.
        value: String,
        /// What it must be.
        needed: String,
        /// The statements or settings that fix it.
        remedy: String,
    },
    /// The server is too old, or is not MySQL.
    #[error("server version {version} is not MySQL 8.0.14 or newer")]
    Version {
        /// What the server calls itself.
        version: String,
    },
    /// The server no longer has binlogs that we need, or says that our history is not its own (error 1236).
    #[error("server cannot send the binlog: {message} (error {code})")]
    BinlogUnavailable {
        /// MySQL's error number.
        code: u16,
        /// The server's text.
        message: String,
    },
    /// A binlog that we need has a transaction without a GTID (error 1236).
    #[error("server cannot send the binlog: {message}")]
    AnonymousTransaction {
        /// The server's text.
        message: String,
    },
    /// A position that servers cannot be asked for: the command that asks for one has 32 bits for it.
    #[error("{position} is beyond the 4 GiB that a binlog can be asked for by position")]
    PositionTooLarge {
        /// Binlog and offset.
        position: BinlogPosition,
    },
    /// The server answered a statement with an error.
    #[error("{statement}: {message} (error {code})")]
    Statement {
        /// What we asked for, without values.
        statement: String,
        /// MySQL's error number.
        code: u16,
        /// The server's text.
        message: String,
    },
    /// The connection broke.
    #[error("connection to {address} is lost")]
    Lost {
        /// The server.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Nothing arrived, not even a heartbeat.
    #[error("server {address} has been silent for {seconds} seconds")]
    Silent {
        /// The server.
        address: String,
        /// How long we waited.
        seconds: u64,
    },
    /// The server's bytes make no sense, or are more than the protocol allows.
    #[error("server {address} breaks the protocol: {what}")]
    Protocol {
        /// The server.
        address: String,
        /// Where.
        what: String,
    },
    /// The agent's own folder for a private socket cannot be made.
    #[error("private socket in {path}")]
    PrivateSocket {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// What the caller does after a [`ServerError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Trying again may help without anybody's doing.
    Soon,
    /// Somebody must change something first.
    Never,
}

impl ServerError {
    /// Whether a new attempt makes sense.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::Silent { .. } => Retry::Soon,
            Self::Statement { code, .. } => {
                // Too many connections, shutdown in progress, killed, lock wait, deadlock, dump thread replaced.
                if matches!(code, 1040 | 1053 | 1077 | 1152 | 1158..=1161 | 1205 | 1213 | 1317 | 2013 | 3169 | 1927) {
                    Retry::Soon
                } else {
                    Retry::Never
                }
            }
            Self::TlsUnsupported { .. }
            | Self::TlsNotVerified { .. }
            | Self::TlsAuthorities { .. }
            | Self::AccessDenied { .. }
            | Self::AuthPlugin { .. }
            | Self::MissingPrivilege { .. }
            | Self::Unfit { .. }
            | Self::Version { .. }
            | Self::BinlogUnavailable { .. }
            | Self::AnonymousTransaction { .. }
            | Self::PositionTooLarge { .. }
            | Self::Protocol { .. }
            | Self::PrivateSocket { .. } => Retry::Never,
        }
    }

    /// The next step for the reader.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { .. } => {
                "check that the server runs and listens there, and that host, port or socket are right".to_owned()
            }
            Self::TlsUnsupported { .. } => {
                "enable TLS on the server, or set tls = \"danger-disabled\" if the network is trusted".to_owned()
            }
            Self::TlsNotVerified { name_only: true, .. } => {
                "use the name that is in the certificate, or set tls = \"verify-ca\" to trust any certificate of the \
                 authority (what mysqld generates by itself names no host)"
                    .to_owned()
            }
            Self::TlsNotVerified { .. } => {
                "set ca to the PEM file of the authority that signed it: ca.pem in the server's data directory when \
                 mysqld generated the certificate"
                    .to_owned()
            }
            Self::AnonymousTransaction { .. } => {
                "set gtid_mode = ON on the source, and FLUSH BINARY LOGS: capture goes on behind such transactions"
                    .to_owned()
            }
            Self::TlsAuthorities { .. } => "set ca to a readable PEM file with at least one certificate".to_owned(),
            Self::AccessDenied { .. } => "check user, password and the account's host part".to_owned(),
            Self::AuthPlugin { .. } => "use an account with caching_sha2_password".to_owned(),
            Self::MissingPrivilege { user, privilege, .. } => {
                format!("GRANT {privilege} ON *.* TO {user}")
            }
            Self::Unfit { remedy, .. } => remedy.clone(),
            Self::Version { .. } => "Highwater reads MySQL 8.0.14 to 9.x".to_owned(),
            Self::BinlogUnavailable { .. } => {
                "compare the server's gtid_purged with the archive's: what is in between is missing for good unless \
                 another replica still has it"
                    .to_owned()
            }
            Self::PositionTooLarge { .. } => {
                "set gtid_mode = ON on the source: by GTIDs a stream starts anywhere".to_owned()
            }
            Self::Statement { .. } | Self::Lost { .. } | Self::Silent { .. } | Self::Protocol { .. } => return None,
            Self::PrivateSocket { .. } => "set TMPDIR to a writable folder".to_owned(),
        })
    }

    /// From an error packet of the server.
    #[must_use]
    pub fn from_server(code: u16, message: &str, address: &str, user: &str, statement: &str) -> Self {
        let message: String = message.chars().filter(|c| !c.is_control()).take(500).collect();
        match code {
            // Access denied for user, without/with database, host not allowed, blocked, account locked, password expired.
            1044 | 1045 | 1129 | 1130 | 1698 | 1820 | 1862 | 3118 | 3955 => {
                Self::AccessDenied { address: address.to_owned(), user: user.to_owned(), code, message }
            }
            1142 | 1143 | 1227 | 1370 => match named_privilege(&message) {
                Some(privilege) => {
                    Self::MissingPrivilege { user: user.to_owned(), privilege, statement: statement.to_owned() }
                }
                None => Self::Statement { statement: statement.to_owned(), code, message },
            },
            1236 if message.contains("anonymous transaction") => Self::AnonymousTransaction { message },
            1236 if message.contains("purged") || message.contains("GTID") || message.contains("gtid") => {
                Self::BinlogUnavailable { code, message }
            }
            _ => Self::Statement { statement: statement.to_owned(), code, message },
        }
    }
}

/// The privilege in `you need (at least one of) the X privilege(s)` or `X command denied to user`.
fn named_privilege(message: &str) -> Option<String> {
    if let Some((_, rest)) = message.split_once("at least one of) the ") {
        return rest.split_once(" privilege").map(|(name, _)| name.to_owned());
    }
    message.split_once(" command denied").map(|(name, _)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_privilege_is_named_from_the_servers_text() {
        let text = "Access denied; you need (at least one of) the REPLICATION SLAVE privilege(s) for this operation";
        let error = ServerError::from_server(1227, text, "db:3306", "'hw'@'%'", "COM_BINLOG_DUMP_GTID");
        assert_eq!(error.to_string(), "user 'hw'@'%' lacks the REPLICATION SLAVE privilege for COM_BINLOG_DUMP_GTID");
        assert_eq!(error.hint().unwrap(), "GRANT REPLICATION SLAVE ON *.* TO 'hw'@'%'");
        assert_eq!(error.retry(), Retry::Never);
        let text = "SELECT command denied to user 'hw'@'localhost' for table 't'";
        let error = ServerError::from_server(1142, text, "db:3306", "'hw'@'%'", "dump table");
        assert!(matches!(error, ServerError::MissingPrivilege { privilege, .. } if privilege == "SELECT"));
    }

    #[test]
    fn purged_binlogs_and_refused_logins_are_told_apart() {
        let of = |code, text: &str| ServerError::from_server(code, text, "db:3306", "hw", "x");
        assert!(matches!(
            of(1236, "the source has purged required binary logs"),
            ServerError::BinlogUnavailable { .. }
        ));
        let text =
            "Cannot replicate anonymous transaction when AUTO_POSITION = 1, at file ./binlog.000005, position 198.";
        assert!(matches!(of(1236, text), ServerError::AnonymousTransaction { .. }));
        assert!(matches!(of(1045, "Access denied"), ServerError::AccessDenied { code: 1045, .. }));
        assert_eq!(of(1040, "Too many connections").retry(), Retry::Soon);
        assert_eq!(of(1064, "syntax").retry(), Retry::Never);
    }

    #[test]
    fn control_characters_of_a_server_do_not_reach_the_terminal() {
        let error = ServerError::from_server(1064, "bad\u{1b}[2J\nthing", "db", "hw", "x");
        assert_eq!(error.to_string(), "x: bad[2Jthing (error 1064)");
    }
}
