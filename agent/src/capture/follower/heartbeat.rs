//! Heartbeats: where the source is while it sends no events.

/// Heartbeats in a row that tell the same position, since the last event.
///
/// While the source passes over transactions that it need not send, it tells how far it is: each period, and once more
/// before the next event or when it has reached its end (`Binlog_sender::send_events` in `rpl_binlog_sender.cc`). So two
/// in a row can tell the same position with events still to come; a third one is only sent by a source that waits.
#[derive(Debug, Default)]
pub(super) struct Silence {
    position: u64,
    heartbeats: u32,
}

impl Silence {
    /// Takes the next heartbeat. `true`: the source has sent all it has.
    pub(super) fn goes_on(&mut self, position: u64) -> bool {
        let heartbeats = if position == self.position { self.heartbeats + 1 } else { 1 };
        *self = Self { position, heartbeats };
        heartbeats > 2
    }
}

/// The position in a heartbeat of version 2: fields of type, length and value, each number length-encoded
/// (`Heartbeat_event_v2` in `control_events.cpp`).
pub(super) fn position(mut body: &[u8]) -> Option<u64> {
    loop {
        let field = length_encoded(&mut body)?;
        let len = usize::try_from(length_encoded(&mut body)?).ok()?;
        let (mut value, rest) = body.split_at_checked(len)?;
        body = rest;
        match field {
            // OT_HB_HEADER_END_MARK
            0 => return None,
            // OT_HB_LOG_POSITION_FIELD
            2 => return length_encoded(&mut value),
            _ => {}
        }
    }
}

fn length_encoded(bytes: &mut &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first()?;
    let len = match first {
        0..=250 => {
            *bytes = rest;
            return Some(u64::from(*first));
        }
        252 => 2,
        253 => 3,
        254 => 8,
        251 | 255 => return None,
    };
    let (value, rest) = rest.split_at_checked(len)?;
    *bytes = rest;
    let mut wide = [0u8; 8];
    wide.get_mut(..len)?.copy_from_slice(value);
    Some(u64::from_le_bytes(wide))
}
