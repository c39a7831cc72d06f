//! One service's archive in a store: publishing and reading back.
//!
//! Everything is published the same way: the data object first, durably, then its manifest by create-if-absent. The
//! manifest is the only commit point. A data object without a manifest (a writer died between the two) is invisible,
//! and never in the way: names of segments and key bundles carry a digest of their sealed bytes, which differ at every
//! sealing, and names of dumps are random.
//!
//! All functions block; async code calls them through `spawn_blocking`.

mod copies;
mod dump;
mod error;
mod facts;
mod file;
mod keys;
mod numbers;
mod owner;
mod pieces;
mod reader;
mod scan;
mod sealed;
mod segment;

pub use copies::{catch_up, make_copy};
pub use dump::{DumpFileWriter, DumpWriter};
pub use error::ArchiveError;
pub(crate) use error::store_hint;
pub use facts::StoredFacts;
pub use file::FileDraft;
pub use numbers::SegmentNumbers;
pub use reader::{CopyError, ObjectReader, WholeDigest};
pub use scan::{Outline, Scan};
pub use segment::{SegmentDraft, StoredSegment};

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_catalog::{
    Manifest, Micros, ObjectFacts, REPOSITORY_KEY, Repository, RepositoryId, ServiceName, Timeline,
};

use self::sealed::Sealed;
use crate::seal::{Compression, Identities, Recipients, SealWriter};
use crate::store::{ObjectKey, ObjectStore, StoreError, StoreErrorKind};

/// An archive that was opened or created. Clones share the store.
#[derive(Debug, Clone)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    repository: Repository,
    recipients: Recipients,
    identities: Option<Arc<Identities>>,
    scratch: PathBuf,
    object_bytes_max: u64,
}

/// Most plain bytes of a segment's object, unless told otherwise: what a retry sends again, and, with copies, the scratch
/// space that publishing takes.
pub const OBJECT_BYTES_MAX: u64 = 64 << 20;

impl Archive {
    /// Makes a new archive in an empty store.
    pub fn create(
        store: Arc<dyn ObjectStore>,
        service: ServiceName,
        recipients: Recipients,
    ) -> Result<Self, ArchiveError> {
        if let Some(first) = store.list(None)?.into_iter().next() {
            return Err(match first.key.as_str() {
                REPOSITORY_KEY => ArchiveError::ExistsAlready { store: store.describe() },
                _ if exists(&*store, &object_key(REPOSITORY_KEY)?)? => {
                    ArchiveError::ExistsAlready { store: store.describe() }
                }
                other => ArchiveError::NotEmpty { store: store.describe(), object: other.to_owned() },
            });
        }
        let repository = Repository {
            id: RepositoryId::from_random_bytes(rand::random()),
            service,
            recipients: recipients.texts(),
            created: now(),
        };
        let bytes = repository.encode()?;
        store.create(&object_key(REPOSITORY_KEY)?, &mut &bytes[..]).map_err(|error| match error.kind {
            StoreErrorKind::Exists => ArchiveError::ExistsAlready { store: store.describe() },
            _ => error.into(),
        })?;
        Ok(Self::new(store, repository, recipients, None))
    }

    /// Opens an archive. Identities are needed to read sealed objects back, not to list them.
    pub fn open(store: Arc<dyn ObjectStore>, identities: Option<Identities>) -> Result<Self, ArchiveError> {
        let key = object_key(REPOSITORY_KEY)?;
        let bytes = match read_small(&*store, &key, Repository::LEN_MAX) {
            Err(ArchiveError::Store(error)) if error.kind == StoreErrorKind::Missing => {
                return Err(ArchiveError::NoArchive { store: store.describe() });
            }
            other => other?,
        };
        let repository = Repository::decode(&bytes)?;
        Ok(Self::new(store, repository, Recipients::default(), identities.map(Arc::new)))
    }

    fn new(
        store: Arc<dyn ObjectStore>,
        repository: Repository,
        recipients: Recipients,
        identities: Option<Arc<Identities>>,
    ) -> Self {
        let scratch = std::env::temp_dir();
        Self { store, repository, recipients, identities, scratch, object_bytes_max: OBJECT_BYTES_MAX }
    }

    /// Makes an opened archive fit for writing: it must be this service's, and stay encrypted if it was, or stay
    /// unencrypted.
    pub fn for_writing(self, service: &ServiceName, recipients: Recipients) -> Result<Self, ArchiveError> {
        if self.repository.service != *service {
            return Err(ArchiveError::OtherService {
                store: self.store.describe(),
                found: self.repository.service.to_string(),
                expected: service.to_string(),
            });
        }
        match (self.repository.recipients.is_empty(), recipients.is_empty()) {
            (false, true) => Err(ArchiveError::RecipientsMissing { store: self.store.describe() }),
            (true, false) => Err(ArchiveError::NotEncrypted { store: self.store.describe() }),
            (true, true) | (false, false) => Ok(Self { recipients, ..self }),
        }
    }

