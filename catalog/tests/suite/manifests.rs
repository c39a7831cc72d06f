//! A manifest is read whole and right, or refused by name. Faults 8, 9 and 52.

use std::fmt::Debug;

use highwater_catalog::{
    Dump, KeptFile, KeyGeneration, Manifest, ManifestError, ManifestProblem, Repository, RepositoryId, Segment,
    Timeline, TimelineId, segment_object_keys,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{digest, dump, facts, gtids, kept, keys, repository, repository_id, simple_truth, truths};

fn segment() -> Segment {
    simple_truth(12).inventory().segments[1].clone()
}

fn timeline() -> Timeline {
    let mut timeline = simple_truth(0).inventory().timelines.remove(0);
    (timeline.id, timeline.parent) = (TimelineId(2), Some(TimelineId(1)));
    timeline
}

fn encoded<R: Manifest>(record: &R) -> Vec<u8> {
    record.encode(&repository_id()).unwrap()
}

fn decoded<R: Manifest>(key: &str, bytes: &[u8]) -> Result<R, ManifestError> {
    R::decode(key, bytes, &repository_id())
}

fn value<R: Manifest>(record: &R) -> Value {
    serde_json::from_slice(&encoded(record)).unwrap()
}

/// Decodes the record's manifest after `change`.
fn changed<R: Manifest + Debug>(record: &R, change: impl FnOnce(&mut Value)) -> ManifestProblem {
    let mut value = value(record);
    change(&mut value);
    let error = decoded::<R>(&record.key(), &serde_json::to_vec(&value).unwrap()).unwrap_err();
    assert_eq!(error.key, record.key());
    assert!(!error.hint().is_empty());
    error.problem
}

fn reads_back<R: Manifest + Debug + PartialEq>(record: &R) {
    assert_eq!(&decoded::<R>(&record.key(), &encoded(record)).unwrap(), record);
}

proptest! {
    #[test]
    fn what_is_written_reads_back(truth in truths()) {
        let inventory = truth.inventory();
        inventory.timelines.iter().for_each(reads_back);
        inventory.segments.iter().for_each(reads_back);
        inventory.dumps.iter().for_each(reads_back);
        inventory.keys.iter().for_each(reads_back);
        inventory.files.iter().for_each(reads_back);
    }

    #[test]
    fn identifiers_of_any_text_read_back(schema in "[^\0]{1,64}", table in "[^\0]{1,64}") {
        let mut record = dump(1, gtids("1-5"));
        let rows = highwater_catalog::DumpFileKind::Rows { schema, table, rows: 1 };
        record.files[1].kind = rows;
        reads_back(&record);
    }

    #[test]
    fn altered_bytes_never_panic_and_never_break_a_rule(
        which in 0u8..5, flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let mut bytes = match which {
            0 => encoded(&segment()),
            1 => encoded(&dump(1, gtids("1-5"))),
            2 => encoded(&timeline()),
            3 => encoded(&keys(3)),
            _ => encoded(&kept(2)),
        };
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        match which {
            0 => survives::<Segment>(&segment().key(), &bytes),
            1 => survives::<Dump>(&dump(1, gtids("1-5")).key(), &bytes),
            2 => survives::<Timeline>(&timeline().key(), &bytes),
            3 => survives::<KeyGeneration>(&keys(3).key(), &bytes),
            _ => survives::<KeptFile>(&kept(2).key(), &bytes),
        }
    }

    #[test]
    fn arbitrary_values_in_any_field_are_refused_or_read_back(
        which in 0u8..5, field in any::<prop::sample::Index>(), put in hostile()
    ) {
        match which {
            0 => replaced(&segment(), &field, put),
            1 => replaced(&dump(1, gtids("1-5")), &field, put),
            2 => replaced(&timeline(), &field, put),
            3 => replaced(&keys(3), &field, put),
            _ => replaced(&kept(2), &field, put),
        }
    }
}

/// Whatever is accepted can be written again.
fn survives<R: Manifest + Debug + PartialEq>(key: &str, bytes: &[u8]) {
    if let Ok(record) = decoded::<R>(key, bytes) {
        assert_eq!(record.key(), key);
        reads_back(&record);
    }
}

fn replaced<R: Manifest + Debug + PartialEq>(record: &R, field: &prop::sample::Index, put: Value) {
    let mut value = value(record);
    let paths = paths(&value);
    *value.pointer_mut(&paths[field.index(paths.len())]).unwrap() = put;
    survives::<R>(&record.key(), &serde_json::to_vec(&value).unwrap());
}

/// JSON pointers to every value below the top.
fn paths(value: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    let below = |(name, value): (String, &Value)| {
        let deeper = paths(value).into_iter().map({
            let name = name.clone();
            move |path| format!("/{name}{path}")
        });
        std::iter::once(format!("/{name}")).chain(deeper).collect::<Vec<_>>()
    };
    children.into_iter().flat_map(below).collect()
}

fn hostile() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!([])),
        Just(json!(-1)),
        Just(json!(u64::MAX)),
        Just(json!(1u64 << 63)),
        Just(json!(1e300)),
        Just(json!("../../etc/passwd")),
        Just(json!("/absolute")),
        Just(json!("a/../b")),
        Just(json!("nul\u{0}")),
        Just(json!("\u{1b}[31mred")),
        Just(json!("x".repeat(5000))),
        any::<u64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ]
}

