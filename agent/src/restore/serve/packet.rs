//! MySQL's packets: a 3-byte length, a sequence number, a payload; long payloads span packets
//! (MySQL internals manual, "MySQL Packets").

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest payload of one packet; one of exactly this length is followed by another packet.
const PACKET_MAX: usize = 0xff_ffff;

/// Packets over one connection. Reading takes no byte beyond the packet, so that TLS can start between two packets.
#[derive(Debug)]
pub(super) struct PacketStream<S> {
    stream: S,
    sequence: u8,
}

impl<S> PacketStream<S> {
    pub(super) fn new(stream: S, sequence: u8) -> Self {
        Self { stream, sequence }
    }

    /// The connection and the next sequence number.
    pub(super) fn into_parts(self) -> (S, u8) {
        (self.stream, self.sequence)
    }
}

impl<S: AsyncRead + Unpin> PacketStream<S> {
    /// The next payload, `limit` bytes at most.
    pub(super) async fn read(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut payload = Vec::new();
        loop {
            let mut head = [0u8; 4];
            self.stream.read_exact(&mut head).await?;
            let [a, b, c, sequence] = head;
            self.sequence = sequence.wrapping_add(1);
            let len = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
            if payload.len() + len > limit {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("packet over {limit} bytes")));
            }
            let old = payload.len();
            payload.resize(old + len, 0);
            self.stream.read_exact(payload.get_mut(old..).unwrap_or_default()).await?;
            if len < PACKET_MAX {
                return Ok(payload);
            }
        }
    }

    /// The next command: the sequence starts again.
    pub(super) async fn read_command(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        self.read(limit).await
    }
}

impl<S: AsyncWrite + Unpin> PacketStream<S> {
    /// Sends one payload made of `head` and `body`, in as many packets as it takes. Does not flush.
    pub(super) async fn write_joined(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        let total = head.len() + body.len();
        loop {
            let len = (total - sent).min(PACKET_MAX);
            let [a, b, c, ..] = u32::try_from(len).unwrap_or_default().to_le_bytes();
            self.stream.write_all(&[a, b, c, self.sequence]).await?;
            self.sequence = self.sequence.wrapping_add(1);
            let end = sent + len;
            let of_head = head.get(sent.min(head.len())..end.min(head.len())).unwrap_or_default();
            self.stream.write_all(of_head).await?;
            let of_body = body.get(sent.saturating_sub(head.len())..end.saturating_sub(head.len()));
            self.stream.write_all(of_body.unwrap_or_default()).await?;
            sent = end;
            if len < PACKET_MAX {
                return Ok(());
            }
        }
    }

    /// Sends one payload and flushes.
    pub(super) async fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        self.write_joined(payload, &[]).await?;
        self.flush().await
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.stream.flush().await
    }
}

/// Reads fields off the front of a payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Bytes up to a NUL, which is passed over; all that is left when there is none.
    pub(super) fn until_nul(&mut self) -> &'a [u8] {
        let end = self.0.iter().position(|b| *b == 0);
        let text = self.0.get(..end.unwrap_or(self.0.len())).unwrap_or_default();
        self.0 = end.and_then(|end| self.0.get(end + 1..)).unwrap_or_default();
        text
    }

    /// Bytes behind a length-encoded integer under 2^16: no field of ours is longer.
    pub(super) fn len_encoded(&mut self) -> Option<&'a [u8]> {
        let len = match self.u8()? {
            0xfc => usize::from(self.u16()?),
            byte if byte < 0xfb => usize::from(byte),
            _ => return None,
        };
        self.bytes(len)
    }
}

/// Appends a text of a result set: a length-encoded integer, then the bytes.
pub(super) fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    match u8::try_from(text.len()) {
        Ok(len) if len < 0xfb => out.push(len),
        _ => {
            out.push(0xfc);
            out.extend_from_slice(&u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
        }
    }
    out.extend_from_slice(text.get(..text.len().min(usize::from(u16::MAX))).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn round_trip(len: usize) -> (Vec<u8>, usize) {
        let body: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let mut wire = PacketStream::new(Vec::new(), 7);
        wire.write_joined(&[0], &body).await.unwrap();
        let (bytes, _) = wire.into_parts();
        let wire_len = bytes.len();
        let mut back = PacketStream::new(io::Cursor::new(bytes), 0);
        let payload = back.read(len + 1).await.unwrap();
        assert_eq!(payload.len(), len + 1);
        assert!(payload[1..] == body[..]);
        (payload, wire_len)
    }

    #[tokio::test]
    async fn payload_of_exactly_the_longest_packet_is_followed_by_an_empty_one() {
        let (_, wire_len) = round_trip(PACKET_MAX - 1).await;
        assert_eq!(wire_len, PACKET_MAX + 8);
    }

    #[tokio::test]
    async fn long_payload_spans_packets() {
        let (_, wire_len) = round_trip(2 * PACKET_MAX + 5).await;
        assert_eq!(wire_len, 2 * PACKET_MAX + 6 + 12);
    }

    #[tokio::test]
    async fn payload_over_the_limit_is_refused_before_it_is_read() {
        let mut back = PacketStream::new(io::Cursor::new(vec![0xff, 0xff, 0xff, 0]), 0);
        assert_eq!(back.read(1000).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn missing_fields_are_none() {
        let mut fields = Fields::new(&[3, b'a', b'b']);
        assert_eq!(fields.len_encoded(), None);
        assert_eq!(Fields::new(&[]).u32(), None);
        assert_eq!(Fields::new(b"ab\0c").until_nul(), b"ab");
    }
}
