//! The transactions of one segment, read from the archive.

use std::io::Read;

use highwater_binlog::{
    ChecksumAlgorithm, FormatDescription, Framer, Progress, RawEvent, Transaction, TransactionTracker,
};
use highwater_catalog::{Inventory, Segment};

use super::failure::RestoreFailure;
use super::replay::{head_of, headless};
use crate::archive::{Archive, ArchiveError};

/// How much of a segment is read at once.
const READ_BYTES: usize = 256 << 10;

/// What to do after an event or a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Go on.
    Continue,
    /// Nothing more is needed.
    Stop,
}

/// What is told about a segment.
pub(crate) enum Seen<'a> {
    /// An event, before the end of its transaction is told.
    Event(&'a RawEvent<'a>),
    /// A transaction has ended.
    Transaction(Transaction),
}

/// Tells `visit` every event and transaction of a segment, in order. Blocking.
pub(crate) fn scan(
    archive: &Archive,
    inventory: &Inventory,
    segment: &Segment,
    mut visit: impl FnMut(Seen<'_>) -> Result<Then, RestoreFailure>,
) -> Result<(), RestoreFailure> {
    let named = |what: String| damaged(segment, what);
    let mut framer = match segment.start {
        0 => Framer::new(),
        start => Framer::resume(checksum_algorithm(archive, inventory, segment)?, start),
    };
    let mut reader = archive.read_segment(segment)?;
    let mut tracker = TransactionTracker::new();
    let mut buffer = vec![0u8; READ_BYTES];
    loop {
        let read = reader.read(&mut buffer).map_err(|error| read_error(segment, error))?;
        if read == 0 {
            return framer.finish().map_err(|error| named(error.to_string()));
        }
        framer.push(buffer.get(..read).unwrap_or_default());
        while let Some((offset, event)) = framer.next().map_err(|error| named(error.to_string()))? {
            let progress = tracker.accept(offset, &event).map_err(|error| named(error.to_string()))?;
            let mut then = visit(Seen::Event(&event))?;
            if let Progress::Committed(transaction) = progress {
                then = visit(Seen::Transaction(transaction))?;
            }
            if then == Then::Stop {
                return Ok(());
            }
        }
    }
}

/// How the events of a segment's binlog end.
fn checksum_algorithm(
    archive: &Archive,
    inventory: &Inventory,
    segment: &Segment,
) -> Result<ChecksumAlgorithm, RestoreFailure> {
    let head = head_of(inventory, segment).ok_or_else(|| headless(segment))?;
    let mut reader = archive.read_segment(head)?;
    let mut framer = Framer::new();
    let mut buffer = vec![0u8; 4 << 10];
    loop {
        if let Some((_, event)) = framer.next().map_err(|error| damaged(head, error.to_string()))? {
            let format = FormatDescription::read(&event).map_err(|error| damaged(head, error.to_string()))?;
            return Ok(format.checksum_algorithm);
        }
        match reader.read(&mut buffer).map_err(|error| read_error(head, error))? {
            0 => return Err(damaged(head, "it has no format description".to_owned())),
            read => framer.push(buffer.get(..read).unwrap_or_default()),
        }
    }
}

fn damaged(segment: &Segment, what: String) -> RestoreFailure {
    let object = format!("segment {} {}-{}", segment.binlog, segment.start, segment.end);
    RestoreFailure::Archive(ArchiveError::Damaged { object, what })
}

fn read_error(segment: &Segment, error: std::io::Error) -> RestoreFailure {
    let object = format!("segment {} {}-{}", segment.binlog, segment.start, segment.end);
    RestoreFailure::Archive(ArchiveError::of_read(&object, error))
}
