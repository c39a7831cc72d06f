//! The newest end of a timeline: what is in the archive, and behind it what is safe in the spool. A source is asked for
//! what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use highwater_binlog::{BinlogName, GtidSet, ServerUuid};
use highwater_catalog::{Blake3Digest, Segment, Timeline, TimelineId};

use super::follower::Cut;
use super::spool::Stretch;

/// The newest end of a timeline.
#[derive(Debug, Clone)]
pub struct Tip {
    /// The timeline.
    pub timeline: TimelineId,
    /// Transactions that lie before the timeline's first segment.
    pub starting: GtidSet,
    /// Every transaction that we have.
    pub captured: GtidSet,
    /// The last piece with transactions and all after it.
    pub tail: Vec<Piece>,
    /// Where our bytes of each binlog end.
    pub ends: BTreeMap<(ServerUuid, BinlogName), u64>,
    /// Every server that pieces came from.
    pub servers: BTreeSet<ServerUuid>,
    /// Whether transactions without GTIDs are in it: then positions decide, not sets.
    pub anonymous: bool,
}

/// Consecutive bytes of one binlog that we have: a segment, or what will be one.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The server whose binlog it is.
    pub server: ServerUuid,
    /// The binlog.
    pub binlog: BinlogName,
    /// Offset of its first byte.
    pub start: u64,
    /// Offset after its last byte.
    pub end: u64,
    /// The transactions in it that have GTIDs.
    pub gtids_added: GtidSet,
    /// All transactions in it.
    pub transactions: u64,
    /// Where its bytes are.
    pub bytes: PieceBytes,
}

/// Where the bytes of a piece are.
#[derive(Debug, Clone)]
pub enum PieceBytes {
    /// In the archive, with this digest.
    Published(Blake3Digest),
    /// In the spool.
    Spooled(Arc<Stretch>),
}

impl Tip {
    /// Of a timeline without segments.
    #[must_use]
    pub fn new(timeline: &Timeline) -> Self {
        Self {
            timeline: timeline.id,
            starting: timeline.starting_gtids.clone(),
            captured: timeline.starting_gtids.clone(),
            tail: Vec::new(),
            ends: BTreeMap::new(),
            servers: BTreeSet::new(),
            anonymous: false,
        }
    }

    /// Takes a segment into account that follows.
    pub fn archived(&mut self, segment: &Segment) {
        self.add(Piece {
            server: segment.server,
            binlog: segment.binlog.clone(),
            start: segment.start,
            end: segment.end,
            gtids_added: segment.gtids_added.clone(),
            transactions: segment.transactions,
            bytes: PieceBytes::Published(segment.plain_blake3),
        });
    }

    /// Takes a part of the spool into account that follows and is on the disk.
    pub fn spooled(&mut self, cut: &Cut, stretch: &Arc<Stretch>) {
        let Cut { server, binlog, facts } = cut;
        self.add(Piece {
            server: *server,
            binlog: binlog.clone(),
            start: facts.start,
            end: facts.end,
            gtids_added: facts.gtids_added.clone(),
            transactions: facts.transactions,
            bytes: PieceBytes::Spooled(Arc::clone(stretch)),
        });
    }

    /// A piece was published: its bytes in the spool are needed no more.
    pub fn published(&mut self, segment: &Segment) {
        let is_it = |piece: &&mut Piece| {
            (piece.server, &piece.binlog, piece.start) == (segment.server, &segment.binlog, segment.start)
        };
        if let Some(piece) = self.tail.iter_mut().find(is_it) {
            piece.bytes = PieceBytes::Published(segment.plain_blake3);
        }
    }

    fn add(&mut self, piece: Piece) {
        self.captured = self.captured.union(&piece.gtids_added);
        self.anonymous |= piece.transactions > piece.gtids_added.count();
        if piece.transactions > 0 {
            self.tail.clear();
        }
        self.ends.insert((piece.server, piece.binlog.clone()), piece.end);
        self.servers.insert(piece.server);
        self.tail.push(piece);
    }

    /// Where our bytes of one binlog end.
    #[must_use]
    pub fn end_of(&self, server: ServerUuid, binlog: &BinlogName) -> u64 {
        self.ends.get(&(server, binlog.clone())).copied().unwrap_or(0)
    }

    /// Where our bytes of each binlog of one server end.
    #[must_use]
    pub fn ends_of(&self, server: ServerUuid) -> BTreeMap<BinlogName, u64> {
        let ends = self.ends.iter().filter(|((of, _), _)| *of == server);
        ends.map(|((_, binlog), end)| (binlog.clone(), *end)).collect()
    }
}

impl Piece {
    /// Whether its bytes are in the archive.
    pub(super) fn is_published(&self) -> bool {
        matches!(self.bytes, PieceBytes::Published(_))
    }

    /// BLAKE3 of its bytes. Blocking: reads the spool if they are there.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn digest(&self) -> io::Result<Blake3Digest> {
        match &self.bytes {
            PieceBytes::Published(digest) => Ok(*digest),
            PieceBytes::Spooled(stretch) => {
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader(stretch.read(self.start, self.end)?)?;
                Ok(Blake3Digest(hasher.finalize().into()))
            }
        }
    }
}
