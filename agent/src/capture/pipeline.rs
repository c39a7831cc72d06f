//! The loop from the source's stream to the spool and on to the archive.
//!
//! `select` waits for the next an action; `apply` is plain code that turns it into effects; the shell carries them
//! out: append to the spool, fsync once for all that arrived together, acknowledge, hand segments to the publisher.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Followed;
use super::acks::{Acks, WantedAck};
use super::error::CaptureError;
use super::follower::{Cut, Effect, Follower, StreamError};
use super::hold::{HELD_MEMORY_MAX, HELD_SEGMENT_BYTES_MAX, HELD_TIME_MAX, HeldStretch, Hold, Situation};
use super::progress::Progress;
use super::publisher::{Job, Published, Publisher};
use super::reader::{Batch, Incoming, Received};
use super::report::{AgentReport, AgentState, Reporter, now_micros};
use super::room::Room;
use super::spool::{Keep, Spool, Stretch};
use super::watched::Look;
use super::writer::{Batched, Origin, Written, write};

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
    Source(Result<(), CaptureError>),
}

/// What the loop does next.
enum Action {
    Stop,
    Events(Vec<Batch>),
    End(Result<(), CaptureError>),
    Published(Option<Box<Published>>),
    /// Everything whole is to be published now.
    Cut,
    /// What is held in memory is to be written.
    Write,
    Tick,
}

/// What an action leads to: effects to be carried out with their batches, and perhaps the end.
struct Applied {
    batches: Vec<Batched>,
    ack: Option<WantedAck>,
    end: Option<Result<Ended, CaptureError>>,
}

/// What lives longer than a connection to the source.
#[derive(Debug)]
pub(super) struct Plant {
    /// Moves to a blocking thread for each write.
    pub(super) spool: Option<Spool>,
    /// What the spool may take.
    pub(super) room: Room,
    /// The way from the spool to the store.
    pub(super) publisher: Publisher,
    /// How far everything is.
    pub(super) progress: Progress,
}

/// One stream on its way into the archive.
pub(super) struct Pipeline<'a> {
    follower: Follower,
    plant: &'a mut Plant,
    reporter: &'a mut Reporter,
    acks: Acks,
    looks: watch::Receiver<Option<Look>>,
    followed: &'a watch::Sender<Option<Followed>>,
    /// Somebody waits for what is in no segment yet.
    cut_wanted: Arc<Notify>,
    /// The end of the stream, received behind events that come first.
    end: Option<Result<(), CaptureError>>,
    /// What is on the disk and not cut yet.
    durable: Option<(Cut, Arc<Stretch>)>,
    /// Received bytes in front of what is not cut yet.
    cut: u64,
    /// Whether the spool may be written.
    spool_failed: bool,
    hold: Hold,
    /// Zero of the times that segments' ages are counted with.
    epoch: Instant,
}

impl<'a> Pipeline<'a> {
    /// For one stream, before its first event.
    pub(super) fn new(
        follower: Follower,
        plant: &'a mut Plant,
        reporter: &'a mut Reporter,
        acks: Acks,
        looks: watch::Receiver<Option<Look>>,
        followed: &'a watch::Sender<Option<Followed>>,
        hold: Hold,
    ) -> Self {
        let cut = plant.progress.received();
        let epoch = Instant::now();
        Self {
            follower,
            plant,
            reporter,
            acks,
            looks,
            followed,
            cut_wanted: followed.borrow().as_ref().map(|followed| Arc::clone(&followed.cut_wanted)).unwrap_or_default(),
            end: None,
            durable: None,
            cut,
            spool_failed: false,
            hold,
            epoch,
        }
    }

    /// Whether the source has sent anything of a binlog.
    #[must_use]
    pub(super) fn has_streamed(&self) -> bool {
        self.follower.position().is_some()
    }

    /// Runs until the stream ends, `stop` is cancelled or something fails, and hands over the whole transactions that
    /// were received.
    ///
    /// # Errors
    /// Why it ended, when neither we nor the source wanted it.
    pub(super) async fn run(
        &mut self,
        incoming: &mut mpsc::Receiver<Incoming>,
        stop: &CancellationToken,
    ) -> Result<Ended, CaptureError> {
        let outcome = self.follow(incoming, stop).await;
        if !self.spool_failed {
            let mut effects = Vec::new();
            self.follower.cut(&mut effects);
            self.hold.end();
            let performed = self.perform(vec![Batched::without_bytes(effects)], None).await;
            if let Some(spool) = self.plant.spool.as_mut().filter(|_| performed.is_ok()) {
                spool.discard();
            }
            self.plant.progress.forget_behind(self.cut);
            performed?;
        }
        self.plant.progress.forget_behind(self.cut);
        outcome
    }

