//! The `highwater agent` program: what it does by itself, how it ends, and what it says when it cannot begin.

use std::fs;
use std::time::Duration;

use highwater::capture::{AgentReport, AgentState};
use highwater_tests::{Background, Installation, MysqlServer};

const LIMIT: Duration = Duration::from_secs(60);

fn source() -> MysqlServer {
    let server = MysqlServer::builder().start().unwrap();
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); INSERT INTO d.t VALUES (1)").unwrap();
    server
}

fn keys(installation: &Installation) -> usize {
    installation.json(&["list", "keys"]).unwrap().as_array().unwrap().len()
}

#[test]
fn the_agent_dumps_backs_up_keys_captures_and_ends_cleanly() {
    let source = source();
    let site = Installation::new(&source).unwrap();
    source.sql("GRANT XA_RECOVER_ADMIN ON *.* TO highwater").unwrap();
    let mut agent = site.agent().unwrap();
    site.wait_for_dump(&mut agent).unwrap();
    site.wait_for_gtids(&mut agent, &source.gtid_executed().unwrap()).unwrap();
    site.wait_until("the first key bundle", LIMIT, &mut agent, |site| Ok(keys(site) == 1)).unwrap();
    source.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY").unwrap();
    site.wait_until("a key bundle after the rotation", LIMIT, &mut agent, |site| Ok(keys(site) == 2)).unwrap();
    assert_eq!(AgentReport::read(&site.state()).unwrap().unwrap().state, AgentState::Streaming);

    // What is committed before the signal is in the archive after it.
    source.sql("INSERT INTO d.t VALUES (2)").unwrap();
    let executed = source.gtid_executed().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let status = agent.terminate(LIMIT).unwrap();
    assert_eq!(status.code(), Some(0), "{}", agent.stderr());
    let report = AgentReport::read(&site.state()).unwrap().unwrap();
    assert_eq!((report.state, report.pid), (AgentState::Stopped, agent.pid()));
    let status = site.json(&["status"]).unwrap();
    assert_eq!(status.pointer("/timelines/0/high_water").and_then(|v| v.as_str()), Some(executed.as_str()));

    // Killed and started again: no second first dump, no second bundle of the same keys.
    let mut agent = site.agent().unwrap();
    source.sql("INSERT INTO d.t VALUES (3)").unwrap();
    site.wait_for_gtids(&mut agent, &source.gtid_executed().unwrap()).unwrap();
    agent.kill().unwrap();
    let mut agent = site.agent().unwrap();
    source.sql("INSERT INTO d.t VALUES (4)").unwrap();
    site.wait_for_gtids(&mut agent, &source.gtid_executed().unwrap()).unwrap();
    agent.terminate(LIMIT).unwrap();
    assert_eq!(keys(&site), 2);
    assert_eq!(site.json(&["list", "dumps"]).unwrap().as_array().unwrap().len(), 1);
    site.run(&["verify"]).unwrap().success().unwrap();
}

/// What an agent that cannot begin leaves on stderr, and its exit code.
fn refusal(site: &Installation) -> (i32, String) {
    let mut agent: Background = site.agent().unwrap();
    let status = agent.wait(LIMIT).unwrap();
    let stderr = agent.stderr();
    let from = stderr.find("error: ").unwrap_or_else(|| panic!("no error in {stderr}"));
    (status.code().unwrap(), stderr[from..].to_owned())
}

#[test]
fn an_agent_that_cannot_begin_says_why_and_what_to_do() {
    let source = source();
    let site = Installation::new(&source).unwrap();
    fs::write(site.folder().join("password"), "wrong").unwrap();
    let (code, text) = refusal(&site);
    assert_eq!(code, 1);
    assert!(text.contains("refuses user highwater: Access denied for user 'highwater'@"), "{text}");
    assert!(text.contains("\nhint: check user, password and the account's host part"), "{text}");

    source.sql("ALTER USER highwater IDENTIFIED BY 'wrong'; REVOKE REPLICATION SLAVE ON *.* FROM highwater").unwrap();
    let (code, text) = refusal(&site);
    assert_eq!(code, 1);
    assert!(text.contains("user 'highwater'@'%' lacks the REPLICATION SLAVE privilege"), "{text}");
    assert!(text.contains("\nhint: GRANT REPLICATION SLAVE ON *.* TO 'highwater'@'%'"), "{text}");

    drop(source);
    let (code, text) = refusal(&site);
    assert_eq!(code, 1);
    assert!(text.contains("is unreachable"), "{text}");
    assert!(text.contains("\nhint: check that the server runs"), "{text}");

    // A store that is not mounted is not filled anew.
    fs::rename(site.store(), site.folder().join("elsewhere")).unwrap();
    fs::create_dir(site.store()).unwrap();
    let (_, text) = refusal(&site);
    assert!(text.contains("holds no archive"), "{text}");
    assert_eq!(fs::read_dir(site.store()).unwrap().count(), 0);
}
