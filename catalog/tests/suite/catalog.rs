//! The catalog is a cache: equal to the store, or refused. Faults 28 and 29.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use highwater_catalog::{
    Catalog, CatalogError, CatalogProblem, Difference, Dump, Inventory, KeptFile, KeyGeneration, Manifest,
    RepositoryId, Segment, Timeline, TimelineId, differences,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{digest, kept, keys, repository_id, simple_truth, truths};

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    (folder, path)
}

fn open(path: &Path) -> Result<Catalog, CatalogError> {
    Catalog::open(path, repository_id())
}

fn problem<T: std::fmt::Debug>(result: Result<T, CatalogError>) -> CatalogProblem {
    result.unwrap_err().problem
}

fn filled(path: &Path) -> Inventory {
    let inventory = simple_truth(40).inventory();
    open(path).unwrap().replace_all(&inventory).unwrap();
    inventory
}

/// The inventory as a rebuild finds it: from the bytes of manifests alone.
fn through_the_store(inventory: &Inventory) -> Inventory {
    fn read<R: Manifest>(records: &[R]) -> Vec<R> {
        let id = repository_id();
        records.iter().map(|record| R::decode(&record.key(), &record.encode(&id).unwrap(), &id).unwrap()).collect()
    }
    Inventory {
        timelines: read::<Timeline>(&inventory.timelines),
        segments: read::<Segment>(&inventory.segments),
        dumps: read::<Dump>(&inventory.dumps),
        keys: read::<KeyGeneration>(&inventory.keys),
        files: read::<KeptFile>(&inventory.files),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_catalog_written_record_by_record_equals_one_rebuilt_from_manifests(truth in truths()) {
        let inventory = truth.inventory();
        let (_kept, path) = folder();
        let mut grown = open(&path).unwrap();
        inventory.timelines.iter().for_each(|timeline| grown.record_timeline(timeline).unwrap());
        // In the order in which things happen, not in the inventory's.
        inventory.files.iter().rev().for_each(|file| grown.record_file(file).unwrap());
        inventory.keys.iter().rev().for_each(|keys| grown.record_keys(keys).unwrap());
        inventory.dumps.iter().rev().for_each(|dump| grown.record_dump(dump).unwrap());
        inventory.segments.iter().for_each(|segment| grown.record_segment(segment).unwrap());
        let (_kept, path) = folder();
        let mut rebuilt = open(&path).unwrap();
        rebuilt.replace_all(&through_the_store(&inventory)).unwrap();
        let loaded = grown.load().unwrap();
        prop_assert_eq!(&loaded, &rebuilt.load().unwrap());
        prop_assert_eq!(&loaded, &inventory.sorted());
    }
}

#[test]
fn recording_again_is_no_error_and_changes_nothing() {
    let (_kept, path) = folder();
    let inventory = filled(&path);
    let mut catalog = open(&path).unwrap();
    let generation = catalog.generation().unwrap();
    catalog.record_timeline(&inventory.timelines[0]).unwrap();
    catalog.record_segment(&inventory.segments[3]).unwrap();
    catalog.record_dump(&inventory.dumps[0]).unwrap();
    catalog.record_keys(&inventory.keys[0]).unwrap();
    catalog.record_file(&inventory.files[1]).unwrap();
    assert_eq!(catalog.generation().unwrap(), generation);
    catalog.record_keys(&keys(2)).unwrap();
    assert_eq!(catalog.generation().unwrap(), generation + 1);
}

#[test]
fn another_record_under_the_same_identity_is_refused() {
    let (_kept, path) = folder();
    let inventory = filled(&path);
    let mut catalog = open(&path).unwrap();
    let mut segment = inventory.segments[3].clone();
    segment.objects[1].stored_blake3 = digest(4);
    let error = catalog.record_segment(&segment).unwrap_err();
    assert!(error.to_string().ends_with("already has another record for segments/0001/000000000003.json"), "{error}");
    let mut dump = inventory.dumps[0].clone();
    dump.files.swap(0, 1);
    assert!(matches!(problem(catalog.record_dump(&dump)), CatalogProblem::Conflict { .. }));
    let mut bundle = keys(1);
    bundle.key_ids.pop();
    assert!(matches!(problem(catalog.record_keys(&bundle)), CatalogProblem::Conflict { .. }));
    let mut file = kept(2);
    file.body_blake3 = digest(1);
    assert!(matches!(problem(catalog.record_file(&file)), CatalogProblem::Conflict { .. }));
    let mut timeline = inventory.timelines[0].clone();
    timeline.reason.push('!');
    assert!(matches!(problem(catalog.record_timeline(&timeline)), CatalogProblem::Conflict { .. }));
    assert_eq!(catalog.load().unwrap(), inventory);
}

#[test]
fn a_record_without_its_timeline_is_refused_and_a_rebuild_with_it_changes_nothing() {
    let (_kept, path) = folder();
    let inventory = filled(&path);
    let mut catalog = open(&path).unwrap();
    let mut orphan = inventory.segments[0].clone();
    orphan.timeline = TimelineId(2);
    assert!(matches!(problem(catalog.record_segment(&orphan)), CatalogProblem::NoTimeline { .. }));
    let mut broken = inventory.clone();
    broken.segments.push(orphan);
    let error = catalog.replace_all(&broken).unwrap_err();
    assert!(error.to_string().ends_with("has no timeline for segments/0002/000000000000.json"), "{error}");
    assert_eq!(catalog.load().unwrap(), inventory);
}

#[test]
fn a_repeated_record_fails_a_rebuild() {
    let (_kept, path) = folder();
    let mut inventory = filled(&path);
    inventory.segments.push(inventory.segments[0].clone());
    assert!(matches!(problem(open(&path).unwrap().replace_all(&inventory)), CatalogProblem::Conflict { .. }));
}

#[test]
fn a_record_that_no_manifest_could_hold_is_refused() {
    let (_kept, path) = folder();
    let inventory = filled(&path);
    let mut segment = inventory.segments[0].clone();
    (segment.sequence, segment.end) = (99, segment.start);
    let mut catalog = open(&path).unwrap();
    assert!(matches!(problem(catalog.record_segment(&segment)), CatalogProblem::Record { .. }));
}

#[test]
fn a_catalog_of_another_archive_is_refused() {
    let (_kept, path) = folder();
    filled(&path);
    let error = Catalog::open(&path, RepositoryId::from_random_bytes([8; 16])).unwrap_err();
    assert!(matches!(error.problem, CatalogProblem::OtherRepository { .. }), "{error}");
    assert_eq!(error.hint(), "check state_dir and the store's address: they are of two archives");
    assert!(open(&path).is_ok());
}

#[test]
fn other_files_are_refused_and_left_alone() {
    let (_kept, path) = folder();
    fs::write(&path, "this is my diary, and long enough to be looked at as a database header, is it not?".repeat(9))
        .unwrap();
    let before = fs::read(&path).unwrap();
    assert!(matches!(problem(open(&path)), CatalogProblem::NotACatalog));
    assert_eq!(fs::read(&path).unwrap(), before);

    fs::remove_file(&path).unwrap();
    let stranger = rusqlite::Connection::open(&path).unwrap();
    stranger.execute_batch("CREATE TABLE diary (entry TEXT)").unwrap();
    drop(stranger);
    let before = fs::read(&path).unwrap();
    assert!(matches!(problem(open(&path)), CatalogProblem::NotACatalog));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn a_newer_schema_is_refused() {
    let (_kept, path) = folder();
    filled(&path);
    rusqlite::Connection::open(&path).unwrap().pragma_update(None, "user_version", 9999).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error.problem, CatalogProblem::Newer), "{error}");
}

