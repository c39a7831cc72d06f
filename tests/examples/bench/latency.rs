//! From a commit on the source until it is in the archive.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use highwater_binlog::{Gtid, GtidSet};
use highwater_tests::{Finished, Installation, MysqlServer, mysql_program};

use crate::archive_watch::{ArchiveWatch, Published};
use crate::catch_up::start;
use crate::commits;
use crate::report::Section;
use crate::settings::Settings;
use crate::statistics::percentile;

/// How long the end of the load may take into the store.
const LIMIT: Duration = Duration::from_secs(60);

/// Measures.
pub(crate) fn run(settings: &Settings) -> Result<Section> {
    let source = MysqlServer::builder().start()?;
    let installation = Installation::new(&source)?;
    let mut agent = start(&installation.programs().highwater, &installation)?;
    let mut watch = ArchiveWatch::new(&installation.store());
    installation.wait_for_dump(&mut agent)?;
    commits::prepare(&source)?;
    let before: GtidSet = source.gtid_executed()?.parse()?;
    let commits = commits::run(&source, settings.rate, settings.seconds)?;
    let after: GtidSet = source.gtid_executed()?.parse()?;

    let wanted = after.subtract(&before);
    let mut published = watch.published()?;
    let started = Instant::now();
    while !wanted.is_subset(&archived(&published)?) {
        ensure!(started.elapsed() < LIMIT, "the load is not in the store after {LIMIT:?}: {}", agent.stderr());
        thread::sleep(Duration::from_millis(20));
        published.extend(watch.published()?);
    }
    agent.terminate(LIMIT)?;

    let times = commit_times(&source)?;
    let mut seconds = Vec::new();
    for segment in &published {
        let set: GtidSet = segment.gtids_added.parse()?;
        let found = times.iter().filter(|(gtid, _)| wanted.contains(gtid) && set.contains(gtid));
        seconds.extend(found.map(|(_, committed)| segment.at - committed));
    }
    ensure!(
        seconds.len() == commits.milliseconds.len(),
        "{} of {} commits found",
        seconds.len(),
        commits.milliseconds.len()
    );
    let mut section = Section::new("latency");
    section.about(format!(
        "{} transactions, {:.0} a second by 16 connections; sync_binlog=1; capture.segment_age_seconds = 1",
        commits.milliseconds.len(),
        commits.rate
    ));
    section
        .about("from the source's own commit timestamp of each transaction to the change time of its manifest's name");
    section.figure("commit to store, p50", percentile(&seconds, 50.0), "s", "");
    section.figure("commit to store, p99", percentile(&seconds, 99.0), "s", "goal: segment age + 1 s");
    section.figure("commit to store, largest", percentile(&seconds, 100.0), "s", "");
    section.command(
        "highwater agent; mysqlbinlog --read-from-remote-server (immediate_commit_timestamp); stat -c %Z MANIFEST",
    );
    Ok(section)
}

fn archived(published: &[Published]) -> Result<GtidSet> {
    let mut all = GtidSet::default();
    for segment in published {
        all = all.union(&segment.gtids_added.parse()?);
    }
    Ok(all)
}

/// The source's commit time of each transaction, seconds since 1970, as its binlogs have it.
fn commit_times(source: &MysqlServer) -> Result<BTreeMap<Gtid, f64>> {
    let finished = Finished::run(
        Command::new(mysql_program("mysqlbinlog")?)
            .args(["--user=root", "--read-from-remote-server", "--base64-output=decode-rows"])
            .arg(format!("--socket={}", source.socket().display()))
            .args(source.binlogs()?),
    )?
    .success()?;
    let text = finished.text();
    let (mut times, mut committed) = (BTreeMap::new(), 0.0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# immediate_commit_timestamp=") {
            let micros: u64 = rest.split(' ').next().unwrap_or_default().parse()?;
            committed = micros as f64 / 1e6;
        } else if let Some(rest) = line.strip_prefix("SET @@SESSION.GTID_NEXT= '")
            && let Some((gtid, _)) = rest.split_once('\'')
            && let Ok(gtid) = gtid.parse()
        {
            times.insert(gtid, committed);
        }
    }
    Ok(times)
}
