//! What the agent costs while nothing happens.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use highwater_tests::MysqlServer;

use crate::catch_up::{installation, start};
use crate::proc;
use crate::report::Section;
use crate::settings::Settings;

/// The work of the start is over by then: tables, catalog, report.
const SETTLE: Duration = Duration::from_secs(8);

/// Measures.
pub(crate) fn run(settings: &Settings) -> Result<Section> {
    let source = MysqlServer::builder().start()?;
    let installation = installation(&source)?;
    let mut agent = start(&installation.programs().highwater, &installation)?;
    installation.wait_for_dump(&mut agent)?;
    thread::sleep(SETTLE);
    let before = proc::cpu_seconds(agent.pid())?;
    thread::sleep(Duration::from_secs(settings.seconds));
    let cpu = (proc::cpu_seconds(agent.pid())? - before) / settings.seconds as f64 * 100.0;
    let mut section = Section::new("idle");
    section
        .about(format!("connected to a source on which nothing happens, default settings, for {} s", settings.seconds));
    section.figure("CPU", cpu, "%", "of one core, user and system, from /proc/PID/stat; goal: under 1");
    section.figure("resident memory, largest", highwater_tests::resident_peak_mib(agent.pid())?, "MiB", "VmHWM");
    section.command("highwater agent; awk '{print $14 + $15}' /proc/PID/stat, twice");
    agent.terminate(Duration::from_secs(60))?;
    Ok(section)
}
