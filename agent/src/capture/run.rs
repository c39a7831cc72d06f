//! Connection after connection to the source, its disk, or one that takes its place, until capture is stopped or cannot go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_catalog::{Blake3Digest, Timeline, TimelineId};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::continuity::{Discontinuity, Request, Start};
use super::course::{Course, not_sent};
use super::error::CaptureError;
use super::follower::{Follower, StreamError};
use super::hold::Hold;
use super::ownership::Ownership;
use super::pipeline::{Ended, Pipeline, Plant};
use super::place::{Answer, Known, Place};
use super::progress::Progress;
use super::publisher::{Publisher, chain};
use super::report::AgentState;
use super::standing::Standing;
use super::tip::Tip;
use super::{Capture, Followed, Running, Stage, Witness, reader, timeline, watched};
use crate::failpoint;
use crate::source::{FilesError, Retry, ServerError, ServerFacts};

/// Times in a row that damaged bytes are asked for again, or a spool that fails is begun anew.
const STRIKES_MAX: u32 = 3;

/// Timelines do not begin faster than this, one after the other.
const BRANCH_INTERVAL: Duration = Duration::from_secs(20);

/// A connection that stood so long was a good one, even if the source had nothing new.
const STEADY: Duration = Duration::from_secs(30);

/// How long what is in the spool may take to the store when capture cannot go on.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// What follows from an error.
enum Next {
    Fail,
    Again,
    Elsewhere,
    WaitForRoom,
    Branch(Discontinuity),
}

