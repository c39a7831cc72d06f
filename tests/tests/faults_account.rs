//! What happens to the agent's account and to the servers that may take the source's place, while it runs (faults 17, 18 and 45).

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater::capture::AgentReport;
use highwater_tests::{Archived, Background, Ledger, MysqlServer, Pair, Protected, State};

const LIMIT: Duration = Duration::from_secs(60);

/// Ends every connection of the agent, so that it has to log in again.
fn disconnect(source: &MysqlServer) -> Result<()> {
    let ids = source.sql("SELECT id FROM performance_schema.processlist WHERE user = 'highwater'")?;
    for id in ids.lines() {
        // One that ended by itself is gone as well.
        let _ = source.sql(&format!("KILL {id}"));
    }
    Ok(())
}

/// Waits until the agent's last error has these words; it must not end.
fn wait_for_error(site: &mut Protected, words: &str) -> Result<()> {
    site.highwater.wait_until("word of the error", LIMIT, &mut site.agent, |highwater| {
        let status = highwater.run(&["--json", "status"])?;
        let status: serde_json::Value = serde_json::from_slice(&status.stdout)?;
        Ok(status["agent"]["last_error"].as_str().is_some_and(|error| error.contains(words)))
    })
}

fn protected() -> Result<Protected> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    site.catch_up()?;
    Ok(site)
}

#[test]
fn a_password_changed_under_a_running_agent_is_read_again() -> Result<()> {
    let mut site = protected()?;
    site.source.sql("ALTER USER 'highwater'@'%' IDENTIFIED BY 'another one'")?;
    disconnect(&site.source)?;
    wait_for_error(&mut site, "denied")?;
    site.source.sql("INSERT INTO ledger.entries VALUES (9, 1, '<entry.meanwhile>', '')")?;
    site.highwater.write_secret(&site.highwater.password(), "another one")?;
    site.catch_up()?;
    ensure!(Archived::read(&site.highwater)?.timelines() == 1);
    Ok(())
}

#[test]
fn a_privilege_revoked_under_a_running_agent_is_named_and_its_return_noticed() -> Result<()> {
    let mut site = protected()?;
    site.source.sql("REVOKE REPLICATION SLAVE ON *.* FROM 'highwater'@'%'")?;
    disconnect(&site.source)?;
    wait_for_error(&mut site, "REPLICATION SLAVE")?;
    site.source.sql(
        "INSERT INTO ledger.entries VALUES (9, 1, '<entry.meanwhile>', '');
         GRANT REPLICATION SLAVE ON *.* TO 'highwater'@'%'",
    )?;
    site.catch_up()?;
    ensure!(Archived::read(&site.highwater)?.timelines() == 1);
    Ok(())
}

/// A source with a ledger and a replica that has all of it.
fn pair() -> Result<Pair> {
    let pair = Pair::start(MysqlServer::builder())?;
    Ledger::create(&pair.source)?;
    pair.wait_for_replica()?;
    Ok(pair)
}

/// Writes one entry, whose marker has this name; returns its GTID.
fn write(server: &MysqlServer, sequence: u32, name: &str) -> Result<String> {
    let before = server.gtid_executed()?;
    server.sql(&format!("INSERT INTO ledger.entries VALUES (9, {sequence}, '<entry.{name}>', '')"))?;
    server.only_gtid_since(&before)
}

/// Purges all binlogs but a new one.
fn purge(server: &MysqlServer) -> Result<()> {
    server.sql("FLUSH BINARY LOGS")?;
    let newest = server.binlogs()?.pop().context("a binlog")?;
    server.sql(&format!("PURGE BINARY LOGS TO '{newest}'")).map(drop)
}

/// The agent catches up with a server, which is the one it captures now, and has all that was written in one history.
fn require_no_break(pair: &Pair, agent: &mut Background, server: &MysqlServer, names: &[&str]) -> Result<()> {
    pair.highwater.catch_up(agent, server)?;
    let status = pair.highwater.run(&["--json", "status"])?;
    let told: serde_json::Value = serde_json::from_slice(&status.stdout)?;
    ensure!(status.code == Some(0) && told["breaks"] == serde_json::json!([]), "code {:?}: {told}", status.code);
    let captured = AgentReport::read(&pair.highwater.state())?.and_then(|report| report.server_uuid);
    ensure!(captured == Some(server.uuid()?), "captured is {captured:?}");
    agent.terminate(LIMIT)?;
    let archived = Archived::read(&pair.highwater)?;
    ensure!(archived.timelines() == 1, "{} timelines", archived.timelines());
    archived.require_equal(server)?;
    archived.require_markers(&names.iter().map(|name| format!("<entry.{name}>")).collect())?;
    let target = MysqlServer::builder().server_id(3).start()?;
    pair.highwater.restore(&target, &["--to", "latest"])?.success()?;
    State::read_blocking(server)?.require_equal(&State::read_blocking(&target)?)
}

