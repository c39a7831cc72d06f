//! One event: its bytes, verified, and its header. Layout: `libs/mysql/binlog/event/binlog_event.h` of MySQL.

use std::fmt;

use crate::cursor::Cursor;
use crate::error::EventError;

/// The first four bytes of a plaintext binlog (`BINLOG_MAGIC`).
pub const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];

/// Where the first event of a binlog starts: after the magic (`BIN_LOG_HEADER_SIZE`).
pub const FIRST_EVENT_OFFSET: u64 = 4;

/// Bytes of an event's header (`LOG_EVENT_HEADER_LEN`).
pub const EVENT_HEADER_LEN: usize = 19;

/// Bytes of an event's checksum (`BINLOG_CHECKSUM_LEN`).
pub(crate) const CHECKSUM_LEN: usize = 4;

/// The longest event accepted. `max_allowed_packet` ends at 1 GiB and a source sends nothing longer; the slack is
/// for the headers around a value of that size.
pub const EVENT_LEN_MAX: u64 = (1 << 30) + (1 << 20);

/// Header flag of a format description whose binlog is still being written (`LOG_EVENT_BINLOG_IN_USE_F`).
pub(crate) const FLAG_IN_USE: u16 = 0x1;
/// Header flag of an event made up for one replica (`LOG_EVENT_ARTIFICIAL_F`).
const FLAG_ARTIFICIAL: u16 = 0x20;
/// Header flag of what a replica writes into its relay log by itself (`LOG_EVENT_RELAY_LOG_F`).
pub(crate) const FLAG_RELAY_LOG: u16 = 0x40;
/// Header flag of an event that a reader may skip (`LOG_EVENT_IGNORABLE_F`).
const FLAG_IGNORABLE: u16 = 0x80;

/// Where the server's version stands in a format description, from the start of the event.
const SERVER_VERSION_AT: std::ops::Range<usize> = EVENT_HEADER_LEN + 2..EVENT_HEADER_LEN + 52;
/// Where the time of a server's start stands in a format description.
const CREATED_AT: std::ops::Range<usize> = SERVER_VERSION_AT.end..SERVER_VERSION_AT.end + 4;
/// Shortest format description: version, server version, created, header length, checksum algorithm.
const FORMAT_DESCRIPTION_LEN_MIN: usize = EVENT_HEADER_LEN + 57;

/// How the events of a binlog end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumAlgorithm {
    /// Without a checksum (`binlog_checksum=NONE`).
    None,
    /// With four bytes of CRC32, little-endian.
    Crc32,
}

impl TryFrom<u8> for ChecksumAlgorithm {
    type Error = EventError;

    /// Reads `enum_binlog_checksum_alg`.
    fn try_from(code: u8) -> Result<Self, EventError> {
        match code {
            0 => Ok(Self::None),
            1 => Ok(Self::Crc32),
            other => Err(EventError::UnknownChecksumAlgorithm(other)),
        }
    }
}

/// The type code of an event; codes without a name are valid (`enum Log_event_type`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(pub u8);

