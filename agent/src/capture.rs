//! From a source's binlog into the archive.

mod backoff;
mod continuity;
mod error;
mod follower;
mod index;
mod keys;
mod pipeline;
mod progress;
mod publisher;
mod reader;
mod report;
mod spool;
mod standing;

pub use continuity::{Discontinuity, Start, check_settings, decide, warnings};
pub use error::CaptureError;
pub use follower::{Cut, Effect, Follower, StreamError};
pub use index::Index;
pub use keys::{KeyBackupError, back_up as back_up_keys, watch as watch_keys};
pub use progress::Progress;
pub use report::{AgentReport, AgentState};
pub use standing::{BrokenTimeline, Standing};

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use highwater_binlog::{SegmentPolicy, ServerUuid};
use highwater_catalog::{Inventory, Micros, Sha256Digest, Timeline, TimelineId};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use self::backoff::Backoff;
use self::pipeline::{Ended, Pipeline};
use self::publisher::{Publisher, chain};
use self::report::{Reporter, now_micros};
use self::spool::Spool;
use crate::archive::Archive;
use crate::config::{CaptureConfig, Config};
use crate::fsync;
use crate::server::ServerLogin;
use crate::source::{ReplicaIdentity, ReplicationClient, Retry, ServerError, ServerFacts, Session};

/// Times in a row that damaged bytes are asked for again.
const DAMAGED_TRIES_MAX: u32 = 3;

/// What others in the agent need to know about capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The timeline that segments go to.
    pub timeline: TimelineId,
    /// The source's `server_uuid`.
    pub server: ServerUuid,
}

/// Capture of one source into one archive.
#[derive(Debug)]
pub struct Capture {
    archive: Archive,
    index: Index,
    login: ServerLogin,
    identity: ReplicaIdentity,
    policy: SegmentPolicy,
    standing: Option<Standing>,
    spool: Option<Spool>,
    reporter: Reporter,
    running: watch::Sender<Option<Running>>,
    /// Held as long as this lives: one agent per folder.
    _lock: File,
}

impl Capture {
    /// Takes the state folder and finds out what the archive has. Blocking.
    ///
    /// # Errors
    /// When another agent is there, or the archive cannot be read or has a hole.
    pub fn open(config: &Config, login: ServerLogin, archive: Archive) -> Result<(Self, Inventory), CaptureError> {
        let state_dir = &config.state_dir;
        let failed = |action| move |source| CaptureError::StateDir { action, path: state_dir.clone(), source };
        fsync::create_directories(state_dir).map_err(failed("create the folder"))?;
        let lock = lock(&state_dir.join("lock"))?;
        let (index, inventory) = Index::open(&config.catalog_file(), &archive)?;
        let standing = Standing::of(&inventory)?;
        let spool = Spool::create(&state_dir.join("spool")).map_err(failed("create the spool"))?;
        let CaptureConfig { segment_age_seconds, segment_bytes_max, heartbeat_seconds } = config.capture;
        let identity = ReplicaIdentity {
            server_id: config.source.server_id,
            uuid: replica_uuid(&archive, config.source.server_id),
            heartbeat: Duration::from_secs(heartbeat_seconds),
        };
        let policy = SegmentPolicy {
            bytes_max: segment_bytes_max,
            age_micros_max: segment_age_seconds.saturating_mul(1_000_000),
        };
        let reporter = Reporter::new(state_dir, login.address.to_string());
        let running = watch::Sender::new(None);
        let spool = Some(spool);
        Ok((
            Self { archive, index, login, identity, policy, standing, spool, reporter, running, _lock: lock },
            inventory,
        ))
    }

    /// How the source is logged in to.
    #[must_use]
    pub fn login(&self) -> &ServerLogin {
        &self.login
    }

    /// The catalog, for others in the agent that publish.
    #[must_use]
    pub fn index(&self) -> Index {
        self.index.clone()
    }

    /// Tells when the source and the timeline are known.
    #[must_use]
    pub fn running(&self) -> watch::Receiver<Option<Running>> {
        self.running.subscribe()
    }

