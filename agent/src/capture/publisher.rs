//! Publishes segments one after the other, each following the one before it.
//!
//! Sealing takes most of the time and does not depend on order: the objects of several segments are made and stored at
//! once. Their manifests are created strictly in order, each when the one before it is there.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::thread::available_parallelism;

use highwater_catalog::{Blake3Digest, Micros, Segment, Timeline};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until};

use super::backoff::Backoff;
use super::error::CaptureError;
use super::follower::Cut;
use super::index::Index;
use super::lineage::Lineage;
use super::spool::Stretch;
use super::standing::Standing;
use super::tip::Tip;
use crate::archive::{Archive, ArchiveError, SegmentDraft, StoredSegment};
use crate::seal::Compression;
use crate::source::Retry;

/// With so many segments waiting for the store, age is no reason to cut another: they get larger instead of more.
const WAITING_MANY: usize = 8;

/// Most segments that are sealed at the same time: by then the network or the disk is slower. Each takes about 1 MiB.
const FLIGHTS_MAX: usize = 4;

/// A store that takes longer than this, and a second for each MiB, for the objects or the manifest of a segment may never
/// answer, like a network's file system whose server is gone.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// A segment that is cut and not published yet.
#[derive(Debug)]
pub(super) struct Job {
    /// What it is.
    pub(super) cut: Cut,
    /// Where its bytes are.
    pub(super) stretch: Arc<Stretch>,
}

/// A segment on its way into the archive.
#[derive(Debug)]
struct Flight {
    job: Job,
    /// Names the segment before it only when that one is published.
    draft: SegmentDraft,
    stage: Stage,
    /// Since when the store has been asked for what the stage says.
    asked: Instant,
}

/// How far a segment is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Nothing is done, or the last attempt failed.
    Spooled,
    /// Its objects are being sealed and stored.
    Storing,
    /// Its objects are in the store.
    Stored(StoredSegment),
    /// Its manifest is being created.
    Publishing(StoredSegment),
    /// Its bytes in the spool are not what was received: what is wrong with them. Neither it nor what follows can be published.
    Damaged(String),
}

/// What a task ended with.
#[derive(Debug)]
enum Done {
    /// The objects of the segment with this number.
    Stored(u64, Result<StoredSegment, CaptureError>),
    /// The first segment.
    Published(Result<Box<Segment>, CaptureError>),
}

/// A segment that is in the archive, and its bytes in the spool.
#[derive(Debug)]
pub(super) struct Published {
    /// The segment.
    pub(super) segment: Segment,
    stretch: Arc<Stretch>,
}

impl Published {
    /// Whether its bytes were never on the disk.
    pub(super) fn was_held(&self) -> bool {
        self.stretch.is_held()
    }

    /// Lets go of its bytes in the spool.
    pub(super) fn release(self) -> Segment {
        self.stretch.published(self.segment.end);
        self.segment
    }
}

/// The end of the archive, and what is on its way there. Outlives the connections to the source.
#[derive(Debug)]
pub(super) struct Publisher {
    archive: Archive,
    standing: Standing,
    /// The same with what is in the spool.
    tip: Tip,
    waiting: VecDeque<Job>,
    /// Those that are worked on, in order.
    flights: VecDeque<Flight>,
    flights_max: usize,
    /// Whether segments come faster than they are sealed.
    catching_up: bool,
    /// Whether the store, and not sealing, took most of the time of the last segment.
    store_is_slower: bool,
    index: Index,
    running: JoinSet<Done>,
    backoff: Backoff,
    retry_at: Option<Instant>,
    /// Why the store took nothing the last time.
    trouble: Option<String>,
    /// How long a store may take until that is told.
    answer_max: Duration,
}

impl Publisher {
    /// Goes on where the archive ends.
    #[must_use]
    pub(super) fn new(archive: Archive, index: Index, (standing, tip): (Standing, Tip)) -> Self {
        Self {
            archive,
            standing,
            tip,
            waiting: VecDeque::new(),
            flights: VecDeque::new(),
            // One of them waits for the disk, and one for the manifest of the one before it.
            flights_max: available_parallelism().map_or(1, |cores| (cores.get() + 2).min(FLIGHTS_MAX)),
            catching_up: false,
            store_is_slower: false,
            index,
            running: JoinSet::new(),
            backoff: Backoff::for_the_store(),
            retry_at: None,
            trouble: None,
            answer_max: ANSWER_MAX,
        }
    }

    /// Where the archive ends.
    #[must_use]
    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Where the spool ends.
    #[must_use]
    pub(super) fn tip(&self) -> &Tip {
        &self.tip
    }

    /// What goes into the spool from now on follows this.
    #[must_use]
    pub(super) fn lineage(&self) -> Lineage {
        Lineage::of(self.archive.repository().id, &self.tip)
    }

