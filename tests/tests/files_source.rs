//! The agent beside a running server, reading the binlogs on its disk (`capture.source = "files"`; faults 15, 16, 18, 19, 20,
//! 21 and 25): the archive is the one that replication would have made.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_tests::{Archived, Installation, Ledger, MysqlServer, Protected, State};

const LIMIT: Duration = Duration::from_secs(60);

/// Makes an installation read the files of a server.
fn from_files(highwater: &Installation, source: &MysqlServer) -> Result<()> {
    highwater.configure("capture", &format!("source = \"files\"\ndatadir = \"{}\"", source.data().display()))
}

/// A server whose files are captured, with a first dump.
fn site(source: MysqlServer) -> Result<Protected> {
    let datadir = source.data();
    Protected::of(source, |highwater| {
        highwater.configure("capture", &format!("source = \"files\"\ndatadir = \"{}\"", datadir.display()))
    })
}

#[test]
fn files_and_replication_give_the_same_archive() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let by_replication = Installation::new(&source)?;
    let mut replica = by_replication.agent()?;
    by_replication.wait_for_dump(&mut replica)?;
    let mut site = site(source)?;
    let ledger = Ledger::start(&site.source, 3, Duration::from_millis(1));
    for round in 0..6 {
        ledger.wait_for(40)?;
        site.source.sql(match round % 3 {
            0 => "ALTER INSTANCE ROTATE BINLOG MASTER KEY",
            1 => "SET GLOBAL binlog_encryption = OFF; FLUSH BINARY LOGS; SET GLOBAL binlog_encryption = ON",
            _ => {
                "SET GLOBAL binlog_checksum = NONE; CREATE TABLE IF NOT EXISTS ledger.big (a LONGBLOB);
                  INSERT INTO ledger.big VALUES (REPEAT('b', 3000000)); SET GLOBAL binlog_checksum = CRC32;
                  SET SESSION binlog_transaction_compression = ON; INSERT INTO ledger.big VALUES (REPEAT('c', 300000))"
            }
        })?;
    }
    let seen = ledger.stop()?;
    by_replication.catch_up(&mut replica, &site.source)?;
    let status = replica.terminate(LIMIT)?;
    ensure!(status.code() == Some(0), "{}", replica.stderr());
    // Settling compares every binlog with what mysqlbinlog fetches.
    let files = site.settle()?;
    let replication = Archived::read(&by_replication)?;
    replication.require_equal(&site.source)?;
    ensure!(files.binlogs.len() > 10, "{:?}", files.binlogs.keys());
    ensure!(files.binlogs.keys().eq(replication.binlogs.keys()), "other binlogs");
    let differs = files.binlogs.iter().find(|(place, binlog)| replication.binlogs.get(place) != Some(binlog));
    ensure!(differs.is_none(), "{:?} differs", differs.map(|(place, _)| place));
    files.require_markers(&seen)?;
    site.require_restorable()?;
    Ok(())
}

#[test]
fn restarts_and_crashes_of_server_and_agent_lose_nothing() -> Result<()> {
    let source = MysqlServer::builder().option("--sync-binlog=1").start()?;
    Ledger::create(&source)?;
    let mut site = site(source)?;
    let ledger = Ledger::start(&site.source, 3, Duration::from_millis(1));
    for round in 0..2 {
        ledger.wait_for(60)?;
        site.source.kill()?;
        site.source.start()?;
        ledger.wait_for(60)?;
        // While the agent is dead, keys change and binlogs that it has are purged.
        site.agent.kill()?;
        site.source.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")?;
        ledger.wait_for(60)?;
        site.restart_agent(&[])?;
        ledger.wait_for(30)?;
        site.source.restart()?;
        ledger.wait_for(30)?;
        site.catch_up()?;
        println!("round {round}: {} binlogs", site.source.binlogs()?.len());
    }
    let newest = site.source.binlogs()?.pop().context("a binlog")?;
    site.source.sql(&format!("PURGE BINARY LOGS TO '{newest}'"))?;
    ledger.wait_for(60)?;
    let seen = ledger.stop()?;
    let archived = site.settle()?;
    ensure!(archived.timelines() == 1, "a restart opened a timeline");
    archived.require_markers(&seen)?;
    let target = site.require_restorable()?;
    ensure!(seen.is_subset(&Ledger::rows(&target)?), "entries are missing");
    Ok(())
}

