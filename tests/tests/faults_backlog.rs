//! A backlog in binlogs that the source closed waits in memory for the store: it is not written to our disk as long as the
//! store takes it, and is there before source or agent can take it with them (faults 1 and 15).

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use highwater::capture::AgentReport;
use highwater::failpoint::HELD_CRASH_POINT;
use highwater_tests::{Archived, FsyncLog, MysqlServer, Protected};

const LIMIT: Duration = Duration::from_secs(30);

/// Objects are sealed and never get their names: the store takes nothing, and does not say so.
const STUCK_STORE: &str = "up.put.before=pause";

/// Rounds of work, each of about 3 MB and a binlog of its own: more than an agent takes at once.
const ROUNDS: usize = 4;

/// A source, its archive, and no agent.
fn site() -> Result<Protected> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, a LONGBLOB)")?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    site.settle()?;
    Ok(site)
}

/// Binlogs that the agent, which is not there, has not seen. All of them are closed, and the open one has next to nothing.
fn fall_behind(source: &MysqlServer) -> Result<String> {
    let row = "INSERT INTO d.t (a) VALUES (AES_ENCRYPT(REPEAT('r', 300000), RANDOM_BYTES(32), RANDOM_BYTES(16)));";
    let round = format!("{} FLUSH BINARY LOGS;", row.repeat(10));
    source.sql(&format!("SET block_encryption_mode = 'aes-256-cbc'; {}", round.repeat(ROUNDS)))?;
    source.gtid_executed()
}

/// The stretches in the spool.
fn stretches(site: &Protected) -> Result<Vec<PathBuf>> {
    let mut found = site.highwater.spool()?;
    found.retain(|path| path.extension().is_some_and(|ending| ending == "stretch"));
    Ok(found)
}

/// What this agent, and not one before it, reports.
fn report(site: &Protected) -> Result<Option<AgentReport>> {
    let report = AgentReport::read(&site.highwater.state())?;
    Ok(report.filter(|report| report.pid == site.agent.pid()))
}

