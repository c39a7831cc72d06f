//! Reading and checking a configuration file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CaptureFrom, Config, SourceConfig, StoreConfig};

/// Where a configuration is looked for when none is named.
const SEARCHED: [&str; 2] = ["highwater.toml", "/etc/highwater/highwater.toml"];

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is none in the usual places.
    #[error("no configuration: looked for {}", SEARCHED.join(" and "))]
    None,
    /// It names no server, and what was asked for needs one.
    #[error("the configuration has no [source]")]
    NoSource,
    /// It cannot be read.
    #[error("read configuration {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{path}, line {line}{}: {what}", .key.as_ref().map(|key| format!(", {key}")).unwrap_or_default())]
    Line {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The key in that line. Values may be misplaced secrets and are not shown.
        key: Option<String>,
        /// What is wrong.
        what: String,
    },
    /// One of its values makes no sense.
    #[error("{path}: {key}: {what}")]
    Value {
        /// The file.
        path: String,
        /// The key, with its table: `source.host`.
        key: &'static str,
        /// What is wrong.
        what: String,
    },
}

impl ConfigError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::None => {
                Some("name one with --config FILE or HIGHWATER_CONFIG; `highwater init` writes a first one".to_owned())
            }
            Self::NoSource => Some(
                "name the server: [source] with host (or socket), user and password; only salvage, and capture from \
                 files, do without"
                    .to_owned(),
            ),
            Self::Read { .. } => Some("`highwater init` writes a first configuration".to_owned()),
            Self::Line { key: Some(key), .. } if key == "password" => Some(
                "a configuration names the place of a secret: password = { file = \"/etc/highwater/password\" }, \
                 or { env = \"NAME\" }, or { command = [\"program\", \"argument\"] }"
                    .to_owned(),
            ),
            Self::Line { .. } | Self::Value { .. } => None,
        }
    }
}

impl Config {
    /// Reads the named file, or the first that is found in the usual places.
    pub fn load(named: Option<&Path>) -> Result<(Self, PathBuf), ConfigError> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => Self::find().ok_or(ConfigError::None)?,
        };
        let path = std::path::absolute(&path).unwrap_or(path);
        let text = fs::read_to_string(&path)
            .map_err(|source| ConfigError::Read { path: path.display().to_string(), source })?;
        let config = Self::parse(&text, &path)?;
        Ok((config, path))
    }

    /// The first configuration in the usual places.
    #[must_use]
    pub fn find() -> Option<PathBuf> {
        SEARCHED.iter().map(PathBuf::from).find(|path| path.exists())
    }

    /// Reads and checks the text of a configuration. Relative paths in it are below the file's folder.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = toml::from_str(text).map_err(|error| at_line(text, path, &error))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.resolve(folder);
        config.check().map_err(|(key, what)| ConfigError::Value { path: path.display().to_string(), key, what })?;
        Ok(config)
    }

    fn resolve(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        resolve(&mut self.state_dir);
        for store in std::iter::once(&mut self.store).chain(&mut self.copies) {
            match store {
                StoreConfig::Directory { path } => resolve(path),
            }
        }
        if let Some(source) = &mut self.source {
            source.socket.iter_mut().for_each(resolve);
            source.ca.iter_mut().for_each(resolve);
            if let Some(crate::secret::SecretPlace::File(path)) = &mut source.password {
                resolve(path);
            }
        }
        self.capture.datadir.iter_mut().for_each(resolve);
        self.capture.binlog_index.iter_mut().for_each(resolve);
        self.capture.spool_keyring.iter_mut().for_each(resolve);
        self.seal.identity_file.iter_mut().for_each(resolve);
        self.keyring.files.iter_mut().for_each(resolve);
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        self.service_name().map_err(|_| {
            let what = format!("`{}` is no service name: use letters, digits, `.`, `_` and `-`", self.service);
            ("service", what)
        })?;
        self.source.as_ref().map_or(Ok(()), SourceConfig::check)?;
        match (self.capture.source, &self.capture.datadir) {
            (CaptureFrom::Files, None) => {
                return Err(("capture.datadir", "name the data folder whose binlogs are read".to_owned()));
            }
            (CaptureFrom::Replication, Some(_)) => {
                return Err(("capture.datadir", "is read with capture.source = \"files\" only".to_owned()));
            }
            (CaptureFrom::Files, Some(_)) | (CaptureFrom::Replication, None) => {}
        }
        match (self.capture.keep_encrypted, self.capture.source) {
            (true, CaptureFrom::Replication) => {
                return Err(("capture.keep_encrypted", "needs capture.source = \"files\"".to_owned()));
            }
            (true, CaptureFrom::Files) if self.seal.recipients.is_empty() => {
                let what = "needs seal.recipients: the files' passwords are only stored sealed".to_owned();
                return Err(("capture.keep_encrypted", what));
            }
            (true, CaptureFrom::Files) | (false, _) => {}
        }
        for (index, copy) in self.copies.iter().enumerate() {
            if self.stores().take(index + 1).any(|before| before == copy) {
                let StoreConfig::Directory { path } = copy;
                return Err(("copies", format!("{} is named twice", path.display())));
            }
        }
        self.recipients().map_err(|error| ("seal.recipients", error.to_string()))?;
        self.dump_schedule().map_err(|error| ("dump.schedule", error.to_string()))?;
        within("seal.object_bytes_max", self.seal.object_bytes_max, 64 << 10, 1 << 30)?;
        let capture = &self.capture;
        within("capture.segment_age_seconds", capture.segment_age_seconds, 1, 3600)?;
        within("capture.segment_bytes_max", capture.segment_bytes_max, 64 << 10, 1 << 30)?;
        within("capture.heartbeat_seconds", capture.heartbeat_seconds, 1, 300)?;
        within("capture.spool_bytes_max", capture.spool_bytes_max, 64 << 20, i64::MAX.unsigned_abs())?;
        within("capture.replica_lag_seconds_max", capture.replica_lag_seconds_max, 0, 86_400)?;
        Ok(())
    }
}