    async fn follow(
        &mut self,
        incoming: &mut mpsc::Receiver<Incoming>,
        stop: &CancellationToken,
    ) -> Result<Ended, CaptureError> {
        let mut logged = (Instant::now(), self.plant.progress);
        loop {
            let action = self.select(incoming, stop).await?;
            let Applied { batches, ack, end } = self.apply(action);
            self.perform(batches, ack).await?;
            let acknowledged = self.acks.send(&mut self.plant.progress).await;
            self.report();
            // What was found in the stream weighs more than a connection that is lost besides.
            if let Some(end) = end {
                return end;
            }
            if let Err(error) = acknowledged {
                return Ok(Ended::Source(Err(error.into())));
            }
            if logged.0.elapsed() >= LOG_INTERVAL && logged.1 != self.plant.progress {
                logged = (Instant::now(), self.plant.progress);
                self.log();
            }
        }
    }

    async fn select(
        &mut self,
        incoming: &mut mpsc::Receiver<Incoming>,
        stop: &CancellationToken,
    ) -> Result<Action, CaptureError> {
        if let Some(end) = self.end.take() {
            return Ok(Action::End(end));
        }
        if self.plant.is_holding() && self.keep(0) == Keep::Spooled {
            return Ok(Action::Write);
        }
        let busy = self.plant.publisher.is_busy();
        let full = self.is_full();
        if !busy && (full || self.acks.want_segments()) && self.durable.is_some() {
            return Ok(Action::Cut);
        }
        self.follower.cut_by_age(!self.plant.publisher.is_behind());
        let due = self.follower.due_at().filter(|_| !self.plant.publisher.is_behind());
        let due = due.map(|at| Duration::from_micros(at).saturating_sub(self.epoch.elapsed()));
        let write_due = self.plant.held().first().map(|oldest| HELD_TIME_MAX.saturating_sub(oldest.age));
        let wake = [due, write_due].into_iter().flatten().fold(TICK, Duration::min);
        // Inside of one transaction there is nothing to publish, so nothing that could make room.
        let room = !busy || !(full || self.holds_enough());
        let has_uncut = self.durable.is_some();
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Action::Stop),
            // Asked again if it is too early: a wish that stays would cut what comes much later.
            () = self.cut_wanted.notified() => return Ok(if has_uncut { Action::Cut } else { Action::Tick }),
            published = self.plant.publisher.advance(), if busy => return Ok(Action::Published(published?.map(Box::new))),
            () = sleep(wake) => return Ok(Action::Tick),
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
        let mut effects = Vec::new();
        let mut end = None;
        match action {
            Action::Stop => end = Some(Ok(Ended::Stopped)),
            Action::End(source) => end = Some(Ok(Ended::Source(source))),
            Action::Write => {}
            Action::Tick => self.follower.tick(self.now(), &mut effects),
            Action::Cut => self.follower.cut(&mut effects),
            Action::Published(published) => self.published(published),
            Action::Events(batches) => return self.accept(batches),
        }
        Applied { batches: vec![Batched::without_bytes(effects)], ack: None, end }
    }

    fn accept(&mut self, batches: Vec<Batch>) -> Applied {
        let now = self.now();
        let is_held = self.keep(0) == Keep::Held;
        self.follower.cut_by_size(if is_held { HELD_SEGMENT_BYTES_MAX } else { u64::MAX });
        let mut applied = Applied { batches: Vec::new(), ack: None, end: None };
        let mut received = self.plant.progress.received();
        for batch in batches {
            let mut effects = Vec::new();
            let mut before = 0;
            for event in &batch.events {
                if let Err(error) = self.follower.take(&batch.bytes, event, now, &mut effects) {
                    applied.end = Some(Err(error.into()));
                    break;
                }
                if let Received::Event { wants_ack: true, .. } = event
                    && let Some((binlog, offset)) = self.follower.position()
                {
                    let bytes = Batched::received(&effects);
                    received += bytes - before;
                    before = bytes;
                    applied.ack = Some(WantedAck { binlog: binlog.clone(), offset, received });
                }
            }
            received += Batched::received(&effects) - before;
            applied.batches.push(Batched { effects, batch: Some(batch) });
            if applied.end.is_some() {
                break;
            }
        }
        applied
    }

    fn published(&mut self, published: Option<Box<Published>>) {
        if let Some(published) = published {
            self.plant.published(*published);
            self.reporter.update(|report| report.last_segment_us = Some(now_micros()));
        }
    }

    /// Writes, syncs once, and hands over what was cut.
    async fn perform(&mut self, batches: Vec<Batched>, ack: Option<WantedAck>) -> Result<(), CaptureError> {
        let keep = self.keep(batches.iter().map(|batch| Batched::received(&batch.effects)).sum());
        let writes_held = keep == Keep::Spooled && self.plant.is_holding();
        if batches.iter().all(|batch| batch.effects.is_empty()) && !writes_held {
            // What it is about is in the spool already, or in the archive.
            self.acks.want(ack);
            return Ok(());
        }
        self.acks.want_too_early(&ack).await;
        // Only what begins or ends something needs to know what it follows.
        let is_plain = |batch: &Batched| batch.effects.iter().all(|effect| matches!(effect, Effect::Append(_)));
        let lineage = (!batches.iter().all(is_plain)).then(|| self.plant.publisher.lineage());
        let origin = Origin { server: self.follower.server(), lineage };
        let mut spool = self.plant.spool.take().ok_or(CaptureError::Task("the spool"))?;
        let is_in_memory = keep == Keep::Held && spool.current().is_none_or(|stretch| stretch.is_held());
        let work = move || {
            let mut written = Written::default();
            let result = write(&mut spool, origin, &batches, &mut written, keep);
            (spool, written, result)
        };
        let (spool, written, result) = match is_in_memory {
            true => work(),
            false => spawn_blocking(work).await.map_err(|_| CaptureError::Task("writing the spool"))?,
        };
        let spool = self.plant.spool.insert(spool);
        if let Err(source) = result {
            self.spool_failed = true;
            let folder = spool.folder().to_owned();
            // What was held may have come to the disk before it failed.
            self.plant.progress.write(0, spool.held_bytes());
            self.salvage();
            return Err(CaptureError::Spool { path: folder, source });
        }
        let current = spool.current();
        self.plant.progress.write(written.bytes, spool.held_bytes());
        for job in written.jobs {
            self.cut += job.cut.facts.byte_count();
            self.plant.publisher.push(job);
        }
        self.durable = self.follower.whole().zip(current);
        self.acks.want(ack);
        Ok(())
    }

    /// After a failed write: what was on the disk before it is handed over, nothing else.
    fn salvage(&mut self) {
        if let Some((cut, stretch)) = self.durable.take() {
            self.cut += cut.facts.byte_count();
            self.plant.publisher.push(Job { cut, stretch });
        }
        let Some(spool) = &mut self.plant.spool else { return };
        if let Err(error) = spool.abandon() {
            tracing::error!(error = %error, "the failed spool file cannot be cut");
        }
    }

    /// Where bytes that came are to be safe first.
    fn keep(&self, came: u64) -> Keep {
        let publisher = &self.plant.publisher;
        self.hold.keep(&Situation {
            acknowledges: self.acks.are_given(),
            is_blocked: publisher.is_blocked(),
            is_busy: publisher.is_busy(),
            binlog: self.follower.position().map(|(binlog, _)| binlog),
            came,
            held: self.plant.held(),
        })
    }

    fn holds_enough(&self) -> bool {
        self.plant.held().iter().map(|held| held.memory).sum::<u64>() >= HELD_MEMORY_MAX
    }

    fn is_full(&self) -> bool {
        self.plant.spool.as_ref().is_some_and(|spool| self.plant.room.is_used_up(spool.bytes()))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn report(&mut self) {
        self.learn();
        let state = match (self.plant.publisher.is_blocked(), self.is_full()) {
            (_, true) => AgentState::Full,
            (true, false) => AgentState::Blocked,
            (false, false) => AgentState::Streaming,
        };
        if !self.reporter.is_due(state) {
            return;
        }
        // A dump is not to be published behind what could still be lost.
        if !self.plant.is_holding() {
            let tip = self.plant.publisher.tip();
            self.followed
                .send_if_modified(|followed| followed.as_mut().is_some_and(|followed| followed.witness.learn(tip)));
        }
        let position = self.follower.position().map(|(binlog, offset)| format!("{binlog}:{offset}"));
        let last_event = self.follower.last_event_second();
        // What is on the disk and in no segment yet counts too.
        let plant = &*self.plant;
        let safe = if plant.is_holding() { &plant.publisher.standing().captured } else { self.follower.captured() };
        let whole = safe.to_string();
        self.reporter.update(|report| {
            report.state = state;
            plant.describe(report);
            report.spooled_gtids = whole;
            report.position = position;
            report.last_event = last_event.or(report.last_event);
            if state == AgentState::Streaming {
                report.last_error = None;
            }
        });
    }

    /// Takes the newest look at the source into account.
    fn learn(&mut self) {
        if !self.looks.has_changed().unwrap_or(false) {
            return;
        }
        let Some(look) = self.looks.borrow_and_update().clone() else {
            return self.reporter.update(AgentReport::lose_sight);
        };
        let (at, last_event) = (self.follower.position().map(|(binlog, _)| binlog), self.follower.last_event_second());
        let (acknowledges, server) = (self.acks.are_given(), self.follower.server());
        self.reporter.update(|report| {
            report.watched.get_or_insert_default().learn(&look, server, at, last_event);
            let (before, now) = (report.synchronous, look.is_synchronous());
            if acknowledges {
                match (before, now) {
                    (Some(true) | None, false) => {
                        tracing::warn!(semi_sync = look.semi_sync(), "commits do not wait for us")
                    }
                    (Some(false) | None, true) => tracing::info!("commits wait for our acknowledgements"),
                    (Some(true), true) | (Some(false), false) => {}
                }
                (report.semi_sync, report.synchronous) = (Some(look.semi_sync()), Some(now));
            }
        });
    }

    fn log(&self) {
        let position = self.follower.position().map(|(binlog, offset)| format!("{binlog}:{offset}"));
        tracing::info!(
            position = position.as_deref().unwrap_or(""),
            received_bytes = self.plant.progress.received(),
            stored_bytes = self.plant.progress.stored(),
            "capturing"
        );
    }
}

