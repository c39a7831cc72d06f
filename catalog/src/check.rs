//! What must hold within one record, whichever way it came in: from a manifest, a catalog row or a caller.

use highwater_binlog::{GtidSet, ParseError};

use crate::digest::Blake3Digest;
use crate::owner::Takeover;
use crate::record::{Dump, DumpFile, DumpFileKind, KeptFile, KeyGeneration, ObjectFacts, Segment, Timeline};
use crate::repository::Repository;
use highwater_binlog::Micros;

/// What is wrong with one field of a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct RecordError {
    /// The field, as manifests spell it.
    pub field: &'static str,
    /// What is wrong with it, for people; never more than a few hundred characters of it come from the record.
    pub reason: String,
}

impl RecordError {
    pub(crate) fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self { field, reason: reason.into() }
    }

    pub(crate) fn parse(field: &'static str, error: &ParseError) -> Self {
        Self::new(field, error.to_string())
    }
}

/// Largest count, size, offset or time in a record: what SQLite's signed integers hold.
pub(crate) const NUMBER_MAX: u64 = i64::MAX.unsigned_abs();

/// Longest text meant for people: a reason, a method, a version.
const TEXT_LEN_MAX: usize = 500;

/// Longest name of a file of a dump, in bytes; object names have 900 at most (S3 has 1024).
const FILE_NAME_LEN_MAX: usize = 200;

/// Longest schema or table name: 64 characters (MySQL manual, "Identifier Length Limits") of at most 4 bytes.
const IDENTIFIER_LEN_MAX: usize = 256;

/// Longest age public key we expect; the post-quantum ones have about 2,000 characters.
const RECIPIENT_LEN_MAX: usize = 4096;

/// Longest key id (`key_id` columns of MySQL's keyring are VARCHAR(255)).
const KEY_ID_LEN_MAX: usize = 255;

type Checked = Result<(), RecordError>;

/// A record that can tell whether it makes sense by itself.
pub(crate) trait Check {
    /// The first thing wrong with it.
    fn check(&self) -> Checked;
}

impl Check for Repository {
    fn check(&self) -> Checked {
        for recipient in &self.recipients {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            let shaped = recipient.starts_with("age1") && recipient.chars().all(allowed);
            ensure(shaped && recipient.len() <= RECIPIENT_LEN_MAX, "recipients", || {
                format!("{} is not an age public key", clip(recipient))
            })?;
        }
        time("created_us", Some(self.created))
    }
}

impl Check for Timeline {
    fn check(&self) -> Checked {
        ensure(self.id.0 > 0, "timeline", || "numbers begin with 1".to_owned())?;
        if let Some(parent) = self.parent {
            ensure(parent.0 > 0 && parent < self.id, "parent", || {
                format!("timeline {parent} is not older than {}", self.id)
            })?;
        }
        text("reason", &self.reason)?;
        time("created_us", Some(self.created))
    }
}

impl Check for Segment {
    fn check(&self) -> Checked {
        ensure(self.timeline.0 > 0, "timeline", || "numbers begin with 1".to_owned())?;
        for (field, value) in [
            ("sequence", self.sequence),
            ("end", self.end),
            ("events", self.events),
            ("transactions", self.transactions),
        ] {
            number(field, value)?;
        }
        ensure(self.start < self.end, "end", || format!("{} is not after start {}", self.end, self.start))?;
        let bytes = objects(&self.objects, "plain_blake3", &self.plain_blake3)?;
        let apart = self.plain_size();
        ensure(bytes == apart, "objects.plain_size", || {
            format!("{bytes} bytes between offsets that are {apart} apart")
        })?;
        contents(self.events, self.transactions, &self.gtids_before, &self.gtids_added)?;
        commit_times(self.first_commit, self.last_commit, self.transactions)?;
        ensure(self.previous_blake3.is_none() == (self.sequence == 0), "previous_blake3", || {
            "present exactly when there is a previous segment".to_owned()
        })
    }
}

/// Objects that are a whole together, whose digest is `digest`; returns how many bytes they have.
fn objects(objects: &[ObjectFacts], field: &'static str, digest: &Blake3Digest) -> Result<u64, RecordError> {
    let count = objects.len();
    let most = usize::try_from(Segment::OBJECTS_MAX).unwrap_or(usize::MAX);
    ensure((1..=most).contains(&count), "objects", || format!("{count} objects, not 1 to {most}"))?;
    let mut bytes: u64 = 0;
    for facts in objects {
        object(facts)?;
        ensure(facts.plain_size > 0, "objects.plain_size", || "an object without bytes".to_owned())?;
        bytes = bytes.saturating_add(facts.plain_size);
    }
    if let [only] = objects {
        ensure(only.plain_blake3 == *digest, field, || "not that of the only object".to_owned())?;
    }
    Ok(bytes)
}

/// How many events, transactions and GTIDs binlog bytes have, and which came before.
fn contents(events: u64, transactions: u64, before: &GtidSet, added: &GtidSet) -> Checked {
    ensure(transactions <= events, "transactions", || format!("{transactions} transactions in {events} events"))?;
    let count = added.count();
    ensure(count <= transactions, "gtids_added", || format!("{count} GTIDs in {transactions} transactions"))?;
    let twice = added.intersect(before);
    ensure(twice.is_empty(), "gtids_added", || format!("{} also in gtids_before", brief(&twice)))
}

