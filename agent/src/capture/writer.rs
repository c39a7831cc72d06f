//! Carries out effects on the spool: on a blocking thread, one fsync for all of them.

use std::io;

use highwater_binlog::{FIRST_EVENT_OFFSET, ServerUuid};
use highwater_catalog::TimelineId;

use super::follower::Effect;
use super::publisher::Job;
use super::reader::Batch;
use super::spool::{Spool, StretchName};

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

/// Whose binlogs are written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) timeline: TimelineId,
    pub(super) server: ServerUuid,
}

/// What came of writing.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) jobs: Vec<Job>,
}

/// Writes everything and syncs it. After a failure nothing in `written` may be counted on.
pub(super) fn write(spool: &mut Spool, origin: Origin, batches: &[Batched], written: &mut Written) -> io::Result<()> {
    for Batched { effects, batch } in batches {
        let bytes = batch.as_ref().map_or(&[][..], |batch| &batch.bytes);
        for effect in effects {
            written.bytes += effect.received();
            match effect {
                Effect::Open { binlog, start, description } => {
                    let Origin { timeline, server } = origin;
                    let name = StretchName { number: 0, timeline, server, binlog: binlog.clone(), start: *start };
                    spool.begin(name, description)?;
                }
                Effect::Append(range) => spool.append(bytes.get(range.clone()).unwrap_or_default())?,
                Effect::Cut(cut) => {
                    let stretch = spool.hand_over(cut.facts.end)?;
                    written.jobs.push(Job { cut: cut.clone(), stretch });
                }
            }
        }
    }
    // Segments that were cut lie before the end: this one sync covers them too.
    spool.sync()
}
