//! A store in memory, for tests.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{ObjectInfo, ObjectKey, ObjectStore, StoreError, StoreErrorKind};

/// Objects in memory. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    objects: Arc<Mutex<BTreeMap<ObjectKey, Vec<u8>>>>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes of an object, if it exists.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Vec<u8>> {
        self.lock().get(key).cloned()
    }

    /// Puts bytes in place of whatever is there, as no writer of an archive does: for tests of damage.
    pub fn overwrite(&self, key: &ObjectKey, bytes: Vec<u8>) {
        self.lock().insert(key.clone(), bytes);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Vec<u8>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: StoreErrorKind, action: &'static str, key: &ObjectKey, source: io::Error) -> StoreError {
        StoreError { kind, action, key: key.to_string(), store: self.describe(), source }
    }

    fn missing(&self, action: &'static str, key: &ObjectKey) -> StoreError {
        self.error(StoreErrorKind::Missing, action, key, io::ErrorKind::NotFound.into())
    }
}

impl ObjectStore for MemoryStore {
    fn create(&self, key: &ObjectKey, body: &mut dyn Read) -> Result<ObjectInfo, StoreError> {
        let mut bytes = Vec::new();
        body.read_to_end(&mut bytes)
            .map_err(|error| self.error(StoreErrorKind::Other, "read the bytes of", key, error))?;
        let mut objects = self.lock();
        if objects.contains_key(key) {
            return Err(self.error(StoreErrorKind::Exists, "create", key, io::ErrorKind::AlreadyExists.into()));
        }
        let size = bytes.len() as u64;
        objects.insert(key.clone(), bytes);
        Ok(ObjectInfo { key: key.clone(), size })
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        let bytes = self.get(key).ok_or_else(|| self.missing("open", key))?;
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn visit(&self, prefix: Option<&ObjectKey>, visitor: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        let below = |key: &ObjectKey| match prefix {
            None => true,
            Some(prefix) => {
                key.as_str().strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        };
        let objects = self.lock();
        let found = objects.iter().filter(|(key, _)| below(key));
        found.for_each(|(key, bytes)| visitor(ObjectInfo { key: key.clone(), size: bytes.len() as u64 }));
        Ok(())
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.lock().remove(key).map(drop).ok_or_else(|| self.missing("delete", key))
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract;

    #[test]
    fn keeps_the_contract() {
        contract::check(&|| Box::new(MemoryStore::new()));
    }
}
