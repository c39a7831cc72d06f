//! Sources whose history breaks (faults 16, 18 and 19): the old timeline stays restorable, a new one begins with a dump, and
//! everybody is told.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_tests::{Archived, MysqlServer, Protected, State};

const LIMIT: Duration = Duration::from_secs(60);

/// A source with a table, fully archived, and its state then; the agent is stopped.
fn archived_site() -> Result<(Protected, State)> {
    let mut site = Protected::start(MysqlServer::builder())?;
    site.source
        .sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, a TEXT); INSERT INTO d.t VALUES (1, 'old')")?;
    let state = State::read_blocking(&site.source)?;
    site.settle()?;
    Ok((site, state))
}

/// The agent finds the break: a second timeline with a dump of its own, told by the log; what it has is restorable, and
/// so is the last state before the break.
fn require_new_timeline(site: &mut Protected, before: &State, last_gtid: &str) -> Result<()> {
    site.restart_agent(&[])?;
    site.highwater.wait_until("dump of the new timeline", LIMIT, &mut site.agent, |highwater| {
        let inventory = Archived::read(highwater)?.inventory;
        Ok(inventory.timelines.len() == 2 && inventory.dumps.iter().any(|dump| dump.timeline.0 == 2))
    })?;
    site.source.sql("INSERT INTO d.t VALUES (100, 'after the break')")?;
    site.catch_up()?;
    let (ended, status) = site.status()?;
    ensure!(ended.code == Some(0) && status["breaks"].as_array().is_some_and(|all| all.len() == 1), "{ended:?}");
    ensure!(status["breaks"][0]["timeline"] == 2 && status["breaks"][0]["has_dump"] == true, "{status}");
    ensure!(ended_unprotected(site)?, "status did not end with code 5 before the dump");
    let metrics = std::fs::read_to_string(site.highwater.state().join("metrics.prom"))?;
    ensure!(metrics.contains("\nhighwater_timeline_breaks 1\n"), "{metrics}");
    let said = site.agent.stderr();
    ensure!(said.contains("ERROR") || said.contains("WARN"), "the log does not tell: {said}");
    let archived = site.settle()?;
    ensure!(archived.timelines() == 2, "{} timelines", archived.timelines());
    let reason = &archived.inventory.timelines[1].reason;
    println!("the new timeline's reason: {reason}");
    site.require_restorable().context("the new timeline")?;

    let target = MysqlServer::builder().server_id(3).start()?;
    site.highwater
        .restore(&target, &["--timeline", "1", "--to-gtid", last_gtid])?
        .success()
        .context("the old timeline")?;
    before.require_equal(&State::read_blocking(&target)?).context("the old timeline")
}

/// Without the new timeline's dump, `status` says so and ends with code 5.
fn ended_unprotected(site: &Protected) -> Result<bool> {
    let copy = site.highwater.copy()?;
    for dump in Archived::read(&copy)?.inventory.dumps.iter().filter(|dump| dump.timeline.0 == 2) {
        std::fs::remove_dir_all(copy.store().join("dumps").join(dump.id.to_string()))?;
    }
    let status = copy.run(&["status", "--json"])?;
    Ok(status.code == Some(5) && status.text().contains("\"has_dump\": false"))
}

#[test]
fn a_source_that_lost_its_tail_and_reuses_gtids_is_a_fork() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, a TEXT)")?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    site.catch_up()?;
    site.agent.terminate(LIMIT)?;
    let saved = tempfile::tempdir()?;
    site.source.save_data(&saved.path().join("data"))?;
    site.restart_agent(&[])?;
    let before = site.source.gtid_executed()?;
    site.source.sql("INSERT INTO d.t VALUES (1, 'captured, then lost by the source')")?;
    let lost = site.source.only_gtid_since(&before)?;
    let state = State::read_blocking(&site.source)?;
    site.catch_up()?;
    site.agent.terminate(LIMIT)?;
    // A machine comes back as it was before; the same GTID is given again, to other rows, and more follow.
    site.source.roll_back_to(&saved.path().join("data"))?;
    site.source.sql("INSERT INTO d.t VALUES (2, 'another'); INSERT INTO d.t VALUES (3, 'and one more')")?;
    ensure!(site.source.sql(&format!("SELECT GTID_SUBSET('{lost}', @@GLOBAL.gtid_executed)"))? == "1");
    require_new_timeline(&mut site, &state, &lost)
}

