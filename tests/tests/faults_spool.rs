//! What can happen to the spool and its disk while the agent is dead, and to the store while the spool is full (faults 5, 8
//! and 22).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater::capture::{AgentReport, AgentState};
use highwater_tests::{Archived, MysqlServer, Protected, seen_by};

const LIMIT: Duration = Duration::from_secs(60);

/// A source, its archive, and an agent that cuts segments only when they are large.
fn site(capture: &str) -> Result<Protected> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, a TEXT)")?;
    Protected::of(source, |highwater| {
        highwater.change_config("segment_age_seconds = 1\n", &format!("segment_age_seconds = 3600\n{capture}\n"))
    })
}

/// Waits until this agent, and not one before it, reports that it has these transactions.
fn wait_until_spooled(site: &mut Protected, gtids: &str) -> Result<()> {
    let (state, pid) = (site.highwater.state(), site.agent.pid());
    site.highwater.wait_until("spool with everything", LIMIT, &mut site.agent, |_| {
        Ok(AgentReport::read(&state)?.is_some_and(|report| report.pid == pid && report.spooled_gtids == gtids))
    })
}

/// The agent dies with these rows in its spool alone; their transactions.
fn die_with_a_full_spool(site: &mut Protected) -> Result<String> {
    site.source.sql("INSERT INTO d.t VALUES (1, 'one')")?;
    site.source.sql("INSERT INTO d.t VALUES (2, REPEAT('t', 5000))")?;
    site.source.sql("INSERT INTO d.t VALUES (3, 'three'); INSERT INTO d.t VALUES (4, 'four')")?;
    let executed = site.source.gtid_executed()?;
    wait_until_spooled(site, &executed)?;
    site.agent.kill()?;
    ensure!(site.highwater.archived_gtids()?.to_string() != executed, "the spool is empty");
    Ok(executed)
}

/// The stretches in the spool, oldest first.
fn stretches(site: &Protected) -> Result<Vec<PathBuf>> {
    let mut found = site.highwater.spool()?;
    found.retain(|path| path.extension().is_some_and(|ending| ending == "stretch"));
    found.sort();
    Ok(found)
}

/// What the agent of a process in its own namespace reports.
fn report(site: &Protected) -> Result<Option<AgentReport>> {
    // It is not there at first.
    Ok(seen_by(&site.agent, &site.highwater.state()).ok().map(|state| AgentReport::read(&state)).transpose()?.flatten())
}

#[test]
fn a_spool_on_a_full_disk_is_published_by_the_next_start() -> Result<()> {
    let mut site = site("")?;
    let executed = die_with_a_full_spool(&mut site)?;
    let (spool, saved) = (site.highwater.state().join("spool"), site.highwater.folder().join("saved"));
    let (spool_text, saved_text) = (spool.display(), saved.display());
    // The spool on a disk of its own that somebody else's file has filled.
    let disk = format!(
        "cp -a {spool_text} {saved_text}; mount -t tmpfs -o size=16m tmpfs {spool_text}; rm -f {saved_text}/reserve; \
         cp -a {saved_text}/. {spool_text}; cat /dev/zero > {spool_text}/filler 2> /dev/null || true"
    );
    site.agent = site.highwater.agent_after(&disk, &[])?;
    site.highwater.wait_for_gtids(&mut site.agent, &executed)?;
    ensure!(site.agent.stderr().contains("no space"), "{}", site.agent.stderr());
    fs::remove_file(seen_by(&site.agent, &spool)?.join("filler"))?;
    site.source.sql("INSERT INTO d.t VALUES (5, 'five')")?;
    let spooled = site.source.gtid_executed()?;
    while report(&site)?.is_none_or(|report| report.spooled_gtids != spooled) {
        ensure!(site.agent.is_running()?, "the agent ended: {}", site.agent.stderr());
        std::thread::sleep(Duration::from_millis(100));
    }
    site.agent.terminate(LIMIT)?;
    Archived::read(&site.highwater)?.require_equal(&site.source)
}

