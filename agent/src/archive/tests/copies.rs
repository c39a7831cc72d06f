//! Copies have what the first store has, or writing fails.

use super::*;
use crate::archive::{catch_up, make_copy};
use crate::store::MirrorStore;
use crate::store::faulty::FaultyStore;

fn mirror(stores: &[Arc<FaultyStore>]) -> MirrorStore {
    let mut stores = stores.iter().map(|store| Arc::clone(store) as Arc<dyn ObjectStore>);
    let first = stores.next().unwrap();
    MirrorStore::new(first, stores.collect())
}

fn stores(inner: &[MemoryStore]) -> Vec<Arc<FaultyStore>> {
    let names = ["a", "b", "c"].into_iter();
    names.zip(inner).map(|(name, inner)| Arc::new(FaultyStore::new(name, inner.clone()))).collect()
}

/// An archive in `a` with copies in `b` and `c`, and its keys.
fn copied() -> ([MemoryStore; 3], Archive) {
    let inner = [MemoryStore::new(), MemoryStore::new(), MemoryStore::new()];
    let writer = archive(&inner[0]);
    let mirror = mirror(&stores(&inner));
    assert!(mirror.copies().all(|copy| make_copy(&mirror, copy).unwrap()));
    assert!(mirror.copies().all(|copy| !make_copy(&mirror, copy).unwrap()), "once is enough");
    (inner, writer)
}

/// The same archive in these stores.
fn within(archive: &Archive, stores: MirrorStore) -> Archive {
    Archive { store: Arc::new(stores), ..archive.clone() }
}

fn contents(store: &MemoryStore) -> Vec<(String, Vec<u8>)> {
    keys(store).into_iter().map(|name| (name.clone(), store.get(&key(&name)).unwrap())).collect()
}

/// A segment of four objects, published in stores of which one fails at one call; then again by an agent that was
/// started anew. Whatever is published is in each store, whole and the same.
#[test]
fn what_is_published_is_whole_in_every_store_wherever_one_of_them_fails() {
    let plain = large();
    let mut faults = 0;
    for (broken, with_effect) in (0..3).flat_map(|broken| [(broken, false), (broken, true)]) {
        for call in 0.. {
            let (inner, writer) = copied();
            let mut failing = stores(&inner);
            let store = FaultyStore::new("broken", inner[broken].clone()).failing_after(call);
            failing[broken] = Arc::new(if with_effect { store.with_effect() } else { store });
            let attempt = within(&writer, mirror(&failing)).with_object_bytes_max(300);
            let outcome = attempt.publish_segment(draft(0, &plain, None), &mut &plain[..]);
            let failed = failing[broken].has_failed();
            faults += usize::from(failed);
            if outcome.is_ok() {
                // Some calls are not needed for success: taking back, or a second look.
                inner.iter().for_each(|store| is_whole(&writer, store, &plain));
            }
            if outcome.is_err() {
                assert!(failed);
                let healthy = mirror(&stores(&inner));
                catch_up(&healthy).unwrap();
                let again = within(&writer, healthy).with_object_bytes_max(274);
                again.publish_segment(draft(0, &plain, None), &mut &plain[..]).unwrap();
                inner.iter().for_each(|store| is_whole(&writer, store, &plain));
            }
            if !failed {
                outcome.unwrap();
                break;
            }
        }
    }
    // Five objects: the first store is asked to create each and to give it back to two copies. All are asked whether they
    // have the four that the manifest names.
    assert_eq!(faults, 2 * (5 * 3 + 5 + 5 + 4 * 3));
}

fn is_whole(writer: &Archive, store: &MemoryStore, plain: &[u8]) {
    let alone = Archive { store: Arc::new(store.clone()), ..writer.clone() };
    let segments = alone.inventory().unwrap().segments;
    assert_eq!(segments.len(), 1);
    assert_eq!(read_all(alone.read_segment(&segments[0]).unwrap()), plain);
}

/// A writer that died between the stores, and one that is gone for good.
#[test]
fn a_copy_that_is_behind_gets_what_it_lacks_and_its_manifests_last() {
    let (inner, writer) = copied();
    writer.publish_timeline(&timeline()).unwrap();
    published(&writer);
    let count = keys(&inner[0]).len() as u64 - 1;
    for calls in 0..count {
        let copy = MemoryStore::new();
        let failing = Arc::new(FaultyStore::new("copy", copy.clone()));
        let stores = MirrorStore::new(Arc::new(inner[0].clone()), vec![failing]);
        assert!(make_copy(&stores, &copy).unwrap());
        let failing = Arc::new(FaultyStore::new("copy", copy.clone()).failing_after(1 + calls as usize));
        let stores = MirrorStore::new(Arc::new(inner[0].clone()), vec![failing]);
        catch_up(&stores).unwrap_err();
        assert_eq!(keys(&copy).len() as u64, 1 + calls);
        let alone = Archive { store: Arc::new(copy.clone()), ..writer.clone() };
        for segment in alone.inventory().unwrap().segments {
            alone.check_segment(&segment).unwrap();
        }
    }
    let stores = mirror(&stores(&inner));
    assert_eq!(catch_up(&stores).unwrap(), 2 * count);
    assert_eq!(catch_up(&stores).unwrap(), 0);
    assert!(inner.iter().all(|store| contents(store) == contents(&inner[0])));
}

