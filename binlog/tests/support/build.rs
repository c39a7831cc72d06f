//! Events made by hand. A test includes this file and uses what it needs of it.
#![allow(dead_code, unreachable_pub)]

use highwater_binlog::EventType;

/// An event as bytes.
#[derive(Clone)]
pub struct Build {
    pub event_type: EventType,
    pub timestamp: u32,
    pub flags: u16,
    pub end_log_pos: u32,
    pub body: Vec<u8>,
}

impl Build {
    pub fn new(event_type: EventType, body: impl Into<Vec<u8>>) -> Self {
        Self { event_type, timestamp: 1_700_000_000, flags: 0, end_log_pos: 1234, body: body.into() }
    }

    pub fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    pub fn end_log_pos(mut self, end_log_pos: u32) -> Self {
        self.end_log_pos = end_log_pos;
        self
    }

    pub fn plain(&self) -> Vec<u8> {
        self.with_len(19 + self.body.len())
    }

    pub fn crc32(&self) -> Vec<u8> {
        let bytes = self.with_len(23 + self.body.len());
        let checksum = crc32fast::hash(&bytes);
        [bytes, checksum.to_le_bytes().to_vec()].concat()
    }

    fn with_len(&self, len: usize) -> Vec<u8> {
        let mut bytes = self.timestamp.to_le_bytes().to_vec();
        bytes.push(self.event_type.0);
        bytes.extend(7u32.to_le_bytes());
        bytes.extend(u32::try_from(len).unwrap().to_le_bytes());
        bytes.extend(self.end_log_pos.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(&self.body);
        bytes
    }
}

pub fn query(statement: &str) -> Build {
    query_in("", statement)
}

pub fn query_in(schema: &str, statement: &str) -> Build {
    let mut body = vec![0; 8];
    body.push(u8::try_from(schema.len()).unwrap());
    body.extend([0, 0, 3, 0, 1, 2, 3]);
    body.extend(schema.as_bytes());
    body.push(0);
    body.extend(statement.as_bytes());
    Build::new(EventType::QUERY, body)
}

/// A GTID event of server `9…9`, of 42 bytes body as 5.7 wrote it; `length` adds what 8.0 added.
pub fn gtid(number: u64, length: Option<u64>) -> Build {
    let mut body = vec![0];
    body.extend([9; 16]);
    body.extend(number.to_le_bytes());
    body.push(2);
    body.extend([0; 16]);
    if let Some(length) = length {
        body.extend(&1_234_567_890_123_456u64.to_le_bytes()[..7]);
        body.push(0xfe);
        body.extend(length.to_le_bytes());
        body.extend(80036u32.to_le_bytes());
    }
    Build::new(EventType::GTID, body)
}

pub fn description(version: &str, algorithm: u8) -> Build {
    let mut body = vec![4, 0];
    let mut text = [0u8; 50];
    text[..version.len()].copy_from_slice(version.as_bytes());
    body.extend(text);
    body.extend(0u32.to_le_bytes());
    body.push(19);
    body.extend([0; 41]);
    body.push(algorithm);
    Build::new(EventType::FORMAT_DESCRIPTION, body)
}

/// A payload event around `content`.
pub fn payload(compression: u8, inflated_size: u64, content: &[u8]) -> Build {
    let mut body = vec![2];
    if compression > 250 {
        body.extend([3, 252, compression, 0]);
    } else {
        body.extend([1, compression]);
    }
    body.extend([3, 9, 254]);
    body.extend(inflated_size.to_le_bytes());
    body.extend([1, 9, 254]);
    body.extend((content.len() as u64).to_le_bytes());
    body.push(0);
    body.extend(content);
    Build::new(EventType::TRANSACTION_PAYLOAD, body)
}