#[test]
fn a_storm_of_rotations_is_followed() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = site(source)?;
    let ledger = Ledger::start(&site.source, 2, Duration::ZERO);
    for _ in 0..15 {
        site.source.sql("FLUSH BINARY LOGS; FLUSH BINARY LOGS; ALTER INSTANCE ROTATE BINLOG MASTER KEY")?;
        ledger.wait_for(3)?;
    }
    let seen = ledger.stop()?;
    let archived = site.settle()?;
    ensure!(archived.timelines() == 1 && archived.binlogs.len() >= 45, "{:?}", archived.binlogs.keys());
    archived.require_markers(&seen)
}

/// The agent opens a second timeline with a dump; both are restorable.
fn require_new_timeline(site: &mut Protected, before: &State) -> Result<()> {
    site.highwater.wait_until("dump of the new timeline", LIMIT, &mut site.agent, |highwater| {
        let inventory = Archived::read(highwater)?.inventory;
        Ok(inventory.timelines.len() == 2 && inventory.dumps.iter().any(|dump| dump.timeline.0 == 2))
    })?;
    site.source.sql("INSERT INTO d.t VALUES (1000, 'after the break')")?;
    let archived = site.settle()?;
    ensure!(archived.timelines() == 2, "{} timelines", archived.timelines());
    site.require_restorable().context("the new timeline")?;
    let (server, numbers) = before.gtids().rsplit_once(':').context("a GTID set")?;
    let last = format!("{server}:{}", numbers.rsplit('-').next().context("an interval")?);
    let target = MysqlServer::builder().server_id(3).start()?;
    let old = site.highwater.restore(&target, &["--timeline", "1", "--to-gtid", &last])?;
    old.success().context("the old timeline")?;
    before.require_equal(&State::read_blocking(&target)?).context("the old timeline")
}

/// A captured server with a table.
fn site_with_table() -> Result<(Protected, State)> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, a TEXT)")?;
    let mut site = site(source)?;
    site.source.sql("INSERT INTO d.t VALUES (1, 'old'), (2, 'older')")?;
    let state = State::read_blocking(&site.source)?;
    site.catch_up()?;
    Ok((site, state))
}

#[test]
fn a_reset_under_a_running_agent_begins_a_new_timeline() -> Result<()> {
    let (mut site, before) = site_with_table()?;
    let more: String = (10..40).map(|id| format!("INSERT INTO d.t VALUES ({id}, REPEAT('x', 500));")).collect();
    site.source.sql(&format!("RESET BINARY LOGS AND GTIDS; {more}"))?;
    require_new_timeline(&mut site, &before)
}

#[test]
fn a_server_that_lost_what_was_read_from_its_disk_is_a_fork() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, a TEXT)")?;
    let mut site = site(source)?;
    site.catch_up()?;
    let saved = tempfile::tempdir()?;
    site.source.save_data(&saved.path().join("data"))?;
    site.source.sql("INSERT INTO d.t VALUES (1, 'in the file, never on the disk')")?;
    let before = State::read_blocking(&site.source)?;
    site.catch_up()?;
    // The machine goes down, and the agent with it.
    site.agent.signal("STOP")?;
    site.source.roll_back_to(&saved.path().join("data"))?;
    site.agent.signal("CONT")?;
    site.source.sql("INSERT INTO d.t VALUES (2, 'another'); INSERT INTO d.t VALUES (3, 'and one more')")?;
    require_new_timeline(&mut site, &before)
}

