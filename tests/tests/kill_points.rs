//! Every place of the agent where a death could lose something (fault 1): the agent dies there by SIGKILL, at the first or
//! a later passage, and the next one goes on. A place that no agent ever comes to fails the test.
//!
//! `HIGHWATER_PASSAGES` is how many passages of each place are tried; without it, it is one: the first of one place, the
//! fourth of the next.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater::failpoint::CRASH_POINTS;
use highwater_tests::{Archived, Background, MysqlServer, Protected, size_of_run};

/// How long an agent may go without passing a place that the work leads it to.
const DEATH_LIMIT: Duration = Duration::from_secs(30);

/// Places that an agent passes only when it opens a timeline.
const OF_A_TIMELINE: &str = "timeline.new";

/// A source that waits for acknowledgements, but not long: while the agent is dead the work goes on.
fn site() -> Result<Protected> {
    let source = MysqlServer::builder().semi_sync(Duration::from_millis(200)).start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, a LONGBLOB)")?;
    let mut site = Protected::of(source, |highwater| {
        highwater.configure("seal", "object_bytes_max = 65536")?;
        highwater.configure("capture", "ack = \"local\"\nsegment_bytes_max = 65536")
    })?;
    site.source.require_acks()?;
    site_with_first_rows(&mut site).map(|()| site)
}

fn site_with_first_rows(site: &mut Protected) -> Result<()> {
    site.source.sql("INSERT INTO d.t (a) VALUES ('first')")?;
    site.catch_up()
}

/// Something of everything: small transactions, one over several batches, a new binlog, a new key.
fn work(source: &MysqlServer) -> Result<()> {
    source.sql(
        "USE d; INSERT INTO t (a) VALUES ('small'), (REPEAT('m', 30000));
         BEGIN; INSERT INTO t (a) VALUES (REPEAT('x', 200000)); INSERT INTO t (a) VALUES (REPEAT('y', 200000)); COMMIT;
         DELETE FROM t WHERE LENGTH(a) > 100000;
         FLUSH BINARY LOGS; INSERT INTO t (a) VALUES ('next file'); ALTER INSTANCE ROTATE BINLOG MASTER KEY;
         INSERT INTO t (a) VALUES ('next key')",
    )?;
    Ok(())
}

/// Works until the agent is dead; it must have been killed, not have ended.
fn work_until_dead(agent: &mut Background, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    while agent.is_running()? {
        ensure!(started.elapsed() < DEATH_LIMIT, "was never passed; the agent says {}", agent.stderr());
        work()?;
    }
    let status = agent.wait(Duration::ZERO)?;
    ensure!(status.signal() == Some(9), "the agent ended by itself with {status}: {}", agent.stderr());
    Ok(())
}

/// One death, and what comes after it.
fn die_and_recover(site: &mut Protected, point: &str, passage: usize) -> Result<()> {
    let failpoints = format!("{point}={}*off->return", passage - 1);
    site.restart_agent(&[("FAILPOINTS", &failpoints)])?;
    let source = &site.source;
    work_until_dead(&mut site.agent, || work(source))?;
    site.restart_agent(&[])?;
    site.catch_up()?;
    let archived = Archived::read(&site.highwater)?;
    ensure!(archived.timelines() == 1, "a death opened a timeline");
    archived.require_equal(&site.source)
}

/// The places of one third of the list, in order, each at several passages; all failures are told.
fn die_at(third: usize) -> Result<()> {
    let points: Vec<_> = CRASH_POINTS.iter().filter(|point| !point.starts_with(OF_A_TIMELINE)).collect();
    ensure!(points.len() >= 20, "only {points:?} are listed");
    let passages = size_of_run("HIGHWATER_PASSAGES", 1);
    let mut site = site()?;
    let (mut failures, mut deaths) = (Vec::new(), 0);
    for (index, point) in points.iter().skip(third).step_by(3).enumerate() {
        let first = if passages == 1 { 1 + index % 2 } else { 1 };
        for passage in (first..first + passages).map(|nth| nth * nth) {
            match die_and_recover(&mut site, point, passage) {
                Ok(()) => deaths += 1,
                Err(error) => failures.push(format!("{point}, passage {passage}: {error:#}")),
            }
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    let archived = site.settle()?;
    ensure!(archived.gtids().to_string() == site.source.gtid_executed()?);
    site.highwater.require_empty_spool()?;
    println!("{deaths} deaths at named places");
    site.require_restorable()?;
    Ok(())
}

#[test]
fn a_death_at_any_named_place_loses_and_repeats_nothing_in_the_first_third() -> Result<()> {
    die_at(0)
}

#[test]
fn a_death_at_any_named_place_loses_and_repeats_nothing_in_the_second_third() -> Result<()> {
    die_at(1)
}

#[test]
fn a_death_at_any_named_place_loses_and_repeats_nothing_in_the_last_third() -> Result<()> {
    die_at(2)
}

#[test]
fn a_death_while_a_timeline_is_opened_opens_it_once() -> Result<()> {
    let points: Vec<_> = CRASH_POINTS.iter().filter(|point| point.starts_with(OF_A_TIMELINE)).collect();
    ensure!(!points.is_empty(), "none is listed");
    for point in points {
        let mut site = site()?;
        site.catch_up()?;
        site.agent.terminate(DEATH_LIMIT)?;
        // The history ends here; the next agent opens another timeline.
        site.source.sql("RESET BINARY LOGS AND GTIDS; INSERT INTO d.t (a) VALUES ('again')")?;
        site.restart_agent(&[("FAILPOINTS", &format!("{point}=return"))])?;
        let wait = || {
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        };
        work_until_dead(&mut site.agent, wait).context(*point)?;
        site.restart_agent(&[])?;
        // The GTIDs of the old history are those of the new one: only the dump tells that it has begun.
        site.highwater.wait_until("second dump", DEATH_LIMIT, &mut site.agent, |highwater| {
            Ok(Archived::read(highwater)?.inventory.dumps.iter().any(|dump| dump.timeline.0 == 2))
        })?;
        let archived = site.settle().context(*point)?;
        ensure!(archived.timelines() == 2, "{point}: {} timelines", archived.timelines());
    }
    Ok(())
}
