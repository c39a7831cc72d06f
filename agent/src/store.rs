//! Where objects live.
//!
//! The interface is blocking: compression, encryption and hashing around it are too. Callers in async code use
//! `spawn_blocking`.

mod directory;
mod memory;
mod mirror;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) mod faulty;

pub use directory::DirectoryStore;
pub use memory::MemoryStore;
pub use mirror::MirrorStore;

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use highwater_binlog::ParseError;

/// The name of an object: `/`-separated parts of `[A-Za-z0-9._-]`, none of them starting with a dot, 900 bytes at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ObjectKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let part = |p: &str| !p.is_empty() && !p.starts_with('.') && p.chars().all(allowed);
        if text.len() > 900 || !text.split('/').all(part) {
            return Err(ParseError::new("object key", text));
        }
        Ok(Self(text.to_owned()))
    }
}

/// What a listing says about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its key.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub size: u64,
}

/// What kind of failure a store met; decides what the caller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// The object already exists (answer to a create).
    Exists,
    /// There is no such object.
    Missing,
    /// The store refuses: permissions, read-only file system.
    Denied,
    /// No space left.
    Full,
    /// Trying again may help.
    Transient,
    /// Anything else.
    Other,
}

/// A store's failure with one object.
#[derive(Debug, thiserror::Error)]
#[error("{action} {key} in {store}")]
pub struct StoreError {
    /// What to do about it.
    pub kind: StoreErrorKind,
    /// What was tried: `create`, `begin`, `write`, `open`, `list`, `delete`, `compare`.
    pub action: &'static str,
    /// The object or prefix; `an object` while it has no name.
    pub key: String,
    /// The store, for people.
    pub store: String,
    /// The underlying failure.
    #[source]
    pub source: std::io::Error,
}

/// An object that is being written into a store and has no name there yet. Dropped, it leaves nothing. Errors of writing
/// carry a [`StoreError`].
pub trait Incoming: Write + Send {
    /// Gives it its name: durably, or fails with `Exists` and changes nothing.
    fn create(self: Box<Self>, key: &ObjectKey) -> Result<ObjectInfo, StoreError>;
}

/// A place for write-once objects.
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// Creates an object from all of `body`, durably, or fails with `Exists` and changes nothing. Readers see the whole
    /// object or none of it.
    fn create(&self, key: &ObjectKey, body: &mut dyn Read) -> Result<ObjectInfo, StoreError>;

    /// Begins an object whose name is known only when all of its bytes are. `None`: this store asks for the name first, so
    /// bytes are collected elsewhere and then given to [`Self::create`].
    fn begin(&self) -> Result<Option<Box<dyn Incoming>>, StoreError> {
        Ok(None)
    }

    /// Which store lacks an object; with several, the first that does.
    fn lacking(&self, key: &ObjectKey) -> Result<Option<String>, StoreError> {
        match self.open(key) {
            Ok(_) => Ok(None),
            Err(error) if error.kind == StoreErrorKind::Missing => Ok(Some(self.describe())),
            Err(error) => Err(error),
        }
    }

    /// Opens an object for reading from its start.
    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError>;

    /// Shows every object whose key is `prefix` or begins with `prefix/`, in no order; `None` shows all. Takes memory for
    /// one page of a listing, however many there are.
    fn visit(&self, prefix: Option<&ObjectKey>, visitor: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError>;

    /// The same sorted by key.
    fn list(&self, prefix: Option<&ObjectKey>) -> Result<Vec<ObjectInfo>, StoreError> {
        let mut found = Vec::new();
        self.visit(prefix, &mut |info| found.push(info))?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Removes an object; an absent one is `Missing`.
    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// The store's address, for people: `/backup/orders`.
    fn describe(&self) -> String;
}
