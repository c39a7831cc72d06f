//! `agent`: capture, full dumps and key backups, until it is stopped.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use highwater_catalog::Inventory;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Context, blocking_value};
use crate::archive::{Archive, ArchiveError};
use crate::capture::{Backoff, Capture, CaptureError, CaptureSource, KeyBackups, KeyOrigin, Running};
use crate::config::{Config, SourceConfig};
use crate::exit::{Exit, Failure};
use crate::kept::Keeper;
use crate::operate::dumps;
use crate::source::ServerFiles;
use crate::store::{StoreError, StoreErrorKind};

/// How long publishing what was received may take after the signal to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// Runs until `stop` is cancelled or capture cannot go on.
pub(super) async fn run(context: Context, stop: CancellationToken) -> anyhow::Result<Exit> {
    let config = context.config()?;
    let Some((archive, capture, inventory)) = opened(&config, &stop).await? else { return Ok(Exit::Done) };
    let (running, followed, index) = (capture.running(), capture.followed(), capture.index());
    // Ends with this function.
    let background = CancellationToken::new();
    let _guard = background.clone().drop_guard();
    let mut tasks = JoinSet::new();
    let Inventory { dumps, files: kept, .. } = inventory;
    let dumped = dumps.iter().map(|dump| dump.timeline).collect();
    drop(dumps);
    if config.source.is_some() {
        tasks.spawn(dumps::run(
            config.clone(),
            archive.clone(),
            index.clone(),
            dumped,
            running.clone(),
            followed,
            background.clone(),
        ));
    } else {
        tracing::warn!(
            "no [source] in the configuration: this agent takes no dumps, and nothing is restorable without one"
        );
    }
    let files = capture.disk();
    if let (true, Some(files)) = (config.capture.keep_encrypted, &files) {
        let keeper = Keeper::new(archive.clone(), index.clone(), Arc::clone(files), kept);
        tasks.spawn(keeper.watch(background.clone()));
    }
    if let Some(origin) = keys_of(&config, &archive, files.as_deref()) {
        let (archive, state_dir) = (archive.clone(), config.state_dir.clone());
        let stop = background.clone();
        tasks.spawn(async move {
            let Some(Running { server, .. }) = known(running, &stop).await else { return };
            let open = move || KeyBackups::new(archive, index, server, origin, &state_dir);
            if let Ok(backups) = blocking_value(open).await {
                backups.watch(stop).await;
            }
        });
    }
    let work = capture.run(stop.clone());
    tokio::pin!(work);
    let outcome = tokio::select! {
        outcome = &mut work => outcome,
        () = stop.cancelled() => timeout(STOP_DEADLINE, work).await.map_err(|_| not_all_published())?,
    };
    background.cancel();
    tasks.join_all().await;
    outcome?;
    tracing::info!("stopped; everything received in whole transactions is in the store");
    Ok(Exit::Done)
}

/// Opens archive and capture, as soon as the store answers. One that is not there, or another one, is refused. `None`:
/// stopped before.
async fn opened(config: &Config, stop: &CancellationToken) -> anyhow::Result<Option<(Archive, Capture, Inventory)>> {
    let mut backoff = Backoff::for_the_store();
    loop {
        let attempt = config.clone();
        let error = match blocking_value(move || open(&attempt)).await? {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) if error.chain().any(may_pass) => error,
            Err(error) => return Err(error),
        };
        let pause = backoff.next();
        tracing::warn!(
            error = format!("{error:#}"),
            pause_seconds = pause.as_secs_f32(),
            "the store does not answer, trying again"
        );
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

fn open(config: &Config) -> anyhow::Result<(Archive, Capture, Inventory)> {
    let source = source(config)?;
    let archive = Context::writing(config)?;
    let (capture, inventory) = Capture::open(config, source, archive.clone())?;
    Ok((archive, capture, inventory))
}

/// Whether this is a store's trouble that may pass by itself.
fn may_pass(cause: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = cause.downcast_ref::<StoreError>() {
        return error.kind == StoreErrorKind::Transient;
    }
    match (cause.downcast_ref::<ArchiveError>(), cause.downcast_ref::<CaptureError>()) {
        (Some(error), _) | (None, Some(CaptureError::Archive(error))) => error.may_pass(),
        (None, _) => false,
    }
}

/// Where the binlog comes from.
fn source(config: &Config) -> anyhow::Result<CaptureSource> {
    let password = "password of the source";
    Ok(match config.source_files()? {
        None => CaptureSource::Servers(config.source()?.logins().context(password)?),
        Some(files) => {
            let login = config.source.as_ref().map(SourceConfig::login).transpose().context(password)?;
            CaptureSource::Files { files: Arc::new(files), login: login.map(Arc::new) }
        }
    })
}

/// Waits until capture knows its source.
async fn known(
    mut running: tokio::sync::watch::Receiver<Option<Running>>,
    stop: &CancellationToken,
) -> Option<Running> {
    tokio::select! {
        found = running.wait_for(Option::is_some) => found.ok()?.clone(),
        () = stop.cancelled() => None,
    }
}

/// Where the keys are that are backed up: those of files that are captured, unless the archive is not sealed, and whatever
/// the configuration names.
fn keys_of(config: &Config, archive: &Archive, files: Option<&ServerFiles>) -> Option<KeyOrigin> {
    match files {
        Some(files) if archive.is_encrypted() => Some(KeyOrigin::Files(files.keyrings().clone())),
        _ if config.keyring.files.is_empty() => None,
        Some(_) | None => Some(KeyOrigin::Places(config.keyring.places())),
    }
}

fn not_all_published() -> Failure {
    let seconds = STOP_DEADLINE.as_secs();
    Failure::new(Exit::Interrupted, format!("stopped, and the store did not take the last transactions in {seconds} s"))
        .hint("they are in the spool: the next start publishes them")
}