#[test]
fn a_spool_that_filled_the_disk_which_sealing_needs_too_empties_when_the_store_is_back() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, a LONGBLOB)")?;
    let mut site = Protected::of(source, |highwater| {
        highwater.configure("capture", &format!("segment_bytes_max = {}", 48 << 20))?;
        // What two stores are to get is sealed beside the spool.
        let copy = highwater.folder().join("copy");
        let lines = format!("[[copies]]\nkind = \"directory\"\npath = \"{}\"\n\n[seal]\n", copy.display());
        highwater.change_config("[seal]\n", &lines)?;
        fs::create_dir(&copy)?;
        highwater.run(&["init"])?.success()?;
        Ok(())
    })?;
    site.settle()?;
    let state = site.highwater.state();
    let disk = format!("mount -t tmpfs -o size=96m tmpfs {}", state.display());
    site.agent = site.highwater.agent_after(&disk, &[])?;
    site.source.sql("INSERT INTO d.t (a) VALUES ('small')")?;
    site.catch_up()?;
    let (store, away) = (site.highwater.store(), site.highwater.folder().join("unmounted"));
    fs::rename(&store, &away)?;
    // More than the disk has, in transactions of 2 MB that nothing compresses.
    let row = "INSERT INTO d.t (a) VALUES (AES_ENCRYPT(REPEAT('r', 2000000), RANDOM_BYTES(32), RANDOM_BYTES(16)));";
    site.source.sql(&format!("SET block_encryption_mode = 'aes-256-cbc'; {}", row.repeat(60)))?;
    let started = std::time::Instant::now();
    while report(&site)?.is_none_or(|report| report.state != AgentState::Full) {
        ensure!(site.agent.is_running()?, "the agent ended: {}", site.agent.stderr());
        ensure!(started.elapsed() < LIMIT, "not full: {:?} {}", report(&site)?, site.agent.stderr());
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(!store.exists(), "the mount point was made");
    fs::rename(away, &store)?;
    site.settle()?;
    site.require_restorable().map(drop)
}

#[test]
fn a_spool_whose_key_is_gone_is_neither_read_nor_put_aside() -> Result<()> {
    let mut site = site("spool_keyring = \"spool-keyring\"")?;
    let executed = die_with_a_full_spool(&mut site)?;
    let before = stretches(&site)?;
    let newest = before.first().context("nothing is in the spool")?.display().to_string();
    let (keyring, away) = (site.highwater.folder().join("spool-keyring"), site.highwater.folder().join("unmounted"));
    fs::rename(&keyring, &away)?;
    let refused = |site: &mut Protected, words: &str| -> Result<()> {
        let mut agent = site.highwater.agent()?;
        let status = agent.wait(LIMIT)?;
        let said = agent.stderr();
        ensure!(status.code() == Some(3) && said.contains(&newest) && said.contains(words), "{status}: {said}");
        ensure!(stretches(site)? == before, "the spool was changed");
        Ok(())
    };
    refused(&mut site, &keyring.display().to_string())?;
    ensure!(!keyring.exists(), "another key was made");
    site.highwater.change_config("spool_keyring = \"spool-keyring\"\n", "")?;
    refused(&mut site, "capture.spool_keyring is not configured")?;
    site.highwater.configure("capture", "spool_keyring = \"spool-keyring\"")?;
    fs::rename(&away, &keyring)?;
    site.restart_agent(&[])?;
    site.highwater.wait_for_gtids(&mut site.agent, &executed)?;
    site.agent.terminate(LIMIT)?;
    Archived::read(&site.highwater)?.require_equal(&site.source)
}

/// Flips a byte in the middle of what a file has behind its format description.
fn damage(path: &Path) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let at = bytes.windows(5).position(|window| window == b"ttttt").context("the row is not there")?;
    bytes[at] ^= 1;
    Ok(fs::write(path, bytes)?)
}

#[test]
fn damage_in_the_spool_is_told_and_what_was_behind_it_is_fetched_again() -> Result<()> {
    let mut site = site("")?;
    let executed = die_with_a_full_spool(&mut site)?;
    damage(stretches(&site)?.last().context("nothing is in the spool")?)?;
    site.restart_agent(&[])?;
    wait_until_spooled(&mut site, &executed)?;
    ensure!(site.agent.stderr().contains("the spool is damaged"), "{}", site.agent.stderr());
    let status = site.highwater.run(&["status"])?;
    ensure!(status.text().contains("1 files put aside"), "{}", status.text());
    site.agent.terminate(LIMIT)?;
    Archived::read(&site.highwater)?.require_equal(&site.source)
}

#[test]
fn what_changed_in_the_spool_since_it_came_is_not_published_and_is_fetched_again() -> Result<()> {
    let mut site = site("")?;
    site.source.sql("INSERT INTO d.t VALUES (1, 'one'); INSERT INTO d.t VALUES (2, REPEAT('t', 5000))")?;
    let spooled = site.source.gtid_executed()?;
    wait_until_spooled(&mut site, &spooled)?;
    let file = stretches(&site)?.pop().context("nothing is in the spool")?;
    damage(&file)?;
    // A segment ends with its binlog.
    site.source.sql("FLUSH BINARY LOGS")?;
    let status = site.agent.wait(LIMIT)?;
    let said = site.agent.stderr();
    let is_told = said.contains(&format!("{} has changed on the disk", file.display())) && said.contains("CRC32");
    ensure!(status.code() == Some(4) && is_told, "{status}: {said}");
    ensure!(site.highwater.archived_gtids()?.to_string() != spooled, "it was published");
    ensure!(file.exists(), "it was removed");
    site.restart_agent(&[])?;
    site.source.sql("INSERT INTO d.t VALUES (3, 'three')")?;
    let executed = site.source.gtid_executed()?;
    wait_until_spooled(&mut site, &executed)?;
    let status = site.highwater.run(&["status"])?;
    ensure!(status.text().contains("files put aside"), "{}", status.text());
    site.agent.terminate(LIMIT)?;
    Archived::read(&site.highwater)?.require_equal(&site.source)
}