macro_rules! event_types {
    ($($name:ident = $code:literal),* $(,)?) => {
        #[expect(missing_docs, reason = "the names are MySQL's own")]
        impl EventType {
            $(pub const $name: Self = Self($code);)*

            fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

event_types! {
    QUERY = 2, STOP = 3, ROTATE = 4, INTVAR = 5, APPEND_BLOCK = 9, DELETE_FILE = 11, RAND = 13, USER_VAR = 14,
    FORMAT_DESCRIPTION = 15, XID = 16, BEGIN_LOAD_QUERY = 17, EXECUTE_LOAD_QUERY = 18, TABLE_MAP = 19,
    WRITE_ROWS_V1 = 23, UPDATE_ROWS_V1 = 24, DELETE_ROWS_V1 = 25, INCIDENT = 26, HEARTBEAT = 27, IGNORABLE = 28,
    ROWS_QUERY = 29, WRITE_ROWS = 30, UPDATE_ROWS = 31, DELETE_ROWS = 32, GTID = 33, ANONYMOUS_GTID = 34,
    PREVIOUS_GTIDS = 35, TRANSACTION_CONTEXT = 36, VIEW_CHANGE = 37, XA_PREPARE = 38, PARTIAL_UPDATE_ROWS = 39,
    TRANSACTION_PAYLOAD = 40, HEARTBEAT_V2 = 41, GTID_TAGGED = 42,
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "type {}", self.0),
        }
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The header that every event starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventHeader {
    /// When the statement began, seconds since 1970; 0 in artificial events.
    pub timestamp: u32,
    /// What it is.
    pub event_type: EventType,
    /// The server where it was first written.
    pub server_id: u32,
    /// Bytes of the event, header and checksum included.
    pub event_len: u32,
    /// Offset after the event in the server's binlog, modulo 2^32; 0 in artificial events. Not to be counted with.
    pub end_log_pos: u32,
    /// Flags (`LOG_EVENT_*_F`).
    pub flags: u16,
}

impl EventHeader {
    /// Reads a header; `None` when there are fewer than [`EVENT_HEADER_LEN`] bytes.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        Some(Self {
            timestamp: cursor.u32()?,
            event_type: EventType(cursor.u8()?),
            server_id: cursor.u32()?,
            event_len: cursor.u32()?,
            end_log_pos: cursor.u32()?,
            flags: cursor.u16()?,
        })
    }

    /// See [`RawEvent::is_artificial`].
    const fn is_artificial(&self) -> bool {
        let heartbeat = matches!(self.event_type, EventType::HEARTBEAT | EventType::HEARTBEAT_V2);
        // A zero position alone proves nothing: the 32 bits wrap. The format description of a file ends near its start.
        let moved = matches!(self.event_type, EventType::FORMAT_DESCRIPTION) && self.end_log_pos == 0;
        heartbeat || moved || self.flags & FLAG_ARTIFICIAL != 0
    }

    /// By how much the position that it says it ends at is ahead of the one that its length leads to from `offset` on,
    /// modulo 2^32; none where it says none.
    pub(crate) const fn ahead_of(&self, offset: u64) -> Option<u32> {
        if self.is_artificial() || self.end_log_pos == 0 {
            return None;
        }
        Some(self.end_log_pos.wrapping_sub(self.reached(offset)))
    }

    /// The error that it does not end where it says.
    pub(crate) const fn wrong_position(&self, offset: u64) -> EventError {
        let Self { event_type, event_len, end_log_pos, .. } = *self;
        EventError::Position { event_type, declared: event_len, reached: self.reached(offset), end_log_pos }
    }

    /// Where its length leads to, as positions are written: the low 32 bits.
    const fn reached(&self, offset: u64) -> u32 {
        let [a, b, c, d, ..] = offset.to_le_bytes();
        u32::from_le_bytes([a, b, c, d]).wrapping_add(self.event_len)
    }

    /// The event's length if an event can have it.
    ///
    /// # Errors
    /// [`EventError::ImpossibleLength`] below the header's own length and above [`EVENT_LEN_MAX`].
    pub fn checked_len(&self) -> Result<usize, EventError> {
        let error = EventError::ImpossibleLength { declared: u64::from(self.event_len) };
        match usize::try_from(self.event_len) {
            Ok(len) if len >= EVENT_HEADER_LEN && u64::from(self.event_len) <= EVENT_LEN_MAX => Ok(len),
            _ => Err(error),
        }
    }
}

/// An event whose length and checksum are right. There is no way back from it to other bytes than its own.
#[derive(Debug, Clone, Copy)]
pub struct RawEvent<'a> {
    header: EventHeader,
    bytes: &'a [u8],
    checksum_len: usize,
}

impl<'a> RawEvent<'a> {
    /// Checks length and checksum of `bytes`, which must be exactly one event of a binlog whose events end as
    /// `algorithm` says. A format description says itself how it ends, whatever `algorithm` is.
    ///
    /// # Errors
    /// When length or checksum are wrong.
    pub fn verify(bytes: &'a [u8], algorithm: ChecksumAlgorithm) -> Result<Self, EventError> {
        let given = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let header = EventHeader::read(bytes).ok_or(EventError::ImpossibleLength { declared: given })?;
        let len = header.checked_len()?;
        if len != bytes.len() {
            return Err(EventError::LengthMismatch { declared: u64::from(header.event_len), given });
        }
        let is_description = header.event_type == EventType::FORMAT_DESCRIPTION;
        let (checksum_len, algorithm) = match algorithm {
            _ if is_description => description_ending(&header, bytes)?,
            ChecksumAlgorithm::Crc32 => (CHECKSUM_LEN, algorithm),
            ChecksumAlgorithm::None => (0, algorithm),
        };
        if len < EVENT_HEADER_LEN + checksum_len {
            return Err(EventError::ImpossibleLength { declared: given });
        }
        if algorithm == ChecksumAlgorithm::Crc32 {
            verify_crc32(&header, bytes).or_else(|error| match as_created(&header, bytes) {
                Some(created) if is_description => verify_crc32(&header, &created).map_err(|_| error),
                Some(_) | None => Err(error),
            })?;
        }
        Ok(Self { header, bytes, checksum_len })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &EventHeader {
        &self.header
    }

    /// The type, from the header.
    #[must_use]
    pub const fn event_type(&self) -> EventType {
        self.header.event_type
    }

    /// The whole event as the server wrote it.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The length of the whole event.
    #[must_use]
    pub fn byte_count(&self) -> u64 {
        u64::from(self.header.event_len)
    }

    /// The event without its header and its checksum.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        let end = self.bytes.len().saturating_sub(self.checksum_len);
        self.bytes.get(EVENT_HEADER_LEN..end).unwrap_or_default()
    }

