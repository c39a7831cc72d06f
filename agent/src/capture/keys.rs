//! Sealed backups of the source's replication master keys: at start, and whenever the list of keys changes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use highwater_binlog::ServerUuid;
use highwater_catalog::{CatalogError, KeyGeneration};
use highwater_keyring::{KeyBundle, Keyring, KeyringError};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::index::Index;
use super::report::now_micros;
use crate::archive::{Archive, ArchiveError};
use crate::failpoint;

/// How often the keyring is looked at. A rotation removes the old key at once, so a key that lives shorter can be missed.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Longest keyring file: some thousands of keys.
const KEYRING_LEN_MAX: u64 = 4 << 20;

/// A failure of a key backup.
#[derive(Debug, thiserror::Error)]
pub enum KeyBackupError {
    /// A keyring file cannot be read.
    #[error("keyring {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A keyring file is none.
    #[error("keyring {path}")]
    Keyring {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyringError,
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

/// Backs the keys up if they are not those of the newest generation. Blocking.
///
/// # Errors
/// When a keyring cannot be read or the bundle not be published.
pub fn back_up(
    archive: &Archive,
    index: &Index,
    server: ServerUuid,
    files: &[PathBuf],
    newest: &mut Option<BTreeSet<String>>,
) -> Result<Option<KeyGeneration>, KeyBackupError> {
    let mut keyring = Keyring::new();
    for path in files {
        keyring.merge(read(path)?);
    }
    keyring.retain_replication_keys();
    let ids: BTreeSet<String> = keyring.key_ids().map(|id| id.as_str().to_owned()).collect();
    if ids.is_empty() || newest.as_ref() == Some(&ids) {
        return Ok(None);
    }
    failpoint::crash("keyid.new");
    let bundle = KeyBundle::new(&server.to_string(), now_micros(), keyring).map_err(KeyBackupError::Bundle)?;
    let generation = archive.publish_keys(server, ids.iter().cloned().collect(), &bundle.encode())?;
    index.keys(&generation)?;
    *newest = Some(ids);
    Ok(Some(generation))
}

/// Watches the keyring until `stop` is cancelled. Failures are logged and tried again.
pub async fn watch(
    archive: Archive,
    index: Index,
    server: ServerUuid,
    files: Vec<PathBuf>,
    mut newest: Option<BTreeSet<String>>,
    stop: CancellationToken,
) {
    let mut failed = false;
    while !stop.is_cancelled() {
        let (archive, index, files) = (archive.clone(), index.clone(), files.clone());
        let done = spawn_blocking(move || {
            let result = back_up(&archive, &index, server, &files, &mut newest);
            (result, newest)
        })
        .await;
        let Ok((result, after)) = done else { return };
        newest = after;
        match result {
            Ok(Some(generation)) => {
                tracing::info!(generation = generation.generation, keys = generation.key_ids.len(), "keys backed up");
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

fn read(path: &Path) -> Result<Keyring, KeyBackupError> {
    let failed = |source| KeyBackupError::File { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 << 10));
    file.take(KEYRING_LEN_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Keyring::read(&bytes).map_err(|source| KeyBackupError::Keyring { path: path.to_owned(), source })
}
