//! The loop from the source's stream to the archive.
//!
//! `select` waits for the next [`Action`]; `apply` is plain code that turns it into [`Effect`]s; the shell carries them out:
//! append to the spool, fsync once for all that arrived together, hand segments to the publisher.

use std::io;
use std::time::{Duration, Instant};

use highwater_catalog::Segment;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::error::CaptureError;
use super::follower::{Effect, Follower};
use super::progress::Progress;
use super::publisher::{Job, Publisher};
use super::reader::{Batch, Incoming};
use super::report::{AgentState, Reporter, now_micros};
use super::spool::Spool;
use crate::source::ServerError;

/// Batches that are waiting are taken together up to this many bytes, for one fsync.
const GROUP_BYTES: usize = 8 << 20;

/// How often progress is logged while something happens.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The loop looks around at least this often.
const TICK: Duration = Duration::from_secs(1);

/// How a stream ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// We were asked to stop.
    Stopped,
    /// The source ended it or was lost.
    Source(Result<(), ServerError>),
}

/// What the loop does next.
enum Action {
    Stop,
    Events(Vec<Batch>),
    End(Result<(), ServerError>),
    Published(Option<Segment>),
    Tick,
}

/// What an action leads to: effects to be carried out, the batches that they mean, and perhaps the end.
struct Applied {
    effects: Vec<Vec<Effect>>,
    batches: Vec<Batch>,
    end: Option<Result<Ended, CaptureError>>,
}

/// One stream on its way into the archive.
pub(super) struct Pipeline<'a> {
    follower: Follower,
    /// Moves to a blocking thread for each write.
    spool: &'a mut Option<Spool>,
    publisher: &'a mut Publisher,
    reporter: &'a mut Reporter,
    progress: Progress,
    /// The end of the stream, received behind events that come first.
    end: Option<Result<(), ServerError>>,
    /// Zero of the times that segments' ages are counted with.
    epoch: Instant,
}

impl<'a> Pipeline<'a> {
    /// For one stream, before its first event.
    pub(super) fn new(
        follower: Follower,
        spool: &'a mut Option<Spool>,
        publisher: &'a mut Publisher,
        reporter: &'a mut Reporter,
    ) -> Self {
        Self { follower, spool, publisher, reporter, progress: Progress::default(), end: None, epoch: Instant::now() }
    }

    /// Bytes of the stream that reached the archive.
    #[must_use]
    pub(super) fn progress(&self) -> Progress {
        self.progress
    }

    /// Runs until the stream ends, `stop` is cancelled or something fails, then publishes the whole transactions that
    /// were received; `stop` does not interrupt that.
    ///
    /// # Errors
    /// Why it ended, when neither we nor the source wanted it.
    pub(super) async fn run(
        &mut self,
        incoming: &mut mpsc::Receiver<Incoming>,
        stop: &CancellationToken,
    ) -> Result<Ended, CaptureError> {
        let mut logged = (Instant::now(), self.progress);
        let end = loop {
            let action = self.select(incoming, stop).await?;
            let Applied { effects, batches, end } = self.apply(action);
            self.perform(effects, batches).await?;
            self.report();
            if let Some(end) = end {
                break end;
            }
            if logged.0.elapsed() >= LOG_INTERVAL && logged.1 != self.progress {
                logged = (Instant::now(), self.progress);
                self.log();
            }
        };
        while self.publisher.is_busy() {
            let published = self.publisher.advance().await?;
            self.published(published);
            self.report();
        }
        end
    }

