//! Benchmarks on real servers: `scripts/bench`. They print what they measure and judge nothing.

mod archive_watch;
mod catch_up;
mod commits;
mod decrypt;
mod idle;
mod latency;
mod load;
mod memory;
mod proc;
mod report;
mod semi_sync;
mod settings;
mod statistics;

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::report::{Report, Section};
use crate::settings::{Bench, Settings};

fn main() -> ExitCode {
    let settings = match Settings::read(std::env::args().skip(1)) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            print!("{}", settings::HELP);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error:#}\nhint: scripts/bench --help");
            return ExitCode::from(2);
        }
    };
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> Result<()> {
    let mut report = Report::default();
    for bench in &settings.benches {
        eprintln!("bench: {}", bench.name());
        let section = measure(*bench, settings).with_context(|| bench.name())?;
        if !settings.json {
            print!("{section}");
        }
        report.add(section);
    }
    if settings.json {
        println!("{}", report.json());
    }
    Ok(())
}

fn measure(bench: Bench, settings: &Settings) -> Result<Section> {
    match bench {
        Bench::CatchUp => catch_up::run(settings),
        Bench::Latency => latency::run(settings),
        Bench::SemiSync => semi_sync::run(settings),
        Bench::Memory => memory::run(settings),
        Bench::Stalled => memory::run_stalled(settings),
        Bench::Idle => idle::run(settings),
        Bench::Decrypt => decrypt::run(settings),
    }
}
