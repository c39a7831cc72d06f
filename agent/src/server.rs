//! A MySQL server we connect to: where it is, as whom, how its identity is proven.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use crate::secret::Password;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// Host name or address, and port.
    Tcp {
        /// Host name or IP address (no brackets).
        host: String,
        /// TCP port, 3306 by default.
        port: u16,
    },
    /// A unix socket's path.
    Socket(PathBuf),
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How a TCP connection is protected. Unix sockets use none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// TLS; the certificate must chain to a trusted authority and name the host.
    #[default]
    VerifyIdentity,
    /// TLS; the certificate must chain to a trusted authority.
    VerifyCa,
    /// TLS with any certificate: whoever sits between can read everything.
    DangerNoVerify,
    /// No TLS: everything, rows included, travels in the clear.
    DangerDisabled,
}

/// How a connection is protected, and which authority is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsPolicy {
    /// What must be proven.
    pub mode: TlsMode,
    /// PEM file with the trusted authorities; the system's when absent.
    pub ca: Option<PathBuf>,
}

/// All that is needed to log in to a server.
#[derive(Debug, Clone)]
pub struct ServerLogin {
    /// Where it listens.
    pub address: ServerAddress,
    /// The account's user name.
    pub user: String,
    /// The account's password; absent for accounts without one.
    pub password: Option<Password>,
    /// Protection of the connection.
    pub tls: TlsPolicy,
}