    async fn select(
        &mut self,
        incoming: &mut mpsc::Receiver<Incoming>,
        stop: &CancellationToken,
    ) -> Result<Action, CaptureError> {
        if let Some(end) = self.end.take() {
            return Ok(Action::End(end));
        }
        let due = self.follower.due_at().map(|at| Duration::from_micros(at).saturating_sub(self.epoch.elapsed()));
        let (busy, room) = (self.publisher.is_busy(), self.publisher.has_room());
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Action::Stop),
            published = self.publisher.advance(), if busy => return Ok(Action::Published(published?)),
            () = sleep(due.unwrap_or(TICK).min(TICK)) => return Ok(Action::Tick),
            first = incoming.recv(), if room => first,
        };
        let mut batches = match first {
            Some(Incoming::Batch(batch)) => vec![batch],
            Some(Incoming::End(end)) => return Ok(Action::End(end)),
            None => return Err(CaptureError::Task("reading the stream")),
        };
        let mut bytes: usize = batches.iter().map(|batch| batch.bytes.len()).sum();
        while bytes < GROUP_BYTES {
            match incoming.try_recv() {
                Ok(Incoming::Batch(batch)) => {
                    bytes += batch.bytes.len();
                    batches.push(batch);
                }
                Ok(Incoming::End(end)) => {
                    self.end = Some(end);
                    break;
                }
                Err(_) => break,
            }
        }
        Ok(Action::Events(batches))
    }

    fn apply(&mut self, action: Action) -> Applied {
        let mut applied = Applied { effects: Vec::new(), batches: Vec::new(), end: None };
        let now = self.now();
        let mut effects = Vec::new();
        match action {
            Action::Stop => {
                self.follower.cut(&mut effects);
                applied.end = Some(Ok(Ended::Stopped));
            }
            Action::End(end) => {
                self.follower.cut(&mut effects);
                applied.end = Some(Ok(Ended::Source(end)));
            }
            Action::Tick => self.follower.tick(now, &mut effects),
            Action::Published(segment) => self.published(segment),
            Action::Events(batches) => return self.accept(batches, now),
        }
        applied.effects.push(effects);
        applied
    }

    fn accept(&mut self, batches: Vec<Batch>, now: u64) -> Applied {
        let mut applied = Applied { effects: Vec::new(), batches, end: None };
        'batches: for batch in &applied.batches {
            let mut effects = Vec::new();
            for range in &batch.events {
                if let Err(error) = self.follower.accept(&batch.bytes, range.clone(), now, &mut effects) {
                    // What came before it is good.
                    self.follower.cut(&mut effects);
                    applied.effects.push(effects);
                    applied.end = Some(Err(error.into()));
                    break 'batches;
                }
            }
            applied.effects.push(effects);
        }
        applied
    }

    fn published(&mut self, segment: Option<Segment>) {
        if let Some(segment) = segment {
            let bytes = segment.end - segment.start;
            self.progress.store(bytes);
            self.progress.catalogue(bytes);
            tracing::debug!(binlog = %segment.binlog, start = segment.start, end = segment.end,
                transactions = segment.transactions, sequence = segment.sequence, "segment published");
            self.reporter.update(|report| report.last_segment_us = Some(now_micros()));
        }
    }

    /// Writes, syncs once, and hands over what was cut.
    async fn perform(&mut self, effects: Vec<Vec<Effect>>, batches: Vec<Batch>) -> Result<(), CaptureError> {
        if effects.iter().all(Vec::is_empty) {
            return Ok(());
        }
        let mut spool = self.spool.take().ok_or(CaptureError::Task("the spool"))?;
        let (spool, written) = spawn_blocking(move || {
            let written = write(&mut spool, &effects, &batches);
            (spool, written)
        })
        .await
        .map_err(|_| CaptureError::Task("writing the spool"))?;
        let folder = spool.folder().to_owned();
        *self.spool = Some(spool);
        let Written { bytes, jobs } =
            written.map_err(|source| CaptureError::StateDir { action: "write the spool", path: folder, source })?;
        self.progress.receive(bytes);
        self.progress.spool(bytes);
        for job in jobs {
            self.publisher.push(job);
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn report(&mut self) {
        let state = if self.publisher.is_blocked() { AgentState::Blocked } else { AgentState::Streaming };
        if !self.reporter.is_due(state) {
            return;
        }
        let position = self.follower.position().map(|(binlog, offset)| format!("{binlog}:{offset}"));
        let (last_event, pending) = (self.follower.last_event_second(), self.progress.pending());
        let stored = &self.publisher.standing().captured;
        self.reporter.update(|report| {
            report.state = state;
            report.position = position;
            report.last_event = last_event.or(report.last_event);
            report.pending_bytes = pending;
            report.stored_gtids = stored.to_string();
            if state == AgentState::Streaming {
                report.last_error = None;
            }
        });
    }

    fn log(&self) {
        let position = self.follower.position().map(|(binlog, offset)| format!("{binlog}:{offset}"));
        tracing::info!(
            position = position.as_deref().unwrap_or(""),
            received_bytes = self.progress.received(),
            stored_bytes = self.progress.stored(),
            "capturing"
        );
    }
}

/// What came of writing.
struct Written {
    bytes: u64,
    jobs: Vec<Job>,
}

fn write(spool: &mut Spool, effects: &[Vec<Effect>], batches: &[Batch]) -> io::Result<Written> {
    let mut written = Written { bytes: 0, jobs: Vec::new() };
    for (index, effects) in effects.iter().enumerate() {
        let batch = batches.get(index).map_or(&[][..], |batch| &batch.bytes);
        for effect in effects {
            match effect {
                Effect::Open { start, .. } => written.bytes += spool.open(*start)?,
                Effect::Append(range) => {
                    let bytes = batch.get(range.clone()).unwrap_or_default();
                    spool.append(bytes)?;
                    written.bytes += u64::try_from(bytes.len()).unwrap_or(0);
                }
                Effect::Cut(cut) => {
                    let stretch = spool.hand_over(cut.facts.end)?;
                    written.jobs.push(Job { cut: cut.clone(), stretch });
                }
            }
        }
    }
    // Segments that were cut lie before the end: this one sync covers them too.
    spool.sync()?;
    Ok(written)
}