/// A pair that is captured up to now; the agent is stopped.
fn captured_pair() -> Result<Pair> {
    let pair = pair()?;
    let mut agent = pair.highwater.agent()?;
    pair.highwater.wait_for_dump(&mut agent)?;
    pair.highwater.catch_up(&mut agent, &pair.source)?;
    agent.terminate(LIMIT)?;
    Ok(pair)
}

#[test]
fn a_host_that_still_has_what_the_source_purged_is_asked_before_it_is_a_gap() -> Result<()> {
    let pair = captured_pair()?;
    write(&pair.source, 1, "purged")?;
    pair.wait_for_replica()?;
    purge(&pair.source)?;
    write(&pair.source, 2, "kept")?;
    pair.wait_for_replica()?;
    let mut agent = pair.highwater.agent()?;
    require_no_break(&pair, &mut agent, &pair.replica, &["purged", "kept"])
}

#[test]
fn a_host_that_has_the_binlog_which_is_not_in_the_sources_index_is_asked_before_it_is_a_gap() -> Result<()> {
    let mut pair = captured_pair()?;
    pair.source.sql("FLUSH BINARY LOGS")?;
    write(&pair.source, 1, "hidden")?;
    pair.wait_for_replica()?;
    pair.source.hide_newest_binlog("INSERT INTO ledger.entries VALUES (9, 2, '<entry.behind>', '')")?;
    // What it had before the source was restarted is enough.
    pair.replica.sql("STOP REPLICA; START REPLICA")?;
    pair.wait_for_replica()?;
    let mut agent = pair.highwater.agent()?;
    require_no_break(&pair, &mut agent, &pair.replica, &["hidden", "behind"])
}

#[test]
fn a_host_with_the_same_history_goes_on_where_the_source_lost_a_binlog_that_was_captured() -> Result<()> {
    let mut pair = pair()?;
    let mut agent = pair.highwater.agent()?;
    pair.highwater.wait_for_dump(&mut agent)?;
    pair.source.sql("FLUSH BINARY LOGS")?;
    write(&pair.source, 1, "captured")?;
    pair.highwater.catch_up(&mut agent, &pair.source)?;
    agent.terminate(LIMIT)?;
    pair.source.hide_newest_binlog("INSERT INTO ledger.entries VALUES (9, 2, '<entry.behind>', '')")?;
    pair.replica.sql("STOP REPLICA; START REPLICA")?;
    pair.wait_for_replica()?;
    let mut agent = pair.highwater.agent()?;
    require_no_break(&pair, &mut agent, &pair.replica, &["captured", "behind"])
}

/// A host without checksums, in front of transactions that we have, sends a format description that it changed, and leaves
/// the checksum as it was. It does so for its first binlog after a start alone.
#[test]
fn a_host_without_checksums_goes_on_inside_its_first_binlog() -> Result<()> {
    let mut pair = pair()?;
    pair.replica.stop()?;
    pair.replica.add_option("--binlog-checksum=NONE");
    pair.replica.start()?;
    pair.replica.sql("STOP REPLICA; START REPLICA")?;
    write(&pair.source, 1, "of-both")?;
    pair.wait_for_replica()?;
    let mut agent = pair.highwater.agent()?;
    pair.highwater.wait_for_dump(&mut agent)?;
    pair.highwater.catch_up(&mut agent, &pair.source)?;
    agent.terminate(LIMIT)?;
    write(&pair.source, 2, "purged")?;
    pair.wait_for_replica()?;
    purge(&pair.source)?;
    let mut agent = pair.highwater.agent()?;
    pair.highwater.catch_up(&mut agent, &pair.replica)?;
    agent.terminate(LIMIT)?;
    let archived = Archived::read(&pair.highwater)?;
    ensure!(archived.timelines() == 1, "{} timelines: {}", archived.timelines(), agent.stderr());
    let newest = pair.replica.remote_binlogs()?.pop_last().context("a binlog")?;
    archived.require_binlog(&pair.replica.uuid()?, &newest.0, &newest.1)?;
    archived.require_markers(&["<entry.of-both>".to_owned(), "<entry.purged>".to_owned()].into())?;
    let target = MysqlServer::builder().server_id(3).start()?;
    pair.highwater.restore(&target, &["--to", "latest"])?.success()?;
    State::read_blocking(&pair.replica)?.require_equal(&State::read_blocking(&target)?)
}

