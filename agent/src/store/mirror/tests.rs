use super::*;
use crate::store::faulty::{FaultyStore, LyingStore};
use crate::store::{DirectoryStore, MemoryStore, contract};

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

fn mirror(stores: &[Arc<FaultyStore>]) -> MirrorStore {
    let mut stores = stores.iter().map(|store| Arc::clone(store) as Arc<dyn ObjectStore>);
    let first = stores.next().unwrap();
    MirrorStore::new(first, stores.collect())
}

fn three() -> Vec<Arc<FaultyStore>> {
    ["a", "b", "c"].map(|name| Arc::new(FaultyStore::new(name, MemoryStore::new()))).to_vec()
}

/// Three stores, of which one fails at its call number `call`.
fn three_with_fault(broken: usize, call: usize, with_effect: bool) -> Vec<Arc<FaultyStore>> {
    let store = |(index, name)| {
        let store = FaultyStore::new(name, MemoryStore::new());
        let store = if index == broken { store.failing_after(call) } else { store };
        Arc::new(if with_effect { store.with_effect() } else { store })
    };
    ["a", "b", "c"].into_iter().enumerate().map(store).collect()
}

fn bytes(store: &FaultyStore) -> Option<Vec<u8>> {
    store.inner.get(&key("x/y"))
}

#[test]
fn keeps_the_contract() {
    contract::check(&|| Box::new(mirror(&three())));
    contract::check(&|| Box::new(MirrorStore::new(Arc::new(MemoryStore::new()), Vec::new())));
    contract::check(&|| {
        let store = || Arc::new(DirectoryStore::open(&tempfile::tempdir().unwrap().keep()).unwrap());
        Box::new(MirrorStore::new(store(), vec![store(), store()]))
    });
}

#[test]
fn created_is_what_every_store_has() {
    let stores = three();
    let mirror = mirror(&stores);
    let info = mirror.create(&key("x/y"), &mut &b"bytes"[..]).unwrap();
    assert_eq!(info.size, 5);
    assert!(stores.iter().all(|store| bytes(store).unwrap() == b"bytes"));
    assert_eq!(mirror.describe(), "a and b and c");
    mirror.delete(&key("x/y")).unwrap();
    assert!(stores.iter().all(|store| bytes(store).is_none()));
}

/// A fault at each call of each store, before its effect and after it: nothing is called created that a store lacks,
/// and doing it again makes it so.
#[test]
fn a_create_that_fails_anywhere_is_no_success_and_is_completed_by_the_next() {
    let mut faults = 0;
    for with_effect in [false, true] {
        for broken in 0..3 {
            for call in 0.. {
                let stores = three_with_fault(broken, call, with_effect);
                let created = mirror(&stores).create(&key("x/y"), &mut &b"bytes"[..]);
                if !stores[broken].has_failed() {
                    created.unwrap();
                    break;
                }
                faults += 1;
                let error = created.unwrap_err();
                assert_eq!(error.kind, StoreErrorKind::Transient, "{error}");
                assert_eq!(error.store, ["a", "b", "c"][broken], "the one that failed is named");
                stores.iter().for_each(|store| store.heal());
                match mirror(&stores).create(&key("x/y"), &mut &b"other"[..]) {
                    // The first store had nothing yet.
                    Ok(_) => assert!(stores.iter().all(|store| bytes(store).unwrap() == b"other")),
                    Err(error) => {
                        assert_eq!(error.kind, StoreErrorKind::Exists);
                        assert!(stores.iter().all(|store| bytes(store).unwrap() == b"bytes"), "the first store's");
                    }
                }
            }
        }
    }
    assert_eq!(faults, 2 * (3 + 1 + 1), "create and two openings, one create each");
}

#[test]
fn a_copy_that_failed_does_not_keep_the_object_from_the_others() {
    let stores = three_with_fault(1, 0, false);
    mirror(&stores).create(&key("x/y"), &mut &b"bytes"[..]).unwrap_err();
    assert!(bytes(&stores[1]).is_none());
    assert_eq!(bytes(&stores[2]).unwrap(), b"bytes");
}

#[test]
fn a_copy_with_another_object_of_that_name_is_an_error_and_is_not_touched() {
    let long = vec![7; 200_000];
    let mut longer = long.clone();
    longer.push(7);
    for (ours, theirs) in [(&b"ours"[..], &b"theirs"[..]), (&long, &longer), (&longer, &long), (b"", b"x")] {
        let stores = three();
        stores[2].inner.create(&key("x/y"), &mut &*theirs).unwrap();
        for attempt in 0..2 {
            let mut body = ours;
            let error = mirror(&stores).create(&key("x/y"), &mut body).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Other, "attempt {attempt}");
            assert_eq!(error.to_string(), "compare x/y in c");
            assert_eq!(error.source.to_string(), "a has another object of that name");
        }
        assert_eq!(bytes(&stores[2]).unwrap(), theirs);
    }
}

#[test]
fn what_the_first_store_lacks_or_cannot_give_is_read_from_a_copy() {
    let stores = three();
    let mirror = mirror(&stores);
    mirror.create(&key("x/y"), &mut &b"bytes"[..]).unwrap();
    stores[0].inner.delete(&key("x/y")).unwrap();
    stores[1].inner.delete(&key("x/y")).unwrap();
    let mut found = Vec::new();
    mirror.open(&key("x/y")).unwrap().read_to_end(&mut found).unwrap();
    assert_eq!(found, b"bytes");
    stores[2].inner.delete(&key("x/y")).unwrap();
    let error = mirror.open(&key("x/y")).err().unwrap();
    assert_eq!((error.kind, error.store.as_str()), (StoreErrorKind::Missing, "a"));
}

#[test]
fn deleting_tries_every_store_and_tells_what_failed() {
    for broken in 0..3 {
        let stores = three_with_fault(broken, 0, false);
        stores.iter().for_each(|store| drop(store.inner.create(&key("x/y"), &mut &b"bytes"[..]).unwrap()));
        let error = mirror(&stores).delete(&key("x/y")).unwrap_err();
        assert_eq!((error.kind, error.store.as_str()), (StoreErrorKind::Transient, ["a", "b", "c"][broken]));
        let left: Vec<_> = (0..3).filter(|index| bytes(&stores[*index]).is_some()).collect();
        assert_eq!(left, [broken]);
        mirror(&stores).delete(&key("x/y")).unwrap();
        assert_eq!(mirror(&stores).delete(&key("x/y")).unwrap_err().kind, StoreErrorKind::Missing);
    }
}

/// Fault 13: what a store gives back is not what it got.
#[test]
fn a_copy_does_not_take_what_the_first_store_made_of_an_object() {
    for (breaks, kind) in [(false, StoreErrorKind::Other), (true, StoreErrorKind::Transient)] {
        let copy = MemoryStore::new();
        let liar = LyingStore { inner: MemoryStore::new(), breaks };
        let mirror = MirrorStore::new(Arc::new(liar), vec![Arc::new(copy.clone())]);
        let error = mirror.create(&key("x/y"), &mut &b"bytes"[..]).unwrap_err();
        assert_eq!((error.kind, error.to_string().as_str()), (kind, "read back x/y in liar"));
        assert!(copy.get(&key("x/y")).is_none());
    }
}