#[test]
fn unknown_codes_and_impossible_rows_are_named() {
    for (change, expected) in [
        (
            "UPDATE segment_object SET sealing = 9 WHERE sequence = 2",
            "row of segments/0001/000000000002.json: sealing: unknown code 9",
        ),
        ("UPDATE segment SET end_offset = 0 WHERE sequence = 2", "end: 0 is not after start"),
        ("UPDATE segment SET events = -1 WHERE sequence = 2", "events: -1 is out of range"),
        ("UPDATE segment SET plain_blake3 = x'00' WHERE sequence = 2", "plain_blake3: 1 bytes"),
        ("DELETE FROM segment_object WHERE sequence = 2", "objects: 0 objects, not 1 to 4096"),
        ("DELETE FROM segment_object WHERE sequence = 3 AND place = 1", "objects.plain_size: "),
        ("UPDATE segment_object SET plain_blake3 = x'00' WHERE sequence = 3", "plain_blake3: 1 bytes"),
        ("UPDATE segment SET gtids_added = 'x' WHERE sequence = 2", "\"x\" is not a GTID set"),
        ("UPDATE segment SET binlog = '../x' WHERE sequence = 2", "\"../x\" is not a binlog name"),
        ("UPDATE dump_file SET kind = 0", "row of dumps/20261122T150412Z-0000/manifest.json: kind: unknown code 0"),
        ("UPDATE dump_file SET name = '/etc/passwd' WHERE load_order = 0", "is not a name for a file of a dump"),
        ("UPDATE timeline SET parent = 1", "row of timelines/0001.json: parent"),
        ("UPDATE keys_in_generation SET key_id = ''", "key_ids"),
        (
            "PRAGMA foreign_keys = OFF; UPDATE file SET mark = 'x'; UPDATE file_object SET mark = 'x'",
            "mark: not 32 hexadecimal digits",
        ),
        ("DELETE FROM file_object WHERE place = 0", "header.plain_size: a header has 512 bytes"),
        ("DELETE FROM file_object", "header: no object"),
        ("UPDATE file SET transactions = 9 WHERE binlog = 'binlog.000002'", "gtids_added: 10 GTIDs in 9 transactions"),
    ] {
        let (_kept, path) = folder();
        filled(&path);
        rusqlite::Connection::open(&path).unwrap().execute_batch(change).unwrap();
        let error = open(&path).unwrap().load().unwrap_err();
        assert!(matches!(error.problem, CatalogProblem::Row { .. }), "{change}: {error:?}");
        assert!(error.to_string().contains(expected), "{change}: {error}");
    }
}

