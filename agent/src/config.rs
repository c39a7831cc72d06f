//! The configuration file: strict TOML, secrets by place.

mod load;

pub use load::ConfigError;

use std::path::PathBuf;

use highwater_catalog::ServiceName;
use serde::Deserialize;

use crate::operate::schedule::Schedule;
use crate::seal::{Recipients, SealError};
use crate::secret::{SecretError, SecretPlace};
use crate::server::{ServerAddress, ServerLogin, TlsMode, TlsPolicy};

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is protected, over the years: `orders`. `[A-Za-z0-9._-]`.
    pub service: String,
    /// The agent's own folder: spool, catalog, lock.
    pub state_dir: PathBuf,
    /// The server being protected.
    pub source: SourceConfig,
    /// Where objects go.
    pub store: StoreConfig,
    /// How objects are sealed.
    #[serde(default)]
    pub seal: SealConfig,
    /// Capture of the binlog.
    #[serde(default)]
    pub capture: CaptureConfig,
    /// Full dumps.
    #[serde(default)]
    pub dump: DumpConfig,
    /// Keyrings of the source whose keys are backed up.
    #[serde(default)]
    pub keyring: KeyringConfig,
}

/// `[source]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Host name or address; or use `socket`.
    pub host: Option<String>,
    /// TCP port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Unix socket; excludes `host`.
    pub socket: Option<PathBuf>,
    /// Account.
    pub user: String,
    /// Where its password is.
    pub password: Option<SecretPlace>,
    /// Protection of the connection.
    #[serde(default)]
    pub tls: TlsMode,
    /// PEM file of trusted authorities.
    pub ca: Option<PathBuf>,
    /// The `server_id` the agent registers with; must be unique among the source's replicas.
    #[serde(default = "default_server_id")]
    pub server_id: u32,
}

/// `[store]`
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum StoreConfig {
    /// A folder of a mounted file system.
    Directory {
        /// The folder.
        path: PathBuf,
    },
}

/// `[seal]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SealConfig {
    /// age public keys, `age1…`. None: the archive is not encrypted.
    pub recipients: Vec<String>,
    /// File with age identities, for commands that read back. The agent does not need it.
    pub identity_file: Option<PathBuf>,
}

/// `[capture]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CaptureConfig {
    /// A segment is cut at the latest this long after its first byte. 1 to 3600.
    pub segment_age_seconds: u64,
    /// A segment is cut when it reaches this size, at the next transaction boundary. 64 KiB to 1 GiB.
    pub segment_bytes_max: u64,
    /// Seconds between heartbeats asked of the source. 1 to 300.
    pub heartbeat_seconds: u64,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self { segment_age_seconds: 5, segment_bytes_max: 64 << 20, heartbeat_seconds: 5 }
    }
}

/// `[dump]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DumpConfig {
    /// When the agent takes full dumps: five cron fields, local time. None: only when there is no dump yet.
    pub schedule: Option<String>,
}

/// `[keyring]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyringConfig {
    /// Keyring files of the source, readable from the agent's host.
    pub files: Vec<PathBuf>,
}

impl Config {
    /// The service's name.
    pub fn service_name(&self) -> Result<ServiceName, highwater_binlog::ParseError> {
        self.service.parse()
    }

    /// Where the source is.
    #[must_use]
    pub fn source_address(&self) -> ServerAddress {
        let source = &self.source;
        match (&source.socket, &source.host) {
            (Some(socket), _) => ServerAddress::Socket(socket.clone()),
            (None, Some(host)) => ServerAddress::Tcp { host: host.clone(), port: source.port },
            (None, None) => ServerAddress::Tcp { host: "localhost".to_owned(), port: source.port },
        }
    }

    /// Where the source is, as whom and how; fetches the password.
    pub fn source_login(&self) -> Result<ServerLogin, SecretError> {
        let source = &self.source;
        let address = self.source_address();
        let password = source.password.as_ref().map(SecretPlace::read).transpose()?;
        let tls = TlsPolicy { mode: source.tls, ca: source.ca.clone() };
        Ok(ServerLogin { address, user: source.user.clone(), password, tls })
    }

    /// The public keys that objects are sealed to.
    pub fn recipients(&self) -> Result<Recipients, SealError> {
        Recipients::parse(&self.seal.recipients)
    }

    /// When full dumps are due; absent without a schedule.
    pub fn dump_schedule(&self) -> Result<Option<Schedule>, crate::operate::schedule::ScheduleError> {
        self.dump.schedule.as_deref().map(str::parse).transpose()
    }

    /// The catalog's file.
    #[must_use]
    pub fn catalog_file(&self) -> PathBuf {
        self.state_dir.join("catalog.sqlite")
    }

    /// Where temporary files go.
    #[must_use]
    pub fn scratch_dir(&self) -> PathBuf {
        self.state_dir.join("scratch")
    }
}

fn default_port() -> u16 {
    3306
}

fn default_server_id() -> u32 {
    1_651_862_388
}