#[test]
fn every_truncation_is_refused() {
    let bytes = encoded(&segment());
    for len in 0..bytes.len() - 1 {
        let problem = decoded::<Segment>(&segment().key(), &bytes[..len]).unwrap_err().problem;
        assert!(matches!(problem, ManifestProblem::NotJson { .. }), "{len}: {problem}");
    }
    let mut trailing = bytes.clone();
    trailing.extend_from_slice(b"{}");
    assert!(decoded::<Segment>(&segment().key(), &trailing).is_err());
}

#[test]
fn manifests_of_other_archives_kinds_and_names_are_refused() {
    let other = RepositoryId::from_random_bytes([9; 16]);
    let error = Segment::decode(&segment().key(), &encoded(&segment()), &other).unwrap_err();
    assert!(matches!(error.problem, ManifestProblem::OtherRepository { .. }));
    assert!(
        error.to_string().starts_with("manifest segments/0001/000000000001.json: belongs to repository "),
        "{error}"
    );

    let error = decoded::<Timeline>(&timeline().key(), &encoded(&segment())).unwrap_err();
    assert_eq!(error.to_string(), "manifest timelines/0002.json: is of kind \"segment\", not \"timeline\"");

    let error = decoded::<Segment>("segments/0001/000000000002.json", &encoded(&segment())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "manifest segments/0001/000000000002.json: has the content of segments/0001/000000000001.json"
    );
}

