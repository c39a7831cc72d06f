//! `binlog-decrypt` on the disk of a real server, against what that server itself sends.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_tests::{Finished, MysqlServer, Programs, Workload, Writer, mysql_program};

/// Where the first event's flags lie, and the flag that an open binlog has on the disk and never on the wire.
const IN_USE: (usize, u8) = (21, 1);

#[test]
fn every_binlog_of_a_server_equals_what_the_server_sends() -> Result<()> {
    let server = MysqlServer::builder().start()?;
    Workload::create(&server)?;
    let writer = Writer::start(&server, 11, Duration::ZERO)?;
    for _ in 0..3 {
        writer.wait_for(40)?;
        server.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY; FLUSH BINARY LOGS")?;
    }
    writer.wait_for(20)?;
    writer.stop()?;

    let programs = Programs::find()?;
    let names = server.binlogs()?;
    ensure!(names.len() >= 4, "only {names:?}");
    for name in &names {
        let path = server.data().join(name);
        ensure!(fs::read(&path)?.starts_with(b"\xfdbin"), "{name} is not encrypted");
        let expected = as_on_disk(server.remote_binlog(name)?, Some(name) == names.last());
        for keys in [("--keyring", server.keyring()), ("--datadir", server.data())] {
            let decrypted = programs.decrypt([path.as_os_str(), keys.0.as_ref(), keys.1.as_os_str()])?.success()?;
            ensure!(decrypted.stdout == expected, "{name} differs from the server's own bytes with {}", keys.0);
        }
    }
    Ok(())
}

#[test]
fn a_plain_binlog_passes_through() -> Result<()> {
    let server = MysqlServer::builder().encrypted(false).start()?;
    Workload::create(&server)?;
    let path = server.data().join("binlog.000001");
    let out = Programs::find()?.decrypt([&path])?.success()?;
    ensure!(out.stdout == fs::read(&path)?, "a plain file was changed");
    Ok(())
}

#[test]
fn files_of_a_killed_server_open_with_nothing_but_its_data_folder() -> Result<()> {
    let mut server = MysqlServer::builder().start()?;
    Workload::create(&server)?;
    let writer = Writer::start(&server, 12, Duration::ZERO)?;
    writer.wait_for(60)?;
    writer.stop()?;
    let name = server.binlogs()?.pop().context("a binlog")?;
    let expected = as_on_disk(server.remote_binlog(&name)?, true);
    server.kill()?;

    let folder = tempfile::tempdir()?;
    let (path, data) = (server.data().join(&name), server.data());
    let output = folder.path().as_os_str();
    Programs::find()?
        .decrypt([path.as_os_str(), "--datadir".as_ref(), data.as_os_str(), "--output-dir".as_ref(), output])?
        .success()?;
    ensure!(fs::read(folder.path().join(&name))? == expected, "the killed server's file differs");
    Ok(())
}

#[test]
fn encrypted_relay_logs_open_too() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Workload::create(&source)?;
    let replica = MysqlServer::builder().server_id(2).start()?;
    replica.sql(&format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}, SOURCE_USER = 'relay',
         SOURCE_PASSWORD = 'relay', SOURCE_SSL = 1, SOURCE_AUTO_POSITION = 1",
        source.port()
    ))?;
    source.sql("CREATE USER relay IDENTIFIED BY 'relay'; GRANT REPLICATION SLAVE ON *.* TO relay")?;
    replica.sql("START REPLICA IO_THREAD")?;
    let executed = source.gtid_executed()?;
    // The receiver alone fills the relay log; nothing is applied and purged.
    let received =
        "SELECT GTID_SUBSET('{}', RECEIVED_TRANSACTION_SET) FROM performance_schema.replication_connection_status";
    let started = std::time::Instant::now();
    while replica.sql(&received.replace("{}", &executed))? != "1" {
        ensure!(started.elapsed() < Duration::from_secs(60), "the replica does not receive: {}", replica.error_log());
        std::thread::sleep(Duration::from_millis(100));
    }
    replica.sql("STOP REPLICA IO_THREAD; FLUSH RELAY LOGS")?;

    let mut statements = String::new();
    for entry in fs::read_dir(replica.data())? {
        let path = entry?.path();
        let relay = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains("-relay-bin.0"));
        if relay {
            ensure!(fs::read(&path)?.starts_with(b"\xfdbin"), "{} is not encrypted", path.display());
            statements += &decoded(&path, &replica)?;
        }
    }
    for name in ["shop", "bank", "audit-log"] {
        ensure!(
            statements.contains(&format!("CREATE DATABASE `{name}`"))
                || statements.contains(&format!("CREATE DATABASE {name}")),
            "no {name}"
        );
    }
    Ok(())
}

