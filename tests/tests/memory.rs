//! Memory does not grow with what the source sends (faults 34 and 51).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use highwater::archive::Archive;
use highwater::store::DirectoryStore;
use highwater_catalog::{
    Blake3Digest, Manifest, Micros, ObjectFacts, Sealing, Segment, Timeline, TimelineId, segment_manifest_key,
};
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

/// How long an agent may take to begin.
const LIMIT: Duration = Duration::from_secs(180);

/// Segments of an old archive; `HIGHWATER_OLD_SEGMENTS` takes another number.
const OLD_SEGMENTS: u64 = 20_000;

/// What an agent may take more for an old archive than for a new one, in MiB. The segments, if all of them were
/// kept, would take twice that; what the allocator happens to hold differs by half of it from run to run.
const OLD_ARCHIVE_MIB: f64 = 20.0;

/// A server that does not exist any more.
const OLD_SERVER: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

#[test]
fn an_old_archive_is_gone_on_with_in_the_memory_of_a_new_one() -> Result<()> {
    let segments = std::env::var("HIGHWATER_OLD_SEGMENTS").ok().map_or(Ok(OLD_SEGMENTS), |count| count.parse())?;
    let source = MysqlServer::builder().start()?;
    let highwater = Installation::new(&source)?;
    let mut agent = highwater.agent()?;
    let first = highwater.store().join(segment_manifest_key(TimelineId(1), 0));
    highwater.wait_until("the first segment", LIMIT, &mut agent, |_| Ok(first.exists()))?;
    let young = resident_peak_mib(agent.pid())?;
    agent.terminate(Duration::from_secs(30))?;

    source.sql(&format!("SET GLOBAL gtid_purged = '+{OLD_SERVER}:1-{segments}'"))?;
    let highwater = Installation::new(&source)?;
    write_old_archive(&highwater.store(), segments)?;
    // Without a catalog, and with one.
    for run in 0..2 {
        let mut agent = highwater.agent()?;
        source.sql(&format!("CREATE DATABASE run_{run}"))?;
        let next = highwater.store().join(segment_manifest_key(TimelineId(1), segments + run));
        highwater.wait_until("the next segment", LIMIT, &mut agent, |_| Ok(next.exists()))?;
        let old = resident_peak_mib(agent.pid())?;
        agent.terminate(Duration::from_secs(30))?;
        eprintln!("{young} MiB for a new archive, {old} MiB for one of {segments} segments");
        ensure!(old < young + OLD_ARCHIVE_MIB, "{old} MiB for {segments} segments, {young} MiB for a new archive");
    }
    Ok(())
}

/// Puts a timeline of many segments into an archive: their manifests, which are all that is read.
fn write_old_archive(store: &Path, segments: u64) -> Result<()> {
    let archive = Archive::open(std::sync::Arc::new(DirectoryStore::open(store)?), None)?;
    let first = Timeline {
        id: TimelineId(1),
        parent: None,
        reason: "first start".to_owned(),
        starting_gtids: "".parse()?,
        created: Micros(1_700_000_000_000_000),
    };
    archive.publish_timeline(&first)?;
    let folder = store.join(segment_manifest_key(TimelineId(1), 0));
    fs::create_dir_all(folder.parent().unwrap_or(store))?;
    for sequence in 0..segments {
        let digest = |sequence: u64| Blake3Digest(std::array::from_fn(|i| sequence.to_le_bytes()[i % 8]));
        let end = 200 + 100 * (sequence + 1);
        let before = if sequence == 0 { String::new() } else { format!("{OLD_SERVER}:1-{sequence}") };
        let segment = Segment {
            timeline: first.id,
            sequence,
            server: OLD_SERVER.parse()?,
            binlog: "binlog.000001".parse()?,
            start: if sequence == 0 { 0 } else { end - 100 },
            end,
            gtids_before: before.parse()?,
            gtids_added: format!("{OLD_SERVER}:{}", sequence + 1).parse()?,
            first_commit: None,
            last_commit: None,
            events: 4,
            transactions: 1,
            plain_blake3: digest(sequence),
            objects: vec![ObjectFacts {
                plain_size: if sequence == 0 { end } else { 100 },
                plain_blake3: digest(sequence),
                stored_size: 100,
                stored_blake3: digest(sequence),
                sealing: Sealing::ZstdAge,
            }],
            previous_blake3: (sequence > 0).then(|| digest(sequence - 1)),
        };
        fs::write(store.join(segment.key()), segment.encode(&archive.repository().id)?)?;
    }
    Ok(())
}
