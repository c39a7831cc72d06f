//! Whether a source still has the history that was captured. Reused GTIDs cannot be told by sets, and a connection that
//! lives may be one of a history that was reset meanwhile: so the last bytes of ours are asked for again.

use std::sync::Arc;
use std::time::Duration;

use highwater_binlog::{BinlogPosition, FIRST_EVENT_OFFSET, GtidSet, SegmentPolicy, ServerUuid};
use highwater_catalog::{Inventory, TimelineId};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use super::acks::Acks;
use super::continuity::{Discontinuity, Request, Start};
use super::error::CaptureError;
use super::follower::Follower;
use super::place::{Known, Place};
use super::reader::{self, Incoming};
use super::standing::{BrokenTimeline, Standing};
use super::tip::{Piece, Tip};
use crate::config::{AckPolicy, CaptureFrom, Config};
use crate::server::ServerLogin;
use crate::source::{ReplicaIdentity, ServerError};

/// How long the source may take to send the last bytes again.
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// How often it lets us know that it is there.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The end of what was captured of a timeline, and where the source is that it came from.
#[derive(Debug, Clone)]
pub struct Witness {
    place: Place,
    server_id: u32,
    allow_positions: bool,
    tip: Tip,
}

impl Witness {
    pub(super) fn new(place: Place, server_id: u32, allow_positions: bool, tip: Tip) -> Self {
        Self { place, server_id, allow_positions, tip }
    }

    /// Goes on to what was captured since; false when that is nothing.
    pub(super) fn learn(&mut self, tip: &Tip) -> bool {
        let is_same = |(old, new): (&Piece, &Piece)| {
            (old.server, &old.binlog, old.end) == (new.server, &new.binlog, new.end)
                && old.is_published() == new.is_published()
        };
        let same = self.tip.timeline == tip.timeline && self.tip.tail.len() == tip.tail.len();
        if same && self.tip.tail.iter().zip(&tip.tail).all(is_same) {
            return false;
        }
        self.tip = tip.clone();
        true
    }

    /// Of an archive's newest timeline, against the source of a configuration; `None` when it has none yet.
    ///
    /// # Errors
    /// When the timeline's segments do not follow each other.
    pub fn of_archive(
        config: &Config,
        login: &ServerLogin,
        inventory: &Inventory,
    ) -> Result<Option<Self>, BrokenTimeline> {
        let Some((_, tip)) = Standing::of(inventory)? else { return Ok(None) };
        let files = match config.capture.source {
            CaptureFrom::Files => config.source_files().ok().flatten(),
            CaptureFrom::Replication => None,
        };
        let place = match files {
            Some(files) => Place::Files(Arc::new(files)),
            None => Place::Server(Arc::new(login.clone())),
        };
        Ok(Some(Self::new(place, config.server_id(), config.capture.allow_positions, tip)))
    }

    /// The timeline.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.tip.timeline
    }

    /// Every transaction captured.
    #[must_use]
    pub fn captured(&self) -> &GtidSet {
        &self.tip.captured
    }

    /// Servers that the binlogs came from.
    pub fn servers(&self) -> impl Iterator<Item = ServerUuid> {
        self.tip.servers.iter().copied()
    }

    /// Whether what a server wrote up to a position was captured.
    #[must_use]
    pub fn has_reached(&self, server: ServerUuid, position: &BinlogPosition) -> bool {
        self.tip.end_of(server, &position.binlog) >= position.offset
    }

    /// Proves that the source has now what was captured, as it was captured.
    ///
    /// # Errors
    /// When it has not, or cannot be asked.
    pub async fn confirm(&self) -> Result<(), CaptureError> {
        let silent = || ServerError::Silent { address: self.place.to_string(), seconds: ANSWER_MAX.as_secs() };
        timeout(ANSWER_MAX, self.ask()).await.map_err(|_| silent())?
    }

    async fn ask(&self) -> Result<(), CaptureError> {
        let answer = self.place.ask(Known::of(Some(&self.tip)), self.allow_positions).await?;
        let decided = answer.decide(&self.tip)?;
        let start = match (&self.place, self.tip.tail.last()) {
            (Place::Files(_), _) => decided,
            (Place::Server(_), Some(piece)) if piece.server == answer.facts.uuid => again(piece),
            (Place::Server(_), _) => decided,
        };
        // Nothing was captured that could be compared: the sets are all there is to know.
        let Some(piece) = start.compare.clone() else { return Ok(()) };
        let (place, hashed) = (self.place.to_string(), piece.clone());
        let digest = spawn_blocking(move || hashed.digest()).await.map_err(|_| CaptureError::Task("hashing"))?;
        let digest = digest.map_err(|source| CaptureError::Spool { path: place.into(), source })?;
        // Another UUID than capture's, whose connection stays.
        let uuid = ServerUuid::from_bytes(rand::random());
        let identity = ReplicaIdentity { server_id: self.server_id, uuid, heartbeat: HEARTBEAT };
        let (stream, _): (_, Acks) = self.place.open(&identity, &answer, &start, AckPolicy::Off).await?;
        let policy = SegmentPolicy { bytes_max: u64::MAX, age_micros_max: u64::MAX };
        let mut follower = Follower::new(answer.facts.uuid, policy, &self.tip, &start, Some(digest));
        let mut tasks = JoinSet::new();
        let mut from = reader::start(stream, &mut tasks);
        while let Some(incoming) = from.recv().await {
            let batch = match incoming {
                Incoming::Batch(batch) => batch,
                Incoming::End(end) => {
                    end?;
                    break;
                }
            };
            for event in &batch.events {
                let mut effects = Vec::new();
                follower.take(&batch.bytes, event, 0, &mut effects)?;
                let at = follower.position();
                if at.is_some_and(|(binlog, offset)| *binlog != piece.binlog || offset >= piece.end) {
                    return Ok(follower.caught_up()?);
                }
            }
        }
        Err(Discontinuity::Differs { binlog: piece.binlog, start: piece.start, end: piece.end }.into())
    }
}

/// Asks for a piece of a server's binlog again.
fn again(piece: &Piece) -> Start {
    // The command's position has 32 bits: behind 4 GiB the whole binlog is sent again.
    let offset =
        if u32::try_from(piece.start).is_ok() { piece.start.max(FIRST_EVENT_OFFSET) } else { FIRST_EVENT_OFFSET };
    let request = Request::Position(BinlogPosition { binlog: piece.binlog.clone(), offset });
    Start { request, compare: Some(piece.clone()), may_skip: false }
}
