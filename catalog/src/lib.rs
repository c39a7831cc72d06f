//! What an archive holds and every point in time it can reach.
//!
//! Pure but for the catalog's SQLite file: no clock, network or environment.

mod check;
mod db;
mod digest;
mod history;
mod kept;
mod manifest;
mod names;
mod owner;
mod plan;
mod rebuild;
mod record;
mod refusal;
mod repository;
mod window;

pub use check::RecordError;
pub use db::{Catalog, CatalogError, CatalogProblem};
pub use digest::Blake3Digest;
pub use highwater_binlog::Micros;
pub use history::{Break, ChainBreak, ChainFault, Gap, SegmentLabel};
pub use kept::{FileRange, FileRefusal, file_range};
pub use manifest::{FORMAT_VERSION, Manifest, ManifestError, ManifestProblem};
pub use names::{
    AGENTS_PREFIX, DUMPS_PREFIX, FILES_PREFIX, KEYS_PREFIX, ManifestName, REPOSITORY_KEY, SEGMENTS_PREFIX,
    TIMELINES_PREFIX, agent_manifest_key, dump_manifest_key, dump_object_key, file_body_key, file_body_keys,
    file_header_key, file_manifest_key, key_manifest_key, key_object_key, segment_manifest_key, segment_object_key,
    segment_object_keys, timeline_manifest_key,
};
pub use owner::{AgentOwner, Epoch, Takeover};
pub use plan::{Excluded, Location, Place, RestorePlan, RestorePoint, Stop, locate, plan};
pub use rebuild::{Difference, differences};
pub use record::{
    Dump, DumpFile, DumpFileKind, DumpId, Inventory, KeptFile, KeyGeneration, ObjectFacts, Sealing, Segment, Timeline,
    TimelineId,
};
pub use refusal::Refusal;
pub use repository::{Repository, RepositoryId, ServiceName};
pub use window::{DumpPoint, EndPoint, Span, Window, windows};
