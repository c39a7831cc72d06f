//! Old archives stay readable (fault 52), and FORMAT.md shows what is written. The samples are never edited.

use std::fs;
use std::path::{Path, PathBuf};

use highwater_catalog::{
    Dump, DumpFileKind, Epoch, KeptFile, KeyGeneration, Manifest, ManifestName, Micros, Repository, RepositoryId,
    Sealing, Segment, Takeover, Timeline, TimelineId, dump_object_key, file_body_keys, file_header_key, key_object_key,
    segment_object_keys,
};

use crate::support::{SERVER, gtids};

const V1: &[&str] = &[
    "highwater.json",
    "timelines/0001.json",
    "segments/0001/000000000001.json",
    "dumps/20261122T150002Z-1f3a/manifest.json",
    "keys/3e11fa47-71ca-11e1-9e33-c80aa9429562/000001.json",
    "agents/00000003.json",
    "files/3e11fa47-71ca-11e1-9e33-c80aa9429562/binlog.000042/7c0d41e3a9b25f8866d0f3124be97a05.json",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sample(key: &str) -> Vec<u8> {
    fs::read(workspace().join("catalog/tests/data/v1").join(key)).unwrap()
}

fn repository() -> Repository {
    Repository::decode(&sample("highwater.json")).unwrap()
}

fn read<R: Manifest>(key: &str) -> R {
    R::decode(key, &sample(key), &repository().id).unwrap()
}

/// Decodes a manifest as what its name says, and writes it again.
fn written_again(key: &str, bytes: &[u8], id: &RepositoryId) -> Vec<u8> {
    fn again<R: Manifest>(key: &str, bytes: &[u8], id: &RepositoryId) -> Vec<u8> {
        R::decode(key, bytes, id).unwrap().encode(id).unwrap()
    }
    match ManifestName::recognise(key).unwrap_or_else(|| panic!("{key} is no manifest's name")) {
        ManifestName::Repository => Repository::decode(bytes).unwrap().encode().unwrap(),
        ManifestName::Timeline(_) => again::<Timeline>(key, bytes, id),
        ManifestName::Segment(..) => again::<Segment>(key, bytes, id),
        ManifestName::Dump(_) => again::<Dump>(key, bytes, id),
        ManifestName::Keys(..) => again::<KeyGeneration>(key, bytes, id),
        ManifestName::File(..) => again::<KeptFile>(key, bytes, id),
        ManifestName::Agent(_) => again::<Takeover>(key, bytes, id),
    }
}

#[test]
fn version_1_reads_as_it_was_meant() {
    let archive = repository();
    assert_eq!(archive.id.to_string(), "5b1c0e9d-2f64-4a77-9c31-8a02d65ef013");
    assert_eq!((archive.service.as_str(), archive.recipients.len()), ("orders", 1));
    assert_eq!(archive.created, Micros(1_795_359_600_000_000));

    let timeline: Timeline = read(V1[1]);
    assert_eq!((timeline.id, timeline.parent), (TimelineId(1), None));
    assert_eq!(timeline.reason, "first capture of this service");
    assert_eq!(timeline.starting_gtids, gtids("1-41"));
    assert_eq!(timeline.created, Micros(1_795_359_600_250_000));

    let segment: Segment = read(V1[2]);
    assert_eq!((segment.timeline, segment.sequence), (TimelineId(1), 1));
    assert_eq!((segment.server.to_string().as_str(), segment.binlog.as_str()), (SERVER, "binlog.000042"));
    assert_eq!((segment.start, segment.end), (197, 131_072));
    assert_eq!((&segment.gtids_before, &segment.gtids_added), (&gtids("1-41"), &gtids("42-57:ledger:1-2")));
    assert_eq!(segment.first_commit, Some(Micros(1_795_359_601_004_711)));
    assert_eq!(segment.last_commit, Some(Micros(1_795_359_605_930_102)));
    assert_eq!((segment.events, segment.transactions), (96, 18));
    let previous = "6da0633528deaa0144e7b058315f0b753ec0b945163a72bf96a0d18180f9de0d";
    assert_eq!(segment.previous_blake3.unwrap().to_string(), previous);
    assert_eq!((segment.plain_size(), segment.stored_size()), (130_875, 22_804));
    assert_eq!(segment.plain_blake3.to_string(), "a116c9ed46d6207734a43317d30fd88f52ac8634c37d904bbf4e41d865f90475");
    assert_eq!(segment.objects.iter().map(|object| object.plain_size).collect::<Vec<_>>(), [65_536, 65_339]);
    assert!(segment.objects.iter().all(|object| object.sealing == Sealing::ZstdAge));
    let folder = format!("segments/0001/{SERVER}/binlog.000042");
    assert_eq!(
        segment_object_keys(&segment),
        [
            format!("{folder}/000000000197-000000065733.87b04e58961f9a99.binlog.zst.age"),
            format!("{folder}/000000065733-000000131072.30c5ed406cd20934.binlog.zst.age"),
        ]
    );

    let keys: KeyGeneration = read(V1[4]);
    assert_eq!((keys.generation, keys.key_ids.len(), keys.stored_size), (1, 2, 651));
    assert_eq!(key_object_key(&keys), format!("keys/{SERVER}/000001.48a53f0774c8ceff.json.zst.age"));
}

#[test]
fn an_agent_of_version_1_reads_as_it_was_meant() {
    let takeover: Takeover = read(V1[5]);
    assert_eq!(takeover.epoch, Epoch(3));
    assert_eq!(takeover.owner.to_string(), "process 4711 on db1-backup, started 2026-11-22T15:00:00.120000Z");
}

#[test]
fn a_kept_file_of_version_1_reads_as_it_was_meant() {
    let file: KeptFile = read(V1[6]);
    assert_eq!((file.server.to_string().as_str(), file.binlog.as_str()), (SERVER, "binlog.000042"));
    assert_eq!(file.mark.to_string(), "7c0d41e3a9b25f8866d0f3124be97a05");
    assert_eq!((file.server_version.as_str(), file.events, file.transactions), ("9.7.0", 99, 18));
    assert_eq!((&file.gtids_before, &file.gtids_added), (&gtids("1-41"), &gtids("42-57:ledger:1-2")));
    assert_eq!(file.gtids_after(), gtids("1-57:ledger:1-2"));
    assert_eq!(file.first_commit, Some(Micros(1_795_359_601_004_711)));
    assert_eq!(file.last_commit, Some(Micros(1_795_359_605_930_102)));
    assert_eq!((file.key_id, file.key_generation), (format!("MySQLReplicationKey_{SERVER}_2"), 2));
    let file: KeptFile = read(V1[6]);
    assert_eq!((file.body_size(), file.stored_size()), (131_284, 747 + 65_812 + 66_027));
    let folder = format!("files/{SERVER}/binlog.000042/7c0d41e3a9b25f8866d0f3124be97a05");
    let header = file_header_key(&file.server, &file.binlog, &file.mark, &file.header);
    assert_eq!(header, format!("{folder}.6bdb460b61348fed.header.zst.age"));
    assert_eq!(
        file_body_keys(&file),
        [
            format!("{folder}.000000000000-000000065536.8f9d554509dd6c42.body.zst.age"),
            format!("{folder}.000000065536-000000131284.904b830bdf4ed14f.body.zst.age"),
        ]
    );
}

#[test]
fn a_dump_of_version_1_reads_as_it_was_meant() {
    let dump: Dump = read(V1[3]);
    assert_eq!((dump.id.as_str(), dump.timeline), ("20261122T150002Z-1f3a", TimelineId(1)));
    assert_eq!((dump.server.to_string().as_str(), dump.server_version.as_str()), (SERVER, "9.7.0"));
    assert_eq!(
        (&dump.gtids, dump.position.as_ref().unwrap().to_string().as_str()),
        (&gtids("1-45"), "binlog.000042:40312")
    );
    assert_eq!((dump.started, dump.finished), (Micros(1_795_359_602_118_000), Micros(1_795_359_604_871_000)));
    assert_eq!(dump.method, "backup lock and a brief global read lock");
    let names: Vec<_> = dump.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["accounts/users.sql", "schema/tables.sql", "data/load.sql", "data/000001.tsv"]);
    assert_eq!((&dump.files[0].kind, &dump.files[1].kind), (&DumpFileKind::Accounts, &DumpFileKind::Schema));
    let rows = DumpFileKind::Rows { schema: "shop".to_owned(), table: "Bestellungen \"alt\"".to_owned(), rows: 2048 };
    assert_eq!(dump.files[3].kind, rows);
    assert_eq!(dump_object_key(&dump.id, &dump.files[3]), "dumps/20261122T150002Z-1f3a/data/000001.tsv.zst.age");
}

#[test]
fn version_1_is_written_byte_for_byte_as_its_samples() {
    let version = format!("\"software\": \"highwater {}\"", env!("CARGO_PKG_VERSION"));
    for key in V1 {
        let written = written_again(key, &sample(key), &repository().id);
        let written = String::from_utf8(written).unwrap().replace(&version, "\"software\": \"highwater 0.1.0\"");
        assert_eq!(written, String::from_utf8(sample(key)).unwrap(), "{key}");
    }
}

#[test]
fn the_examples_of_the_specification_are_the_samples() {
    let text = fs::read_to_string(workspace().join("FORMAT.md")).unwrap();
    let mut shown = Vec::new();
    for (before, rest) in text.match_indices("```json\n").map(|(at, fence)| (&text[..at], &text[at + fence.len()..])) {
        let key = before.trim_end().lines().last().unwrap().trim_matches(['`', ':']);
        let example = &rest[..rest.find("```").unwrap()];
        written_again(key, example.as_bytes(), &repository().id);
        assert_eq!(example.as_bytes(), sample(key), "{key}");
        shown.push(key);
    }
    assert_eq!(shown, V1);
}
