//! Power failures (fault 3): after them everything that a client saw committed is still there, though the source is not.
//! And agents that break a promise on purpose, which the suites' checks must catch: no fsync, an acknowledgement before it, no
//! checksums, a gap that is skipped.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use highwater_tests::{Archived, Dice, Fault, FsyncLog, Installation, Ledger, MysqlServer, Protected, Proxy, Unsynced};

/// How long everything in the spool may take to be in the store.
const PUBLISH_LIMIT: Duration = Duration::from_secs(20);

/// How long an agent may live that is about to die.
const DEATH_LIMIT: Duration = Duration::from_secs(60);

/// Source and agent lose their power under load, and the source is never seen again. The agent runs with these failpoints; if
/// they end it, the power goes then.
fn cut_power_under_load(failpoints: &str, unsynced: Unsynced) -> Result<()> {
    let mut source =
        MysqlServer::builder().semi_sync(Duration::from_secs(3600)).option("--max-binlog-size=16384").start()?;
    Ledger::create(&source)?;
    let highwater = Installation::new(&source)?;
    highwater.configure("capture", "ack = \"local\"")?;
    let mut agent = highwater.agent()?;
    highwater.wait_for_dump(&mut agent)?;
    highwater.catch_up(&mut agent, &source)?;
    agent.terminate(DEATH_LIMIT)?;
    // Nothing reaches the store once the agent has taken it over: what is acknowledged is in the spool or nowhere.
    let log = FsyncLog::of(&highwater)?;
    let failpoints = format!("store.create=1*off->return(enospc);{failpoints}");
    let log_path = log.path().display().to_string();
    let mut agent = highwater.agent_with(&[("FAILPOINTS", &failpoints), ("HIGHWATER_FSYNC_LOG", &log_path)])?;
    source.require_acks()?;
    let ledger = Ledger::start(&source, 3, Duration::ZERO);
    if failpoints.contains(".before") {
        agent.wait(DEATH_LIMIT)?;
        // An acknowledgement that was on its way arrives.
        std::thread::sleep(Duration::from_millis(300));
    } else {
        ledger.wait_for(200)?;
        agent.kill()?;
    }
    source.kill()?;
    let lost = log.cut_power(&highwater, unsynced)?;
    let seen = ledger.seen_committed();
    ensure!(!seen.is_empty(), "nothing was committed");
    println!("{failpoints}: {} entries were committed, {lost:?}", seen.len());

    require_archived(&highwater, &seen)
}

