//! Taking what the archive lacks from a server's disk, once: everything is proven first, then it goes the way of capture.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use highwater_binlog::{BinlogName, GtidSet, ServerUuid};
use highwater_catalog::TimelineId;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::continuity::{Discontinuity, Start};
use super::error::CaptureError;
use super::follower::{Cut, Effect, Follower, StreamError};
use super::hold::Hold;
use super::ownership::Ownership;
use super::pipeline::{Ended, Pipeline};
use super::place::{Answer, Known, Place, ask_files};
use super::reader::{Batch, Stream};
use super::report::AgentState;
use super::tip::Tip;
use super::{Capture, Stage, reader};
use crate::config::AckPolicy;
use crate::source::{FileStep, FileStream, FilesError, ServerFiles};

/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);

/// How often a disk is looked at whose server changes it meanwhile.
const ATTEMPTS: u32 = 5;

/// How long what was taken may take to the store after the signal to stop; the spool keeps the rest.
const STOP_MAX: Duration = Duration::from_secs(10);

/// What a server's disk has and the archive lacks.
#[derive(Debug, Clone)]
pub struct SalvagePlan {
    /// The server, as its `auto.cnf` says.
    pub server: ServerUuid,
    /// Its version.
    pub version: String,
    /// The timeline that is continued.
    pub timeline: TimelineId,
    /// Bytes that an agent left in the spool: they are published first.
    pub spooled_bytes: u64,
    /// What is taken of each binlog, oldest first.
    pub binlogs: Vec<SalvagedBinlog>,
    /// The transactions in it that have GTIDs.
    pub gtids: GtidSet,
    /// How the disk's binlogs end.
    pub end: SalvageEnd,
    /// Bytes on the disk that are read for it.
    pub bytes_on_disk: u64,
}

/// What is taken of one binlog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SalvagedBinlog {
    /// Its name.
    pub name: BinlogName,
    /// Offset of the first byte.
    pub start: u64,
    /// Offset after the last byte.
    pub end: u64,
    /// Transactions in it.
    pub transactions: u64,
}

/// How a disk's binlogs end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SalvageEnd {
    /// With a whole transaction.
    Whole,
    /// Inside of a transaction or an event, which the server never committed.
    Torn {
        /// The newest binlog.
        binlog: BinlogName,
        /// Where its last whole transaction ends.
        whole: u64,
        /// How many bytes follow.
        rest: u64,
    },
    /// In front of transactions that the disk does not have, or that have no GTID.
    Gap {
        /// The binlog in which they were to be, or which follows them.
        binlog: BinlogName,
        /// What is wrong.
        what: String,
        /// The transactions, as far as what follows says which.
        missing: GtidSet,
    },
    /// With bytes that are no events, behind the last whole transaction.
    Damaged {
        /// The binlog.
        binlog: BinlogName,
        /// What is wrong.
        what: String,
        /// Whether other binlogs follow it, which cannot be taken.
        inside: bool,
    },
}

impl SalvagePlan {
    /// Whether the archive and its spool have everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.binlogs.is_empty() && self.spooled_bytes == 0
    }

    /// Bytes of binlogs to be taken.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.binlogs.iter().map(|binlog| binlog.end - binlog.start).sum()
    }

    /// Transactions to be taken.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.binlogs.iter().map(|binlog| binlog.transactions).sum()
    }

    /// The first binlog of which the archive lacks something that was to be taken.
    fn lacking(&self, tip: &Tip) -> Option<&BinlogName> {
        let short = self.binlogs.iter().find(|binlog| tip.end_of(self.server, &binlog.name) < binlog.end);
        // Ends are counted by name, and a server that was reset uses names again.
        let short = short.or_else(|| self.binlogs.last().filter(|_| !self.gtids.is_subset(&tip.captured)));
        short.map(|binlog| &binlog.name)
    }

    fn add(&mut self, cut: &Cut) {
        let facts = &cut.facts;
        self.gtids = self.gtids.union(&facts.gtids_added);
        match self.binlogs.last_mut().filter(|binlog| binlog.name == cut.binlog && binlog.end == facts.start) {
            Some(binlog) => {
                binlog.end = facts.end;
                binlog.transactions += facts.transactions;
            }
            None => self.binlogs.push(SalvagedBinlog {
                name: cut.binlog.clone(),
                start: facts.start,
                end: facts.end,
                transactions: facts.transactions,
            }),
        }
    }
}

impl Capture {
    /// Reads the disk and proves what the archive lacks of it; changes nothing. `tell` hears how many bytes were read.
    /// `None`: stopped. Blocking.
    ///
    /// # Errors
    /// When the disk does not continue the archive, or what is needed of it cannot be opened.
    pub fn survey(
        &self,
        stop: &CancellationToken,
        tell: &dyn Fn(u64, u64),
    ) -> Result<Option<SalvagePlan>, CaptureError> {
        let mut attempt = 1;
        loop {
            match self.survey_once(stop, tell) {
                // A server that runs has purged or closed one in between.
                Err(CaptureError::Files(FilesError::Changed { .. })) if attempt < ATTEMPTS => attempt += 1,
                surveyed => return surveyed,
            }
        }
    }

