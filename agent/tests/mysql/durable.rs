//! What makes capture durable: acknowledgements, failover, an encrypted spool, sources without GTIDs.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use highwater::capture::{AgentReport, WatchedSource};
use highwater_binlog::GtidSet;
use highwater_tests::{Background, Finished, Installation, MysqlServer, Pair, State, mysql_program};

const LIMIT: Duration = Duration::from_secs(60);

/// A source that will wait half a minute for acknowledgements, once it is told to.
fn semi_sync_source() -> MysqlServer {
    let source = MysqlServer::builder().semi_sync(Duration::from_secs(30)).start().unwrap();
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)").unwrap();
    source
}

fn status(source: &MysqlServer, name: &str) -> String {
    source.sql(&format!("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_source_{name}'")).unwrap().trim().to_owned()
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < LIMIT, "no {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn report(site: &Installation) -> Option<AgentReport> {
    AgentReport::read(&site.state()).unwrap()
}

fn watched(site: &Installation) -> Option<WatchedSource> {
    report(site)?.watched
}

/// Waits until capture tells of a synchronous source, or of one that is not.
fn wait_synchronous(site: &Installation, wanted: bool) {
    wait("report of semi-sync", || report(site).is_some_and(|report| report.synchronous == Some(wanted)));
}

#[test]
fn commits_wait_until_they_are_in_the_spool_or_in_the_store() {
    for policy in ["local", "stored"] {
        let mut source = semi_sync_source();
        let site = Installation::new(&source).unwrap();
        site.change_config("[capture]\n", &format!("[capture]\nack = \"{policy}\"\n")).unwrap();
        let mut agent = site.agent().unwrap();
        site.wait_for_dump(&mut agent).unwrap();
        let doctor = site.run(&["doctor"]).unwrap();
        assert_ne!(doctor.code, Some(0));
        assert!(doctor.text().contains("-> SET PERSIST rpl_semi_sync_source_enabled = 1"), "{}", doctor.text());
        source.require_acks().unwrap();
        wait("client", || status(&source, "clients").ends_with('1'));
        // Without an acknowledgement the first takes half a minute, and then the source goes on without.
        for id in 0..10 {
            source.sql(&format!("INSERT INTO d.t VALUES ({id})")).unwrap();
            if policy == "stored" {
                let status = site.json(&["status"]).unwrap();
                let stored: GtidSet = status["timelines"][0]["high_water"].as_str().unwrap().parse().unwrap();
                let executed: GtidSet = source.gtid_executed().unwrap().parse().unwrap();
                assert!(
                    executed.is_subset(&stored),
                    "acknowledged, and not in the store: {}",
                    executed.subtract(&stored)
                );
            }
        }
        assert!(status(&source, "status").ends_with("ON"));
        wait_synchronous(&site, true);
        site.run(&["doctor"]).unwrap().success().unwrap();
        assert_eq!(report(&site).unwrap().semi_sync.as_deref(), Some("synchronous"));
        // The source falls back, and the report says so.
        source.sql("SET GLOBAL rpl_semi_sync_source_enabled = 0").unwrap();
        wait_synchronous(&site, false);
        assert!(agent.stderr().contains("commits do not wait for us"), "{}", agent.stderr());
        assert!(site.run(&["status"]).unwrap().text().contains("semi-sync disabled"));
        agent.terminate(LIMIT).unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_the_source_and_the_agent_together() {
    let mut source = semi_sync_source();
    let site = Installation::new(&source).unwrap();
    site.change_config(
        "[capture]\nsegment_age_seconds = 1\n",
        "[capture]\nack = \"local\"\nsegment_age_seconds = 3600\n",
    )
    .unwrap();
    let mut agent = site.agent().unwrap();
    site.wait_for_dump(&mut agent).unwrap();
    source.require_acks().unwrap();
    source.sql("INSERT INTO d.t VALUES (1); INSERT INTO d.t VALUES (2)").unwrap();
    let executed: GtidSet = source.gtid_executed().unwrap().parse().unwrap();
    agent.kill().unwrap();
    drop(source);
    let archived = |site: &Installation| -> GtidSet {
        let status = site.json(&["status"]).unwrap();
        status["timelines"][0]["high_water"].as_str().unwrap().parse().unwrap()
    };
    assert!(!executed.is_subset(&archived(&site)), "the last transactions are in the spool alone");
    // The source never comes back; the spool goes to the store all the same.
    let mut agent = site.agent().unwrap();
    wait("archive with everything", || executed.is_subset(&archived(&site)));
    agent.terminate(LIMIT).unwrap();
    let left = fs::read_dir(site.state().join("spool")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["reserve"]);
}

#[test]
fn an_encrypted_spool_is_opened_by_its_own_keyring_and_binlog_decrypt() {
    let mut source = semi_sync_source();
    let site = Installation::new(&source).unwrap();
    site.change_config(
        "[capture]\nsegment_age_seconds = 1\n",
        "[capture]\nack = \"local\"\nsegment_age_seconds = 3600\nspool_keyring = \"spool-keyring\"\n",
    )
    .unwrap();
    let mut agent = site.agent().unwrap();
    site.wait_for_dump(&mut agent).unwrap();
    // It returns when the transaction is in the spool.
    source.require_acks().unwrap();
    source.sql("CREATE TABLE d.marker_in_the_spool (id INT)").unwrap();
    agent.kill().unwrap();
    let spool = fs::read_dir(site.state().join("spool")).unwrap().map(|entry| entry.unwrap().path());
    let stretches: Vec<_> = spool.filter(|path| path.extension().is_some_and(|ending| ending == "stretch")).collect();
    let has = |bytes: &[u8]| bytes.windows(19).any(|window| window == b"marker_in_the_spool");
    let mut found = false;
    for path in stretches {
        assert!(!has(&fs::read(&path).unwrap()), "plain text in {}", path.display());
        let plain = site.folder().join("plain");
        let keyring = site.folder().join("spool-keyring");
        let finished = site.programs().decrypt([path.as_os_str(), "--keyring".as_ref(), keyring.as_os_str()]).unwrap();
        if has(&finished.stdout) {
            found = true;
            fs::write(&plain, &finished.stdout).unwrap();
            // MySQL's own program reads it.
            let said = Finished::run(Command::new(mysql_program("mysqlbinlog").unwrap()).arg(&plain))
                .unwrap()
                .success()
                .unwrap();
            assert!(said.text().contains("CREATE TABLE d.marker_in_the_spool"), "{}", said.text());
        }
    }
    assert!(found, "no stretch has the transaction");
    let mut agent = site.agent().unwrap();
    site.wait_for_gtids(&mut agent, &source.gtid_executed().unwrap()).unwrap();
    agent.terminate(LIMIT).unwrap();
}

#[test]
fn when_the_source_dies_the_agent_goes_on_with_its_replica() {
    let Pair { mut source, replica, highwater: site } = Pair::start(MysqlServer::builder()).unwrap();
    let mut agent: Background = site.agent().unwrap();
    source.sql("CREATE TABLE d.before_it (id INT)").unwrap();
    let executed = source.gtid_executed().unwrap();
    site.wait_for_gtids(&mut agent, &executed).unwrap();
    site.wait_for_dump(&mut agent).unwrap();
    // Somebody wrote to the replica: a transaction that the source never had, and the archive neither.
    replica
        .sql(&format!(
            "CREATE DATABASE errant; SELECT WAIT_FOR_EXECUTED_GTID_SET('{executed}', 60); STOP REPLICA; RESET REPLICA ALL"
        ))
        .unwrap();
    source.kill().unwrap();
    replica.sql("CREATE TABLE d.after_it (id INT)").unwrap();
    site.wait_for_gtids(&mut agent, &replica.gtid_executed().unwrap()).unwrap();
    agent.terminate(LIMIT).unwrap();
    assert_eq!(site.json(&["list", "timelines"]).unwrap().as_array().unwrap().len(), 1);
    let server = report(&site).unwrap().server_uuid.unwrap();
    assert_eq!(server, replica.uuid().unwrap());
    let target = MysqlServer::builder().server_id(9).start().unwrap();
    site.restore(&target, &["--to", "latest"]).unwrap().success().unwrap();
    State::read_blocking(&replica).unwrap().require_equal(&State::read_blocking(&target).unwrap()).unwrap();
}

/// The source cannot read its own binlog (error 1236), or sends bytes whose checksum is wrong.
#[test]
fn a_source_with_a_damaged_binlog_is_left_for_its_replica() {
    for offset_in_event in [11, 25] {
        let Pair { mut source, replica, highwater: site } =
            Pair::start(MysqlServer::builder().encrypted(false)).unwrap();
        let mut agent = site.agent().unwrap();
        site.wait_for_dump(&mut agent).unwrap();
        site.catch_up(&mut agent, &source).unwrap();
        agent.terminate(LIMIT).unwrap();
        source.sql("CREATE TABLE d.t (id INT PRIMARY KEY); INSERT INTO d.t VALUES (1)").unwrap();
        source.sql("CREATE TABLE d.damaged (id INT); FLUSH BINARY LOGS; INSERT INTO d.t VALUES (2)").unwrap();
        let executed = source.gtid_executed().unwrap();
        replica.sql(&format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{executed}', 60)")).unwrap();
        source.stop().unwrap();
        let binlogs = fs::read_dir(source.data()).unwrap().map(|entry| entry.unwrap().path());
        let has = |bytes: &[u8]| bytes.windows(9).rposition(|window| window == b"d.damaged");
        let (path, mut bytes, at) = binlogs
            .filter(|path| path.file_stem().is_some_and(|stem| stem == "binlog"))
            .find_map(|path| fs::read(&path).ok().and_then(|bytes| has(&bytes).map(|at| (path, bytes, at))))
            .unwrap();
        let mut event = 4;
        loop {
            let len = u32::from_le_bytes(bytes[event + 9..event + 13].try_into().unwrap()) as usize;
            if event + len > at {
                break;
            }
            event += len;
        }
        bytes[event + offset_in_event] ^= 0x10;
        fs::write(path, bytes).unwrap();
        source.start().unwrap();
        let mut agent = site.agent().unwrap();
        site.wait_for_gtids(&mut agent, &executed).unwrap();
        let said = agent.stderr();
        let attempts = said.matches("source lost").count();
        assert!(attempts <= 5, "{attempts} attempts: {said}");
        assert_eq!(report(&site).unwrap().server_uuid.unwrap(), replica.uuid().unwrap());
        assert_eq!(site.json(&["list", "timelines"]).unwrap().as_array().unwrap().len(), 1);
        agent.terminate(LIMIT).unwrap();
    }
}

#[test]
fn settings_that_change_are_recorded_and_warned_about() {
    let source = MysqlServer::builder().start().unwrap();
    let site = Installation::new(&source).unwrap();
    let mut agent = site.agent().unwrap();
    wait("look at the source", || {
        watched(&site).is_some_and(|watched| watched.settings.get("sync_binlog").is_some_and(|value| value == "1"))
    });
    source.sql("SET GLOBAL sync_binlog = 0").unwrap();
    wait("change", || watched(&site).is_some_and(|watched| !watched.changes.is_empty()));
    let watched = watched(&site).unwrap();
    let change = watched.changes.last().unwrap();
    assert_eq!((change.setting.as_str(), change.from.as_str(), change.to.as_str()), ("sync_binlog", "1", "0"));
    assert!(watched.warnings.iter().any(|warning| warning.contains("sync_binlog is 0")), "{:?}", watched.warnings);
    assert!(site.run(&["status"]).unwrap().text().contains("sync_binlog is 0"));
    let metrics = fs::read_to_string(site.state().join("metrics.prom")).unwrap();
    assert!(metrics.contains("highwater_source_warnings 1"), "{metrics}");
    assert!(metrics.contains("highwater_agent_state{state=\"streaming\"} 1"), "{metrics}");
    agent.terminate(LIMIT).unwrap();
}

#[test]
fn a_source_without_gtids_is_captured_by_positions_and_not_restored_as_if_it_were_empty() {
    let mut source = MysqlServer::builder().option("--gtid-mode=OFF").start().unwrap();
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)").unwrap();
    let site = Installation::new(&source).unwrap();
    site.change_config("[capture]\n", "[capture]\nallow_positions = true\n").unwrap();
    let mut agent = site.agent().unwrap();
    site.wait_for_dump(&mut agent).unwrap();
    source.sql("INSERT INTO d.t VALUES (1); FLUSH BINARY LOGS; INSERT INTO d.t VALUES (2)").unwrap();
    site.catch_up(&mut agent, &source).unwrap();
    // Killed, restarted, and the source too.
    agent.kill().unwrap();
    source.sql("INSERT INTO d.t VALUES (3)").unwrap();
    let mut agent = site.agent().unwrap();
    site.catch_up(&mut agent, &source).unwrap();
    source.restart().unwrap();
    source.sql("INSERT INTO d.t VALUES (4)").unwrap();
    site.catch_up(&mut agent, &source).unwrap();
    assert_eq!(site.json(&["list", "timelines"]).unwrap().as_array().unwrap().len(), 1);
    // Another history under the same names.
    agent.terminate(LIMIT).unwrap();
    source.sql("RESET BINARY LOGS AND GTIDS; INSERT INTO d.t VALUES (5)").unwrap();
    let mut agent = site.agent().unwrap();
    wait("second timeline", || site.json(&["list", "timelines"]).unwrap().as_array().unwrap().len() == 2);
    agent.terminate(LIMIT).unwrap();
    let target = MysqlServer::builder().server_id(9).start().unwrap();
    let refused = site.restore(&target, &["--to", "latest", "--timeline", "1"]).unwrap();
    assert_eq!(refused.code, Some(5), "{}", refused.stderr);
    assert!(refused.stderr.contains("has transactions without a GTID"), "{}", refused.stderr);
}
