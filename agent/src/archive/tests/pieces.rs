//! Segments in several objects.

use super::*;

/// 1,000 bytes that no two objects have in common.
pub(super) fn large() -> Vec<u8> {
    (0..250u32).flat_map(|number| (number.wrapping_mul(2_654_435_761)).to_le_bytes()).collect()
}

#[test]
fn a_segment_larger_than_an_object_is_in_several_and_reads_back_as_one() {
    let plain = large();
    for (object_bytes_max, sizes) in [
        (1, vec![1; 1000]),
        (300, vec![300, 300, 300, 100]),
        (500, vec![500, 500]),
        (999, vec![999, 1]),
        (1000, vec![1000]),
        (u64::MAX, vec![1000]),
    ] {
        let store = MemoryStore::new();
        let archive = archive(&store).with_object_bytes_max(object_bytes_max);
        let segment = archive.publish_segment(draft(0, &plain, None), &mut &plain[..]).unwrap();
        assert_eq!(segment.objects.iter().map(|object| object.plain_size).collect::<Vec<_>>(), sizes);
        assert_eq!(segment.plain_blake3, Blake3Digest(blake3::hash(&plain).into()));
        let mut named = segment_object_keys(&segment);
        named.extend([REPOSITORY_KEY.to_owned(), segment_manifest_key(TimelineId(1), 0)]);
        named.sort();
        assert_eq!(keys(&store), named);
        assert_eq!(archive.inventory().unwrap().segments, std::slice::from_ref(&segment));
        assert_eq!(read_all(archive.read_segment(&segment).unwrap()), plain);
        let mut dribble = Vec::new();
        let mut reader = archive.read_segment(&segment).unwrap();
        while let count @ 1.. = reader.read(dribble_buffer(&mut dribble)).unwrap() {
            dribble.truncate(dribble.len() - 7 + count);
        }
        dribble.truncate(dribble.len() - 7);
        assert_eq!(dribble, plain, "in reads of 7 bytes");
    }
}

fn dribble_buffer(bytes: &mut Vec<u8>) -> &mut [u8] {
    let len = bytes.len();
    bytes.resize(len + 7, 0);
    &mut bytes[len..]
}

#[test]
fn an_object_is_stored_before_the_next_is_read() {
    /// Bytes that are ready only once the objects of those before them are in the store.
    struct Watching<'a> {
        plain: &'a [u8],
        given: u64,
        store: MemoryStore,
    }
    impl Read for Watching<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let stored = keys(&self.store).iter().filter(|key| key.ends_with(".binlog.zst.age")).count();
            assert_eq!(stored as u64, (self.given / 300).min(3), "after {} bytes", self.given);
            let len = buffer.len().min(100);
            let count = self.plain.read(&mut buffer[..len])?;
            self.given += count as u64;
            Ok(count)
        }
    }
    let store = MemoryStore::new();
    let archive = archive(&store).with_object_bytes_max(300);
    let plain = large();
    let mut watching = BufReader::new(Watching { plain: &plain, given: 0, store: store.clone() });
    archive.publish_segment(draft(0, &plain, None), &mut watching).unwrap();
    assert_eq!(watching.get_ref().given, 1000);
}

#[test]
fn a_segment_cut_into_other_objects_is_the_same_segment() {
    let store = MemoryStore::new();
    let archive = archive(&store);
    let plain = large();
    let first = archive.clone().with_object_bytes_max(400);
    let first = first.publish_segment(draft(0, &plain, None), &mut &plain[..]).unwrap();
    let objects = keys(&store);
    let again = archive.with_object_bytes_max(300).publish_segment(draft(0, &plain, None), &mut &plain[..]).unwrap();
    assert_eq!(again, first);
    assert_eq!(keys(&store), objects, "what was sealed again is removed");
}

