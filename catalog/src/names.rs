//! The names of objects in the archive. Built from validated parts only; FORMAT.md, "Names", is the specification.
//!
//! A segment's manifest is named by its place in the timeline, so that creating it (create-if-absent) decides who writes
//! the next link of the chain: of two agents, one succeeds and the other learns that it is not alone. Data objects that
//! could be written twice under one name carry the first 16 digits of their BLAKE3, so that a leftover of a killed
//! writer is never mistaken for, or in the way of, what another one writes.

use highwater_binlog::{BinlogName, ServerUuid};
use highwater_keyring::FileMark;

use crate::digest::Blake3Digest;
use crate::owner::Epoch;
use crate::record::{DumpFile, DumpId, KeptFile, KeyGeneration, ObjectFacts, Sealing, Segment, TimelineId};

/// The object that makes a store an archive.
pub const REPOSITORY_KEY: &str = "highwater.json";

/// Prefix of all timelines.
pub const TIMELINES_PREFIX: &str = "timelines";

/// Prefix of all segments and their manifests.
pub const SEGMENTS_PREFIX: &str = "segments";

/// Prefix of all dumps.
pub const DUMPS_PREFIX: &str = "dumps";

/// Prefix of all key bundles.
pub const KEYS_PREFIX: &str = "keys";

/// Prefix of all kept files.
pub const FILES_PREFIX: &str = "files";

/// Prefix of the marks of agents.
pub const AGENTS_PREFIX: &str = "agents";

/// Name of the mark of the agent that took the archive over as number `epoch`.
#[must_use]
pub fn agent_manifest_key(epoch: Epoch) -> String {
    format!("{AGENTS_PREFIX}/{epoch}.json")
}

/// Name of a timeline's manifest.
#[must_use]
pub fn timeline_manifest_key(timeline: TimelineId) -> String {
    format!("{TIMELINES_PREFIX}/{timeline}.json")
}

/// Name of the manifest of a timeline's segment number `sequence`.
#[must_use]
pub fn segment_manifest_key(timeline: TimelineId, sequence: u64) -> String {
    format!("{SEGMENTS_PREFIX}/{timeline}/{sequence:012}.json")
}

/// Names of a segment's data objects, in order.
#[must_use]
pub fn segment_object_keys(segment: &Segment) -> Vec<String> {
    let Segment { timeline, server, binlog, .. } = segment;
    one_after_the_other(segment.start, &segment.objects, |start, object| {
        segment_object_key(*timeline, server, binlog, start, object)
    })
}

/// Names of objects that continue each other from the offset `start` on.
fn one_after_the_other(
    mut start: u64,
    objects: &[ObjectFacts],
    mut name: impl FnMut(u64, &ObjectFacts) -> String,
) -> Vec<String> {
    let mut next = |object: &ObjectFacts| {
        let key = name(start, object);
        start = start.saturating_add(object.plain_size);
        key
    };
    objects.iter().map(&mut next).collect()
}

/// Name of the data object that has a binlog's bytes from `start` on.
#[must_use]
pub fn segment_object_key(
    timeline: TimelineId,
    server: &ServerUuid,
    binlog: &BinlogName,
    start: u64,
    object: &ObjectFacts,
) -> String {
    let end = start.saturating_add(object.plain_size);
    let digest = short(&object.stored_blake3);
    let ending = object.sealing.ending();
    format!("{SEGMENTS_PREFIX}/{timeline}/{server}/{binlog}/{start:012}-{end:012}.{digest}.binlog{ending}")
}

/// Name of a dump's manifest.
#[must_use]
pub fn dump_manifest_key(dump: &DumpId) -> String {
    format!("{DUMPS_PREFIX}/{dump}/manifest.json")
}

/// Name of one file of a dump. A dump's id is random: no second writer can have it.
#[must_use]
pub fn dump_object_key(dump: &DumpId, file: &DumpFile) -> String {
    format!("{DUMPS_PREFIX}/{dump}/{}{}", file.name, file.object.sealing.ending())
}

/// Name of the manifest of a key bundle.
#[must_use]
pub fn key_manifest_key(server: &ServerUuid, generation: u32) -> String {
    format!("{KEYS_PREFIX}/{server}/{generation:06}.json")
}

/// Name of a key bundle.
#[must_use]
pub fn key_object_key(keys: &KeyGeneration) -> String {
    let KeyGeneration { server, generation, stored_blake3, .. } = keys;
    format!("{KEYS_PREFIX}/{server}/{generation:06}.{}.json{}", short(stored_blake3), Sealing::ZstdAge.ending())
}

/// Name of the manifest of a kept file.
#[must_use]
pub fn file_manifest_key(server: &ServerUuid, binlog: &BinlogName, mark: &FileMark) -> String {
    format!("{FILES_PREFIX}/{server}/{binlog}/{mark}.json")
}

/// Name of the object that has a kept file's header.
#[must_use]
pub fn file_header_key(server: &ServerUuid, binlog: &BinlogName, mark: &FileMark, header: &ObjectFacts) -> String {
    let (digest, ending) = (short(&header.stored_blake3), header.sealing.ending());
    format!("{FILES_PREFIX}/{server}/{binlog}/{mark}.{digest}.header{ending}")
}

/// Names of the objects that have a kept file's body, in order.
#[must_use]
pub fn file_body_keys(file: &KeptFile) -> Vec<String> {
    let KeptFile { server, binlog, mark, .. } = file;
    one_after_the_other(0, &file.objects, |start, object| file_body_key(server, binlog, mark, start, object))
}

