//! What an archive holds: timelines, segments, dumps, key generations, kept files. Domain types; how they are written down is
//! `manifest`'s and `db`'s business.

use std::fmt;
use std::str::FromStr;

use highwater_binlog::{BinlogName, BinlogPosition, GtidSet, ParseError, ServerUuid};
use highwater_keyring::FileMark;

use crate::digest::Blake3Digest;
use highwater_binlog::Micros;

/// The number of a timeline within its archive, from 1. Printed with 4 digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimelineId(pub u32);

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}", self.0)
    }
}

/// The name of a dump: the UTC time it began and a random part, `20261122T150412Z-1f3a`. `[A-Za-z0-9-]`, 64 at most.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DumpId(String);

impl DumpId {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DumpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DumpId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) {
            return Err(ParseError::new("dump id", text));
        }
        Ok(Self(text.to_owned()))
    }
}

/// One unforked history of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// Its number.
    pub id: TimelineId,
    /// The timeline it branched from, if any.
    pub parent: Option<TimelineId>,
    /// Why it was opened, for people.
    pub reason: String,
    /// Transactions that lie before its first segment and are not in the archive as binlog.
    pub starting_gtids: GtidSet,
    /// When it was opened.
    pub created: Micros,
}

/// What was done to an object's bytes before they went into the store; decides the ending of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sealing {
    /// Compressed with zstd, not encrypted: `.zst`.
    Zstd,
    /// Compressed with zstd, then encrypted with age: `.zst.age`.
    ZstdAge,
}

impl Sealing {
    /// What sealing appends to an object's name, dot included.
    #[must_use]
    pub const fn ending(self) -> &'static str {
        match self {
            Self::Zstd => ".zst",
            Self::ZstdAge => ".zst.age",
        }
    }
}

/// What an object is, in bytes and digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Bytes before sealing.
    pub plain_size: u64,
    /// BLAKE3 of the bytes before sealing.
    pub plain_blake3: Blake3Digest,
    /// Bytes in the store.
    pub stored_size: u64,
    /// BLAKE3 of the object in the store.
    pub stored_blake3: Blake3Digest,
    /// What was done between the two.
    pub sealing: Sealing,
}

/// Consecutive bytes of one binlog, cut between transactions; the unit of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Its place in the timeline, from 0, without holes.
    pub sequence: u64,
    /// The server whose binlog it is.
    pub server: ServerUuid,
    /// The binlog.
    pub binlog: BinlogName,
    /// Offset of its first byte in the binlog; 0 includes the file's magic.
    pub start: u64,
    /// Offset after its last byte.
    pub end: u64,
    /// All transactions of the timeline before this segment.
    pub gtids_before: GtidSet,
    /// The transactions in it.
    pub gtids_added: GtidSet,
    /// Earliest original commit time of a transaction in it; absent when it has none.
    pub first_commit: Option<Micros>,
    /// Latest original commit time of a transaction in it.
    pub last_commit: Option<Micros>,
    /// Events in it, all kinds.
    pub events: u64,
    /// Transactions in it.
    pub transactions: u64,
    /// BLAKE3 of its bytes before sealing, all objects together.
    pub plain_blake3: Blake3Digest,
    /// The objects that have its bytes, in order; at least one. Several only if it is larger than one object may be: a
    /// transaction is never published half.
    pub objects: Vec<ObjectFacts>,
    /// `plain_blake3` of the segment before it in the timeline; absent for the first.
    pub previous_blake3: Option<Blake3Digest>,
}

impl Segment {
    /// Most objects of a segment: its manifest stays far below its own limit.
    pub const OBJECTS_MAX: u64 = 4096;

    /// Bytes before sealing.
    #[must_use]
    pub fn plain_size(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Bytes in the store, all objects together.
    #[must_use]
    pub fn stored_size(&self) -> u64 {
        self.objects.iter().fold(0, |sum, object| sum.saturating_add(object.stored_size))
    }
}

/// What a file of a dump is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DumpFileKind {
    /// SQL that creates schemas, tables, views, triggers, routines and events.
    Schema,
    /// SQL that creates accounts and grants.
    Accounts,
    /// Rows of one table in `LOAD DATA` format.
    Rows {
        /// The table's schema.
        schema: String,
        /// The table.
        table: String,
        /// How many rows.
        rows: u64,
    },
}

/// A file of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpFile {
    /// Its name below the dump's folder, without the endings that sealing adds: `data/000001.tsv`.
    pub name: String,
    /// What it is.
    pub kind: DumpFileKind,
    /// Sizes and digests.
    pub object: ObjectFacts,
}