    /// Begins a new timeline, when nothing of the old one is left to publish.
    pub(super) fn begin(&mut self, timeline: &Timeline) {
        self.standing = Standing::new(timeline);
        self.tip = Tip::new(timeline);
    }

    /// Adds a segment that is on the disk; it must follow the one added before it.
    pub(super) fn push(&mut self, job: Job) {
        self.tip.spooled(&job.cut, &job.stretch);
        self.resume(vec![job]);
    }

    /// Adds segments that the tip has already.
    pub(super) fn resume(&mut self, jobs: Vec<Job>) {
        jobs.iter().for_each(|job| job.stretch.hand_over(job.cut.facts.end));
        self.waiting.extend(jobs);
    }

    /// Whether something is left to publish.
    #[must_use]
    pub(super) fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.flights.is_empty()
    }

    /// Whether the store is slower than segments come.
    #[must_use]
    pub(super) fn is_behind(&self) -> bool {
        self.waiting.len() >= WAITING_MANY
    }

    /// Whether the store refused the last attempt, or does not answer.
    #[must_use]
    pub(super) fn is_blocked(&self) -> bool {
        self.retry_at.is_some() || self.is_unanswered()
    }

    /// Whether what all wait for takes longer than a store should.
    fn is_unanswered(&self) -> bool {
        let is_asked = |flight: &&Flight| matches!(flight.stage, Stage::Storing | Stage::Publishing(_));
        // A large transaction takes its time.
        let limit = |flight: &Flight| self.answer_max + Duration::from_secs(flight.job.cut.facts.byte_count() >> 20);
        self.flights.front().filter(is_asked).is_some_and(|flight| flight.asked.elapsed() > limit(flight))
    }

    /// Why it is.
    #[must_use]
    pub(super) fn trouble(&self) -> Option<String> {
        match self.retry_at {
            Some(_) => self.trouble.clone(),
            None => self.is_unanswered().then(|| {
                format!(
                    "{} has not answered for more than {} s",
                    self.archive.store().describe(),
                    self.answer_max.as_secs()
                )
            }),
        }
    }

    /// Goes on publishing; returns a segment that is in the store now, or `None` after an attempt that will be repeated.
    /// Cancel safe. Waits forever when nothing is left.
    ///
    /// # Errors
    /// Those that a repetition cannot help.
    pub(super) async fn advance(&mut self) -> Result<Option<Published>, CaptureError> {
        loop {
            let pause = self.retry_at.filter(|at| *at > Instant::now());
            if let Some(Flight { stage: Stage::Damaged(what), job, .. }) = self.flights.front() {
                return Err(CaptureError::SpoolDamaged { file: job.stretch.path().to_owned(), what: what.clone() });
            }
            if pause.is_none() {
                self.start();
            }
            let done = tokio::select! {
                Some(done) = self.running.join_next() => done.map_err(|_| CaptureError::Task("publishing"))?,
                () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => continue,
                else => return std::future::pending().await,
            };
            let failed = match done {
                Done::Stored(sequence, result) => {
                    let Some(flight) = self.flights.iter_mut().find(|flight| flight.draft.sequence == sequence) else {
                        continue;
                    };
                    match result {
                        Ok(stored) => {
                            self.store_is_slower = stored.waited_for_the_store;
                            flight.stage = Stage::Stored(stored);
                            continue;
                        }
                        Err(error) => match damage(&error) {
                            // What comes before it is published first.
                            Some(what) => {
                                let file = flight.job.stretch.path().display();
                                tracing::error!(%file, what, "the spool has changed on the disk: what comes before it is published first");
                                flight.stage = Stage::Damaged(what);
                                continue;
                            }
                            None => {
                                flight.stage = Stage::Spooled;
                                error
                            }
                        },
                    }
                }
                Done::Published(Ok(segment)) => return self.published(*segment),
                Done::Published(Err(error)) => {
                    if let Some(flight) = self.flights.front_mut()
                        && let Stage::Publishing(stored) = &flight.stage
                    {
                        flight.stage = match &error {
                            CaptureError::Archive(ArchiveError::ObjectMissing { .. }) => Stage::Spooled,
                            _ => Stage::Stored(stored.clone()),
                        };
                    }
                    error
                }
            };
            self.pause_after(failed)?;
            return Ok(None);
        }
    }

    fn published(&mut self, segment: Segment) -> Result<Option<Published>, CaptureError> {
        self.standing.advance(&segment)?;
        self.tip.published(&segment);
        self.backoff.reset();
        self.retry_at = None;
        Ok(self.flights.pop_front().map(|flight| Published { segment, stretch: flight.job.stretch }))
    }

    /// Decides when a failed attempt is repeated; those that fail together share a pause.
    fn pause_after(&mut self, error: CaptureError) -> Result<(), CaptureError> {
        if error.retry() == Retry::Never {
            return Err(error);
        }
        if self.retry_at.is_none_or(|at| at <= Instant::now()) {
            let pause = self.backoff.next();
            let trouble = chain(&error);
            let hint = error.hint().unwrap_or_default();
            tracing::warn!(error = %trouble, hint, pause_seconds = pause.as_secs_f32(), "segment not published, trying again");
            self.trouble = Some(trouble);
            self.retry_at = Some(Instant::now() + pause);
        }
        Ok(())
    }

    /// Starts what can be done now. While the store refuses, one segment is enough to try it with.
    fn start(&mut self) {
        let flights_max = if self.retry_at.is_some() { 1 } else { self.flights_max };
        // From the moment when one is cut before the one before it is done, until nothing is left.
        let unpublished = self.flights.len() + self.waiting.len();
        self.catching_up = unpublished > 1 || (self.catching_up && unpublished > 0);
        while self.flights.len() < flights_max
            && let Some(job) = self.waiting.pop_front()
        {
            let draft = self.draft(&job.cut);
            self.flights.push_back(Flight { job, draft, stage: Stage::Spooled, asked: Instant::now() });
        }
        for index in 0..self.flights.len().min(flights_max) {
            self.store(index);
        }
        self.publish_first();
    }

    /// What a segment is that follows all those that are worked on. The digest of the one before it is not known yet.
    fn draft(&self, cut: &Cut) -> SegmentDraft {
        let Cut { server, binlog, facts } = cut.clone();
        let (sequence, gtids_before) = match self.flights.back() {
            Some(Flight { draft, .. }) => (draft.sequence + 1, draft.gtids_before.union(&draft.gtids_added)),
            None => (self.standing.next_sequence, self.standing.captured.clone()),
        };
        SegmentDraft {
            timeline: self.standing.timeline,
            sequence,
            server,
            binlog,
            start: facts.start,
            end: facts.end,
            gtids_before,
            gtids_added: facts.gtids_added,
            first_commit: facts.first_commit_micros.map(Micros),
            last_commit: facts.last_commit_micros.map(Micros),
            events: facts.events,
            transactions: facts.transactions,
            previous_blake3: (sequence > 0).then_some(Blake3Digest([0; 32])),
        }
    }

    fn store(&mut self, index: usize) {
        let Some(flight) = self.flights.get_mut(index).filter(|flight| flight.stage == Stage::Spooled) else { return };
        (flight.stage, flight.asked) = (Stage::Storing, Instant::now());
        let (archive, draft, stretch) = (self.archive.clone(), flight.draft.clone(), Arc::clone(&flight.job.stretch));
        // Smaller objects are worth the time as long as it is the store that everything waits for.
        let is_hurried = self.catching_up && !self.store_is_slower;
        let compression = if is_hurried { Compression::Fast } else { Compression::Regular };
        self.running.spawn_blocking(move || {
            let stored = stretch
                .read_events(draft.start, draft.end)
                .map_err(|source| ArchiveError::Read { object: format!("spool of {}", draft.binlog), source })
                .and_then(|mut plain| archive.store_segment(&draft, &mut *plain, compression));
            Done::Stored(draft.sequence, stored.map_err(CaptureError::from))
        });
    }

    /// Creates the first segment's manifest, if its objects are there: the one before it is published.
    fn publish_first(&mut self) {
        let previous_blake3 = self.standing.previous_blake3;
        let Some(flight) = self.flights.front_mut() else { return };
        let Stage::Stored(stored) = flight.stage.clone() else { return };
        (flight.stage, flight.asked) = (Stage::Publishing(stored.clone()), Instant::now());
        flight.draft.previous_blake3 = previous_blake3;
        let (archive, index, draft) = (self.archive.clone(), self.index.clone(), flight.draft.clone());
        self.running.spawn_blocking(move || {
            let published = archive.publish_stored(draft, stored).map_err(CaptureError::from);
            // Once more after a failure here, the archive answers with the segment that is there.
            Done::Published(
                published.and_then(|segment| {
                    index.segment(&segment).map(|()| Box::new(segment)).map_err(CaptureError::from)
                }),
            )
        });
    }
}

/// What is wrong with the bytes in the spool, if that is why a segment is not stored.
fn damage(error: &CaptureError) -> Option<String> {
    match error {
        CaptureError::Archive(ArchiveError::Read { source, .. }) if source.kind() == ErrorKind::InvalidData => {
            Some(chain(source))
        }
        _ => None,
    }
}

/// An error with its causes, for a log line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
