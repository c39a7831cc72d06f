//! What a commit waits for: nobody, our agent, or MySQL's own semi-sync replica.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use highwater_tests::{Background, Installation, MysqlServer};

use crate::catch_up::start;
use crate::commits;
use crate::report::Section;
use crate::settings::Settings;
use crate::statistics::{median, percentile, runs};

/// How long a receiver may take to connect and catch up.
const LIMIT: Duration = Duration::from_secs(60);

/// Who acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiver {
    Nobody,
    Agent,
    /// MySQL's replica with this `sync_relay_log`.
    Replica(u32),
}

const RECEIVERS: [Receiver; 4] = [Receiver::Nobody, Receiver::Agent, Receiver::Replica(1), Receiver::Replica(10_000)];

impl Receiver {
    fn name(self) -> String {
        match self {
            Self::Nobody => "asynchronous".to_owned(),
            Self::Agent => "highwater agent, capture.ack = \"local\" (fsync, then ACK)".to_owned(),
            Self::Replica(1) => "MySQL's replica, sync_relay_log = 1 (fsync, then ACK)".to_owned(),
            Self::Replica(n) => format!("MySQL's replica, sync_relay_log = {n} (ACK without fsync)"),
        }
    }
}

/// A source, an agent's installation and a replica.
struct Bed {
    source: MysqlServer,
    installation: Installation,
    replica: MysqlServer,
    agent: Option<Background>,
}

/// Measures.
pub(crate) fn run(settings: &Settings) -> Result<Section> {
    let mut bed = Bed::new()?;
    let mut section = Section::new("semi-sync");
    section.about(format!(
        "commit latency seen by 16 connections, {} transactions a second for {} s, {} alternating repetitions, medians of each run's percentile",
        settings.rate, settings.seconds, settings.repetitions
    ));
    section.about(
        "sync_binlog=1, AFTER_SYNC; MySQL's replica runs its I/O thread alone, unencrypted, and applies nothing",
    );
    section.about("every commit waited: Rpl_semi_sync_source_no_tx stayed as it was");
    section.about("with AFTER_SYNC the OK comes after the ACK: this is also an upper bound of commit to spool");
    let mut columns = vec![(Vec::new(), Vec::new(), Vec::new()); RECEIVERS.len()];
    for repetition in 1..=settings.repetitions {
        for (receiver, (p50, p99, rate)) in RECEIVERS.iter().zip(&mut columns) {
            bed.connect(*receiver)?;
            let unacknowledged = bed.status("no_tx")?;
            let commits = commits::run(&bed.source, settings.rate, settings.seconds)?;
            if *receiver != Receiver::Nobody {
                ensure!(bed.status("no_tx")? == unacknowledged, "{receiver:?}: the source fell back to asynchronous");
            }
            bed.disconnect(*receiver)?;
            p50.push(percentile(&commits.milliseconds, 50.0));
            p99.push(percentile(&commits.milliseconds, 99.0));
            rate.push(commits.rate);
        }
        eprintln!("semi-sync {repetition}/{}", settings.repetitions);
    }
    for (receiver, (p50, p99, rate)) in RECEIVERS.iter().zip(&columns) {
        let name = receiver.name();
        section.figure(format!("{name}: p50"), median(p50), "ms", runs(p50));
        section.figure(format!("{name}: p99"), median(p99), "ms", runs(p99));
        section.figure(format!("{name}: rate"), median(rate), "1/s", "");
    }
    if let [_, (ours_50, ours_99, _), (theirs_50, theirs_99, _), _] = columns.as_slice() {
        section.figure("agent / replica with fsync, p50", median(ours_50) / median(theirs_50), "x", "goal: at most 1");
        section.figure("agent / replica with fsync, p99", median(ours_99) / median(theirs_99), "x", "goal: at most 1");
    }
    section.command("highwater agent    # capture.ack = \"local\"");
    section
        .command("CHANGE REPLICATION SOURCE TO ... SOURCE_AUTO_POSITION = 1, SOURCE_SSL = 1; START REPLICA IO_THREAD");
    Ok(section)
}

impl Bed {
    fn new() -> Result<Self> {
        let source = MysqlServer::builder().start()?;
        commits::prepare(&source)?;
        source.sql(
            "INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so';
             SET GLOBAL rpl_semi_sync_source_timeout = 600000;",
        )?;
        let installation = Installation::new(&source)?;
        installation.change_config("[capture]\n", "[capture]\nack = \"local\"\n")?;
        let replica = MysqlServer::builder().server_id(2).encrypted(false).start()?;
        let password = std::fs::read_to_string(installation.password())?;
        replica.sql(&format!(
            "INSTALL PLUGIN rpl_semi_sync_replica SONAME 'semisync_replica.so';
             SET GLOBAL rpl_semi_sync_replica_enabled = ON;
             CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {}, SOURCE_USER = 'highwater',
               SOURCE_PASSWORD = '{password}', SOURCE_SSL = 1, SOURCE_AUTO_POSITION = 1;",
            source.port()
        ))?;
        Ok(Self { source, installation, replica, agent: None })
    }

    /// Makes one receiver, and no other, the one that commits wait for.
    fn connect(&mut self, receiver: Receiver) -> Result<()> {
        match receiver {
            Receiver::Nobody => return Ok(()),
            Receiver::Agent => {
                self.agent = Some(start(&self.installation.programs().highwater, &self.installation)?);
            }
            Receiver::Replica(sync_relay_log) => {
                self.replica.sql(&format!("SET GLOBAL sync_relay_log = {sync_relay_log}; START REPLICA IO_THREAD"))?;
            }
        }
        self.wait("clients", "1")?;
        self.source.sql("SET GLOBAL rpl_semi_sync_source_enabled = ON")?;
        // The first commit makes the source synchronous, once the receiver has all that came before.
        self.source.sql("CREATE DATABASE bench_probe; DROP DATABASE bench_probe")?;
        self.wait("status", "ON")?;
        if let Some(agent) = &mut self.agent {
            self.installation.wait_for_dump(agent)?;
        }
        Ok(())
    }

    fn disconnect(&mut self, receiver: Receiver) -> Result<()> {
        self.source.sql("SET GLOBAL rpl_semi_sync_source_enabled = OFF")?;
        match receiver {
            Receiver::Nobody => return Ok(()),
            Receiver::Agent => {
                if let Some(mut agent) = self.agent.take() {
                    agent.terminate(LIMIT)?;
                }
            }
            Receiver::Replica(_) => {
                self.replica.sql("STOP REPLICA IO_THREAD")?;
                // The source notices a receiver that left when it sends to it.
                self.source.sql("FLUSH BINARY LOGS")?;
            }
        }
        self.wait("clients", "0")
    }

    fn status(&self, name: &str) -> Result<String> {
        self.source.sql(&format!(
            "SELECT variable_value FROM performance_schema.global_status WHERE variable_name = 'Rpl_semi_sync_source_{name}'"
        ))
    }

    fn wait(&mut self, name: &str, value: &str) -> Result<()> {
        let started = Instant::now();
        while self.status(name)? != value {
            if let Some(agent) = &mut self.agent {
                ensure!(agent.is_running()?, "the agent ended: {}", agent.stderr());
            }
            let said = self.agent.as_ref().map(Background::stderr).unwrap_or_default();
            ensure!(
                started.elapsed() < LIMIT,
                "Rpl_semi_sync_source_{name} is {} instead of {value} {said}",
                self.status(name)?
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}
