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
    if keep == Keep::Spooled {
        // What comes goes to the disk, and not to memory first.
        spool.write_held()?;
    }
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::fs;
    use std::io::Read;
    use std::path::Path;

    use highwater_binlog::{EventHeader, GtidSet, MAGIC, SegmentFacts};
    use highwater_catalog::{Micros, RepositoryId, Timeline, TimelineId};

    use super::*;
    use crate::capture::progress::Progress;
    use crate::capture::tip::Tip;

    /// A binlog that a server wrote.
    const BINLOG: &[u8] = include_bytes!("../../../binlog/tests/data/rows.binlog");

    /// A spool under a stream of single events, a store that takes segments whenever it wants, and chance.
    struct Bed {
        spool: Spool,
        lineage: Lineage,
        progress: Progress,
        pending: VecDeque<Job>,
        /// Where the segments end that were cut, and those of them that are published.
        cut: u64,
        published: u64,
        seed: u64,
    }

    impl Bed {
        fn new(folder: &Path, seed: u64) -> Self {
            let timeline = Timeline {
                id: TimelineId(1),
                parent: None,
                reason: String::new(),
                starting_gtids: GtidSet::new(),
                created: Micros(0),
            };
            Self {
                spool: Spool::open(folder, None).unwrap().0,
                lineage: Lineage::of(RepositoryId::from_random_bytes([1; 16]), &Tip::new(&timeline)),
                progress: Progress::default(),
                pending: VecDeque::new(),
                cut: 0,
                published: 0,
                seed,
            }
        }

        fn one_in(&mut self, times: u64) -> bool {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.seed >> 33).is_multiple_of(times)
        }

        fn take(&mut self, effects: Vec<Effect>, keep: Keep) {
            let server = ServerUuid::from_bytes([7; 16]);
            let mut batch = Batch::default();
            batch.bytes = BINLOG.to_vec();
            let batches = [Batched { effects, batch: Some(batch) }];
            let (mut written, origin) = (Written::default(), Origin { server, lineage: Some(self.lineage.clone()) });
            write(&mut self.spool, origin, &batches, &mut written, keep).unwrap();
            self.progress.write(written.bytes, self.spool.held_bytes());
            for job in written.jobs {
                self.lineage.advance(&job.cut);
                job.stretch.hand_over(job.cut.facts.end);
                self.pending.push_back(job);
            }
        }

        /// The store has the next segment, which is what the server wrote.
        fn publish(&mut self) {
            let Some(Job { cut, stretch }) = self.pending.pop_front() else { return };
            let SegmentFacts { start, end, .. } = cut.facts;
            assert_eq!(start, self.published);
            let mut bytes = Vec::new();
            stretch.read_events(start, end).unwrap().read_to_end(&mut bytes).unwrap();
            assert!(bytes == BINLOG[start as usize..end as usize], "{start} to {end}");
            self.progress.publish(end - start, stretch.is_held());
            stretch.published(end);
            self.published = end;
        }

        /// What a death now would leave follows what is published without a hole.
        fn require_no_hole(&self, folder: &Path) {
            let mut reached = self.published;
            let mut names: Vec<StretchName> = fs::read_dir(folder)
                .unwrap()
                .filter_map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().ok())
                .collect();
            names.sort_by_key(|name| name.number);
            for name in names {
                assert!(name.start <= reached, "{name} leaves a hole behind {reached}");
                let len = fs::metadata(folder.join(name.to_string())).unwrap().len();
                let head = if name.start == 0 { 0 } else { MAGIC.len() + description().len() };
                reached = reached.max(name.start + len - head as u64);
            }
        }
    }

    fn description() -> &'static [u8] {
        let len = EventHeader::read(&BINLOG[MAGIC.len()..]).unwrap().event_len as usize;
        &BINLOG[MAGIC.len()..MAGIC.len() + len]
    }

    #[test]
    fn a_write_that_fails_half_way_through_what_is_held_costs_nothing_that_was_cut() {
        let next = |at: &usize| Some(at + EventHeader::read(&BINLOG[*at..])?.event_len as usize);
        let places: Vec<usize> = std::iter::successors(Some(MAGIC.len()), next).take(9).collect();
        let binlog: highwater_binlog::BinlogName = "binlog.000001".parse().unwrap();
        // Which of three stretches cannot be written.
        for broken in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            let mut bed = Bed::new(folder.path(), 0);
            let description = description().to_vec();
            let mut effects = vec![Effect::Open { binlog: binlog.clone(), start: 0, description }];
            for range in [places[0]..places[3], places[3]..places[5], places[5]..places[8]] {
                let (start, end) = (bed.cut, range.end as u64);
                let facts = SegmentFacts { start, end, ..SegmentFacts::default() };
                let cut = Cut { server: ServerUuid::from_bytes([7; 16]), binlog: binlog.clone(), facts };
                effects.extend([Effect::Append(range), Effect::Cut(cut)]);
                bed.cut = end;
            }
            bed.take(effects, Keep::Held);
            let obstacle = bed.pending[broken].stretch.path().to_owned();
            fs::write(&obstacle, b"in the way").unwrap();
            bed.spool.sync().unwrap_err();
            bed.progress.write(0, bed.spool.held_bytes());
            bed.spool.abandon().unwrap();
            fs::remove_file(&obstacle).unwrap();
            bed.require_no_hole(folder.path());
            while !bed.pending.is_empty() {
                bed.publish();
                bed.require_no_hole(folder.path());
            }
            assert_eq!((bed.published, bed.spool.bytes()), (bed.cut, 0), "{broken}");
        }
    }

    #[test]
    fn whatever_is_held_or_spooled_is_published_as_it_was_in_order_and_leaves_no_hole() {
        let next = |at: &usize| Some(at + EventHeader::read(&BINLOG[*at..])?.event_len as usize);
        let places: Vec<usize> = std::iter::successors(Some(MAGIC.len()), next).collect();
        let binlog: highwater_binlog::BinlogName = "binlog.000001".parse().unwrap();
        for seed in 0..30 {
            let folder = tempfile::tempdir().unwrap();
            let mut bed = Bed::new(folder.path(), seed);
            let description = description().to_vec();
            let mut effects = vec![Effect::Open { binlog: binlog.clone(), start: 0, description }];
            for event in places.windows(2) {
                effects.push(Effect::Append(event[0]..event[1]));
                // Of a cut before the last event, the rest of the stretch goes on.
                let end = if bed.one_in(3) { event[0] } else { event[1] } as u64;
                if bed.one_in(3) && end > bed.cut.max(MAGIC.len() as u64) {
                    let facts = SegmentFacts { start: bed.cut, end, ..SegmentFacts::default() };
                    let server = ServerUuid::from_bytes([7; 16]);
                    effects.push(Effect::Cut(Cut { server, binlog: binlog.clone(), facts }));
                    bed.cut = end;
                }
                if bed.one_in(2) {
                    let keep = if bed.one_in(4) { Keep::Spooled } else { Keep::Held };
                    bed.take(std::mem::take(&mut effects), keep);
                    assert!(keep == Keep::Held || !bed.spool.is_holding());
                }
                if bed.one_in(3) {
                    bed.publish();
                }
                bed.require_no_hole(folder.path());
            }
            bed.take(effects, Keep::Spooled);
            bed.spool.discard();
            while !bed.pending.is_empty() {
                bed.publish();
                bed.require_no_hole(folder.path());
            }
            assert_eq!((bed.published, bed.spool.bytes()), (bed.cut, 0));
        }
    }
}
