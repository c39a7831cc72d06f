//! The binlog stream of a source, and what we tell the source while it goes on.

use std::io;
use std::ops::Range;
use std::time::Duration;

use highwater_binlog::{BinlogName, EVENT_LEN_MAX};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::auth::lost;
use super::error::ServerError;
use super::greeting::server_error;
use super::packet::PacketIo;
use super::replication::SemiSync;
use super::transport::Transport;

/// A packet of the stream is a status byte, the prefix of a semi-sync stream, and an event.
const EVENT_PACKET_LEN_MAX: u64 = EVENT_LEN_MAX + 3;

/// What a packet of a semi-sync stream has before the event, and an acknowledgement begins with
/// (`ReplSemiSyncBase::kPacketMagicNum` in `plugin/semisync/semisync.h`).
const SEMI_SYNC_MAGIC: u8 = 0xef;

/// Bit of the byte after it: the source waits for an acknowledgement (`kPacketFlagSync`).
const FLAG_WANTS_ACK: u8 = 1;

/// Memory of a packet that is kept for the next one: one huge event does not stay for good.
const PACKET_KEPT: usize = 1 << 20;

/// The events that a source sends, one at a time, as it sends them: nothing is verified yet.
#[derive(Debug)]
pub struct BinlogStream {
    io: PacketIo<ReadHalf<Transport>>,
    acknowledger: Option<Acknowledger>,
    prefix: Prefix,
    packet: Vec<u8>,
    address: String,
    user: String,
    silence_max: Duration,
}

/// An event of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamEvent<'a> {
    /// Its bytes, from its header on.
    pub bytes: &'a [u8],
    /// Whether the source waits for the acknowledgement of this event: its last transaction commits only then, or when
    /// `rpl_semi_sync_source_timeout` has passed.
    pub wants_ack: bool,
}

/// Whether packets have the two bytes of semi-sync. A source either sends them in all packets of a connection or in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    /// We asked for it; the first packet tells.
    Undecided,
    Present,
    Absent,
}

impl BinlogStream {
    /// After the command that asks for it was sent.
    pub(super) fn begin(
        io: PacketIo<Transport>,
        address: String,
        user: String,
        silence_max: Duration,
        semi_sync: SemiSync,
    ) -> Result<Self, ServerError> {
        let Some(transport) = io.into_quiet_stream() else {
            return Err(ServerError::Protocol { address, what: "bytes before the binlog stream".to_owned() });
        };
        let (incoming, outgoing) = tokio::io::split(transport);
        let mut io = PacketIo::new(incoming);
        io.set_silence_max(Some(silence_max));
        let (prefix, acknowledger) = match semi_sync {
            SemiSync::Off => (Prefix::Absent, None),
            SemiSync::Requested => {
                (Prefix::Undecided, Some(Acknowledger { outgoing, address: address.clone(), silence_max }))
            }
        };
        Ok(Self { io, acknowledger, prefix, packet: Vec::new(), address, user, silence_max })
    }

    /// The other direction of this connection. `None`: semi-sync was not requested, or it has been taken before.
    ///
    /// The connection ends when both are dropped.
    pub fn take_acknowledger(&mut self) -> Option<Acknowledger> {
        self.acknowledger.take()
    }

    /// Whether the source speaks semi-sync on this connection: it has the plug-in, be it enabled or not. `None` before
    /// the first event.
    #[must_use]
    pub fn speaks_semi_sync(&self) -> Option<bool> {
        match self.prefix {
            Prefix::Undecided => None,
            Prefix::Present => Some(true),
            Prefix::Absent => Some(false),
        }
    }

    /// The next event; `None` when the source says that it has no more to send. Not cancel safe.
    pub async fn next(&mut self) -> Result<Option<StreamEvent<'_>>, ServerError> {
        // Packet numbers start again after an acknowledgement: their order says nothing.
        let packet = if self.io.has_packet() {
            self.io.take_arrived().unwrap_or_default()
        } else {
            let limit = usize::try_from(EVENT_PACKET_LEN_MAX).unwrap_or(usize::MAX);
            self.packet.clear();
            self.packet.shrink_to(PACKET_KEPT);
            let read = self.io.read_within(&mut self.packet, limit, announced_len).await;
            read.map_err(|source| match source.kind() {
                io::ErrorKind::TimedOut => silent(&self.address, self.silence_max),
                _ => lost(&self.address, source),
            })?;
            &self.packet
        };
        match Content::of(packet, &mut self.prefix) {
            Content::Event(event) => Ok(Some(event)),
            Content::End => Ok(None),
            Content::Error => Err(server_error(packet, &self.address, &self.user, "read the binlog stream")),
            Content::Broken(what) => {
                Err(ServerError::Protocol { address: self.address.clone(), what: what.to_owned() })
            }
        }
    }

    /// Adds the next event to a buffer and returns where it is and whether the source waits for its acknowledgement; `None`
    /// when the source has no more to send. A large one is handed over in the memory it was received in, if the buffer is
    /// empty: then other bytes of its packet are in front of it. Not cancel safe.
    pub async fn next_into(&mut self, buffer: &mut Vec<u8>) -> Result<Option<(Range<usize>, bool)>, ServerError> {
        let is_whole_packet = buffer.is_empty() && !self.io.has_packet();
        let Some(StreamEvent { bytes, wants_ack }) = self.next().await? else { return Ok(None) };
        let len = bytes.len();
        if is_whole_packet && len > PACKET_KEPT {
            std::mem::swap(buffer, &mut self.packet);
        } else {
            buffer.extend_from_slice(bytes);
        }
        // What belongs to the packet and not to the event stands in front of it.
        Ok(Some((buffer.len() - len..buffer.len(), wants_ack)))
    }

    /// Whether the next event has arrived already.
    #[must_use]
    pub fn has_next(&self) -> bool {
        self.io.has_packet()
    }
}

