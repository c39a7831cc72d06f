//! `salvage`: what the archive lacks, from a server's disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use binlog_decrypt::KeyArgs;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::list::file_json;
use super::{Context, blocking_value, interrupted};
use crate::capture::{Capture, CaptureError, CaptureSource, Discontinuity, SalvageEnd, SalvagePlan, chain};
use crate::cli::SalvageArgs;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::kept::{Keeper, Kept, Wanted, bundled_keys};
use crate::render;
use crate::seal::Identities;
use crate::source::ServerFiles;

/// Runs it.
pub(super) async fn run(context: Context, args: SalvageArgs, stop: CancellationToken) -> anyhow::Result<Exit> {
    let config = context.config()?;
    let SalvageArgs { datadir, index, keys, keep_encrypted, dry_run } = args;
    let shown = datadir.clone();
    let (checking, stopped) = (render::bytes_bar(0, "checking"), stop.clone());
    let surveyed = blocking_value(move || {
        let identities = identities(&config, &keys)?;
        let files = Arc::new(ServerFiles::open(&datadir, index.as_deref(), keys.places(Vec::new()))?);
        // A dry run writes to no copy either.
        let archive = if dry_run { Context::checked(&config)? } else { Context::writing(&config)? };
        let source = CaptureSource::Files { files: Arc::clone(&files), login: None };
        let (capture, inventory) = Capture::open(&config, source, archive.clone())?;
        if let Some(identities) = identities {
            let (archive, bundles) = (archive.clone().with_identities(identities), inventory.keys);
            files.keyrings().and_at_last(move || bundled_keys(&archive, &bundles));
        }
        let keeper = keep_encrypted.then(|| Keeper::new(archive, capture.index(), files, inventory.files));
        let plan = capture.survey(&stopped, &|read, all| {
            checking.set_length(all);
            checking.set_position(read);
        });
        checking.finish_and_clear();
        anyhow::Ok((capture, keeper, plan))
    });
    let (capture, keeper, plan) = surveyed.await?.map_err(|error| explained(error, &shown))?;
    let taken = match plan {
        Ok(Some(plan)) => take(capture, plan, dry_run, &stop).await,
        Ok(None) => Err(interrupted().into()),
        Err(error) => Err(error.into()),
    };
    // Files are kept even where the disk does not continue the archive.
    let (kept, keeping) = match keeper {
        None => (None, Ok(())),
        Some(_) if stop.is_cancelled() => (None, Err(interrupted().into())),
        Some(keeper) => keep_files(keeper, dry_run, &stop).await?,
    };
    // Whatever became of the one, the other is told.
    print(&context, taken.as_ref().ok(), kept.as_ref())?;
    let (plan, _) = taken.map_err(|error| explained(error, &shown))?;
    finish(&plan)?;
    keeping?;
    kept.map_or(Ok(Exit::Done), kept_whole)
}

/// What opens the archive's key bundles: what is named, or what the configuration names and this machine has.
fn identities(config: &Config, keys: &KeyArgs) -> anyhow::Result<Option<Identities>> {
    if !keys.identity.is_empty() {
        return Ok(Some(Identities::read_files(keys.identity.iter().map(PathBuf::as_path))?));
    }
    Ok(config.seal.identity_file.as_deref().and_then(|path| Identities::read_file(path).ok()))
}

/// Takes what the plan says, unless it is a dry run.
async fn take(
    capture: Capture,
    plan: SalvagePlan,
    dry_run: bool,
    stop: &CancellationToken,
) -> anyhow::Result<(SalvagePlan, Outcome)> {
    let outcome = match (dry_run, plan.is_empty()) {
        (true, _) => Outcome::Planned,
        (false, true) => Outcome::Nothing,
        (false, false) => {
            let bar = render::bytes_bar(plan.bytes_on_disk, "taking");
            let finished = capture.salvage(&plan, stop, &|read| bar.set_position(read)).await;
            bar.finish_and_clear();
            if !finished? {
                let hint = "what was taken is in the archive or in the spool: run it again, and it goes on there";
                return Err(interrupted().hint(hint).into());
            }
            Outcome::Taken
        }
    };
    Ok((plan, outcome))
}

