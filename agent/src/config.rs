//! The configuration file: strict TOML, secrets by place.

mod load;

pub use load::ConfigError;

use std::path::PathBuf;

use binlog_decrypt::KeyPlaces;
use highwater_catalog::ServiceName;
use serde::{Deserialize, Serialize};

use crate::archive::OBJECT_BYTES_MAX;
use crate::operate::schedule::Schedule;
use crate::seal::{Recipients, SealError};
use crate::secret::{SecretError, SecretPlace};
use crate::server::{ServerAddress, ServerLogin, TlsMode, TlsPolicy};
use crate::source::{FilesError, ServerFiles};

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What is protected, over the years: `orders`. `[A-Za-z0-9._-]`.
    pub service: String,
    /// The agent's own folder: spool, catalog, lock.
    pub state_dir: PathBuf,
    /// The server being protected. Salvage, and capture from files, do without.
    pub source: Option<SourceConfig>,
    /// Where objects go.
    pub store: StoreConfig,
    /// `[[copies]]`: further stores, each of which must have every object before it counts as stored.
    #[serde(default)]
    pub copies: Vec<StoreConfig>,
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
    /// Other servers with the same history, `host` or `host:port`, asked in this order when the source cannot be reached or
    /// lacks what is needed. Account, password and TLS are the same.
    #[serde(default)]
    pub failover: Vec<String>,
    /// The `server_id` the agent registers with; must be unique among the source's replicas.
    #[serde(default = "default_server_id")]
    pub server_id: u32,
}

/// `[store]`, and each of `[[copies]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum StoreConfig {
    /// A folder of a mounted file system.
    Directory {
        /// The folder.
        path: PathBuf,
    },
}

/// `[seal]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SealConfig {
    /// age public keys, `age1…`. None: the archive is not encrypted.
    pub recipients: Vec<String>,
    /// File with age identities, for commands that read back. The agent does not need it.
    pub identity_file: Option<PathBuf>,
    /// Most plain bytes of a segment's object, which is what a retry sends again, and, with copies, the scratch space that
    /// publishing takes. A larger segment, of a large transaction, is in several. 64 KiB to 1 GiB.
    pub object_bytes_max: u64,
}

impl Default for SealConfig {
    fn default() -> Self {
        Self { recipients: Vec::new(), identity_file: None, object_bytes_max: OBJECT_BYTES_MAX }
    }
}

/// `capture.segment_bytes_max`, unless told otherwise: half of what fits into one object, since a segment ends at the first
/// boundary behind it. Larger ones would leave cores idle at the end of a backlog.
pub const SEGMENT_BYTES_MAX: u64 = OBJECT_BYTES_MAX / 2;

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
    /// How the binlog comes to us.
    pub source: CaptureFrom,
    /// The source's data folder, for `source = "files"`.
    pub datadir: Option<PathBuf>,
    /// The index of its binlogs, where that is not the only one in the data folder.
    pub binlog_index: Option<PathBuf>,
    /// Whether encrypted binlogs are kept as they are, too, when the source has closed them; for `source = "files"`.
    pub keep_encrypted: bool,
    /// When a semi-synchronous source is told that we have a transaction.
    pub ack: AckPolicy,
    /// The source is not read on while the spool has this many bytes and the store takes none. At least 64 MiB.
    pub spool_bytes_max: u64,
    /// Keyring file with the key that spool files are encrypted with, made when it is not there. None: not encrypted.
    pub spool_keyring: Option<PathBuf>,
    /// How long a replica that lacks captured transactions may only be lagging. 0 to 86400.
    pub replica_lag_seconds_max: u64,
    /// Whether a source without GTIDs is captured, by positions: failover is then always a break, and restoring needs
    /// `mysqlbinlog`.
    pub allow_positions: bool,
}

/// `capture.source`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureFrom {
    /// The source sends it.
    #[default]
    Replication,
    /// We read the files on its disk.
    Files,
}

/// `capture.ack`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AckPolicy {
    /// Never: the source replicates to us asynchronously.
    #[default]
    Off,
    /// When it is fsynced in the spool.
    Local,
    /// When it is in every required store.
    Stored,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            segment_age_seconds: 5,
            segment_bytes_max: SEGMENT_BYTES_MAX,
            heartbeat_seconds: 5,
            source: CaptureFrom::Replication,
            datadir: None,
            binlog_index: None,
            keep_encrypted: false,
            ack: AckPolicy::Off,
            spool_bytes_max: 16 << 30,
            spool_keyring: None,
            replica_lag_seconds_max: 60,
            allow_positions: false,
        }
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

