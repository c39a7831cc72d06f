//! Memory does not grow with what the source sends (faults 34 and 51).

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use highwater_tests::{Archived, Background, Installation, MysqlServer, resident_peak_mib};

/// Size of one row, and so of one event.
const ROW_MIB: f64 = 128.0;

/// What the agent takes besides.
const REST_MIB: f64 = 110.0;

#[test]
fn of_huge_events_one_at_a_time_is_in_memory() -> Result<()> {
    let source = MysqlServer::builder()
        .option("--max-allowed-packet=1G")
        .option("--innodb-redo-log-capacity=4G")
        .option("--innodb-flush-log-at-trx-commit=0")
        .start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (a LONGBLOB)")?;
    let row = format!("INSERT INTO d.t VALUES (REPEAT('x', {ROW_MIB} * 1024 * 1024));");
    source.sql(&format!("BEGIN; {} COMMIT; DROP TABLE d.t", row.repeat(2)))?;
    let highwater = Installation::new(&source)?;
    let mut agent = highwater.agent()?;
    highwater.catch_up(&mut agent, &source)?;
    let peak = resident_peak_mib(agent.pid())?;
    ensure!(peak < ROW_MIB + REST_MIB, "{peak} MiB with events of {ROW_MIB} MiB");
    Archived::read(&highwater)?.require_equal(&source)?;
    Ok(())
}

#[test]
fn a_limit_of_256_mib_is_enough_for_a_slow_disk_and_a_transaction_larger_than_it() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (a LONGTEXT)")?;
    let highwater = Installation::new(&source)?;
    let mut command = Command::new("prlimit");
    // Memory that the program can write to: more than that is refused by the kernel, and ends it.
    command.args(["--data=268435456", "--"]).arg(&highwater.programs().highwater);
    command.arg("--config").arg(highwater.config()).arg("agent").env("FAILPOINTS", "spool.fsync=5*off->sleep(100)");
    let mut agent = Background::start(&mut command, &highwater.folder(), "agent")?;
    highwater.wait_for_dump(&mut agent)?;
    let row = "INSERT INTO d.t VALUES (REPEAT('y', 10 * 1024 * 1024));";
    source.sql(&format!("BEGIN; {} COMMIT; TRUNCATE d.t", row.repeat(30)))?;
    highwater.catch_up(&mut agent, &source)?;
    agent.terminate(Duration::from_secs(30))?;
    Archived::read(&highwater)?.require_equal(&source)
}
