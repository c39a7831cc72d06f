//! Carries out effects on the spool: on a blocking thread, one fsync for all of them.

use std::io;

use highwater_binlog::{FIRST_EVENT_OFFSET, ServerUuid};

use super::follower::{Cut, Effect};
use super::lineage::Lineage;
use super::publisher::Job;
use super::reader::Batch;
use super::spool::{Keep, Spool, StretchName};

/// Effects and the batch whose bytes they mean.
#[derive(Debug)]
pub(super) struct Batched {
    pub(super) effects: Vec<Effect>,
    pub(super) batch: Option<Batch>,
}

impl Batched {
    /// Effects that append nothing.
    pub(super) fn without_bytes(effects: Vec<Effect>) -> Self {
        Self { effects, batch: None }
    }

    /// How many bytes of binlogs effects add to the spool.
    pub(super) fn received(effects: &[Effect]) -> u64 {
        effects.iter().map(Effect::received).sum()
    }
}

impl Effect {
    fn received(&self) -> u64 {
        match self {
            // The magic, which no event carries.
            Self::Open { start: 0, .. } => FIRST_EVENT_OFFSET,
            Self::Append(range) => u64::try_from(range.len()).unwrap_or(u64::MAX),
            Self::Open { .. } | Self::Cut(_) => 0,
        }
    }
}

/// Whose binlogs are written, and behind what.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) server: ServerUuid,
    /// Absent if nothing begins or ends.
    pub(super) lineage: Option<Lineage>,
}

/// What came of writing.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) jobs: Vec<Job>,
}

/// Writes everything and syncs it, or holds it. After a failure nothing in `written` may be counted on.
pub(super) fn write(
    spool: &mut Spool,
    origin: Origin,
    batches: &[Batched],
    written: &mut Written,
    keep: Keep,
) -> io::Result<()> {
    let Origin { server, mut lineage } = origin;
    let mut follow = |cut: Option<&Cut>| {
        let lineage = lineage.as_mut().ok_or_else(|| io::Error::other("what it follows is not known"))?;
        cut.into_iter().for_each(|cut| lineage.advance(cut));
        io::Result::Ok((lineage.timeline, lineage.mark()))
    };
    for Batched { effects, batch } in batches {
        let bytes = batch.as_ref().map_or(&[][..], |batch| &batch.bytes);
        for effect in effects {
            written.bytes += effect.received();
            match effect {
                Effect::Open { binlog, start, description } => {
                    let (timeline, follows) = follow(None)?;
                    let binlog = binlog.clone();
                    let name = StretchName { number: 0, timeline, server, binlog, start: *start, follows };
                    spool.begin(name, description, keep)?;
                }
                Effect::Append(range) => spool.append(bytes.get(range.clone()).unwrap_or_default())?,
                Effect::Cut(cut) => {
                    let (_, follows) = follow(Some(cut))?;
                    let stretch = spool.hand_over(cut.facts.end, follows, keep)?;
                    written.jobs.push(Job { cut: cut.clone(), stretch });
                }
            }
        }
    }
    // Segments that were cut lie before the end: this one sync covers them too.
    match keep {
        Keep::Spooled => spool.sync(),
        Keep::Held => spool.sync_file(),
    }
}
