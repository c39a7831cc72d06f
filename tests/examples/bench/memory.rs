//! The agent's largest resident memory when there is much to hold.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_tests::{Background, Installation, MysqlServer};

use crate::archive_watch::{ArchiveWatch, stored_bytes};
use crate::catch_up::{installation, last, start};
use crate::load;
use crate::proc;
use crate::report::Section;
use crate::settings::Settings;

/// How long the huge transaction may take into the store.
const LIMIT: Duration = Duration::from_secs(1800);

/// Bytes of a row of the huge transaction.
const ROW_BYTES: u64 = 64 << 10;

/// What the store takes before it takes nothing more.
const SMALL_STORE_MIB: u64 = 24;

/// Resident memory must not have grown for this long before it is believed.
const QUIET: Duration = Duration::from_secs(10);

/// One huge transaction, fetched when it is complete.
pub(crate) fn run(settings: &Settings) -> Result<Section> {
    let source = load::source()?;
    let rows = settings.transaction_megabytes * 1_000_000 / ROW_BYTES + 1;
    huge_transaction(&source, rows)?;
    let backlog = load::closed_binlogs(&source)?;
    let installation = installation(&source)?;
    let started = Instant::now();
    let mut agent = start(&installation.programs().highwater, &installation)?;
    let (binlog, end) = last(&backlog)?;
    ArchiveWatch::new(&installation.store()).wait_for(&mut agent, binlog, end, LIMIT)?;
    let seconds = started.elapsed().as_secs_f64();
    let mut section = Section::new("memory");
    section.about(format!(
        "one transaction of {:.0} MB, rows of 64 KiB, then all of it in the store",
        backlog.bytes() as f64 / 1e6
    ));
    section.figure(
        "resident memory, largest",
        highwater_tests::resident_peak_mib(agent.pid())?,
        "MiB",
        "VmHWM; goal: at most 256",
    );
    section.figure("time", seconds, "s", "");
    section.figure("CPU", proc::cpu_seconds(agent.pid())?, "s", "");
    section.command("INSERT INTO sink SELECT ... in one transaction; highwater agent; grep VmHWM /proc/PID/status");
    agent.terminate(Duration::from_secs(60))?;
    Ok(section)
}

/// A backlog for a store that is soon full.
pub(crate) fn run_stalled(settings: &Settings) -> Result<Section> {
    let mut section = Section::new("stalled");
    if !can_mount()? {
        section.about("not measured: this needs a tmpfs of its own (`unshare --mount`), which only root may make");
        return Ok(section);
    }
    let source = load::source()?;
    let backlog = load::fill(&source, settings.megabytes)?;
    let installation = installation(&source)?;
    let mut agent = start_with_small_store(&installation)?;
    let spool = installation.state().join("spool");
    let (mut peak, mut held, mut changed) = (0.0, 0, Instant::now());
    let started = Instant::now();
    while changed.elapsed() < QUIET {
        ensure!(agent.is_running()?, "the agent ended: {}", agent.stderr());
        ensure!(started.elapsed() < LIMIT, "memory still grows after {LIMIT:?}");
        let now = (highwater_tests::resident_peak_mib(agent.pid())?, stored_bytes(&spool).unwrap_or(held));
        if now != (peak, held) {
            ((peak, held), changed) = (now, Instant::now());
        }
        thread::sleep(Duration::from_millis(100));
    }
    let before = proc::cpu_seconds(agent.pid())?;
    thread::sleep(Duration::from_secs(settings.seconds));
    let cpu = (proc::cpu_seconds(agent.pid())? - before) / settings.seconds as f64 * 100.0;
    section.about(format!(
        "a backlog of {:.0} MB for a store that is full after {SMALL_STORE_MIB} MiB; until nothing has changed for {} s",
        backlog.bytes() as f64 / 1e6, QUIET.as_secs()
    ));
    section.figure("resident memory, largest", peak, "MiB", "VmHWM; goal: at most 256");
    section.figure("spool", held as f64 / 1e6, "MB", "held on the agent's disk");
    section.figure("CPU while it waits", cpu, "%", format!("of one core, over {} s", settings.seconds));
    section.command(format!("unshare --mount; mount -t tmpfs -o size={SMALL_STORE_MIB}m tmpfs STORE; highwater agent"));
    agent.kill()?;
    Ok(section)
}

/// Writes one transaction of so many rows of 64 KiB, and a closed binlog around it.
fn huge_transaction(source: &MysqlServer, rows: u64) -> Result<()> {
    // The engine keeps nothing: only the binlog grows.
    let blackhole = source.sql("SHOW ENGINES")?.lines().any(|line| line.starts_with("BLACKHOLE\tYES"));
    let engine = if blackhole { "BLACKHOLE" } else { "InnoDB" };
    let side = rows.isqrt() + 1;
    source.sql(&format!(
        "CREATE DATABASE bench;
         CREATE TABLE bench.numbers (n INT PRIMARY KEY);
         SET SESSION cte_max_recursion_depth = 100000000;
         INSERT INTO bench.numbers WITH RECURSIVE seq AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM seq WHERE n < {side})
           SELECT n FROM seq;
         CREATE TABLE bench.sink (a INT NOT NULL, b INT NOT NULL, body MEDIUMTEXT NOT NULL) ENGINE = {engine};
         FLUSH BINARY LOGS;
         INSERT INTO bench.sink SELECT one.n, two.n, REPEAT(SHA2(RAND(), 256), {ROW_BYTES} DIV 64)
           FROM bench.numbers one, bench.numbers two LIMIT {rows};
         DROP TABLE bench.sink;
         FLUSH BINARY LOGS;"
    ))?;
    Ok(())
}

/// Whether a mount namespace can be had.
fn can_mount() -> Result<bool> {
    let output = Command::new("unshare").args(["--mount", "true"]).output().context("run unshare")?;
    Ok(output.status.success())
}

/// Starts an agent whose store is a small tmpfs that nobody else sees.
fn start_with_small_store(installation: &Installation) -> Result<Background> {
    let store = installation.store();
    let copy = installation.folder().join("store.first");
    fs::rename(&store, &copy)?;
    fs::create_dir(&store)?;
    let script = format!(
        "mount -t tmpfs -o size={SMALL_STORE_MIB}m,mode=700 tmpfs \"$1\" && cp -a \"$2\"/. \"$1\"/ && exec \"$3\" --config \"$4\" agent"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]);
    command.args([&store, &copy, &installation.programs().highwater, &installation.config()]);
    Background::start(&mut command, &installation.folder(), "agent")
}
