//! What a file of the spool follows.
//!
//! A spool may outlive the archive that it was written for: an older copy of the store is put back, another machine goes on
//! with the archive, a file of the spool is lost. Then bytes that are whole by themselves would leave a hole before them.

use std::fmt;
use std::str::FromStr;

use highwater_binlog::{BinlogName, GtidSet, ParseError, ServerUuid};
use highwater_catalog::{RepositoryId, TimelineId};

use super::follower::Cut;
use super::tip::Tip;

/// Everything that was captured before a place.
#[derive(Debug, Clone)]
pub(super) struct Lineage {
    repository: RepositoryId,
    /// Its timeline.
    pub(super) timeline: TimelineId,
    captured: GtidSet,
    /// The last bytes: whose binlog they are of, and where they end.
    end: Option<(ServerUuid, BinlogName, u64)>,
}

/// First 8 bytes of the BLAKE3 of a lineage, 16 hexadecimal digits: another one has the same by accident only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::capture) struct LineageMark([u8; 8]);

impl Lineage {
    /// Of what follows all that we have.
    pub(super) fn of(repository: RepositoryId, tip: &Tip) -> Self {
        let end = tip.tail.last().map(|piece| (piece.server, piece.binlog.clone(), piece.end));
        Self { repository, timeline: tip.timeline, captured: tip.captured.clone(), end }
    }

    /// Takes in what is to be the next segment.
    pub(super) fn advance(&mut self, cut: &Cut) {
        let Cut { server, binlog, facts } = cut;
        self.captured = self.captured.union(&facts.gtids_added);
        self.end = Some((*server, binlog.clone(), facts.end));
    }

    /// What tells it from others.
    pub(super) fn mark(&self) -> LineageMark {
        let Self { repository, timeline, captured, end } = self;
        let end =
            end.as_ref().map(|(server, binlog, offset)| format!("{server} {binlog} {offset}")).unwrap_or_default();
        let digest = blake3::hash(format!("{repository}\n{timeline}\n{captured}\n{end}").as_bytes());
        LineageMark(*digest.as_bytes().first_chunk().unwrap_or(&[0; 8]))
    }
}

impl fmt::Display for LineageMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl FromStr for LineageMark {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16);
        number.map(|number| Self(number.to_be_bytes())).ok_or_else(|| ParseError::new("mark of a spool file", text))
    }
}
