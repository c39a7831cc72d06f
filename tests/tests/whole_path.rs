//! Back up a source that is written to, break it, bring it back: every way to name the moment.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater_tests::{Background, Installation, MysqlServer, State, Workload, Writer};

/// A source with an archive, and what the source held at three moments.
struct Scene {
    source: MysqlServer,
    highwater: Installation,
    agent: Background,
    /// A time when nothing was written, and the state then.
    quiet: (String, State),
    /// The GTID of a bad transaction, and the state just before it.
    bad: (String, State),
    /// The state just after the bad transaction.
    after: State,
    /// The state at the end.
    latest: State,
}

impl Scene {
    fn play(seed: u64) -> Result<Self> {
        let source = MysqlServer::builder().start()?;
        Workload::create(&source)?;
        let writers = [
            Writer::start(&source, seed, Duration::from_millis(2))?,
            Writer::start(&source, seed + 1, Duration::from_millis(2))?,
        ];
        writers[0].wait_for(20)?;
        let highwater = Installation::new(&source)?;
        let mut agent = highwater.agent()?;
        highwater.wait_for_dump(&mut agent)?;
        writers.iter().try_for_each(|writer| writer.wait_for(50))?;
        source.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY; FLUSH BINARY LOGS")?;
        writers.iter().try_for_each(|writer| writer.wait_for(50))?;
        let pause = || writers.iter().map(Writer::pause).collect::<Vec<_>>();
        let quiet = {
            let _paused = pause();
            let state = State::read_blocking(&source)?;
            (source.now()?, state)
        };
        writers.iter().try_for_each(|writer| writer.wait_for(50))?;
        let (bad, after) = {
            let _paused = pause();
            let before = State::read_blocking(&source)?;
            source.sql("DELETE FROM shop.orders")?;
            let gtid = source.only_gtid_since(before.gtids())?;
            ((gtid, before), State::read_blocking(&source)?)
        };
        writers.iter().try_for_each(|writer| writer.wait_for(50))?;
        for writer in writers {
            writer.stop()?;
        }
        source.sql(
            "ALTER TABLE bank.transfers ADD COLUMN note VARCHAR(20) DEFAULT 'late';
             CREATE USER late@'10.%' IDENTIFIED BY 'late'; GRANT SELECT ON bank.* TO late@'10.%';
             ALTER EVENT bank.paused ENABLE; ALTER EVENT `audit-log`.trim_entries DISABLE;",
        )?;
        let latest = State::read_blocking(&source)?;
        highwater.wait_for_gtids(&mut agent, latest.gtids())?;
        Ok(Self { source, highwater, agent, quiet, bad, after, latest })
    }
}

/// An empty server; its scheduler is off so that it adds nothing of its own afterwards.
fn target() -> Result<MysqlServer> {
    MysqlServer::builder().server_id(2).option("--event-scheduler=OFF").start()
}

#[test]
fn every_moment_comes_back_exactly() -> Result<()> {
    let mut scene = Scene::play(1)?;
    let highwater = &scene.highwater;
    let points: [(&[&str], &State); 4] = [
        (&["--before-gtid", &scene.bad.0], &scene.bad.1),
        (&["--to", &scene.quiet.0], &scene.quiet.1),
        (&["--to-gtid", &scene.bad.0], &scene.after),
        (&["--to", "latest"], &scene.latest),
    ];
    for (point, wanted) in points {
        let target = target()?;
        let settings = settings(&target)?;
        highwater.restore(&target, point)?.success().with_context(|| point.join(" "))?;
        wanted.require_equal(&State::read_blocking(&target)?).with_context(|| point.join(" "))?;
        Workload::check_balance(&target)?;
        ensure!(self::settings(&target)? == settings, "settings of the target were changed by {point:?}");
        ensure!(target.sql("SELECT COUNT(*) FROM performance_schema.replication_connection_configuration")? == "0");
    }

    // A target that is restored into goes on as a server of its own.
    let status = scene.agent.terminate(Duration::from_secs(60))?;
    ensure!(matches!(status.code(), Some(0 | 7)), "{status}: {}", scene.agent.stderr());
    Ok(())
}

