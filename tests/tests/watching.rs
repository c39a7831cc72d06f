//! What the agent tells about itself and its source (faults 18 and 46): the report, the metrics and the plug-in's line say what
//! is true now.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_tests::{Finished, Ledger, MysqlServer, Protected};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

/// Waits until the report of the agent is as wanted; the agent may be dead.
fn wait_for_report(site: &Protected, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let started = Instant::now();
    loop {
        let (_, status) = site.status()?;
        if wanted(&status["agent"]) {
            return Ok(status);
        }
        ensure!(started.elapsed() < LIMIT, "no {what}: {}; {}", status["agent"], site.agent.stderr());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn metric(site: &Protected, name: &str) -> Result<String> {
    let text = fs::read_to_string(site.highwater.state().join("metrics.prom"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(str::to_owned).with_context(|| format!("no {name} in {text}"))
}

/// The plug-in's line; an idle source is no reason to warn here.
fn nagios(site: &Protected) -> Result<Finished> {
    site.highwater.run(&["status", "--nagios", "--warn-lag", "86400", "--critical-lag", "86400"])
}

/// A source that waits for the agent's acknowledgements.
fn acknowledged_site() -> Result<Protected> {
    let source = MysqlServer::builder().semi_sync(Duration::from_millis(1500)).start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |highwater| highwater.configure("capture", "ack = \"local\""))?;
    site.source.require_acks()?;
    site.source.sql("INSERT INTO ledger.entries VALUES (9, 1, '<entry.first>', '')")?;
    wait_for_report(&site, "semi-sync", |agent| agent["synchronous"] == true)?;
    Ok(site)
}

#[test]
fn a_source_that_is_gone_is_not_called_synchronous() -> Result<()> {
    let mut site = acknowledged_site()?;
    let before = site.highwater.state().join("metrics.prom");
    ensure!(before.is_file() && metric(&site, "highwater_source_semi_sync")? == "1");
    ensure!(nagios(&site)?.code == Some(0), "{:?}", nagios(&site)?);
    site.source.kill()?;
    let status = wait_for_report(&site, "word of the loss", |agent| agent["synchronous"] == false)?;
    ensure!(status["agent"]["semi_sync"].as_str().is_some_and(|text| text.starts_with("unknown")), "{status}");
    let started = Instant::now();
    while metric(&site, "highwater_source_semi_sync")? != "0" {
        ensure!(started.elapsed() < LIMIT, "the metric says that commits wait");
        std::thread::sleep(Duration::from_millis(100));
    }
    let told = nagios(&site)?;
    ensure!(matches!(told.code, Some(1 | 2)) && told.text().contains("not connected"), "{told:?}");
    site.source.start()?;
    wait_for_report(&site, "semi-sync again", |agent| agent["synchronous"] == true)?;
    ensure!(nagios(&site)?.code == Some(0), "{:?}", nagios(&site)?);
    // An agent that ended is no protection either.
    site.agent.terminate(LIMIT)?;
    let told = nagios(&site)?;
    ensure!(told.code == Some(2) && told.text().contains("stopped"), "{told:?}");
    ensure!(metric(&site, "highwater_source_semi_sync")? == "0");
    Ok(())
}

#[test]
fn an_agent_that_died_is_critical_when_it_has_been_silent() -> Result<()> {
    let mut site = Protected::of(MysqlServer::builder().start()?, |_| Ok(()))?;
    wait_for_report(&site, "stream", |agent| agent["state"] == "streaming")?;
    ensure!(nagios(&site)?.code == Some(0), "{:?}", nagios(&site)?);
    site.agent.kill()?;
    // Two minutes later.
    let path = site.highwater.state().join("agent.json");
    let mut report: Value = serde_json::from_slice(&fs::read(&path)?)?;
    let said = report["updated_us"].as_u64().context("a time")?;
    report["updated_us"] = (said - 120_000_000).into();
    fs::write(&path, report.to_string())?;
    let told = nagios(&site)?;
    ensure!(told.code == Some(2) && told.text().contains("the agent has said nothing"), "{told:?}");
    let (_, status) = site.status()?;
    ensure!(status["agent_troubles"][0]["level"] == "critical", "{status}");
    Ok(())
}

#[test]
fn commits_that_another_replica_may_acknowledge_are_not_called_ours() -> Result<()> {
    let site = acknowledged_site()?;
    site.source.sql("CREATE USER repl IDENTIFIED BY 'pw'; GRANT REPLICATION SLAVE ON *.* TO repl")?;
    let replica = MysqlServer::builder().server_id(2).option("--plugin-load-add=semisync_replica.so").start()?;
    replica.sql(&format!(
        "RESET BINARY LOGS AND GTIDS; SET GLOBAL rpl_semi_sync_replica_enabled = ON;
         CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={}, SOURCE_USER='repl', SOURCE_PASSWORD='pw',
         SOURCE_AUTO_POSITION=1, SOURCE_SSL=1; START REPLICA",
        site.source.port()
    ))?;
    let status = wait_for_report(&site, "word of the other one", |agent| agent["synchronous"] == false)?;
    let said = status["agent"]["semi_sync"].as_str().unwrap_or_default().to_owned();
    ensure!(said.contains("2 replicas") && said.contains("wait_for_replica_count = 2"), "{said}");
    let told = nagios(&site)?;
    ensure!(told.code == Some(1) && told.text().contains("do not wait for the agent"), "{told:?}");
    site.source.sql("SET GLOBAL rpl_semi_sync_source_wait_for_replica_count = 2")?;
    wait_for_report(&site, "semi-sync with both", |agent| agent["synchronous"] == true)?;
    replica.sql("STOP REPLICA")?;
    site.source.sql("SET GLOBAL rpl_semi_sync_source_wait_for_replica_count = 1")?;
    wait_for_report(&site, "semi-sync with us alone", |agent| agent["synchronous"] == true)?;
    Ok(())
}

#[test]
fn every_unfit_setting_is_warned_of_with_its_remedy_and_its_change_is_recorded() -> Result<()> {
    let settings = [
        ("binlog_format", "ROW", "STATEMENT"),
        ("binlog_row_image", "FULL", "MINIMAL"),
        ("binlog_checksum", "CRC32", "NONE"),
        ("binlog_encryption", "ON", "OFF"),
        ("binlog_expire_logs_seconds", "2592000", "3600"),
        ("sync_binlog", "1", "0"),
        ("innodb_flush_log_at_trx_commit", "1", "2"),
    ];
    let site = Protected::of(MysqlServer::builder().start()?, |_| Ok(()))?;
    let watched = |agent: &Value| agent["watched"]["settings"]["sync_binlog"] == "1";
    let status = wait_for_report(&site, "look at the source", watched)?;
    ensure!(status["agent"]["watched"]["warnings"].as_array().is_some_and(Vec::is_empty), "{status}");
    for (name, _, unfit) in settings {
        site.source.sql(&format!("SET GLOBAL {name} = {unfit}"))?;
    }
    let changed = |agent: &Value| agent["watched"]["changes"].as_array().is_some_and(|all| all.len() >= settings.len());
    let status = wait_for_report(&site, "changes", changed)?;
    let watched = &status["agent"]["watched"];
    let warnings: Vec<&str> = watched["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, fit, unfit) in settings {
        let remedy = format!("SET PERSIST {name} = ");
        ensure!(warnings.iter().any(|warning| warning.contains(&remedy)), "{remedy}: {warnings:?}");
        let recorded = |change: &Value| change["setting"] == name && change["from"] == fit && change["to"] == unfit;
        ensure!(watched["changes"].as_array().is_some_and(|all| all.iter().any(recorded)), "{name}: {watched}");
    }
    let told = site.highwater.run(&["doctor"])?.success()?.text();
    ensure!(settings.iter().all(|(name, ..)| told.contains(&format!("SET PERSIST {name} = "))), "{told}");
    // What the statements say mends it.
    for (name, fit, _) in settings {
        site.source.sql(&format!("SET GLOBAL {name} = {fit}"))?;
    }
    let mended = |agent: &Value| agent["watched"]["warnings"].as_array().is_some_and(Vec::is_empty);
    wait_for_report(&site, "end of the warnings", mended)?;
    Ok(())
}

#[test]
fn what_the_source_will_purge_before_it_is_captured_is_told_in_time() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    source.sql("CREATE TABLE ledger.big (id INT AUTO_INCREMENT PRIMARY KEY, a LONGBLOB)")?;
    let mut site = Protected::of(source, |highwater| highwater.configure("capture", "spool_bytes_max = 67108864"))?;
    site.catch_up()?;
    let away = site.highwater.folder().join("away");
    fs::rename(site.highwater.store(), &away)?;
    for _ in 0..30 {
        site.source.sql("INSERT INTO ledger.big (a) VALUES (REPEAT('b', 3000000)); FLUSH BINARY LOGS")?;
    }
    site.source.sql("SET GLOBAL binlog_expire_logs_seconds = 1000")?;
    let report =
        || -> Result<Value> { Ok(serde_json::from_slice(&fs::read(site.highwater.state().join("agent.json"))?)?) };
    let started = Instant::now();
    let seconds = loop {
        if let Some(seconds) = report()?["watched"]["purge_in_seconds"].as_u64().filter(|seconds| *seconds <= 1000) {
            break seconds;
        }
        ensure!(started.elapsed() < LIMIT, "no time is told: {}", report()?);
        std::thread::sleep(Duration::from_millis(100));
    };
    ensure!(seconds > 700, "{seconds} s of 1000");
    ensure!(report()?["state"] == "full", "{}", report()?);
    fs::rename(&away, site.highwater.store())?;
    wait_for_report(&site, "all of it", |agent| agent["watched"]["purge_in_seconds"].is_null())?;
    site.catch_up()
}
