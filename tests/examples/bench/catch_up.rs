//! Fetching a backlog: `mysqlbinlog --raw` against the agent, alternating on the same source.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_tests::{Background, Finished, Installation, MysqlServer, mysql_program};

use crate::archive_watch::{ArchiveWatch, stored_bytes};
use crate::load::{self, Backlog};
use crate::proc;
use crate::report::Section;
use crate::settings::Settings;
use crate::statistics::{median, runs};

/// How long one catch-up may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// One fetching of the whole backlog.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    seconds: f64,
    /// CPU of the fetching program.
    cpu_seconds: f64,
    /// CPU of the source meanwhile.
    source_cpu_seconds: f64,
    resident_mib: f64,
    stored_bytes: u64,
}

/// Measures.
pub(crate) fn run(settings: &Settings) -> Result<Section> {
    let source = load::source()?;
    let backlog = load::fill(&source, settings.megabytes)?;
    let first = Installation::new(&source)?;
    let mut agents = vec![first.programs().highwater.clone()];
    agents.extend(settings.against.iter().cloned());
    let mut raw = Vec::new();
    let mut ours = vec![Vec::new(); agents.len()];
    for repetition in 1..=settings.repetitions {
        raw.push(mysqlbinlog(&source, &first, &backlog)?);
        for (agent, runs) in agents.iter().zip(&mut ours) {
            runs.push(agent_run(agent, &source, &backlog)?);
        }
        eprintln!("catch-up {repetition}/{}", settings.repetitions);
    }
    let mut section = Section::new("catch-up");
    let megabytes = backlog.bytes() as f64 / 1e6;
    section.about(format!(
        "{megabytes:.0} MB of encrypted binlog in {} files, {} transactions; TCP with TLS on 127.0.0.1; {} alternating repetitions, medians",
        backlog.binlogs.len(), backlog.transactions, settings.repetitions
    ));
    section.about("the agent's time ends when the manifest of the last segment is in the store: verified, compressed, sealed, fsynced");
    section.about("mysqlbinlog's time ends with its process; it verifies and fsyncs nothing");
    let baseline = figures(&mut section, "mysqlbinlog --raw", &raw, megabytes);
    for (index, (agent, runs)) in agents.iter().zip(&ours).enumerate() {
        let name = if index == 0 { "highwater agent".to_owned() } else { agent.display().to_string() };
        let seconds = figures(&mut section, &name, runs, megabytes);
        section.figure(format!("{name}: speed, mysqlbinlog = 1"), baseline / seconds, "x", "ratio of the medians");
        section.figure(format!("{name}: memory"), column(runs, |run| run.resident_mib).1, "MiB", "largest, VmHWM");
        let stored = runs.last().map_or(0, |run| run.stored_bytes) as f64 / 1e6;
        section.figure(
            format!("{name}: stored"),
            stored,
            "MB",
            format!("{:.1} times smaller", megabytes / stored.max(0.001)),
        );
    }
    section.command("mysqlbinlog --read-from-remote-server --raw --host=127.0.0.1 --ssl-mode=VERIFY_CA BINLOG...");
    section.command("highwater agent    # default [capture], a directory store, one age recipient");
    Ok(section)
}

fn figures(section: &mut Section, name: &str, runs_of: &[Run], megabytes: f64) -> f64 {
    let (seconds, _, note) = column(runs_of, |run| run.seconds);
    section.figure(name.to_owned(), seconds, "s", note);
    section.figure(format!("{name}: throughput"), megabytes / seconds, "MB/s", "");
    section.figure(format!("{name}: CPU"), column(runs_of, |run| run.cpu_seconds).0, "s", "");
    section.figure(format!("{name}: CPU of the source"), column(runs_of, |run| run.source_cpu_seconds).0, "s", "");
    seconds
}

