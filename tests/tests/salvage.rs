//! Taking what the archive lacks from a server's disk (faults 15, 18, 19, 22, 24 and 25): the last committed transaction
//! comes back, and nothing comes from a disk that does not continue the archive.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_tests::{Archived, Finished, Ledger, MysqlServer, Protected, State};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// Length of the header of an encrypted binlog.
const HEADER_LEN: u64 = 512;

/// A server whose agent has captured something and was stopped.
fn left_behind(source: MysqlServer) -> Result<Protected> {
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    site.catch_up()?;
    let status = site.agent.terminate(LIMIT)?;
    ensure!(status.code() == Some(0), "{}", site.agent.stderr());
    Ok(site)
}

/// Runs `salvage` and returns how it ended and what it printed.
fn salvage(site: &Protected, datadir: &Path, more: &[&str]) -> Result<(Finished, Value)> {
    let datadir = datadir.display().to_string();
    let mut arguments = vec!["--json", "salvage", "--datadir", &datadir];
    arguments.extend(more);
    let finished = site.highwater.run(&arguments)?;
    let said = serde_json::from_slice(&finished.stdout).unwrap_or(Value::Null);
    Ok((finished, said))
}

/// Runs it, and it succeeds.
fn salvaged(site: &Protected, datadir: &Path) -> Result<Value> {
    let (finished, said) = salvage(site, datadir, &[])?;
    finished.success()?;
    Ok(said)
}

