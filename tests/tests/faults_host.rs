//! What the agent's own machine can do to it (faults 4, 5, 7, 27, 46 and 51).

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater::capture::{AgentReport, AgentState};
use highwater_tests::{Archived, Background, Ledger, MysqlServer, Protected, seen_by};

const LIMIT: Duration = Duration::from_secs(60);

/// What `status` says the agent does.
fn agent_state(site: &Protected) -> Result<String> {
    let (_, status) = site.status()?;
    Ok(status["agent"]["state"].as_str().unwrap_or_default().to_owned())
}

/// A source with a ledger, an archive with a dump, and no agent any more.
fn stopped_site() -> Result<Protected> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    site.settle()?;
    Ok(site)
}

#[test]
fn a_spool_that_fills_up_stops_the_reading_and_goes_on_when_there_is_space() -> Result<()> {
    let mut site = stopped_site()?;
    let spool = site.highwater.state().join("spool");
    fs::create_dir_all(&spool)?;
    // The store takes nothing either, so nothing leaves the spool.
    let mount = format!("mount -t tmpfs -o size=24m tmpfs {}", spool.display());
    site.agent = site.highwater.agent_after(&mount, &[])?;
    site.source.sql("CREATE TABLE ledger.big (id INT AUTO_INCREMENT PRIMARY KEY, a LONGBLOB)")?;
    site.catch_up()?;
    // Somebody else's file takes all the space.
    let filler = seen_by(&site.agent, &spool)?.join("filler");
    let _ = fs::write(&filler, vec![0; 32 << 20]);
    let ledger = Ledger::start(&site.source, 2, Duration::from_millis(1));
    site.source.sql("INSERT INTO ledger.big (a) VALUES (REPEAT('b', 1000000)), (REPEAT('c', 1000000))")?;
    ledger.wait_for(50)?;
    let spool_is_full = |site: &Protected| Ok::<_, anyhow::Error>(agent_state(site)? == "full");
    let started = std::time::Instant::now();
    while !spool_is_full(&site)? {
        ensure!(site.agent.is_running()?, "the agent ended: {}", site.agent.stderr());
        ensure!(started.elapsed() < LIMIT, "state {} and not full: {}", agent_state(&site)?, site.agent.stderr());
        std::thread::sleep(Duration::from_millis(100));
    }
    fs::remove_file(filler)?;
    let seen = ledger.stop()?;
    site.settle()?.require_markers(&seen)?;
    site.require_restorable().map(drop)
}

#[test]
fn errors_of_the_spools_disk_are_survived_without_trusting_it() -> Result<()> {
    let mut site = stopped_site()?;
    let ledger = Ledger::start(&site.source, 2, Duration::from_millis(1));
    for failpoint in [
        "spool.write=20*off->1*return(enospc)->off",
        "spool.write=9*off->3*return(eio)->off",
        "spool.fsync=7*off->1*return(eio)->off",
        "spool.fsync=1*return(eio)->5*off->1*return(enospc)->off",
        "spool.open=2*off->1*return(enospc)->off",
        "spool.front=2*off->1*return(enospc)->off",
    ] {
        site.restart_agent(&[("FAILPOINTS", failpoint)])?;
        ledger.wait_for(60)?;
        // It may end at a disk that fails, loudly; the next one goes on.
        if site.catch_up().is_err() {
            ensure!(!site.agent.is_running()?, "{failpoint}: neither on nor at an end: {}", site.agent.stderr());
            ensure!(site.agent.stderr().contains("error:"), "{failpoint}: {}", site.agent.stderr());
        }
        site.restart_agent(&[])?;
        let seen = ledger.seen_committed();
        site.catch_up().with_context(|| failpoint.to_owned())?;
        Archived::read(&site.highwater)?.require_markers(&seen).with_context(|| failpoint.to_owned())?;
    }
    let seen = ledger.stop()?;
    let archived = site.settle()?;
    archived.require_markers(&seen)?;
    ensure!(archived.timelines() == 1);
    Ok(())
}

#[test]
fn a_store_that_answers_with_errors_is_told_and_tried_again() -> Result<()> {
    let mut site = stopped_site()?;
    let ledger = Ledger::start(&site.source, 2, Duration::from_millis(1));
    for failpoint in [
        // At the start: the archive cannot be taken over yet.
        "store.create=2*return(eio)->off",
        "store.create=4*off->4*return(enospc)->off",
        "store.create=4*off->4*return(eio)->off",
        // While bytes are written, of objects that have no name yet.
        "store.write=4*off->4*return(enospc)->off",
    ] {
        site.restart_agent(&[("FAILPOINTS", failpoint)])?;
        let state = site.highwater.state();
        site.highwater.wait_until("blocked", LIMIT, &mut site.agent, |_| {
            let report = AgentReport::read(&state)?;
            let is_told = |error: &String| error.contains("Input/output error") || error.contains("No space left");
            Ok(report.is_some_and(|report| {
                report.state == AgentState::Blocked && report.last_error.as_ref().is_some_and(is_told)
            }))
        })?;
        let seen = ledger.seen_committed();
        site.catch_up().with_context(|| failpoint.to_owned())?;
        Archived::read(&site.highwater)?.require_markers(&seen).with_context(|| failpoint.to_owned())?;
    }
    let seen = ledger.stop()?;
    let archived = site.settle()?;
    archived.require_markers(&seen)?;
    ensure!(archived.timelines() == 1);
    Ok(())
}