    /// Whether the source made it up for the stream, so that it is in no file: heartbeats, the rotation that names the
    /// file at the start of a stream, the format description that precedes a start inside of a file.
    #[must_use]
    pub const fn is_artificial(&self) -> bool {
        self.header.is_artificial()
    }

    /// Whether readers that do not know the type may skip it.
    #[must_use]
    pub const fn is_ignorable(&self) -> bool {
        self.header.flags & FLAG_IGNORABLE != 0
    }

    /// A cursor over the body of an event that must be of type `expected`.
    pub(crate) fn body_of(&self, expected: EventType) -> Result<Cursor<'a>, EventError> {
        if self.event_type() == expected {
            Ok(Cursor::new(self.body()))
        } else {
            Err(EventError::NotThisType { expected, found: self.event_type() })
        }
    }

    /// An error about this event's body.
    pub(crate) const fn bad(&self, field: &'static str) -> EventError {
        EventError::Body { event_type: self.header.event_type, field }
    }
}

/// How a format description ends: with a checksum since 5.6.1, even where its algorithm byte says that the other events
/// have none. Only one that the source changed for the stream then has a stale one (`Binlog_sender`).
fn description_ending(header: &EventHeader, bytes: &[u8]) -> Result<(usize, ChecksumAlgorithm), EventError> {
    let bad = |field| EventError::Body { event_type: EventType::FORMAT_DESCRIPTION, field };
    if bytes.len() < FORMAT_DESCRIPTION_LEN_MIN {
        return Err(bad("length"));
    }
    let version = bytes.get(SERVER_VERSION_AT).unwrap_or_default();
    if !version_has_checksums(version).ok_or_else(|| bad("server version"))? {
        return Ok((0, ChecksumAlgorithm::None));
    }
    let at = bytes.len().checked_sub(CHECKSUM_LEN + 1).filter(|at| *at + 1 >= FORMAT_DESCRIPTION_LEN_MIN);
    let code = at.and_then(|at| bytes.get(at)).ok_or_else(|| bad("length"))?;
    match ChecksumAlgorithm::try_from(*code)? {
        ChecksumAlgorithm::None if header.is_artificial() => Ok((CHECKSUM_LEN, ChecksumAlgorithm::None)),
        ChecksumAlgorithm::None | ChecksumAlgorithm::Crc32 => Ok((CHECKSUM_LEN, ChecksumAlgorithm::Crc32)),
    }
}

/// Whether a server of this version writes an algorithm and room for a checksum into its format descriptions: 5.6.1 and
/// newer (`checksum_version_split`). `None` for what is no version of a server with this binlog format: a damaged digit
/// must not turn the checks off.
pub(crate) fn version_has_checksums(version: &[u8]) -> Option<bool> {
    let mut parts = version.split(|byte| !byte.is_ascii_digit()).map(|digits| {
        digits.iter().fold(0u32, |value, digit| value.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
    });
    let mut part = || parts.next().unwrap_or(0);
    let version = (part(), part(), part());
    (version.0 >= 5).then_some(version >= (5, 6, 1))
}

/// A format description as it was before a source without checksums cleared the time in it, which leaves its checksum
/// behind: it does so in front of transactions that it leaves out (`Binlog_sender::send_format_description_event`). The time
/// is that of the event.
fn as_created(header: &EventHeader, bytes: &[u8]) -> Option<Vec<u8>> {
    let algorithm = bytes.len().checked_sub(CHECKSUM_LEN + 1).and_then(|at| bytes.get(at)).copied()?;
    let mut created = bytes.to_vec();
    let time = created.get_mut(CREATED_AT).filter(|time| algorithm == 0 && time.iter().all(|byte| *byte == 0))?;
    time.copy_from_slice(&header.timestamp.to_le_bytes());
    Some(created)
}

/// The flag that a server changes in place when it closes a binlog is not part of a format description's checksum
/// (`Log_event_footer::event_checksum_test`).
fn verify_crc32(header: &EventHeader, bytes: &[u8]) -> Result<(), EventError> {
    let (content, stored) = bytes
        .split_last_chunk::<CHECKSUM_LEN>()
        .ok_or(EventError::ImpossibleLength { declared: u64::from(header.event_len) })?;
    let stored = u32::from_le_bytes(*stored);
    let mut hasher = crc32fast::Hasher::new();
    match content.split_at_checked(EVENT_HEADER_LEN - 2) {
        Some((before, [_, _, after @ ..])) if header.event_type == EventType::FORMAT_DESCRIPTION => {
            hasher.update(before);
            hasher.update(&(header.flags & !FLAG_IN_USE).to_le_bytes());
            hasher.update(after);
        }
        _ => hasher.update(content),
    }
    let computed = hasher.finalize();
    if computed == stored {
        Ok(())
    } else {
        Err(EventError::Checksum { event_type: header.event_type, stored, computed })
    }
}