/// Names of all objects of the store.
fn objects(site: &Protected) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![site.highwater.store()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// Every binlog that the server has and the archive has too is the same there.
fn require_same_bytes(site: &Protected, archived: &Archived) -> Result<usize> {
    let uuid = site.source.uuid()?;
    let theirs = site.source.remote_binlogs()?;
    let mut compared = 0;
    for (name, bytes) in theirs.iter().filter(|(name, _)| archived.binlogs.keys().any(|place| place.name == **name)) {
        archived.require_binlog(&uuid, name, bytes)?;
        compared += 1;
    }
    Ok(compared)
}

#[test]
fn a_killed_server_is_salvaged_to_its_last_commit_and_restored() -> Result<()> {
    let mut site = left_behind(MysqlServer::builder().option("--sync-binlog=1").start()?)?;
    let ledger = Ledger::start(&site.source, 4, Duration::from_millis(1));
    ledger.wait_for(100)?;
    // Keys are rotated, and every header with them, while nobody captures.
    site.source.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY; FLUSH BINARY LOGS")?;
    ledger.wait_for(100)?;
    site.source.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")?;
    ledger.wait_for(100)?;
    site.source.kill()?;
    let seen = ledger.stop()?;
    // The agent's machine is gone too: only the configuration and the store are left.
    fs::remove_dir_all(site.highwater.state())?;

    let before = objects(&site)?;
    let (planned, plan) = salvage(&site, &site.source.data(), &["--dry-run"])?;
    planned.success()?;
    ensure!(objects(&site)? == before, "a dry run wrote into the store");
    let said = salvaged(&site, &site.source.data())?;
    ensure!(said["done"] == true && plan["done"] == false, "{said} {plan}");
    ensure!(said["transactions"] == plan["transactions"] && said["gtids"] == plan["gtids"], "{said} {plan}");
    ensure!(said["transactions"].as_u64().is_some_and(|count| count >= 300), "{said}");
    let archived = Archived::read(&site.highwater)?;
    archived.require_markers(&seen)?;
    let again = salvaged(&site, &site.source.data())?;
    ensure!(again["done"] == false && again["binlogs"] == serde_json::json!([]), "{again}");

    // The server's own recovery says what was committed.
    site.source.start()?;
    ensure!(require_same_bytes(&site, &archived)? >= 4, "{:?}", archived.binlogs.keys());
    let target = site.require_restorable()?;
    let rows = Ledger::rows(&target)?;
    ensure!(seen.is_subset(&rows), "{} of {} entries", rows.len(), seen.len());
    Ok(())
}

#[test]
fn plain_and_encrypted_binlogs_under_several_keys_are_salvaged_together() -> Result<()> {
    let mut site = left_behind(MysqlServer::builder().start()?)?;
    let write = |site: &Protected, from: u32| -> Result<String> {
        let rows: String = (from..from + 20)
            .map(|n| format!("INSERT INTO ledger.entries VALUES (9, {n}, '', REPEAT('x', 900));"))
            .collect();
        site.source.sql(&rows)
    };
    write(&site, 0)?;
    // A rotation at start leaves old keys and headers as they are.
    site.source.add_option("--binlog-rotate-encryption-master-key-at-startup=ON");
    site.source.restart()?;
    write(&site, 100)?;
    site.source.sql("SET GLOBAL binlog_encryption = OFF")?;
    write(&site, 200)?;
    site.source.sql("FLUSH BINARY LOGS; SET GLOBAL binlog_encryption = ON")?;
    write(&site, 300)?;
    let listing = site.source.sql("SHOW BINARY LOGS")?;
    ensure!(listing.contains("\tNo") && listing.contains("\tYes"), "{listing}");
    site.source.stop()?;
    let said = salvaged(&site, &site.source.data())?;
    ensure!(said["transactions"] == 80 && said["end"]["kind"] == "whole", "{said}");
    site.source.start()?;
    ensure!(require_same_bytes(&site, &Archived::read(&site.highwater)?)? >= 5);
    site.require_restorable()?;
    Ok(())
}

#[test]
fn of_a_disk_that_the_archive_has_all_of_nothing_is_taken() -> Result<()> {
    let mut site = left_behind(MysqlServer::builder().start()?)?;
    let before = objects(&site)?;
    for run in ["running", "dead"] {
        let said = salvaged(&site, &site.source.data())?;
        ensure!(said["done"] == false && said["bytes"] == 0 && said["end"]["kind"] == "whole", "{run}: {said}");
        ensure!(objects(&site)? == before, "{run}: something was written into the store");
        if run == "running" {
            site.source.kill()?;
        }
    }
    Ok(())
}

#[test]
fn a_running_server_is_salvaged_while_clients_write() -> Result<()> {
    let mut site = left_behind(MysqlServer::builder().start()?)?;
    let ledger = Ledger::start(&site.source, 3, Duration::from_millis(1));
    ledger.wait_for(100)?;
    for _ in 0..3 {
        ledger.wait_for(30)?;
        let seen = ledger.seen_committed();
        salvaged(&site, &site.source.data())?;
        Archived::read(&site.highwater)?.require_markers(&seen)?;
        site.source.sql("FLUSH BINARY LOGS")?;
    }
    let seen = ledger.stop()?;
    // An agent goes on where salvage ended.
    site.restart_agent(&[])?;
    let archived = site.settle()?;
    archived.require_markers(&seen)?;
    ensure!(archived.timelines() == 1, "salvage broke the history");
    site.require_restorable()?;
    Ok(())
}

#[test]
fn what_a_dead_agent_left_in_its_spool_comes_first() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    site.catch_up()?;
    site.agent.terminate(LIMIT)?;
    site.highwater.change_config("segment_age_seconds = 1\n", "segment_age_seconds = 3600\n")?;
    site.restart_agent(&[])?;
    let ledger = Ledger::start(&site.source, 2, Duration::from_millis(1));
    ledger.wait_for(50)?;
    let spooled = |site: &Protected| -> Result<bool> {
        let sizes = site.highwater.spool()?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "stretch"));
        Ok(sizes.map(|path| fs::metadata(path).map_or(0, |facts| facts.len())).sum::<u64>() > 20_000)
    };
    while !spooled(&site)? {
        ledger.wait_for(10)?;
    }
    site.agent.kill()?;
    ledger.wait_for(50)?;
    site.source.kill()?;
    let seen = ledger.stop()?;
    let said = salvaged(&site, &site.source.data())?;
    ensure!(said["spooled_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{said}");
    Archived::read(&site.highwater)?.require_markers(&seen)?;
    site.highwater.require_empty_spool()?;
    site.source.start()?;
    site.require_restorable()?;
    Ok(())
}