impl KeyringConfig {
    /// Where keys are looked for.
    #[must_use]
    pub fn places(&self) -> KeyPlaces {
        KeyPlaces { keyrings: self.files.clone(), ..KeyPlaces::default() }
    }
}

impl SourceConfig {
    /// Where it is.
    #[must_use]
    pub fn address(&self) -> ServerAddress {
        match (&self.socket, &self.host) {
            (Some(socket), _) => ServerAddress::Socket(socket.clone()),
            (None, Some(host)) => ServerAddress::Tcp { host: host.clone(), port: self.port },
            (None, None) => ServerAddress::Tcp { host: "localhost".to_owned(), port: self.port },
        }
    }

    /// Where it is, as whom and how; fetches the password.
    pub fn login(&self) -> Result<ServerLogin, SecretError> {
        self.login_to(self.address())
    }

    /// The same for the source and then for those that may take its place.
    pub fn logins(&self) -> Result<Vec<ServerLogin>, SecretError> {
        let others = self.failover.iter().map(|text| failover_address(text, self.port));
        std::iter::once(self.address()).chain(others).map(|address| self.login_to(address)).collect()
    }

    fn login_to(&self, address: ServerAddress) -> Result<ServerLogin, SecretError> {
        let password = self.password.as_ref().map(SecretPlace::read).transpose()?;
        let tls = TlsPolicy { mode: self.tls, ca: self.ca.clone() };
        Ok(ServerLogin { address, user: self.user.clone(), password, tls })
    }
}

impl Config {
    /// The service's name.
    pub fn service_name(&self) -> Result<ServiceName, highwater_binlog::ParseError> {
        self.service.parse()
    }

    /// The server being protected.
    ///
    /// # Errors
    /// When the configuration names none.
    pub fn source(&self) -> Result<&SourceConfig, ConfigError> {
        self.source.as_ref().ok_or(ConfigError::NoSource)
    }

    /// The `server_id` the agent registers with.
    #[must_use]
    pub fn server_id(&self) -> u32 {
        self.source.as_ref().map_or_else(default_server_id, |source| source.server_id)
    }

    /// The disk that binlogs are read from; absent when the source sends them.
    ///
    /// # Errors
    /// When it is no server's.
    pub fn source_files(&self) -> Result<Option<ServerFiles>, FilesError> {
        match (self.capture.source, &self.capture.datadir) {
            (CaptureFrom::Files, Some(datadir)) => {
                let index = self.capture.binlog_index.as_deref();
                ServerFiles::open(datadir, index, self.keyring.places()).map(Some)
            }
            (CaptureFrom::Files, None) | (CaptureFrom::Replication, _) => Ok(None),
        }
    }

    /// The public keys that objects are sealed to.
    pub fn recipients(&self) -> Result<Recipients, SealError> {
        Recipients::parse(&self.seal.recipients)
    }

    /// When full dumps are due; absent without a schedule.
    pub fn dump_schedule(&self) -> Result<Option<Schedule>, crate::operate::schedule::ScheduleError> {
        self.dump.schedule.as_deref().map(str::parse).transpose()
    }

    /// The first store and its copies.
    pub fn stores(&self) -> impl Iterator<Item = &StoreConfig> {
        std::iter::once(&self.store).chain(&self.copies)
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

    /// Where objects are collected while they are sealed: in the store, or, when several stores are to get them, in the
    /// scratch folder.
    #[must_use]
    pub fn sealing_dir(&self) -> PathBuf {
        match &self.store {
            StoreConfig::Directory { path } if self.copies.is_empty() => path.clone(),
            StoreConfig::Directory { .. } => self.scratch_dir(),
        }
    }
}

/// `host` or `host:port`; checked when the file is read.
fn failover_address(text: &str, default_port: u16) -> ServerAddress {
    let split = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = split.unwrap_or((text, default_port));
    ServerAddress::Tcp { host: host.to_owned(), port }
}

fn default_port() -> u16 {
    3306
}

fn default_server_id() -> u32 {
    1_651_862_388
}