#[test]
fn the_store_and_the_identity_are_enough() -> Result<()> {
    let mut scene = Scene::play(7)?;
    // A disaster takes the source's machine, the agent with it, and the catalog.
    scene.agent.kill()?;
    scene.source.kill()?;
    fs::remove_dir_all(scene.highwater.state())?;
    fs::remove_file(scene.highwater.config())?;

    let target = target()?;
    let (store, identity) = (scene.highwater.store(), scene.highwater.identity());
    let socket = target.socket();
    highwater_tests::Finished::run(
        std::process::Command::new(&scene.highwater.programs().highwater)
            .current_dir(scene.highwater.folder())
            .args(["restore", "--before-gtid", &scene.bad.0, "--target-user", "root"])
            .arg("--store")
            .arg(store)
            .arg("--identity")
            .arg(identity)
            .arg("--target-socket")
            .arg(socket),
    )?
    .success()?;
    scene.bad.1.require_equal(&State::read_blocking(&target)?)
}

#[test]
fn no_event_fires_while_a_restore_runs_and_each_ends_as_it_was() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Workload::create(&source)?;
    Workload::create_ticker(&source)?;
    let highwater = Installation::new(&source)?;
    let mut agent = highwater.agent()?;
    highwater.wait_for_dump(&mut agent)?;
    // One event is made after the dump: replication would store it disabled.
    source.sql(
        "CREATE EVENT bank.later ON SCHEDULE EVERY 1 SECOND DO INSERT INTO bank.transfers VALUES (NULL, 1, 1, 0)",
    )?;
    let ticks = source.sql("SELECT COUNT(*) FROM `audit-log`.ticks")?;
    highwater.wait_until("further ticks", Duration::from_secs(20), &mut agent, |_| {
        Ok(source.sql("SELECT COUNT(*) FROM `audit-log`.ticks")? != ticks)
    })?;
    source.sql("SET GLOBAL event_scheduler = OFF")?;
    let wanted = State::read_blocking(&source)?;
    highwater.wait_for_gtids(&mut agent, wanted.gtids())?;

    let target = MysqlServer::builder().server_id(2).start()?;
    ensure!(target.sql("SELECT @@event_scheduler")? == "ON");
    highwater.restore(&target, &["--to", "latest"])?.success()?;
    ensure!(target.sql("SELECT @@event_scheduler")? == "ON", "the scheduler was left off");
    // Only what fired after the restore may differ: rows that the target itself added, under its own UUID.
    target.sql("SET GLOBAL event_scheduler = OFF")?;
    let own = target.uuid()?;
    let found = State::read_blocking(&target)?;
    let fired = ["gtid_executed", "rows of audit-log.ticks", "rows of bank.transfers"];
    let others = |state: State| state.without(|name| fired.contains(&name));
    let restored: Vec<&str> = found.gtids().split(',').filter(|set| !set.contains(&own)).collect();
    ensure!(restored.join(",") == wanted.gtids(), "{} is not {}", found.gtids(), wanted.gtids());
    ensure!(
        target.sql("SELECT COUNT(*) FROM `audit-log`.ticks WHERE server = 1")?
            == source.sql("SELECT COUNT(*) FROM `audit-log`.ticks")?
    );
    others(wanted).require_equal(&others(found))
}

#[test]
fn a_dry_run_changes_nothing() -> Result<()> {
    let scene = Scene::play(13)?;
    let target = target()?;
    let empty = State::read_blocking(&target)?;
    let plan = scene.highwater.restore(&target, &["--before-gtid", &scene.bad.0, "--dry-run"])?.success()?;
    ensure!(!plan.stdout.is_empty(), "the plan is not told");
    empty.require_equal(&State::read_blocking(&target)?)?;

    let found = scene.highwater.run(&["find", "--table", "shop.orders", "--kind", "delete"])?.success()?.text();
    ensure!(found.contains(&scene.bad.0), "{} is not in: {found}", scene.bad.0);
    let by_gtid = scene.highwater.run(&["find", "--gtid", &scene.bad.0])?.success()?.text();
    ensure!(by_gtid.contains("shop"), "{by_gtid}");
    let none = scene.highwater.run(&["find", "--table", "shop.nothing"])?.success()?.text();
    ensure!(!none.contains(&scene.bad.0), "{none}");

    ensure!(scene.highwater.run(&["verify"])?.success().is_ok());
    scene.source.sql("SELECT 1")?;
    Ok(())
}

/// What a restore may change for a while and must set back.
fn settings(server: &MysqlServer) -> Result<String> {
    server.sql(
        "SELECT variable_name, variable_value FROM performance_schema.global_variables
         WHERE variable_name NOT LIKE 'gtid%' AND variable_name NOT LIKE '%log_file%' AND variable_name NOT LIKE 'innodb_buffer_pool_load%'
         ORDER BY 1",
    )
}