/// Fault 8 and 9, in a segment of several objects.
#[test]
fn objects_that_are_damaged_exchanged_or_missing_are_found_wherever_they_are() {
    let store = MemoryStore::new();
    let archive = archive(&store).with_object_bytes_max(300);
    let plain = large();
    let segment = archive.publish_segment(draft(0, &plain, None), &mut &plain[..]).unwrap();
    let names = segment_object_keys(&segment);
    let originals: Vec<_> = names.iter().map(|name| store.get(&key(name)).unwrap()).collect();
    for (name, original) in names.iter().zip(&originals) {
        store.overwrite(&key(name), original[..original.len() - 1].to_vec());
        let error = archive.check_segment(&segment).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{name} is damaged: ")), "{error}");
        store.overwrite(&key(name), originals[0].iter().rev().copied().collect());
        assert_eq!(archive.check_segment(&segment).unwrap_err().exit(), crate::exit::Exit::Damaged);
        store.delete(&key(name)).unwrap();
        assert_eq!(archive.check_segment(&segment).unwrap_err().to_string(), format!("{name} is missing"));
        store.overwrite(&key(name), original.clone());
    }
    archive.check_segment(&segment).unwrap();
    store.overwrite(&key(&names[0]), originals[1].clone());
    store.overwrite(&key(&names[1]), originals[0].clone());
    let error = archive.check_segment(&segment).unwrap_err();
    assert!(error.to_string().starts_with(&format!("{} is damaged: ", names[0])), "{error}");
}

#[test]
fn objects_that_are_not_the_segment_together_are_found() {
    let store = MemoryStore::new();
    let archive = archive(&store).with_object_bytes_max(300);
    let plain = large();
    let mut segment = archive.publish_segment(draft(0, &plain, None), &mut &plain[..]).unwrap();
    segment.plain_blake3.0[0] ^= 1;
    let error = archive.check_segment(&segment).unwrap_err().to_string();
    assert_eq!(error, "segments/0001/000000000000.json is damaged: the BLAKE3 of its objects together is another");
    let mut reader = archive.read_segment(&segment).unwrap();
    io::copy(&mut reader, &mut io::sink()).unwrap_err();
    reader.read(&mut [0; 9]).expect_err("once more, and it is no end");
}

#[test]
fn a_reader_that_goes_on_after_a_missing_object_passes_over_nothing() {
    let store = MemoryStore::new();
    let archive = archive(&store).with_object_bytes_max(300);
    let plain = large();
    let segment = archive.publish_segment(draft(0, &plain, None), &mut &plain[..]).unwrap();
    let second = key(&segment_object_keys(&segment)[1]);
    let bytes = store.get(&second).unwrap();
    store.delete(&second).unwrap();
    let mut reader = archive.read_segment(&segment).unwrap();
    let mut found = Vec::new();
    reader.read_to_end(&mut found).unwrap_err();
    reader.read(&mut [0; 9]).unwrap_err();
    assert_eq!(found, plain[..300]);
    store.overwrite(&second, bytes);
    reader.read_to_end(&mut found).unwrap();
    assert_eq!(found, plain);
}

/// A store that fails on the way is not filled with what a later attempt seals anew.
#[test]
fn objects_of_an_attempt_that_failed_before_the_manifest_are_removed() {
    let store = MemoryStore::new();
    let healthy = archive(&store).with_object_bytes_max(300);
    let before = keys(&store);
    let plain = large();
    for stored in 0..4 {
        let dying = DyingStore { inner: store.clone(), ending: ".age", left: Arc::new(Mutex::new(stored)) };
        let doomed = Archive { store: Arc::new(dying), ..healthy.clone() };
        let error = doomed.publish_segment(draft(0, &plain, None), &mut &plain[..]).unwrap_err();
        assert!(matches!(error, ArchiveError::Store(ref error) if error.kind == StoreErrorKind::Transient), "{error}");
        assert_eq!(keys(&store), before, "after {stored} objects");
    }
}

/// Without encryption two writers give the same bytes the same name: what one of them put there may be published by the
/// other.
#[test]
fn objects_of_a_failed_attempt_stay_in_an_archive_without_encryption() {
    let store = MemoryStore::new();
    let healthy = Archive::create(Arc::new(store.clone()), service(), Recipients::default()).unwrap();
    let healthy = healthy.with_object_bytes_max(300);
    let plain = large();
    let segment = healthy.publish_segment(draft(0, &plain, None), &mut &plain[..]).unwrap();
    let dying = DyingStore { inner: store, ending: ".zst", left: Arc::new(Mutex::new(1)) };
    let doomed = Archive { store: Arc::new(dying), ..healthy.clone() };
    doomed.publish_segment(draft(0, &plain, None), &mut &plain[..]).unwrap_err();
    healthy.check_segment(&segment).unwrap();
}