/// No host has them all: the gap is that of the host which lacks least, and capture goes on there.
#[test]
fn what_no_host_has_is_the_gap_and_nothing_else() -> Result<()> {
    for source_has_more in [true, false] {
        let pair = captured_pair()?;
        let lost = write(&pair.source, 1, "lost")?;
        pair.wait_for_replica()?;
        let (poor, rich) = if source_has_more { (&pair.replica, &pair.source) } else { (&pair.source, &pair.replica) };
        purge(rich)?;
        write(&pair.source, 2, "of-one-host")?;
        pair.wait_for_replica()?;
        purge(poor)?;
        let mut agent = pair.highwater.agent()?;
        pair.highwater.wait_until("dump of a new timeline", LIMIT, &mut agent, |highwater| {
            Ok(highwater.inventory()?.dumps.iter().any(|dump| dump.timeline.0 == 2))
        })?;
        pair.highwater.catch_up(&mut agent, rich)?;
        agent.terminate(LIMIT)?;
        let archived = Archived::read(&pair.highwater)?;
        ensure!(archived.timelines() == 2, "{} timelines", archived.timelines());
        let reason = &archived.inventory.timelines[1].reason;
        ensure!(reason.starts_with("gap") && reason.ends_with(&format!(": {lost}")), "not {lost} alone: {reason}");
        archived.require_markers(&["<entry.of-one-host>".to_owned()].into())?;
        ensure!(!archived.markers().contains_key("<entry.lost>"), "it was not lost");
        let refused = pair.highwater.restore(&pair.replica, &["--to-gtid", &lost])?;
        ensure!(refused.code == Some(5), "{refused:?}");
    }
    Ok(())
}

/// A replica that has received all that the source committed, and executed less of it than the archive has.
fn lagging_pair() -> Result<(Pair, Background)> {
    let pair = pair()?;
    let mut agent = pair.highwater.agent()?;
    pair.highwater.wait_for_dump(&mut agent)?;
    pair.replica.sql("STOP REPLICA SQL_THREAD")?;
    write(&pair.source, 1, "late")?;
    pair.highwater.catch_up(&mut agent, &pair.source)?;
    wait_for_relay_log(&pair)?;
    Ok((pair, agent))
}