/// Median, largest, and a note with all values.
fn column(runs_of: &[Run], value: impl Fn(&Run) -> f64) -> (f64, f64, String) {
    let values: Vec<f64> = runs_of.iter().map(value).collect();
    (median(&values), values.iter().copied().fold(0.0, f64::max), runs(&values))
}

fn mysqlbinlog(source: &MysqlServer, account: &Installation, backlog: &Backlog) -> Result<Run> {
    let folder = tempfile::tempdir()?;
    settle()?;
    let (source_before, before) = (proc::cpu_seconds(source_pid(source)?)?, proc::cpu_seconds(0)?);
    let started = Instant::now();
    Finished::run(
        Command::new(mysql_program("mysqlbinlog")?)
            .args(["--read-from-remote-server", "--raw", "--host=127.0.0.1", "--protocol=TCP", "--user=highwater"])
            .arg(format!("--port={}", source.port()))
            .args(["--ssl-mode=VERIFY_CA".to_owned(), format!("--ssl-ca={}", source.tls().ca.display())])
            .arg(format!("--result-file={}/", folder.path().display()))
            .args(&backlog.binlogs)
            .env("MYSQL_PWD", std::fs::read_to_string(account.password())?),
    )?
    .success()?;
    let seconds = started.elapsed().as_secs_f64();
    let written = stored_bytes(folder.path())?;
    ensure!(written == backlog.bytes(), "mysqlbinlog wrote {written} bytes instead of {}", backlog.bytes());
    Ok(Run {
        seconds,
        cpu_seconds: proc::cpu_seconds(0)? - before,
        source_cpu_seconds: proc::cpu_seconds(source_pid(source)?)? - source_before,
        resident_mib: 0.0,
        stored_bytes: written,
    })
}

fn agent_run(program: &Path, source: &MysqlServer, backlog: &Backlog) -> Result<Run> {
    let installation = installation(source)?;
    settle()?;
    let source_before = proc::cpu_seconds(source_pid(source)?)?;
    let started = Instant::now();
    let mut agent = start(program, &installation)?;
    let (binlog, end) = last(backlog)?;
    ArchiveWatch::new(&installation.store()).wait_for(&mut agent, binlog, end, LIMIT)?;
    let run = Run {
        seconds: started.elapsed().as_secs_f64(),
        cpu_seconds: proc::cpu_seconds(agent.pid())?,
        source_cpu_seconds: proc::cpu_seconds(source_pid(source)?)? - source_before,
        resident_mib: highwater_tests::resident_peak_mib(agent.pid())?,
        stored_bytes: stored_bytes(&installation.store().join("segments"))?,
    };
    agent.terminate(Duration::from_secs(60))?;
    Ok(run)
}

/// An installation with the default settings of capture.
pub(crate) fn installation(source: &MysqlServer) -> Result<Installation> {
    let installation = Installation::new(source)?;
    installation.change_config("segment_age_seconds = 1\nheartbeat_seconds = 1\n", "")?;
    Ok(installation)
}

/// Starts an agent of any build.
pub(crate) fn start(program: &Path, installation: &Installation) -> Result<Background> {
    let mut command = Command::new(program);
    command.arg("--config").arg(installation.config()).arg("agent");
    Background::start(&mut command, &installation.folder(), "agent")
}

/// The binlog and offset at which a backlog ends.
pub(crate) fn last(backlog: &Backlog) -> Result<(&str, u64)> {
    let binlog = backlog.binlogs.last().context("no binlog was written")?;
    Ok((binlog, backlog.sizes.last().copied().unwrap_or(0)))
}

/// The source's process id.
pub(crate) fn source_pid(source: &MysqlServer) -> Result<u32> {
    let file = source.data().parent().map(|home| home.join("mysqld.pid")).unwrap_or_default();
    Ok(std::fs::read_to_string(file)?.trim().parse()?)
}

/// Lets no side wait for what another one left to be written.
pub(crate) fn settle() -> Result<()> {
    let status = Command::new("sync").status()?;
    ensure!(status.success(), "sync: {status}");
    Ok(())
}
