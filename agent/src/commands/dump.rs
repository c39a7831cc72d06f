//! `dump`: one full dump now.

use highwater_catalog::windows;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::list::dump_json;
use super::{Context, blocking_value, interrupted};
use crate::archive::Archive;
use crate::config::Config;
use crate::dump::{DumpOptions, DumpProgress, TakenDump, take};
use crate::exit::{Exit, Failure};
use crate::render;
use crate::server::ServerLogin;
use crate::source::Session;

/// Runs it.
pub(super) async fn run(context: Context, stop: CancellationToken) -> anyhow::Result<Exit> {
    let taken = tokio::select! {
        taken = dump(&context) => taken?,
        () = stop.cancelled() => return Err(interrupted().into()),
    };
    if context.json() {
        let mut value = dump_json(&taken.dump);
        value["warnings"] = taken.warnings.clone().into();
        render::print_json(&value)?;
        return Ok(Exit::Done);
    }
    let dump = &taken.dump;
    let mut text = format!("dump {} of {} files, {}\n", dump.id, dump.files.len(), dump.method);
    text.push_str(&format!("it has {}\n", dump.gtids));
    taken.warnings.iter().for_each(|warning| text.push_str(&format!("WARNING {warning}\n")));
    render::print(&text)?;
    Ok(Exit::Done)
}

async fn dump(context: &Context) -> anyhow::Result<TakenDump> {
    let config = context.config()?;
    let opened = config.clone();
    let archive = blocking_value(move || Context::writing(&opened)).await??;
    let login = read_login(&config).await?;
    let options = options(&archive, &login).await?;
    let bar = ProgressBar::with_draw_target(None, render::progress_target());
    if let Ok(style) = ProgressStyle::with_template("{spinner} dump {msg} {elapsed}") {
        bar.set_style(style);
    }
    let show = |progress: DumpProgress| {
        let DumpProgress { tables_done, tables, rows, bytes } = progress;
        bar.set_message(format!("{tables_done}/{tables} tables, {rows} rows, {}", render::bytes(bytes)));
        bar.tick();
    };
    let taken = take(&login, &archive, &options, &show).await;
    bar.finish_and_clear();
    Ok(taken?)
}

async fn read_login(config: &Config) -> anyhow::Result<ServerLogin> {
    let config = config.clone();
    blocking_value(move || Ok(config.source()?.login()?)).await?
}

/// The dump goes to the newest timeline, if the source has that history.
async fn options(archive: &Archive, login: &ServerLogin) -> anyhow::Result<DumpOptions> {
    let session = Session::connect(login).await?;
    let executed = session.facts().gtid_executed.clone();
    session.close().await;
    let reader = archive.clone();
    let inventory = blocking_value(move || reader.inventory()).await??;
    let Some(newest) = windows(&inventory).into_iter().next() else {
        let failure = Failure::new(Exit::Failed, "the archive has no timeline yet");
        return Err(failure.hint("start `highwater agent`: it opens one and takes the first dump by itself").into());
    };
    let lacking = newest.high_water.subtract(&executed);
    if !lacking.is_empty() {
        let error = format!("the source lacks transactions that the archive has: {lacking}");
        let hint = "it is another server, or it was reset: start `highwater agent`, which decides what that means";
        return Err(Failure::new(Exit::Failed, error).hint(hint).into());
    }
    Ok(DumpOptions::new(newest.timeline))
}