impl SourceConfig {
    fn check(&self) -> Result<(), (&'static str, String)> {
        match (&self.host, &self.socket) {
            (Some(_), Some(_)) => Err(("source.socket", "give host or socket, not both".to_owned())),
            (None, None) => Err(("source.host", "give host or socket".to_owned())),
            (Some(host), None) if host.is_empty() || host.contains(['/', '@', ' ']) => {
                Err(("source.host", format!("`{host}` is no host name or address; the port is its own key")))
            }
            (Some(_), None) | (None, Some(_)) => Ok(()),
        }?;
        if self.user.is_empty() {
            return Err(("source.user", "is empty".to_owned()));
        }
        if self.server_id == 0 {
            return Err(("source.server_id", "0 is no replica's id".to_owned()));
        }
        let wrong = |text: &&String| {
            let host = text.rsplit_once(':').map_or(text.as_str(), |(host, _)| host);
            let port = text.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok());
            host.is_empty() || host.contains(['/', '@', ' ']) || !port
        };
        match self.failover.iter().find(wrong) {
            Some(text) => Err(("source.failover", format!("`{text}` is no host or host:port"))),
            None => Ok(()),
        }
    }
}

fn within(key: &'static str, value: u64, least: u64, most: u64) -> Result<(), (&'static str, String)> {
    if (least..=most).contains(&value) { Ok(()) } else { Err((key, format!("{value} is not in {least} to {most}"))) }
}

fn at_line(text: &str, path: &Path, error: &toml::de::Error) -> ConfigError {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let written = text.lines().nth(line - 1).unwrap_or_default();
    let key = written.split_once('=').map(|(key, _)| key.trim().to_owned()).filter(|key| is_key(key));
    // The parser quotes values of a wrong type, and a password is a likely one.
    let what = match key.as_deref() {
        Some("password") => "expected the place of a secret, not the secret".to_owned(),
        _ => error.message().replace('\n', ", "),
    };
    ConfigError::Line { path: path.display().to_string(), line, key, what }
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

#[cfg(test)]
mod tests;
