//! `dump`: one full dump now.

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::list::dump_json;
use super::{Context, blocking_value, interrupted};
use crate::archive::Archive;
use crate::capture::Witness;
use crate::config::Config;
use crate::dump::{DumpOptions, DumpOrigin, DumpProgress, TakenDump, read};
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
    // A source that is not there is the first thing to tell.
    Session::connect(&login).await?.close().await;
    let began = newest(&config, &archive, &login).await?;
    let origin = DumpOrigin { servers: began.servers().collect(), captured: began.captured().clone() };
    let options = DumpOptions { origin: Some(origin), ..DumpOptions::new(began.timeline()) };
    let bar = ProgressBar::with_draw_target(None, render::progress_target());
    if let Ok(style) = ProgressStyle::with_template("{spinner} dump {msg} {elapsed}") {
        bar.set_style(style);
    }
    let show = |progress: DumpProgress| {
        let DumpProgress { tables_done, tables, rows, bytes } = progress;
        bar.set_message(format!("{tables_done}/{tables} tables, {rows} rows, {}", render::bytes(bytes)));
        bar.tick();
    };
    let read = read(&login, &archive, &options, &|_| {}, &show).await;
    bar.finish_and_clear();
    let unpublished = read?;
    // The source may have been reset or restored, and the agent may have noticed it.
    let now = newest(&config, &archive, &login).await?;
    if now.timeline() != began.timeline() {
        let error = format!("timeline {} ended while it was dumped", began.timeline());
        return Err(Failure::new(Exit::Failed, error).hint("nothing was published; take another dump").into());
    }
    now.confirm().await.with_context(|| format!("the dump is none of the history of timeline {}", now.timeline()))?;
    Ok(unpublished.publish().await?)
}

async fn read_login(config: &Config) -> anyhow::Result<ServerLogin> {
    let config = config.clone();
    blocking_value(move || Ok(config.source()?.login()?)).await?
}

/// The newest timeline, to which the dump goes.
async fn newest(config: &Config, archive: &Archive, login: &ServerLogin) -> anyhow::Result<Witness> {
    let (config, archive, login) = (config.clone(), archive.clone(), login.clone());
    let find = move || Ok(Witness::of_archive(&config, &login, &archive.inventory()?)?);
    let newest: anyhow::Result<Option<Witness>> = blocking_value(find).await?;
    newest?.ok_or_else(|| {
        let failure = Failure::new(Exit::Failed, "the archive has no timeline yet");
        failure.hint("start `highwater agent`: it opens one and takes the first dump by itself").into()
    })
}
