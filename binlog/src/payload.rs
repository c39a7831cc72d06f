//! Events inside of a `TRANSACTION_PAYLOAD` event, which `binlog_transaction_compression=ON` writes.

use std::io::Read;

use crate::cursor::Cursor;
use crate::error::{EventError, PayloadError};
use crate::event::{ChecksumAlgorithm, EventType, RawEvent};
use crate::frame::Framer;

/// The most bytes that are inflated out of one payload. A payload is 1 GiB at most and rows seldom shrink below an
/// eighth; what claims more is refused rather than chewed on.
pub const PAYLOAD_INFLATED_MAX: u64 = 8 << 30;

/// How much is inflated at once.
const CHUNK_LEN: usize = 64 << 10;

/// Type codes of the header's fields (`libs/mysql/binlog/event/codecs/binary.h`).
const FIELD_END: u64 = 0;
const FIELD_SIZE: u64 = 1;
const FIELD_COMPRESSION: u64 = 2;
const FIELD_INFLATED_SIZE: u64 = 3;

/// Codes of `mysql::binlog::event::compression::type`.
const COMPRESSION_ZSTD: u64 = 0;
const COMPRESSION_NONE: u64 = 255;

/// Calls `visit` with every event inside of a payload event, in order. They have no checksums and no offsets of their
/// own. Memory is that of the longest of them.
///
/// # Errors
/// When it is another event, when its header or its contents are malformed, when it inflates to something else than it
/// says or to more than [`PAYLOAD_INFLATED_MAX`], and whatever `visit` returns.
pub fn for_each_payload_event<E: From<PayloadError>>(
    event: &RawEvent<'_>,
    mut visit: impl FnMut(&RawEvent<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let payload = Payload::read(event).map_err(PayloadError::from)?;
    if payload.inflated_size > PAYLOAD_INFLATED_MAX {
        return Err(PayloadError::TooLong { declared: payload.inflated_size }.into());
    }
    let mut source: Box<dyn Read + '_> = match payload.compression {
        COMPRESSION_NONE => Box::new(payload.bytes),
        COMPRESSION_ZSTD => Box::new(zstd::stream::read::Decoder::with_buffer(payload.bytes).map_err(inflate)?),
        other => return Err(PayloadError::UnknownCompression(other).into()),
    };
    let mut framer = Framer::resume(ChecksumAlgorithm::None, 0).with_foreign_positions();
    let mut chunk = vec![0; CHUNK_LEN];
    let mut inflated = 0u64;
    loop {
        let count = source.read(&mut chunk).map_err(inflate)?;
        let bytes = chunk.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        inflated = inflated.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if inflated > payload.inflated_size {
            break;
        }
        framer.push(bytes);
        while let Some((_, inner)) = framer.next().map_err(PayloadError::from)? {
            visit(&inner)?;
        }
    }
    if inflated != payload.inflated_size {
        return Err(PayloadError::WrongSize { declared: payload.inflated_size }.into());
    }
    framer.finish().map_err(PayloadError::from)?;
    Ok(())
}

fn inflate(error: std::io::Error) -> PayloadError {
    PayloadError::Inflate(error.to_string())
}

struct Payload<'a> {
    compression: u64,
    inflated_size: u64,
    bytes: &'a [u8],
}

impl<'a> Payload<'a> {
    /// Reads the header: type, length, value, each a length-encoded integer, up to an end mark.
    fn read(event: &RawEvent<'a>) -> Result<Self, EventError> {
        let mut body = event.body_of(EventType::TRANSACTION_PAYLOAD)?;
        let bad = |field| event.bad(field);
        let (mut size, mut compression, mut inflated_size) = (None, COMPRESSION_NONE, None);
        loop {
            let field = body.length_encoded().ok_or_else(|| bad("payload header"))?;
            if field == FIELD_END {
                break;
            }
            let len = body.length_encoded().ok_or_else(|| bad("payload header"))?;
            let mut value = body.take_u64(len).map(Cursor::new).ok_or_else(|| bad("payload header"))?;
            match field {
                FIELD_SIZE => size = Some(value.length_encoded().ok_or_else(|| bad("payload size"))?),
                FIELD_COMPRESSION => compression = value.length_encoded().ok_or_else(|| bad("compression type"))?,
                FIELD_INFLATED_SIZE => {
                    inflated_size = Some(value.length_encoded().ok_or_else(|| bad("uncompressed size"))?);
                }
                // Fields of later versions are skipped, as the server does.
                _ => {}
            }
        }
        let size = size.ok_or_else(|| bad("payload size"))?;
        let bytes = body.take_u64(size).ok_or_else(|| bad("payload size"))?;
        Ok(Self { compression, inflated_size: inflated_size.unwrap_or(size), bytes })
    }
}