impl Capture {
    /// Captures until `stop` is cancelled; then everything received in whole transactions is published.
    ///
    /// # Errors
    /// What a new attempt cannot help: before the first connection everything, later only what somebody must change.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), CaptureError> {
        let Some(ownership) = self.take_over(&stop).await? else { return Ok(()) };
        let outcome = tokio::select! {
            outcome = self.connections(&ownership, &stop) => outcome,
            error = ownership.lost() => Err(error),
        };
        match outcome {
            Ok(()) => {
                if let Err(error) = self.drain(&CancellationToken::new()).await {
                    self.report(AgentState::Failed, Some(chain(&error)));
                    return Err(error);
                }
                self.report(AgentState::Stopped, None);
                Ok(())
            }
            Err(error) => {
                let error = ownership.explain(error).await;
                self.report(AgentState::Failed, Some(chain(&error)));
                if error.leaves_the_store_to_us() {
                    match timeout(DRAIN_MAX, self.drain(&stop)).await {
                        Ok(Ok(_)) => {}
                        Ok(Err(store)) => tracing::error!(error = %chain(&store), "spool not published"),
                        Err(_) => tracing::error!("the store did not take the spool; the next start tries again"),
                    }
                    self.report(AgentState::Failed, Some(chain(&error)));
                }
                Err(error)
            }
        }
    }

    /// Takes the archive over, as soon as the store answers. `None`: stopped before.
    async fn take_over(&mut self, stop: &CancellationToken) -> Result<Option<Ownership>, CaptureError> {
        let mut backoff = Backoff::for_the_store();
        loop {
            let error = match Ownership::take(self.archive.clone()).await {
                Ok(ownership) => return Ok(Some(ownership)),
                Err(CaptureError::Archive(error)) if error.may_pass() => CaptureError::Archive(error),
                Err(error) => return Err(error),
            };
            let pause = backoff.next();
            tracing::warn!(error = %chain(&error), pause_seconds = pause.as_secs_f32(), "archive not taken over, trying again");
            self.report(AgentState::Blocked, Some(chain(&error)));
            if self.meanwhile(stop, sleep(pause)).await?.is_none() {
                return Ok(None);
            }
        }
    }

    async fn connections(&mut self, ownership: &Ownership, stop: &CancellationToken) -> Result<(), CaptureError> {
        let mut course = Course::new();
        loop {
            ownership.confirm().await?;
            let error = match self.connection(&mut course, stop).await {
                Ok(Ended::Stopped) => return Ok(()),
                Ok(Ended::Source(end)) => {
                    let address = self.address(&course);
                    let closed = || std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
                    let lost = || ServerError::Lost { address, source: closed() };
                    end.err().unwrap_or_else(|| lost().into())
                }
                Err(error) => error,
            };
            if matches!(error, CaptureError::Source(ServerError::AccessDenied { .. })) {
                self.read_passwords().await;
            }
            let next = self.next(&error, &mut course);
            let pause = match next {
                Next::Fail => return Err(error),
                Next::Branch(why) => {
                    // A source that ends every timeline at once must not fill the archive with them.
                    let since = course.branched.map_or(BRANCH_INTERVAL, |at| at.elapsed());
                    let pause = BRANCH_INTERVAL.saturating_sub(since);
                    if self.meanwhile(stop, sleep(pause)).await?.is_none() || !self.branch(&why, &course, stop).await? {
                        return Ok(());
                    }
                    course.has_branched();
                    course.behind =
                        self.stage.tip().map(|tip| tip.timeline).filter(|_| why == Discontinuity::Anonymous);
                    continue;
                }
                Next::WaitForRoom => {
                    if !std::mem::replace(&mut course.is_full, true) {
                        tracing::error!(error = %chain(&error), "no space left for the spool: the source is not read");
                    }
                    self.report(AgentState::Full, Some(chain(&error)));
                    let pause = course.backoff.next();
                    if !self.wait_for_room(stop).await? || self.meanwhile(stop, sleep(pause)).await?.is_none() {
                        return Ok(());
                    }
                    continue;
                }
                Next::Again => course.backoff.next(),
                Next::Elsewhere => {
                    course.host = (course.host + 1) % self.places.len().max(1);
                    if course.host == 0 { course.backoff.next() } else { Duration::ZERO }
                }
            };
            tracing::warn!(error = %chain(&error), pause_seconds = pause.as_secs_f32(), "source lost, connecting again");
            self.report(AgentState::Connecting, Some(chain(&error)));
            if self.meanwhile(stop, sleep(pause)).await?.is_none() {
                return Ok(());
            }
        }
    }

    /// Reads the passwords again: they are changed while an agent runs.
    async fn read_passwords(&mut self) {
        let Some(source) = self.logins.clone() else { return };
        let logins = match spawn_blocking(move || source.logins()).await {
            Ok(Ok(logins)) => logins,
            Ok(Err(error)) => return tracing::warn!(error = %chain(&error), "password of the source not read again"),
            Err(_) => return,
        };
        for place in &mut self.places {
            let Place::Server(login) = place else { continue };
            if let Some(read) = logins.iter().find(|read| read.address == login.address) {
                *login = Arc::new(read.clone());
            }
        }
    }

    fn next(&self, error: &CaptureError, course: &mut Course) -> Next {
        let everywhere = course.tried >= self.places.len();
        course.note(error);
        course.passes_unreadable |= error.is_unreadable_binlog();
        match error {
            CaptureError::Source(ServerError::AnonymousTransaction { .. })
            | CaptureError::Stream(StreamError::Anonymous { .. })
                if self.can_begin_behind(course) =>
            {
                return Next::Branch(Discontinuity::Anonymous);
            }
            // Seen in the stream itself: another host would not change it.
            CaptureError::Discontinuity(why @ Discontinuity::Incident { .. }) => return Next::Branch(why.clone()),
            CaptureError::Discontinuity(why @ Discontinuity::Differs { .. }) => {
                return if course.seen_for(why).is_some() { Next::Branch(why.clone()) } else { Next::Again };
            }
            CaptureError::Discontinuity(why @ Discontinuity::BinlogGone { .. }) if !course.is_gone_for_good(why) => {
                course.asks_again();
                return Next::Again;
            }
            CaptureError::Discontinuity(why) if self.may_be_lag(why, course) => return Next::Elsewhere,
            // What this host lacks, one that lags or is away may have.
            CaptureError::Discontinuity(Discontinuity::Gap { .. } | Discontinuity::BinlogGone { .. })
            | CaptureError::Stream(StreamError::MissedTransactions { .. })
                if self.is_lag_waited_for(course) || course.is_host_waited_for(self.replica_lag_max) =>
            {
                return Next::Elsewhere;
            }
            CaptureError::Discontinuity(_) if !everywhere => return Next::Elsewhere,
            CaptureError::Discontinuity(why) if self.may_be_changing(why, course) => return Next::Again,
            _ => {}
        }
        match error {
            CaptureError::Discontinuity(why) => Next::Branch(course.least_break(why.clone())),
            CaptureError::Spool { .. } if error.is_full() => Next::WaitForRoom,
            // All hosts were asked again, and have them nowhere.
            CaptureError::Stream(StreamError::MissedTransactions { binlog, missing })
                if (course.strikes + 1) / STRIKES_MAX >= u32::try_from(self.places.len()).unwrap_or(u32::MAX) =>
            {
                course.strikes = 0;
                Next::Branch(course.least_break(not_sent(binlog, missing)))
            }
            // A server that was restarted or reset: what it has now decides.
            CaptureError::Files(FilesError::Changed { .. }) => Next::Again,
            CaptureError::Spool { .. }
            | CaptureError::Stream(_)
            | CaptureError::Files(
                FilesError::Damaged { .. } | FilesError::Disordered { .. } | FilesError::Torn { .. },
            ) => {
                course.strikes += 1;
                // Another host does not mend our own disk.
                let hosts = if matches!(error, CaptureError::Spool { .. }) { 1 } else { self.places.len() };
                match (course.strikes % STRIKES_MAX, course.strikes / STRIKES_MAX) {
                    (0, rounds) if usize::try_from(rounds).is_ok_and(|rounds| rounds >= hosts) => Next::Fail,
                    (0, _) => Next::Elsewhere,
                    _ => Next::Again,
                }
            }
            CaptureError::Source(_) | CaptureError::Files(_) if !self.is_established() => {
                if everywhere {
                    Next::Fail
                } else {
                    Next::Elsewhere
                }
            }
            CaptureError::Source(_) if course.tried == 0 => Next::Again,
            CaptureError::Source(_) => Next::Elsewhere,
            _ if error.retry() == Retry::Never => Next::Fail,
            _ => Next::Again,
        }
    }

    /// Whether a timeline that begins with what the source has executed would be another one than that which there is.
    fn can_begin_behind(&self, course: &Course) -> bool {
        let (Stage::Known(plant), Some(facts)) = (&self.stage, &course.facts) else { return false };
        let tip = plant.publisher.tip();
        // A second one behind the same transactions would end like the first.
        let is_behind_already = course.behind == Some(tip.timeline) && tip.captured == tip.starting;
        !is_behind_already && (!tip.tail.is_empty() || !facts.gtid_executed.is_subset(&tip.captured))
    }

    /// Whether capture of this service has ever worked: then somebody is mending what fails now.
    fn is_established(&self) -> bool {
        let has_history = |plant: &Plant| {
            let standing = plant.publisher.standing();
            // What is only in the spool proves it too: the agent may have died before its first segment.
            standing.timeline.0 > 1 || standing.next_sequence > 0 || plant.progress.received() > 0
        };
        self.running.borrow().is_some() || matches!(&self.stage, Stage::Known(plant) if has_history(plant))
    }

    /// Whether the host may have later what it lacks now.
    fn may_be_lag(&self, why: &Discontinuity, course: &mut Course) -> bool {
        let is_replica = course.facts.as_ref().is_some_and(|facts| facts.read_only || facts.is_replica);
        // One that is only to take the source's place gives it the time to come back.
        if !why.may_be_lag() || (!is_replica && course.host == 0) {
            return false;
        }
        course.lagging_since.get_or_insert_with(Instant::now);
        self.is_lag_waited_for(course)
    }

    fn is_lag_waited_for(&self, course: &Course) -> bool {
        course.lagging_since.is_some_and(|since| since.elapsed() < self.replica_lag_max)
    }

    /// Whether a disk may look otherwise the next time: a server that resets its binlogs, or somebody who puts files back,
    /// does so file by file.
    fn may_be_changing(&self, why: &Discontinuity, course: &mut Course) -> bool {
        let is_disk = matches!(self.places.get(course.host), Some(Place::Files(_)));
        is_disk && course.seen_for(why).is_none()
    }

    /// One connection from its decision to its end.
    async fn connection(&mut self, course: &mut Course, stop: &CancellationToken) -> Result<Ended, CaptureError> {
        course.tried = (course.tried + 1).min(self.places.len());
        let place = self.places.get(course.host).cloned().ok_or(CaptureError::Task("choosing a host"))?;
        let asking = place.ask(Known::of(self.stage.tip()), self.allow_positions);
        let Some(asked) = meanwhile(&mut self.stage, stop, asking).await? else { return Ok(Ended::Stopped) };
        let answer = asked?;
        course.facts = Some(answer.facts.clone());
        self.introduce(&answer);
        if !self.first_timeline(&answer.facts, stop).await? {
            return Ok(Ended::Stopped);
        }
        let (mut start, expected) = self.decide(&answer).await?;
        course.has_all_binlogs();
        if let (true, Some(tip)) = (course.passes_unreadable, self.stage.tip()) {
            start = answer.pass_unreadable(tip, start);
        }
        let opening = place.open(&self.identity, &answer, &start, self.ack);
        let Some(opened) = meanwhile(&mut self.stage, stop, opening).await? else { return Ok(Ended::Stopped) };
        let (stream, acks) = opened?;
        let Stage::Known(plant) = &mut self.stage else { return Err(CaptureError::Task("opening a timeline")) };
        let tip = plant.publisher.tip();
        let facts = &answer.facts;
        tracing::info!(source = %place, server = %facts.uuid, version = %facts.version_text,
            timeline = %tip.timeline, "connected");
        let running = Running { timeline: tip.timeline, server: facts.uuid, host: course.host };
        self.running.send_replace(Some(running));
        let follower = Follower::new(facts.uuid, self.policy, tip, &start, expected);
        let mut tasks = JoinSet::new();
        let mut from = reader::start(stream, &mut tasks);
        let (looks_to, looks) = tokio::sync::watch::channel(None);
        let watched = match &place {
            Place::Server(login) => Some(login),
            Place::Files(_) => self.watched.as_ref(),
        };
        if let Some(login) = watched {
            tasks.spawn(watched::watch(Arc::clone(login), looks_to));
        }
        let (began, received) = (Instant::now(), plant.progress.received());
        course.connections += 1;
        let witness = Witness::new(place, self.identity.server_id, self.allow_positions, tip.clone());
        let (connection, host) = (course.connections, course.host);
        let cut_wanted = Arc::default();
        let followed = Followed { connection, server: facts.uuid, host, witness, cut_wanted };
        self.followed.send_replace(Some(followed));
        let hold = Hold::new(answer.closed_binlogs());
        let mut pipeline = Pipeline::new(follower, plant, &mut self.reporter, acks, looks, &self.followed, hold);
        let ended = pipeline.run(&mut from, stop).await;
        self.followed.send_replace(None);
        if pipeline.has_streamed() {
            let has_brought_something = plant.progress.received() > received;
            let has_found_something = matches!(ended, Err(CaptureError::Discontinuity(_) | CaptureError::Stream(_)));
            course.streamed(has_brought_something || (began.elapsed() >= STEADY && !has_found_something));
            if has_brought_something {
                (course.strikes, course.is_full) = (0, false);
            }
        }
        ended
    }

    /// Tells whose binlogs are captured.
    pub(super) fn introduce(&mut self, answer: &Answer) {
        self.reporter.update(|report| {
            report.server_uuid = Some(answer.facts.uuid.to_string());
            report.server_version = Some(answer.facts.version_text.clone());
        });
    }

    /// How capture goes on from this source, and the digest of what is to be compared.
    pub(super) async fn decide(&self, answer: &Answer) -> Result<(Start, Option<Blake3Digest>), CaptureError> {
        let Stage::Known(plant) = &self.stage else { return Err(CaptureError::Task("opening a timeline")) };
        let start = match answer.decide(plant.publisher.tip()) {
            Err(_) if failpoint::is_broken("broken.gap") => ignore_gap(plant.publisher.tip(), &answer.facts),
            start => start?,
        };
        let Some(piece) = start.compare.clone() else { return Ok((start, None)) };
        let folder = self.archive.store().describe();
        let digest = spawn_blocking(move || piece.digest()).await.map_err(|_| CaptureError::Task("hashing"))?;
        Ok((start, Some(digest.map_err(|source| CaptureError::Spool { path: folder.into(), source })?)))
    }

    /// Opens the history of a service: everything that the source still has is to come, the rest is before it.
    /// `false`: stopped before.
    async fn first_timeline(&mut self, facts: &ServerFacts, stop: &CancellationToken) -> Result<bool, CaptureError> {
        if matches!(self.stage, Stage::Known(_)) {
            return Ok(true);
        }
        let first = timeline(TimelineId(1), None, "first connection to the source", facts.gtid_purged.clone());
        if !self.publish_timeline(&first, stop).await? {
            return Ok(false);
        }
        tracing::info!(timeline = %first.id, starting_gtids = %first.starting_gtids, "timeline opened");
        let tip = Tip::new(&first);
        let publisher = Publisher::new(self.archive.clone(), self.index.clone(), (Standing::new(&first), tip));
        let Stage::New { spool, room } = &mut self.stage else { return Ok(true) };
        let (spool, room) = (spool.take().map(|spool| *spool), room.clone());
        let progress = Progress::default();
        self.stage = Stage::Known(Box::new(Plant { spool, room, publisher, progress }));
        Ok(true)
    }

    /// Ends the timeline, when all of it is published, and opens one for the history that the source has now. `false`:
    /// stopped before.
    async fn branch(
        &mut self,
        why: &Discontinuity,
        course: &Course,
        stop: &CancellationToken,
    ) -> Result<bool, CaptureError> {
        tracing::error!(error = %why, hint = why.hint(), "the source does not continue the archive: a new timeline begins");
        self.report(AgentState::Connecting, Some(why.to_string()));
        if !self.drain(stop).await? {
            return Ok(false);
        }
        let Stage::Known(plant) = &self.stage else { return Ok(true) };
        let Some(facts) = &course.facts else { return Ok(true) };
        let tip = plant.publisher.tip();
        let starting = why.starting_gtids(&tip.captured, facts);
        let next = timeline(TimelineId(tip.timeline.0 + 1), Some(tip.timeline), &why.to_string(), starting);
        failpoint::crash("timeline.new.before");
        if !self.publish_timeline(&next, stop).await? {
            return Ok(false);
        }
        failpoint::crash("timeline.new.after");
        tracing::info!(timeline = %next.id, starting_gtids = %next.starting_gtids, "timeline opened");
        if let Stage::Known(plant) = &mut self.stage {
            plant.publisher.begin(&next);
        }
        self.reporter.update(|report| report.breaks += 1);
        Ok(true)
    }

    /// Publishes one and the same timeline until the store has it: an attempt may have worked though its answer was lost.
    /// `false`: stopped before.
    async fn publish_timeline(&mut self, timeline: &Timeline, stop: &CancellationToken) -> Result<bool, CaptureError> {
        let mut backoff = Backoff::for_the_store();
        loop {
            let (archive, index, published) = (self.archive.clone(), self.index.clone(), timeline.clone());
            let publish = move || {
                archive.publish_timeline(&published)?;
                index.timeline(&published).map_err(CaptureError::from)
            };
            let error = match spawn_blocking(publish).await.map_err(|_| CaptureError::Task("publishing"))? {
                Ok(()) => return Ok(true),
                Err(error) if error.retry() == Retry::Never => return Err(error),
                Err(error) => error,
            };
            let pause = backoff.next();
            tracing::warn!(error = %chain(&error), pause_seconds = pause.as_secs_f32(), "timeline not published, trying again");
            self.report(AgentState::Blocked, Some(chain(&error)));
            if self.meanwhile(stop, sleep(pause)).await?.is_none() {
                return Ok(false);
            }
        }
    }

    /// Publishes everything that is in the spool. `false`: stopped before.
    pub(super) async fn drain(&mut self, stop: &CancellationToken) -> Result<bool, CaptureError> {
        while self.stage.is_busy() {
            tokio::select! {
                published = self.stage.advance() => published?,
                () = stop.cancelled() => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Waits until the spool's file system has room again. `false`: stopped before.
    async fn wait_for_room(&mut self, stop: &CancellationToken) -> Result<bool, CaptureError> {
        let Stage::Known(plant) = &mut self.stage else { return Ok(true) };
        let Some(spool) = &plant.spool else { return Ok(true) };
        let room = plant.room.clone();
        // What is published next needs room for its own record.
        spool.free_reserve();
        let waited = self.meanwhile(stop, room.wait()).await?.is_some();
        if let Stage::Known(plant) = &self.stage
            && let Some(spool) = &plant.spool
        {
            spool.keep_reserve();
        }
        Ok(waited)
    }

    /// Waits for something while segments go on to the store. `None`: stopped before.
    async fn meanwhile<T>(
        &mut self,
        stop: &CancellationToken,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, CaptureError> {
        meanwhile(&mut self.stage, stop, work).await
    }

    pub(super) fn report(&mut self, state: AgentState, error: Option<String>) {
        let plant = match &self.stage {
            Stage::Known(plant) => Some(plant),
            Stage::New { .. } => None,
        };
        self.reporter.update(|report| {
            report.state = state;
            // Without a connection nothing is acknowledged, whatever the last look said.
            report.lose_sight();
            if let Some(plant) = plant {
                plant.describe(report);
            }
            if error.is_some() {
                report.last_error = error;
            }
        });
    }

    fn address(&self, course: &Course) -> String {
        self.places.get(course.host).map(Place::to_string).unwrap_or_default()
    }
}

impl Stage {
    /// The end of the timeline, if there is one.
    pub(super) fn tip(&self) -> Option<&Tip> {
        match self {
            Self::Known(plant) => Some(plant.publisher.tip()),
            Self::New { .. } => None,
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Known(plant) if plant.publisher.is_busy())
    }

    /// Goes on publishing; waits forever when nothing is left.
    async fn advance(&mut self) -> Result<(), CaptureError> {
        let Self::Known(plant) = self else { return std::future::pending().await };
        if let Some(published) = plant.publisher.advance().await? {
            plant.published(published);
        }
        Ok(())
    }
}

async fn meanwhile<T>(
    stage: &mut Stage,
    stop: &CancellationToken,
    work: impl Future<Output = T>,
) -> Result<Option<T>, CaptureError> {
    tokio::pin!(work);
    loop {
        let busy = stage.is_busy();
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            done = &mut work => return Ok(Some(done)),
            published = stage.advance(), if busy => published?,
        }
    }
}

/// The bug that tests must notice: going on where something is missing.
fn ignore_gap(tip: &Tip, facts: &ServerFacts) -> Start {
    let have = tip.captured.union(&facts.gtid_purged);
    Start { request: Request::Gtids { have, from: None }, compare: None, may_skip: true }
}
