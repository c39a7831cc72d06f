//! One agent per archive: the newest that took it over writes it.

use highwater_catalog::{AGENTS_PREFIX, AgentOwner, Epoch, ManifestName, Takeover, agent_manifest_key};

use super::{Archive, ArchiveError, Published, object_key};
use crate::store::StoreErrorKind;

/// How many marks of agents are kept: enough to see who was there of late.
const KEPT: usize = 10;

/// How often a listing is read again whose newest mark was gone when it was opened.
const ATTEMPTS: usize = 3;

impl Archive {
    /// Makes `owner` the archive's writer, whoever it was before. That one learns it from [`Archive::newest_epoch`].
    pub fn take_over(&self, owner: &AgentOwner) -> Result<Epoch, ArchiveError> {
        let before = self.epochs()?;
        let mut epoch = before.last().copied().unwrap_or(Epoch(0));
        loop {
            let next =
                epoch.0.checked_add(1).ok_or_else(|| ArchiveError::Name { object: agent_manifest_key(epoch) })?;
            epoch = Epoch(next);
            match self.publish(&Takeover { epoch, owner: owner.clone() }) {
                Ok(Published::Now) => break,
                // Another agent's, sound or not: ours is the one after it.
                Ok(Published::Before(_)) | Err(ArchiveError::Manifest(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let kept = KEPT.saturating_sub(1);
        let old = before.len().saturating_sub(kept);
        self.discard(before.into_iter().take(old).map(agent_manifest_key));
        Ok(epoch)
    }

    /// The agent that took the archive over last.
    pub fn newest_epoch(&self) -> Result<Option<(Epoch, AgentOwner)>, ArchiveError> {
        let mut attempt = 1;
        loop {
            let Some(epoch) = self.epochs()?.pop() else { return Ok(None) };
            match self.read_manifest::<Takeover>(&object_key(&agent_manifest_key(epoch))?) {
                Ok(takeover) => return Ok(Some((epoch, takeover.owner))),
                // Newer ones came and removed it.
                Err(ArchiveError::Store(error)) if error.kind == StoreErrorKind::Missing && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The numbers that are there, ascending.
    fn epochs(&self) -> Result<Vec<Epoch>, ArchiveError> {
        let listed = self.store.list(Some(&object_key(AGENTS_PREFIX)?))?;
        let name = |info: &crate::store::ObjectInfo| match ManifestName::recognise(info.key.as_str())? {
            ManifestName::Agent(epoch) => Some(epoch),
            _ => None,
        };
        let mut epochs: Vec<Epoch> = listed.iter().filter_map(name).collect();
        epochs.sort();
        Ok(epochs)
    }
}
