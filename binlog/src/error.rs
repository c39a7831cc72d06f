//! Everything that can be wrong with bytes or text that claim to be MySQL's.

use crate::event::EventType;
use crate::gtid::Gtid;

/// Text that is not what it should name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {expected}")]
pub struct ParseError {
    /// What was expected, for people: `server UUID`, `GTID set`.
    pub expected: &'static str,
    /// The text as given, cut to 80 characters.
    pub text: String,
}

impl ParseError {
    /// An error for `text`, cut to a printable length.
    #[must_use]
    pub fn new(expected: &'static str, text: &str) -> Self {
        Self { expected, text: text.chars().take(80).collect() }
    }
}

/// Bytes that are not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The header says a length that no event can have.
    #[error("event header with impossible length {declared}")]
    ImpossibleLength {
        /// The length in the header.
        declared: u64,
    },
    /// The header's length is not that of the bytes given.
    #[error("event of {given} bytes whose header says {declared}")]
    LengthMismatch {
        /// The length in the header.
        declared: u64,
        /// How many bytes there are.
        given: u64,
    },
    /// The length does not lead to where the event says that it ends: one of the two is damaged.
    #[error("{event_type} event whose length {declared} ends at {reached} and whose end_log_pos is {end_log_pos}")]
    Position {
        /// What the header says it is.
        event_type: EventType,
        /// The length in the header.
        declared: u32,
        /// Where that ends, modulo 2^32.
        reached: u32,
        /// Where the header says that it ends.
        end_log_pos: u32,
    },
    /// The checksum is not that of the bytes.
    #[error("{event_type} event with CRC32 {stored:08x} where its bytes give {computed:08x}")]
    Checksum {
        /// What the header says it is.
        event_type: EventType,
        /// The event's last four bytes.
        stored: u32,
        /// The checksum of the bytes before them.
        computed: u32,
    },
    /// A format description with a checksum algorithm that no known server writes.
    #[error("format description with unknown checksum algorithm {0}")]
    UnknownChecksumAlgorithm(u8),
    /// The body ends early or holds a value that its field cannot have.
    #[error("{event_type} event with a bad {field}")]
    Body {
        /// The event.
        event_type: EventType,
        /// The field, in MySQL's words.
        field: &'static str,
    },
    /// The event is read as something that it is not.
    #[error("{found} event where {expected} is read")]
    NotThisType {
        /// What was asked for.
        expected: EventType,
        /// What it is.
        found: EventType,
    },
}

/// Events in an order that transactions cannot have. Nothing after it can be trusted to start at a boundary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// An event that carries the boundary could not be read.
    #[error("event at offset {offset}")]
    Event {
        /// Where the event starts.
        offset: u64,
        /// What is wrong with it.
        source: EventError,
    },
    /// A new transaction, or the end of the binlog, before the open transaction ended.
    #[error("{found} event at offset {offset} inside the transaction {} that started at {start}", gtid_text(.gtid.as_ref()))]
    Unfinished {
        /// Where the event starts.
        offset: u64,
        /// The event.
        found: EventType,
        /// Where the open transaction started.
        start: u64,
        /// The open transaction; none for an anonymous one.
        gtid: Option<Gtid>,
    },
    /// A part of a transaction without its GTID event.
    #[error("{found} event at offset {offset} outside of a transaction")]
    OutsideTransaction {
        /// Where the event starts.
        offset: u64,
        /// The event.
        found: EventType,
    },
    /// An event that cannot follow the ones before it.
    #[error("unexpected {found} event at offset {offset} inside the transaction {}", gtid_text(.gtid.as_ref()))]
    Unexpected {
        /// Where the event starts.
        offset: u64,
        /// The event.
        found: EventType,
        /// The open transaction; none for an anonymous one.
        gtid: Option<Gtid>,
    },
    /// The GTID event announced another length than its transaction has.
    #[error("transaction {} at offset {start} announces {announced} bytes, and its events are at {reached}", gtid_text(.gtid.as_ref()))]
    Length {
        /// Where the transaction started.
        start: u64,
        /// The transaction; none for an anonymous one.
        gtid: Option<Gtid>,
        /// `transaction_length` of its GTID event.
        announced: u64,
        /// Bytes from the start to the end of the event that shows it.
        reached: u64,
    },
}