#[test]
fn a_salvage_that_is_killed_anywhere_is_finished_by_the_next() -> Result<()> {
    let mut site = left_behind(MysqlServer::builder().start()?)?;
    let ledger = Ledger::start(&site.source, 3, Duration::from_millis(1));
    ledger.wait_for(150)?;
    site.source.sql("FLUSH BINARY LOGS")?;
    ledger.wait_for(100)?;
    site.source.kill()?;
    let seen = ledger.stop()?;
    let datadir = site.source.data().display().to_string();
    // Before the first byte is in the spool, with some of it, with all; with an object, a manifest, a catalog entry.
    for place in [
        "seg.open.tmp",
        "seg.write.mid",
        "seg.fsync.before",
        "up.put.mid",
        "manifest.before",
        "manifest.after",
        "catalog.commit.before",
        "spool.delete.before",
    ] {
        let mut command =
            site.highwater.programs().highwater(&site.highwater.config(), &["salvage", "--datadir", &datadir]);
        let finished = Finished::run(command.env("FAILPOINTS", format!("{place}=return")))?;
        ensure!(finished.code.is_none(), "{place} was not passed: {finished:?}");
    }
    salvaged(&site, &site.source.data())?;
    Archived::read(&site.highwater)?.require_markers(&seen)?;
    site.source.start()?;
    site.require_restorable()?;
    Ok(())
}

#[test]
fn a_disk_that_fails_while_it_is_read_is_no_success_until_all_is_taken() -> Result<()> {
    let mut site = left_behind(MysqlServer::builder().start()?)?;
    let ledger = Ledger::start(&site.source, 2, Duration::from_millis(1));
    for _ in 0..3 {
        ledger.wait_for(30)?;
        site.source.sql("FLUSH BINARY LOGS")?;
    }
    site.source.kill()?;
    let seen = ledger.stop()?;
    let datadir = site.source.data().display().to_string();
    // The first reads prove what there is, the later ones take it.
    let mut reads = 0;
    loop {
        let mut command =
            site.highwater.programs().highwater(&site.highwater.config(), &["salvage", "--datadir", &datadir]);
        let finished = Finished::run(command.env("FAILPOINTS", format!("files.read={reads}*off->1*return(eio)->off")))?;
        if finished.code == Some(0) {
            break;
        }
        ensure!(finished.code == Some(1) && finished.stderr.contains("read "), "read {reads}: {finished:?}");
        reads += 1;
    }
    ensure!(reads > 4, "only {reads} reads failed");
    Archived::read(&site.highwater)?.require_markers(&seen)?;
    site.source.start()?;
    site.require_restorable()?;
    Ok(())
}

/// Salvage of this disk is refused with this code, for a reason that has this text, and the store stays as it is.
fn require_refused(site: &Protected, code: i32, reason: &str) -> Result<()> {
    let before = objects(site)?;
    let (finished, _) = salvage(site, &site.source.data(), &[])?;
    ensure!(finished.code == Some(code) && finished.stderr.contains(reason), "{code} {reason}: {finished:?}");
    ensure!(objects(site)? == before, "something was written into the store");
    Ok(())
}

#[test]
fn a_gap_is_refused_with_its_exact_transactions() -> Result<()> {
    let site = left_behind(MysqlServer::builder().start()?)?;
    let before = site.source.gtid_executed()?;
    site.source.sql("INSERT INTO ledger.entries VALUES (9, 1, '', '')")?;
    let lost = site.source.only_gtid_since(&before)?;
    site.source.sql("FLUSH BINARY LOGS; INSERT INTO ledger.entries VALUES (9, 2, '', '')")?;
    let newest = site.source.binlogs()?.pop().context("a binlog")?;
    site.source.sql(&format!("PURGE BINARY LOGS TO '{newest}'"))?;
    require_refused(&site, 5, &lost)
}