#[test]
fn a_spool_that_cannot_be_read_is_kept_as_it_is() -> Result<()> {
    let mut site = site("")?;
    let executed = die_with_a_full_spool(&mut site)?;
    let before = stretches(&site)?;
    site.restart_agent(&[("FAILPOINTS", "spool.read=return(eio)")])?;
    let status = site.agent.wait(LIMIT)?;
    let said = site.agent.stderr();
    ensure!(status.code() == Some(1) && said.contains("Input/output error"), "{status}: {said}");
    ensure!(!before.is_empty() && stretches(&site)? == before, "{before:?}, then {:?}", stretches(&site)?);
    site.restart_agent(&[])?;
    site.highwater.wait_for_gtids(&mut site.agent, &executed)?;
    site.agent.terminate(LIMIT)?;
    Archived::read(&site.highwater)?.require_equal(&site.source)
}

/// An older copy of the store is put back while a newer part of the history waits in the spool.
#[test]
fn a_spool_that_is_ahead_of_an_older_copy_of_the_store_leaves_no_hole() -> Result<()> {
    let mut site = site("")?;
    let (store, copy) = (site.highwater.store(), site.highwater.folder().join("older"));
    let away = site.highwater.folder().join("away");
    let rotate = |site: &mut Protected, id: u32| -> Result<()> {
        site.source.sql(&format!("INSERT INTO d.t VALUES ({id}, 'row'); FLUSH BINARY LOGS"))?;
        let executed = site.source.gtid_executed()?;
        wait_until_spooled(site, &executed)
    };
    rotate(&mut site, 10)?;
    site.catch_up()?;
    ensure!(std::process::Command::new("cp").arg("-a").args([&store, &copy]).status()?.success());
    // In the store, and not in the older copy of it.
    rotate(&mut site, 11)?;
    site.catch_up()?;
    // In the spool alone.
    fs::rename(&store, &away)?;
    rotate(&mut site, 12)?;
    rotate(&mut site, 13)?;
    site.agent.kill()?;
    fs::rename(&copy, &store)?;
    let mut refused = site.highwater.agent()?;
    let status = refused.wait(LIMIT)?;
    ensure!(status.code() == Some(4), "{status}: {}", refused.stderr());
    site.highwater.run(&["catalog", "rebuild"])?.success()?;
    site.restart_agent(&[])?;
    site.catch_up()?;
    site.agent.terminate(LIMIT)?;
    ensure!(site.agent.stderr().contains("does not follow"), "{}", site.agent.stderr());
    let archived = Archived::read(&site.highwater)?;
    ensure!(archived.timelines() == 1, "{} timelines", archived.timelines());
    archived.require_equal(&site.source)
}

/// The same while the agent runs: nothing is published behind what is not there any more.
#[test]
fn an_older_copy_of_the_store_under_a_running_agent_is_told_and_not_gone_on_with() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, a TEXT)")?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    let (store, copy) = (site.highwater.store(), site.highwater.folder().join("older"));
    let away = site.highwater.folder().join("away");
    site.source.sql("INSERT INTO d.t VALUES (1, 'one')")?;
    site.catch_up()?;
    ensure!(std::process::Command::new("cp").arg("-a").args([&store, &copy]).status()?.success());
    site.source.sql("INSERT INTO d.t VALUES (2, 'two')")?;
    site.catch_up()?;
    fs::rename(&store, &away)?;
    fs::rename(&copy, &store)?;
    let before = site.highwater.archived_gtids()?;
    site.source.sql("INSERT INTO d.t VALUES (3, 'three')")?;
    let state = site.highwater.state();
    site.highwater.wait_until("blocked", LIMIT, &mut site.agent, |_| {
        let is_told = |error: &String| error.contains("is not in") && error.contains("any more");
        Ok(AgentReport::read(&state)?.is_some_and(|report| {
            report.state == AgentState::Blocked && report.last_error.as_ref().is_some_and(is_told)
        }))
    })?;
    ensure!(site.highwater.archived_gtids()? == before, "something was published behind a hole");
    // It was a mistake.
    fs::rename(&store, &copy)?;
    fs::rename(&away, &store)?;
    site.settle().map(drop)
}
