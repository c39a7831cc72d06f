//! Sealed backups of the source's replication master keys: at start, and whenever a key or its value changes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::hmac;
use binlog_decrypt::{Failure, KeyPlaces};
use highwater_binlog::ServerUuid;
use highwater_catalog::{CatalogError, KeyGeneration};
use highwater_keyring::{KeyBundle, KeyId, MasterKey};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::index::Index;
use super::report::now_micros;
use crate::archive::{Archive, ArchiveError};
use crate::failpoint;
use crate::fsync;
use crate::source::Keyrings;

/// How often the keyring is looked at. A rotation removes the old key at once, so a key that lives shorter can be missed.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// In the agent's folder: which keys were backed up.
const RECORD_NAME: &str = "keys-backed-up.json";

/// A failure of a key backup.
#[derive(Debug, thiserror::Error)]
pub enum KeyBackupError {
    /// A keyring cannot be used.
    #[error(transparent)]
    Keyring(Failure),
    /// What was backed up cannot be noted.
    #[error("write {path}")]
    Record {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The bundle cannot be made.
    #[error("key bundle")]
    Bundle(#[source] highwater_keyring::BundleError),
    /// The bundle cannot be stored.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The bundle cannot be recorded.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Where the keys are.
#[derive(Debug)]
pub enum KeyOrigin {
    /// In keyrings that are read at every look.
    Places(KeyPlaces),
    /// Where the files that are captured have theirs: they are read whenever a binlog is under a new key.
    Files(Keyrings),
}

/// Backups of a server's keys.
#[derive(Debug)]
pub struct KeyBackups {
    archive: Archive,
    index: Index,
    server: ServerUuid,
    origin: KeyOrigin,
    record: PathBuf,
    done: KeyMarks,
}

/// Marks of keys by their ids: see [`mark_of`].
type KeyMarks = BTreeMap<String, String>;

impl KeyBackups {
    /// Of this server's keys, as far as `state_dir` does not know that they were made. Blocking.
    #[must_use]
    pub fn new(archive: Archive, index: Index, server: ServerUuid, origin: KeyOrigin, state_dir: &Path) -> Self {
        let record = state_dir.join(RECORD_NAME);
        // One that cannot be read costs one more backup.
        let done = fs::read(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { archive, index, server, origin, record, done }
    }

    /// Backs the keys up, if one of them or its value is new, or one is gone. Blocking.
    ///
    /// # Errors
    /// When a keyring cannot be read or the bundle not be published.
    pub fn look(&mut self) -> Result<Option<KeyGeneration>, KeyBackupError> {
        let mut keyring = match &self.origin {
            KeyOrigin::Places(places) => Keyrings::new(places.clone()).keys(),
            KeyOrigin::Files(keyrings) => keyrings.keys(),
        }
        .map_err(KeyBackupError::Keyring)?
        .keyring();
        keyring.retain_replication_keys();
        let scope = format!("{} {}", self.archive.repository().id, self.server);
        let marks: KeyMarks =
            keyring.keys().map(|(key_id, key)| (key_id.as_str().to_owned(), mark_of(&scope, key_id, key))).collect();
        if marks.is_empty() || marks == self.done {
            return Ok(None);
        }
        failpoint::crash("keyid.new");
        let bundle = KeyBundle::new(&self.server.to_string(), now_micros(), keyring).map_err(KeyBackupError::Bundle)?;
        let generation = self.archive.publish_keys(self.server, marks.keys().cloned().collect(), &bundle.encode())?;
        self.index.keys(&generation)?;
        self.done = marks;
        let record = serde_json::to_vec(&self.done).unwrap_or_default();
        let failed = |source| KeyBackupError::Record { path: self.record.clone(), source };
        fsync::write_atomic(&self.record, &record).map_err(failed)?;
        Ok(Some(generation))
    }

    /// Looks again and again until `stop` is cancelled. Failures are logged and tried again.
    pub async fn watch(mut self, stop: CancellationToken) {
        let mut failed = false;
        while !stop.is_cancelled() {
            let done = spawn_blocking(move || {
                let result = self.look();
                (result, self)
            })
            .await;
            let Ok((result, after)) = done else { return };
            self = after;
            match result {
                Ok(Some(KeyGeneration { generation, key_ids, .. })) => {
                    tracing::info!(generation, keys = key_ids.len(), "keys backed up");
                    failed = false;
                }
                Ok(None) => failed = false,
                // A server that rotates replaces the file: the next look finds it whole.
                Err(error) if !failed => {
                    failed = true;
                    tracing::error!(error = %super::publisher::chain(&error), "keys not backed up");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = sleep(POLL_INTERVAL) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

/// Tells a key's values apart, and gives nothing of them away: HMAC-SHA256 under the key itself, which is random.
fn mark_of(scope: &str, key_id: &KeyId, key: &MasterKey) -> String {
    let text = format!("highwater backed up {scope} {key_id}");
    hex::encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()), text.as_bytes()))
}