/// Keeps the disk's encrypted binlogs, or only says which: what came of it, if anything, and whether it failed.
async fn keep_files(
    mut keeper: Keeper,
    dry_run: bool,
    stop: &CancellationToken,
) -> anyhow::Result<(Option<Wanted>, anyhow::Result<()>)> {
    let (bar, stopped) = (render::bytes_bar(0, "keeping"), stop.clone());
    let keeping = blocking_value(move || {
        if dry_run {
            return match keeper.survey() {
                Ok(wanted) => (Some(wanted), Ok(())),
                Err(error) => (None, Err(error.into())),
            };
        }
        let mut kept = Kept::default();
        let outcome = keeper.look(&bar, &stopped, &mut kept);
        bar.finish_and_clear();
        let is_told = outcome.is_ok() || !(kept.files.is_empty() && kept.refused.is_empty());
        (is_told.then(|| Wanted { kept, ..Wanted::default() }), outcome.map_err(Into::into))
    });
    tokio::select! {
        kept = keeping => kept,
        () = stop.cancelled() => Ok((None, Err(interrupted().into()))),
    }
}

/// A file that cannot be kept is no success.
fn kept_whole(mut wanted: Wanted) -> anyhow::Result<Exit> {
    match wanted.kept.refused.is_empty() {
        true => Ok(Exit::Done),
        false => Err(wanted.kept.refused.swap_remove(0).error.into()),
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Planned,
    Nothing,
    Taken,
}

/// A disk that does not continue the archive, in terms of what somebody with a disk can do.
fn explained(error: anyhow::Error, datadir: &Path) -> anyhow::Error {
    let why = match error.downcast_ref::<CaptureError>() {
        Some(CaptureError::Discontinuity(why)) => why,
        _ => return error,
    };
    let hint = match why {
        Discontinuity::Gap { .. }
        | Discontinuity::BinlogGone { .. }
        | Discontinuity::BinlogSkipped { .. }
        | Discontinuity::NotSent { .. } => {
            "nothing was taken: look for the missing binlogs on a replica's disk or in copies, and salvage from there \
             first"
        }
        Discontinuity::Incident { .. } => "nothing was taken: the server itself lost events there",
        Discontinuity::Forked { .. }
        | Discontinuity::Anonymous
        | Discontinuity::Differs { .. }
        | Discontinuity::OtherServer { .. }
        | Discontinuity::OtherMode { .. } => {
            "nothing was taken: this is another server, or it was reset, restored or lost its last transactions; \
             binlog-decrypt opens its files"
        }
    };
    let exit = CaptureError::Discontinuity(why.clone()).exit();
    Failure::new(exit, format!("{}: {why}", datadir.display())).hint(hint).into()
}

/// Damage that something lies behind, or may have, is no success.
fn finish(plan: &SalvagePlan) -> anyhow::Result<Exit> {
    match &plan.end {
        SalvageEnd::Whole | SalvageEnd::Torn { .. } => Ok(Exit::Done),
        SalvageEnd::Gap { binlog, what, missing } => {
            let of = match missing.is_empty() {
                true => String::new(),
                false => format!("; missing are {missing}"),
            };
            let hint = "everything before that is safe, and nothing behind it was taken: look for the missing binlogs on a \
                        replica's disk or in copies, and salvage from there first";
            let error = format!("gap at {binlog}: {}{of}", what.trim_start_matches("gap: "));
            Err(Failure::new(Exit::Unreachable, error).hint(hint).into())
        }
        SalvageEnd::Damaged { binlog, what, inside } => {
            let error = format!("{binlog} cannot be read to its end: {what}");
            let hint = match inside {
                true => {
                    "everything before that is safe; nothing behind it, nor in the binlogs that follow, was taken: look \
                     for another copy of the file, and salvage again"
                }
                false => "everything before that is safe; if the disk has a better copy of the file, salvage again",
            };
            Err(Failure::new(Exit::Damaged, error).hint(hint).into())
        }
    }
}

fn print(context: &Context, taken: Option<&(SalvagePlan, Outcome)>, kept: Option<&Wanted>) -> std::io::Result<()> {
    if taken.is_none() && kept.is_none() {
        return Ok(());
    }
    if context.json() {
        let mut value = taken.map_or_else(|| json!({}), |(plan, outcome)| as_json(plan, *outcome));
        value["kept"] = kept.map(kept_json).unwrap_or_default();
        return render::print_json(&value);
    }
    let text = taken.map(|(plan, outcome)| as_text(plan, *outcome)).unwrap_or_default();
    render::print(&(text + &kept.map(kept_text).unwrap_or_default()))
}

fn kept_json(wanted: &Wanted) -> serde_json::Value {
    let Wanted { paths, bytes, kept } = wanted;
    let names = |paths: &[std::path::PathBuf]| -> Vec<String> {
        paths.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
    };
    json!({
        "files": kept.files.iter().map(file_json).collect::<serde_json::Value>(),
        "would_keep": names(paths),
        "would_keep_bytes": bytes,
        "known": kept.known,
        "not_encrypted": kept.plain,
        "open": kept.open.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "refused": kept.refused.iter().map(|refused| chain(&refused.error)).collect::<Vec<_>>(),
    })
}

fn kept_text(wanted: &Wanted) -> String {
    let Wanted { paths, bytes, kept } = wanted;
    let mut text = String::new();
    if !paths.is_empty() {
        text.push_str(&format!(
            "would keep {} encrypted binlogs as they are, {}\n",
            paths.len(),
            render::bytes(*bytes)
        ));
    }
    for file in &kept.files {
        text.push_str(&format!("{}  kept as it is, {}\n", file.binlog, render::bytes(file.body_size())));
    }
    if paths.is_empty() && kept.files.is_empty() && kept.refused.is_empty() {
        text.push_str(&format!("the archive has all {} encrypted binlogs that are closed\n", kept.known));
    }
    for refused in &kept.refused {
        text.push_str(&format!("NOT KEPT  {}\n", chain(&refused.error)));
    }
    text
}

fn as_json(plan: &SalvagePlan, outcome: Outcome) -> serde_json::Value {
    let binlogs: Vec<_> = plan
        .binlogs
        .iter()
        .map(|binlog| {
            json!({
                "binlog": binlog.name.as_str(),
                "start": binlog.start,
                "end": binlog.end,
                "transactions": binlog.transactions,
            })
        })
        .collect();
    let end = match &plan.end {
        SalvageEnd::Whole => json!({ "kind": "whole" }),
        SalvageEnd::Torn { binlog, whole, rest } => {
            json!({ "kind": "torn", "binlog": binlog.as_str(), "whole": whole, "rest": rest })
        }
        SalvageEnd::Gap { binlog, what, missing } => {
            json!({ "kind": "gap", "binlog": binlog.as_str(), "what": what, "missing": missing.to_string() })
        }
        SalvageEnd::Damaged { binlog, what, inside } => {
            json!({ "kind": "damaged", "binlog": binlog.as_str(), "what": what, "inside": inside })
        }
    };
    json!({
        "done": outcome == Outcome::Taken,
        "dry_run": outcome == Outcome::Planned,
        "server": plan.server.to_string(),
        "server_version": plan.version,
        "timeline": plan.timeline.0,
        "spooled_bytes": plan.spooled_bytes,
        "binlogs": binlogs,
        "bytes": plan.bytes(),
        "transactions": plan.transactions(),
        "gtids": plan.gtids.to_string(),
        "end": end,
    })
}

fn as_text(plan: &SalvagePlan, outcome: Outcome) -> String {
    let mut text = format!("server {}, MySQL {}, timeline {}\n", plan.server, plan.version, plan.timeline);
    if plan.spooled_bytes > 0 {
        let verb = if outcome == Outcome::Taken { "was published" } else { "comes" };
        text.push_str(&format!("{} in the agent's spool {verb} first\n", render::bytes(plan.spooled_bytes)));
    }
    for binlog in &plan.binlogs {
        let bytes = render::bytes(binlog.end - binlog.start);
        let (name, start, end, count) = (&binlog.name, binlog.start, binlog.end, binlog.transactions);
        text.push_str(&format!("{name}  {start} to {end}, {bytes}, {count} transactions\n"));
    }
    match &plan.end {
        SalvageEnd::Whole => {}
        SalvageEnd::Torn { binlog, whole, rest } => text.push_str(&format!(
            "{binlog} ends inside a transaction: its last whole one ends at {whole}, and {rest} bytes behind it are left out\n"
        )),
        SalvageEnd::Gap { binlog, what, .. } => {
            text.push_str(&format!("the disk is taken up to {binlog}: {what}\n"));
        }
        SalvageEnd::Damaged { binlog, what, .. } => text.push_str(&format!("{binlog} is taken up to its damage: {what}\n")),
    }
    let (count, bytes) = (plan.transactions(), render::bytes(plan.bytes()));
    text.push_str(&match outcome {
        _ if plan.binlogs.is_empty() => "the archive has everything that this disk has\n".to_owned(),
        Outcome::Planned => format!("would take {count} transactions, {bytes}: {}\n", plan.gtids),
        Outcome::Taken | Outcome::Nothing => format!("took {count} transactions, {bytes}: {}\n", plan.gtids),
    });
    text
}