#[test]
fn only_its_owner_can_read_it() {
    let (kept, path) = folder();
    let _open = open(&path).unwrap();
    let mut files = 0;
    for file in fs::read_dir(kept.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
        files += 1;
    }
    assert_eq!(files, 3, "the catalog, its -wal and its -shm");
}

#[test]
fn a_symbolic_link_is_not_followed() {
    let (kept, path) = folder();
    let elsewhere = kept.path().join("elsewhere");
    fs::write(&elsewhere, "").unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(open(&path).is_err());
    assert_eq!(fs::read(&elsewhere).unwrap(), b"");
    fs::remove_file(&elsewhere).unwrap();
    assert!(open(&path).is_err());
    assert!(!elsewhere.exists(), "nothing is created at a dangling link's end");
}

#[test]
fn a_damaged_file_never_panics_and_a_truncated_one_is_refused_or_empty() {
    let (kept, path) = folder();
    filled(&path);
    let whole = fs::read(&path).unwrap();
    let copy = kept.path().join("copy.sqlite");
    let load = |bytes: &[u8]| {
        for ending in ["-wal", "-shm"] {
            let _ = fs::remove_file(kept.path().join(format!("copy.sqlite{ending}")));
        }
        fs::write(&copy, bytes).unwrap();
        open(&copy).and_then(|mut catalog| catalog.load())
    };
    let mut refused = 0;
    for at in (0..whole.len()).step_by(257) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        refused += u32::from(load(&bytes).is_err());
    }
    // Most bytes of so small a catalog are unused; altered text in a row is what `differences` is for.
    assert!(refused > 5, "only {refused}");
    for len in (1..whole.len()).step_by(4099) {
        // SQLite takes less than a page for a new file.
        let refused = load(&whole[..len]).map_or(true, |found| found == Inventory::default());
        assert!(refused, "{len} bytes of {}", whole.len());
    }
}

#[test]
fn differences_between_a_catalog_and_its_store_are_named() {
    let store = simple_truth(40).inventory();
    assert!(differences(&store, &store).is_empty());
    let mut catalog = store.clone();
    catalog.segments.pop();
    assert_eq!(
        differences(&catalog, &store),
        [Difference::NotCatalogued("segments/0001/000000000009.json".to_owned())]
    );
    let mut rolled_back = store.clone();
    rolled_back.segments.pop();
    rolled_back.segments[2].objects[0].stored_size += 1;
    rolled_back.keys.clear();
    assert_eq!(
        differences(&store, &rolled_back),
        [
            Difference::NotStored(store.keys[0].key()),
            Difference::Altered("segments/0001/000000000002.json".to_owned()),
            Difference::NotStored("segments/0001/000000000009.json".to_owned()),
        ]
    );
}
