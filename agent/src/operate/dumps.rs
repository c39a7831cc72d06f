//! Full dumps while the agent runs: the first one at once, then by schedule.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use highwater_catalog::{Micros, TimelineId};
use jiff::Zoned;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::proven;
use super::schedule::Schedule;
use crate::archive::{Archive, now};
use crate::capture::{Followed, Index, Running};
use crate::config::Config;
use crate::exit::Failure;

/// The wall clock is looked at this often, so that a clock that is set is noticed.
const LOOK: Duration = Duration::from_secs(30);
/// After a dump that failed: the first pause, doubled each time.
const RETRY_FIRST: Duration = Duration::from_secs(30);
/// Longest pause after a dump that failed.
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// Takes a dump of every timeline that has none, and of the running one whenever the schedule says so; until `stop` is
/// cancelled. A dump that fails is logged and tried again.
pub async fn run(
    config: Config,
    archive: Archive,
    index: Index,
    mut dumped: BTreeSet<TimelineId>,
    mut running: watch::Receiver<Option<Running>>,
    followed: watch::Receiver<Option<Followed>>,
    stop: CancellationToken,
) {
    // It was checked when the configuration was read.
    let schedule = config.dump_schedule().ok().flatten();
    let mut pause = RETRY_FIRST;
    let work = async {
        loop {
            let Some(Running { timeline, .. }) = due(&schedule, &dumped, &mut running).await else { return };
            match dump(&config, &archive, &index, timeline, followed.clone()).await {
                Ok(()) => {
                    dumped.insert(timeline);
                    pause = RETRY_FIRST;
                }
                Err(error) => {
                    let Failure { error, hint, .. } = Failure::of(&error);
                    let hint = hint.unwrap_or_default();
                    tracing::error!(error, hint, pause_seconds = pause.as_secs(), "dump failed");
                    let failed = now();
                    tokio::select! {
                        () = sleep(pause) => {}
                        // Another history is dumped at once.
                        _ = running.wait_for(|now| now.as_ref().is_some_and(|now| now.timeline != timeline)) => {}
                    }
                    pause = (pause * 2).min(RETRY_MAX);
                    // It stays due until it is taken, by us or by somebody at the command line.
                    match taken_since(&archive, timeline, failed).await {
                        true => dumped.insert(timeline),
                        false => dumped.remove(&timeline),
                    };
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}

/// Waits until a dump is due and returns what it is of; `None` when capture has ended.
async fn due(
    schedule: &Option<Schedule>,
    dumped: &BTreeSet<TimelineId>,
    running: &mut watch::Receiver<Option<Running>>,
) -> Option<Running> {
    let mut next = schedule.as_ref().and_then(|schedule| schedule.next_after(&Zoned::now()));
    loop {
        let found = running.borrow_and_update().clone();
        if let Some(found) = found {
            if !dumped.contains(&found.timeline) {
                return Some(found);
            }
            if next.as_ref().is_some_and(|next| *next <= Zoned::now()) {
                return Some(found);
            }
        }
        tokio::select! {
            changed = running.changed() => changed.ok()?,
            () = sleep(LOOK) => {
                // Never later than it would be from now: a clock that was set back makes it earlier.
                let again = schedule.as_ref().and_then(|schedule| schedule.next_after(&Zoned::now()));
                next = [next, again].into_iter().flatten().min();
            }
        }
    }
}

async fn dump(
    config: &Config,
    archive: &Archive,
    index: &Index,
    timeline: TimelineId,
    mut followed: watch::Receiver<Option<Followed>>,
) -> anyhow::Result<()> {
    let began = followed.wait_for(Option::is_some).await.context("capture has ended")?.clone();
    let began = began.filter(|began| began.witness.timeline() == timeline);
    let began = began.with_context(|| format!("timeline {timeline} ended before its dump began"))?;
    let (reader, host) = (config.clone(), began.host);
    // Read each time: passwords are changed.
    let logins = spawn_blocking(move || anyhow::Ok(reader.source()?.logins()?)).await??;
    let login = logins.into_iter().nth(host).context("the source's login")?;
    tracing::info!(timeline = %timeline, "dump begins");
    let taken = proven::take(&login, archive, followed, began).await?;
    let index = index.clone();
    spawn_blocking(move || index.dump(&taken.dump)).await??;
    Ok(())
}

async fn taken_since(archive: &Archive, timeline: TimelineId, time: Micros) -> bool {
    let archive = archive.clone();
    let Ok(Ok(dumps)) = spawn_blocking(move || archive.dumps()).await else { return false };
    dumps.iter().any(|dump| dump.timeline == timeline && dump.finished > time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(timeline: u32) -> Option<Running> {
        let server = "3e11fa47-71ca-11e1-9e33-c80aa9429562".parse().unwrap();
        Some(Running { timeline: TimelineId(timeline), server, host: 0 })
    }

    #[tokio::test]
    async fn a_timeline_without_dump_is_due_as_soon_as_it_runs() {
        let (sender, mut receiver) = watch::channel(None);
        let none = BTreeSet::new();
        let wait = due(&None, &none, &mut receiver);
        tokio::pin!(wait);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut wait).await.is_err());
        sender.send_replace(running(2));
        assert_eq!(wait.await, running(2));
    }

    #[tokio::test]
    async fn a_new_timeline_is_due_though_the_old_one_has_a_dump() {
        let (sender, mut receiver) = watch::channel(running(1));
        let dumped = BTreeSet::from([TimelineId(1)]);
        let wait = due(&None, &dumped, &mut receiver);
        tokio::pin!(wait);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut wait).await.is_err());
        sender.send_replace(running(2));
        assert_eq!(wait.await, running(2));
    }

    #[tokio::test]
    async fn nothing_is_due_when_capture_has_ended() {
        let (sender, mut receiver) = watch::channel(running(1));
        drop(sender);
        assert_eq!(due(&None, &BTreeSet::from([TimelineId(1)]), &mut receiver).await, None);
    }
}
