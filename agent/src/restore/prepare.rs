//! Everything that is known and proven before the target is touched.

use std::sync::Arc;

use highwater_catalog::{Inventory, RestorePlan, RestorePoint, TimelineId, plan};
use tokio_util::sync::CancellationToken;

use super::failure::RestoreFailure;
use super::finder::find_stop;
use super::prove::{ReplayFacts, prove};
use super::replay::ArchivedReplay;
use super::{Phase, Progress, ProgressSink};
use crate::archive::Archive;

/// A plan whose way is proven by manifests.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) plan: RestorePlan,
    pub(crate) later_with_earlier_time: u64,
    pub(crate) replay: Arc<ArchivedReplay>,
}

/// Finds the stop and plans the way there. Blocking.
pub(crate) fn prepare(
    archive: &Archive,
    inventory: &Inventory,
    timeline: Option<TimelineId>,
    point: &RestorePoint,
) -> Result<Prepared, RestoreFailure> {
    let found = find_stop(archive, inventory, timeline, point)?;
    let plan = plan(inventory, &found.stop)?;
    let replay = ArchivedReplay::new(archive.clone(), inventory, &plan)?;
    let later_with_earlier_time = found.later_with_earlier_time;
    Ok(Prepared { plan, later_with_earlier_time, replay: Arc::new(replay) })
}

/// Reads every byte that the restore will need. Blocking.
pub(crate) fn read_everything(
    archive: &Archive,
    prepared: &Prepared,
    progress: &ProgressSink,
    stop: &CancellationToken,
) -> Result<ReplayFacts, RestoreFailure> {
    let plan = &prepared.plan;
    let of_dump: u64 = plan.dump.files.iter().map(|file| file.object.plain_size).sum();
    let of_segments: u64 = plan.segments.iter().map(|segment| segment.plain_size()).sum();
    let total = of_dump + of_segments;
    let mut done = 0;
    for file in &plan.dump.files {
        if stop.is_cancelled() {
            return Err(RestoreFailure::Interrupted { during: "reading the archive", resumable: true });
        }
        archive.check_dump_file(&plan.dump, file)?;
        done += file.object.plain_size;
        progress(Progress { phase: Phase::Prove, done, total });
    }
    let told = |bytes| {
        progress(Progress { phase: Phase::Prove, done: done + bytes, total });
        !stop.is_cancelled()
    };
    Ok(prove(prepared.replay.as_ref(), &plan.replay, told)?)
}
