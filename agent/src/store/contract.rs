//! What every store must do: run on each of them.

use std::io::{self, Read};

use super::{ObjectKey, ObjectStore, StoreErrorKind};

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

fn read(store: &dyn ObjectStore, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.open(&key(name)).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn names(store: &dyn ObjectStore, prefix: Option<&str>) -> Vec<String> {
    let prefix = prefix.map(key);
    store.list(prefix.as_ref()).unwrap().into_iter().map(|info| info.key.to_string()).collect()
}

/// Runs the suite on fresh stores.
pub(crate) fn check(fresh: &dyn Fn() -> Box<dyn ObjectStore>) {
    a_created_object_reads_back(&*fresh());
    an_object_is_never_replaced(&*fresh());
    a_body_that_breaks_creates_nothing(&*fresh());
    absent_objects_are_missing(&*fresh());
    a_listing_is_sorted_and_keeps_to_whole_parts(&*fresh());
    a_deleted_object_can_be_created_again(&*fresh());
    one_of_many_creators_wins(fresh());
    what_is_begun_is_no_object_until_it_has_a_name(&*fresh());
}

fn a_created_object_reads_back(store: &dyn ObjectStore) {
    for size in [0, 1, 131_071, 131_072, 300_001] {
        let body: Vec<u8> = (0..size).map(|i: u32| i.to_le_bytes()[0]).collect();
        let name = format!("a/{size}");
        let info = store.create(&key(&name), &mut &body[..]).unwrap();
        assert_eq!((info.key, info.size), (key(&name), u64::from(size)));
        assert_eq!(read(store, &name), body);
    }
}

fn an_object_is_never_replaced(store: &dyn ObjectStore) {
    store.create(&key("a/b"), &mut &b"first"[..]).unwrap();
    let error = store.create(&key("a/b"), &mut &b"second"[..]).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Exists);
    assert_eq!(error.to_string(), format!("create a/b in {}", store.describe()));
    assert_eq!(read(store, "a/b"), b"first");
}

fn a_body_that_breaks_creates_nothing(store: &dyn ObjectStore) {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::AlreadyExists))
        }
    }
    let error = store.create(&key("a"), &mut (&b"half"[..]).chain(Broken)).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Other, "the body's error is not the store's");
    assert!(store.list(None).unwrap().is_empty());
}

fn absent_objects_are_missing(store: &dyn ObjectStore) {
    store.create(&key("a/b"), &mut &b""[..]).unwrap();
    for absent in ["x", "a/x", "a"] {
        assert_eq!(store.open(&key(absent)).err().unwrap().kind, StoreErrorKind::Missing, "{absent}");
        assert_eq!(store.delete(&key(absent)).unwrap_err().kind, StoreErrorKind::Missing, "{absent}");
    }
    assert!(names(store, Some("x")).is_empty());
}

fn a_listing_is_sorted_and_keeps_to_whole_parts(store: &dyn ObjectStore) {
    for name in ["b", "a/2", "a/10", "ab/1", "a-b/1", "a/2.json"] {
        store.create(&key(name), &mut &b"12"[..]).unwrap();
    }
    assert_eq!(names(store, None), ["a-b/1", "a/10", "a/2", "a/2.json", "ab/1", "b"]);
    assert_eq!(names(store, Some("a")), ["a/10", "a/2", "a/2.json"]);
    assert_eq!(names(store, Some("a/2")), ["a/2"]);
    assert_eq!(names(store, Some("b")), ["b"]);
    assert!(store.list(None).unwrap().iter().all(|info| info.size == 2));
}

fn a_deleted_object_can_be_created_again(store: &dyn ObjectStore) {
    store.create(&key("a"), &mut &b"first"[..]).unwrap();
    store.delete(&key("a")).unwrap();
    assert!(names(store, None).is_empty());
    store.create(&key("a"), &mut &b"second"[..]).unwrap();
    assert_eq!(read(store, "a"), b"second");
}

fn one_of_many_creators_wins(store: Box<dyn ObjectStore>) {
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let store = &*store;
        let threads: Vec<_> = (0..8u8)
            .map(|i| scope.spawn(move || store.create(&key("same/name"), &mut &vec![i; 9000][..]).map(|_| i)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let winners: Vec<u8> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok().copied()).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(read(&*store, "same/name"), vec![winners[0]; 9000]);
    let others = outcomes.into_iter().filter_map(Result::err);
    assert!(others.into_iter().all(|error| error.kind == StoreErrorKind::Exists));
}

fn what_is_begun_is_no_object_until_it_has_a_name(store: &dyn ObjectStore) {
    let Some(mut first) = store.begin().unwrap() else { return };
    let mut second = store.begin().unwrap().unwrap();
    for half in [&b"ha"[..], b"lf"] {
        first.write_all(half).unwrap();
        second.write_all(b"?").unwrap();
    }
    assert!(store.list(None).unwrap().is_empty());
    let info = first.create(&key("a/b")).unwrap();
    assert_eq!((info.key, info.size), (key("a/b"), 4));
    let error = second.create(&key("a/b")).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Exists);
    drop(store.begin().unwrap());
    assert_eq!((names(store, None), read(store, "a/b")), (vec!["a/b".to_owned()], b"half".to_vec()));
}
