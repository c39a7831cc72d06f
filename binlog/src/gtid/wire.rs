//! GTID sets as servers send and store them: in `COM_BINLOG_DUMP_GTID` and `PREVIOUS_GTIDS`.

use super::{GtidOrigin, GtidSet, Interval, NUMBER_MAX, Tag};
use crate::cursor::Cursor;
use crate::error::WireError;
use crate::gtid_event::serialized_tag;
use crate::position::ServerUuid;

/// Highest byte of the first word in the format with tags (`Gtid_format::tagged`); 0 in the older one.
const TAGGED: u64 = 1;

impl GtidSet {
    /// The set as `Gtid_set::encode` of `sql/rpl_gtid_set.cc` writes it: the format that every version reads, and the
    /// one with tags (8.3 and newer) only if the set has a tag.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        let tagged = self.origins.keys().any(|origin| !origin.tag.is_empty());
        let origins = u64::try_from(self.origins.len()).unwrap_or(u64::MAX);
        let first = if tagged { (TAGGED << 56) | (origins << 8) | TAGGED } else { origins };
        let mut bytes = first.to_le_bytes().to_vec();
        for (origin, list) in &self.origins {
            bytes.extend_from_slice(origin.server.as_bytes());
            if tagged {
                // A tag is 32 bytes at most, so the serialised length is one byte, shifted by its marker bit.
                let tag = origin.tag.as_str().as_bytes();
                bytes.push(u8::try_from(tag.len() << 1).unwrap_or_default());
                bytes.extend_from_slice(tag);
            }
            bytes.extend_from_slice(&u64::try_from(list.len()).unwrap_or(u64::MAX).to_le_bytes());
            for interval in list {
                bytes.extend_from_slice(&interval.start.to_le_bytes());
                bytes.extend_from_slice(&interval.end.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads a whole encoded set, in either format. Uses no more memory than a small multiple of `bytes`.
    ///
    /// # Errors
    /// When the bytes are not what a server writes: `Gtid_set::add_gtid_encoding` refuses the same.
    pub fn from_wire(bytes: &[u8]) -> Result<Self, WireError> {
        let mut cursor = Cursor::new(bytes);
        let first = cursor.u64().ok_or(WireError::Truncated { len: bytes.len() })?;
        let (tagged, count) = match first >> 56 {
            0 => (false, first),
            TAGGED => (true, (first & 0x00ff_ffff_ffff_ffff) >> 8),
            other => return Err(WireError::UnknownFormat(u8::try_from(other).unwrap_or_default())),
        };
        let mut set = Self::new();
        for _ in 0..count {
            let (origin, list) = read_origin(&mut cursor, tagged, bytes.len())?;
            // Servers list an origin once, and leave it out when it is empty.
            if !list.is_empty() && set.origins.insert(origin.clone(), list).is_some() {
                return Err(WireError::RepeatedOrigin(origin.to_string()));
            }
        }
        if cursor.is_empty() { Ok(set) } else { Err(WireError::TrailingBytes { count: cursor.rest().len() }) }
    }
}

fn read_origin(cursor: &mut Cursor<'_>, tagged: bool, len: usize) -> Result<(GtidOrigin, Vec<Interval>), WireError> {
    let truncated = || WireError::Truncated { len };
    let server = cursor.array().map(ServerUuid::from_bytes).ok_or_else(truncated)?;
    let tag = if tagged { serialized_tag(cursor).ok_or(WireError::BadTag)? } else { Tag::default() };
    let count = cursor.u64().ok_or_else(truncated)?;
    let mut words =
        count.checked_mul(16).and_then(|bytes| cursor.take_u64(bytes)).map(Cursor::new).ok_or_else(truncated)?;
    let origin = GtidOrigin { server, tag };
    let mut list: Vec<Interval> = Vec::with_capacity(words.rest().len() / 16);
    while let Some((start, end)) = words.u64().zip(words.u64()) {
        let last = list.last().map_or(0, |interval| interval.end);
        if start <= last || end <= start || end > NUMBER_MAX + 1 {
            return Err(WireError::BadInterval { origin: origin.to_string(), start, end });
        }
        list.push(Interval { start, end });
    }
    Ok((origin, list))
}
