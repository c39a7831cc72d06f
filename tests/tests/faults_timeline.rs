//! Sources whose history breaks (faults 16, 18 and 19): the old timeline stays restorable, a new one begins with a dump, and
//! everybody is told.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_tests::{Archived, BinlogPlace, MysqlServer, Protected, State};

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
    require_break(site)?;
    site.require_restorable().context("the new timeline")?;
    let target = MysqlServer::builder().server_id(3).start()?;
    site.highwater
        .restore(&target, &["--timeline", "1", "--to-gtid", last_gtid])?
        .success()
        .context("the old timeline")?;
    before.require_equal(&State::read_blocking(&target)?).context("the old timeline")
}

/// The agent finds the break: a second timeline with a dump of its own, told by the log, by `status` and its exit code.
fn require_break(site: &mut Protected) -> Result<Archived> {
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
    Ok(archived)
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
    let before = site.source.gtid_executed()?;
    site.source.sql("INSERT INTO d.t VALUES (2, 'in a file that is in no index')")?;
    let lost = site.source.only_gtid_since(&before)?;
    site.source.hide_newest_binlog("INSERT INTO d.t VALUES (3, 'in the file behind it')")?;
    require_new_timeline(&mut site, &state, &last)?;
    let reason = &Archived::read(&site.highwater)?.inventory.timelines[1].reason;
    ensure!(site.agent.stderr().contains(&lost) || reason.contains(&lost), "{lost} is not named: {reason}");
    Ok(())
}

/// A site whose last transaction is in a binlog of its own; all of it is captured, and the source will lose that binlog.
fn site_with_a_binlog_to_lose() -> Result<(Protected, State)> {
    let (mut site, _) = archived_site()?;
    site.restart_agent(&[])?;
    site.source.sql("FLUSH BINARY LOGS; INSERT INTO d.t VALUES (2, 'captured')")?;
    site.catch_up()?;
    let state = State::read_blocking(&site.source)?;
    site.settle()?;
    Ok((site, state))
}

/// What was in the lost binlog cannot be compared.
fn require_gone(site: &mut Protected, before: &State) -> Result<()> {
    require_gap(site, before, &last_gtid(before)?, "the source no longer has binlog.")
}

/// One break, for this reason, with a dump; what was captured before it is restorable, and so is what comes now. The source
/// itself cannot be asked for all of its binlogs.
fn require_gap(site: &mut Protected, before: &State, last_gtid: &str, words: &str) -> Result<()> {
    site.restart_agent(&[])?;
    site.highwater.wait_until("dump of the new timeline", LIMIT, &mut site.agent, |highwater| {
        Ok(highwater.inventory()?.dumps.iter().any(|dump| dump.timeline.0 == 2))
    })?;
    site.source.sql("INSERT INTO d.t VALUES (100, 'after the break')")?;
    site.highwater.catch_up(&mut site.agent, &site.source)?;
    site.agent.terminate(LIMIT)?;
    let timelines = site.highwater.inventory()?.timelines;
    ensure!(timelines.len() == 2, "{timelines:?}");
    let reason = &timelines[1].reason;
    ensure!(reason.starts_with("gap: ") && reason.contains(words), "{reason}");
    for (point, state) in [
        (["--timeline", "1", "--to-gtid", last_gtid], before),
        (["--timeline", "2", "--to", "latest"], &State::read_blocking(&site.source)?),
    ] {
        let target = MysqlServer::builder().server_id(3).start()?;
        site.highwater.restore(&target, &point)?.success()?;
        state.require_equal(&State::read_blocking(&target)?)?;
    }
    Ok(())
}

#[test]
fn a_captured_binlog_taken_out_of_the_index_cannot_be_compared() -> Result<()> {
    let (mut site, state) = site_with_a_binlog_to_lose()?;
    site.source.hide_newest_binlog("INSERT INTO d.t VALUES (3, 'in the file behind it')")?;
    require_gone(&mut site, &state)
}

#[test]
fn a_captured_binlog_whose_file_was_removed_cannot_be_compared() -> Result<()> {
    let (mut site, state) = site_with_a_binlog_to_lose()?;
    let lost = site.source.binlogs()?.pop().context("a binlog")?;
    site.source.sql("FLUSH BINARY LOGS; INSERT INTO d.t VALUES (3, 'in the file behind it')")?;
    std::fs::remove_file(site.source.data().join(lost))?;
    require_gone(&mut site, &state)
}

#[test]
fn a_binlog_whose_file_was_removed_before_it_was_captured_is_a_gap_with_its_exact_transactions() -> Result<()> {
    let (mut site, state) = archived_site()?;
    let last = last_gtid(&state)?;
    site.source.sql("FLUSH BINARY LOGS")?;
    let before = site.source.gtid_executed()?;
    site.source.sql("INSERT INTO d.t VALUES (2, 'in a file that is removed')")?;
    let lost = site.source.only_gtid_since(&before)?;
    let removed = site.source.binlogs()?.pop().context("a binlog")?;
    site.source.sql("FLUSH BINARY LOGS; INSERT INTO d.t VALUES (3, 'in the file behind it')")?;
    std::fs::remove_file(site.source.data().join(removed))?;
    require_gap(&mut site, &state, &last, &format!("that it did not send: {lost}"))
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

/// A source without GTIDs, captured by positions.
fn site_by_position() -> Result<Protected> {
    let source = MysqlServer::builder().without_gtids().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, a LONGTEXT)")?;
    let mut site = Protected::of(source, |highwater| highwater.configure("capture", "allow_positions = true"))?;
    site.catch_up()?;
    Ok(site)
}

