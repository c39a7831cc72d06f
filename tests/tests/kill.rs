//! Agents and sources that die at any moment (faults 1, 14 and 15): nothing that a client saw committed is lost, and nothing
//! is in the archive twice.
//!
//! `HIGHWATER_KILLS` and `HIGHWATER_SOURCE_KILLS` are the sizes of the runs, `HIGHWATER_SEED` repeats one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_tests::{Archived, Background, Dice, Installation, Ledger, MysqlServer, State, size_of_run};

/// How long an agent may take to end when asked to.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Every entry that was seen committed is in the archive once, and the archive is the server's binlogs; a restore of it is
/// the server.
fn require_all(source: &MysqlServer, highwater: &Installation, mut agent: Background, ledger: Ledger) -> Result<()> {
    let seen = ledger.stop()?;
    highwater.catch_up(&mut agent, source)?;
    agent.terminate(STOP_LIMIT)?;
    let archived = Archived::read(highwater)?;
    archived.require_markers(&seen)?;
    archived.require_equal(source)?;
    ensure!(archived.timelines() == 1, "{} timelines", archived.timelines());
    highwater.require_empty_spool()?;

    let target = MysqlServer::builder().server_id(2).start()?;
    highwater.restore(&target, &["--to", "latest"])?.success()?;
    State::read_blocking(source)?.require_equal(&State::read_blocking(&target)?)?;
    let restored = Ledger::rows(&target)?;
    ensure!(seen.is_subset(&restored), "{} entries were not restored", seen.difference(&restored).count());
    println!("{} entries seen committed, all restored", seen.len());
    Ok(())
}

/// A source under load, and an archive with its dump.
fn scene(source: &MysqlServer) -> Result<Installation> {
    Ledger::create(source)?;
    let highwater = Installation::new(source)?;
    // Many cuts, and stretches that end.
    highwater.configure("capture", "segment_bytes_max = 65536")?;
    Ok(highwater)
}

#[test]
fn an_agent_killed_at_any_moment_loses_nothing_and_repeats_nothing() -> Result<()> {
    let (kills, mut dice) = (size_of_run("HIGHWATER_KILLS", 6), Dice::throw("kills of the agent"));
    // Small binlogs: what came while an agent was dead is in closed ones, and waits for the store in memory.
    let source = MysqlServer::builder().option("--max-binlog-size=128K").start()?;
    let highwater = scene(&source)?;
    let ledger = Ledger::start(&source, 3, Duration::from_millis(2));
    let mut agent = highwater.agent()?;
    highwater.wait_for_dump(&mut agent)?;
    agent.kill()?;
    for kill in 0..kills {
        let mut agent = highwater.agent()?;
        // Half of them die while they start, half while they work.
        if dice.one_in(2) {
            let before = highwater.archived_gtids()?;
            highwater.wait_until("progress", Duration::from_secs(60), &mut agent, |highwater| {
                Ok(highwater.archived_gtids()? != before)
            })?;
        }
        match dice.between(0, 4) {
            0 => drop(source.sql("FLUSH BINARY LOGS")?),
            1 => drop(source.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")?),
            _ => {}
        }
        std::thread::sleep(dice.millis(0, 1200));
        ensure!(agent.is_running()?, "kill {kill}: the agent ended by itself: {}", agent.stderr());
        agent.kill()?;
    }
    let agent = highwater.agent()?;
    ledger.wait_for(50)?;
    println!("{kills} kills of the agent, seed {}", dice.seed());
    require_all(&source, &highwater, agent, ledger)
}

#[test]
fn what_clients_saw_committed_is_archived_though_the_source_never_comes_back() -> Result<()> {
    let (kills, mut dice) = (size_of_run("HIGHWATER_SOURCE_KILLS", 2), Dice::throw("kills of the source"));
    // A commit returns only after an acknowledgement, however long that takes.
    let mut source = MysqlServer::builder().semi_sync(Duration::from_secs(3600)).option("--sync-binlog=1").start()?;
    let highwater = scene(&source)?;
    highwater.configure("capture", "ack = \"local\"")?;
    let mut agent = highwater.agent()?;
    highwater.wait_for_dump(&mut agent)?;
    source.require_acks()?;
    let ledger = Ledger::start(&source, 3, Duration::ZERO);
    for kill in 0..kills {
        ledger.wait_for(20)?;
        std::thread::sleep(dice.millis(0, 700));
        source.kill()?;
        // Nothing comes from the source any more: what the agent has must be enough, even if the agent dies too.
        if dice.one_in(3) {
            agent.kill()?;
            agent = highwater.agent()?;
        }
        let seen = ledger.seen_committed();
        let mut found = Ok(());
        highwater
            .wait_until("archive of all that was seen committed", Duration::from_secs(60), &mut agent, |highwater| {
                found = Archived::read(highwater)?.require_markers(&seen);
                Ok(found.is_ok())
            })
            .with_context(|| format!("kill {kill}, seed {}: {found:?}", dice.seed()))?;
        source.start()?;
    }
    ledger.wait_for(50)?;
    println!("{kills} kills of the source, seed {}", dice.seed());
    require_all(&source, &highwater, agent, ledger)
}
