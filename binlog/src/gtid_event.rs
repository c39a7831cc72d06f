//! The event that starts every transaction: types 33 (GTID), 34 (anonymous) and 42 (tagged GTID).

use std::num::NonZeroU64;

use crate::cursor::Cursor;
use crate::error::EventError;
use crate::event::{EventType, RawEvent};
use crate::gtid::{Gtid, GtidOrigin, NUMBER_MAX, Tag};
use crate::position::ServerUuid;

/// Value of the type byte before the logical clock (`LOGICAL_TIMESTAMP_TYPECODE`); older servers wrote others.
const LOGICAL_CLOCK: u8 = 2;
/// Set in the 7-byte commit time when another one follows (`ENCODED_COMMIT_TIMESTAMP_LENGTH`).
const ORIGINAL_TIME_FOLLOWS: u64 = 1 << 55;
/// Set in the 4-byte server version when another one follows (`ENCODED_SERVER_VERSION_LENGTH`).
const ORIGINAL_VERSION_FOLLOWS: u32 = 1 << 31;

/// What a GTID event says about the transaction it starts. Times are microseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GtidEvent {
    /// The transaction's GTID; none for an anonymous transaction.
    pub gtid: Option<Gtid>,
    /// When it was committed on the server where it was first committed; none when that server was older than 8.0.1.
    pub original_commit_micros: Option<u64>,
    /// When it was committed on the server that wrote this event; none from servers older than 8.0.1.
    pub immediate_commit_micros: Option<u64>,
    /// Bytes of the whole transaction, this event included; none from servers older than 8.0.2.
    pub transaction_length: Option<NonZeroU64>,
    /// Version of the server that wrote this event, `80014` for 8.0.14; none from servers older than 8.0.14.
    pub immediate_server_version: Option<u32>,
    /// Version of the server where it was first committed.
    pub original_server_version: Option<u32>,
    /// Whether a part of it may be logged as statements (`FLAG_MAY_HAVE_SBR`).
    pub may_have_statements: bool,
}

impl GtidEvent {
    /// Whether `event` starts a transaction.
    #[must_use]
    pub const fn is_one(event: &RawEvent<'_>) -> bool {
        matches!(event.event_type(), EventType::GTID | EventType::ANONYMOUS_GTID | EventType::GTID_TAGGED)
    }

    /// Reads any of the three GTID events.
    ///
    /// # Errors
    /// When it is another event, or its body is malformed.
    pub fn read(event: &RawEvent<'_>) -> Result<Self, EventError> {
        if event.event_type() == EventType::GTID_TAGGED {
            return Self::read_tagged(event);
        }
        let anonymous = event.event_type() == EventType::ANONYMOUS_GTID;
        let mut body = event.body_of(if anonymous { EventType::ANONYMOUS_GTID } else { EventType::GTID })?;
        let flags = body.u8().ok_or_else(|| event.bad("flags"))?;
        let server = body.array().map(ServerUuid::from_bytes).ok_or_else(|| event.bad("server UUID"))?;
        let number = body.u64().ok_or_else(|| event.bad("transaction number"))?;
        let gtid = match number {
            0 if anonymous => None,
            _ if anonymous => return Err(event.bad("transaction number")),
            number => Some(gtid(event, server, Tag::default(), number)?),
        };
        let mut read = Self {
            gtid,
            original_commit_micros: None,
            immediate_commit_micros: None,
            transaction_length: None,
            immediate_server_version: None,
            original_server_version: None,
            may_have_statements: flags & 1 != 0,
        };
        read.read_later_fields(event, body)?;
        Ok(read)
    }

    /// Reads what servers have appended since 5.7: each field is there only if the ones before it are.
    fn read_later_fields(&mut self, event: &RawEvent<'_>, mut body: Cursor<'_>) -> Result<(), EventError> {
        if body.u8() != Some(LOGICAL_CLOCK) || body.take(16).is_none() || body.is_empty() {
            return Ok(());
        }
        let immediate = body.uint(7).ok_or_else(|| event.bad("commit time"))?;
        let original = if immediate & ORIGINAL_TIME_FOLLOWS == 0 {
            immediate
        } else {
            body.uint(7).ok_or_else(|| event.bad("original commit time"))?
        };
        self.immediate_commit_micros = known(immediate & !ORIGINAL_TIME_FOLLOWS);
        self.original_commit_micros = known(original);
        if body.is_empty() {
            return Ok(());
        }
        let length = body.length_encoded().ok_or_else(|| event.bad("transaction length"))?;
        self.transaction_length = NonZeroU64::new(length);
        let Some(version) = body.u32() else { return Ok(()) };
        let original = if version & ORIGINAL_VERSION_FOLLOWS == 0 {
            version
        } else {
            body.u32().ok_or_else(|| event.bad("original server version"))?
        };
        self.immediate_server_version = Some(version & !ORIGINAL_VERSION_FOLLOWS);
        self.original_server_version = Some(original);
        Ok(())
    }