#[test]
fn a_server_that_was_reset_and_another_server_are_refused() -> Result<()> {
    let mut site = left_behind(MysqlServer::builder().start()?)?;
    site.source.sql("RESET BINARY LOGS AND GTIDS; INSERT INTO ledger.entries VALUES (9, 1, '', '')")?;
    require_refused(&site, 1, "fork")?;
    // The same GTIDs and more, over other bytes, in a file of the same name.
    let more: String = (0..60).map(|n| format!("INSERT INTO ledger.entries VALUES (8, {n}, '', 'y');")).collect();
    site.source.sql(&more)?;
    require_refused(&site, 1, "fork")?;
    site.source.stop()?;
    require_refused(&site, 1, "fork")?;

    let other = MysqlServer::builder().server_id(2).start()?;
    other.sql("CREATE DATABASE other")?;
    let (finished, _) = salvage(&site, &other.data(), &[])?;
    ensure!(finished.code == Some(1) && finished.stderr.contains("fork"), "{finished:?}");
    Ok(())
}

#[test]
fn the_same_gtids_over_other_bytes_are_a_fork() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    site.catch_up()?;
    site.agent.terminate(LIMIT)?;
    let saved = tempfile::tempdir()?;
    site.source.save_data(&saved.path().join("data"))?;
    site.restart_agent(&[])?;
    let before = site.source.gtid_executed()?;
    site.source.sql("INSERT INTO ledger.entries VALUES (9, 1, '<entry.a>', '')")?;
    let captured = site.source.only_gtid_since(&before)?;
    site.catch_up()?;
    site.agent.terminate(LIMIT)?;
    // Nothing but the bytes tells: the sets are equal, and so are the lengths.
    site.source.roll_back_to(&saved.path().join("data"))?;
    site.source.sql("INSERT INTO ledger.entries VALUES (9, 1, '<entry.b>', '')")?;
    ensure!(site.source.only_gtid_since(&before)? == captured);
    site.source.kill()?;
    require_refused(&site, 1, "fork")
}

#[test]
fn a_missing_key_is_named_and_one_from_elsewhere_opens() -> Result<()> {
    let mut site = left_behind(MysqlServer::builder().start()?)?;
    site.source.sql("INSERT INTO ledger.entries VALUES (9, 1, '', '')")?;
    let key = format!("MySQLReplicationKey_{}_1", site.source.uuid()?);
    site.source.kill()?;
    let elsewhere = site.highwater.folder().join("keyring-from-elsewhere");
    fs::rename(site.source.keyring(), &elsewhere)?;
    // Nor can the archive's own key backups be opened here.
    fs::remove_file(site.highwater.identity())?;
    require_refused(&site, 3, &key)?;
    let (finished, said) = salvage(&site, &site.source.data(), &["--keyring", &elsewhere.display().to_string()])?;
    finished.success()?;
    ensure!(said["transactions"] == 1, "{said}");
    Ok(())
}

