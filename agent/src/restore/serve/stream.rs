//! The stream itself: which events a replica gets, and how they go over the wire.

use std::io::{self, Read};
use std::time::Duration;

use highwater_binlog::{
    BinlogName, ChecksumAlgorithm, EventType, FormatDescription, Framer, GtidEvent, GtidSet, RawEvent,
};
use tokio::io::{AsyncReadExt, BufWriter};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::handshake::Wire;
use super::packet::PacketStream;
use super::session::DumpRequest;
use super::{Progress, ServeError, artificial};
use crate::restore::replay::ReplaySource;

/// Events are handed over in batches of about this size; a larger event is a batch of its own.
const BATCH_BYTES: usize = 256 << 10;
/// Batches read ahead of the replica.
const BATCHES_AHEAD: usize = 4;
/// How much of a part is read at once.
const READ_BYTES: usize = 128 << 10;

/// What the reading thread hands to the connection.
#[derive(Debug)]
enum Piece {
    /// A binlog begins.
    Binlog(BinlogName),
    /// Events, back to back.
    Events(Batch),
    /// Every wanted transaction was handed over.
    End,
}

#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    lens: Vec<usize>,
    transactions: u64,
    /// What checksums look like after this batch, when it has a format description.
    checksum: Option<ChecksumAlgorithm>,
}

/// Streams everything in `replay` that the replica lacks, then heartbeats, until `stop` or the replica hangs up.
pub(super) async fn stream(
    packets: PacketStream<Box<dyn Wire>>,
    request: DumpRequest,
    heartbeat: Duration,
    server_id: u32,
    replay: &super::Replay,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(), ServeError> {
    let wanted = replay.gtids.subtract(&request.gtids);
    let source = replay.source.clone();
    let replica_id = request.server_id;
    let (sender, mut pieces) = mpsc::channel(BATCHES_AHEAD);
    // Ends by itself: at the latest when the receiver is gone, and that is dropped with this future.
    let reader = tokio::task::spawn_blocking(move || read_wanted(source.as_ref(), &wanted, replica_id, &sender));
    let (wire, sequence) = packets.into_parts();
    let (mut incoming, outgoing) = tokio::io::split(wire);
    let mut out = Outgoing {
        packets: PacketStream::new(BufWriter::with_capacity(BATCH_BYTES, outgoing), sequence),
        server_id,
        v2: request.heartbeat_v2,
        binlog: None,
        position: 4,
        checksum: ChecksumAlgorithm::Crc32,
    };
    let mut ended = false;
    let mut scratch = [0u8; 512];
    // A third of the period: one late heartbeat does no harm.
    let pause = (heartbeat / 3).clamp(Duration::from_millis(10), Duration::from_secs(10));
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            // A replica says nothing more, but for a COM_QUIT before it closes the connection.
            read = incoming.read(&mut scratch) => if read? == 0 {
                return Ok(());
            },
            piece = pieces.recv(), if !ended => match piece {
                Some(Piece::Binlog(name)) => out.rotate(name).await?,
                Some(Piece::Events(batch)) => {
                    out.events(&batch).await?;
                    progress.sent(batch.bytes.len(), batch.transactions);
                }
                Some(Piece::End) => {
                    ended = true;
                    out.packets.flush().await?;
                    progress.caught_up();
                }
                // The reader ended without saying so: it has an error.
                None => return match reader.await {
                    Ok(result) => result.and(Ok(())),
                    Err(error) => Err(io::Error::other(error).into()),
                },
            },
            () = tokio::time::sleep(pause) => out.heartbeat().await?,
        }
    }
}

/// The writing half, and where the replica believes to be.
struct Outgoing<S> {
    packets: PacketStream<S>,
    server_id: u32,
    v2: bool,
    binlog: Option<BinlogName>,
    /// The replica adds up the lengths of what it gets. A heartbeat ahead of that would end its open transaction.
    position: u64,
    checksum: ChecksumAlgorithm,
}

impl<S: tokio::io::AsyncWrite + Unpin> Outgoing<S> {
    async fn rotate(&mut self, name: BinlogName) -> io::Result<()> {
        let event = artificial::rotate(self.server_id, &name, self.checksum);
        self.binlog = Some(name);
        self.position = 4;
        self.packets.write_joined(&[0], &event).await
    }

    async fn events(&mut self, batch: &Batch) -> io::Result<()> {
        let mut rest = batch.bytes.as_slice();
        for len in &batch.lens {
            let Some((event, after)) = rest.split_at_checked(*len) else { break };
            self.packets.write_joined(&[0], event).await?;
            self.position += u64::try_from(*len).unwrap_or_default();
            rest = after;
        }
        self.checksum = batch.checksum.unwrap_or(self.checksum);
        self.packets.flush().await
    }

    async fn heartbeat(&mut self) -> io::Result<()> {
        let Some(binlog) = &self.binlog else { return Ok(()) };
        let event = artificial::heartbeat(self.server_id, binlog, self.position, self.v2, self.checksum);
        self.packets.write_joined(&[0], &event).await?;
        self.packets.flush().await
    }
}

