//! Kept files.

use highwater_catalog::{KeptFile, file_body_keys, file_header_key};
use highwater_keyring::FileMark;

use super::*;

fn file_draft(body: &[u8]) -> FileDraft {
    FileDraft {
        server: SERVER.parse().unwrap(),
        binlog: "binlog.000042".parse().unwrap(),
        mark: FileMark::of_body(body).unwrap(),
        server_version: "9.7.0".to_owned(),
        gtids_before: format!("{SERVER}:1-9").parse().unwrap(),
        gtids_added: format!("{SERVER}:10-11").parse().unwrap(),
        first_commit: Some(Micros(1)),
        last_commit: Some(Micros(2)),
        events: 9,
        transactions: 2,
        key_id: "MySQLReplicationKey_1".to_owned(),
        key_generation: 1,
        body_size: body.len() as u64,
        body_blake3: Blake3Digest(blake3::hash(body).into()),
    }
}

#[test]
fn header_and_body_are_apart_and_read_back_as_they_were() {
    let (store, body) = (MemoryStore::new(), large());
    let archive = archive(&store).with_object_bytes_max(300);
    let file = archive.keep_file(file_draft(&body), &[0xfd; 512], &mut &body[..]).unwrap();
    assert_eq!(file.objects.len(), 4);
    let mut named = file_body_keys(&file);
    named.push(file_header_key(&file.server, &file.binlog, &file.mark, &file.header));
    named.extend([REPOSITORY_KEY.to_owned(), file.key()]);
    named.sort();
    assert_eq!(keys(&store), named);
    assert_eq!(archive.inventory().unwrap().files, std::slice::from_ref(&file));
    assert_eq!(read_all(archive.read_file_body(&file).unwrap()), body);
    assert_eq!(archive.read_file_header(&file).unwrap(), [0xfd; 512]);
}

#[test]
fn a_body_is_kept_once_whatever_its_header_has_become() {
    let (store, body) = (MemoryStore::new(), large());
    let archive = archive(&store);
    let file = archive.keep_file(file_draft(&body), &[1; 512], &mut &body[..]).unwrap();
    let before = keys(&store);
    let mut later = file_draft(&body);
    (later.key_id, later.key_generation) = ("MySQLReplicationKey_2".to_owned(), 2);
    assert_eq!(archive.keep_file(later, &[2; 512], &mut &body[..]).unwrap(), file);
    assert_eq!(keys(&store), before, "nothing of the second time stays");
    assert_eq!(archive.read_file_header(&file).unwrap(), [1; 512]);
}

#[test]
fn another_body_under_its_mark_is_a_conflict() {
    let (store, body) = (MemoryStore::new(), large());
    let archive = archive(&store);
    archive.keep_file(file_draft(&body), &[1; 512], &mut &body[..]).unwrap();
    let mut other = body.clone();
    other[500] ^= 1;
    let before = keys(&store);
    let error = archive.keep_file(file_draft(&other), &[1; 512], &mut &other[..]).unwrap_err();
    assert!(matches!(error, ArchiveError::Conflict { .. }), "{error}");
    assert_eq!(keys(&store), before);
}

#[test]
fn a_body_that_is_not_the_proven_one_is_not_published_and_leaves_nothing() {
    let (store, body) = (MemoryStore::new(), large());
    let archive = archive(&store).with_object_bytes_max(300);
    let before = keys(&store);
    let mut other = body.clone();
    other[500] ^= 1;
    for wrong in [&other[..], &body[..999], &[&body[..], b"x"].concat()] {
        let error = archive.keep_file(file_draft(&body), &[1; 512], &mut &wrong[..]).unwrap_err();
        assert!(matches!(error, ArchiveError::Changed { .. } | ArchiveError::Draft { .. }), "{error}");
        assert_eq!(keys(&store), before);
    }
}

#[test]
fn a_header_that_cannot_be_stored_leaves_nothing() {
    let (store, body) = (MemoryStore::new(), large());
    let healthy = archive(&store).with_object_bytes_max(300);
    let before = keys(&store);
    let dying = DyingStore { inner: store.clone(), ending: ".header.zst.age", left: Arc::new(Mutex::new(0)) };
    let doomed = Archive { store: Arc::new(dying), ..healthy };
    doomed.keep_file(file_draft(&body), &[1; 512], &mut &body[..]).unwrap_err();
    assert_eq!(keys(&store), before);
}

#[test]
fn damage_in_any_object_is_found() {
    let (store, body) = (MemoryStore::new(), large());
    let archive = archive(&store).with_object_bytes_max(300);
    let file = archive.keep_file(file_draft(&body), &[1; 512], &mut &body[..]).unwrap();
    for object in file_body_keys(&file) {
        let whole = store.get(&key(&object)).unwrap();
        let mut damaged = whole.clone();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        store.overwrite(&key(&object), damaged);
        let mut reader = archive.read_file_body(&file).unwrap();
        assert!(io::copy(&mut reader, &mut io::sink()).is_err(), "{object}");
        store.overwrite(&key(&object), whole);
    }
    // Objects that are all sound, and together another body than the manifest's.
    let other = KeptFile { body_blake3: Blake3Digest([0; 32]), ..file };
    let mut reader = archive.read_file_body(&other).unwrap_or_else(|_| panic!("opens"));
    let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
    assert!(error.to_string().contains("the BLAKE3 of its objects together is another"), "{error}");
}