#[test]
fn a_key_that_only_the_archive_has_opens() -> Result<()> {
    let mut site = left_behind(MysqlServer::builder().start()?)?;
    site.source.sql("INSERT INTO ledger.entries VALUES (9, 1, '', '')")?;
    let key = format!("MySQLReplicationKey_{}_1", site.source.uuid()?);
    site.source.kill()?;
    fs::remove_file(site.source.keyring())?;
    let (identity, elsewhere) = (site.highwater.identity(), site.highwater.folder().join("identity-from-elsewhere"));
    fs::rename(&identity, &elsewhere)?;
    require_refused(&site, 3, &key)?;
    let named = elsewhere.display().to_string();
    let (planned, plan) = salvage(&site, &site.source.data(), &["--identity", &named, "--dry-run"])?;
    planned.success()?;
    ensure!(plan["transactions"] == 1, "{plan}");
    // A key bundle that somebody took out of the archive.
    let mut bundles = objects(&site)?.into_iter().filter(|path| path.to_string_lossy().ends_with(".json.zst.age"));
    let bundle = bundles.next_back().context("a key bundle")?.display().to_string();
    let empty = site.highwater.folder().join("no-bundles");
    fs::rename(site.highwater.store().join("keys"), &empty)?;
    let bundle =
        bundle.replace(&site.highwater.store().join("keys").display().to_string(), &empty.display().to_string());
    let from_bundle = ["--keyring", &bundle, "--identity", &named, "--dry-run"];
    let (planned, plan) = salvage(&site, &site.source.data(), &from_bundle)?;
    planned.success()?;
    ensure!(plan["transactions"] == 1, "{plan}");
    fs::rename(&empty, site.highwater.store().join("keys"))?;
    // The configuration names the identity.
    fs::rename(&elsewhere, &identity)?;
    let said = salvaged(&site, &site.source.data())?;
    ensure!(said["transactions"] == 1, "{said}");
    Ok(())
}

#[test]
fn an_agent_that_is_alive_is_not_disturbed_by_its_own_folder_and_ended_from_another() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    site.catch_up()?;
    let (finished, _) = salvage(&site, &site.source.data(), &[])?;
    ensure!(finished.code == Some(1) && finished.stderr.contains("another agent holds"), "{finished:?}");
    ensure!(site.agent.is_running()?);

    // The source cannot be reached by the agent any more; its disk can, from elsewhere.
    site.agent.signal("STOP")?;
    site.source.sql("INSERT INTO ledger.entries VALUES (9, 1, '', '')")?;
    site.source.kill()?;
    let state = format!("state_dir = \"{}\"\n", site.highwater.state().display());
    let elsewhere = site.highwater.folder().join("elsewhere");
    site.highwater.change_config(&state, &format!("state_dir = \"{}\"\n", elsewhere.display()))?;
    let said = salvaged(&site, &site.source.data())?;
    ensure!(said["transactions"] == 1, "{said}");
    site.agent.signal("CONT")?;
    let status = site.agent.wait(LIMIT)?;
    ensure!(status.code() == Some(8) && site.agent.stderr().contains("another agent writes this archive"), "{status}");
    Ok(())
}