    fn survey_once(
        &self,
        stop: &CancellationToken,
        tell: &dyn Fn(u64, u64),
    ) -> Result<Option<SalvagePlan>, CaptureError> {
        let Stage::Known(plant) = &self.stage else { return Err(CaptureError::NoTimeline) };
        let tip = plant.publisher.tip();
        let files = self.files()?;
        let (answer, start) = self.compare(&files, tip)?;
        let expected = start.compare.as_ref().map(super::Piece::digest).transpose();
        let failed = |source| CaptureError::Spool { path: self.archive.store().describe().into(), source };
        let mut follower = Follower::new(files.server(), self.policy, tip, &start, expected.map_err(failed)?);
        let mut stream = answer.read(&files, &start)?;
        let bytes_on_disk = stream.binlog().map_or(Ok(0), |first| files.bytes_from(first))?;
        let mut plan = SalvagePlan {
            server: files.server(),
            version: answer.facts.version_text.clone(),
            timeline: tip.timeline,
            spooled_bytes: plant.progress.pending(),
            binlogs: Vec::new(),
            gtids: GtidSet::new(),
            end: SalvageEnd::Whole,
            bytes_on_disk,
        };
        let mut effects = Vec::new();
        let outcome = loop {
            if stop.is_cancelled() {
                return Ok(None);
            }
            match take(&mut stream, &mut follower, &mut effects) {
                Ok(FileStep::More) => {}
                Ok(FileStep::Idle) => break follower.caught_up().map_err(CaptureError::from),
                Err(error) => break Err(error),
            }
            plan.take(&mut effects);
            tell(stream.bytes_read().load(Ordering::Relaxed), bytes_on_disk);
        };
        follower.cut(&mut effects);
        plan.take(&mut effects);
        plan.end = match outcome {
            Ok(()) => end_of(&stream),
            Err(error) => judge(error, &stream, &files, follower.captured())?,
        };
        Ok(Some(plan))
    }

    /// Takes what the disk has, at least all of `plan`, until its end or until `stop` is cancelled. `false`: stopped before;
    /// what was taken is in the archive, or in the spool for the next run.
    ///
    /// # Errors
    /// When the disk does not continue the archive or no longer gives what was planned, or the archive cannot be written.
    pub async fn salvage(
        mut self,
        plan: &SalvagePlan,
        stop: &CancellationToken,
        tell: &dyn Fn(u64),
    ) -> Result<bool, CaptureError> {
        let ownership = Ownership::take(self.archive.clone()).await?;
        let outcome = tokio::select! {
            outcome = self.take_all(plan, stop, tell) => outcome,
            error = ownership.lost() => Err(error),
        };
        match outcome {
            Ok(finished) => {
                self.report(AgentState::Stopped, None);
                Ok(finished)
            }
            Err(error) => {
                let error = ownership.explain(error).await;
                self.report(AgentState::Failed, Some(super::publisher::chain(&error)));
                Err(error)
            }
        }
    }

    async fn take_all(
        &mut self,
        plan: &SalvagePlan,
        stop: &CancellationToken,
        tell: &dyn Fn(u64),
    ) -> Result<bool, CaptureError> {
        let mut attempt = 1;
        loop {
            match self.take_once(plan, stop, tell).await {
                Err(CaptureError::Files(FilesError::Changed { .. })) if attempt < ATTEMPTS => attempt += 1,
                taken => return taken,
            }
        }
    }

