//! Publishes segments one after the other, each following the one before it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use highwater_catalog::{Micros, Segment};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::error::CaptureError;
use super::follower::Cut;
use super::index::Index;
use super::spool::Stretch;
use super::standing::Standing;
use crate::archive::{Archive, ArchiveError, SegmentDraft};
use crate::source::Retry;

/// Segments that may wait for the store. With more, the stream is not read on: the source keeps its binlogs.
const WAITING_MAX: usize = 8;

/// A segment that is cut and not published yet.
#[derive(Debug)]
pub(super) struct Job {
    /// What it is.
    pub(super) cut: Cut,
    /// Where its bytes are.
    pub(super) stretch: Arc<Stretch>,
}

/// The end of the archive, and what is on its way there.
#[derive(Debug)]
pub(super) struct Publisher {
    archive: Archive,
    standing: Standing,
    waiting: VecDeque<Job>,
    index: Index,
    running: JoinSet<(Job, Result<Segment, CaptureError>)>,
    backoff: Backoff,
    retry_at: Option<Instant>,
}

impl Publisher {
    /// Goes on where the archive ends.
    #[must_use]
    pub(super) fn new(archive: Archive, index: Index, standing: Standing) -> Self {
        Self {
            archive,
            standing,
            waiting: VecDeque::new(),
            index,
            running: JoinSet::new(),
            backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(60)),
            retry_at: None,
        }
    }

    /// Where the archive ends.
    #[must_use]
    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Adds a segment; it must follow the one added before it.
    pub(super) fn push(&mut self, job: Job) {
        self.waiting.push_back(job);
    }

    /// Whether something is left to publish.
    #[must_use]
    pub(super) fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || !self.running.is_empty()
    }

    /// Whether more may be cut.
    #[must_use]
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// Whether the store refused the last attempt.
    #[must_use]
    pub(super) fn is_blocked(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Goes on publishing; returns a segment that is in the store now, or `None` after an attempt that will be repeated.
    /// Cancel safe. Waits forever when nothing is left.
    ///
    /// # Errors
    /// Those that a repetition cannot help.
    pub(super) async fn advance(&mut self) -> Result<Option<Segment>, CaptureError> {
        if self.running.is_empty() {
            if let Some(at) = self.retry_at {
                sleep_until(at).await;
            }
            match self.waiting.pop_front() {
                Some(job) => self.start(job),
                None => return std::future::pending().await,
            }
        }
        let (job, result) = match self.running.join_next().await {
            Some(Ok(done)) => done,
            Some(Err(_)) | None => return Err(CaptureError::Task("publishing")),
        };
        match result {
            Ok(segment) => {
                self.standing.advance(&segment)?;
                self.backoff.reset();
                self.retry_at = None;
                Ok(Some(segment))
            }
            Err(error) => {
                if error.retry() == Retry::Never {
                    return Err(error);
                }
                let pause = self.backoff.next();
                tracing::warn!(error = %chain(&error), pause_seconds = pause.as_secs_f32(), "segment not published, trying again");
                self.retry_at = Some(Instant::now() + pause);
                self.waiting.push_front(job);
                Ok(None)
            }
        }
    }

    fn start(&mut self, job: Job) {
        let Cut { server, binlog, facts } = job.cut.clone();
        let draft = SegmentDraft {
            timeline: self.standing.timeline,
            sequence: self.standing.next_sequence,
            server,
            binlog,
            start: facts.start,
            end: facts.end,
            gtids_before: self.standing.captured.clone(),
            gtids_added: facts.gtids_added,
            first_commit: facts.first_commit_micros.map(Micros),
            last_commit: facts.last_commit_micros.map(Micros),
            events: facts.events,
            transactions: facts.transactions,
            previous_sha256: self.standing.previous_sha256,
        };
        let archive = self.archive.clone();
        let index = self.index.clone();
        self.running.spawn_blocking(move || {
            let result = job
                .stretch
                .read(draft.start, draft.end)
                .map_err(|source| ArchiveError::Read { object: format!("spool of {}", draft.binlog), source })
                .and_then(|mut plain| archive.publish_segment(draft, &mut plain))
                .map_err(CaptureError::from)
                // Once more after a failure here, the archive answers with the segment that is there.
                .and_then(|segment| index.segment(&segment).map(|()| segment).map_err(CaptureError::from));
            (job, result)
        });
    }
}

/// An error with its causes, for a log line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
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