#[test]
fn a_source_that_was_reset_begins_a_new_timeline() -> Result<()> {
    let (mut site, state) = archived_site()?;
    let last = last_gtid(&state)?;
    site.source.sql("RESET BINARY LOGS AND GTIDS; INSERT INTO d.t VALUES (2, 'after the reset')")?;
    require_new_timeline(&mut site, &state, &last)
}

#[test]
fn a_source_that_was_reset_and_grew_past_the_old_place_is_noticed() -> Result<()> {
    let (mut site, state) = archived_site()?;
    let last = last_gtid(&state)?;
    // The same file name, more bytes and more transactions than before.
    let more: String = (10..40).map(|id| format!("INSERT INTO d.t VALUES ({id}, REPEAT('x', 500));")).collect();
    site.source.sql(&format!("RESET BINARY LOGS AND GTIDS; {more}"))?;
    require_new_timeline(&mut site, &state, &last)
}

#[test]
fn a_source_that_was_reset_and_given_its_gtids_back_is_noticed() -> Result<()> {
    let (mut site, state) = archived_site()?;
    let last = last_gtid(&state)?;
    // Its sets say that nothing is missing, and its binlog begins again under the old name with transactions that are new.
    let executed = site.source.gtid_executed()?;
    site.source.sql(&format!(
        "RESET BINARY LOGS AND GTIDS; SET GLOBAL gtid_purged = '{executed}'; INSERT INTO d.t VALUES (2, 'after the reset')"
    ))?;
    require_new_timeline(&mut site, &state, &last)
}

#[test]
fn a_binlog_taken_out_of_the_index_before_it_was_captured_is_a_gap() -> Result<()> {
    let (mut site, state) = archived_site()?;
    let last = last_gtid(&state)?;
    site.source.sql("FLUSH BINARY LOGS")?;
    let hidden = site.source.binlogs()?.pop().context("a binlog")?;
    let before = site.source.gtid_executed()?;
    site.source.sql("INSERT INTO d.t VALUES (2, 'in a file that is in no index')")?;
    let lost = site.source.only_gtid_since(&before)?;
    site.source.sql("FLUSH BINARY LOGS; INSERT INTO d.t VALUES (3, 'in the file behind it')")?;
    site.source.stop()?;
    let index = site.source.data().join("binlog.index");
    let names = fs::read_to_string(&index)?;
    let kept: String = names.lines().filter(|line| !line.ends_with(&hidden)).map(|line| format!("{line}\n")).collect();
    ensure!(kept.lines().count() + 1 == names.lines().count(), "{hidden} is not in the index");
    fs::write(&index, kept)?;
    site.source.start()?;
    require_new_timeline(&mut site, &state, &last)?;
    let reason = &Archived::read(&site.highwater)?.inventory.timelines[1].reason;
    ensure!(site.agent.stderr().contains(&lost) || reason.contains(&lost), "{lost} is not named: {reason}");
    Ok(())
}

#[test]
fn a_binlog_purged_before_it_was_captured_is_a_gap_with_its_exact_transactions() -> Result<()> {
    let (mut site, state) = archived_site()?;
    let last = last_gtid(&state)?;
    let before = site.source.gtid_executed()?;
    site.source.sql("INSERT INTO d.t VALUES (2, 'never captured')")?;
    let lost = site.source.only_gtid_since(&before)?;
    site.source.sql("FLUSH BINARY LOGS")?;
    let newest = site.source.binlogs()?.pop().context("a binlog")?;
    site.source.sql(&format!("PURGE BINARY LOGS TO '{newest}'"))?;
    require_new_timeline(&mut site, &state, &last)?;
    ensure!(
        site.agent.stderr().contains(&lost)
            || Archived::read(&site.highwater)?.inventory.timelines[1].reason.contains(&lost),
        "{lost} is not named: {}",
        site.agent.stderr()
    );
    // The moment in the gap cannot be had, and nothing else is given instead.
    let target = MysqlServer::builder().server_id(3).start()?;
    let refused = site.highwater.restore(&target, &["--to-gtid", &lost])?;
    ensure!(refused.code == Some(5), "{refused:?}");
    ensure!(target.sql("SHOW DATABASES LIKE 'd'")?.is_empty(), "something was restored");
    Ok(())
}

/// The newest transaction of a state with one server's GTIDs.
fn last_gtid(state: &State) -> Result<String> {
    let (server, numbers) = state.gtids().rsplit_once(':').context("a GTID set")?;
    let last = numbers.rsplit('-').next().context("an interval")?;
    Ok(format!("{server}:{last}"))
}
