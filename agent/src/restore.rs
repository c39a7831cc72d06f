//! Bringing a service back to a moment: prove the plan, load the dump, replay the binlogs, leave the target clean.
//!
//! Nothing is written to the target before the whole way is proven: the plan by its manifests, every byte by reading it,
//! the target by looking at it. The target's own applier replays the binlogs, which [`serve`] sends it as a replication
//! source would.

mod channel;
mod execute;
mod failure;
mod find;
mod finder;
mod load;
mod mark;
mod preflight;
mod prepare;
mod prove;
mod replay;
mod scan;
mod scheduler_events;
pub mod serve;
mod settings;
mod target;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater_binlog::GtidSet;
use highwater_catalog::{Inventory, RestorePlan, RestorePoint, TimelineId};
use tokio_util::sync::CancellationToken;

pub use failure::RestoreFailure;
pub use find::{FindQuery, FindReport, FoundTransaction, WantedKind, find};
pub use finder::{Found, find_stop};
pub use preflight::Finding;
pub use prove::{Damage, DamageCause};
pub use replay::{ReplayBinlog, ReplayPart, ReplaySource};
pub use scheduler_events::EventsReport;

use crate::archive::Archive;
use crate::server::ServerLogin;
use execute::{Execution, Outcome};
use preflight::{Demand, Start};
use prepare::Prepared;
use target::Target;

/// What is asked of a restore.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The moment.
    pub point: RestorePoint,
    /// The timeline; the newest one that has the point when absent.
    pub timeline: Option<TimelineId>,
    /// Transactions to leave out: empty ones take their place.
    pub exclude_gtids: GtidSet,
    /// Whether events of the scheduler stay disabled, whatever they were on the source.
    pub keep_events_disabled: bool,
    /// Our address at which the target can reach us; found out when absent.
    pub serve_address: Option<IpAddr>,
    /// The port to listen on; 0 takes a free one.
    pub serve_port: u16,
    /// How long the target may take to connect to us.
    pub connect_timeout: Duration,
    /// Whether to stop before the first write.
    pub dry_run: bool,
    /// Whether to go on with the same restore if it was interrupted on the target.
    pub resume: bool,
}

impl RestoreOptions {
    /// The usual way to a point.
    #[must_use]
    pub fn to(point: RestorePoint) -> Self {
        Self {
            point,
            timeline: None,
            exclude_gtids: GtidSet::new(),
            keep_events_disabled: false,
            serve_address: None,
            serve_port: 0,
            connect_timeout: Duration::from_secs(30),
            dry_run: false,
            resume: false,
        }
    }
}

/// What a restore is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading everything once; counted in bytes.
    Prove,
    /// Loading the dump; counted in bytes.
    Load,
    /// The target applies the binlogs; counted in transactions.
    Replay,
}

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// How much of it is done.
    pub done: u64,
    /// How much there is.
    pub total: u64,
}

/// Who is told about progress; called from several threads, some times a second.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// What a restore did, or would do.
#[derive(Debug, Clone)]
pub struct RestoreReport {
    /// The way: dump, segments, stop.
    pub plan: RestorePlan,
    /// Transactions after the stop that were committed before the wanted time, and are left out.
    pub later_with_earlier_time: u64,
    /// Whether the target was written to.
    pub executed: bool,
    /// Whether an interrupted restore was taken up again.
    pub resumed: bool,
    /// Events of the scheduler.
    pub events: EventsReport,
    /// XA transactions that were prepared and neither committed nor rolled back at the stop, as hexadecimal XIDs.
    pub in_doubt: Vec<String>,
    /// What else a person should know.
    pub notes: Vec<String>,
    /// How long reading everything took.
    pub proving: Duration,
    /// How long loading and replaying took.
    pub executing: Duration,
}

/// Restores to a point. Ends early, and clean, when `stop` is cancelled. Without a target, the way is proven and nothing
/// else happens.
///
/// # Errors
/// Why it did not happen; see [`RestoreFailure::exit`].
pub async fn run(
    options: &RestoreOptions,
    archive: &Archive,
    inventory: &Inventory,
    login: Option<&ServerLogin>,
    progress: ProgressSink,
    stop: &CancellationToken,
) -> Result<RestoreReport, RestoreFailure> {
    let prepared = {
        let (archive, inventory, options) = (archive.clone(), inventory.clone(), options.clone());
        blocking(move || prepare::prepare(&archive, &inventory, options.timeline, &options.point)).await?
    };
    let demand = demand(&prepared, inventory, options.resume);
    let mut target = None;
    if let Some(login) = login {
        let mut connected = Target::connect(login).await.map_err(RestoreFailure::Connect)?;
        let start = fit(&mut connected, &demand, login).await?;
        target = Some((connected, start, login));
    }
    let begun = Instant::now();
    let facts = {
        let (archive, prepared, progress, stop) = (archive.clone(), prepared.clone(), progress.clone(), stop.clone());
        blocking(move || prepare::read_everything(&archive, &prepared, &progress, &stop)).await?
    };
    let proving = begun.elapsed();
    let begun = Instant::now();
    let (mut executed, mut resumed) = (false, false);
    let mut outcome = Outcome::default();
    if let Some((mut target, start, login)) = target {
        let demand = Demand { event_len_max: facts.event_len_max, ..demand };
        fit(&mut target, &demand, login).await?;
        resumed = matches!(start, Start::Resume(_));
        if !options.dry_run {
            let (prepared, facts, progress) = (&prepared, &facts, &progress);
            let execution = Execution { options, archive, login, prepared, facts, progress, stop };
            target.stop_logging().await?;
            outcome = execution.run(&mut target, start).await?;
            executed = true;
        }
        target.close().await;
    }
    Ok(report(prepared, outcome, (executed, resumed), (proving, begun.elapsed())))
}

fn report(
    prepared: Prepared,
    outcome: Outcome,
    (executed, resumed): (bool, bool),
    (proving, executing): (Duration, Duration),
) -> RestoreReport {
    RestoreReport {
        plan: prepared.plan,
        later_with_earlier_time: prepared.later_with_earlier_time,
        executed,
        resumed,
        events: outcome.events,
        in_doubt: outcome.in_doubt,
        notes: outcome.notes,
        proving,
        executing,
    }
}

fn demand(prepared: &Prepared, inventory: &Inventory, resume: bool) -> Demand {
    let plan = &prepared.plan;
    let mut sources: Vec<_> = inventory.segments.iter().map(|segment| segment.server).collect();
    sources.extend(inventory.dumps.iter().map(|dump| dump.server));
    sources.sort_unstable();
    sources.dedup();
    Demand {
        dump: plan.dump.id.to_string(),
        source_version: plan.dump.server_version.clone(),
        sources,
        stop: plan.stop.gtids.clone(),
        event_len_max: 0,
        resume,
        replays: !plan.replay.is_empty(),
    }
}

async fn fit(target: &mut Target, demand: &Demand, login: &ServerLogin) -> Result<Start, RestoreFailure> {
    let (start, findings) = preflight::check(target, demand).await.map_err(RestoreFailure::Connect)?;
    if findings.is_empty() {
        return Ok(start);
    }
    Err(RestoreFailure::Unfit { target: login.address.to_string(), findings })
}

/// Runs blocking work beside the runtime.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RestoreFailure> + Send + 'static,
) -> Result<T, RestoreFailure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RestoreFailure::Internal(error.to_string()))?
}