fn gtid_text(gtid: Option<&Gtid>) -> String {
    gtid.map_or_else(|| "ANONYMOUS".to_owned(), Gtid::to_string)
}

/// Bytes that are not an encoded GTID set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// They end early.
    #[error("GTID set cut off after {len} bytes")]
    Truncated {
        /// How many there are.
        len: usize,
    },
    /// The format is neither the one without nor the one with tags.
    #[error("GTID set in unknown format {0}")]
    UnknownFormat(u8),
    /// More bytes than the set has.
    #[error("GTID set followed by {count} more bytes")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// A tag that no server writes.
    #[error("GTID set with a malformed tag")]
    BadTag,
    /// An origin that is listed twice.
    #[error("GTID set that lists {0} twice")]
    RepeatedOrigin(String),
    /// An interval that is empty, out of order or out of range.
    #[error("GTID set with the interval {start} to {end} of {origin} out of order or out of range")]
    BadInterval {
        /// Whose numbers.
        origin: String,
        /// First number.
        start: u64,
        /// Number after the last.
        end: u64,
    },
}

/// A stream of bytes that is not a binlog, or not a whole one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are no binlog's.
    #[error("no binlog: it starts with {found:02x?}")]
    NotABinlog {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// The first bytes are those of an encrypted binlog.
    #[error("encrypted binlog where a plaintext one is read")]
    Encrypted,
    /// The first event is not the one that says how to read the others.
    #[error("binlog that starts with a {found} event, not with a format description")]
    NoFormatDescription {
        /// The first event.
        found: EventType,
    },
    /// Bytes that are not an event.
    #[error("event at offset {offset}")]
    Event {
        /// Where the event starts.
        offset: u64,
        /// What is wrong with it.
        source: EventError,
    },
    /// The bytes end before their event does.
    #[error("torn event at offset {offset}: only {bytes} bytes of it are there")]
    Torn {
        /// Where the event starts.
        offset: u64,
        /// How many bytes of it there are.
        bytes: u64,
    },
}

/// Events that cannot be one segment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// An event does not start where the one before it ended.
    #[error("event at offset {found} where the one at {expected} must follow")]
    NotContiguous {
        /// Offset after the last event.
        expected: u64,
        /// Offset of the event.
        found: u64,
    },
    /// A transaction that the segment has already.
    #[error("transaction {gtid} at offset {offset} for the second time")]
    RepeatedGtid {
        /// The transaction.
        gtid: Gtid,
        /// Where it starts the second time.
        offset: u64,
    },
}

/// A transaction payload that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The event is not a well-formed payload event.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The inflated bytes are not events.
    #[error("inside of a transaction payload")]
    Frame(#[from] FrameError),
    /// It says that it inflates to more than is accepted.
    #[error("transaction payload of {declared} bytes inflated")]
    TooLong {
        /// The size it says.
        declared: u64,
    },
    /// It inflates to another size than it says.
    #[error("transaction payload that does not inflate to the {declared} bytes it says")]
    WrongSize {
        /// The size it says.
        declared: u64,
    },
    /// It is compressed in a way that no known server uses.
    #[error("transaction payload with unknown compression {0}")]
    UnknownCompression(u64),
    /// It does not decompress.
    #[error("transaction payload: {0}")]
    Inflate(String),
}

/// A transaction whose changes cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeaningError {
    /// An event is malformed.
    #[error(transparent)]
    Event(#[from] EventError),
    /// A payload is malformed.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A payload inside of a payload, which no server writes.
    #[error("transaction payload inside of a transaction payload")]
    NestedPayload,
    /// A row event for a table that no event before it describes.
    #[error("row event for table id {0} without its table map")]
    UnknownTable(u64),
    /// More tables than any real transaction touches.
    #[error("transaction over too many tables")]
    TooManyTables,
}
