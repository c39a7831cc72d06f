//! What an archive holds and every point in time it can reach.

mod record;

pub use record::{
    Dump, DumpFile, DumpFileKind, DumpId, Inventory, KeyGeneration, Micros, ObjectFacts, Segment, Sha256Digest,
    Timeline, TimelineId,
};