/// A copy of what salvage needs of a data folder.
fn copy_disk(server: &MysqlServer, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(server.data())? {
        let path = entry?.path();
        let name = path.file_name().context("a name")?;
        let shown = name.to_string_lossy().into_owned();
        if path.is_file() && (shown.starts_with("binlog.") || shown.ends_with(".cnf") || shown == "mysqld.my") {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// Where the transactions of a binlog end, as the server itself lists its events.
fn transaction_ends(server: &MysqlServer, binlog: &str) -> Result<Vec<u64>> {
    let listing = server.sql(&format!("SHOW BINLOG EVENTS IN '{binlog}'"))?;
    let ends = listing.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        (fields.get(2) == Some(&"Xid")).then(|| fields.get(4)?.parse().ok()).flatten()
    });
    Ok(ends.collect())
}

#[test]
fn a_torn_binlog_gives_its_last_whole_transaction_at_any_length() -> Result<()> {
    let site = left_behind(MysqlServer::builder().start()?)?;
    site.source.sql("FLUSH BINARY LOGS")?;
    let rows: String =
        (0..12).map(|n| format!("INSERT INTO ledger.entries VALUES (9, {n}, '', REPEAT('t', {n} * 30));")).collect();
    site.source.sql(&rows)?;
    let newest = site.source.binlogs()?.pop().context("a binlog")?;
    let ends = transaction_ends(&site.source, &newest)?;
    ensure!(ends.len() == 12, "{ends:?}");
    let disk = tempfile::tempdir()?;
    copy_disk(&site.source, disk.path())?;
    let file = disk.path().join(&newest);
    let whole = fs::read(&file)?;
    let length = whole.len() as u64;
    // Every transaction's end and the bytes around it, the header, the first events, and odd places.
    let around = ends.iter().flat_map(|end| [end - 1, *end, end + 1, end + 20]).map(|end| end + HEADER_LEN);
    let lengths =
        [0, 1, 4, 100, 511, 512, 515, 516, 530, 640, 700].into_iter().chain(around).filter(|at| *at <= length);
    for length in lengths {
        fs::write(&file, &whole[..length as usize])?;
        let (finished, said) = salvage(&site, disk.path(), &["--dry-run"])?;
        let expected = ends.iter().filter(|end| **end + HEADER_LEN <= length).count();
        ensure!(said["transactions"] == expected, "{length} bytes: {expected} transactions, not {said}");
        let kind = said["end"]["kind"].as_str().unwrap_or_default();
        let at_end = ends.iter().any(|end| *end + HEADER_LEN == length);
        ensure!(kind == "whole" || !at_end, "{length} bytes: {said}");
        ensure!(finished.code == Some(if kind == "damaged" { 4 } else { 0 }), "{length} bytes: {finished:?}");
    }
    // Cut inside the fifth, it is taken up to the fourth; the whole file continues that.
    fs::write(&file, &whole[..(ends[4] + HEADER_LEN - 7) as usize])?;
    let said = salvaged(&site, disk.path())?;
    ensure!(said["transactions"] == 4 && said["end"]["kind"] == "torn" && said["end"]["whole"] == ends[3], "{said}");
    fs::write(&file, &whole)?;
    let said = salvaged(&site, disk.path())?;
    ensure!(said["transactions"] == 8, "{said}");
    require_same_bytes(&site, &Archived::read(&site.highwater)?)?;
    site.require_restorable()?;
    Ok(())
}

#[test]
fn a_closed_binlog_that_was_cut_and_a_length_that_is_damaged_are_no_torn_ends() -> Result<()> {
    let mut site = left_behind(MysqlServer::builder().start()?)?;
    site.source.sql("FLUSH BINARY LOGS")?;
    let rows: String = (0..8).map(|n| format!("INSERT INTO ledger.entries VALUES (9, {n}, '', 'c');")).collect();
    site.source.sql(&rows)?;
    let newest = site.source.binlogs()?.pop().context("a binlog")?;
    let ends = transaction_ends(&site.source, &newest)?;
    let disk = tempfile::tempdir()?;
    copy_disk(&site.source, disk.path())?;
    let file = disk.path().join(&newest);
    let told = |site: &Protected, bytes: &[u8], transactions: usize| -> Result<()> {
        fs::write(&file, bytes)?;
        let (finished, said) = salvage(site, disk.path(), &["--dry-run"])?;
        ensure!(finished.code == Some(4) && said["end"]["kind"] == "damaged", "{said}: {finished:?}");
        ensure!(said["transactions"] == transactions && said["end"]["inside"] == false, "{said}");
        Ok(())
    };
    // As the server wrote it, not closed: the length of the event behind the fourth transaction, bit by bit.
    let open = fs::read(&file)?;
    let at = (ends[3] + HEADER_LEN) as usize + 9;
    for bit in 0..32 {
        let mut bytes = open.clone();
        bytes[at + bit / 8] ^= 1 << (bit % 8);
        told(&site, &bytes, 4)?;
    }
    site.source.stop()?;
    let closed = fs::read(site.source.data().join(&newest))?;
    told(&site, &closed[..(ends[4] + HEADER_LEN - 7) as usize], 4)?;
    fs::write(&file, &closed)?;
    let (finished, said) = salvage(&site, disk.path(), &["--dry-run"])?;
    ensure!(finished.code == Some(0) && said["transactions"] == 8, "{said}: {finished:?}");
    Ok(())
}

#[test]
fn damage_inside_the_history_is_told_and_nothing_behind_it_is_taken() -> Result<()> {
    let site = left_behind(MysqlServer::builder().start()?)?;
    let insert = |n: u32| site.source.sql(&format!("INSERT INTO ledger.entries VALUES (9, {n}, '', REPEAT('d', 500))"));
    site.source.sql("FLUSH BINARY LOGS")?;
    (0..6).try_for_each(|n| insert(n).map(drop))?;
    let binlog = site.source.binlogs()?.pop().context("a binlog")?;
    let ends = transaction_ends(&site.source, &binlog)?;
    site.source.sql("FLUSH BINARY LOGS")?;
    insert(100)?;
    let disk = tempfile::tempdir()?;
    copy_disk(&site.source, disk.path())?;
    let file = OpenOptions::new().read(true).write(true).open(disk.path().join(&binlog))?;
    let (at, mut byte) = (ends[3] + HEADER_LEN - 100, [0u8]);
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 4], at)?;
    let (finished, said) = salvage(&site, disk.path(), &[])?;
    ensure!(finished.code == Some(4) && finished.stderr.contains(&binlog), "{finished:?}");
    ensure!(said["transactions"] == 3 && said["end"]["inside"] == true, "{said}");
    // A better copy completes it.
    let said = salvaged(&site, &site.source.data())?;
    ensure!(said["transactions"] == 4, "{said}");
    site.require_restorable()?;
    Ok(())
}

