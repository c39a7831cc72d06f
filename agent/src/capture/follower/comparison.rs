//! Bytes that we have and the source sends again: they must be the same.

use blake3::Hasher;
use highwater_binlog::{BinlogName, FIRST_EVENT_OFFSET, MAGIC};
use highwater_catalog::Blake3Digest;

use crate::capture::continuity::Discontinuity;
use crate::capture::tip::Piece;

/// Bytes that are ours and are sent again.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) binlog: BinlogName,
    pub(super) start: u64,
    pub(super) end: u64,
    expected: Blake3Digest,
    hasher: Hasher,
    next: u64,
}

impl Comparison {
    pub(super) fn new(piece: &Piece, expected: Blake3Digest) -> Self {
        let mut hasher = Hasher::new();
        let mut next = piece.start;
        if piece.start == 0 {
            hasher.update(&MAGIC);
            next = FIRST_EVENT_OFFSET;
        }
        Self { binlog: piece.binlog.clone(), start: piece.start, end: piece.end, expected, hasher, next }
    }

    pub(super) fn feed(&mut self, offset: u64, bytes: &[u8]) {
        if offset == self.next && offset < self.end {
            self.hasher.update(bytes);
            self.next = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        }
    }

    pub(super) fn finish(self) -> Result<(), Discontinuity> {
        let Self { binlog, start, end, expected, hasher, next } = self;
        let found = Blake3Digest(hasher.finalize().into());
        if next == end && found == expected { Ok(()) } else { Err(Discontinuity::Differs { binlog, start, end }) }
    }
}