/// A full backup consistent at one GTID set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    /// Its name.
    pub id: DumpId,
    /// The timeline whose history it is a point of.
    pub timeline: TimelineId,
    /// The server it was taken from.
    pub server: ServerUuid,
    /// That server's `@@version`.
    pub server_version: String,
    /// Exactly the transactions whose effects it has.
    pub gtids: GtidSet,
    /// The server's binlog position at that point, for people.
    pub position: Option<BinlogPosition>,
    /// When it began and when it was complete, by the agent's clock.
    pub started: Micros,
    /// See `started`.
    pub finished: Micros,
    /// How consistency was reached, for people: `backup lock + brief global read lock`.
    pub method: String,
    /// Its files, in the order they must be loaded.
    pub files: Vec<DumpFile>,
}

/// A backup of keyring keys, always encrypted with age. The digest of its plaintext is not kept: it would be derived
/// from secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyGeneration {
    /// The server whose keyring it was read from.
    pub server: ServerUuid,
    /// Its number for that server, from 1.
    pub generation: u32,
    /// Ids of the keys in it.
    pub key_ids: Vec<String>,
    /// When it was taken.
    pub taken: Micros,
    /// Bytes of the sealed bundle in the store.
    pub stored_size: u64,
    /// BLAKE3 of the sealed bundle in the store.
    pub stored_blake3: Blake3Digest,
}

/// An encrypted binlog that its server had closed, kept as it was on the disk. No part of a timeline: the same transactions
/// may be in segments, too.
///
/// Its *body* is what follows the header of 512 bytes, byte for byte, encrypted. It never changes, while rotations of the
/// master key write the header anew: the header kept is that of the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFile {
    /// The server whose file it was.
    pub server: ServerUuid,
    /// The binlog.
    pub binlog: BinlogName,
    /// Which file of that name: a server that is reset begins its names again.
    pub mark: FileMark,
    /// That server's `@@version`.
    pub server_version: String,
    /// All transactions that the server had executed before this file.
    pub gtids_before: GtidSet,
    /// The transactions in it.
    pub gtids_added: GtidSet,
    /// Earliest original commit time in it; absent when it has no transaction.
    pub first_commit: Option<Micros>,
    /// Latest original commit time in it.
    pub last_commit: Option<Micros>,
    /// Events in it, all kinds.
    pub events: u64,
    /// Transactions in it.
    pub transactions: u64,
    /// The master key that the kept header names.
    pub key_id: String,
    /// The generation of the server's key bundles that has the file's password.
    pub key_generation: u32,
    /// When it was kept.
    pub taken: Micros,
    /// BLAKE3 of the body, all objects together.
    pub body_blake3: Blake3Digest,
    /// The object that has the header.
    pub header: ObjectFacts,
    /// The objects that have the body, in order; at least one.
    pub objects: Vec<ObjectFacts>,
}

impl KeptFile {
    /// Bytes of the header.
    pub const HEADER_LEN: u64 = 512;

    /// Bytes of the body, which are also those of the binlog when it is decrypted.
    #[must_use]
    pub fn body_size(&self) -> u64 {
        self.objects.iter().fold(0, |sum, object| sum.saturating_add(object.plain_size))
    }

    /// Bytes in the store, all objects together.
    #[must_use]
    pub fn stored_size(&self) -> u64 {
        self.objects.iter().fold(self.header.stored_size, |sum, object| sum.saturating_add(object.stored_size))
    }

    /// All transactions that the server had executed at its end.
    #[must_use]
    pub fn gtids_after(&self) -> GtidSet {
        self.gtids_before.union(&self.gtids_added)
    }
}

/// All that an archive holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// By id.
    pub timelines: Vec<Timeline>,
    /// By timeline and sequence.
    pub segments: Vec<Segment>,
    /// By start.
    pub dumps: Vec<Dump>,
    /// By server and generation.
    pub keys: Vec<KeyGeneration>,
    /// By server, binlog and mark.
    pub files: Vec<KeptFile>,
}

impl Inventory {
    /// The same in the order that the fields state.
    #[must_use]
    pub fn sorted(mut self) -> Self {
        self.timelines.sort_by_key(|timeline| timeline.id);
        self.segments.sort_by_key(|segment| (segment.timeline, segment.sequence));
        self.dumps.sort_by(|a, b| (a.started, &a.id).cmp(&(b.started, &b.id)));
        self.keys.sort_by_key(|keys| (keys.server, keys.generation));
        self.files.sort_by(|a, b| (a.server, &a.binlog, a.mark).cmp(&(b.server, &b.binlog, b.mark)));
        self
    }
}