#[test]
fn damage_in_front_of_the_archive_s_end_is_no_fork() -> Result<()> {
    let mut site = left_behind(MysqlServer::builder().start()?)?;
    site.restart_agent(&[])?;
    let insert = |n: u32| format!("INSERT INTO ledger.entries VALUES (9, {n}, '', REPEAT('d', 500));");
    site.source.sql(&format!("FLUSH BINARY LOGS; {}", (0..200).map(insert).collect::<String>()))?;
    site.catch_up()?;
    site.agent.terminate(LIMIT)?;
    let newest = site.source.binlogs()?.pop().context("a binlog")?;
    let ends = transaction_ends(&site.source, &newest)?;
    site.source.kill()?;
    // Inside of an event, and in the first one, without which nothing else can be read.
    for at in [ends[3] - 100, 30] {
        let file = OpenOptions::new().read(true).write(true).open(site.source.data().join(&newest))?;
        let (at, mut byte) = (at + HEADER_LEN, [0u8]);
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 4], at)?;
        require_refused(&site, 4, &newest)?;
        let (finished, _) = salvage(&site, &site.source.data(), &[])?;
        ensure!(finished.stderr.contains("another copy"), "{at}: {finished:?}");
        ensure!(!finished.stderr.contains("fork") && !finished.stderr.contains("another server"), "{at}: {finished:?}");
        // What lies behind the damage is not read: it would pile up in memory.
        let datadir = site.source.data().display().to_string();
        let mut command =
            site.highwater.programs().highwater(&site.highwater.config(), &["salvage", "--datadir", &datadir]);
        let finished = Finished::run(command.env("FAILPOINTS", "files.read=1*off->return(eio)"))?;
        ensure!(finished.code == Some(4), "{at}: {finished:?}");
        file.write_all_at(&byte, at)?;
    }
    ensure!(salvaged(&site, &site.source.data())?["bytes"] == 0, "something is left");
    Ok(())
}