/// Waits until the replica has received all that the source committed.
fn wait_for_relay_log(pair: &Pair) -> Result<()> {
    let received = format!(
        "SELECT GTID_SUBSET('{}', CONCAT(received_transaction_set, ',', @@GLOBAL.gtid_executed))
         FROM performance_schema.replication_connection_status",
        pair.source.gtid_executed()?
    );
    let started = Instant::now();
    while pair.replica.sql(&received)? != "1" {
        ensure!(started.elapsed() < LIMIT, "the replica does not receive");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The agent finds the replica behind the archive; when that has caught up, capture goes on from it.
fn require_lag_waited_for(pair: &Pair, agent: &mut Background, names: &[&str]) -> Result<()> {
    let lacks = "transactions that the source does not have";
    let started = Instant::now();
    while !agent.stderr().contains(lacks) {
        ensure!(started.elapsed() < LIMIT && agent.is_running()?, "not found to lag: {}", agent.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
    pair.replica.sql("START REPLICA SQL_THREAD")?;
    let received =
        pair.replica.sql("SELECT received_transaction_set FROM performance_schema.replication_connection_status")?;
    pair.replica.sql(&format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{received}', 60)"))?;
    write(&pair.replica, 2, "after")?;
    require_no_break(pair, agent, &pair.replica, names)
}

#[test]
fn what_the_source_purged_is_no_gap_while_a_replica_that_lags_may_have_it() -> Result<()> {
    let (pair, mut agent) = lagging_pair()?;
    agent.terminate(LIMIT)?;
    write(&pair.source, 3, "purged")?;
    wait_for_relay_log(&pair)?;
    purge(&pair.source)?;
    let mut agent = pair.highwater.agent()?;
    require_lag_waited_for(&pair, &mut agent, &["late", "purged", "after"])
}

#[test]
fn what_the_source_purged_is_no_gap_while_a_host_that_is_away_may_have_it() -> Result<()> {
    let mut pair = captured_pair()?;
    write(&pair.source, 1, "purged")?;
    pair.wait_for_replica()?;
    pair.replica.kill()?;
    purge(&pair.source)?;
    let mut agent = pair.highwater.agent()?;
    let started = std::time::Instant::now();
    while !agent.stderr().contains("gap: ") {
        ensure!(agent.is_running()? && started.elapsed() < LIMIT, "no gap is told: {}", agent.stderr());
        std::thread::sleep(Duration::from_millis(100));
    }
    pair.replica.start()?;
    write(&pair.source, 2, "after")?;
    pair.wait_for_replica()?;
    require_no_break(&pair, &mut agent, &pair.replica, &["purged", "after"])
}

#[test]
fn what_the_source_purged_is_its_gap_when_a_replica_lags_and_is_not_waited_for() -> Result<()> {
    let (pair, mut agent) = lagging_pair()?;
    agent.terminate(LIMIT)?;
    let lost = write(&pair.source, 3, "purged")?;
    purge(&pair.source)?;
    pair.highwater.configure("capture", "replica_lag_seconds_max = 0")?;
    let mut agent = pair.highwater.agent()?;
    pair.highwater.wait_until("dump of a new timeline", LIMIT, &mut agent, |highwater| {
        Ok(highwater.inventory()?.dumps.iter().any(|dump| dump.timeline.0 == 2))
    })?;
    // A fork would begin with the replica, and lose what the archive has of the source.
    let timelines = pair.highwater.inventory()?.timelines;
    let reason = &timelines.last().context("a timeline")?.reason;
    ensure!(timelines.len() == 2 && reason.starts_with("gap") && reason.ends_with(&format!(": {lost}")), "{reason}");
    write(&pair.source, 4, "after")?;
    pair.highwater.catch_up(&mut agent, &pair.source)
}

#[test]
fn a_replica_that_lags_after_a_failover_is_captured_when_it_has_caught_up() -> Result<()> {
    let (mut pair, mut agent) = lagging_pair()?;
    pair.source.kill()?;
    require_lag_waited_for(&pair, &mut agent, &["late", "after"])
}

#[test]
fn a_replica_that_lags_and_is_the_source_from_now_on_is_captured_when_it_has_caught_up() -> Result<()> {
    let (pair, mut agent) = lagging_pair()?;
    agent.terminate(LIMIT)?;
    let failover = format!("failover = [\"127.0.0.1:{}\"]\n", pair.replica.port());
    pair.highwater.change_config(&failover, "")?;
    pair.highwater
        .change_config(&format!("port = {}\n", pair.source.port()), &format!("port = {}\n", pair.replica.port()))?;
    let mut agent = pair.highwater.agent()?;
    require_lag_waited_for(&pair, &mut agent, &["late", "after"])
}

#[test]
fn a_host_that_lacks_transactions_is_waited_for_as_long_as_configured_and_is_a_fork_then() -> Result<()> {
    const LAG_SECONDS: u64 = 6;
    let Pair { mut source, replica, highwater } = pair()?;
    highwater.configure("capture", &format!("replica_lag_seconds_max = {LAG_SECONDS}"))?;
    replica.sql("STOP REPLICA; RESET REPLICA ALL")?;
    let mut agent = highwater.agent()?;
    source.sql("CREATE TABLE d.only_here (id INT)")?;
    highwater.catch_up(&mut agent, &source)?;
    highwater.wait_for_dump(&mut agent)?;
    source.kill()?;
    let started = Instant::now();
    highwater
        .wait_until("new timeline", LIMIT, &mut agent, |highwater| Ok(Archived::read(highwater)?.timelines() == 2))?;
    ensure!(started.elapsed() >= Duration::from_secs(LAG_SECONDS), "it was not waited for: {:?}", started.elapsed());
    let reason = Archived::read(&highwater)?.inventory.timelines[1].reason.clone();
    ensure!(reason.starts_with("fork") && reason.contains("does not have"), "{reason}");
    highwater.wait_until("dump of it", LIMIT, &mut agent, |highwater| {
        Ok(Archived::read(highwater)?.inventory.dumps.iter().any(|dump| dump.timeline.0 == 2))
    })
}
