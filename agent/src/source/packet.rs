//! MySQL's packets: a 3-byte length, a sequence number, a payload; 16 MiB - 1 and more are split.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

/// Length of a packet's header.
const HEADER_LEN: usize = 4;

/// A payload of this length is continued by the next packet (`MAX_PACKET_LENGTH` in `sql-common/net_serv.cc`).
const SPLIT_LEN: usize = 0xff_ffff;

/// Most bytes that are read before they are asked for. A length is believed only as far as bytes arrive.
const BUFFER_LEN: usize = 256 << 10;

/// A stream of packets.
#[derive(Debug)]
pub(super) struct PacketIo<S> {
    stream: S,
    buffer: Buffer,
    /// The sequence number the next packet we write has.
    sequence: u8,
    /// How long nothing may arrive while we wait for something.
    silence_max: Option<Duration>,
}

/// Bytes that have arrived and were not asked for yet.
#[derive(Debug)]
struct Buffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<S> PacketIo<S> {
    /// Over `stream`, from a command's first packet on.
    pub(super) fn new(stream: S) -> Self {
        let buffer = Buffer { bytes: vec![0; BUFFER_LEN].into_boxed_slice(), start: 0, end: 0 };
        Self { stream, buffer, sequence: 0, silence_max: None }
    }

    /// Like `new`, after `sequence - 1` was the last packet of either side.
    pub(super) fn resume(stream: S, sequence: u8) -> Self {
        Self { sequence, ..Self::new(stream) }
    }

    /// From now on a read ends with `TimedOut` when a header, or the next 256 KiB of a payload, takes longer than this.
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
        self.buffer.arrived().is_empty().then_some(self.stream)
    }

    /// What is below.
    pub(super) fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Whether a whole packet, header and payload, has arrived already: reading it will not wait.
    pub(super) fn has_packet(&self) -> bool {
        self.buffer.packet_len().is_some()
    }

    /// The payload of the next packet, if all of it has arrived and no other packet continues it: nothing is copied.
    pub(super) fn take_arrived(&mut self) -> Option<&[u8]> {
        let len = self.buffer.packet_len()?;
        let packet = self.buffer.take(HEADER_LEN + len);
        let (header, payload) = packet.split_at(HEADER_LEN);
        self.sequence = header.last().map_or(0, |sequence| sequence.wrapping_add(1));
        Some(payload)
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
            self.receive(HEADER_LEN).await?;
            let mut header = [0u8; HEADER_LEN];
            header.copy_from_slice(self.buffer.take(HEADER_LEN));
            let [a, b, c, sequence] = header;
            self.sequence = sequence.wrapping_add(1);
            let mut remaining = payload_len(a, b, c);
            let last = remaining < SPLIT_LEN;
            if payload.len().saturating_add(remaining) > limit {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("packet longer than the limit of {limit} bytes"),
                ));
            }
            while remaining > 0 {
                let part = remaining.min(BUFFER_LEN);
                self.receive(part).await?;
                payload.extend_from_slice(self.buffer.take(part));
                remaining -= part;
            }
            if last {
                return Ok(());
            }
            // All at once: what grows step by step leaves as much again behind. Nothing is touched before it is filled.
            let rest = limit.min(announced(payload)).saturating_sub(payload.len());
            payload.try_reserve_exact(rest).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        }
    }

    /// Waits until so many bytes have arrived, which the buffer can hold. Bytes that come one by one are no excuse for all
    /// of them together taking too long.
    async fn receive(&mut self, len: usize) -> io::Result<()> {
        let Self { stream, buffer, .. } = self;
        let received = async {
            while buffer.arrived().len() < len {
                poll_fn(|context| buffer.poll_fill(Pin::new(&mut *stream), context)).await?;
            }
            Ok(())
        };
        match self.silence_max {
            None => received.await,
            Some(limit) => timeout(limit, received).await?,
        }
    }
}

impl Buffer {
    fn arrived(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Length of the first packet's payload, if all of it is here.
    fn packet_len(&self) -> Option<usize> {
        match self.arrived() {
            [a, b, c, _, payload @ ..] => {
                let len = payload_len(*a, *b, *c);
                (len < SPLIT_LEN && payload.len() >= len).then_some(len)
            }
            _ => None,
        }
    }

    /// The next `len` bytes, which have arrived.
    fn take(&mut self, len: usize) -> &[u8] {
        let from = self.start;
        self.start += len;
        &self.bytes[from..self.start]
    }

    /// Reads until nothing more is there, or no room: TLS hands out no more than a record at a time.
    fn poll_fill<S: AsyncRead>(&mut self, mut stream: Pin<&mut S>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let before = self.end;
        while self.end < self.bytes.len() {
            let mut room = ReadBuf::new(&mut self.bytes[self.end..]);
            match stream.as_mut().poll_read(context, &mut room) {
                // What came first is handed out first; then this is found again.
                Poll::Pending | Poll::Ready(Err(_)) if self.end > before => break,
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => match room.filled().len() {
                    0 if self.end > before => break,
                    0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    count => self.end += count,
                },
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn payload_len(a: u8, b: u8, c: u8) -> usize {
    usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16
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
        assert!(got.capacity() <= BUFFER_LEN, "{}", got.capacity());
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
    async fn what_has_arrived_whole_is_taken_without_waiting() {
        let (mut peer, ours) = tokio::io::duplex(64);
        peer.write_all(&[1, 0, 0, 0, 8, 2, 0, 0, 1, 9, 9, 3, 0, 0, 2, 7]).await.unwrap();
        let mut io = PacketIo::new(ours);
        assert_eq!(io.take_arrived(), None);
        let mut got = Vec::new();
        io.read(&mut got, 10).await.unwrap();
        assert_eq!(got, [8]);
        assert_eq!(io.take_arrived(), Some(&[9, 9][..]));
        assert_eq!((io.sequence(), io.take_arrived()), (2, None));
        peer.write_all(&[7, 7]).await.unwrap();
        io.read(&mut got, 10).await.unwrap();
        assert_eq!((got.as_slice(), io.sequence()), (&[7, 7, 7][..], 3));
    }

    #[tokio::test]
    async fn bytes_that_come_too_slowly_are_silence_too() {
        let (mut peer, ours) = tokio::io::duplex(64);
        let mut io = PacketIo::new(ours);
        io.set_silence_max(Some(Duration::from_millis(300)));
        let trickle = async {
            peer.write_all(&[8, 0, 0, 0]).await.unwrap();
            for byte in 0..8 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                peer.write_all(&[byte]).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let mut got = Vec::new();
        tokio::select! {
            read = io.read(&mut got, 100) => assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut),
            () = trickle => unreachable!("it waits for ever"),
        };
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
