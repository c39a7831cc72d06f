//! Commands that read an archive, on archives that are whole, damaged, or sealed to somebody else.

use std::path::Path;
use std::sync::Arc;

use highwater::archive::{Archive, SegmentDraft};
use highwater::seal::NewIdentity;
use highwater::store::DirectoryStore;
use highwater_catalog::{
    Dump, DumpFileKind, Micros, Segment, Timeline, TimelineId, segment_manifest_key, segment_object_keys,
};

use super::{Place, read};

const SERVER: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const BEGIN: u64 = 1_700_000_000_000_000;

/// An archive with a dump at transactions 1-2 and segments with transactions 1, 2, … each 100 bytes long and in two objects.
fn fill(place: &Place, segments: u64) -> Vec<Segment> {
    place.init();
    let archive = open(place);
    let timeline = Timeline {
        id: TimelineId(1),
        parent: None,
        reason: "first start".to_owned(),
        starting_gtids: "".parse().unwrap(),
        created: Micros(BEGIN),
    };
    archive.publish_timeline(&timeline).unwrap();
    let mut published: Vec<Segment> = Vec::new();
    for sequence in 0..segments {
        let previous = published.last().map(|segment| segment.plain_blake3);
        let plain = [u8::try_from(sequence).unwrap(); 100];
        published.push(archive.publish_segment(draft(sequence, previous), &mut &plain[..]).unwrap());
    }
    dump(&archive);
    published
}

fn open(place: &Place) -> Archive {
    let text = read(&place.path("highwater.toml"));
    let config = highwater::config::Config::parse(&text, &place.path("highwater.toml")).unwrap();
    let store = Arc::new(DirectoryStore::open(&place.path("store")).unwrap());
    let archive = Archive::open(store, None).unwrap();
    archive.for_writing(&"orders".parse().unwrap(), config.recipients().unwrap()).unwrap().with_object_bytes_max(60)
}

fn draft(sequence: u64, previous_blake3: Option<highwater_catalog::Blake3Digest>) -> SegmentDraft {
    let before = if sequence == 0 { String::new() } else { format!("{SERVER}:1-{sequence}") };
    SegmentDraft {
        timeline: TimelineId(1),
        sequence,
        server: SERVER.parse().unwrap(),
        binlog: "binlog.000001".parse().unwrap(),
        start: 100 * sequence,
        end: 100 * sequence + 100,
        gtids_before: before.parse().unwrap(),
        gtids_added: format!("{SERVER}:{}", sequence + 1).parse().unwrap(),
        first_commit: Some(Micros(BEGIN + sequence * 1_000_000)),
        last_commit: Some(Micros(BEGIN + sequence * 1_000_000)),
        events: 3,
        transactions: 1,
        previous_blake3,
    }
}

fn dump(archive: &Archive) {
    let writer = archive.begin_dump("20231114T221320Z-1f3a".parse().unwrap()).unwrap();
    let schema = writer.create_file("schema.sql").unwrap().finish(DumpFileKind::Schema).unwrap();
    let dump = Dump {
        id: writer.id().clone(),
        timeline: TimelineId(1),
        server: SERVER.parse().unwrap(),
        server_version: "9.7.0".to_owned(),
        gtids: format!("{SERVER}:1-2").parse().unwrap(),
        position: None,
        started: Micros(BEGIN + 1_000_000),
        finished: Micros(BEGIN + 1_500_000),
        method: "backup lock".to_owned(),
        files: vec![schema],
    };
    writer.publish(dump).unwrap();
}

fn flip_last_byte(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn status_shows_the_recoverable_window_from_the_store_alone() {
    let place = Place::new();
    fill(&place, 4);
    for words in [&["status"][..], &["status", "--store", "$DIR/store"]] {
        let ran = place.run(words);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
        assert!(
            ran.stdout
                .contains("restorable   2023-11-14 22:13:21.000000 +00:00  to  2023-11-14 22:13:23.000000 +00:00\n"),
            "{}",
            ran.stdout
        );
        assert!(ran.stdout.contains(&format!("high water   {SERVER}:1-4\n")), "{}", ran.stdout);
        assert!(ran.stdout.contains("last dump    20231114T221320Z-1f3a, "), "{}", ran.stdout);
    }
    let ran = place.run(&["--json", "status"]);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["timelines"][0]["spans"][0]["earliest"]["time"], "2023-11-14T22:13:21.000000Z");
    assert_eq!(json["timelines"][0]["spans"][0]["latest"]["time"], "2023-11-14T22:13:23.000000Z");
    assert_eq!(json["encrypted"], true);
}