/// What `mysqlbinlog` says of a decrypted file.
fn decoded(path: &Path, server: &MysqlServer) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let plain = folder.path().join("plain");
    let keyring = server.keyring();
    Programs::find()?
        .decrypt([path.as_os_str(), "--keyring".as_ref(), keyring.as_os_str(), "-o".as_ref(), plain.as_os_str()])?
        .success()?;
    Ok(Finished::run(Command::new(mysql_program("mysqlbinlog")?).arg("--verify-binlog-checksum").arg(&plain))?
        .success()?
        .text())
}

/// The server's bytes as they are on the disk: only there is the open file marked.
fn as_on_disk(mut bytes: Vec<u8>, open: bool) -> Vec<u8> {
    if open {
        bytes[IN_USE.0] |= IN_USE.1;
    }
    bytes
}

#[test]
fn inspection_says_what_the_server_says_and_positions_are_the_servers_own() -> Result<()> {
    let mut server = MysqlServer::builder().start()?;
    Workload::create(&server)?;
    let writer = Writer::start(&server, 13, Duration::ZERO)?;
    for _ in 0..2 {
        writer.wait_for(30)?;
        server.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")?;
    }
    writer.wait_for(20)?;
    writer.stop()?;
    let executed = server.gtid_executed()?.replace('\n', "");
    let names = server.binlogs()?;
    let events = server.sql(&format!("SHOW BINLOG EVENTS IN '{}'", names[1]))?;
    let sent = server.remote_binlog(&names[1])?;
    server.kill()?;

    // Together the files have every transaction, and each follows the one before it.
    let (programs, data) = (Programs::find()?, server.data());
    let index = data.join("binlog.index");
    let inspect = ["--inspect".as_ref(), "--json".as_ref(), "--datadir".as_ref(), data.as_os_str(), index.as_os_str()];
    let reports = programs.decrypt(inspect)?.success()?.text();
    let reports: Vec<serde_json::Value> = reports.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(reports.len() == names.len() && names.len() > 2, "{names:?}");
    let mut all = highwater_binlog::GtidSet::new();
    for (n, report) in reports.iter().enumerate() {
        let gtids = report["gtids"].as_str().unwrap_or_default();
        all = all.union(&gtids.parse()?);
        ensure!(report["follows"].is_string() == (n > 0), "{report}");
        ensure!(report["in_use"] == (n + 1 == names.len()), "{report}");
        ensure!(report["key_id"].as_str().is_some_and(|id| id.contains("MySQLReplicationKey_")), "{report}");
    }
    ensure!(all == executed.parse()?, "{all} of {executed}");
    let verify = ["--verify".as_ref(), "--datadir".as_ref(), data.as_os_str(), index.as_os_str()];
    programs.decrypt(verify)?.success()?;

    // From the server's own positions on: what follows is the server's, and mysqlbinlog reads it.
    let starts: Vec<usize> = events
        .lines()
        .filter(|line| line.split('\t').nth(2) == Some("Gtid"))
        .filter_map(|line| line.split('\t').nth(1)?.parse().ok())
        .collect();
    ensure!(starts.len() > 10, "{events}");
    let (path, folder) = (data.join(&names[1]), tempfile::tempdir()?);
    for (from, to) in [(starts[3], starts[7]), (starts[9], sent.len())] {
        let (begin, end, out) = (from.to_string(), to.to_string(), folder.path().join(from.to_string()));
        let place = ["--datadir".as_ref(), data.as_os_str(), "-o".as_ref(), out.as_os_str(), path.as_os_str()];
        let span: [&std::ffi::OsStr; 4] = ["--from".as_ref(), begin.as_ref(), "--to".as_ref(), end.as_ref()];
        programs.decrypt([&span[..], &place[..]].concat())?.success()?;
        ensure!(fs::read(&out)?.ends_with(&sent[from..to]), "{from} to {to}");
        let text =
            Finished::run(Command::new(mysql_program("mysqlbinlog")?).arg("--verify-binlog-checksum").arg(&out))?;
        let count = text.success()?.text().matches("SET @@SESSION.GTID_NEXT= '").count();
        let expected = starts.iter().filter(|start| (from..to).contains(*start)).count();
        // And `AUTOMATIC` at the end.
        ensure!(count == expected + 1, "{count} of {expected} transactions");
    }
    Ok(())
}
