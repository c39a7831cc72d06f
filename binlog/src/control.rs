//! The events about the binlog itself: format description, rotation, previous GTIDs.

use crate::error::EventError;
use crate::event::{ChecksumAlgorithm, EVENT_HEADER_LEN, EventType, RawEvent, version_has_checksums};
use crate::gtid::GtidSet;
use crate::position::{BinlogName, BinlogPosition};

/// The first event of a binlog: who wrote it, and in which layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatDescription {
    /// The server's `@@version`.
    pub server_version: String,
    /// When the binlog was created, seconds since 1970. Only the first binlog after a server's start has it; else 0.
    pub created: u32,
    /// How the events of this binlog end.
    pub checksum_algorithm: ChecksumAlgorithm,
    /// Bytes between header and body for each event type, from type 1.
    pub post_header_lens: Vec<u8>,
}

impl FormatDescription {
    /// Reads a format description.
    ///
    /// # Errors
    /// When it is another event, not of binlog version 4, or too short.
    pub fn read(event: &RawEvent<'_>) -> Result<Self, EventError> {
        let mut body = event.body_of(EventType::FORMAT_DESCRIPTION)?;
        if body.u16() != Some(4) {
            return Err(event.bad("binlog version"));
        }
        let version = body.array::<50>().ok_or_else(|| event.bad("server version"))?;
        let text = version.split(|byte| *byte == 0).next().unwrap_or_default();
        let server_version = String::from_utf8(text.to_vec()).map_err(|_| event.bad("server version"))?;
        let created = body.u32().ok_or_else(|| event.bad("creation time"))?;
        if body.u8().map(usize::from) != Some(EVENT_HEADER_LEN) {
            return Err(event.bad("header length"));
        }
        let (post_header_lens, checksum_algorithm) =
            if version_has_checksums(&version).ok_or_else(|| event.bad("server version"))? {
                let (code, lens) = body.rest().split_last().ok_or_else(|| event.bad("checksum algorithm"))?;
                (lens.to_vec(), ChecksumAlgorithm::try_from(*code)?)
            } else {
                (body.rest().to_vec(), ChecksumAlgorithm::None)
            };
        Ok(Self { server_version, created, checksum_algorithm, post_header_lens })
    }

    /// Bytes between header and body of an event type; 0 for types that the server did not know.
    #[must_use]
    pub fn post_header_len(&self, event_type: EventType) -> usize {
        let index = usize::from(event_type.0).checked_sub(1);
        index.and_then(|index| self.post_header_lens.get(index)).map_or(0, |len| usize::from(*len))
    }
}

/// Where the stream goes on: the last event of a binlog, or the artificial one that names the binlog being sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotateEvent {
    /// The next binlog and the offset of its first event.
    pub next: BinlogPosition,
}

impl RotateEvent {
    /// Reads a rotation.
    ///
    /// # Errors
    /// When it is another event, too short, or names a file that no object could be named after.
    pub fn read(event: &RawEvent<'_>) -> Result<Self, EventError> {
        let mut body = event.body_of(EventType::ROTATE)?;
        let offset = body.u64().ok_or_else(|| event.bad("position"))?;
        let name = std::str::from_utf8(body.rest()).map_err(|_| event.bad("binlog name"))?;
        let binlog: BinlogName = name.parse().map_err(|_| event.bad("binlog name"))?;
        Ok(Self { next: BinlogPosition { binlog, offset } })
    }
}

/// Reads a `PREVIOUS_GTIDS` event: everything the server had executed before this binlog.
///
/// # Errors
/// When it is another event, or its set is malformed.
pub fn previous_gtids(event: &RawEvent<'_>) -> Result<GtidSet, EventError> {
    let body = event.body_of(EventType::PREVIOUS_GTIDS)?;
    GtidSet::from_wire(body.rest()).map_err(|_| event.bad("GTID set"))
}