/// The agent ends with an error that has a hint, and nothing new is in the store.
fn require_refusal(agent: &mut Background, words: &str) -> Result<()> {
    let status = agent.wait(LIMIT)?;
    let said = agent.stderr();
    ensure!(!status.success() && said.contains("error:") && said.contains(words), "{status}: {said}");
    Ok(())
}

#[test]
fn a_state_folder_that_cannot_be_written_is_refused() -> Result<()> {
    let mut site = stopped_site()?;
    let state = site.highwater.state().display().to_string();
    let read_only = format!("mount --bind {state} {state}; mount -o remount,bind,ro {state}");
    let mut agent = site.highwater.agent_after(&read_only, &[])?;
    require_refusal(&mut agent, &state)?;
    site.source.sql("INSERT INTO ledger.entries VALUES (9, 9, '', '')")?;
    site.restart_agent(&[])?;
    site.settle().map(drop)
}

#[test]
fn a_store_that_is_not_mounted_is_refused_and_never_made_again() -> Result<()> {
    let mut site = stopped_site()?;
    let store = site.highwater.store();
    let away = site.highwater.folder().join("unmounted");
    fs::rename(&store, &away)?;
    // Where the mount was is an empty folder.
    fs::create_dir(&store)?;
    let mut agent = site.highwater.agent()?;
    require_refusal(&mut agent, &store.display().to_string())?;
    ensure!(fs::read_dir(&store)?.next().is_none(), "something was written below the mount point");
    fs::remove_dir(&store)?;
    let mut agent = site.highwater.agent()?;
    require_refusal(&mut agent, &store.display().to_string())?;
    ensure!(!store.exists(), "the mount point was made");
    fs::rename(away, &store)?;
    site.restart_agent(&[])?;
    site.settle().map(drop)
}

#[test]
fn a_store_that_goes_away_and_comes_back_costs_nothing() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    let ledger = Ledger::start(&site.source, 2, Duration::from_millis(1));
    ledger.wait_for(50)?;
    let (store, away) = (site.highwater.store(), site.highwater.folder().join("unmounted"));
    fs::rename(&store, &away)?;
    ledger.wait_for(200)?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(!store.exists(), "the mount point was made");
    // A file system that is not mounted any more leaves the folder that it was mounted on.
    fs::create_dir(&store)?;
    ledger.wait_for(400)?;
    std::thread::sleep(Duration::from_secs(2));
    fs::remove_dir(&store).context("something was written to the mount point")?;
    fs::rename(away, &store)?;
    ensure!(site.agent.is_running()?, "the agent ended: {}", site.agent.stderr());
    let seen = ledger.stop()?;
    site.settle()?.require_markers(&seen)
}

#[test]
fn of_two_agents_on_one_archive_one_goes_on_and_the_other_ends() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    let ledger = Ledger::start(&site.source, 2, Duration::from_millis(1));
    ledger.wait_for(30)?;
    // The same folder: the second does not even begin.
    let mut second = Background::start(
        &mut site.highwater.programs().highwater(&site.highwater.config(), &["agent"]),
        &site.highwater.folder(),
        "second",
    )?;
    require_refusal(&mut second, "another agent")?;

    // A machine that was copied: another state folder, the same archive and the same server_id. The first one sleeps,
    // and wakes when the second has taken over.
    site.agent.signal("STOP")?;
    let config = site.highwater.folder().join("copied.toml");
    let text = fs::read_to_string(site.highwater.config())?;
    let state = site.highwater.state().display().to_string();
    fs::write(&config, text.replace(&state, &format!("{state}-copied")))?;
    let mut second = Background::start(
        &mut site.highwater.programs().highwater(&config, &["agent"]),
        &site.highwater.folder(),
        "second",
    )?;
    ledger.wait_for(50)?;
    site.highwater.catch_up(&mut second, &site.source)?;
    site.agent.signal("CONT")?;
    let status = site.agent.wait(Duration::from_secs(90)).context("the agent that slept goes on")?;
    let said = site.agent.stderr();
    ensure!(status.code() == Some(8) && said.contains("another agent writes this archive now"), "{status}: {said}");
    ledger.wait_for(30)?;
    ensure!(second.is_running()?, "the second ended too: {}", second.stderr());
    let seen = ledger.stop()?;
    site.agent = second;
    let archived = site.settle()?;
    archived.require_markers(&seen)?;
    ensure!(archived.timelines() == 1, "{} timelines", archived.timelines());
    Ok(())
}