fn wait(site: &mut Protected, what: &str, is_so: impl Fn(&AgentReport) -> bool) -> Result<()> {
    let started = Instant::now();
    while !report(site)?.is_some_and(|report| is_so(&report)) {
        ensure!(site.agent.is_running()?, "the agent ended: {}", site.agent.stderr());
        ensure!(started.elapsed() < LIMIT, "no {what}: {:?} {}", report(site)?, site.agent.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// An agent whose store is stuck has received all of the backlog, and nothing of it is on the disk.
fn hold_a_backlog(site: &mut Protected) -> Result<String> {
    const SENT: &str = "SELECT COUNT(*) FROM performance_schema.processlist WHERE state LIKE '%has sent all%'";
    for _ in 0..5 {
        let executed = fall_behind(&site.source)?;
        // Of an agent that is gone.
        for id in
            site.source.sql("SELECT id FROM performance_schema.processlist WHERE command LIKE 'Binlog Dump%'")?.lines()
        {
            site.source.sql(&format!("KILL {id}"))?;
        }
        site.restart_agent(&[("FAILPOINTS", STUCK_STORE)])?;
        let started = Instant::now();
        while site.source.sql(SENT)?.trim() == "0" {
            ensure!(started.elapsed() < LIMIT, "the source does not send: {}", site.agent.stderr());
        }
        // What is on its way arrives.
        std::thread::sleep(Duration::from_millis(300));
        // On a machine that is busy enough it has waited too long and is on the disk by then.
        if stretches(site)?.is_empty() {
            return Ok(executed);
        }
        site.restart_agent(&[])?;
        site.settle()?;
    }
    bail!("nothing was ever held")
}

/// The source is dead, and so is the agent: the next one publishes everything from its disk.
fn require_all_without_the_source(site: &mut Protected, executed: &str) -> Result<()> {
    ensure!(site.highwater.archived_gtids()?.to_string() != executed, "the store was not stuck");
    site.restart_agent(&[])?;
    site.highwater.wait_for_gtids(&mut site.agent, executed)?;
    site.source.start()?;
    site.source.sql("INSERT INTO d.t (a) VALUES ('afterwards')")?;
    let archived = site.settle()?;
    ensure!(archived.timelines() == 1, "{} timelines", archived.timelines());
    site.highwater.require_empty_spool()
}

#[test]
fn a_backlog_is_archived_without_being_written_to_the_spool() -> Result<()> {
    let mut site = site()?;
    let log = FsyncLog::of(&site.highwater)?;
    // A machine that is busy enough takes longer than anything is held.
    for _ in 0..5 {
        let executed = fall_behind(&site.source)?;
        fs::write(log.path(), "")?;
        site.restart_agent(&[("HIGHWATER_FSYNC_LOG", &log.path().display().to_string())])?;
        site.catch_up()?;
        ensure!(site.highwater.archived_gtids()?.to_string() == executed);
        let synced = fs::read_to_string(log.path())?;
        let lengths = synced.lines().filter_map(|line| line.split_once(".stretch\t")).map(|(_, length)| length.parse());
        let longest: u64 = lengths.collect::<Result<Vec<_>, _>>()?.into_iter().max().unwrap_or(0);
        site.settle()?;
        // Only what follows the backlog, in the binlog that is open.
        if (1..100_000).contains(&longest) {
            return Ok(());
        }
    }
    bail!("it was written each time")
}

#[test]
fn a_disk_that_fills_up_while_what_is_held_is_written_costs_nothing() -> Result<()> {
    let mut site = site()?;
    // In the first stretch, and in the second, of two pages each; and it stays full for a while.
    for writes in [1, 3] {
        fall_behind(&site.source)?;
        // The store takes so long for an object that the backlog has to be written.
        let failpoints = format!("up.put.before=4*sleep(3000)->off;spool.write={writes}*off->6*return(enospc)->off");
        site.restart_agent(&[("FAILPOINTS", &failpoints)])?;
        let archived = site.settle()?;
        ensure!(archived.timelines() == 1, "{} timelines", archived.timelines());
        ensure!(site.agent.stderr().contains("no space left"), "{}", site.agent.stderr());
        site.highwater.require_empty_spool()?;
    }
    Ok(())
}

#[test]
fn what_waits_too_long_for_the_store_is_on_the_disk() -> Result<()> {
    let mut site = site()?;
    let executed = fall_behind(&site.source)?;
    site.restart_agent(&[("FAILPOINTS", STUCK_STORE)])?;
    wait(&mut site, "spool with everything", |report| report.spooled_gtids == executed)?;
    ensure!(stretches(&site)?.len() > ROUNDS, "{:?}", stretches(&site)?);
    site.source.kill()?;
    site.agent.kill()?;
    require_all_without_the_source(&mut site, &executed)
}

#[test]
fn what_was_held_when_the_source_died_is_on_the_disk_before_the_agent_dies() -> Result<()> {
    let mut site = site()?;
    let executed = hold_a_backlog(&mut site)?;
    site.source.kill()?;
    wait(&mut site, "spool with everything", |report| report.spooled_gtids == executed)?;
    site.agent.kill()?;
    require_all_without_the_source(&mut site, &executed)
}

#[test]
fn an_agent_that_is_told_to_stop_writes_what_it_holds_first() -> Result<()> {
    let mut site = site()?;
    let executed = hold_a_backlog(&mut site)?;
    // The store is stuck: it cannot end by itself.
    site.agent.terminate(Duration::from_secs(3)).err().context("it ended, and the store was not stuck")?;
    site.agent.kill()?;
    site.source.kill()?;
    require_all_without_the_source(&mut site, &executed)
}

#[test]
fn a_death_while_what_is_held_is_written_loses_and_repeats_nothing() -> Result<()> {
    let mut site = site()?;
    // In the first stretch, and in one behind it.
    for passages in [0, 2] {
        fall_behind(&site.source)?;
        let failpoints = format!("{STUCK_STORE};{HELD_CRASH_POINT}={passages}*off->return");
        site.restart_agent(&[("FAILPOINTS", &failpoints)])?;
        let status = site.agent.wait(LIMIT)?;
        ensure!(status.signal() == Some(9), "{status}: {}", site.agent.stderr());
        ensure!(!stretches(&site)?.is_empty(), "nothing was written");
        site.restart_agent(&[])?;
        let archived = site.settle()?;
        ensure!(archived.timelines() == 1, "{} timelines", archived.timelines());
        let report = AgentReport::read(&site.highwater.state())?.context("no report")?;
        ensure!(report.spool_set_aside == 0, "{report:?}");
        site.highwater.require_empty_spool()?;
    }
    Archived::read(&site.highwater)?.require_equal(&site.source)
}
