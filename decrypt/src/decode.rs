//! From a plaintext stream to verified events, and to whoever wants its bytes.
//!
//! One thread reads and decrypts while another verifies; a third writes, where there is a file to write.

use std::io::ErrorKind;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;

use highwater_binlog::{EventHeader, FrameError, Framer, RawEvent};

use crate::binlog_file::Unlocked;
use crate::facts::{Facts, Open};
use crate::failure::{Exit, Failure, chain};
use crate::output::Sink;
use crate::stream::PlainStream;

/// Pieces that wait between reading and verifying: enough to keep both at work.
const CHUNKS_WAITING: usize = 2;

/// Which part of a stream is wanted, in its own offsets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first event; none for the beginning.
    pub(crate) from: Option<u64>,
    /// Events that begin here or later are left out.
    pub(crate) to: Option<u64>,
}

/// How far a stream goes.
#[derive(Debug)]
pub(crate) struct Extent {
    pub(crate) facts: Facts,
    /// Stream offset after the last whole event.
    pub(crate) end: u64,
    /// Stream offset after the last whole transaction: what the sink keeps.
    pub(crate) kept: u64,
    /// The transaction that is not all there.
    pub(crate) open: Option<Open>,
    /// What follows the last whole event.
    pub(crate) ending: Ending,
}

/// What follows the last whole event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Nothing.
    Whole,
    /// Events that were not wanted.
    Wanted,
    /// The first bytes of an event.
    Torn {
        /// How many.
        bytes: u64,
    },
    /// Bytes that cannot be read.
    Unreadable {
        /// What the system says.
        what: String,
    },
    /// Bytes that are not an event.
    Damaged {
        /// What is wrong with them.
        what: String,
    },
}

/// Verifies the events of a file and gives their bytes to `sink`, which keeps those up to the end of the last whole
/// transaction, or of the last event wanted.
pub(crate) fn decode(file: &str, unlocked: Unlocked, span: Span, sink: &mut dyn Sink) -> Result<Extent, Failure> {
    let Unlocked { mut stream, opening, .. } = unlocked;
    let opening_end = opening.bytes.len() as u64;
    // A position inside of the first events asks for the beginning.
    let from = span.from.filter(|from| *from >= opening_end);
    let start = from.unwrap_or(0);
    let mut framer = Framer::new();
    if let Some(from) = from {
        stream.skip_to(from).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => beyond(file, from),
            _ => Failure::io(file, &error),
        })?;
        framer = Framer::resume(opening.description.checksum_algorithm, from);
        if opening.relay_log {
            framer = framer.with_foreign_positions();
        }
        sink.prefix(&opening.bytes)?;
    }
    let facts = Facts::new(&opening, from.is_none());
    let mut events =
        Events { file, framer, facts, span, safe: start, first: from.is_some(), relay_log: opening.relay_log };
    let (pieces, spare) = start_reading(stream);
    let mut read = start;
    let ending = loop {
        let Ok(piece) = pieces.recv() else {
            break events.finish()?;
        };
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => break Ending::Unreadable { what: error.to_string() },
        };
        events.framer.push(&piece);
        let offset = read;
        read += piece.len() as u64;
        let ending = events.take_all()?;
        // What is verified may go; the sink takes back or leaves out the rest.
        if let Some(piece) = sink.accept(offset, piece)? {
            let _ = spare.send(piece);
        }
        sink.release(events.safe)?;
        if let Some(ending) = ending {
            break ending;
        }
    };
    drop(pieces);
    let end = events.framer.offset();
    let open = events.facts.open();
    let kept = if ending == Ending::Wanted { end } else { events.safe };
    sink.release(kept)?;
    Ok(Extent { facts: events.facts, end, kept, open, ending })
}

/// The events of the pieces pushed so far.
struct Events<'a> {
    file: &'a str,
    framer: Framer,
    facts: Facts,
    span: Span,
    /// Stream offset after the last whole transaction.
    safe: u64,
    /// Whether the next event is the first one after a position that was asked for.
    first: bool,
    relay_log: bool,
}

impl Events<'_> {
    /// Takes every whole event; says how the stream ends, if it does here.
    fn take_all(&mut self) -> Result<Option<Ending>, Failure> {
        loop {
            if self.span.to.is_some_and(|to| self.framer.offset() >= to && self.framer.offset() > 4) {
                return Ok(Some(Ending::Wanted));
            }
            let from = self.framer.offset();
            match self.framer.next() {
                Ok(Some((offset, event))) => {
                    if self.first && !begins_at(&event, offset, self.relay_log) {
                        return Err(no_event_at(self.file, offset));
                    }
                    self.first = false;
                    if self.facts.accept(offset, &event) {
                        self.safe = offset + event.byte_count();
                    }
                }
                Ok(None) => return Ok(None),
                Err(FrameError::Event { .. }) if self.first => return Err(no_event_at(self.file, from)),
                Err(error) => return Ok(Some(Ending::Damaged { what: chain(&error) })),
            }
        }
    }

    /// How the stream ends, now that no more bytes follow.
    fn finish(&self) -> Result<Ending, Failure> {
        match self.framer.finish() {
            Ok(()) => Ok(Ending::Whole),
            // What stands at a position that no event begins at may be taken for the length of one.
            Err(FrameError::Torn { offset, .. } | FrameError::Event { offset, .. }) if self.first => {
                Err(no_event_at(self.file, offset))
            }
            Err(FrameError::Torn { bytes, .. }) => Ok(Ending::Torn { bytes }),
            Err(error) => Ok(Ending::Damaged { what: chain(&error) }),
        }
    }
}

/// Whether an event says itself that it stands there. Its checksum has been found right, where there is one; relay logs
/// keep the positions of the source.
fn begins_at(event: &RawEvent<'_>, offset: u64, relay_log: bool) -> bool {
    let EventHeader { end_log_pos, .. } = *event.header();
    let end = offset.saturating_add(event.byte_count()) & u64::from(u32::MAX);
    relay_log || event.is_artificial() || u64::from(end_log_pos) == end || event.bytes().len() > event.body().len() + 19
}

fn beyond(file: &str, offset: u64) -> Failure {
    Failure::new(Exit::Usage, format!("{file} ends before {offset}"))
        .hint("--inspect shows where it ends; the position may be one of another binlog")
}

fn no_event_at(file: &str, offset: u64) -> Failure {
    Failure::new(Exit::Usage, format!("{file}: no event begins at {offset}"))
        .hint("give an end_log_pos as SHOW BINLOG EVENTS or mysqlbinlog shows it; the 512 bytes of header do not count")
}

type Piece = std::io::Result<Vec<u8>>;

/// Reads and decrypts ahead. Buffers that were used come back through the second channel.
fn start_reading(mut stream: PlainStream) -> (Receiver<Piece>, Sender<Vec<u8>>) {
    let (pieces, received): (SyncSender<Piece>, _) = mpsc::sync_channel(CHUNKS_WAITING);
    let (spare, spares) = mpsc::channel();
    thread::spawn(move || {
        loop {
            let mut chunk = spares.try_recv().unwrap_or_default();
            let piece = match stream.next(&mut chunk) {
                Ok(true) => Ok(chunk),
                Ok(false) => return,
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            // The other side has seen enough, or this side failed.
            if pieces.send(piece).is_err() || failed {
                return;
            }
        }
    });
    (received, spare)
}