#[test]
fn binlogs_purged_before_they_were_read_are_a_gap() -> Result<()> {
    let (mut site, before) = site_with_table()?;
    site.agent.terminate(LIMIT)?;
    let executed = site.source.gtid_executed()?;
    site.source.sql("INSERT INTO d.t VALUES (5, 'never captured')")?;
    let lost = site.source.only_gtid_since(&executed)?;
    site.source.sql("FLUSH BINARY LOGS")?;
    let newest = site.source.binlogs()?.pop().context("a binlog")?;
    site.source.sql(&format!("PURGE BINARY LOGS TO '{newest}'"))?;
    site.restart_agent(&[])?;
    require_new_timeline(&mut site, &before)?;
    ensure!(Archived::read(&site.highwater)?.inventory.timelines[1].reason.contains(&lost), "{lost} is not named");
    Ok(())
}

#[test]
fn a_login_to_another_server_than_that_of_the_files_is_told() -> Result<()> {
    let (source, other) = (MysqlServer::builder().start()?, MysqlServer::builder().server_id(2).start()?);
    let highwater = Installation::new(&other)?;
    from_files(&highwater, &source)?;
    let mut agent = highwater.agent()?;
    let told = format!("the binlogs captured are those of {}", source.uuid()?);
    highwater.wait_until("warning", LIMIT, &mut agent, |highwater| {
        Ok(fs::read_to_string(highwater.state().join("agent.json")).is_ok_and(|report| report.contains(&told)))
    })?;
    ensure!(agent.stderr().contains(&told), "{}", agent.stderr());
    Ok(())
}

#[test]
fn without_gtids_an_empty_newest_binlog_begins_no_second_timeline() -> Result<()> {
    let source = MysqlServer::builder().without_gtids().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); FLUSH BINARY LOGS; FLUSH BINARY LOGS")?;
    let highwater = Installation::new(&source)?;
    source.sql("FLUSH BINARY LOGS")?;
    let datadir = source.data().display().to_string();
    highwater.configure("capture", &format!("source = \"files\"\ndatadir = \"{datadir}\"\nallow_positions = true"))?;
    let mut agent = highwater.agent()?;
    highwater.wait_for_dump(&mut agent)?;
    let newest = source.binlogs()?.pop().context("a binlog")?;
    source.sql("INSERT INTO d.t VALUES (1)")?;
    highwater.wait_until("transaction", LIMIT, &mut agent, |highwater| {
        let segments = Archived::read(highwater)?.inventory.segments;
        Ok(segments.iter().any(|segment| segment.binlog.as_str() == newest && segment.transactions > 0))
    })?;
    let status = agent.terminate(LIMIT)?;
    ensure!(status.code() == Some(0), "{}", agent.stderr());
    let archived = Archived::read(&highwater)?;
    ensure!(archived.timelines() == 1, "{:?}", archived.inventory.timelines);
    archived.require_equal(&source)
}

#[test]
fn another_base_name_of_the_binlogs_is_told() -> Result<()> {
    let (mut site, _) = site_with_table()?;
    site.source.add_option("--log-bin=other");
    site.source.restart()?;
    site.source.sql("INSERT INTO d.t VALUES (50, 'in the other binlog')")?;
    let Protected { highwater, agent, .. } = &mut site;
    let told = "the server goes on in";
    highwater.wait_until("notice", LIMIT, agent, |highwater| {
        let report = fs::read_to_string(highwater.state().join("agent.json")).unwrap_or_default();
        Ok(report.contains(told) && report.contains("other.index"))
    })?;
    ensure!(agent.stderr().contains(told), "{}", agent.stderr());
    Ok(())
}

#[test]
fn without_a_login_binlogs_are_captured_and_dumps_are_told_to_be_missing() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d")?;
    let highwater = Installation::new(&source)?;
    from_files(&highwater, &source)?;
    let text = fs::read_to_string(highwater.config())?;
    let (from, to) = (text.find("[source]").context("[source]")?, text.find("[store]").context("[store]")?);
    fs::write(highwater.config(), format!("{}{}", &text[..from], &text[to..]))?;
    let mut agent = highwater.agent()?;
    highwater.wait_for_gtids(&mut agent, &source.gtid_executed()?)?;
    ensure!(agent.stderr().contains("takes no dumps"), "{}", agent.stderr());
    let status = agent.terminate(LIMIT)?;
    ensure!(status.code() == Some(0), "{}", agent.stderr());
    Archived::read(&highwater)?.require_equal(&source)
}