#[test]
fn a_replica_s_disk_gives_what_the_lost_source_had_committed_there() -> Result<()> {
    let mut site = left_behind(MysqlServer::builder().start()?)?;
    let replica = MysqlServer::builder().server_id(2).start()?;
    // The replica has binlogs of its own numbering, with what the archive has already in them.
    replica.sql(&format!(
        "RESET BINARY LOGS AND GTIDS; CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}, \
         SOURCE_USER = 'highwater', SOURCE_PASSWORD = 'not a secret: tests only', SOURCE_AUTO_POSITION = 1, SOURCE_SSL = 1; \
         START REPLICA",
        site.source.port()
    ))?;
    let rows: String =
        (0..40).map(|n| format!("INSERT INTO ledger.entries VALUES (9, {n}, '<entry.9.{n}>', '');")).collect();
    site.source.sql(&rows)?;
    let wanted = State::read_blocking(&site.source)?;
    let caught_up = replica.sql(&format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{}', 60)", wanted.gtids()))?;
    ensure!(caught_up == "0", "the replica lags: {caught_up}");
    replica.sql("STOP REPLICA; FLUSH BINARY LOGS")?;
    site.source.kill()?;
    let said = salvaged(&site, &replica.data())?;
    ensure!(said["transactions"] == 40 && said["server"] == replica.uuid()?, "{said}");
    ensure!(salvaged(&site, &replica.data())?["bytes"] == 0, "something is left");
    let target = MysqlServer::builder().server_id(3).start()?;
    site.highwater.restore(&target, &["--to", "latest"])?.success()?;
    wanted.require_equal(&State::read_blocking(&target)?)
}

#[test]
fn without_gtids_bytes_and_positions_decide() -> Result<()> {
    let source = MysqlServer::builder().without_gtids().start()?;
    Ledger::create(&source)?;
    let highwater = highwater_tests::Installation::new(&source)?;
    highwater.configure("capture", "allow_positions = true")?;
    let mut agent = highwater.agent()?;
    highwater.wait_for_dump(&mut agent)?;
    agent.terminate(LIMIT)?;
    let mut site = Protected { source, highwater, agent };
    let rows: String =
        (0..20).map(|n| format!("INSERT INTO ledger.entries VALUES (9, {n}, '', REPEAT('p', 99));")).collect();
    site.source.sql(&rows)?;
    site.source.sql("FLUSH BINARY LOGS; INSERT INTO ledger.entries VALUES (9, 100, '', '')")?;
    site.source.stop()?;
    let said = salvaged(&site, &site.source.data())?;
    ensure!(said["transactions"].as_u64().is_some_and(|count| count >= 21) && said["gtids"] == "", "{said}");
    ensure!(salvaged(&site, &site.source.data())?["bytes"] == 0, "something is left");
    site.source.start()?;
    let archived = Archived::read(&site.highwater)?;
    ensure!(require_same_bytes(&site, &archived)? >= 2, "{:?}", archived.binlogs.keys());
    Ok(())
}

#[test]
fn no_server_and_no_history_are_told() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    let highwater = highwater_tests::Installation::new(&source)?;
    let datadir = source.data().display().to_string();
    let fresh = highwater.run(&["salvage", "--datadir", &datadir])?;
    ensure!(fresh.code == Some(1) && fresh.stderr.contains("no timeline"), "{fresh:?}");
    let nothing = tempfile::tempdir()?;
    let empty = highwater.run(&["salvage", "--datadir", &nothing.path().display().to_string()])?;
    ensure!(empty.code == Some(1) && empty.stderr.contains("auto.cnf"), "{empty:?}");
    // A configuration without [source] is enough.
    let text = fs::read_to_string(highwater.config())?;
    let from = text.find("[source]").context("[source]")?;
    let to = text.find("[store]").context("[store]")?;
    fs::write(highwater.config(), format!("{}{}", &text[..from], &text[to..]))?;
    let again = highwater.run(&["salvage", "--datadir", &datadir])?;
    ensure!(again.stderr.contains("no timeline"), "{again:?}");
    let agent = Finished::run(
        Command::new(&highwater.programs().highwater).args(["--config"]).arg(highwater.config()).arg("agent"),
    )?;
    ensure!(agent.code == Some(2) && agent.stderr.contains("[source]"), "{agent:?}");
    Ok(())
}
