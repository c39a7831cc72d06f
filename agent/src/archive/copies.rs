//! Copies of an archive in other stores.

use std::collections::BTreeMap;
use std::sync::Arc;

use highwater_catalog::{ManifestName, REPOSITORY_KEY, Repository};

use super::{Archive, ArchiveError, exists, object_key, read_small};
use crate::seal::Identities;
use crate::store::{MirrorStore, ObjectKey, ObjectStore, StoreErrorKind};

impl Archive {
    /// Opens the archive of a first store that has copies. Each copy must be one.
    pub fn open_mirrored(stores: MirrorStore, identities: Option<Identities>) -> Result<Self, ArchiveError> {
        stores.copies().try_for_each(|copy| is_copy(&stores, copy))?;
        Self::open(Arc::new(stores), identities)
    }

    /// Whether a store holds an archive, of any service.
    pub fn is_in(store: &dyn ObjectStore) -> Result<bool, ArchiveError> {
        Ok(repository_bytes(store)?.is_some())
    }
}

/// Makes an empty store a copy of the first store's archive, which [`catch_up`] fills. Returns whether it was empty and
/// not a copy before.
pub fn make_copy(stores: &MirrorStore, copy: &dyn ObjectStore) -> Result<bool, ArchiveError> {
    match is_copy(stores, copy) {
        Ok(()) => Ok(false),
        Err(ArchiveError::CopyMissing { .. }) => match copy.list(None)?.into_iter().next() {
            Some(first) => {
                Err(ArchiveError::NotEmpty { store: copy.describe(), object: first.key.as_str().to_owned() })
            }
            None => Ok(stores.send(&object_key(REPOSITORY_KEY)?, copy).map(|()| true)?),
        },
        Err(error) => Err(error),
    }
}

/// Refuses a store that holds no copy of the first one's archive.
fn is_copy(stores: &MirrorStore, copy: &dyn ObjectStore) -> Result<(), ArchiveError> {
    let store = stores.first().describe();
    let Some(ours) = repository_bytes(stores.first())? else { return Err(ArchiveError::NoArchive { store }) };
    match repository_bytes(copy)? {
        Some(theirs) if theirs == ours => Ok(()),
        Some(_) => Err(ArchiveError::CopyOther { copy: copy.describe(), store }),
        None => Err(ArchiveError::CopyMissing { copy: copy.describe(), store }),
    }
}

/// Gives each copy what it lacks of the first store's objects: what a writer had created there when it died, or all for
/// a new copy. Returns how many objects were sent.
///
/// # Errors
/// Also when a copy has a manifest that the first store lacks: the first store lost something. And when the newest segment of a
/// timeline is another one there: both were the first store at some time.
pub fn catch_up(stores: &MirrorStore) -> Result<u64, ArchiveError> {
    let mut sent = 0;
    for copy in stores.copies() {
        // The copy first: what is created meanwhile is then in the first store's listing all the more.
        let theirs = sizes(copy)?;
        let ours = sizes(stores.first())?;
        if let Some(ahead) = theirs.keys().find(|key| !ours.contains_key(*key) && is_published(key)) {
            let (copy, store) = (copy.describe(), stores.first().describe());
            return Err(ArchiveError::CopyAhead { copy, store, object: ahead.to_string() });
        }
        for key in newest_segments(&ours).filter(|key| theirs.get(key) == ours.get(key)) {
            stores.compare(key, copy)?;
        }
        let (manifests, data): (Vec<_>, Vec<_>) = ours
            .iter()
            .filter(|(key, size)| theirs.get(key) != Some(size))
            .map(|(key, _)| key)
            .partition(|key| ManifestName::recognise(key.as_str()).is_some());
        for key in data.into_iter().chain(manifests) {
            match stores.send(key, copy) {
                Ok(()) => sent += 1,
                // An agent that goes on beside this removed it.
                Err(error) if error.kind == StoreErrorKind::Missing && !exists(stores.first(), key)? => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(sent)
}

/// Whether losing it loses something: marks of agents come and go.
fn is_published(key: &ObjectKey) -> bool {
    match ManifestName::recognise(key.as_str()) {
        None | Some(ManifestName::Agent(_)) => false,
        Some(
            ManifestName::Repository
            | ManifestName::Timeline(_)
            | ManifestName::Segment(..)
            | ManifestName::Dump(_)
            | ManifestName::Keys(..)
            | ManifestName::File(..),
        ) => true,
    }
}

/// The manifest of each timeline's last segment.
fn newest_segments(objects: &BTreeMap<ObjectKey, u64>) -> impl Iterator<Item = &ObjectKey> {
    let mut newest = BTreeMap::new();
    for key in objects.keys() {
        // Their numbers have as many digits as the largest: the last name is the last segment.
        if let Some(ManifestName::Segment(timeline, _)) = ManifestName::recognise(key.as_str()) {
            newest.insert(timeline, key);
        }
    }
    newest.into_values()
}

fn sizes(store: &dyn ObjectStore) -> Result<BTreeMap<ObjectKey, u64>, ArchiveError> {
    Ok(store.list(None)?.into_iter().map(|info| (info.key, info.size)).collect())
}

/// `highwater.json`, if it is there.
fn repository_bytes(store: &dyn ObjectStore) -> Result<Option<Vec<u8>>, ArchiveError> {
    match read_small(store, &object_key(REPOSITORY_KEY)?, Repository::LEN_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ArchiveError::Store(error)) if error.kind == StoreErrorKind::Missing => Ok(None),
        Err(error) => Err(error),
    }
}