#[test]
fn storms_of_signals_end_the_agent_in_order_and_lose_nothing() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    let ledger = Ledger::start(&site.source, 2, Duration::from_millis(1));
    for storm in [&["TERM"][..], &["INT"], &["TERM", "TERM", "INT", "TERM"], &["HUP", "HUP"], &["INT", "HUP", "TERM"]] {
        ledger.wait_for(30)?;
        for signal in storm {
            if site.agent.is_running()? {
                // It may end in between.
                let _ = site.agent.signal(signal);
            }
        }
        if !storm.contains(&"TERM") && !storm.contains(&"INT") {
            // A terminal that goes away may end it or not; both are in order.
            std::thread::sleep(Duration::from_millis(300));
        }
        if storm.contains(&"TERM") || storm.contains(&"INT") || !site.agent.is_running()? {
            site.agent.wait(Duration::from_secs(15)).with_context(|| format!("{storm:?}"))?;
        }
        site.restart_agent(&[])?;
    }
    let seen = ledger.stop()?;
    let archived = site.settle()?;
    archived.require_markers(&seen)?;
    ensure!(archived.timelines() == 1);
    Ok(())
}

#[test]
fn few_open_files_are_enough_and_too_few_are_told() -> Result<()> {
    let mut site = stopped_site()?;
    let ledger = Ledger::start(&site.source, 2, Duration::from_millis(1));
    let limited = |files: u32| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files}; exec \"$0\" --config \"$1\" agent")]);
        command.arg(&site.highwater.programs().highwater).arg(site.highwater.config());
        Background::start(&mut command, &site.highwater.folder(), "agent")
    };
    let mut agent = limited(64)?;
    ledger.wait_for(50)?;
    site.highwater.catch_up(&mut agent, &site.source).context("with 64 files")?;
    agent.terminate(LIMIT)?;
    // With hardly any it cannot work; it ends or waits, and says why.
    let mut agent = limited(9)?;
    std::thread::sleep(Duration::from_secs(1));
    let said = agent.stderr();
    ensure!(!said.contains("panicked"), "{said}");
    if agent.is_running()? {
        agent.kill()?;
    }
    site.restart_agent(&[])?;
    let seen = ledger.stop()?;
    site.settle()?.require_markers(&seen)
}

#[test]
fn an_agent_that_sleeps_acknowledges_nothing_and_the_source_goes_on_without_it() -> Result<()> {
    let source = MysqlServer::builder().semi_sync(Duration::from_millis(1500)).start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |highwater| highwater.configure("capture", "ack = \"local\""))?;
    site.source.require_acks()?;
    let insert = |site: &Protected, id: u32| {
        site.source.sql(&format!("INSERT INTO ledger.entries VALUES (9, {id}, '', '')")).map(drop)
    };
    insert(&site, 1)?;
    ensure!(site.source.is_semi_sync()?, "the source does not wait for us");
    wait_until_shown(&mut site, "synchronous")?;
    site.agent.signal("STOP")?;
    insert(&site, 2)?;
    ensure!(!site.source.is_semi_sync()?, "a sleeping agent acknowledged");
    // It acknowledges what it missed, and the source waits for it again.
    site.agent.signal("CONT")?;
    site.catch_up()?;
    let source = &site.source;
    site.highwater.wait_until("semi-sync again", LIMIT, &mut site.agent, |_| source.is_semi_sync())?;
    insert(&site, 3)?;
    // Whatever is configured here, the source decides.
    site.source.sql("SET GLOBAL rpl_semi_sync_source_enabled = OFF")?;
    wait_until_shown(&mut site, "disabled")?;
    site.settle().map(drop)
}

/// Waits until `status` says this about semi-sync.
fn wait_until_shown(site: &mut Protected, words: &str) -> Result<()> {
    site.highwater.wait_until(words, LIMIT, &mut site.agent, |highwater| {
        let status = highwater.json(&["status"])?;
        Ok(status["agent"]["semi_sync"].as_str().is_some_and(|shown| shown.starts_with(words)))
    })
}

#[test]
fn a_log_that_nobody_reads_any_more_does_not_end_the_agent() -> Result<()> {
    let mut site = stopped_site()?;
    let mut command = Command::new("bash");
    // The reader leaves after the first line; from then on writing to the log is an error.
    command.args(["-c", "exec \"$0\" -vv --config \"$1\" agent 2> >(head -n 1 >/dev/null)"]);
    command.arg(&site.highwater.programs().highwater).arg(site.highwater.config());
    site.agent = Background::start(&mut command, &site.highwater.folder(), "agent")?;
    let ledger = Ledger::start(&site.source, 2, Duration::from_millis(1));
    ledger.wait_for(50)?;
    let seen = ledger.stop()?;
    site.settle()?.require_markers(&seen)
}