impl Follower {
    /// Takes what stands in a batch.
    ///
    /// # Errors
    /// When it cannot be what the source wrote there. The follower must not be used further.
    pub(super) fn take(
        &mut self,
        batch: &[u8],
        received: &Received,
        now_micros: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StreamError> {
        match received {
            Received::Event { range, .. } => self.accept(batch, range.clone(), now_micros, effects),
            Received::Binlog(binlog) => self.begin(binlog, effects),
            Received::Stored { range, offset } => {
                self.place(*offset);
                self.accept(batch, range.clone(), now_micros, effects)
            }
            Received::CaughtUp => self.caught_up(),
        }
    }
}

impl Plant {
    /// Takes a published segment into account, and then lets go of its bytes in the spool.
    pub(super) fn published(&mut self, published: Published) {
        let bytes = published.segment.end - published.segment.start;
        self.progress.publish(bytes, published.was_held());
        let segment = published.release();
        tracing::debug!(binlog = %segment.binlog, start = segment.start, end = segment.end,
            transactions = segment.transactions, sequence = segment.sequence, "segment published");
    }

    /// Whether something received is in memory only, as far as is known while the spool is being written.
    fn is_holding(&self) -> bool {
        self.spool.as_ref().is_none_or(Spool::is_holding)
    }

    /// What is.
    fn held(&self) -> Vec<HeldStretch> {
        let held = self.spool.iter().flat_map(Spool::held);
        held.map(|stretch| HeldStretch {
            binlog: stretch.name().binlog.clone(),
            memory: stretch.held_memory(),
            age: stretch.begun().elapsed(),
        })
        .collect()
    }

    /// Says how far everything is.
    pub(super) fn describe(&self, report: &mut AgentReport) {
        let (standing, tip) = (self.publisher.standing(), self.publisher.tip());
        report.pending_bytes = self.progress.pending();
        report.spool_bytes = self.spool.as_ref().map_or(0, Spool::bytes);
        report.timeline = Some(standing.timeline.0);
        report.stored_gtids = standing.captured.to_string();
        report.spooled_gtids = if self.is_holding() { &standing.captured } else { &tip.captured }.to_string();
        if let Some(trouble) = self.publisher.trouble() {
            report.last_error = Some(trouble);
        }
    }
}
