//! A store that fails on request, for tests.

use std::io::{self, Cursor, Read};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{MemoryStore, ObjectInfo, ObjectKey, ObjectStore, StoreError, StoreErrorKind};

/// A store in memory of which one call fails.
#[derive(Debug)]
pub(crate) struct FaultyStore {
    /// What works, and what a failed call did before it failed.
    pub(crate) inner: MemoryStore,
    name: &'static str,
    calls_left: AtomicUsize,
    after_effect: bool,
}

impl FaultyStore {
    pub(crate) fn new(name: &'static str, inner: MemoryStore) -> Self {
        Self { inner, name, calls_left: AtomicUsize::new(usize::MAX), after_effect: false }
    }

    /// Fails the call after `calls` more, before it has any effect.
    pub(crate) fn failing_after(self, calls: usize) -> Self {
        Self { calls_left: AtomicUsize::new(calls), ..self }
    }

    /// The failing call has its effect all the same: the answer was lost.
    pub(crate) fn with_effect(self) -> Self {
        Self { after_effect: true, ..self }
    }

    /// Whether the failing call was made.
    pub(crate) fn has_failed(&self) -> bool {
        self.calls_left.load(Ordering::SeqCst) > usize::MAX / 2
    }

    /// Works again, or for the first time.
    pub(crate) fn heal(&self) {
        self.calls_left.store(usize::MAX / 2, Ordering::SeqCst);
    }

    fn call<T>(
        &self,
        action: &'static str,
        key: Option<&ObjectKey>,
        act: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        // Wraps around, and stays far from 0, once it has failed.
        if self.calls_left.fetch_sub(1, Ordering::SeqCst) != 0 {
            return act().map_err(|error| StoreError { store: self.describe(), ..error });
        }
        if self.after_effect {
            let _ = act();
        }
        let key = key.map_or_else(|| "objects".to_owned(), ToString::to_string);
        let source = io::ErrorKind::ConnectionReset.into();
        Err(StoreError { kind: StoreErrorKind::Transient, action, key, store: self.describe(), source })
    }
}

impl ObjectStore for FaultyStore {
    fn create(&self, key: &ObjectKey, body: &mut dyn Read) -> Result<ObjectInfo, StoreError> {
        self.call("create", Some(key), || self.inner.create(key, body))
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        self.call("open", Some(key), || self.inner.open(key))
    }

    fn visit(&self, prefix: Option<&ObjectKey>, visitor: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.call("list", prefix, || self.inner.visit(prefix, visitor))
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.call("delete", Some(key), || self.inner.delete(key))
    }

    fn describe(&self) -> String {
        self.name.to_owned()
    }
}

/// A store that gives back other bytes than it got, or none to the end.
#[derive(Debug, Clone, Default)]
pub(crate) struct LyingStore {
    pub(crate) inner: MemoryStore,
    /// Reading fails instead.
    pub(crate) breaks: bool,
}

impl ObjectStore for LyingStore {
    fn create(&self, key: &ObjectKey, body: &mut dyn Read) -> Result<ObjectInfo, StoreError> {
        self.inner.create(key, body)
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let mut bytes = Vec::new();
        let _ = self.inner.open(key)?.read_to_end(&mut bytes);
        match self.breaks {
            true => Ok(Box::new(Cursor::new(bytes).chain(Broken))),
            false => Ok(Box::new(Cursor::new(bytes).chain(&b"!"[..]))),
        }
    }

    fn visit(&self, prefix: Option<&ObjectKey>, visitor: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.inner.visit(prefix, visitor)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.delete(key)
    }

    fn describe(&self) -> String {
        "liar".to_owned()
    }
}
