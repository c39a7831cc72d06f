//! What a source can do to a stream (faults 15, 20, 21, 25, 36, 37, 39, 40): the archive is its binlogs, byte for byte.
//!
//! `HIGHWATER_ROTATIONS` is the number of binlogs in the storm.

use std::time::Duration;

use anyhow::{Result, ensure};
use highwater::capture::AgentReport;
use highwater_tests::{Archived, Background, Installation, Ledger, MysqlServer, Protected, State, size_of_run};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn restarts_and_crashes_of_the_source_end_files_and_lose_nothing() -> Result<()> {
    let mut source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    source.restart()?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    let ledger = Ledger::start(&site.source, 2, Duration::from_millis(1));
    // A clean end has a STOP event; a kill leaves a file without an end.
    for clean in [true, false, false, true] {
        ledger.wait_for(40)?;
        if clean {
            site.source.stop()?;
        } else {
            site.source.kill()?;
        }
        site.source.start()?;
    }
    ledger.wait_for(40)?;
    let seen = ledger.stop()?;
    let archived = site.settle()?;
    archived.require_markers(&seen)?;
    ensure!(archived.timelines() == 1);
    site.require_restorable()?;
    Ok(())
}

#[test]
fn binlogs_of_another_base_name_are_the_same_history() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    let ledger = Ledger::start(&site.source, 1, Duration::from_millis(1));
    ledger.wait_for(40)?;
    site.source.stop()?;
    // The server knows nothing of its old files any more, but of the transactions in them.
    site.source.add_option("--log-bin=renamed");
    site.source.start()?;
    ledger.wait_for(40)?;
    let seen = ledger.stop()?;
    ensure!(site.source.binlogs()?.iter().all(|name| name.starts_with("renamed.")));
    let archived = site.settle()?;
    archived.require_markers(&seen)?;
    ensure!(archived.timelines() == 1);
    site.require_restorable()?;
    Ok(())
}

#[test]
fn a_storm_of_rotations_whose_numbers_get_a_digit_more_comes_through_in_order() -> Result<()> {
    let files = size_of_run("HIGHWATER_ROTATIONS", 40);
    let source = MysqlServer::builder().option("--max-binlog-size=4096").start()?;
    // The sixth file from here has seven digits, and sorts before the others.
    source.sql(&format!("RESET BINARY LOGS AND GTIDS TO {}", 1_000_000 - files.min(900) / 2))?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    let ledger = Ledger::start(&site.source, 1, Duration::from_millis(1));
    while site.source.binlogs()?.len() < files / 2 {
        site.source.sql(&"FLUSH BINARY LOGS;".repeat(5))?;
        ledger.wait_for(1)?;
    }
    // The other half is there at once when the agent comes.
    site.agent.kill()?;
    while site.source.binlogs()?.len() < files {
        site.source.sql(&"FLUSH BINARY LOGS;".repeat(5))?;
    }
    site.restart_agent(&[])?;
    let seen = ledger.stop()?;
    let archived = site.settle()?;
    archived.require_markers(&seen)?;
    let names = site.source.binlogs()?;
    ensure!(names.len() >= files && names.iter().any(|name| name == "binlog.1000000"), "{names:?}");
    println!("{} files, {} to {}", names.len(), names.first().map_or("", |n| n), names.last().map_or("", |n| n));
    site.require_restorable()?;
    Ok(())
}

