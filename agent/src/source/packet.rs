//! MySQL's packets: a 3-byte length, a sequence number, a payload; 16 MiB - 1 and more are split.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

/// Length of a packet's header.
const HEADER_LEN: usize = 4;

/// A payload of this length is continued by the next packet (`MAX_PACKET_LENGTH` in `sql-common/net_serv.cc`).
const SPLIT_LEN: usize = 0xff_ffff;

/// Most bytes of a packet read in one go, so that a length is believed only as far as bytes arrive.
const READ_STEP: usize = 256 << 10;

/// A stream of packets.
#[derive(Debug)]
pub(super) struct PacketIo<S> {
    stream: BufReader<S>,
    /// The sequence number the next packet we write has.
    sequence: u8,
    /// How long nothing may arrive while we wait for something.
    silence_max: Option<Duration>,
}

impl<S: AsyncRead> PacketIo<S> {
    /// Over `stream`, from a command's first packet on.
    pub(super) fn new(stream: S) -> Self {
        Self { stream: BufReader::with_capacity(256 << 10, stream), sequence: 0, silence_max: None }
    }

    /// Like `new`, after `sequence - 1` was the last packet of either side.
    pub(super) fn resume(stream: S, sequence: u8) -> Self {
        Self { sequence, ..Self::new(stream) }
    }

    /// From now on a read that waits longer than this for any bytes ends with `TimedOut`.
    pub(super) fn set_silence_max(&mut self, silence_max: Option<Duration>) {
        self.silence_max = silence_max;
    }

    /// The sequence number the next packet we write has.
    pub(super) fn sequence(&self) -> u8 {
        self.sequence
    }

    /// The stream, to change what is below it. `None` when the peer sent more than it was asked for: what came in the
    /// clear must not be taken for what TLS protects.
    pub(super) fn into_quiet_stream(self) -> Option<S> {
        self.stream.buffer().is_empty().then(|| self.stream.into_inner())
    }

    /// What is below.
    pub(super) fn get_ref(&self) -> &S {
        self.stream.get_ref()
    }
}

impl<S: AsyncRead + Unpin> PacketIo<S> {
    /// Reads the next payload into `payload`, replacing what it has; longer than `limit` is an `InvalidData` error.
    pub(super) async fn read(&mut self, payload: &mut Vec<u8>, limit: usize) -> io::Result<()> {
        self.read_within(payload, limit, |_| limit).await
    }

    /// Like [`Self::read`]; a payload that spans packets may say in its first one how long it is to become.
    pub(super) async fn read_within(
        &mut self,
        payload: &mut Vec<u8>,
        limit: usize,
        announced: impl Fn(&[u8]) -> usize,
    ) -> io::Result<()> {
        payload.clear();
        loop {
            let limit = if payload.is_empty() { limit } else { limit.min(announced(payload)) };
            let mut header = [0u8; HEADER_LEN];
            self.fill(&mut header).await?;
            let [a, b, c, sequence] = header;
            self.sequence = sequence.wrapping_add(1);
            let mut remaining = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
            let last = remaining < SPLIT_LEN;
            if payload.len().saturating_add(remaining) > limit {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("packet longer than the limit of {limit} bytes"),
                ));
            }
            while remaining > 0 {
                let step = remaining.min(READ_STEP);
                let from = payload.len();
                payload.resize(from + step, 0);
                self.fill(&mut payload[from..]).await?;
                remaining -= step;
            }
            if last {
                return Ok(());
            }
        }
    }

    async fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self.silence_max {
            None => self.stream.read_exact(bytes).await?,
            Some(limit) => timeout(limit, self.stream.read_exact(bytes)).await??,
        };
        Ok(())
    }

    /// Whether a whole packet, header and payload, has arrived already: reading it will not wait.
    pub(super) fn has_packet(&self) -> bool {
        match self.stream.buffer() {
            [a, b, c, _, payload @ ..] => {
                let len = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
                len < SPLIT_LEN && payload.len() >= len
            }
            _ => false,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> PacketIo<S> {
    /// Writes `payload` as the next packet of this exchange.
    pub(super) async fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut rest = payload;
        loop {
            let (part, tail) = rest.split_at(rest.len().min(SPLIT_LEN));
            let [a, b, c, ..] = u32::try_from(part.len()).unwrap_or(0).to_le_bytes();
            self.stream.write_all(&[a, b, c, self.sequence]).await?;
            self.stream.write_all(part).await?;
            self.sequence = self.sequence.wrapping_add(1);
            rest = tail;
            if part.len() < SPLIT_LEN {
                return self.stream.flush().await;
            }
        }
    }

    /// Writes `payload` as the first packet of a command.
    pub(super) async fn command(&mut self, payload: &[u8]) -> io::Result<()> {
        self.sequence = 0;
        self.write(payload).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn round_trip(len: usize) -> (Vec<u8>, usize) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let sent: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let copy = sent.clone();
        let writer = async move { PacketIo::new(ours).command(&copy).await.unwrap() };
        let reader = async {
            let mut got = Vec::new();
            PacketIo::new(theirs).read(&mut got, 64 << 20).await.unwrap();
            got
        };
        let ((), got) = tokio::join!(writer, reader);
        assert_eq!(got, sent);
        (got, len)
    }

    #[tokio::test]
    async fn payloads_around_the_split_length_come_back_whole() {
        for len in [0, 1, SPLIT_LEN - 1, SPLIT_LEN, SPLIT_LEN + 1, 2 * SPLIT_LEN] {
            let (got, len) = round_trip(len).await;
            assert_eq!(got.len(), len);
        }
    }

    #[tokio::test]
    async fn a_payload_over_the_limit_is_refused_before_it_is_stored() {
        let (mut peer, ours) = tokio::io::duplex(64);
        peer.write_all(&[0xfe, 0xff, 0xff, 0]).await.unwrap();
        let mut got = Vec::new();
        let error = PacketIo::new(ours).read(&mut got, 1000).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(got.capacity() < 1000);
    }

    #[tokio::test]
    async fn memory_grows_with_what_arrives_and_not_with_what_is_announced() {
        let (mut peer, ours) = tokio::io::duplex(64);
        peer.write_all(&[0xfe, 0xff, 0xff, 0, 1, 2, 3]).await.unwrap();
        drop(peer);
        let mut got = Vec::new();
        let error = PacketIo::new(ours).read(&mut got, 1 << 30).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(got.capacity() <= READ_STEP, "{}", got.capacity());
    }

    #[tokio::test]
    async fn continuations_end_where_the_first_packet_says() {
        let mut wire = vec![0xff, 0xff, 0xff, 0];
        wire.resize(4 + SPLIT_LEN, 7);
        wire.extend_from_slice(&[0xff, 0xff, 0xff, 1]);
        let mut got = Vec::new();
        let mut io = PacketIo::new(wire.as_slice());
        let error = io.read_within(&mut got, 1 << 30, |_| SPLIT_LEN + 5).await.unwrap_err();
        assert_eq!((error.kind(), got.len()), (io::ErrorKind::InvalidData, SPLIT_LEN));
    }

    #[tokio::test]
    async fn bytes_sent_ahead_of_tls_are_noticed() {
        let (mut peer, ours) = tokio::io::duplex(64);
        peer.write_all(&[1, 0, 0, 0, 9, 1, 0, 0, 0, 9]).await.unwrap();
        let mut io = PacketIo::new(ours);
        io.read(&mut Vec::new(), 10).await.unwrap();
        assert!(io.has_packet());
        assert!(io.into_quiet_stream().is_none());
    }
}
