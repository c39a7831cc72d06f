//! Reads the stream ahead of the pipeline, within a limit of bytes.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_binlog::BinlogName;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::error::CaptureError;
use crate::source::{BinlogStream, FileItem, FileStep, FileStream};

/// A batch is sent on when it has this many bytes, or when no further event has arrived.
const BATCH_BYTES: usize = 1 << 20;

/// Bytes read ahead, all batches together; an event larger than this travels alone.
const AHEAD_BYTES: u32 = 16 << 20;

/// Batches read ahead.
const AHEAD_BATCHES: usize = 64;

/// How often files are looked at for more.
const POLL: Duration = Duration::from_millis(200);

/// Buffers that wait to be used again.
const SPARE_BUFFERS: usize = 16;

/// Events that arrived together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Their bytes, one after the other.
    pub(super) bytes: Vec<u8>,
    /// Where each event is in them.
    pub(super) events: Vec<Received>,
    /// Its share of what may be read ahead.
    _permit: Option<OwnedSemaphorePermit>,
    spares: Spares,
}

/// Buffers of batches that nobody needs any more: memory that the system has to clear first costs more than a copy.
#[derive(Debug, Clone, Default)]
struct Spares(Arc<Mutex<Vec<Vec<u8>>>>);

/// What stands in a batch.
#[derive(Debug)]
pub(super) enum Received {
    /// An event of a server's stream.
    Event {
        /// Where its bytes are.
        range: Range<usize>,
        /// Whether the source waits for an acknowledgement.
        wants_ack: bool,
    },
    /// A binlog of a server's disk begins.
    Binlog(BinlogName),
    /// An event of that binlog.
    Stored {
        /// Where its bytes are.
        range: Range<usize>,
        /// Where it stands in the binlog.
        offset: u64,
    },
    /// The disk has no more, for now.
    CaughtUp,
}

/// Where events come from.
#[derive(Debug)]
pub(super) enum Stream {
    /// A server sends them.
    Replication(Box<BinlogStream>),
    /// They are read from a server's disk: as far as they go, or on and on.
    Files {
        /// The events.
        stream: Box<FileStream>,
        /// Whether to wait for more at their end.
        follow: bool,
    },
}

/// What comes from the source.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Events.
    Batch(Batch),
    /// The end of the stream, and why.
    End(Result<(), CaptureError>),
}

/// Reads in a task of its own.
pub(super) fn start(stream: Stream, tasks: &mut JoinSet<()>) -> mpsc::Receiver<Incoming> {
    let (to, from) = mpsc::channel(AHEAD_BATCHES);
    match stream {
        Stream::Replication(stream) => tasks.spawn(read(*stream, to)),
        Stream::Files { stream, follow } => tasks.spawn_blocking(move || read_files(*stream, follow, &to)),
    };
    from
}

/// Reads until the stream ends or nobody listens any more.
async fn read(mut stream: BinlogStream, to: mpsc::Sender<Incoming>) {
    let budget = Arc::new(Semaphore::new(usize::try_from(AHEAD_BYTES).unwrap_or(usize::MAX)));
    let spares = Spares::default();
    loop {
        // Behind an event that takes all of it, nothing is read ahead: two huge ones are never in memory together.
        let room = budget.acquire().await.is_ok();
        debug_assert!(room, "nobody closes the budget");
        let mut batch = spares.batch();
        let end = fill(&mut stream, &mut batch).await;
        if !batch.events.is_empty() {
            let share = u32::try_from(batch.bytes.len()).unwrap_or(AHEAD_BYTES).min(AHEAD_BYTES);
            batch._permit = Arc::clone(&budget).acquire_many_owned(share).await.ok();
            if to.send(Incoming::Batch(batch)).await.is_err() {
                return;
            }
        }
        if let Some(end) = end {
            // Nobody listens: nobody has to know.
            let _ = to.send(Incoming::End(end)).await;
            return;
        }
    }
}

/// Reads files until they cannot be read on, nobody listens any more, or, unless more is to be waited for, they end.
fn read_files(mut stream: FileStream, follow: bool, to: &mpsc::Sender<Incoming>) {
    let budget = Arc::new(Semaphore::new(usize::try_from(AHEAD_BYTES).unwrap_or(usize::MAX)));
    let spares = Spares::default();
    let mut is_caught_up = false;
    while !to.is_closed() {
        let mut batch = spares.batch();
        let step = stream.advance(&mut |item| batch.take(item));
        if matches!(step, Ok(FileStep::Idle)) && !is_caught_up {
            batch.events.push(Received::CaughtUp);
        }
        is_caught_up = matches!(step, Ok(FileStep::Idle));
        if !batch.events.is_empty() {
            let share = u32::try_from(batch.bytes.len()).unwrap_or(AHEAD_BYTES).min(AHEAD_BYTES);
            batch._permit = Handle::current().block_on(Arc::clone(&budget).acquire_many_owned(share)).ok();
            if to.blocking_send(Incoming::Batch(batch)).is_err() {
                return;
            }
        }
        let end = match step {
            Ok(FileStep::More) => continue,
            Ok(FileStep::Idle) if follow => {
                std::thread::sleep(POLL);
                continue;
            }
            Ok(FileStep::Idle) => Ok(()),
            Err(error) => Err(error.into()),
        };
        // Nobody listens: nobody has to know.
        let _ = to.blocking_send(Incoming::End(end));
        return;
    }
}

impl Batch {
    /// Adds what a file has.
    pub(super) fn take(&mut self, item: FileItem<'_>) {
        self.events.push(match item {
            FileItem::Binlog(name) => Received::Binlog(name.clone()),
            FileItem::Event { offset, bytes } => {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(bytes);
                Received::Stored { range: start..self.bytes.len(), offset }
            }
        });
    }
}

impl Spares {
    /// An empty batch, with one of them if there is any.
    fn batch(&self) -> Batch {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Batch { bytes, events: Vec::new(), _permit: None, spares: self.clone() }
    }

    fn give(&self, mut buffer: Vec<u8>) {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One huge event does not stay for good.
        if spares.len() < SPARE_BUFFERS && buffer.capacity() <= 2 * BATCH_BYTES {
            buffer.clear();
            spares.push(buffer);
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.spares.give(std::mem::take(&mut self.bytes));
    }
}

/// Reads events until the batch is full or the next one would have to be waited for.
async fn fill(stream: &mut BinlogStream, batch: &mut Batch) -> Option<Result<(), CaptureError>> {
    loop {
        match stream.next_into(&mut batch.bytes).await {
            Ok(Some((range, wants_ack))) => batch.events.push(Received::Event { range, wants_ack }),
            Ok(None) => return Some(Ok(())),
            Err(error) => return Some(Err(error.into())),
        }
        if batch.bytes.len() >= BATCH_BYTES || !stream.has_next() {
            return None;
        }
    }
}