    /// Uses another folder than the system's for sealed bytes that the store takes only under their name. They have no
    /// name here, so a crash leaves nothing.
    #[must_use]
    pub fn with_scratch(self, scratch: PathBuf) -> Self {
        Self { scratch, ..self }
    }

    /// Cuts segments and kept files into objects of at most so many plain bytes, instead of [`OBJECT_BYTES_MAX`]. At least 1.
    #[must_use]
    pub fn with_object_bytes_max(self, object_bytes_max: u64) -> Self {
        Self { object_bytes_max: object_bytes_max.max(1), ..self }
    }

    /// Opens what is sealed with these.
    #[must_use]
    pub fn with_identities(self, identities: Identities) -> Self {
        Self { identities: Some(Arc::new(identities)), ..self }
    }

    /// What `highwater.json` says.
    #[must_use]
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Whether objects are sealed to somebody's keys.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        !self.repository.recipients.is_empty()
    }

    /// Whether sealed objects can be read back here.
    #[must_use]
    pub fn has_identities(&self) -> bool {
        self.identities.is_some()
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    /// Publishes a timeline. Its number must be free.
    pub fn publish_timeline(&self, timeline: &Timeline) -> Result<(), ArchiveError> {
        match self.publish(timeline)? {
            Published::Now => Ok(()),
            Published::Before(there) if there == *timeline => Ok(()),
            Published::Before(_) => Err(ArchiveError::Conflict { object: timeline.key() }),
        }
    }

    /// Creates a manifest: the commit point.
    fn publish<M: Manifest>(&self, record: &M) -> Result<Published<M>, ArchiveError> {
        let bytes = record.encode(&self.repository.id)?;
        let key = object_key(&record.key())?;
        match self.store.create(&key, &mut &bytes[..]) {
            Ok(_) => Ok(Published::Now),
            Err(error) if error.kind == StoreErrorKind::Exists => Ok(Published::Before(self.read_manifest(&key)?)),
            Err(error) => Err(error.into()),
        }
    }

    fn read_manifest<M: Manifest>(&self, key: &ObjectKey) -> Result<M, ArchiveError> {
        let bytes = read_small(&*self.store, key, M::LEN_MAX)?;
        Ok(M::decode(key.as_str(), &bytes, &self.repository.id)?)
    }

    fn seal_writer(&self, compression: Compression) -> Result<SealWriter<Sealed>, ArchiveError> {
        let sealed = Sealed::begin(&*self.store, &self.scratch)?;
        SealWriter::new(sealed, &self.recipients, compression).map_err(|error| self.not_sealed(error))
    }

    /// Ends a sealing.
    fn sealed(&self, writer: SealWriter<Sealed>) -> Result<(Sealed, ObjectFacts), ArchiveError> {
        let rewind = |(mut sealed, facts): (Sealed, ObjectFacts)| sealed.rewind().map(|()| (sealed, facts));
        writer.finish().and_then(rewind).map_err(|error| self.not_sealed(error))
    }

    /// Seals `plain`.
    fn seal(&self, plain: &mut dyn Read) -> Result<(Sealed, ObjectFacts), ArchiveError> {
        let mut writer = self.seal_writer(Compression::Regular)?;
        io::copy(plain, &mut writer).map_err(|error| self.not_sealed(error))?;
        self.sealed(writer)
    }

    /// What kept sealed bytes from being written: the store, or the scratch folder.
    fn not_sealed(&self, error: io::Error) -> ArchiveError {
        match error.downcast::<StoreError>() {
            Ok(error) => error.into(),
            Err(source) => scratch_error(&self.scratch, source),
        }
    }
}

/// What came of creating a manifest.
enum Published<M> {
    /// It was created.
    Now,
    /// It was there, with this content.
    Before(M),
}

/// The time by this machine's clock.
pub(crate) fn now() -> Micros {
    let micros = jiff::Timestamp::now().as_microsecond();
    Micros(u64::try_from(micros).unwrap_or(0))
}

fn object_key(text: &str) -> Result<ObjectKey, ArchiveError> {
    text.parse().map_err(|_| ArchiveError::Name { object: text.to_owned() })
}

fn exists(store: &dyn ObjectStore, key: &ObjectKey) -> Result<bool, ArchiveError> {
    match store.open(key) {
        Ok(_) => Ok(true),
        Err(error) if error.kind == StoreErrorKind::Missing => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Reads a small object whole; one byte more than `len_max` is kept, so that decoding can say it is too long.
fn read_small(store: &dyn ObjectStore, key: &ObjectKey, len_max: usize) -> Result<Vec<u8>, ArchiveError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(len_max).unwrap_or(u64::MAX).saturating_add(1);
    store
        .open(key)?
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|source| ArchiveError::Read { object: key.to_string(), source })?;
    Ok(bytes)
}

fn scratch_error(path: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::Scratch { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests;