#[test]
fn five_new_master_keys_and_encryption_switched_off_and_on_leave_the_stream_as_it_is() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    let ledger = Ledger::start(&site.source, 2, Duration::from_millis(1));
    for round in 0..5 {
        site.source.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")?;
        ledger.wait_for(15)?;
        if round % 2 == 0 {
            site.source.sql("SET GLOBAL binlog_encryption = OFF")?;
            ledger.wait_for(15)?;
            site.source.sql("SET GLOBAL binlog_encryption = ON")?;
            ledger.wait_for(15)?;
        }
    }
    let seen = ledger.stop()?;
    let listing = site.source.sql("SHOW BINARY LOGS")?;
    ensure!(listing.contains("Yes") && listing.contains("No"), "both kinds of files: {listing}");
    // The newest key is sealed in the archive before anybody needs it.
    site.source.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")?;
    let newest = newest_key(&site.source)?;
    site.highwater.wait_until("backup of the newest key", Duration::from_secs(60), &mut site.agent, |highwater| {
        Ok(highwater_tests::Archived::read(highwater)?.inventory.keys.iter().any(|keys| keys.key_ids.contains(&newest)))
    })?;
    site.settle()?.require_markers(&seen)?;
    site.require_restorable()?;
    Ok(())
}

/// The id of the newest binlog key in the keyring file, as the file itself spells it.
fn newest_key(source: &MysqlServer) -> Result<String> {
    let text = std::fs::read_to_string(source.keyring())?;
    let keyring: serde_json::Value = serde_json::from_str(&text)?;
    let ids = keyring["elements"].as_array().into_iter().flatten().filter_map(|key| key["data_id"].as_str());
    let newest = ids
        .filter(|id| id.starts_with("MySQLReplicationKey_"))
        .max_by_key(|id| id.rsplit('_').next().and_then(|number| number.parse::<u64>().ok()));
    newest.map(str::to_owned).ok_or_else(|| anyhow::anyhow!("no binlog key in the keyring"))
}

#[test]
fn checksums_switched_off_and_on_are_followed() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    let ledger = Ledger::start(&site.source, 2, Duration::from_millis(1));
    for checksum in ["NONE", "CRC32", "NONE", "CRC32"] {
        ledger.wait_for(20)?;
        // A connection of today, and one that begins inside a file without checksums.
        site.source.sql(&format!("SET GLOBAL binlog_checksum = {checksum}"))?;
        ledger.wait_for(20)?;
        site.catch_up()?;
        site.restart_agent(&[])?;
    }
    let seen = ledger.stop()?;
    site.settle()?.require_markers(&seen)?;
    site.require_restorable()?;
    Ok(())
}

#[test]
fn statements_partial_rows_and_compressed_transactions_come_back_as_they_were() -> Result<()> {
    let source = MysqlServer::builder().option("--local-infile=ON").start()?;
    source.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, a VARCHAR(3000), j JSON, k INT DEFAULT 7)",
    )?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    site.source.sql("CREATE TABLE d.m (id INT) ENGINE=MyISAM")?;
    for session in [
        "SET binlog_format = STATEMENT",
        "SET binlog_format = MIXED",
        "SET binlog_row_image = MINIMAL",
        "SET binlog_row_image = NOBLOB; SET GLOBAL binlog_row_metadata = FULL",
        "SET binlog_row_value_options = PARTIAL_JSON",
        "SET binlog_transaction_compression = ON",
        "SET binlog_transaction_compression = ON, binlog_transaction_compression_level_zstd = 19",
        "SET binlog_rows_query_log_events = ON",
    ] {
        site.source.sql(&format!(
            "{session}; SET @v = 3; USE d;
             INSERT INTO t (a, j) VALUES (REPEAT('x', 2000), '{{\"a\": 1, \"b\": [1, 2, 3]}}'), ('y', '{{\"a\": 2}}');
             INSERT INTO t (a, k) SELECT UPPER(a), @v FROM t WHERE id < 40;
             UPDATE t SET j = JSON_SET(j, '$.a', id), k = k + 1 WHERE j IS NOT NULL;
             BEGIN; INSERT INTO t (a) VALUES ('one'); SAVEPOINT s; INSERT INTO t (a) VALUES ('two'); ROLLBACK TO s;
             DELETE FROM t WHERE k > 11; COMMIT;
             INSERT INTO m VALUES (1); TRUNCATE TABLE m; FLUSH BINARY LOGS"
        ))?;
    }
    site.settle()?;
    site.require_restorable()?;
    Ok(())
}

