//! Salvage of a disk that lacks transactions between others (faults 18, 20 and 21): what comes before them is taken, and they
//! are named.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_tests::{Archived, Finished, Ledger, MysqlServer, Protected};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// A server whose agent has captured something and was stopped.
fn left_behind() -> Result<Protected> {
    let source = MysqlServer::builder().start()?;
    Ledger::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    site.catch_up()?;
    let status = site.agent.terminate(LIMIT)?;
    ensure!(status.code() == Some(0), "{}", site.agent.stderr());
    Ok(site)
}

fn salvage(site: &Protected, datadir: &Path, more: &[&str]) -> Result<(Finished, Value)> {
    let datadir = datadir.display().to_string();
    let finished = site.highwater.run(&[&["--json", "salvage", "--datadir", &datadir], more].concat())?;
    let said = serde_json::from_slice(&finished.stdout).unwrap_or(Value::Null);
    Ok((finished, said))
}

fn insert(site: &Protected, number: u32) -> Result<()> {
    site.source.sql(&format!("INSERT INTO ledger.entries VALUES (9, {number}, '', '')")).map(drop)
}

/// Ends a binlog with these transactions, and returns its name and their GTIDs.
fn write_binlog(site: &Protected, numbers: std::ops::Range<u32>) -> Result<(String, String)> {
    let before = site.source.gtid_executed()?;
    numbers.into_iter().try_for_each(|number| insert(site, number))?;
    let gtids = site.source.sql(&format!("SELECT GTID_SUBTRACT(@@GLOBAL.gtid_executed, '{before}')"))?;
    let binlog = site.source.binlogs()?.pop().context("a binlog")?;
    site.source.sql("FLUSH BINARY LOGS")?;
    Ok((binlog, gtids.replace('\n', "")))
}

#[test]
fn a_missing_binlog_between_others_is_a_gap_and_what_comes_before_it_is_taken() -> Result<()> {
    let mut site = left_behind()?;
    write_binlog(&site, 0..3)?;
    write_binlog(&site, 10..12)?;
    let (gone, lost) = write_binlog(&site, 20..24)?;
    write_binlog(&site, 30..31)?;
    insert(&site, 40)?;
    site.source.stop()?;
    let away = site.highwater.folder().join("away");
    fs::rename(site.source.data().join(&gone), &away)?;
    let index = site.source.data().join("binlog.index");
    let lines = fs::read_to_string(&index)?;
    let fewer: String = lines.split_inclusive('\n').filter(|line| !line.contains(&gone)).collect();
    ensure!(fewer.len() < lines.len(), "{lines}");
    for (place, text) in [("in the index", &lines), ("not in the index either", &fewer)] {
        fs::write(&index, text)?;
        let (planned, plan) = salvage(&site, &site.source.data(), &["--dry-run"])?;
        ensure!(planned.code == Some(5) && planned.stderr.contains(&lost), "{place}: {lost}: {planned:?}");
        ensure!(plan["transactions"] == 5 && plan["end"]["kind"] == "gap", "{place}: {plan}");
        ensure!(plan["end"]["missing"] == lost.as_str(), "{place}: {lost}: {plan}");
    }
    fs::write(&index, &lines)?;
    let (taken, said) = salvage(&site, &site.source.data(), &[])?;
    ensure!(taken.code == Some(5) && said["done"] == true && said["transactions"] == 5, "{taken:?} {said}");
    ensure!(Archived::read(&site.highwater)?.timelines() == 1, "the history is broken");
    let (again, said) = salvage(&site, &site.source.data(), &[])?;
    ensure!(again.code == Some(5) && said["transactions"] == 0 && again.stderr.contains(&lost), "{again:?} {said}");
    // The binlog turns up.
    fs::rename(&away, site.source.data().join(&gone))?;
    let (rest, said) = salvage(&site, &site.source.data(), &[])?;
    rest.success()?;
    ensure!(said["transactions"] == 6 && said["end"]["kind"] == "whole", "{said}");
    site.source.start()?;
    site.require_restorable()?;
    Ok(())
}

#[test]
fn a_missing_newest_binlog_is_a_gap_and_what_comes_before_it_is_taken() -> Result<()> {
    let mut site = left_behind()?;
    write_binlog(&site, 0..3)?;
    insert(&site, 10)?;
    site.source.stop()?;
    let newest = fs::read_to_string(site.source.data().join("binlog.index"))?;
    let newest = newest.lines().last().context("a line")?.trim_start_matches("./").to_owned();
    fs::remove_file(site.source.data().join(&newest))?;
    let (taken, said) = salvage(&site, &site.source.data(), &[])?;
    ensure!(taken.code == Some(5) && taken.stderr.contains(&newest), "{taken:?}");
    ensure!(said["transactions"] == 3 && said["end"]["kind"] == "gap", "{said}");
    Ok(())
}

#[test]
fn transactions_without_a_gtid_are_a_gap_and_what_comes_before_them_is_taken() -> Result<()> {
    let site = left_behind()?;
    write_binlog(&site, 0..3)?;
    site.source.sql("SET GLOBAL gtid_mode = ON_PERMISSIVE; SET GLOBAL gtid_mode = OFF_PERMISSIVE")?;
    insert(&site, 10)?;
    site.source.sql("SET GLOBAL gtid_mode = ON_PERMISSIVE; SET GLOBAL gtid_mode = ON")?;
    insert(&site, 20)?;
    let (taken, said) = salvage(&site, &site.source.data(), &[])?;
    ensure!(taken.code == Some(5) && taken.stderr.contains("has no GTID"), "{taken:?}");
    ensure!(said["transactions"] == 3 && said["end"]["kind"] == "gap" && said["end"]["missing"] == "", "{said}");
    Ok(())
}

#[test]
fn a_running_server_is_salvaged_while_it_rotates_keys_and_purges() -> Result<()> {
    const ROTATIONS: u32 = 25;
    let site = left_behind()?;
    // What is older than this is in the archive.
    let purgeable = std::sync::Mutex::new(None::<String>);
    std::thread::scope(|scope| -> Result<()> {
        let writing = scope.spawn(|| -> Result<()> {
            for number in 0..ROTATIONS {
                insert(&site, number)?;
                site.source.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY; FLUSH BINARY LOGS")?;
                if let Some(binlog) = purgeable.lock().ok().and_then(|mut binlog| binlog.take()) {
                    site.source.sql(&format!("PURGE BINARY LOGS TO '{binlog}'"))?;
                }
            }
            Ok(())
        });
        while !writing.is_finished() {
            let (finished, said) = salvage(&site, &site.source.data(), &[])?;
            finished.success()?;
            let newest = said["binlogs"].as_array().and_then(|binlogs| binlogs.last()?["binlog"].as_str());
            if let (Some(newest), Ok(mut purgeable)) = (newest, purgeable.lock()) {
                *purgeable = Some(newest.to_owned());
            }
        }
        writing.join().map_err(|_| anyhow::anyhow!("a panic"))?
    })?;
    ensure!(site.source.binlogs()?.len() < 2 * ROTATIONS as usize, "nothing was purged");
    salvage(&site, &site.source.data(), &[])?.0.success()?;
    ensure!(Archived::read(&site.highwater)?.timelines() == 1, "the history is broken");
    site.require_restorable()?;
    Ok(())
}
