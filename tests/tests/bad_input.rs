//! What is wrong is told: the message, the hint, the exit code. And nothing is lost by it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use age::secrecy::ExposeSecret;
use anyhow::{Context, Result, ensure};
use highwater_tests::{Background, Finished, Installation, MysqlServer, State, Workload};

/// The agent or a command gives up this soon when waiting cannot help.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Requires an exit code, and texts in the lines `error: …` and `hint: …`.
fn told(finished: &Finished, code: i32, error: &str, hint: &str) -> Result<()> {
    let line = |start: &str| finished.stderr.lines().rev().find(|line| line.starts_with(start)).unwrap_or_default();
    ensure!(
        finished.code == Some(code) && line("error: ").contains(error) && line("hint: ").contains(hint),
        "wanted exit {code}, error {error:?}, hint {hint:?}; got exit {:?}\n{}{}",
        finished.code,
        finished.text(),
        finished.stderr
    );
    Ok(())
}

/// Runs the agent until it gives up.
fn agent_ends(highwater: &Installation) -> Result<Finished> {
    let mut agent = highwater.agent()?;
    let status = agent.wait(GIVE_UP)?;
    Ok(Finished { code: status.code(), stdout: agent.stdout().into_bytes(), stderr: agent.stderr() })
}

#[test]
fn a_source_that_cannot_be_used_is_told_with_the_remedy() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    let highwater = Installation::new(&source)?;
    let password = highwater.password();
    let right = fs::read_to_string(&password)?;

    highwater.write_secret(&password, "wrong")?;
    told(&agent_ends(&highwater)?, 1, "refuses user highwater", "check user, password and the account's host part")?;
    told(&highwater.run(&["dump"])?, 1, "refuses user highwater", "check user, password and the account's host part")?;
    fs::remove_file(&password)?;
    told(&highwater.run(&["dump"])?, 2, "password", "")?;
    highwater.write_secret(&password, &right)?;

    source.sql("REVOKE REPLICATION SLAVE ON *.* FROM highwater")?;
    told(&agent_ends(&highwater)?, 1, "lacks the REPLICATION SLAVE privilege", "GRANT REPLICATION SLAVE ON *.* TO")?;
    source.sql("GRANT REPLICATION SLAVE ON *.* TO highwater; REVOKE SELECT ON *.* FROM highwater")?;
    told(&highwater.run(&["dump"])?, 1, "SELECT", "GRANT SELECT ON *.* TO")?;
    source.sql("GRANT SELECT ON *.* TO highwater")?;

    let ca = format!("ca = \"{}\"\n", source.tls().ca.display());
    highwater.change_config(&ca, "")?;
    told(&highwater.run(&["dump"])?, 1, "is not proven to be itself", "set ca to the PEM file of the authority")?;
    highwater.change_config("[source]\n", &format!("[source]\n{ca}"))?;

    let port = format!("port = {}", source.port());
    highwater.change_config(&port, "port = 1")?;
    told(
        &highwater.run(&["dump"])?,
        1,
        "server 127.0.0.1:1 is unreachable",
        "check that the server runs and listens there",
    )?;
    highwater.change_config("port = 1", &port)?;

    let mut agent = highwater.agent()?;
    highwater.wait_for_dump(&mut agent)?;
    Ok(())
}

#[test]
fn settings_of_the_source_that_make_capture_impossible_are_named() -> Result<()> {
    let source = MysqlServer::builder().without_gtids().start()?;
    let highwater = Installation::new(&source)?;
    told(&agent_ends(&highwater)?, 1, "server has gtid_mode = OFF, needed is ON", "SET PERSIST gtid_mode = ON")?;

    let source = MysqlServer::builder().option("--skip-log-bin").encrypted(false).start()?;
    let highwater = Installation::new(&source)?;
    told(&agent_ends(&highwater)?, 1, "server has log_bin = OFF, needed is ON", "start the server with log_bin")
}

#[test]
fn statement_format_is_warned_about() -> Result<()> {
    let source = MysqlServer::builder().option("--binlog-format=STATEMENT").start()?;
    let highwater = Installation::new(&source)?;
    let mut agent = highwater.agent()?;
    highwater.wait_for_dump(&mut agent)?;
    let said = agent.stderr();
    ensure!(said.contains("binlog_format is STATEMENT") && said.contains("SET PERSIST binlog_format = ROW"), "{said}");
    Ok(())
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_with_its_line() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    let highwater = Installation::new(&source)?;
    highwater.change_config("[capture]\n", "[capture]\nsegment_age = 3\n")?;
    let line =
        fs::read_to_string(highwater.config())?.lines().position(|line| line == "segment_age = 3").context("line")? + 1;
    let finished = highwater.run(&["status"])?;
    told(&finished, 2, "", "")?;
    ensure!(
        finished.stderr.contains("segment_age") && finished.stderr.contains(&format!("line {line}")),
        "{}",
        finished.stderr
    );
    Ok(())
}

/// A source whose archive has a dump and some segments; the agent was stopped.
fn archived() -> Result<(MysqlServer, Installation)> {
    let source = MysqlServer::builder().start()?;
    Workload::create(&source)?;
    let highwater = Installation::new(&source)?;
    let mut agent: Background = highwater.agent()?;
    highwater.wait_for_dump(&mut agent)?;
    for id in 1..=3 {
        source.sql(&format!("DELETE FROM shop.customers WHERE id = {id}"))?;
        highwater.wait_for_gtids(&mut agent, &source.gtid_executed()?)?;
    }
    agent.terminate(GIVE_UP)?;
    Ok((source, highwater))
}