fn commit_times(first: Option<Micros>, last: Option<Micros>, transactions: u64) -> Checked {
    time("first_commit_us", first)?;
    time("last_commit_us", last)?;
    match (first, last) {
        (None, None) => Ok(()),
        (Some(first), Some(last)) => {
            ensure(first <= last, "last_commit_us", || "earlier than first_commit_us".to_owned())?;
            ensure(transactions > 0, "first_commit_us", || "present without a transaction".to_owned())
        }
        _ => Err(RecordError::new("last_commit_us", "first_commit_us and last_commit_us come together")),
    }
}

impl Check for Dump {
    fn check(&self) -> Checked {
        ensure(self.timeline.0 > 0, "timeline", || "numbers begin with 1".to_owned())?;
        text("server_version", &self.server_version)?;
        text("method", &self.method)?;
        time("started_us", Some(self.started))?;
        time("finished_us", Some(self.finished))?;
        if let Some(position) = &self.position {
            number("position.offset", position.offset)?;
        }
        let mut names = std::collections::BTreeSet::new();
        for file in &self.files {
            dump_file(file)?;
            ensure(names.insert(file.name.as_str()), "files.name", || format!("{} twice", file.name))?;
        }
        Ok(())
    }
}

fn dump_file(file: &DumpFile) -> Checked {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let part = |p: &str| !p.is_empty() && !p.starts_with('.') && p.chars().all(allowed);
    let fits = file.name.len() <= FILE_NAME_LEN_MAX && file.name.split('/').all(part) && file.name != "manifest.json";
    ensure(fits, "files.name", || format!("{} is not a name for a file of a dump", clip(&file.name)))?;
    object(&file.object)?;
    match &file.kind {
        DumpFileKind::Schema | DumpFileKind::Accounts => Ok(()),
        DumpFileKind::Rows { schema, table, rows } => {
            identifier("files.schema", schema)?;
            identifier("files.table", table)?;
            number("files.rows", *rows)
        }
    }
}

impl Check for KeyGeneration {
    fn check(&self) -> Checked {
        ensure(self.generation > 0, "generation", || "numbers begin with 1".to_owned())?;
        number("stored_size", self.stored_size)?;
        time("taken_us", Some(self.taken))?;
        self.key_ids.iter().try_for_each(|id| key_id("key_ids", id))
    }
}

impl Check for KeptFile {
    fn check(&self) -> Checked {
        ensure(self.key_generation > 0, "key_generation", || "numbers begin with 1".to_owned())?;
        key_id("key_id", &self.key_id)?;
        text("server_version", &self.server_version)?;
        number("events", self.events)?;
        number("transactions", self.transactions)?;
        time("taken_us", Some(self.taken))?;
        object(&self.header)?;
        ensure(self.header.plain_size == Self::HEADER_LEN, "header.plain_size", || {
            format!("a header has {} bytes, not {}", Self::HEADER_LEN, self.header.plain_size)
        })?;
        number("body_size", objects(&self.objects, "body_blake3", &self.body_blake3)?)?;
        contents(self.events, self.transactions, &self.gtids_before, &self.gtids_added)?;
        commit_times(self.first_commit, self.last_commit, self.transactions)
    }
}

fn key_id(field: &'static str, id: &str) -> Checked {
    let fits = !id.is_empty() && id.len() <= KEY_ID_LEN_MAX && printable(id);
    ensure(fits, field, || format!("{} is not a key id", clip(id)))
}

impl Check for Takeover {
    fn check(&self) -> Checked {
        ensure(self.epoch.0 > 0, "epoch", || "numbers begin with 1".to_owned())?;
        text("host", &self.owner.host)?;
        time("started_us", Some(self.owner.started))
    }
}

fn object(facts: &ObjectFacts) -> Checked {
    number("object.plain_size", facts.plain_size)?;
    number("object.stored_size", facts.stored_size)?;
    ensure(facts.stored_size > 0, "object.stored_size", || "a sealed object is never empty".to_owned())
}

fn ensure(holds: bool, field: &'static str, reason: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(RecordError::new(field, reason())) }
}

fn number(field: &'static str, value: u64) -> Checked {
    ensure(value <= NUMBER_MAX, field, || format!("{value} is above 2^63 - 1"))
}

fn time(field: &'static str, value: Option<Micros>) -> Checked {
    number(field, value.map_or(0, |micros| micros.0))
}

fn text(field: &'static str, value: &str) -> Checked {
    ensure(value.len() <= TEXT_LEN_MAX && printable(value), field, || format!("{} is not plain text", clip(value)))
}

fn identifier(field: &'static str, value: &str) -> Checked {
    let fits = !value.is_empty() && value.len() <= IDENTIFIER_LEN_MAX && !value.contains('\0');
    ensure(fits, field, || format!("{} is not a MySQL identifier", clip(value)))
}

fn printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Hostile text made fit for a message: quoted, escaped, short.
fn clip(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

/// A GTID set made fit for a message: whole if short, otherwise its beginning and how many GTIDs it has.
pub(crate) fn brief(gtids: &GtidSet) -> String {
    const LEN_MAX: usize = 400;
    let text = gtids.to_string();
    if text.len() <= LEN_MAX {
        return text;
    }
    format!("{}… ({} transactions)", text.chars().take(LEN_MAX).collect::<String>(), gtids.count())
}
