//! The only events that we make ourselves: the ROTATE that names a file, and heartbeats. Neither is written to the
//! replica's relay log as a transaction's event.

use highwater_binlog::{BinlogName, ChecksumAlgorithm};

const ROTATE: u8 = 4;
/// `HEARTBEAT_LOG_EVENT`
const HEARTBEAT: u8 = 27;
/// `HEARTBEAT_LOG_EVENT_V2`, MySQL 8.0.26: a 64-bit position.
const HEARTBEAT_V2: u8 = 41;
/// `LOG_EVENT_ARTIFICIAL_F`
const ARTIFICIAL: u16 = 0x20;
const HEADER_LEN: usize = 19;

/// Says that what follows comes from `binlog`, from its first event.
pub(super) fn rotate(server_id: u32, binlog: &BinlogName, checksum: ChecksumAlgorithm) -> Vec<u8> {
    let mut body = 4u64.to_le_bytes().to_vec();
    body.extend_from_slice(binlog.as_str().as_bytes());
    event(ROTATE, server_id, 0, &body, checksum)
}

/// Says that we are alive and have sent everything before `position`, as the replica itself counts it.
pub(super) fn heartbeat(
    server_id: u32,
    binlog: &BinlogName,
    position: u64,
    v2: bool,
    checksum: ChecksumAlgorithm,
) -> Vec<u8> {
    let name = binlog.as_str().as_bytes();
    if !v2 {
        // Beyond 4 GiB the old heartbeat has no right position to give; the highest is the least wrong.
        let log_pos = u32::try_from(position).unwrap_or(u32::MAX);
        return event(HEARTBEAT, server_id, log_pos, name, checksum);
    }
    // Type, length, value; `Heartbeat::encode` in libbinlogevents/src/codecs/binary.cpp.
    const LOG_FILENAME: u8 = 1;
    const LOG_POSITION: u8 = 2;
    const END: u8 = 0;
    let mut body = vec![LOG_FILENAME];
    super::packet::put_text(&mut body, name);
    body.extend_from_slice(&[LOG_POSITION, 9, 0xfe]);
    body.extend_from_slice(&position.to_le_bytes());
    body.push(END);
    event(HEARTBEAT_V2, server_id, 0, &body, checksum)
}

fn event(event_type: u8, server_id: u32, log_pos: u32, body: &[u8], checksum: ChecksumAlgorithm) -> Vec<u8> {
    let trailer = match checksum {
        ChecksumAlgorithm::Crc32 => 4,
        ChecksumAlgorithm::None => 0,
    };
    let len = HEADER_LEN + body.len() + trailer;
    let mut event = Vec::with_capacity(len);
    event.extend_from_slice(&0u32.to_le_bytes());
    event.push(event_type);
    event.extend_from_slice(&server_id.to_le_bytes());
    event.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    event.extend_from_slice(&log_pos.to_le_bytes());
    event.extend_from_slice(&ARTIFICIAL.to_le_bytes());
    event.extend_from_slice(body);
    if checksum == ChecksumAlgorithm::Crc32 {
        let crc = crc32fast::hash(&event);
        event.extend_from_slice(&crc.to_le_bytes());
    }
    event
}