#[test]
fn a_gap_makes_status_and_verify_loud() {
    let place = Place::new();
    fill(&place, 4);
    std::fs::remove_file(place.path("store").join(segment_manifest_key(TimelineId(1), 2))).unwrap();
    let ran = place.run(&["status"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.stdout.contains("PROBLEM      gap: "), "{}", ran.stdout);
    assert!(ran.stderr.contains(&format!("lacks {SERVER}:3")), "{}", ran.stderr);
    let ran = place.run(&["verify"]);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.stderr.contains(&format!("lacks {SERVER}:3")), "{}", ran.stderr);
    let ran = place.run(&["status", "--nagios"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stdout.starts_with("HIGHWATER CRITICAL - gap: "), "{}", ran.stdout);
}

#[test]
fn nagios_answers_in_its_own_codes() {
    let place = Place::new();
    fill(&place, 1);
    let ran = place.run(&["status", "--nagios", "--warn-lag", "9000000000", "--critical-lag", "9000000000"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.starts_with("HIGHWATER OK - everything can be restored | newest_age="), "{}", ran.stdout);
    let ran = place.run(&["status", "--nagios", "--warn-lag", "1", "--critical-lag", "9000000000"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    let ran = place.run(&["status", "--nagios"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    let ran = place.run(&["status", "--nagios", "--store", "$DIR/none"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (3, "HIGHWATER UNKNOWN - open the folder in $DIR/none: No such file or directory (os error 2)\n")
    );
}

#[test]
fn lists_show_what_the_archive_has() {
    let place = Place::new();
    fill(&place, 2);
    let ran = place.run(&["list", "segments", "--store", "$DIR/store"]);
    assert_eq!(ran.stdout.lines().count(), 3, "{}", ran.stdout);
    assert!(ran.stdout.contains("binlog.000001    100  200             1"), "{}", ran.stdout);
    let ran = place.run(&["--json", "list", "dumps"]);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json[0]["gtids"], format!("{SERVER}:1-2"));
    let ran = place.run(&["list", "timelines"]);
    assert!(ran.stdout.contains("0001      -       2023-11-14 22:13:20.000000 +00:00  first start"), "{}", ran.stdout);
    assert_eq!(place.run(&["list", "keys"]).stdout, "server  generation  taken  keys\n");
}

#[test]
fn verify_reads_everything_back() {
    let place = Place::new();
    fill(&place, 3);
    let ran = place.run(&["verify"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    assert!(
        ran.stdout.starts_with("$DIR/store: read 3 segments, 1 dump files, 0 key bundles and 0 kept files, "),
        "{}",
        ran.stdout
    );
    let ran = place.run(&["verify", "--store", "$DIR/store"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.starts_with("note     no identity was given: stored bytes were checked, but not unsealed\n"));
}

/// Faults 8 and 9.
#[test]
fn verify_names_every_damaged_object() {
    let place = Place::new();
    let segments = fill(&place, 3);
    let flipped = segment_object_keys(&segments[0]).remove(0);
    let missing = segment_object_keys(&segments[2]).remove(1);
    flip_last_byte(&place.path("store").join(&flipped));
    std::fs::remove_file(place.path("store").join(&missing)).unwrap();
    for words in [&["verify"][..], &["verify", "--store", "$DIR/store"]] {
        let ran = place.run(words);
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(ran.stdout.contains(&format!("DAMAGED  {flipped} is damaged: ")), "{}", ran.stdout);
        assert!(ran.stdout.contains(&format!("DAMAGED  {missing} is missing\n")), "{}", ran.stdout);
        assert!(ran.stderr.starts_with(&format!("error: {flipped} is damaged: ")), "{}", ran.stderr);
        assert!(ran.stderr.ends_with(
            "(and 1 more)\nhint: bring what is damaged back from another copy of the store, and take a new dump now\n"
        ), "{}", ran.stderr);
    }
}

/// Adds a copy to the configuration, which `init` fills.
fn copy(place: &Place) {
    let text = read(&place.path("highwater.toml"));
    let lines = "[[copies]]\nkind = \"directory\"\npath = \"copy\"\n\n[seal]\n";
    place.write("highwater.toml", &text.replacen("[seal]\n", lines, 1));
    let ran = place.run(&["init"]);
    assert!(ran.stdout.contains("made  copy of service orders in $DIR/copy\n"), "{ran:?}");
}

#[test]
fn verify_reads_each_copy_and_tells_where_the_damage_is() {
    let place = Place::new();
    let segments = fill(&place, 3);
    copy(&place);
    let ran = place.run(&["verify"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    for store in ["store", "copy"] {
        let line = format!("$DIR/{store}: read 3 segments, 1 dump files, 0 key bundles and 0 kept files, ");
        assert!(ran.stdout.contains(&line), "{}", ran.stdout);
    }
    let damaged = segment_object_keys(&segments[1]).remove(1);
    for (store, other) in [("copy", "store"), ("store", "copy")] {
        flip_last_byte(&place.path(store).join(&damaged));
        let ran = place.run(&["verify"]);
        assert_eq!(ran.code, 4, "{ran:?}");
        let error = format!("error: $DIR/{store}: {damaged} is damaged: ");
        assert!(ran.stderr.starts_with(&error) && !ran.stderr.contains("more)"), "{}", ran.stderr);
        let json = place.run(&["--json", "verify"]);
        let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
        let (first, copy) = (&json["damage"], &json["copies"][0]["damage"]);
        let (bad, good) = if store == "store" { (first, copy) } else { (copy, first) };
        assert_eq!((bad.as_array().unwrap().len(), good.as_array().unwrap().len()), (1, 0));
        std::fs::copy(place.path(other).join(&damaged), place.path(store).join(&damaged)).unwrap();
    }
}

#[test]
fn a_first_store_that_lost_everything_is_not_made_anew() {
    let place = Place::new();
    fill(&place, 1);
    copy(&place);
    std::fs::remove_dir_all(place.path("store")).unwrap();
    place.refused(
        &["init"],
        1,
        "error: $DIR/store holds no archive, and its copy in $DIR/copy does\n\
         hint: make $DIR/copy the [store] and $DIR/store one of [[copies]]: init fills it\n",
    );
    let ran = place.run(&["list", "segments"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stderr.contains("a store cannot be read: going on with the others"), "{}", ran.stderr);
    assert!(ran.stdout.contains("binlog.000001"), "{}", ran.stdout);
    // As the hint says.
    let text = read(&place.path("highwater.toml"));
    let swapped = text.replace("path = \"copy\"", "path = \"?\"");
    let swapped = swapped.replace(&format!("path = \"{}\"", place.path("store").display()), "path = \"copy\"");
    place.write("highwater.toml", &swapped.replace("path = \"?\"", "path = \"store\""));
    let ran = place.run(&["init"]);
    assert!(ran.stdout.contains("made  copy of service orders in $DIR/store\n"), "{ran:?}");
    let ran = place.run(&["verify"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn a_damaged_manifest_is_named_by_status_and_verify() {
    let place = Place::new();
    fill(&place, 1);
    let manifest = segment_manifest_key(TimelineId(1), 0);
    std::fs::write(place.path("store").join(&manifest), "{}").unwrap();
    for command in ["status", "verify"] {
        let ran = place.run(&[command]);
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(ran.stderr.starts_with(&format!("error: manifest {manifest}: ")), "{}", ran.stderr);
    }
    let ran = place.run(&["list", "segments"]);
    assert_eq!(ran.code, 4, "{ran:?}");
}

#[test]
fn the_wrong_identity_is_told_with_the_key_that_is_needed() {
    let place = Place::new();
    let segments = fill(&place, 1);
    let recipient = open(&place).repository().recipients[0].clone();
    let other = NewIdentity::generate();
    highwater::fsync::write_new(&place.path("other.txt"), other.file_text().as_bytes()).unwrap();
    let object = segment_object_keys(&segments[0]).remove(0);
    place.refused(
        &["verify", "--store", "$DIR/store", "--identity", "$DIR/other.txt"],
        3,
        &format!(
            "error: {object} is sealed to other keys than those of the given identity\n\
             hint: the archive was made for {recipient}\n"
        ),
    );
}

#[test]
fn an_identity_file_that_is_exposed_or_none_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    fill(&place, 0);
    let exposed = place.write("exposed.txt", &NewIdentity::generate().file_text());
    std::fs::set_permissions(&exposed, std::fs::Permissions::from_mode(0o644)).unwrap();
    place.refused(
        &["verify", "--store", "$DIR/store", "--identity", "$DIR/exposed.txt"],
        3,
        "error: identity file $DIR/exposed.txt can be read by other users (mode 0644)\n\
         hint: chmod 600 $DIR/exposed.txt\n",
    );
    place.refused(
        &["verify", "--store", "$DIR/store", "--identity", "$DIR/none.txt"],
        3,
        "error: read identity file $DIR/none.txt: No such file or directory (os error 2)\n\
         hint: name the file that `highwater init` or `age-keygen` wrote\n",
    );
}

#[test]
fn writers_refuse_an_archive_that_is_not_theirs() {
    let place = Place::new();
    place.init();
    let config = read(&place.path("highwater.toml"));
    place.write("other.toml", &config.replace("service = \"orders\"", "service = \"billing\""));
    place.refused(
        &["--config", "$DIR/other.toml", "dump"],
        1,
        "error: the archive in $DIR/store is of service `orders`, not `billing`\n\
         hint: every service has its own store: check `service` and `[store]`\n",
    );
    let recipients = config.lines().find(|line| line.starts_with("recipients")).unwrap();
    place.write("open.toml", &config.replace(recipients, "recipients = []"));
    place.refused(
        &["--config", "$DIR/open.toml", "dump"],
        1,
        "error: the archive in $DIR/store is encrypted, and seal.recipients is empty\n\
         hint: set seal.recipients to the public keys it was made for (highwater.json lists them)\n",
    );
}

#[test]
fn keys_are_exported_once_and_to_a_private_file() {
    use highwater_keyring::{KeyBundle, Keyring, MasterKey};
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    place.init();
    place.refused(
        &["keyring", "export", "-o", "$DIR/keyring"],
        3,
        "error: the archive has no keys\n\
         hint: set keyring.files: the agent seals their keys into the archive\n",
    );
    let mut keyring = Keyring::new();
    let id = format!("MySQLReplicationKey_{SERVER}_1");
    let key_id = highwater_keyring::KeyId::from_bytes(id.as_bytes()).unwrap();
    keyring.insert(key_id, MasterKey::from_slice(&[7; 32]).unwrap());
    let bundle = KeyBundle::new(SERVER, BEGIN, keyring).unwrap();
    open(&place).publish_keys(SERVER.parse().unwrap(), vec![id.clone()], &bundle.encode()).unwrap();

    let ran = place.run(&["keyring", "export", "-o", "$DIR/keyring"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "1 keys in $DIR/keyring\n", ""));
    let mode = std::fs::metadata(place.path("keyring")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let exported = Keyring::read(&std::fs::read(place.path("keyring")).unwrap()).unwrap();
    assert_eq!(exported.key_ids().map(|id| id.as_str().to_owned()).collect::<Vec<_>>(), [id]);
    place.refused(
        &["keyring", "export", "-o", "$DIR/keyring"],
        2,
        "error: $DIR/keyring exists\nhint: name a new file: nothing is replaced\n",
    );
}

#[test]
fn a_catalog_is_rebuilt_from_the_store_alone() {
    let place = Place::new();
    fill(&place, 3);
    let expected = "catalog $DIR/state/catalog.sqlite: 1 timelines, 3 segments, 1 dumps, 0 key bundles, 0 kept files\n";
    let ran = place.run(&["catalog", "rebuild"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, expected, ""));
    std::fs::write(place.path("state/catalog.sqlite"), "no database").unwrap();
    let ran = place.run(&["status"]);
    assert_eq!(ran.code, 0, "the catalog is a cache: {ran:?}");
    let ran = place.run(&["catalog", "rebuild"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, expected), "{ran:?}");
}
