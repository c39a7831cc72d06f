//! Reads the stream ahead of the pipeline, within a limit of bytes.

use std::ops::Range;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::source::{BinlogStream, ServerError};

/// A batch is sent on when it has this many bytes, or when no further event has arrived.
const BATCH_BYTES: usize = 1 << 20;

/// Bytes read ahead, all batches together; an event larger than this travels alone.
const AHEAD_BYTES: u32 = 16 << 20;

/// Batches read ahead.
const AHEAD_BATCHES: usize = 64;

/// Events that arrived together.
#[derive(Debug)]
pub(super) struct Batch {
    /// Their bytes, one after the other.
    pub(super) bytes: Vec<u8>,
    /// Where each event is in them.
    pub(super) events: Vec<Received>,
    /// Its share of what may be read ahead.
    _permit: Option<OwnedSemaphorePermit>,
}

/// An event of a batch.
#[derive(Debug)]
pub(super) struct Received {
    /// Where its bytes are.
    pub(super) range: Range<usize>,
    /// Whether the source waits for an acknowledgement.
    pub(super) wants_ack: bool,
}

/// What comes from the source.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Events.
    Batch(Batch),
    /// The end of the stream, and why.
    End(Result<(), ServerError>),
}

/// Reads until the stream ends or nobody listens any more.
pub(super) async fn read(mut stream: BinlogStream, to: mpsc::Sender<Incoming>) {
    let budget = Arc::new(Semaphore::new(usize::try_from(AHEAD_BYTES).unwrap_or(usize::MAX)));
    loop {
        let mut batch = Batch { bytes: Vec::new(), events: Vec::new(), _permit: None };
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

/// The channel between reader and pipeline.
pub(super) fn channel() -> (mpsc::Sender<Incoming>, mpsc::Receiver<Incoming>) {
    mpsc::channel(AHEAD_BATCHES)
}

/// Reads events until the batch is full or the next one would have to be waited for.
async fn fill(stream: &mut BinlogStream, batch: &mut Batch) -> Option<Result<(), ServerError>> {
    loop {
        match stream.next().await {
            Ok(Some(event)) => {
                let start = batch.bytes.len();
                batch.bytes.extend_from_slice(event.bytes);
                let wants_ack = event.wants_ack;
                batch.events.push(Received { range: start..batch.bytes.len(), wants_ack });
            }
            Ok(None) => return Some(Ok(())),
            Err(error) => return Some(Err(error)),
        }
        if batch.bytes.len() >= BATCH_BYTES || !stream.has_next() {
            return None;
        }
    }
}
