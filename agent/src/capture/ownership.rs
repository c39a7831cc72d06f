//! One agent per archive: the one that took it over last.

use std::time::Duration;

use highwater_catalog::{AgentOwner, Epoch, Micros};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::error::CaptureError;
use super::report::now_micros;
use crate::archive::{Archive, ArchiveError};

/// How often an agent looks whether the archive is still its own. Until then another one's segments are in its way:
/// the next number is taken.
const LOOK: Duration = Duration::from_secs(15);

/// How long a connection to the source waits for the store's answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// An archive taken over.
#[derive(Debug, Clone)]
pub(super) struct Ownership {
    archive: Archive,
    epoch: Epoch,
}

impl Ownership {
    /// Takes the archive over from whoever wrote it before.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn take(archive: Archive) -> Result<Self, CaptureError> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let owner = AgentOwner { host, pid: std::process::id(), started: Micros(now_micros()) };
        blocking(move || {
            let epoch = archive.take_over(&owner)?;
            tracing::debug!(%epoch, "archive taken over");
            Ok(Self { archive, epoch })
        })
        .await?
    }

    /// Makes sure, if the store answers soon, that no other agent has taken the archive over since. While it does not,
    /// the spool takes what comes.
    ///
    /// # Errors
    /// [`CaptureError::TakenOver`] when one has.
    pub(super) async fn confirm(&self) -> Result<(), CaptureError> {
        match timeout(PATIENCE, self.check()).await {
            Ok(Err(error @ CaptureError::TakenOver { .. })) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Proves that no other agent has taken the archive over since.
    ///
    /// # Errors
    /// [`CaptureError::TakenOver`] when one has; those of the store.
    async fn check(&self) -> Result<(), CaptureError> {
        let Self { archive, epoch } = self.clone();
        let newest = blocking(move || archive.newest_epoch().map_err(CaptureError::from)).await??;
        match newest {
            Some((newest, owner)) if newest > epoch => Err(CaptureError::TakenOver { owner: Box::new(owner) }),
            _ => Ok(()),
        }
    }

    /// Returns when another agent has taken the archive over. A store that does not answer is asked again.
    pub(super) async fn lost(&self) -> CaptureError {
        loop {
            sleep(LOOK).await;
            match self.check().await {
                Err(error @ CaptureError::TakenOver { .. }) => return error,
                Err(error) => tracing::debug!(error = %error, "owner of the archive not known"),
                Ok(()) => {}
            }
        }
    }

    /// The error itself, or that another agent writes the archive, if that is why.
    pub(super) async fn explain(&self, error: CaptureError) -> CaptureError {
        match &error {
            CaptureError::Archive(ArchiveError::Conflict { .. }) => self.check().await.err().unwrap_or(error),
            _ => error,
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CaptureError> {
    spawn_blocking(work).await.map_err(|_| CaptureError::Task("asking the store"))
}
