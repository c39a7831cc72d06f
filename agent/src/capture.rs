//! From a source's binlog into the archive.

mod acks;
mod backoff;
mod continuity;
mod course;
mod error;
mod follower;
mod hold;
mod index;
mod keys;
mod lineage;
mod metrics;
mod ownership;
mod pipeline;
mod place;
mod progress;
mod publisher;
mod reader;
mod recovery;
mod report;
mod room;
mod run;
mod salvage;
mod spool;
mod standing;
mod tip;
mod watched;
mod witness;
mod writer;

pub(crate) use backoff::Backoff;
pub use continuity::{Discontinuity, Request, Start, check_settings, decide, decide_by_position, warnings};
pub use error::CaptureError;
pub use follower::{Cut, Effect, Follower, StreamError};
pub use index::{Index, OpenedIndex};
pub use keys::{KeyBackupError, KeyBackups, KeyOrigin};
pub use progress::Progress;
pub(crate) use publisher::chain;
pub use report::{AgentReport, AgentState};
pub use salvage::{SalvageEnd, SalvagePlan, SalvagedBinlog};
pub use standing::{BrokenTimeline, Standing};
pub use tip::{Piece, PieceBytes, Tip};
pub use watched::{SettingChange, WatchedSource};
pub use witness::Witness;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use highwater_binlog::{SegmentPolicy, ServerUuid};
use highwater_catalog::{Inventory, Micros, Timeline, TimelineId};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};

use self::pipeline::Plant;
use self::place::Place;
use self::publisher::Publisher;
use self::report::{Reporter, now_micros};
use self::room::Room;
use self::spool::{Spool, SpoolKey};
use crate::archive::Archive;
use crate::config::{AckPolicy, CaptureConfig, Config, SourceConfig};
use crate::fsync;
use crate::server::ServerLogin;
use crate::source::{ReplicaIdentity, ServerFiles};

/// What others in the agent need to know about capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The timeline that segments go to.
    pub timeline: TimelineId,
    /// The source's `server_uuid`.
    pub server: ServerUuid,
    /// Which of the logins leads to it; without any, 0.
    pub host: usize,
}

/// Where capture is in the history of the source.
#[derive(Debug, Clone)]
pub struct Followed {
    /// Tells connections apart: without a break between, it is the same.
    pub connection: u64,
    /// The source's `server_uuid`.
    pub server: ServerUuid,
    /// Which of the logins leads to the source; without any, 0.
    pub host: usize,
    /// What was captured up to now.
    pub witness: Witness,
    /// Asks for what is in no segment yet to be cut into one now.
    pub cut_wanted: Arc<Notify>,
}

/// What is captured.
#[derive(Debug)]
pub enum CaptureSource {
    /// The binlog that servers send: the source, and then those that may take its place.
    Servers(Vec<ServerLogin>),
    /// The binlogs on a server's disk.
    Files {
        /// The disk.
        files: Arc<ServerFiles>,
        /// The server, which is looked at from time to time if it can be asked.
        login: Option<Arc<ServerLogin>>,
    },
}

/// Capture of one source into one archive.
#[derive(Debug)]
pub struct Capture {
    archive: Archive,
    index: Index,
    /// The source, and then those that may take its place.
    places: Vec<Place>,
    /// Where their passwords are.
    logins: Option<SourceConfig>,
    /// The server whose disk is read.
    watched: Option<Arc<ServerLogin>>,
    identity: ReplicaIdentity,
    policy: SegmentPolicy,
    ack: AckPolicy,
    allow_positions: bool,
    replica_lag_max: Duration,
    stage: Stage,
    reporter: Reporter,
    running: watch::Sender<Option<Running>>,
    followed: watch::Sender<Option<Followed>>,
    /// Held as long as this lives: one agent per folder.
    _lock: File,
}

/// Whether the archive has a history that can be gone on with.
#[derive(Debug)]
enum Stage {
    /// No timeline yet.
    New { spool: Option<Box<Spool>>, room: Room },
    /// A timeline, what belongs to it in the spool, and the way to the store.
    Known(Box<Plant>),
}

