//! `binlog-decrypt` on the disk of a real server, against what that server itself sends.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_binlog::{EventType, Framer};
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

    let mut relay_logs: Vec<PathBuf> =
        fs::read_dir(replica.data())?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    relay_logs.retain(|path| path.to_str().is_some_and(|path| path.contains("-relay-bin.0")));
    relay_logs.sort();
    ensure!(relay_logs.len() > 1, "{relay_logs:?}");
    let folder = tempfile::tempdir()?;
    let (programs, keyring) = (Programs::find()?, replica.keyring());
    let out = folder.path().to_str().context("a path")?;
    for path in &relay_logs {
        ensure!(fs::read(path)?.starts_with(b"\xfdbin"), "{} is not encrypted", path.display());
    }
    let keys: [&OsStr; 2] = ["--keyring".as_ref(), keyring.as_os_str()];
    let all = |task: &[&str]| -> Vec<OsString> {
        let (task, keys) = (task.iter().map(OsString::from), keys.iter().map(OsString::from));
        task.chain(keys).chain(relay_logs.iter().map(|path| path.as_os_str().to_owned())).collect()
    };
    programs.decrypt(all(&["--verify"]))?.success()?;
    programs.decrypt(all(&["--output-dir", out]))?.success()?;

    // What the replica received is, event for event, what the source has; and `mysqlbinlog` reads both alike.
    let (mut received, mut printed) = (Vec::new(), String::new());
    for path in &relay_logs {
        let plain = folder.path().join(path.file_name().context("a name")?);
        received.extend(events_of(&fs::read(&plain)?)?);
        printed += &printed_by_mysqlbinlog(&plain)?;
    }
    let (mut sent, mut expected) = (Vec::new(), String::new());
    for (name, bytes) in source.remote_binlogs()? {
        let plain = folder.path().join(name);
        fs::write(&plain, &bytes)?;
        sent.extend(events_of(&bytes)?);
        expected += &printed_by_mysqlbinlog(&plain)?;
    }
    ensure!(sent.len() > 10_000 && received == sent, "{} bytes received of {}", received.len(), sent.len());
    let transactions = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| line.starts_with("SET @@SESSION.GTID_NEXT= '") && line.contains(':'))
            .map(str::to_owned)
            .collect()
    };
    ensure!(transactions(&printed) == transactions(&expected), "other transactions");
    ensure!(transactions(&printed).len() > 5, "{printed}");

    // Where each goes on is what its replica says, not what its source said.
    let reports = programs.decrypt(all(&["--inspect", "--json"]))?.success()?.text();
    let reports: Vec<serde_json::Value> = reports.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    for (n, report) in reports.iter().enumerate() {
        let next = relay_logs.get(n + 1).and_then(|path| path.file_name()?.to_str());
        ensure!(report["kind"] == "relay log" && report["in_use"].is_null(), "{report}");
        ensure!(report["next_binlog"].as_str() == next, "{next:?}: {report}");
    }
    let newest = relay_logs.last().context("a relay log")?.as_os_str();
    let text = programs.decrypt(["--inspect".as_ref(), keys[0], keys[1], newest])?.success()?.text();
    ensure!(text.contains("not known: a relay log does not say"), "{text}");
    Ok(())
}

#[test]
fn a_changed_length_in_an_open_binlog_is_damage_and_what_stands_before_it_is_whole() -> Result<()> {
    let mut server = MysqlServer::builder().start()?;
    Workload::create(&server)?;
    let name = server.binlogs()?.pop().context("a binlog")?;
    let listing = server.sql(&format!("SHOW BINLOG EVENTS IN '{name}'"))?;
    let rows: Vec<(String, usize)> = listing
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .filter_map(|fields| Some((fields.get(2)?.to_string(), fields.get(1)?.parse().ok()?)))
        .collect();
    let begins: Vec<usize> = rows.iter().filter(|(kind, _)| kind == "Gtid").map(|(_, at)| *at).collect();
    let middle = begins.len() / 2;
    ensure!(middle > 3, "{listing}");
    let sent = as_on_disk(server.remote_binlog(&name)?, true);
    server.kill()?;

    let (programs, data) = (Programs::find()?, server.data());
    let (whole, folder) = (fs::read(data.join(&name))?, tempfile::tempdir()?);
    let (file, out) = (folder.path().join(&name), folder.path().join("out"));
    let before = folder.path().join("before");
    fs::write(&before, &sent[..begins[middle]])?;
    let before = printed_by_mysqlbinlog(&before)?;
    // Of the transaction's first event, and of the one after it.
    let second = rows.iter().map(|(_, at)| *at).find(|at| *at > begins[middle]).context("an event")?;
    for (event, bit) in [begins[middle], second].into_iter().flat_map(|at| (0..32).map(move |bit| (at, bit))) {
        let mut bytes = whole.clone();
        bytes[512 + event + 9 + bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, bytes)?;
        let place = ["--datadir".as_ref(), data.as_os_str(), "-o".as_ref(), out.as_os_str(), file.as_os_str()];
        let run = programs.decrypt(place)?;
        ensure!(run.code == Some(4) && run.stderr.contains(&format!("event at offset {event}")), "bit {bit}: {run:?}");
        let partial = folder.path().join("out.partial");
        ensure!(fs::read(&partial)? == sent[..begins[middle]], "bit {bit} of the event at {event}");
        if bit == 0 {
            ensure!(printed_by_mysqlbinlog(&partial)? == before, "mysqlbinlog reads something else");
        }
        fs::remove_file(partial)?;
    }
    Ok(())
}

/// The bytes of all events that are neither about the file itself nor about the connection.
fn events_of(plain: &[u8]) -> Result<Vec<u8>> {
    let mut framer = Framer::new();
    framer.push(plain);
    let mut bytes = Vec::new();
    while let Some((_, event)) = framer.next()? {
        let about_the_file =
            [EventType::FORMAT_DESCRIPTION, EventType::PREVIOUS_GTIDS, EventType::ROTATE, EventType::STOP];
        if !about_the_file.contains(&event.event_type()) {
            bytes.extend_from_slice(event.bytes());
        }
    }
    framer.finish()?;
    Ok(bytes)
}

/// What `mysqlbinlog` prints of a plain file, which it must find whole.
fn printed_by_mysqlbinlog(plain: &Path) -> Result<String> {
    let mut command = Command::new(mysql_program("mysqlbinlog")?);
    Ok(Finished::run(command.arg("--verify-binlog-checksum").arg(plain))?.success()?.text())
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