#[test]
fn points_out_of_reach_and_unfit_targets_are_refused_before_anything_is_written() -> Result<()> {
    let (source, highwater) = archived()?;
    let target = MysqlServer::builder().server_id(2).start()?;
    let empty = State::read_blocking(&target)?;
    let restore = |target: &MysqlServer, point: [&str; 2]| highwater.restore(target, &point);

    let unknown = format!("{}:999999", source.uuid()?);
    told(
        &restore(&target, ["--before-gtid", &unknown])?,
        5,
        &format!("no segment has transaction {unknown}"),
        "highwater find",
    )?;
    told(
        &restore(&target, ["--to", "2020-01-01T00:00:00Z"])?,
        5,
        "is before the earliest point",
        "or later is reachable",
    )?;
    told(&restore(&target, ["--to", "2199-01-01T00:00:00Z"])?, 5, "is after the end of timeline", "--to latest")?;
    told(&restore(&target, ["--to", "yesterday"])?, 2, "`yesterday` is no time", "write a time as")?;

    told(&restore(&source, ["--to", "latest"])?, 6, "source", "")?;
    let before = source.gtid_executed()?;
    ensure!(source.gtid_executed()? == before);

    let plain = MysqlServer::builder().server_id(3).without_gtids().start()?;
    told(&restore(&plain, ["--to", "latest"])?, 6, "gtid_mode", "gtid_mode")?;
    drop(plain);

    target.sql("SET sql_log_bin = 0; CREATE DATABASE mine; CREATE TABLE mine.t (a INT)")?;
    let mine = State::read_blocking(&target)?;
    told(&restore(&target, ["--to", "latest"])?, 6, "mine", "")?;
    mine.require_equal(&State::read_blocking(&target)?)?;
    target.sql("SET sql_log_bin = 0; DROP DATABASE mine")?;
    empty.require_equal(&State::read_blocking(&target)?)?;

    // The same target is fit now.
    restore(&target, ["--to", "latest"])?.success()?;
    Ok(())
}

#[test]
fn a_wrong_or_missing_identity_is_told_with_the_key_that_is_needed() -> Result<()> {
    let (_source, highwater) = archived()?;
    let target = MysqlServer::builder().server_id(2).start()?;
    let identity = fs::read_to_string(highwater.identity())?;
    let recipient =
        identity.trim().parse::<age::x25519::Identity>().map_err(anyhow::Error::msg)?.to_public().to_string();

    let other = age::x25519::Identity::generate().to_string();
    highwater.write_secret(&highwater.identity(), other.expose_secret())?;
    told(
        &highwater.restore(&target, &["--to", "latest"])?,
        3,
        "sealed to other keys than those of the given identity",
        &recipient,
    )?;
    fs::remove_file(highwater.identity())?;
    told(&highwater.restore(&target, &["--to", "latest"])?, 3, "is sealed, and no identity was given", &recipient)?;
    let verified = highwater.run(&["verify"])?.success()?.text();
    ensure!(verified.contains("no identity was given"), "{verified}");
    highwater.write_secret(&highwater.identity(), &identity)?;
    highwater.restore(&target, &["--to", "latest"])?.success()?;
    Ok(())
}

#[test]
fn damage_in_the_archive_is_told_and_never_restored() -> Result<()> {
    let (_source, highwater) = archived()?;
    let target = MysqlServer::builder().server_id(2).start()?;
    let empty = State::read_blocking(&target)?;
    let objects = objects(&highwater.store().join("segments"), ".age")?;
    let victim = objects.last().context("a segment")?;
    let whole = fs::read(victim)?;
    writable(victim)?;

    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let cut = whole[..whole.len() - 1].to_vec();
    for damaged in [flipped, cut] {
        fs::write(victim, damaged)?;
        told(&highwater.restore(&target, &["--to", "latest"])?, 4, "is damaged", "another copy of the store")?;
        told(&highwater.run(&["verify"])?, 4, "", "")?;
        empty.require_equal(&State::read_blocking(&target)?)?;
    }
    fs::remove_file(victim)?;
    told(&highwater.restore(&target, &["--to", "latest"])?, 4, "is missing", "another copy of the store")?;
    empty.require_equal(&State::read_blocking(&target)?)?;
    fs::write(victim, &whole)?;

    // A manifest that is gone leaves a gap in the chain.
    let manifests = self::objects(&highwater.store().join("segments"), ".json")?;
    let gone = &manifests[manifests.len() - 2];
    let manifest = fs::read(gone)?;
    fs::remove_file(gone)?;
    told(&highwater.restore(&target, &["--to", "latest"])?, 5, "", "")?;
    told(&highwater.run(&["status"])?, 5, "", "")?;
    empty.require_equal(&State::read_blocking(&target)?)?;
    fs::write(gone, manifest)?;
    highwater.run(&["status"])?.success()?;
    Ok(())
}

#[test]
fn a_missing_keyring_key_is_named() -> Result<()> {
    let (source, highwater) = archived()?;
    let binlog = source.data().join("binlog.000001");
    let other = MysqlServer::builder().server_id(2).start()?;
    let decrypt =
        |keys: PathBuf| highwater.programs().decrypt([binlog.as_os_str(), "--keyring".as_ref(), keys.as_os_str()]);
    let key = format!("MySQLReplicationKey_{}_1", source.uuid()?);
    told(&decrypt(other.keyring())?, 3, &key, "")?;
    decrypt(source.keyring())?.success()?;

    // The archive has the key, sealed: what it writes opens the file when the server's own keyring is lost.
    let exported = highwater.folder().join("exported.json");
    highwater.run(&["keyring", "export", "--output", &exported.display().to_string()])?.success()?;
    decrypt(exported)?.success()?;
    Ok(())
}

/// Files below a folder whose name ends so, in order.
fn objects(folder: &std::path::Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(objects(&path, ending)?);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Archived files may be read-only.
fn writable(path: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}
