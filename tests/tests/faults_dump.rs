//! What can happen to a full dump (faults 2, 14 and 19): either it is a point of the history that it says, or it is not there;
//! and no lock stays on the source.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater::failpoint::DUMP_CRASH_POINTS;
use highwater_tests::{Archived, Background, Installation, MysqlServer, Protected, Proxy, State};

const LIMIT: Duration = Duration::from_secs(120);

/// How long locks of a dead dump may stay.
const LOCKS_LIMIT: Duration = Duration::from_secs(1);

/// Locks of other sessions that keep anybody from anything.
const LOCKS: &str = "SELECT COUNT(*) FROM performance_schema.metadata_locks WHERE OBJECT_TYPE IN ('GLOBAL', 'BACKUP LOCK') \
    AND LOCK_TYPE LIKE 'SHARED%' AND LOCK_DURATION = 'EXPLICIT' AND OWNER_THREAD_ID <> PS_CURRENT_THREAD_ID()";

fn source() -> Result<MysqlServer> {
    let source = MysqlServer::builder().start()?;
    source.sql(
        "CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, a TEXT);
         INSERT INTO d.t (a) VALUES ('one'), ('two')",
    )?;
    Ok(source)
}

fn wait_for_locks(source: &MysqlServer, some: bool, limit: Duration) -> Result<()> {
    let started = Instant::now();
    while (source.sql(LOCKS)? != "0") != some {
        ensure!(started.elapsed() < limit, "locks: {}, wanted: {some}", source.sql(LOCKS)?);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn wait_until_said(agent: &mut Background, words: &str) -> Result<()> {
    let started = Instant::now();
    while !agent.stderr().contains(words) {
        ensure!(agent.is_running()? && started.elapsed() < LIMIT, "never said {words:?}: {}", agent.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn dumps_of(highwater: &Installation, timeline: u32) -> Result<usize> {
    let dumps = Archived::read(highwater)?.inventory.dumps;
    Ok(dumps.iter().filter(|dump| dump.timeline.0 == timeline).count())
}

#[test]
fn a_dump_under_way_while_the_source_is_reset_belongs_to_no_timeline() -> Result<()> {
    let source = source()?;
    let highwater = Installation::new(&source)?;
    // The dump begins, and comes to its point when the source has another history.
    let mut agent = highwater.agent_with(&[("FAILPOINTS", "dump.lock.before=1*sleep(8000)")])?;
    wait_until_said(&mut agent, "dump begins")?;
    highwater.catch_up(&mut agent, &source)?;
    let old = source.gtid_executed()?;
    let count: usize = old.rsplit(['-', ':']).next().context("a number")?.parse()?;
    // The new history has every GTID of the old one, and some more.
    source.sql(&format!(
        "RESET BINARY LOGS AND GTIDS; {}",
        "INSERT INTO d.t (a) VALUES ('of the new history');".repeat(count + 5)
    ))?;
    ensure!(source.sql(&format!("SELECT GTID_SUBSET('{old}', @@GLOBAL.gtid_executed)"))? == "1");
    highwater.wait_until("dump of the new history", LIMIT, &mut agent, |highwater| Ok(dumps_of(highwater, 2)? > 0))?;
    highwater.catch_up(&mut agent, &source)?;
    ensure!(dumps_of(&highwater, 1)? == 0, "a dump of the new history is in the old one: {}", agent.stderr());
    let site = Protected { source, highwater, agent };
    site.require_restorable().map(drop)
}

#[test]
fn a_dump_by_hand_of_a_source_that_was_reset_is_refused() -> Result<()> {
    let mut site = Protected::of(source()?, |_| Ok(()))?;
    site.settle()?;
    let old = site.source.gtid_executed()?;
    let count: usize = old.rsplit(['-', ':']).next().context("a number")?.parse()?;
    site.source
        .sql(&format!("RESET BINARY LOGS AND GTIDS; {}", "INSERT INTO d.t (a) VALUES ('x');".repeat(count - 1)))?;
    let lacks = site.highwater.run(&["dump"])?;
    ensure!(lacks.code == Some(1) && lacks.stderr.contains("lacks transactions that timeline"), "{lacks:?}");
    // Sets alone do not tell any more.
    site.source.sql(&"INSERT INTO d.t (a) VALUES ('y');".repeat(3))?;
    let differs = site.highwater.run(&["dump"])?;
    ensure!(differs.code == Some(1) && differs.stderr.contains("differs from the archive"), "{differs:?}");
    ensure!(dumps_of(&site.highwater, 1)? == 1, "something was published");
    Ok(())
}

#[test]
fn a_dump_whose_server_falls_silent_ends_and_the_next_one_is_complete() -> Result<()> {
    let source = source()?;
    let proxy = Proxy::start(source.port())?;
    let highwater = Installation::new(&source)?;
    highwater.go_through(&source, &proxy)?;
    let mut agent = highwater.agent()?;
    highwater.wait_for_dump(&mut agent)?;
    highwater.catch_up(&mut agent, &source)?;
    agent.terminate(LIMIT)?;
    let mut command = highwater.programs().highwater(&highwater.config(), &["dump"]);
    command.env("FAILPOINTS", "dump.table.mid=1*sleep(2000)");
    let mut dump = Background::start(&mut command, &highwater.folder(), "dump")?;
    wait_for_locks(&source, true, LIMIT)?;
    proxy.silence(true);
    let started = Instant::now();
    let status = dump.wait(LIMIT)?;
    println!("given up after {:?}: {}", started.elapsed(), dump.stderr());
    ensure!(status.code() == Some(1) && dump.stderr().contains("has not answered for"), "{}", dump.stderr());
    // The server learns of it when the way is there again.
    proxy.silence(false);
    wait_for_locks(&source, false, Duration::from_secs(5))?;
    highwater.run(&["dump"])?.success()?;
    Ok(())
}

#[test]
fn a_dump_that_loses_its_server_is_taken_again_by_the_agent() -> Result<()> {
    let source = source()?;
    let proxy = Proxy::start(source.port())?;
    let highwater = Installation::new(&source)?;
    highwater.go_through(&source, &proxy)?;
    let mut agent = highwater.agent_with(&[("FAILPOINTS", "dump.table.mid=1*sleep(2000)")])?;
    wait_for_locks(&source, true, LIMIT)?;
    proxy.silence(true);
    wait_until_said(&mut agent, "dump failed")?;
    ensure!(dumps_of(&highwater, 1)? == 0);
    proxy.silence(false);
    wait_for_locks(&source, false, Duration::from_secs(5))?;
    highwater.wait_for_dump(&mut agent)?;
    highwater.catch_up(&mut agent, &source)?;
    Protected { source, highwater, agent }.require_restorable().map(drop)
}

#[test]
fn a_dump_killed_at_any_named_place_leaves_no_lock_and_no_half_dump() -> Result<()> {
    let mut site = Protected::of(source()?, |_| Ok(()))?;
    site.catch_up()?;
    let mut published = dumps_of(&site.highwater, 1)?;
    for point in DUMP_CRASH_POINTS {
        let mut command = site.highwater.programs().highwater(&site.highwater.config(), &["dump"]);
        command.env("FAILPOINTS", format!("{point}=return"));
        let mut dump = Background::start(&mut command, &site.highwater.folder(), "dump")?;
        let status = dump.wait(LIMIT)?;
        ensure!(status.signal() == Some(9), "{point} was never passed: {status}, {}", dump.stderr());
        wait_for_locks(&site.source, false, LOCKS_LIMIT).context(*point)?;
        published += usize::from(*point == "dump.manifest.after");
        ensure!(
            dumps_of(&site.highwater, 1)? == published,
            "{point}: a dump that was not finished is visible, or gone"
        );
        site.source.sql("INSERT INTO d.t (a) VALUES ('after a death')")?;
    }
    site.highwater.run(&["dump"])?.success()?;
    ensure!(dumps_of(&site.highwater, 1)? == published + 1);
    site.highwater.run(&["verify"])?.success()?;
    site.catch_up()?;
    site.require_restorable().map(drop)
}

#[test]
fn an_agent_killed_inside_its_dump_takes_it_when_it_is_back() -> Result<()> {
    for point in ["dump.lock.after", "dump.table.mid", "dump.manifest.before"] {
        let source = source()?;
        let highwater = Installation::new(&source)?;
        let mut agent = highwater.agent_with(&[("FAILPOINTS", &format!("{point}=return"))])?;
        let status = agent.wait(LIMIT)?;
        ensure!(status.signal() == Some(9), "{point}: {status}, {}", agent.stderr());
        wait_for_locks(&source, false, LOCKS_LIMIT).context(point)?;
        ensure!(dumps_of(&highwater, 1)? == 0, "{point}: a dump that was not finished is visible");
        let mut agent = highwater.agent()?;
        highwater.wait_for_dump(&mut agent)?;
        highwater.catch_up(&mut agent, &source)?;
        let target = MysqlServer::builder().server_id(3).start()?;
        highwater.restore(&target, &["--to", "latest"])?.success().context(point)?;
        State::read_blocking(&source)?.require_equal(&State::read_blocking(&target)?)?;
    }
    Ok(())
}
