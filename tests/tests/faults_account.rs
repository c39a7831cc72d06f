//! What happens to the agent's account and to the servers that may take the source's place, while it runs (faults 17 and 45).

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use highwater_tests::{Archived, Installation, Ledger, MysqlServer, Protected};

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

#[test]
fn a_host_that_lacks_transactions_is_waited_for_as_long_as_configured_and_is_a_fork_then() -> Result<()> {
    const LAG_SECONDS: u64 = 6;
    let mut source = MysqlServer::builder().start()?;
    let replica = MysqlServer::builder().server_id(2).start()?;
    replica.sql("RESET BINARY LOGS AND GTIDS")?;
    source.sql("CREATE USER repl IDENTIFIED BY 'pw'; GRANT REPLICATION SLAVE ON *.* TO repl; CREATE DATABASE d")?;
    let highwater = Installation::new(&source)?;
    let authorities = [&source, &replica].map(|server| fs::read_to_string(&server.tls().ca)).into_iter();
    let authorities = authorities.collect::<std::io::Result<String>>()?;
    fs::write(highwater.folder().join("authorities.pem"), authorities)?;
    highwater.change_config(&source.tls().ca.display().to_string(), "authorities.pem")?;
    highwater.configure("source", &format!("failover = [\"127.0.0.1:{}\"]", replica.port()))?;
    highwater.configure("capture", &format!("replica_lag_seconds_max = {LAG_SECONDS}"))?;
    replica.sql(&format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={}, SOURCE_USER='repl', SOURCE_PASSWORD='pw',
         SOURCE_AUTO_POSITION=1, SOURCE_SSL=1; START REPLICA;
         SELECT WAIT_FOR_EXECUTED_GTID_SET('{}', 60); STOP REPLICA; RESET REPLICA ALL",
        source.port(),
        source.gtid_executed()?
    ))?;
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