/// The source is dead: what its clients saw committed comes from spool and store alone.
fn require_archived(highwater: &Installation, seen: &BTreeSet<String>) -> Result<()> {
    let mut agent = highwater.agent()?;
    let (started, mut found) = (Instant::now(), Ok(()));
    while started.elapsed() < PUBLISH_LIMIT && agent.is_running()? {
        found = Archived::read(highwater).and_then(|archived| archived.require_markers(seen));
        if found.is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    found.with_context(|| format!("the agent says {}", agent.stderr()))?;
    bail!("the agent ended: {}", agent.stderr())
}

/// The same with a store that takes everything, so that the spool has let go of most of it.
fn cut_power_of_the_store(failpoints: &str) -> Result<()> {
    let mut source = MysqlServer::builder().semi_sync(Duration::from_secs(3600)).start()?;
    Ledger::create(&source)?;
    let highwater = Installation::new(&source)?;
    highwater.configure("capture", "ack = \"local\"")?;
    let log = FsyncLog::of(&highwater)?;
    let log_path = log.path().display().to_string();
    let mut agent = highwater.agent_with(&[("FAILPOINTS", failpoints), ("HIGHWATER_FSYNC_LOG", &log_path)])?;
    highwater.wait_for_dump(&mut agent)?;
    source.require_acks()?;
    let ledger = Ledger::start(&source, 3, Duration::ZERO);
    for _ in 0..3 {
        ledger.wait_for(50)?;
        highwater.wait_for_gtids(&mut agent, &source.gtid_executed()?)?;
    }
    agent.kill()?;
    source.kill()?;
    let lost = log.cut_power(&highwater, Unsynced::Gone)?;
    let seen = ledger.seen_committed();
    println!("{failpoints}: {} entries were committed, {lost:?}", seen.len());
    require_archived(&highwater, &seen)
}

#[test]
fn what_was_published_survives_a_power_failure_of_the_store() -> Result<()> {
    cut_power_of_the_store("")
}

#[test]
fn a_store_that_is_never_synced_is_caught() -> Result<()> {
    // What was linked into the store without a sync has its name and no bytes.
    require_caught(cut_power_of_the_store("broken.store_fsync=return"), "not as specified")
}

#[test]
fn what_was_acknowledged_survives_a_power_failure_without_the_source() -> Result<()> {
    cut_power_under_load("", Unsynced::Gone)
}

#[test]
fn an_agent_that_dies_before_a_sync_has_acknowledged_nothing_of_it() -> Result<()> {
    cut_power_under_load("seg.fsync.before=60*off->return", Unsynced::Gone)
}

#[test]
fn sectors_that_were_written_in_another_order_are_no_damage() -> Result<()> {
    let mut dice = Dice::throw("sectors");
    for _ in 0..2 {
        let passage = dice.between(20, 90);
        cut_power_under_load(&format!("seg.fsync.before={passage}*off->return"), Unsynced::Torn(dice.clone()))?;
    }
    Ok(())
}

#[test]
fn an_agent_that_dies_before_a_new_file_has_its_name_has_acknowledged_nothing_of_it() -> Result<()> {
    cut_power_under_load("seg.dirsync.before=4*off->return", Unsynced::Gone)
}

/// The check must fail, and for the reason given.
fn require_caught(outcome: Result<()>, reason: &str) -> Result<()> {
    match outcome {
        Ok(()) => bail!("the check did not notice"),
        Err(error) if format!("{error:#}").contains(reason) => Ok(()),
        Err(error) => Err(error.context("the check failed for another reason")),
    }
}

#[test]
fn an_agent_that_never_syncs_is_caught() -> Result<()> {
    require_caught(
        cut_power_under_load("broken.fsync=return", Unsynced::Gone),
        "committed entries are not in the archive",
    )
}

#[test]
fn an_agent_that_acknowledges_before_it_syncs_is_caught() -> Result<()> {
    // A sync that no acknowledgement belongs to proves nothing: then the next one is tried.
    let mut outcome = Ok(());
    for passage in 60..66 {
        let cut =
            cut_power_under_load(&format!("broken.ack=return;seg.fsync.before={passage}*off->return"), Unsynced::Gone);
        outcome = require_caught(cut, "committed entries are not in the archive");
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// A bit of a row changes on the way; afterwards the archive is the server's binlogs.
fn flip_a_bit(failpoints: &str) -> Result<()> {
    let mut site = Protected::start(MysqlServer::builder())?;
    site.catch_up()?;
    site.agent.terminate(DEATH_LIMIT)?;
    let proxy = Proxy::start(site.source.port())?;
    site.highwater.go_through(&site.source, &proxy)?;
    site.source
        .sql("CREATE DATABASE d; CREATE TABLE d.t (a VARCHAR(9000)); INSERT INTO d.t VALUES (REPEAT('r', 9000))")?;
    // Far behind the head of the file and before the last commit: in the row.
    proxy.plan(Fault::Flip(5000));
    site.restart_agent(&[("FAILPOINTS", failpoints)])?;
    site.catch_up()?;
    ensure!(proxy.struck() == 1, "no bit was changed");
    site.settle().map(drop)
}

#[test]
fn an_agent_that_checks_no_checksums_is_caught() -> Result<()> {
    flip_a_bit("").context("with checksums")?;
    require_caught(flip_a_bit("broken.crc=return"), "bytes, differing at Some(")
}

/// The source purges what the agent has not got; nothing may look as if it were whole.
fn lose_a_binlog(failpoints: &str) -> Result<()> {
    let mut site = Protected::start(MysqlServer::builder())?;
    site.source.sql("CREATE DATABASE d")?;
    site.catch_up()?;
    site.agent.terminate(DEATH_LIMIT)?;
    site.source.sql("CREATE DATABASE lost; FLUSH BINARY LOGS")?;
    let last = site.source.binlogs()?.pop().context("a binlog")?;
    site.source.sql(&format!("PURGE BINARY LOGS TO '{last}'"))?;
    let before = site.source.gtid_executed()?;
    site.source.sql("CREATE DATABASE kept")?;
    let kept = site.source.only_gtid_since(&before)?;
    site.restart_agent(&[("FAILPOINTS", failpoints)])?;
    site.highwater.wait_for_gtids(&mut site.agent, &kept)?;
    let archived = Archived::read(&site.highwater)?;
    ensure!(archived.timelines() == 2, "the gap is skipped: {} timelines", archived.timelines());
    Ok(())
}

#[test]
fn an_agent_that_skips_a_gap_is_caught() -> Result<()> {
    lose_a_binlog("").context("with gaps minded")?;
    require_caught(lose_a_binlog("broken.gap=return"), "the gap is skipped")
}