#[test]
fn gtids_with_holes_out_of_order_and_of_other_servers_are_all_archived() -> Result<()> {
    let first = MysqlServer::builder().start()?;
    Ledger::create(&first)?;
    // A replica that commits in another order than its source did.
    let replica = MysqlServer::builder()
        .server_id(2)
        .option("--replica-parallel-workers=8")
        .option("--replica-preserve-commit-order=OFF")
        .start()?;
    replica.sql("RESET BINARY LOGS AND GTIDS")?;
    replica.replicate_from(&first)?;
    let ledger = Ledger::start(&first, 8, Duration::ZERO);
    ledger.wait_for(20)?;
    let mut site = Protected::of(replica, |_| Ok(()))?;
    ledger.wait_for(1500)?;
    // Names of its own choice, with holes that nobody fills.
    for number in [5, 900, 7, 6, 1_000_000] {
        site.source.sql(&format!(
            "SET gtid_next = '11111111-2222-3333-4444-555555555555:{number}'; CREATE DATABASE hole_{number}"
        ))?;
    }
    let seen = ledger.stop()?;
    site.source.sql(&format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{}', 60)", first.gtid_executed()?))?;
    site.source.sql("STOP REPLICA")?;
    let archived = site.settle()?;
    archived.require_markers(&seen)?;
    ensure!(archived.gtids().to_string() == site.source.gtid_executed()?, "{}", archived.gtids());
    let target = site.require_restorable()?;
    ensure!(State::read_blocking(&target)?.gtids() == site.source.gtid_executed()?);
    Ok(())
}

#[test]
fn an_agent_that_died_before_its_first_segment_waits_for_the_source_that_died_with_it() -> Result<()> {
    let mut source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let highwater = Installation::new(&source)?;
    // No segment by itself: everything is in the spool.
    highwater.change_config("segment_age_seconds = 1\n", "segment_age_seconds = 3600\n")?;
    // Nor does the first dump ask for one.
    let mut agent = highwater.agent_with(&[("FAILPOINTS", "dump.lock.before=sleep(60000)")])?;
    let in_the_spool = |agent: &mut Background, gtids: &str| {
        highwater.wait_until("spool with everything", Duration::from_secs(60), agent, |highwater| {
            Ok(AgentReport::read(&highwater.state())?.is_some_and(|report| report.spooled_gtids == gtids))
        })
    };
    let gtids = source.gtid_executed()?;
    in_the_spool(&mut agent, &gtids)?;
    agent.kill()?;
    source.kill()?;
    ensure!(Archived::read(&highwater)?.inventory.segments.is_empty(), "the agent was to die before");
    let mut agent = highwater.agent()?;
    // What the spool has goes to the store without the source, and then the agent is still there.
    highwater.wait_for_gtids(&mut agent, &gtids)?;
    source.start()?;
    source.sql("INSERT INTO ledger.entries VALUES (9, 1, '<entry.after>', '')")?;
    in_the_spool(&mut agent, &source.gtid_executed()?)?;
    agent.terminate(Duration::from_secs(30))?;
    let archived = Archived::read(&highwater)?;
    archived.require_equal(&source)?;
    ensure!(archived.timelines() == 1, "{} timelines", archived.timelines());
    Ok(())
}

/// Sets `gtid_mode`, which goes one step at a time.
fn step_gtid_mode(source: &MysqlServer, modes: &[&str]) -> Result<()> {
    modes.iter().try_for_each(|mode| source.sql(&format!("SET GLOBAL gtid_mode = {mode}")).map(drop))
}

#[test]
fn what_has_no_gtid_ends_the_timeline_and_another_begins_behind_it() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    // Permissive, and every transaction has a GTID all the same: nothing is lost.
    step_gtid_mode(&site.source, &["ON_PERMISSIVE"])?;
    site.source.sql("INSERT INTO ledger.entries VALUES (9, 1, '<entry.permissive>', '')")?;
    site.catch_up()?;
    step_gtid_mode(&site.source, &["OFF_PERMISSIVE"])?;
    site.source.sql("INSERT INTO ledger.entries VALUES (9, 2, '<entry.anonymous>', '')")?;
    let told = |highwater: &Installation| Ok(highwater.run(&["status"])?.text().contains("needed is ON"));
    site.highwater.wait_until("word of the setting", Duration::from_secs(60), &mut site.agent, told)?;
    step_gtid_mode(&site.source, &["ON_PERMISSIVE", "ON"])?;
    let second = |highwater: &Installation| Ok(Archived::read(highwater)?.timelines() == 2);
    site.highwater.wait_until("second timeline", Duration::from_secs(90), &mut site.agent, second)?;
    site.source.sql("INSERT INTO ledger.entries VALUES (9, 3, '<entry.after>', '')")?;
    site.catch_up()?;
    let dumped = |highwater: &Installation| {
        Ok(Archived::read(highwater)?.inventory.dumps.iter().any(|dump| dump.timeline.0 == 2))
    };
    site.highwater.wait_until("its dump", Duration::from_secs(60), &mut site.agent, dumped)?;
    let timelines = site.highwater.json(&["list", "timelines"])?;
    ensure!(timelines[1]["reason"].as_str().is_some_and(|reason| reason.contains("without a GTID")), "{timelines}");
    // What the archive can reach now has the transaction without a GTID too: it is in the dump.
    let target = MysqlServer::builder().server_id(2).start()?;
    site.highwater.restore(&target, &["--to", "latest"])?.success()?;
    let rows = Ledger::rows(&target)?;
    ensure!(
        ["permissive", "anonymous", "after"].iter().all(|name| rows.contains(&format!("<entry.{name}>"))),
        "{rows:?}"
    );
    Ok(())
}