impl Capture {
    /// Takes the state folder, finds out what the archive has, and reads back what the spool has beyond it. Blocking.
    /// The inventory is without segments.
    ///
    /// # Errors
    /// When another agent is there, or the archive or the spool cannot be read, or the archive has a hole.
    pub fn open(config: &Config, source: CaptureSource, archive: Archive) -> Result<(Self, Inventory), CaptureError> {
        let state_dir = &config.state_dir;
        let failed = |action| move |source| CaptureError::StateDir { action, path: state_dir.clone(), source };
        fsync::create_directories(state_dir).map_err(failed("create the folder"))?;
        let lock = lock(&state_dir.join("lock"))?;
        let OpenedIndex { index, inventory, end } = Index::open(&config.catalog_file(), &archive)?;
        let CaptureConfig { segment_age_seconds, segment_bytes_max, heartbeat_seconds, ack, spool_bytes_max, .. } =
            config.capture;
        let server_id = config.server_id();
        let identity = ReplicaIdentity {
            server_id,
            uuid: replica_uuid(&archive, server_id),
            heartbeat: Duration::from_secs(heartbeat_seconds),
        };
        let spool_folder = state_dir.join("spool");
        let key = spool_key(&spool_folder, config.capture.spool_keyring.as_deref(), identity.uuid)?;
        let (spool, left) = Spool::open(&spool_folder, key).map_err(failed("open the spool"))?;
        let room = Room::new(&spool_folder, spool_bytes_max, &config.sealing_dir(), config.seal.object_bytes_max);
        let policy = SegmentPolicy {
            bytes_max: segment_bytes_max,
            age_micros_max: segment_age_seconds.saturating_mul(1_000_000),
        };
        let (places, watched) = match source {
            CaptureSource::Servers(logins) => {
                (logins.into_iter().map(|login| Place::Server(Arc::new(login))).collect::<Vec<_>>(), None)
            }
            CaptureSource::Files { files, login } => (vec![Place::Files(files)], login),
        };
        let source = places.first().map(Place::to_string).unwrap_or_default();
        let breaks = inventory.timelines.iter().filter(|timeline| timeline.parent.is_some()).count();
        let mut reporter = Reporter::new(state_dir, source, ack, u64::try_from(breaks).unwrap_or(u64::MAX));
        let set_aside;
        let stage = match end {
            None => {
                // Of another archive, which this folder served before.
                for name in &left {
                    let aside = spool.set_aside(name).map_err(failed("read the spool"))?;
                    tracing::error!(file = %aside.display(), "part of another archive's spool put aside");
                }
                set_aside = spool.set_aside_count();
                Stage::New { spool: Some(Box::new(spool)), room }
            }
            Some((standing, mut tip)) => {
                let jobs = recovery::recover(&spool, &left, archive.repository().id, &mut tip, policy)
                    .map_err(failed("read the spool"))?;
                set_aside = spool.set_aside_count();
                let mut publisher = Publisher::new(archive.clone(), index.clone(), (standing, tip));
                let mut progress = Progress::default();
                progress.write(jobs.iter().map(|job| job.cut.facts.byte_count()).sum(), 0);
                publisher.resume(jobs);
                Stage::Known(Box::new(Plant { spool: Some(spool), room, publisher, progress }))
            }
        };
        let set_aside = set_aside.map_err(failed("read the spool"))?;
        reporter.update(|report| report.spool_set_aside = set_aside);
        let running = watch::Sender::new(None);
        let CaptureConfig { allow_positions, replica_lag_seconds_max, .. } = config.capture;
        let replica_lag_max = Duration::from_secs(replica_lag_seconds_max);
        let capture = Self {
            archive,
            index,
            places,
            logins: config.source.clone(),
            watched,
            identity,
            policy,
            ack,
            allow_positions,
            replica_lag_max,
            stage,
            reporter,
            running,
            followed: watch::Sender::new(None),
            _lock: lock,
        };
        Ok((capture, inventory))
    }

    /// The catalog, for others in the agent that publish.
    #[must_use]
    pub fn index(&self) -> Index {
        self.index.clone()
    }

    /// The disk that binlogs are read from; none when servers send them.
    #[must_use]
    pub fn disk(&self) -> Option<Arc<ServerFiles>> {
        self.places.iter().find_map(|place| match place {
            Place::Files(files) => Some(Arc::clone(files)),
            Place::Server(_) => None,
        })
    }

    /// Tells how far capture is while it is connected.
    #[must_use]
    pub fn followed(&self) -> watch::Receiver<Option<Followed>> {
        self.followed.subscribe()
    }

    /// Tells when the source and the timeline are known.
    #[must_use]
    pub fn running(&self) -> watch::Receiver<Option<Running>> {
        self.running.subscribe()
    }
}

/// A timeline that begins now.
fn timeline(id: TimelineId, parent: Option<TimelineId>, reason: &str, starting: highwater_binlog::GtidSet) -> Timeline {
    /// Longest reason in a manifest; the log has all of it.
    const REASON_LEN_MAX: usize = 400;
    let reason = reason.chars().take(REASON_LEN_MAX).collect();
    Timeline { id, parent, reason, starting_gtids: starting, created: Micros(now_micros()) }
}

/// The key that the spool is encrypted with, if it is to be. One is made only where nothing needs another.
fn spool_key(folder: &Path, keyring: Option<&Path>, agent: ServerUuid) -> Result<Option<SpoolKey>, CaptureError> {
    let opened = |path: &Path| {
        let failed = |source| CaptureError::StateDir { action: "open the keyring", path: path.to_owned(), source };
        SpoolKey::open(path, agent).map_err(failed)
    };
    let known = keyring.filter(|path| path.exists()).map(opened).transpose()?;
    let failed = |source| CaptureError::StateDir { action: "read the spool", path: folder.to_owned(), source };
    if let Some(file) = Spool::locked(folder, known.as_ref()).map_err(failed)? {
        return Err(CaptureError::SpoolLocked { file, keyring: keyring.map(Path::to_owned) });
    }
    match known {
        Some(key) => Ok(Some(key)),
        None => keyring.map(opened).transpose(),
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
    let digest = hasher.finalize();
    let mut uuid = [0u8; 16];
    uuid.copy_from_slice(&digest[..16]);
    ServerUuid::from_bytes(uuid)
}