/// What a packet of the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// An event.
    Event(StreamEvent<'a>),
    /// The source has no more to send.
    End,
    /// The source says what is wrong.
    Error,
    /// Nothing that a source sends.
    Broken(&'static str),
}

impl<'a> Content<'a> {
    pub(super) fn of(packet: &'a [u8], prefix: &mut Prefix) -> Self {
        match packet {
            [0x00, rest @ ..] => prefix
                .strip(rest)
                .map_or(Self::Broken("a packet without the prefix of a semi-sync stream"), Self::Event),
            [0xff, ..] => Self::Error,
            [0xfe, rest @ ..] if rest.len() < 8 => Self::End,
            _ => Self::Broken("unknown packet in the binlog stream"),
        }
    }
}

/// How long a packet can be whose event's header is in its first part: an event that spans packets says its length.
pub(super) fn announced_len(packet: &[u8]) -> usize {
    let header = match packet {
        [0x00, SEMI_SYNC_MAGIC, _, event @ ..] | [_, event @ ..] => event,
        [] => return 0,
    };
    // Status byte and prefix, where the latter may be the start of an event's timestamp: the longer reading counts.
    let longest = |event: &[u8]| {
        let len = event.get(9..).and_then(<[u8]>::first_chunk::<4>).map_or(0, |len| u32::from_le_bytes(*len));
        usize::try_from(len).unwrap_or(usize::MAX).saturating_add(3)
    };
    longest(header).max(packet.get(1..).map_or(0, longest))
}

impl Prefix {
    /// The event in a packet after its status byte. `None`: it lacks the prefix that packets before it had.
    fn strip<'a>(&mut self, packet: &'a [u8]) -> Option<StreamEvent<'a>> {
        if *self == Self::Undecided {
            // The first event of a stream is an artificial ROTATE, which begins with the four zeros of its timestamp.
            *self = if packet.first() == Some(&SEMI_SYNC_MAGIC) { Self::Present } else { Self::Absent };
        }
        match (*self, packet) {
            (Self::Absent, bytes) => Some(StreamEvent { bytes, wants_ack: false }),
            (_, [SEMI_SYNC_MAGIC, flags, bytes @ ..]) => {
                Some(StreamEvent { bytes, wants_ack: flags & FLAG_WANTS_ACK != 0 })
            }
            (_, _) => None,
        }
    }
}

/// Tells the source what we have, also while [`BinlogStream::next`] waits.
#[derive(Debug)]
pub struct Acknowledger {
    outgoing: WriteHalf<Transport>,
    address: String,
    silence_max: Duration,
}

impl Acknowledger {
    /// Says that everything up to `offset` of `binlog`, where an event that wants an acknowledgement ends, is safe with us.
    /// Everything before it is acknowledged with it. Not cancel safe.
    pub async fn acknowledge(&mut self, binlog: &BinlogName, offset: u64) -> Result<(), ServerError> {
        let packet = acknowledgement(binlog, offset);
        let sent = async {
            self.outgoing.write_all(&packet).await?;
            self.outgoing.flush().await
        };
        match timeout(self.silence_max, sent).await {
            Ok(result) => result.map_err(|source| lost(&self.address, source)),
            Err(_) => Err(silent(&self.address, self.silence_max)),
        }
    }
}

/// A packet with number 0: magic, 64-bit offset, name (`ReplSemiSyncSlave::slaveReply`).
fn acknowledgement(binlog: &BinlogName, offset: u64) -> Vec<u8> {
    let name = binlog.as_str().as_bytes();
    // Names have at most 255 bytes.
    let [a, b, c, ..] = u32::try_from(1 + 8 + name.len()).unwrap_or(0).to_le_bytes();
    let mut packet = vec![a, b, c, 0, SEMI_SYNC_MAGIC];
    packet.extend_from_slice(&offset.to_le_bytes());
    packet.extend_from_slice(name);
    packet
}

fn silent(address: &str, silence_max: Duration) -> ServerError {
    ServerError::Silent { address: address.to_owned(), seconds: silence_max.as_secs() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_packet_tells_whether_there_is_a_prefix() {
        let mut prefix = Prefix::Undecided;
        assert_eq!(prefix.strip(&[0xef, 0, 0, 7]), Some(StreamEvent { bytes: &[0, 7], wants_ack: false }));
        assert_eq!(prefix.strip(&[0xef, 1, 8]), Some(StreamEvent { bytes: &[8], wants_ack: true }));
        assert_eq!(prefix.strip(&[0, 0, 0, 7]), None);
        assert_eq!(prefix.strip(&[0xef]), None);
        let mut prefix = Prefix::Undecided;
        assert_eq!(prefix.strip(&[0, 0, 7]), Some(StreamEvent { bytes: &[0, 0, 7], wants_ack: false }));
        // An event whose timestamp ends in the same byte.
        assert_eq!(prefix.strip(&[0xef, 1, 7]), Some(StreamEvent { bytes: &[0xef, 1, 7], wants_ack: false }));
    }

    #[test]
    fn an_acknowledgement_has_packet_number_zero_and_64_bits_of_offset() {
        let name: BinlogName = "binlog.000007".parse().unwrap();
        let packet = acknowledgement(&name, 0x1_0000_0102);
        assert_eq!(packet, b"\x16\0\0\0\xef\x02\x01\0\0\x01\0\0\0binlog.000007");
    }
}