#[test]
fn a_copy_that_is_missing_another_archive_or_no_empty_store_is_refused_untouched() {
    let (inner, _) = copied();
    let open = |copy: &MemoryStore| {
        let stores = mirror(&stores(&[inner[0].clone(), copy.clone()]));
        let made = stores.copies().map(|copy| make_copy(&stores, copy).map_err(|e| e.to_string())).collect::<Vec<_>>();
        (Archive::open_mirrored(stores, None).map(drop), made)
    };
    let empty = MemoryStore::new();
    let error = Archive::open_mirrored(mirror(&stores(&[inner[0].clone(), empty.clone()])), None).unwrap_err();
    assert_eq!(error.to_string(), "b holds no copy of the archive in a");
    assert_eq!(error.hint().unwrap(), "check that it is mounted; `highwater init` fills an empty folder with a copy");
    assert!(keys(&empty).is_empty(), "opening makes nothing");

    let other = MemoryStore::new();
    archive(&other);
    let before = contents(&other);
    let (error, made) = open(&other);
    assert_eq!(error.unwrap_err().to_string(), "b holds another archive than a");
    assert_eq!(made, [Err("b holds another archive than a".to_owned())]);
    assert_eq!(contents(&other), before);

    let photos = MemoryStore::new();
    photos.create(&key("a-photo"), &mut &b"x"[..]).unwrap();
    assert_eq!(open(&photos).1, [Err("b is not empty: it has a-photo".to_owned())]);
    assert_eq!(keys(&photos), ["a-photo"]);

    let (opened, made) = open(&inner[1]);
    opened.unwrap();
    assert_eq!(made, [Ok(false)]);
}

/// The first store was put back to an older state, or lost something: nothing may be written over the difference.
#[test]
fn a_copy_that_has_more_than_the_first_store_is_told() {
    let (inner, writer) = copied();
    writer.publish_timeline(&timeline()).unwrap();
    published(&writer);
    let stores = mirror(&stores(&inner));
    catch_up(&stores).unwrap();
    inner[2].create(&key("segments/0001/leftover.zst"), &mut &b"x"[..]).unwrap();
    inner[2].create(&key("agents/00000001.json"), &mut &b"x"[..]).unwrap();
    assert_eq!(catch_up(&stores).unwrap(), 0, "data that no manifest names, and marks of agents, are no loss");
    let gone = segment_manifest_key(TimelineId(1), 2);
    inner[0].delete(&key(&gone)).unwrap();
    let error = catch_up(&stores).unwrap_err();
    assert_eq!(error.to_string(), format!("b has {gone}, which a lacks"));
    assert_eq!(error.hint().unwrap(), "a lost something: bring it back from b, or make b the [store]");
    assert_eq!(error.exit(), crate::exit::Exit::Damaged);
}

#[test]
fn a_copy_whose_object_is_shorter_is_told() {
    let (inner, writer) = copied();
    let segment = published(&writer).remove(0);
    let stores = mirror(&stores(&inner));
    catch_up(&stores).unwrap();
    let object = key(&segment_object_keys(&segment)[0]);
    inner[1].overwrite(&object, b"short".to_vec());
    assert_eq!(catch_up(&stores).unwrap_err().to_string(), format!("compare {object} in b"));
}

/// Each was the first store once, and got a last segment of its own.
#[test]
fn a_copy_whose_last_segment_is_another_of_the_same_size_is_told() {
    let (inner, writer) = copied();
    writer.publish_timeline(&timeline()).unwrap();
    published(&writer);
    let stores = mirror(&stores(&inner));
    catch_up(&stores).unwrap();
    let last = keys(&inner[1]).into_iter().rfind(|key| key.starts_with("segments/") && key.ends_with(".json")).unwrap();
    let mut bytes = inner[1].get(&key(&last)).unwrap();
    let digit = bytes.iter().rposition(u8::is_ascii_digit).unwrap();
    bytes[digit] ^= 1;
    inner[1].overwrite(&key(&last), bytes);
    let error = catch_up(&stores).unwrap_err();
    assert_eq!(error.to_string(), format!("compare {last} in b"));
}
