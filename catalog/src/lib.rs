//! What an archive holds and every point in time it can reach.
//!
//! Pure but for the catalog's SQLite file: no clock, network or environment.

mod check;
mod digest;
mod manifest;
mod names;
mod record;
mod repository;
mod time;

pub use check::RecordError;
pub use digest::Sha256Digest;
pub use manifest::{FORMAT_VERSION, Manifest, ManifestError, ManifestProblem};
pub use names::{
    DUMPS_PREFIX, KEYS_PREFIX, ManifestName, REPOSITORY_KEY, SEGMENTS_PREFIX, TIMELINES_PREFIX, dump_manifest_key,
    dump_object_key, key_manifest_key, key_object_key, segment_manifest_key, segment_object_key, timeline_manifest_key,
};
pub use record::{
    Dump, DumpFile, DumpFileKind, DumpId, Inventory, KeyGeneration, ObjectFacts, Sealing, Segment, Timeline, TimelineId,
};
pub use repository::{Repository, RepositoryId, ServiceName};
pub use time::Micros;
