//! Several stores that must all have every object.

use std::io::{self, Read};
use std::sync::Arc;

use super::{Incoming, ObjectInfo, ObjectKey, ObjectStore, StoreError, StoreErrorKind};
use crate::seal::Tally;

/// How much is read at once when objects are compared.
const COMPARE_BYTES: usize = 64 << 10;

/// A first store and copies of it. An object is created when all of them have it.
///
/// The first one decides whether an object is new. What it has and a copy lacks, because the writer died between the
/// two, is sent to the copy when the same object is created again. Listing asks the first store; reading asks the copies
/// for what the first store cannot give.
#[derive(Debug, Clone)]
pub struct MirrorStore {
    first: Arc<dyn ObjectStore>,
    copies: Vec<Arc<dyn ObjectStore>>,
}

impl MirrorStore {
    /// Of these stores; without copies it is the first one.
    #[must_use]
    pub fn new(first: Arc<dyn ObjectStore>, copies: Vec<Arc<dyn ObjectStore>>) -> Self {
        Self { first, copies }
    }

    /// The store that decides.
    #[must_use]
    pub fn first(&self) -> &dyn ObjectStore {
        &*self.first
    }

    /// The others.
    pub fn copies(&self) -> impl Iterator<Item = &dyn ObjectStore> {
        self.copies.iter().map(|copy| &**copy)
    }

    /// Gives one of the copies the first store's object, if it lacks it.
    ///
    /// # Errors
    /// Also when it has another one of that name.
    pub fn send(&self, key: &ObjectKey, copy: &dyn ObjectStore) -> Result<(), StoreError> {
        self.send_proven(key, copy, None)
    }

    /// All copies get it, even if one fails: the fewer are behind, the better.
    fn send_to_all(&self, key: &ObjectKey, written: Option<&Tally>) -> Result<(), StoreError> {
        let sent: Vec<_> = self.copies().map(|copy| self.send_proven(key, copy, written)).collect();
        sent.into_iter().collect()
    }

    fn send_proven(&self, key: &ObjectKey, copy: &dyn ObjectStore, written: Option<&Tally>) -> Result<(), StoreError> {
        let mut body = ReadBack { body: self.first.open(key)?, read: Tally::default(), written, failed: None };
        let error = match copy.create(key, &mut body) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind == StoreErrorKind::Exists => return self.compare(key, copy),
            Err(error) => error,
        };
        match body.failed {
            None => Err(error),
            Some(kind) => Err(StoreError { kind, action: "read back", store: self.first.describe(), ..error }),
        }
    }

    /// Fails unless a copy has the first store's object.
    ///
    /// # Errors
    /// Those of reading, and a difference.
    pub fn compare(&self, key: &ObjectKey, copy: &dyn ObjectStore) -> Result<(), StoreError> {
        let error = |store: &dyn ObjectStore, kind, source| {
            let (key, store) = (key.to_string(), store.describe());
            StoreError { kind, action: "compare", key, store, source }
        };
        let (mut ours, mut theirs) = (self.first.open(key)?, copy.open(key)?);
        let (mut our_bytes, mut their_bytes) = (vec![0; COMPARE_BYTES], vec![0; COMPARE_BYTES]);
        loop {
            let our_len =
                fill(&mut *ours, &mut our_bytes).map_err(|e| error(&*self.first, StoreErrorKind::Transient, e))?;
            let their_len =
                fill(&mut *theirs, &mut their_bytes).map_err(|e| error(copy, StoreErrorKind::Transient, e))?;
            if our_bytes[..our_len] != their_bytes[..their_len] {
                let what = io::Error::other(format!("{} has another object of that name", self.first.describe()));
                return Err(error(copy, StoreErrorKind::Other, what));
            }
            if our_len < our_bytes.len() {
                return Ok(());
            }
        }
    }
}

impl ObjectStore for MirrorStore {
    fn create(&self, key: &ObjectKey, body: &mut dyn Read) -> Result<ObjectInfo, StoreError> {
        if self.copies.is_empty() {
            return self.first.create(key, body);
        }
        let mut measured = Measured { body, read: Tally::default() };
        match self.first.create(key, &mut measured) {
            Ok(info) => self.send_to_all(key, Some(&measured.read)).map(|()| info),
            Err(error) if error.kind == StoreErrorKind::Exists => {
                self.send_to_all(key, None)?;
                Err(StoreError { store: self.describe(), ..error })
            }
            Err(error) => Err(error),
        }
    }

    /// With copies, which need the bytes again, only under its name.
    fn begin(&self) -> Result<Option<Box<dyn Incoming>>, StoreError> {
        if self.copies.is_empty() { self.first.begin() } else { Ok(None) }
    }

    fn lacking(&self, key: &ObjectKey) -> Result<Option<String>, StoreError> {
        for store in std::iter::once(self.first()).chain(self.copies()) {
            if let Some(lacking) = store.lacking(key)? {
                return Ok(Some(lacking));
            }
        }
        Ok(None)
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        let error = match self.first.open(key) {
            Ok(reader) => return Ok(reader),
            Err(error) => error,
        };
        for copy in self.copies() {
            if let Ok(reader) = copy.open(key) {
                tracing::warn!(object = %key, copy = copy.describe(), error = %error, "read from a copy");
                return Ok(reader);
            }
        }
        Err(error)
    }

    fn visit(&self, prefix: Option<&ObjectKey>, visitor: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.first.visit(prefix, visitor)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let mut outcome = self.first.delete(key);
        for copy in self.copies() {
            outcome = match (outcome, copy.delete(key)) {
                // Absent everywhere is missing; absent here or there is not.
                (Err(error), Ok(())) | (Ok(()), Err(error)) if error.kind == StoreErrorKind::Missing => Ok(()),
                (Err(absent), Err(error)) if absent.kind == StoreErrorKind::Missing => Err(error),
                (Ok(()), other) => other,
                (Err(error), _) => Err(error),
            };
        }
        outcome
    }

    fn describe(&self) -> String {
        let copies = self.copies().map(|copy| format!(" and {}", copy.describe()));
        self.first.describe() + &copies.collect::<String>()
    }
}

/// Reads until the buffer is full or the object ends.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match reader.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// A body on its way into the first store.
struct Measured<'a> {
    body: &'a mut dyn Read,
    read: Tally,
}

impl Read for Measured<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer)?;
        self.read.add(&buffer[..count]);
        Ok(count)
    }
}

/// An object on its way from the first store to a copy. It ends with an error if it is not what was written there, so
/// that the copy does not take it.
struct ReadBack<'a> {
    body: Box<dyn Read + Send>,
    read: Tally,
    written: Option<&'a Tally>,
    /// Why the first store is to blame, not the copy.
    failed: Option<StoreErrorKind>,
}

impl Read for ReadBack<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.body.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                self.failed = Some(StoreErrorKind::Transient);
                return Err(error);
            }
        };
        self.read.add(&buffer[..count]);
        let is_other = |written: &&Tally| written.digest() != self.read.digest();
        if count == 0 && !buffer.is_empty() && self.written.as_ref().is_some_and(is_other) {
            self.failed = Some(StoreErrorKind::Other);
            return Err(io::Error::other("it is not what was written"));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
