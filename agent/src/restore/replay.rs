//! What is replayed: binlogs in order, each in parts that are read one after the other.

use std::io::{self, Read};

use highwater_binlog::{BinlogName, GtidSet};
use highwater_catalog::{Inventory, RestorePlan, Segment};

use super::failure::RestoreFailure;
use crate::archive::{Archive, ArchiveError};

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

/// The segments of a plan, read from the archive.
#[derive(Debug)]
pub(crate) struct ArchivedReplay {
    archive: Archive,
    binlogs: Vec<ReplayBinlog>,
    /// For each binlog, its first segment and those of its parts.
    segments: Vec<(Segment, Vec<Segment>)>,
}

impl ArchivedReplay {
    /// Of the plan's segments.
    ///
    /// # Errors
    /// The beginning of a binlog is not archived.
    pub(crate) fn new(archive: Archive, inventory: &Inventory, plan: &RestorePlan) -> Result<Self, RestoreFailure> {
        let mut binlogs: Vec<ReplayBinlog> = Vec::new();
        let mut segments: Vec<(Segment, Vec<Segment>)> = Vec::new();
        for segment in &plan.segments {
            let part = ReplayPart { start: segment.start, end: segment.end, gtids: segment.gtids_added.clone() };
            let same = |(head, _): &&mut (Segment, Vec<Segment>)| same_binlog(head, segment);
            match (binlogs.last_mut(), segments.last_mut().filter(same)) {
                (Some(binlog), Some((_, list))) => {
                    binlog.parts.push(part);
                    list.push(segment.clone());
                }
                _ => {
                    let head = head_of(inventory, segment).or(plan.binlog_head.as_ref());
                    let head = head.cloned().ok_or_else(|| headless(segment))?;
                    binlogs.push(ReplayBinlog { name: segment.binlog.clone(), parts: vec![part] });
                    segments.push((head, vec![segment.clone()]));
                }
            }
        }
        Ok(Self { archive, binlogs, segments })
    }
}

impl ReplaySource for ArchivedReplay {
    fn binlogs(&self) -> &[ReplayBinlog] {
        &self.binlogs
    }

    fn open_head(&self, binlog: usize) -> io::Result<Box<dyn Read + Send>> {
        let (head, _) = self.segments.get(binlog).ok_or(io::ErrorKind::NotFound)?;
        open(&self.archive, head)
    }

    fn open_part(&self, binlog: usize, part: usize) -> io::Result<Box<dyn Read + Send>> {
        let segment = self.segments.get(binlog).and_then(|(_, list)| list.get(part)).ok_or(io::ErrorKind::NotFound)?;
        open(&self.archive, segment)
    }
}

/// The archived beginning of a segment's binlog: the segment itself, or the one that has the format description.
pub(crate) fn head_of<'a>(inventory: &'a Inventory, segment: &Segment) -> Option<&'a Segment> {
    inventory.segments.iter().find(|s| s.timeline == segment.timeline && s.start == 0 && same_binlog(s, segment))
}

/// Without its format description, nobody can read a binlog.
pub(crate) fn headless(segment: &Segment) -> RestoreFailure {
    let object = format!("segment {} {}-{}", segment.binlog, segment.start, segment.end);
    let what = "the beginning of its binlog is not archived".to_owned();
    RestoreFailure::Archive(ArchiveError::Damaged { object, what })
}

fn same_binlog(a: &Segment, b: &Segment) -> bool {
    a.server == b.server && a.binlog == b.binlog
}

fn open(archive: &Archive, segment: &Segment) -> io::Result<Box<dyn Read + Send>> {
    Ok(Box::new(archive.read_segment(segment).map_err(io::Error::other)?))
}