/// Name of the object that has the bytes of a kept file's body from `start` on.
#[must_use]
pub fn file_body_key(
    server: &ServerUuid,
    binlog: &BinlogName,
    mark: &FileMark,
    start: u64,
    object: &ObjectFacts,
) -> String {
    let end = start.saturating_add(object.plain_size);
    let (digest, ending) = (short(&object.stored_blake3), object.sealing.ending());
    format!("{FILES_PREFIX}/{server}/{binlog}/{mark}.{start:012}-{end:012}.{digest}.body{ending}")
}

/// First 16 digits.
fn short(digest: &Blake3Digest) -> String {
    digest.to_string().chars().take(16).collect()
}

/// A manifest, as its name tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestName {
    /// `highwater.json`
    Repository,
    /// Of a timeline.
    Timeline(TimelineId),
    /// Of a segment: its timeline and its sequence number.
    Segment(TimelineId, u64),
    /// Of a dump.
    Dump(DumpId),
    /// Of a key bundle: the server and the generation.
    Keys(ServerUuid, u32),
    /// Of a kept file: the server, the binlog, and which file of that name.
    File(ServerUuid, BinlogName, FileMark),
    /// Of an agent that took the archive over.
    Agent(Epoch),
}

impl ManifestName {
    /// Recognises a manifest among an archive's objects. Only the exact name that we would write counts: anything else
    /// is data, or not ours.
    #[must_use]
    pub fn recognise(key: &str) -> Option<Self> {
        let name = match key.split('/').collect::<Vec<_>>().as_slice() {
            [REPOSITORY_KEY] => Self::Repository,
            [TIMELINES_PREFIX, file] => Self::Timeline(TimelineId(number(file)?)),
            [SEGMENTS_PREFIX, timeline, file] => Self::Segment(TimelineId(timeline.parse().ok()?), number(file)?),
            [DUMPS_PREFIX, dump, "manifest.json"] => Self::Dump(dump.parse().ok()?),
            [KEYS_PREFIX, server, file] => Self::Keys(server.parse().ok()?, number(file)?),
            [FILES_PREFIX, server, binlog, file] => {
                let mark = FileMark::from_hex(file.strip_suffix(".json")?)?;
                Self::File(server.parse().ok()?, binlog.parse().ok()?, mark)
            }
            [AGENTS_PREFIX, file] => Self::Agent(Epoch(number(file)?)),
            _ => return None,
        };
        (name.key() == key).then_some(name)
    }

    /// The manifest's name in the store.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Repository => REPOSITORY_KEY.to_owned(),
            Self::Timeline(timeline) => timeline_manifest_key(*timeline),
            Self::Segment(timeline, sequence) => segment_manifest_key(*timeline, *sequence),
            Self::Dump(dump) => dump_manifest_key(dump),
            Self::Keys(server, generation) => key_manifest_key(server, *generation),
            Self::File(server, binlog, mark) => file_manifest_key(server, binlog, mark),
            Self::Agent(epoch) => agent_manifest_key(*epoch),
        }
    }
}

/// The number in `000042.json`.
fn number<N: std::str::FromStr>(file: &str) -> Option<N> {
    file.strip_suffix(".json")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_recognised_by_their_exact_name() {
        let uuid: ServerUuid = "11111111-2222-3333-4444-555555555555".parse().unwrap();
        for name in [
            ManifestName::Repository,
            ManifestName::Timeline(TimelineId(1)),
            ManifestName::Timeline(TimelineId(u32::MAX)),
            ManifestName::Segment(TimelineId(12), 0),
            ManifestName::Segment(TimelineId(12), u64::MAX),
            ManifestName::Dump("20261122T150412Z-1f3a".parse().unwrap()),
            ManifestName::Keys(uuid, 7),
            ManifestName::File(uuid, "binlog.000042".parse().unwrap(), FileMark::of_body(&[0xa5; 16]).unwrap()),
            ManifestName::Agent(Epoch(1)),
            ManifestName::Agent(Epoch(u32::MAX)),
        ] {
            assert_eq!(ManifestName::recognise(&name.key()), Some(name));
        }
    }

    #[test]
    fn foreign_and_data_objects_are_not_taken_for_manifests() {
        for key in [
            "",
            "highwater.json.tmp",
            "timelines/1.json",
            "timelines/+001.json",
            "timelines/0001.json/x",
            "segments/0001/1.json",
            "segments/1/000000000001.json",
            "segments/0001/000000000001.JSON",
            "segments/0001/11111111-2222-3333-4444-555555555555/b.000001/000000000000-000000000004.00.binlog.zst",
            "files/11111111-2222-3333-4444-555555555555/binlog.000042/A5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5.json",
            "files/11111111-2222-3333-4444-555555555555/binlog.000042/a5a5.json",
            "files/11111111-2222-3333-4444-555555555555/a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5.json",
            "files/11111111-2222-3333-4444-555555555555/b.1/a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5.00.header.zst",
            "agents/1.json",
            "agents/000000001.json",
            "dumps/x/schema.sql.zst",
            "dumps/../manifest.json",
            "keys/11111111-2222-3333-4444-555555555555/000001.0123456789abcdef.json.zst.age",
            "keys/11111111-2222-3333-4444-55555555555A/000001.json",
        ] {
            assert_eq!(ManifestName::recognise(key), None, "{key}");
        }
    }
}