#[test]
fn a_newer_format_is_refused_as_such_whatever_else_it_has() {
    let newer = br#"{"format": 2, "kind": "segment", "spice": ["cumin"]}"#;
    let error = decoded::<Segment>(&segment().key(), newer).unwrap_err();
    assert_eq!(error.problem, ManifestProblem::NewerFormat { found: 2 });
    assert_eq!(error.hint(), "this archive was written by a newer highwater: use that version");
    let problem = changed(&segment(), |value| value["format"] = json!(0));
    assert_eq!(problem, ManifestProblem::Format { found: 0 });
    let problem = Repository::decode(br#"{"format": 3, "kind": "repository"}"#).unwrap_err().problem;
    assert_eq!(problem, ManifestProblem::NewerFormat { found: 3 });
}

#[test]
fn unknown_missing_and_repeated_fields_are_refused() {
    let not_json = |problem| assert!(matches!(problem, ManifestProblem::NotJson { .. }), "{problem}");
    not_json(changed(&segment(), |value| value["extra"] = json!(1)));
    not_json(changed(&segment(), |value| value["objects"][0]["extra"] = json!(1)));
    not_json(changed(&dump(1, gtids("1")), |value| value["files"][0]["content"]["rows"] = json!(1)));
    not_json(changed(&segment(), |value| drop(value.as_object_mut().unwrap().remove("events"))));
    let text = String::from_utf8(encoded(&segment())).unwrap();
    let twice = text.replacen("\"sequence\": 1,", "\"sequence\": 1, \"sequence\": 1,", 1);
    not_json(decoded::<Segment>(&segment().key(), twice.as_bytes()).unwrap_err().problem);
}

#[test]
fn hostile_text_does_not_reach_the_terminal_as_it_is() {
    let mut bytes = encoded(&segment());
    let at = bytes.iter().position(|&byte| byte == b'{').unwrap() + 1;
    bytes.splice(at..at, *br#""\u001b[31mevil": 1,"#);
    let text = decoded::<Segment>(&segment().key(), &bytes).unwrap_err().to_string();
    assert!(!text.contains('\u{1b}') && text.len() < 400, "{text:?}");
}

#[test]
fn rules_within_a_segment_are_checked() {
    for (field, put, expected) in [
        ("timeline", json!(0), "instead of segments/0000/"),
        ("server", json!("3E11FA47-71CA-11E1-9E33-C80AA9429562"), "server: "),
        ("binlog", json!("../binlog.000001"), "binlog: "),
        ("end", json!(600), "end: 600 is not after start 600"),
        ("end", json!(1300), "objects.plain_size: 600 bytes between offsets that are 700 apart"),
        ("events", json!(3), "transactions: 4 transactions in 3 events"),
        ("transactions", json!(3), "gtids_added: 4 GTIDs in 3 transactions"),
        ("gtids_added", json!(gtids("4-7").to_string()), "also in gtids_before"),
        ("gtids_before", json!(format!(" {}", gtids("1-4"))), "gtids_before: "),
        ("last_commit_us", json!(1), "last_commit_us: earlier than first_commit_us"),
        ("last_commit_us", json!(null), "last_commit_us: first_commit_us and last_commit_us come together"),
        ("previous_blake3", json!(null), "previous_blake3: present exactly when"),
        ("previous_blake3", json!("00"), "previous_blake3: "),
        ("events", json!(1u64 << 63), "events: 9223372036854775808 is above 2^63 - 1"),
    ] {
        let problem = changed(&segment(), |value| {
            value[field] = put.clone();
            if field == "binlog" {
                rename(value);
            }
        });
        assert!(problem.to_string().contains(expected), "{field} = {put}: {problem}");
    }
    for number in 0..3 {
        let problem = changed(&segment(), |value| value["objects"][number]["key"] = json!("segments/0001/x"));
        let expected = "objects.key: \"segments/0001/x\" instead of segments/0001/";
        assert!(problem.to_string().starts_with(expected), "{problem}");
    }
}

/// Gives the objects the names that a segment manifest's binlog makes, valid or not.
fn rename(value: &mut Value) {
    for number in 0..3 {
        let key = value["objects"][number]["key"].as_str().unwrap();
        let right = key.replace("binlog.000001", value["binlog"].as_str().unwrap());
        value["objects"][number]["key"] = json!(right);
    }
}

#[test]
fn objects_of_a_segment_make_it_up_in_their_order() {
    let objects = |change: fn(&mut Vec<Value>)| {
        changed(&segment(), |value| change(value["objects"].as_array_mut().unwrap())).to_string()
    };
    assert_eq!(objects(Vec::clear), "objects: 0 objects, not 1 to 4096");
    assert!(objects(|list| list.swap(1, 2)).starts_with("objects.key: "));
    assert!(objects(|list| drop(list.remove(0))).starts_with("objects.key: "));
    assert_eq!(objects(|list| drop(list.pop())), "objects.plain_size: 160 bytes between offsets that are 600 apart");
    assert!(objects(|list| list.push(list[0].clone())).starts_with("objects.key: "));
    assert_eq!(objects(|list| list[0]["stored_size"] = json!(0)), "object.stored_size: a sealed object is never empty");

    let mut record = segment();
    record.objects = vec![facts(9, record.plain_size())];
    record.plain_blake3 = digest(8);
    let refused = record.encode(&repository_id()).unwrap_err().problem.to_string();
    assert_eq!(refused, "plain_blake3: not that of the only object");
    let mut record = segment();
    record.objects.insert(1, facts(9, 0));
    let refused = record.encode(&repository_id()).unwrap_err().problem.to_string();
    assert_eq!(refused, "objects.plain_size: an object without bytes");
    let mut record = segment();
    record.end = record.start + 4097;
    record.objects = vec![facts(9, 1); 4097];
    let refused = record.encode(&repository_id()).unwrap_err().problem.to_string();
    assert_eq!(refused, "objects: 4097 objects, not 1 to 4096");
    (record.end, record.objects) = (record.start + 4096, vec![facts(9, 1); 4096]);
    assert!(record.encode(&repository_id()).unwrap().len() < Segment::LEN_MAX / 2, "room for GTIDs");
}

#[test]
fn rules_within_other_records_are_checked() {
    let problem = |problem: ManifestProblem, expected: &str| {
        assert!(problem.to_string().contains(expected), "{problem}");
    };
    problem(changed(&timeline(), |value| value["parent"] = json!(2)), "parent: timeline 0002 is not older than 0002");
    problem(changed(&timeline(), |value| value["reason"] = json!("a\nb")), "reason: \"a\\nb\" is not plain text");
    problem(changed(&keys(3), |value| value["key_ids"][0] = json!("")), "key_ids: \"\" is not a key id");
    problem(changed(&kept(2), |value| value["mark"] = json!("A0".repeat(16))), "mark: not 32 lower-case");
    problem(changed(&kept(2), |value| value["body_size"] = json!(7)), "body_size: 7 where the objects have 4196");
    problem(changed(&kept(2), |value| value["header"]["plain_size"] = json!(4)), "a header has 512 bytes, not 4");
    problem(changed(&kept(1), |value| value["body_blake3"] = json!("ab".repeat(32))), "not that of the only object");
    problem(changed(&kept(2), |value| value["key_generation"] = json!(0)), "key_generation: numbers begin with 1");
    let dump = dump(1, gtids("1"));
    let rename = |name: &str| {
        let mut record = dump.clone();
        record.files[0].name = name.to_owned();
        record.encode(&repository_id()).unwrap_err().problem
    };
    for name in ["", "/etc/passwd", "../x", "a/../b", "a//b", ".hidden", "a b", "manifest.json", &"x".repeat(201)] {
        problem(rename(name), "is not a name for a file of a dump");
    }
    problem(rename("accounts.sql"), "accounts.sql twice");
    problem(
        changed(&dump, |value| value["files"][1]["content"]["table"] = json!("a\u{0}b")),
        "files.table: \"a\\0b\" is not a MySQL identifier",
    );
    problem(changed(&dump, |value| value["server_version"] = json!("8\u{7}")), "server_version: ");
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let mut record = segment();
    record.previous_blake3 = None;
    assert!(record.encode(&repository_id()).is_err());
    let mut record = segment();
    record.objects[2].stored_size = 0;
    assert!(record.encode(&repository_id()).is_err());
    let mut record = repository();
    record.recipients.push("AGE-SECRET-KEY-1QQPQ".to_owned());
    let error = record.encode().unwrap_err();
    assert!(error.to_string().starts_with("manifest highwater.json: recipients: "), "{error}");
}

#[test]
fn too_long_a_manifest_is_refused_unread() {
    let bytes = vec![b' '; Segment::LEN_MAX + 1];
    let problem = decoded::<Segment>(&segment().key(), &bytes).unwrap_err().problem;
    assert_eq!(problem, ManifestProblem::TooLong { len: (4 << 20) + 1, max: 4 << 20 });
}

#[test]
fn deep_nesting_is_refused() {
    let bytes = format!("{{\"format\": 1, \"kind\": {}", "[".repeat(100_000));
    assert!(decoded::<Segment>(&segment().key(), bytes.as_bytes()).is_err());
}

#[test]
fn the_repository_reads_back_and_names_its_archive() {
    let bytes = repository().encode().unwrap();
    assert_eq!(Repository::decode(&bytes).unwrap(), repository());
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.starts_with("{\n  \"format\": 1,\n  \"kind\": \"repository\",\n"), "{text}");
}

#[test]
fn a_second_writer_of_the_same_bytes_gets_another_object_name_and_the_same_manifest_name() {
    let (mine, mut theirs) = (segment(), segment());
    theirs.objects[0].stored_blake3 = digest(77);
    assert_eq!(mine.key(), theirs.key());
    assert_ne!(segment_object_keys(&mine)[0], segment_object_keys(&theirs)[0]);
    assert_eq!(segment_object_keys(&mine)[1..], segment_object_keys(&theirs)[1..]);
}
