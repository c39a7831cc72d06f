//! Manifests: the small JSON objects whose creation publishes something. FORMAT.md is their specification.
//!
//! The wire types are private and derive serde; the records do not. A manifest that decodes is complete: every name,
//! range, count, digest and GTID set in it was checked, it is of this archive, and it lies under its own name.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::check::{Check, RecordError};
use crate::names;
use crate::owner::Takeover;
use crate::record::{Dump, KeptFile, KeyGeneration, Segment, Timeline};
use crate::repository::{Repository, RepositoryId};

mod agent;
mod dump;
mod file;
mod keys;
mod parts;
mod repository;
mod segment;
mod timeline;

use parts::Preamble;

/// The format version this software writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Longest manifest of a repository, a timeline, a segment, a key bundle or a kept file: a GTID set of 100,000 intervals still fits,
/// and memory stays bounded when a store sends something else.
const SMALL_LEN_MAX: usize = 4 << 20;

/// Longest manifest of a dump: about 150,000 tables.
const DUMP_LEN_MAX: usize = 64 << 20;

/// Why an object is not the manifest it should be.
#[derive(Debug, thiserror::Error)]
#[error("manifest {key}: {problem}")]
pub struct ManifestError {
    /// The object.
    pub key: String,
    /// What is wrong with it.
    pub problem: ManifestProblem,
}

impl ManifestError {
    /// What the operator can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match &self.problem {
            ManifestProblem::NewerFormat { .. } => "this archive was written by a newer highwater: use that version",
            ManifestProblem::OtherRepository { .. } => {
                "objects of two archives are mixed in this store: check the store's address"
            }
            ManifestProblem::TooLong { .. }
            | ManifestProblem::NotJson { .. }
            | ManifestProblem::Format { .. }
            | ManifestProblem::OtherKind { .. }
            | ManifestProblem::OtherName { .. }
            | ManifestProblem::Record(_) => {
                "the object is damaged or was altered: restore it from another copy of the store"
            }
        }
    }
}

/// What is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestProblem {
    /// It is longer than any we write.
    #[error("{len} bytes, more than the {max} a manifest may have")]
    TooLong {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// It is not JSON, or not with exactly these fields.
    #[error("not as specified: {detail}")]
    NotJson {
        /// What the parser says, control characters removed.
        detail: String,
    },
    /// Its format version does not exist.
    #[error("format version {found} does not exist")]
    Format {
        /// The version in it.
        found: u32,
    },
    /// Its format version is newer than this software.
    #[error("format version {found}, this software reads up to {FORMAT_VERSION}")]
    NewerFormat {
        /// The version in it.
        found: u32,
    },
    /// It is a manifest of something else.
    #[error("is of kind {found:?}, not {expected:?}")]
    OtherKind {
        /// The kind in it.
        found: String,
        /// The kind its name calls for.
        expected: &'static str,
    },
    /// It belongs to another archive.
    #[error("belongs to repository {found}, not to {expected}")]
    OtherRepository {
        /// The repository in it.
        found: RepositoryId,
        /// The archive's own.
        expected: RepositoryId,
    },
    /// It was stored under another name, or moved.
    #[error("has the content of {belongs}")]
    OtherName {
        /// The name that its content calls for.
        belongs: String,
    },
    /// One of its fields makes no sense.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// A record that is published by a manifest.
pub trait Manifest: Sized {
    /// Longest manifest of this kind, in bytes; readers stop there.
    const LEN_MAX: usize;

    /// Its name in the store.
    fn key(&self) -> String;

    /// Its bytes, exactly what `decode` accepts.
    ///
    /// # Errors
    /// If the record could not be read back: published is only what can be read.
    fn encode(&self, repository: &RepositoryId) -> Result<Vec<u8>, ManifestError>;

    /// The record in the object called `key` of the archive `repository`.
    fn decode(key: &str, bytes: &[u8], repository: &RepositoryId) -> Result<Self, ManifestError>;
}

impl Repository {
    /// Longest `highwater.json`, in bytes.
    pub const LEN_MAX: usize = SMALL_LEN_MAX;

    /// The bytes of `highwater.json`.
    ///
    /// # Errors
    /// If it could not be read back.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        encode(self, &self.id, names::REPOSITORY_KEY, Self::LEN_MAX)
    }

    /// Reads `highwater.json`.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let key = names::REPOSITORY_KEY;
        let (repository, _) = decode::<Self>(bytes, Self::LEN_MAX).map_err(|problem| error(key, problem))?;
        Ok(repository)
    }
}