/// Reads the parts that have wanted transactions and hands their events over. Blocking.
fn read_wanted(
    source: &dyn ReplaySource,
    wanted: &GtidSet,
    replica_id: u32,
    sender: &mpsc::Sender<Piece>,
) -> Result<(), ServeError> {
    let mut filter = Filter {
        sender,
        wanted,
        remaining: wanted.count(),
        seen: GtidSet::new(),
        replica_id,
        batch: Batch::default(),
        passing: false,
    };
    let mut named = false;
    for (at, binlog) in source.binlogs().iter().enumerate() {
        let needed = |gtids: &GtidSet| !gtids.intersect(wanted).is_empty();
        if filter.remaining == 0 || !binlog.parts.iter().any(|part| needed(&part.gtids)) {
            continue;
        }
        let head = read_head(source.open_head(at)?)?;
        named = true;
        filter.hand_over(Piece::Binlog(binlog.name.clone()))?;
        filter.batch.push(&head.event);
        filter.batch.checksum = Some(head.checksum);
        for (index, part) in binlog.parts.iter().enumerate().filter(|(_, part)| needed(&part.gtids)) {
            let framer = match part.start {
                0 => Framer::new(),
                start => Framer::resume(head.checksum, start),
            };
            filter.part(framer, source.open_part(at, index)?)?;
        }
        filter.flush()?;
    }
    if filter.remaining > 0 {
        return Err(ServeError::Incomplete(wanted.subtract(&filter.seen)));
    }
    // A replica that lacks nothing still wants to know a file's name and format before its first heartbeat.
    if let (false, Some(binlog)) = (named, source.binlogs().last()) {
        let head = read_head(source.open_head(source.binlogs().len() - 1)?)?;
        filter.hand_over(Piece::Binlog(binlog.name.clone()))?;
        filter.batch.push(&head.event);
        filter.batch.checksum = Some(head.checksum);
        filter.flush()?;
    }
    filter.hand_over(Piece::End)
}

/// A binlog's format description, verbatim, and what it says about checksums.
struct Head {
    event: Vec<u8>,
    checksum: ChecksumAlgorithm,
}

fn read_head(mut reader: Box<dyn Read + Send>) -> Result<Head, ServeError> {
    let mut framer = Framer::new();
    let mut buffer = vec![0u8; 4 << 10];
    loop {
        if let Some((_, event)) = framer.next()? {
            let format = FormatDescription::read(&event)?;
            return Ok(Head { event: event.bytes().to_vec(), checksum: format.checksum_algorithm });
        }
        match reader.read(&mut buffer)? {
            0 => {
                framer.finish()?;
                return Err(ServeError::NoFormatDescription);
            }
            read => framer.push(buffer.get(..read).unwrap_or_default()),
        }
    }
}

/// Lets the events of wanted transactions through.
struct Filter<'a> {
    sender: &'a mpsc::Sender<Piece>,
    wanted: &'a GtidSet,
    /// Wanted transactions that were not yet seen.
    remaining: u64,
    seen: GtidSet,
    replica_id: u32,
    batch: Batch,
    /// Whether the current transaction is wanted.
    passing: bool,
}

impl Filter<'_> {
    fn part(&mut self, mut framer: Framer, mut reader: Box<dyn Read + Send>) -> Result<(), ServeError> {
        let mut buffer = vec![0u8; READ_BYTES];
        self.passing = false;
        loop {
            let read = reader.read(&mut buffer)?;
            if read == 0 {
                framer.finish()?;
                return Ok(());
            }
            framer.push(buffer.get(..read).unwrap_or_default());
            while let Some((_, event)) = framer.next()? {
                if !self.accept(&event)? {
                    return Ok(());
                }
            }
        }
    }

    /// Takes one event; false when everything wanted has gone through.
    fn accept(&mut self, event: &RawEvent<'_>) -> Result<bool, ServeError> {
        match event.header().event_type {
            EventType::GTID | EventType::GTID_TAGGED | EventType::ANONYMOUS_GTID => {
                if self.remaining == 0 {
                    return Ok(false);
                }
                let gtid = GtidEvent::read(event)?.gtid.ok_or(ServeError::Anonymous)?;
                self.passing = self.wanted.contains(&gtid);
                if self.passing {
                    self.remaining -= 1;
                    self.seen.insert(&gtid);
                    self.batch.transactions += 1;
                }
            }
            // These belong to the file, not to a transaction; the replica gets ours.
            EventType::FORMAT_DESCRIPTION
            | EventType::PREVIOUS_GTIDS
            | EventType::ROTATE
            | EventType::STOP
            | EventType::HEARTBEAT
            | EventType::HEARTBEAT_V2 => return Ok(true),
            _ => {}
        }
        if !self.passing {
            return Ok(true);
        }
        if event.header().server_id == self.replica_id {
            return Err(ServeError::ServerIdClash(self.replica_id));
        }
        if !self.batch.lens.is_empty() && self.batch.bytes.len() + event.bytes().len() > BATCH_BYTES {
            self.flush()?;
        }
        self.batch.push(event.bytes());
        Ok(true)
    }

    fn flush(&mut self) -> Result<(), ServeError> {
        let batch = std::mem::take(&mut self.batch);
        self.hand_over(Piece::Events(batch))
    }

    fn hand_over(&self, piece: Piece) -> Result<(), ServeError> {
        self.sender.blocking_send(piece).map_err(|_| ServeError::HungUp)
    }
}

impl Batch {
    fn push(&mut self, event: &[u8]) {
        self.bytes.extend_from_slice(event);
        self.lens.push(event.len());
    }
}