    /// Captures until `stop` is cancelled; then everything received in whole transactions is published.
    ///
    /// # Errors
    /// What a new attempt cannot help: before the first connection everything, later only what somebody must change.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), CaptureError> {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut damaged = 0;
        loop {
            let error = match self.connection(&stop).await {
                Ok((Ended::Stopped, _)) => {
                    self.reporter.update(|report| report.state = AgentState::Stopped);
                    return Ok(());
                }
                Ok((Ended::Source(end), moved)) => {
                    if moved {
                        backoff.reset();
                        damaged = 0;
                    }
                    let address = self.login.address.to_string();
                    let closed = || std::io::Error::from(std::io::ErrorKind::ConnectionAborted);
                    CaptureError::from(end.err().unwrap_or_else(|| ServerError::Lost { address, source: closed() }))
                }
                Err(error) => error,
            };
            damaged += u32::from(matches!(error, CaptureError::Stream(_)));
            let known = self.running.borrow().is_some();
            if !known || error.retry() == Retry::Never || damaged >= DAMAGED_TRIES_MAX {
                self.reporter.update(|report| {
                    report.state = AgentState::Failed;
                    report.last_error = Some(chain(&error));
                });
                return Err(error);
            }
            let pause = backoff.next();
            tracing::warn!(error = %chain(&error), pause_seconds = pause.as_secs_f32(), "source lost, connecting again");
            self.reporter.update(|report| {
                report.state = AgentState::Connecting;
                report.last_error = Some(chain(&error));
            });
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => {
                    self.reporter.update(|report| report.state = AgentState::Stopped);
                    return Ok(());
                }
            }
        }
    }

    /// One connection from its decision to its end. Also says whether anything was received.
    async fn connection(&mut self, stop: &CancellationToken) -> Result<(Ended, bool), CaptureError> {
        let facts = tokio::select! {
            facts = self.ask() => facts?,
            () = stop.cancelled() => return Ok((Ended::Stopped, false)),
        };
        let standing = match self.standing.take() {
            Some(standing) => standing,
            None => self.first_timeline(&facts).await?,
        };
        // Kept, whatever happens from here on.
        self.standing = Some(standing.clone());
        let start = decide(&standing, &facts)?;
        let stream = tokio::select! {
            stream = self.stream(&facts, &start) => stream?,
            () = stop.cancelled() => return Ok((Ended::Stopped, false)),
        };
        tracing::info!(source = %self.login.address, server = %facts.uuid, version = %facts.version_text,
            timeline = %standing.timeline, segments = standing.next_sequence, "connected");
        self.running.send_replace(Some(Running { timeline: standing.timeline, server: facts.uuid }));
        let ends = standing.ends_of(facts.uuid);
        let follower = Follower::new(facts.uuid, self.policy, standing.captured.clone(), ends, &start);
        let mut publisher = Publisher::new(self.archive.clone(), self.index.clone(), standing);
        let (to, mut from) = reader::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(reader::read(stream, to));
        let mut pipeline = Pipeline::new(follower, &mut self.spool, &mut publisher, &mut self.reporter);
        let ended = pipeline.run(&mut from, stop).await;
        let moved = pipeline.progress().received() > 0;
        self.standing = Some(publisher.standing().clone());
        if let Some(spool) = &mut self.spool {
            spool.discard();
        }
        ended.map(|ended| (ended, moved))
    }

    /// What the source says about itself, if it is fit.
    async fn ask(&mut self) -> Result<ServerFacts, CaptureError> {
        let session = Session::connect(&self.login).await?;
        let facts = session.facts().clone();
        session.close().await;
        check_settings(&facts)?;
        for warning in warnings(&facts) {
            tracing::warn!(source = %self.login.address, "{warning}");
        }
        self.reporter.update(|report| {
            report.server_uuid = Some(facts.uuid.to_string());
            report.server_version = Some(facts.version_text.clone());
        });
        Ok(facts)
    }

    async fn stream(&self, facts: &ServerFacts, start: &Start) -> Result<crate::source::BinlogStream, CaptureError> {
        let mut client = ReplicationClient::connect(&self.login).await?;
        let server = client.server_uuid().await?;
        if server != facts.uuid {
            // One name, several servers: the decision was made about another one.
            let source = std::io::Error::other(format!("answered by server {} and then by {server}", facts.uuid));
            return Err(ServerError::Lost { address: self.login.address.to_string(), source }.into());
        }
        let from = start.compare.as_ref().map(|segment| &segment.binlog);
        Ok(client.dump_gtid(&self.identity, &start.have, from).await?)
    }

    /// Opens the history of a service: everything that the source still has is to come, the rest is before it.
    async fn first_timeline(&self, facts: &ServerFacts) -> Result<Standing, CaptureError> {
        let timeline = Timeline {
            id: TimelineId(1),
            parent: None,
            reason: "first connection to the source".to_owned(),
            starting_gtids: facts.gtid_purged.clone(),
            created: Micros(now_micros()),
        };
        let (archive, index, published) = (self.archive.clone(), self.index.clone(), timeline.clone());
        let publish = move || {
            archive.publish_timeline(&published)?;
            index.timeline(&published).map_err(CaptureError::from)
        };
        spawn_blocking(publish).await.map_err(|_| CaptureError::Task("publishing"))??;
        tracing::info!(timeline = %timeline.id, starting_gtids = %timeline.starting_gtids, "timeline opened");
        Ok(Standing::new(&timeline))
    }
}

fn lock(path: &Path) -> Result<File, CaptureError> {
    let failed = |source| CaptureError::StateDir { action: "lock the folder", path: path.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CaptureError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// The UUID that we register with: the same for every run of this agent, so that a source drops the connection of one that
/// died, and another one for every archive and `server_id`.
fn replica_uuid(archive: &Archive, server_id: u32) -> ServerUuid {
    let mut hasher = Sha256::new();
    hasher.update(b"highwater replica ");
    hasher.update(archive.repository().id.to_string().as_bytes());
    hasher.update(server_id.to_le_bytes());
    let Sha256Digest(digest) = Sha256Digest(hasher.finalize().into());
    let mut uuid = [0u8; 16];
    uuid.copy_from_slice(&digest[..16]);
    ServerUuid::from_bytes(uuid)
}
