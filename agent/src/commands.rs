//! The commands: each builds its input, calls the library, and renders what came of it.

mod agent;
mod binlogs;
mod catalog;
mod context;
mod doctor;
mod dump;
mod find;
mod init;
mod keyring;
mod list;
mod point;
mod restore;
mod salvage;
mod status;
mod stores;
mod target;
mod verify;

pub use context::Context;
pub use point::{parse_point, parse_time};
pub use target::target_login;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{Cli, Command};
use crate::exit::{Exit, Failure};

/// Runs one command. SIGINT and SIGTERM ask it to end; a second one ends it at once.
pub async fn run(cli: Cli) -> anyhow::Result<Exit> {
    let stop = CancellationToken::new();
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut terminations = signal(SignalKind::terminate())?;
    let work = dispatch(cli, stop.clone());
    tokio::pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => return outcome,
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
        }
        if stop.is_cancelled() {
            return Err(interrupted().into());
        }
        stop.cancel();
    }
}

async fn dispatch(cli: Cli, stop: CancellationToken) -> anyhow::Result<Exit> {
    let context = Context::new(cli.config, cli.json);
    match cli.command {
        Command::Init(args) => blocking(stop, move || init::run(&context, &args)).await,
        Command::Doctor => doctor::run(context, stop).await,
        Command::Agent(_) => agent::run(context, stop).await,
        Command::Dump(_) => dump::run(context, stop).await,
        Command::Status(args) => blocking(stop, move || status::run(&context, &args)).await,
        Command::List(args) => blocking(stop, move || list::run(&context, &args)).await,
        Command::Find(args) => blocking(stop, move || find::run(&context, &args)).await,
        Command::Restore(args) => restore::run(context, *args, stop).await,
        Command::Binlogs(args) => blocking(stop, move || binlogs::run(&context, &args)).await,
        Command::Salvage(args) => salvage::run(context, args, stop).await,
        Command::Verify(args) => blocking(stop, move || verify::run(&context, &args)).await,
        Command::Catalog(args) => blocking(stop, move || catalog::run(&context, &args)).await,
        Command::Keyring(args) => blocking(stop, move || keyring::run(&context, &args)).await,
    }
}

/// Runs blocking work that may be given up at any moment.
async fn blocking<F>(stop: CancellationToken, work: F) -> anyhow::Result<Exit>
where
    F: FnOnce() -> anyhow::Result<Exit> + Send + 'static,
{
    let task = tokio::task::spawn_blocking(work);
    tokio::select! {
        outcome = task => outcome?,
        () = stop.cancelled() => Err(interrupted().into()),
    }
}

/// Runs blocking work to its end.
async fn blocking_value<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

/// What a command ends with that a signal ended.
fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted")
}