macro_rules! manifest {
    ($record:ty, $len_max:expr, |$it:ident| $key:expr) => {
        impl Manifest for $record {
            const LEN_MAX: usize = $len_max;

            fn key(&self) -> String {
                let $it = self;
                $key
            }

            fn encode(&self, repository: &RepositoryId) -> Result<Vec<u8>, ManifestError> {
                encode(self, repository, &self.key(), Self::LEN_MAX)
            }

            fn decode(key: &str, bytes: &[u8], repository: &RepositoryId) -> Result<Self, ManifestError> {
                decode_named(key, bytes, repository)
            }
        }
    };
}

manifest!(Timeline, SMALL_LEN_MAX, |it| names::timeline_manifest_key(it.id));
manifest!(Segment, SMALL_LEN_MAX, |it| names::segment_manifest_key(it.timeline, it.sequence));
manifest!(Dump, DUMP_LEN_MAX, |it| names::dump_manifest_key(&it.id));
manifest!(KeptFile, SMALL_LEN_MAX, |it| names::file_manifest_key(&it.server, &it.binlog, &it.mark));
manifest!(Takeover, SMALL_LEN_MAX, |it| names::agent_manifest_key(it.epoch));
manifest!(KeyGeneration, SMALL_LEN_MAX, |it| names::key_manifest_key(&it.server, it.generation));

/// How a record and its wire form become each other. The wire form carries the preamble.
trait Wire: Sized + Check {
    /// The kind in the preamble.
    const KIND: &'static str;
    /// The newest wire form.
    type V1: Serialize + DeserializeOwned;

    fn to_wire(&self, preamble: Preamble) -> Self::V1;

    /// The preamble and the record, names and sets parsed.
    fn from_wire(wire: Self::V1) -> Result<(Preamble, Self), RecordError>;
}

fn encode<R: Wire>(record: &R, repository: &RepositoryId, key: &str, len_max: usize) -> Result<Vec<u8>, ManifestError> {
    let problem = |problem| error(key, problem);
    record.check().map_err(|e| problem(e.into()))?;
    let wire = record.to_wire(Preamble::new(R::KIND, repository));
    let mut bytes = serde_json::to_vec_pretty(&wire).map_err(|e| problem(not_json(&e)))?;
    bytes.push(b'\n');
    decode::<R>(&bytes, len_max).map_err(problem)?;
    Ok(bytes)
}

fn decode_named<R: Wire + Manifest>(key: &str, bytes: &[u8], repository: &RepositoryId) -> Result<R, ManifestError> {
    let (record, found) = decode::<R>(bytes, R::LEN_MAX).map_err(|problem| error(key, problem))?;
    if found != *repository {
        return Err(error(key, ManifestProblem::OtherRepository { found, expected: *repository }));
    }
    let belongs = record.key();
    if belongs != key {
        return Err(error(key, ManifestProblem::OtherName { belongs }));
    }
    Ok(record)
}

fn decode<R: Wire>(bytes: &[u8], max: usize) -> Result<(R, RepositoryId), ManifestProblem> {
    if bytes.len() > max {
        return Err(ManifestProblem::TooLong { len: bytes.len(), max });
    }
    // The version first, so that a newer manifest is called that and not malformed.
    let version: parts::Version = serde_json::from_slice(bytes).map_err(|e| not_json(&e))?;
    match version.format {
        FORMAT_VERSION => {}
        0 => return Err(ManifestProblem::Format { found: 0 }),
        found => return Err(ManifestProblem::NewerFormat { found }),
    }
    if version.kind != R::KIND {
        let found = version.kind.chars().take(40).collect();
        return Err(ManifestProblem::OtherKind { found, expected: R::KIND });
    }
    let wire: R::V1 = serde_json::from_slice(bytes).map_err(|e| not_json(&e))?;
    let (preamble, record) = R::from_wire(wire)?;
    record.check()?;
    Ok((record, preamble.repository()?))
}

fn not_json(error: &serde_json::Error) -> ManifestProblem {
    let plain = |c: char| if c.is_control() { '?' } else { c };
    ManifestProblem::NotJson { detail: error.to_string().chars().map(plain).take(200).collect() }
}

fn error(key: &str, problem: ManifestProblem) -> ManifestError {
    ManifestError { key: key.to_owned(), problem }
}
