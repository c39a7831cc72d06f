//! What is replayed: binlogs in order, each in parts that are read one after the other.

use std::io::{self, Read};

use highwater_binlog::{BinlogName, GtidSet};

/// A run of bytes of one binlog. A part begins and ends between transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayPart {
    /// Offset of its first byte in the binlog.
    pub start: u64,
    /// Offset after its last byte.
    pub end: u64,
    /// The transactions in it.
    pub gtids: GtidSet,
}

/// One binlog and the parts of it that are needed, by offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayBinlog {
    /// Its name on the server that wrote it.
    pub name: BinlogName,
    /// Its parts; holes between them have nothing that is replayed.
    pub parts: Vec<ReplayPart>,
}

/// Where a replay's bytes come from. Blocking.
pub trait ReplaySource: Send + Sync {
    /// The binlogs, in the order of the history.
    fn binlogs(&self) -> &[ReplayBinlog];

    /// The start of a binlog: from its magic, at least to the end of its format description.
    ///
    /// # Errors
    /// The binlog's first bytes are not there.
    fn open_head(&self, binlog: usize) -> io::Result<Box<dyn Read + Send>>;

    /// The bytes of one part, `start..end`.
    ///
    /// # Errors
    /// The part is not there, or not what it should be; damage may also show at the end of reading.
    fn open_part(&self, binlog: usize, part: usize) -> io::Result<Box<dyn Read + Send>>;
}