    /// Reads the message format of `libs/mysql/serialization`; field numbers are the order of
    /// `Gtid_event::define_fields`.
    fn read_tagged(event: &RawEvent<'_>) -> Result<Self, EventError> {
        let mut fields = TaggedFields::default();
        fields.read(event.body()).map_err(|field| event.bad(field))?;
        let TaggedFields { server: Some(server), number: Some(number), .. } = fields else {
            return Err(event.bad("GTID"));
        };
        Ok(Self {
            gtid: Some(gtid(event, server, fields.tag, number)?),
            original_commit_micros: fields.original_commit.or(fields.immediate_commit).and_then(known),
            immediate_commit_micros: fields.immediate_commit.and_then(known),
            transaction_length: fields.transaction_length.and_then(NonZeroU64::new),
            immediate_server_version: fields.immediate_version,
            original_server_version: fields.original_version.or(fields.immediate_version),
            may_have_statements: fields.flags & 1 != 0,
        })
    }
}

/// A commit time; servers write 0 for one they do not know.
fn known(micros: u64) -> Option<u64> {
    (micros != 0).then_some(micros)
}

fn gtid(event: &RawEvent<'_>, server: ServerUuid, tag: Tag, number: u64) -> Result<Gtid, EventError> {
    let number = NonZeroU64::new(number).filter(|number| number.get() <= NUMBER_MAX);
    let number = number.ok_or_else(|| event.bad("transaction number"))?;
    Ok(Gtid { origin: GtidOrigin { server, tag }, number })
}

/// The fields of a tagged GTID event, as far as they are there.
#[derive(Default)]
struct TaggedFields {
    flags: u64,
    server: Option<ServerUuid>,
    number: Option<u64>,
    tag: Tag,
    immediate_commit: Option<u64>,
    original_commit: Option<u64>,
    transaction_length: Option<u64>,
    immediate_version: Option<u32>,
    original_version: Option<u32>,
}

impl TaggedFields {
    /// Number of the last field known here, the commit group ticket.
    const LAST: u64 = 11;

    /// Reads the message; an error is the name of the field at fault.
    fn read(&mut self, body: &[u8]) -> Result<(), &'static str> {
        let mut cursor = Cursor::new(body);
        if cursor.serialized_uint() != Some(1) {
            return Err("serialisation version");
        }
        // The size counts the whole message, from the version on.
        let size = cursor.serialized_uint().and_then(|size| usize::try_from(size).ok()).ok_or("message size")?;
        let read = body.len() - cursor.rest().len();
        let rest = size.checked_sub(read).and_then(|rest| cursor.take(rest)).ok_or("message size")?;
        let mut cursor = Cursor::new(rest);
        let last_needed = cursor.serialized_uint().ok_or("last non-ignorable field")?;
        if last_needed > Self::LAST + 1 {
            return Err("field that is not known and may not be ignored");
        }
        let mut before = None;
        while !cursor.is_empty() {
            let field = cursor.serialized_uint().ok_or("field number")?;
            if before.is_some_and(|before| before >= field) {
                return Err("order of fields");
            }
            if field > Self::LAST {
                // Fields of later versions stand at the end, and are ignorable as checked above.
                break;
            }
            self.read_field(field, &mut cursor)?;
            before = Some(field);
        }
        Ok(())
    }

    fn read_field(&mut self, field: u64, cursor: &mut Cursor<'_>) -> Result<(), &'static str> {
        let version = |cursor: &mut Cursor<'_>| cursor.serialized_uint().and_then(|v| u32::try_from(v).ok());
        match field {
            0 => self.flags = cursor.serialized_uint().ok_or("flags")?,
            1 => self.server = Some(serialized_uuid(cursor).ok_or("server UUID")?),
            2 => self.number = Some(cursor.serialized_nonnegative().ok_or("transaction number")?),
            3 => self.tag = serialized_tag(cursor).ok_or("tag")?,
            4 => drop(cursor.serialized_uint().ok_or("last_committed")?),
            5 => drop(cursor.serialized_uint().ok_or("sequence_number")?),
            6 => self.immediate_commit = Some(cursor.serialized_uint().ok_or("commit time")?),
            7 => self.original_commit = Some(cursor.serialized_uint().ok_or("original commit time")?),
            8 => self.transaction_length = Some(cursor.serialized_uint().ok_or("transaction length")?),
            9 => self.immediate_version = Some(version(cursor).ok_or("server version")?),
            10 => self.original_version = Some(version(cursor).ok_or("original server version")?),
            _ => drop(cursor.serialized_uint().ok_or("commit group ticket")?),
        }
        Ok(())
    }
}

/// A fixed array is its elements, and each byte is a variable-length integer.
fn serialized_uuid(cursor: &mut Cursor<'_>) -> Option<ServerUuid> {
    let mut bytes = [0u8; 16];
    for byte in &mut bytes {
        *byte = u8::try_from(cursor.serialized_uint()?).ok()?;
    }
    Some(ServerUuid::from_bytes(bytes))
}

/// A tag as the serialisation library and `Tag::encode_tag` write it: length and text, empty for none.
pub(crate) fn serialized_tag(cursor: &mut Cursor<'_>) -> Option<Tag> {
    let len = cursor.serialized_uint()?;
    let text = cursor.take_u64(len)?;
    if text.is_empty() {
        return Some(Tag::default());
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
