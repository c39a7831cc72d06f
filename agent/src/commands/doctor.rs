//! `doctor`: what must be changed before it can work.

use highwater_binlog::GtidSet;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Context, blocking_value, interrupted};
use crate::capture::{Standing, check_settings, warnings};
use crate::cli::ArchiveArgs;
use crate::config::{AckPolicy, CaptureFrom, Config};
use crate::dump::check_privileges;
use crate::exit::{Exit, Failure};
use crate::render;
use crate::source::{SemiSyncState, ServerFiles, Session};

/// Runs it.
pub(super) async fn run(context: Context, stop: CancellationToken) -> anyhow::Result<Exit> {
    let checks = tokio::select! {
        checks = all(&context) => checks?,
        () = stop.cancelled() => return Err(interrupted().into()),
    };
    if context.json() {
        let checks = checks.iter().map(Check::as_json).collect();
        render::print_json(&serde_json::Value::Array(checks))?;
    } else {
        render::print(&checks.iter().map(Check::as_text).collect::<String>())?;
    }
    let failed: Vec<&Failure> = checks.iter().filter_map(|check| check.outcome.as_ref().err()).collect();
    match failed.first() {
        None => Ok(Exit::Done),
        Some(first) => {
            let hint = "the lines above say what to change".to_owned();
            let error = format!("{} of {} checks failed", failed.len(), checks.len());
            Err(Failure { exit: first.exit, error, hint: Some(hint) }.into())
        }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
struct Check {
    what: &'static str,
    outcome: Result<String, Failure>,
}

impl Check {
    fn of(what: &'static str, outcome: anyhow::Result<String>) -> Self {
        Self { what, outcome: outcome.map_err(|error| Failure::of(&error)) }
    }

    fn as_text(&self) -> String {
        match &self.outcome {
            Ok(found) => format!("ok      {:<14} {found}\n", self.what),
            Err(failure) => {
                let hint =
                    failure.hint.as_ref().map(|hint| format!("\n        {:<14} -> {hint}", "")).unwrap_or_default();
                format!("FAILED  {:<14} {}{hint}\n", self.what, failure.error)
            }
        }
    }

    fn as_json(&self) -> serde_json::Value {
        match &self.outcome {
            Ok(found) => json!({ "check": self.what, "ok": true, "found": found }),
            Err(failure) => {
                json!({ "check": self.what, "ok": false, "error": failure.error, "hint": failure.hint })
            }
        }
    }
}

async fn all(context: &Context) -> anyhow::Result<Vec<Check>> {
    let config = context.config()?;
    let mut checks = vec![Check::of("configuration", Ok(format!("service {}", config.service)))];
    let stored = config.clone();
    checks.push(blocking_value(move || Check::of("archive", archive(&stored))).await?);
    let (files, reader) = (config.clone(), context.clone());
    checks.extend(blocking_value(move || disk(&files, &reader)).await?);
    match &config.source {
        None if config.capture.source == CaptureFrom::Files => {
            checks.push(Check::of("source", Ok("none in the configuration: this agent takes no dumps".to_owned())));
        }
        Some(_) | None => source(&config, &mut checks).await,
    }
    Ok(checks)
}

fn archive(config: &Config) -> anyhow::Result<String> {
    let archive = Context::checked(config)?;
    let sealed = match archive.is_encrypted() {
        true => format!("sealed to {} keys", archive.repository().recipients.len()),
        false => "NOT encrypted: whoever reads the store reads every row".to_owned(),
    };
    Ok(format!("{} in {}, {sealed}", archive.repository().id, archive.store().describe()))
}

/// The source's disk, where binlogs are read from it: whether those open that the archive lacks, and the newest one.
fn disk(config: &Config, context: &Context) -> Option<Check> {
    let found = |files: ServerFiles| -> anyhow::Result<String> {
        let history = files.history(&archived(context), &GtidSet::new(), true)?;
        check_settings(&history.facts, config.capture.allow_positions)?;
        let (count, newest) = (history.binlogs.len(), history.end.binlog);
        Ok(format!("{} in {}, {count} binlogs, the newest {newest}", files.server(), files.datadir().display()))
    };
    match config.source_files() {
        Ok(None) => None,
        Ok(Some(files)) => Some(Check::of("disk", found(files))),
        Err(error) => Some(Check::of("disk", Err(error.into()))),
    }
}

/// What the archive has. Why it cannot be read, another check says.
fn archived(context: &Context) -> GtidSet {
    let nowhere = ArchiveArgs { store: None, identity: None };
    let inventory = context.reading(&nowhere).and_then(|reading| reading.inventory());
    let tip = inventory.ok().and_then(|inventory| Standing::of(&inventory).ok().flatten());
    tip.map(|(_, tip)| tip.captured).unwrap_or_default()
}

/// The source: whether it lets us in, is set as capture needs it, and lets us dump.
async fn source(config: &Config, checks: &mut Vec<Check>) {
    let mut session = match connect(config).await {
        Ok(session) => session,
        Err(error) => return checks.push(Check::of("source", Err(error))),
    };
    let facts = session.facts().clone();
    let place = config.source.as_ref().map(|source| source.address().to_string()).unwrap_or_default();
    checks.push(Check::of("source", Ok(format!("{} at {place}, as {}", facts.version, session.account()))));
    let fit = check_settings(&facts, config.capture.allow_positions).map_err(anyhow::Error::from);
    let warnings = warnings(&facts);
    checks.push(Check::of(
        "settings",
        fit.map(|()| if warnings.is_empty() { "binlog and GTIDs as needed".to_owned() } else { warnings.join("; ") }),
    ));
    let may = check_privileges(session.conn()).await.map_err(anyhow::Error::from);
    checks.push(Check::of("privileges", may.map(|()| "enough for a complete dump".to_owned())));
    if config.capture.ack != AckPolicy::Off {
        let state = session.semi_sync().await.map_err(anyhow::Error::from);
        checks.push(Check::of("semi-sync", state.and_then(semi_sync)));
    }
    session.close().await;
}

/// Whether the source can wait for acknowledgements, which the configuration asks for.
fn semi_sync(state: SemiSyncState) -> anyhow::Result<String> {
    let unfit = |error: &str, hint: &str| Err(Failure::new(Exit::Failed, error).hint(hint).into());
    match state {
        SemiSyncState::Unavailable => unfit(
            "capture.ack is set, and the source has no semi-sync plug-in",
            "INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'; SET PERSIST rpl_semi_sync_source_enabled = 1",
        ),
        SemiSyncState::Disabled => unfit(
            "capture.ack is set, and the source does not wait for acknowledgements",
            "SET PERSIST rpl_semi_sync_source_enabled = 1",
        ),
        SemiSyncState::Asynchronous { .. } => Ok("enabled; commits do not wait now: start the agent".to_owned()),
        SemiSyncState::Synchronous { clients, wait_for } => {
            Ok(format!("commits wait for {wait_for} acknowledgements; {clients} replicas give them"))
        }
    }
}

async fn connect(config: &Config) -> anyhow::Result<Session> {
    let reader = config.clone();
    let login = blocking_value(move || anyhow::Ok(reader.source()?.login()?)).await??;
    Ok(Session::connect(&login).await?)
}