/// Another history stands under the names and offsets of the archive: a new timeline has it, and the old one has what
/// the server had before, byte for byte.
fn require_fork_by_position(site: &mut Protected, before: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let archived = require_break(site)?;
    let reason = &archived.inventory.timelines[1].reason;
    ensure!(reason.starts_with("fork") && reason.contains("differs from the archive"), "{reason}");
    for (name, theirs) in before {
        let server = site.source.uuid()?;
        let place = BinlogPlace { timeline: 1, server, name: name.clone() };
        let ours = archived.binlogs.get(&place).with_context(|| format!("{name} is not in the old timeline"))?;
        let is_it = matches!(ours.as_slice(), [all] if all.start == 0 && all.bytes == *theirs);
        ensure!(is_it, "{name} in the old timeline is not what the server had");
    }
    site.highwater.run(&["verify"])?.success()?;
    Ok(())
}

#[test]
fn a_source_without_gtids_that_was_rolled_back_has_other_bytes_at_the_same_place_and_is_a_fork() -> Result<()> {
    let mut site = site_by_position()?;
    site.agent.terminate(LIMIT)?;
    let saved = tempfile::tempdir()?;
    site.source.save_data(&saved.path().join("data"))?;
    site.restart_agent(&[])?;
    site.source.sql("INSERT INTO d.t VALUES (1, 'captured, then lost')")?;
    site.settle()?;
    let before = site.source.remote_binlogs()?;
    // The same name, and every event where it was: only its bytes are others.
    site.source.roll_back_to(&saved.path().join("data"))?;
    site.source.sql("INSERT INTO d.t VALUES (2, 'in its place is now'); INSERT INTO d.t VALUES (3, 'more')")?;
    let (newest, now) = site.source.remote_binlogs()?.pop_last().context("a binlog")?;
    ensure!(before.get(&newest).is_some_and(|before| before.len() < now.len()), "{newest} is not the same file again");
    require_fork_by_position(&mut site, &before)
}

#[test]
fn a_source_without_gtids_that_was_reset_has_no_event_at_the_old_place_and_is_a_fork() -> Result<()> {
    let mut site = site_by_position()?;
    site.source.sql("INSERT INTO d.t VALUES (1, 'old')")?;
    site.settle()?;
    let before = site.source.remote_binlogs()?;
    ensure!(before.len() == 1, "{} binlogs", before.len());
    // One event covers the old place, so the server cannot read its binlog from there.
    site.source.sql("RESET BINARY LOGS AND GTIDS; INSERT INTO d.t VALUES (2, REPEAT('x', 1000000))")?;
    ensure!(site.source.binlogs()? == before.keys().cloned().collect::<Vec<_>>(), "another name");
    require_fork_by_position(&mut site, &before)
}

/// The source is gone, and a restore of it takes its place.
fn replace_source(site: &mut Protected, point: &[&str]) -> Result<()> {
    let restored = MysqlServer::builder().server_id(5).start()?;
    site.highwater.restore(&restored, point)?.success()?;
    site.highwater.change_source(&site.source, &restored)?;
    site.source = restored;
    Ok(())
}

#[test]
fn a_restored_server_goes_on_in_the_same_timeline_as_another_server() -> Result<()> {
    let (mut site, _) = archived_site()?;
    let first = site.source.uuid()?;
    replace_source(&mut site, &["--to", "latest"])?;
    site.source.sql("INSERT INTO d.t VALUES (2, 'after the restore')")?;
    site.restart_agent(&[])?;
    site.catch_up()?;
    let (ended, status) = site.status()?;
    ensure!(ended.code == Some(0) && status["breaks"] == serde_json::json!([]), "{ended:?}");
    site.agent.terminate(LIMIT)?;
    let archived = Archived::read(&site.highwater)?;
    ensure!(archived.timelines() == 1, "{} timelines", archived.timelines());
    archived.require_equal(&site.source)?;
    let second = site.source.uuid()?;
    let servers: Vec<&str> = archived.binlogs.keys().map(|place| place.server.as_str()).collect();
    ensure!(servers.contains(&first.as_str()) && servers.contains(&second.as_str()), "{servers:?}");
    let restored = site.require_restorable()?;
    ensure!(restored.sql("SELECT a FROM d.t ORDER BY id")? == "old\nafter the restore");
    Ok(())
}

#[test]
fn a_server_restored_to_an_earlier_point_is_a_fork() -> Result<()> {
    let (mut site, earlier) = archived_site()?;
    let point = last_gtid(&earlier)?;
    site.restart_agent(&[])?;
    site.source.sql("INSERT INTO d.t VALUES (2, 'a mistake')")?;
    let state = State::read_blocking(&site.source)?;
    site.settle()?;
    replace_source(&mut site, &["--to-gtid", &point])?;
    earlier.require_equal(&State::read_blocking(&site.source)?)?;
    site.source.sql("INSERT INTO d.t VALUES (3, 'after the restore')")?;
    let mistake = last_gtid(&state)?;
    require_new_timeline(&mut site, &state, &mistake)?;
    let reason = &Archived::read(&site.highwater)?.inventory.timelines[1].reason;
    ensure!(reason.starts_with("fork") && reason.contains(&mistake), "{mistake} is not named: {reason}");
    ensure!(site.agent.stderr().contains("was reset, restored or"), "{}", site.agent.stderr());
    Ok(())
}

/// The newest transaction of a state with one server's GTIDs.
fn last_gtid(state: &State) -> Result<String> {
    let (server, numbers) = state.gtids().rsplit_once(':').context("a GTID set")?;
    let last = numbers.rsplit('-').next().context("an interval")?;
    Ok(format!("{server}:{last}"))
}
