//! The `highwater` program.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use highwater::cli::Cli;
use highwater::commands;
use highwater::exit::{Exit, Failure};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    binlog_decrypt::keep_memory_private();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    start_logging(&cli);
    let _failpoints = highwater::failpoint::set_up();
    let json = cli.json;
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let failure = Failure::of(&error);
            let _ = failure.write(&mut io::stderr().lock(), json);
            failure.exit.into()
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let outcome = runtime.block_on(commands::run(cli));
    // Work on blocking threads that was given up is not waited for: whatever it does is safe to stop anywhere.
    runtime.shutdown_background();
    outcome
}

/// Logs go to stderr: text, or one JSON object a line with `--json`. Other crates' are left out: they may hold
/// statements. A log that nobody reads any more (a closed pipe, a journal that was restarted) is no reason to end.
fn start_logging(cli: &Cli) {
    let level = match (&cli.command, cli.verbose) {
        (highwater::cli::Command::Agent(_), 0) => "info",
        (_, 0) => "warn",
        (_, 1) => "info",
        (_, 2) => "debug",
        (_, _) => "trace",
    };
    let ours = ["highwater", "highwater_catalog", "highwater_binlog", "highwater_keyring"];
    let filter = EnvFilter::new(ours.map(|name| format!("{name}={level}")).join(","));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .log_internal_errors(false);
    if cli.json {
        builder.json().init();
    } else {
        builder.with_ansi(io::stderr().is_terminal()).init();
    }
}