#[test]
fn a_source_that_has_gtids_only_since_lately_is_captured_from_there_on() -> Result<()> {
    let source = MysqlServer::builder().option("--gtid-mode=OFF_PERMISSIVE").start()?;
    Ledger::create(&source)?;
    step_gtid_mode(&source, &["ON_PERMISSIVE", "ON"])?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    site.source.sql("INSERT INTO ledger.entries VALUES (9, 1, '<entry.first>', '')")?;
    site.catch_up()?;
    let target = MysqlServer::builder().server_id(2).start()?;
    site.highwater.restore(&target, &["--to", "latest"])?.success()?;
    ensure!(Ledger::rows(&target)?.contains("<entry.first>"));
    State::read_blocking(&site.source)?.require_equal(&State::read_blocking(&target)?)
}

/// With AFTER_SYNC a transaction is in the binlog, and not yet in `gtid_executed`, while it waits for us: to come back in that
/// time is no fork.
#[test]
fn a_transaction_that_waits_for_its_acknowledgement_is_none_of_another_history() -> Result<()> {
    for ack in ["local", "stored"] {
        let mut source = MysqlServer::builder().semi_sync(Duration::from_secs(600)).start()?;
        source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)")?;
        let highwater = Installation::new(&source)?;
        highwater.configure("capture", &format!("ack = \"{ack}\""))?;
        let mut agent = highwater.agent()?;
        highwater.wait_for_dump(&mut agent)?;
        source.require_acks()?;
        agent.kill()?;
        let mut agent = highwater.agent_with(&[("FAILPOINTS", "ack.before=return")])?;
        std::thread::scope(|scope| -> Result<()> {
            let waiting = scope.spawn(|| source.sql("INSERT INTO d.t VALUES (1)"));
            agent.wait(LIMIT)?;
            ensure!(!waiting.is_finished(), "the commit did not wait");
            agent = highwater.agent()?;
            waiting.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
            Ok(())
        })?;
        highwater.catch_up(&mut agent, &source)?;
        agent.terminate(LIMIT)?;
        let archived = Archived::read(&highwater)?;
        ensure!(archived.timelines() == 1, "{ack}: {}", agent.stderr());
        archived.require_equal(&source)?;
    }
    Ok(())
}