    async fn take_once(
        &mut self,
        plan: &SalvagePlan,
        stop: &CancellationToken,
        tell: &dyn Fn(u64),
    ) -> Result<bool, CaptureError> {
        // What an agent left comes first.
        if !self.drain(stop).await? {
            return Ok(false);
        }
        let files = self.files()?;
        let place = Place::Files(Arc::clone(&files));
        let answer = place.ask(Known::of(self.stage.tip()), self.allow_positions).await?;
        self.introduce(&answer);
        let (start, expected) = self.decide(&answer).await?;
        let stream = answer.read(&files, &start)?;
        let read = stream.bytes_read();
        let Stage::Known(plant) = &mut self.stage else { return Err(CaptureError::NoTimeline) };
        let follower = Follower::new(files.server(), self.policy, plant.publisher.tip(), &start, expected);
        let mut tasks = JoinSet::new();
        let mut from = reader::start(Stream::Files { stream: Box::new(stream), follow: false }, &mut tasks);
        let (_, looks) = tokio::sync::watch::channel(None);
        let acks = Acks::new(AckPolicy::Off, None);
        let hold = Hold::default();
        let mut pipeline = Pipeline::new(follower, plant, &mut self.reporter, acks, looks, &self.followed, hold);
        let telling = async {
            loop {
                tell(read.load(Ordering::Relaxed));
                sleep(TELL).await;
            }
        };
        let ended = tokio::select! {
            ended = pipeline.run(&mut from, stop) => ended,
            () = telling => return Err(CaptureError::Task("telling progress")),
        };
        if matches!(ended, Ok(Ended::Stopped)) {
            let drained = timeout(STOP_MAX, self.drain(&CancellationToken::new())).await;
            drained.unwrap_or(Ok(false))?;
            return Ok(false);
        }
        let end = match ended {
            Ok(Ended::Source(end)) => end,
            Ok(Ended::Stopped) => Ok(()),
            Err(error @ (CaptureError::Stream(_) | CaptureError::Discontinuity(Discontinuity::Incident { .. }))) => {
                Err(error)
            }
            Err(error) => return Err(error),
        };
        if !self.drain(stop).await? {
            return Ok(false);
        }
        // The survey has said how the files end: an error is no news once all that comes before it is taken.
        match self.stage.tip().and_then(|tip| plan.lacking(tip)) {
            None => Ok(true),
            Some(binlog) => Err(end.err().unwrap_or(FilesError::Changed { binlog: binlog.clone() }.into())),
        }
    }

    fn files(&self) -> Result<Arc<ServerFiles>, CaptureError> {
        match self.places.first() {
            Some(Place::Files(files)) => Ok(Arc::clone(files)),
            Some(Place::Server(_)) | None => Err(CaptureError::Task("looking for the files")),
        }
    }

    fn compare(&self, files: &ServerFiles, tip: &Tip) -> Result<(Answer, Start), CaptureError> {
        let answer = ask_files(files, &Known::of(Some(tip)), self.allow_positions)?;
        let start = answer.decide(tip)?;
        Ok((answer, start))
    }
}

impl SalvagePlan {
    /// Takes what was cut into account, and forgets the effects.
    fn take(&mut self, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            if let Effect::Cut(cut) = effect {
                self.add(&cut);
            }
        }
    }
}

/// Follows one piece of the files.
fn take(stream: &mut FileStream, follower: &mut Follower, effects: &mut Vec<Effect>) -> Result<FileStep, CaptureError> {
    let mut batch = Batch::default();
    let step = stream.advance(&mut |item| batch.take(item));
    // What came before a failure counts.
    for received in &batch.events {
        follower.take(&batch.bytes, received, 0, effects)?;
    }
    Ok(step?)
}

/// How files end that could be read to their end.
fn end_of(stream: &FileStream) -> SalvageEnd {
    let (whole, rest) = stream.rest();
    match (rest, stream.binlog()) {
        (1.., Some(binlog)) if stream.is_in_closed() => SalvageEnd::Damaged {
            binlog: binlog.clone(),
            what: format!("its server closed it, and it was cut {rest} bytes after its last whole transaction"),
            inside: false,
        },
        (1.., Some(binlog)) => SalvageEnd::Torn { binlog: binlog.clone(), whole, rest },
        (_, _) => SalvageEnd::Whole,
    }
}

/// How files end that could not: an end, as long as what comes before it can be taken.
fn judge(
    error: CaptureError,
    stream: &FileStream,
    files: &ServerFiles,
    captured: &GtidSet,
) -> Result<SalvageEnd, CaptureError> {
    let missing = match &error {
        CaptureError::Files(FilesError::Absent { binlog }) => {
            Some(files.executed_after(binlog)?.unwrap_or_default().subtract(captured))
        }
        CaptureError::Stream(StreamError::MissedTransactions { missing, .. }) => Some(missing.clone()),
        CaptureError::Stream(StreamError::Anonymous { .. }) => Some(GtidSet::new()),
        CaptureError::Discontinuity(Discontinuity::Incident { gtid, .. }) => {
            let mut missing = GtidSet::new();
            gtid.iter().for_each(|gtid| missing.insert(gtid));
            Some(missing)
        }
        _ => None,
    };
    if let (Some(missing), Some(binlog)) = (missing, stream.binlog()) {
        let what = super::publisher::chain(&error);
        return Ok(SalvageEnd::Gap { binlog: binlog.clone(), what, missing });
    }
    let is_end = match &error {
        CaptureError::Files(FilesError::Damaged { .. } | FilesError::Disordered { .. } | FilesError::Torn { .. })
        | CaptureError::Stream(_) => true,
        // The server was killed while it made its newest binlog.
        CaptureError::Files(FilesError::Open(failure)) => {
            failure.exit == binlog_decrypt::Exit::Damaged && stream.is_in_newest()?
        }
        _ => false,
    };
    let Some(binlog) = stream.binlog().filter(|_| is_end) else { return Err(error) };
    let what = super::publisher::chain(&error);
    Ok(SalvageEnd::Damaged { binlog: binlog.clone(), what, inside: !stream.is_in_newest()? })
}
