//! Capture: what the archive has equals what the source wrote.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use highwater::archive::Archive;
use highwater::capture::{Capture, CaptureError, CaptureSource};
use highwater::config::Config;
use highwater::source::ServerError;
use highwater::store::DirectoryStore;
use highwater_binlog::GtidSet;
use highwater_catalog::{Inventory, Timeline, TimelineId};
use highwater_tests::MysqlServer;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::logins::by_socket;

/// An archive in a folder, and an agent's configuration for it.
struct Site {
    folder: TempDir,
    config: Config,
}

/// A running capture.
struct Agent {
    stop: CancellationToken,
    task: JoinHandle<Result<(), CaptureError>>,
}

impl Site {
    fn new(server: &MysqlServer) -> Self {
        server
            .sql("CREATE USER agent IDENTIFIED BY 'pw'; GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO agent")
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        let text = format!(
            "service = 'orders'\nstate_dir = '{}'\n[source]\nsocket = '{}'\nuser = 'agent'\n\
             [store]\nkind = 'directory'\npath = '{}'\n[capture]\nsegment_age_seconds = 1\nsegment_bytes_max = 200000\n\
             heartbeat_seconds = 1\n",
            path("state"),
            server.socket().display(),
            path("store")
        );
        std::fs::write(folder.path().join("highwater.toml"), &text).unwrap();
        let (config, _) = Config::load(Some(&folder.path().join("highwater.toml"))).unwrap();
        let store = Arc::new(DirectoryStore::open(&folder.path().join("store")).unwrap());
        Archive::create(store, "orders".parse().unwrap(), config.recipients().unwrap()).unwrap();
        Self { folder, config }
    }

    fn archive(&self) -> Archive {
        let store = Arc::new(DirectoryStore::open(&self.folder.path().join("store")).unwrap());
        Archive::open(store, None).unwrap().with_scratch(self.folder.path().to_owned())
    }

    fn inventory(&self) -> Inventory {
        self.archive().inventory().unwrap()
    }

    fn agent(&self, server: &MysqlServer) -> Result<Agent, CaptureError> {
        let (capture, _) = Capture::open(
            &self.config,
            CaptureSource::Servers(vec![by_socket(server, "agent", "pw")]),
            self.archive(),
        )?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(capture.run(stop.clone()));
        Ok(Agent { stop, task })
    }

    /// Every transaction in the archive.
    fn gtids(&self) -> GtidSet {
        self.inventory().segments.iter().fold(GtidSet::new(), |set, segment| set.union(&segment.gtids_added))
    }

    /// Waits until the archive has all that the server executed.
    async fn caught_up(&self, server: &MysqlServer, agent: &Agent) {
        let executed: GtidSet = server.gtid_executed().unwrap().parse().unwrap();
        self.has(&executed, agent).await;
    }

    /// Waits until the archive has these transactions.
    async fn has(&self, gtids: &GtidSet, agent: &Agent) {
        let start = Instant::now();
        while !gtids.is_subset(&self.gtids()) {
            assert!(!agent.task.is_finished(), "the agent ended");
            assert!(start.elapsed() < Duration::from_secs(60), "still missing {}", gtids.subtract(&self.gtids()));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The archive's bytes of each binlog.
    fn binlogs(&self) -> BTreeMap<String, Vec<u8>> {
        let archive = self.archive();
        let mut binlogs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for segment in self.inventory().segments {
            let bytes = binlogs.entry(segment.binlog.to_string()).or_default();
            assert_eq!(segment.start, bytes.len() as u64, "segment {} of {}", segment.sequence, segment.binlog);
            archive.read_segment(&segment).unwrap().read_to_end(bytes).unwrap();
        }
        binlogs
    }

    /// The archive's binlogs are the server's, byte for byte.
    fn equals(&self, server: &MysqlServer) {
        let ours = self.binlogs();
        for name in server.binlogs().unwrap() {
            let theirs = server.remote_binlog(&name).unwrap();
            let ours = ours.get(&name).unwrap_or_else(|| panic!("{name} is not in the archive"));
            let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
            assert!(
                *ours == theirs,
                "{name}: {} bytes here, {} there, differing at {differs:?}",
                ours.len(),
                theirs.len()
            );
        }
    }
}

impl Agent {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Ends without a chance to clean up.
    async fn die(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    async fn error(self) -> CaptureError {
        tokio::time::timeout(Duration::from_secs(30), self.task).await.unwrap().unwrap().expect_err("an error")
    }
}

fn write(server: &MysqlServer, round: u32) {
    server
        .sql(&format!(
            "CREATE TABLE d.t{round} (id INT AUTO_INCREMENT PRIMARY KEY, a LONGBLOB) ENGINE=InnoDB;
             INSERT INTO d.t{round} (a) VALUES ('x'), (REPEAT('y', 300000));
             SET binlog_transaction_compression = ON;
             INSERT INTO d.t{round} (a) SELECT REPEAT('z', 1000) FROM d.t{round};
             SET binlog_transaction_compression = OFF;
             BEGIN; UPDATE d.t{round} SET a = 'w' WHERE id = 1; SAVEPOINT s; DELETE FROM d.t{round}; ROLLBACK TO s; COMMIT;
             XA START 'x{round}'; INSERT INTO d.t{round} (a) VALUES ('xa'); XA END 'x{round}'; XA PREPARE 'x{round}';
             XA COMMIT 'x{round}';
             CREATE TABLE d.c{round} AS SELECT id FROM d.t{round};"
        ))
        .unwrap();
    // Tags: 8.3 and newer.
    let _ = server.sql(&format!("SET gtid_next = 'AUTOMATIC:round{round}'; INSERT INTO d.t{round} (a) VALUES ('tag')"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_are_the_sources_binlogs_through_rotations_restarts_and_sudden_ends() {
    let mut server = MysqlServer::builder().start().unwrap();
    server.sql("CREATE DATABASE d").unwrap();
    let site = Site::new(&server);
    write(&server, 1);
    let agent = site.agent(&server).unwrap();
    write(&server, 2);
    server.sql("FLUSH BINARY LOGS").unwrap();
    write(&server, 3);
    // In the middle of it.
    agent.die().await;
    write(&server, 4);
    let agent = site.agent(&server).unwrap();
    server.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY").unwrap();
    write(&server, 5);
    site.caught_up(&server, &agent).await;
    agent.stop().await;
    site.equals(&server);

    // While nobody listens: the end of one binlog, a whole one, and the beginning of the next.
    server.sql("FLUSH BINARY LOGS").unwrap();
    server.sql("FLUSH BINARY LOGS").unwrap();
    let agent = site.agent(&server).unwrap();
    write(&server, 6);
    site.caught_up(&server, &agent).await;
    site.equals(&server);

    // A clean restart, and one that is none.
    server.restart().unwrap();
    write(&server, 7);
    site.caught_up(&server, &agent).await;
    server.kill().unwrap();
    server.start().unwrap();
    write(&server, 8);
    site.caught_up(&server, &agent).await;
    agent.stop().await;
    site.equals(&server);

    let inventory = site.inventory();
    assert_eq!(inventory.timelines.len(), 1);
    assert_eq!(site.gtids().to_string(), server.gtid_executed().unwrap());
    assert!(inventory.segments.iter().all(|segment| segment.first_commit.is_some() == (segment.transactions > 0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_larger_than_what_is_read_ahead_comes_through() {
    let server = MysqlServer::builder().option("--max-allowed-packet=1G").start().unwrap();
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (a LONGBLOB)").unwrap();
    let site = Site::new(&server);
    let agent = site.agent(&server).unwrap();
    let row = "INSERT INTO d.t VALUES (REPEAT('x', 20 * 1024 * 1024));";
    server.sql(&format!("BEGIN; {} COMMIT", row.repeat(5))).unwrap();
    site.caught_up(&server, &agent).await;
    agent.stop().await;
    site.equals(&server);
}

/// The reason of the newest timeline, once there are so many.
async fn timelines(site: &Site, agent: &Agent, count: usize) -> Timeline {
    let start = Instant::now();
    loop {
        let timelines = site.inventory().timelines;
        if timelines.len() >= count {
            assert_eq!(timelines.len(), count);
            let newest = timelines.last().unwrap().clone();
            assert_eq!(newest.parent, Some(TimelineId(newest.id.0 - 1)));
            return newest;
        }
        assert!(!agent.task.is_finished(), "the agent ended");
        assert!(start.elapsed() < Duration::from_secs(30), "no timeline {count}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a timeline has exactly these transactions.
async fn captured_on(site: &Site, timeline: u32, gtids: &GtidSet) {
    let start = Instant::now();
    loop {
        let segments = site.inventory().segments;
        let of_it = segments.iter().filter(|segment| segment.timeline.0 == timeline);
        let captured = of_it.fold(GtidSet::new(), |set, segment| set.union(&segment.gtids_added));
        if captured == *gtids {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "only {captured}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_and_a_reset_end_the_timeline_and_begin_another() {
    let server = MysqlServer::builder().start().unwrap();
    server.sql("CREATE DATABASE d").unwrap();
    let site = Site::new(&server);
    write(&server, 1);
    let agent = site.agent(&server).unwrap();
    site.caught_up(&server, &agent).await;
    // Two agents cannot share a folder.
    assert!(matches!(site.agent(&server), Err(CaptureError::Locked { .. })));
    agent.stop().await;
    let first = site.inventory().segments;

    // What was purged meanwhile is gone: exactly that is named.
    let before: GtidSet = server.gtid_executed().unwrap().parse().unwrap();
    server.sql("CREATE DATABASE lost; FLUSH BINARY LOGS").unwrap();
    let last = server.binlogs().unwrap().pop().unwrap();
    server.sql(&format!("PURGE BINARY LOGS TO '{last}'")).unwrap();
    let after: GtidSet = server.gtid_executed().unwrap().parse().unwrap();
    let agent = site.agent(&server).unwrap();
    let second = timelines(&site, &agent, 2).await;
    let missing = after.subtract(&before);
    assert_eq!(
        second.reason,
        format!("gap: the source has purged transactions that are not in the archive: {missing}")
    );
    assert_eq!(second.starting_gtids, after);
    server.sql("CREATE DATABASE found").unwrap();
    let executed: GtidSet = server.gtid_executed().unwrap().parse().unwrap();
    site.has(&executed.subtract(&missing), &agent).await;
    agent.stop().await;
    assert!(site.gtids().intersect(&missing).is_empty());

    // A server that was reset has another history, though its UUID is the same.
    server.sql("RESET BINARY LOGS AND GTIDS; CREATE DATABASE anew").unwrap();
    let agent = site.agent(&server).unwrap();
    let third = timelines(&site, &agent, 3).await;
    assert!(third.reason.starts_with("fork: the archive has transactions that the source does not have: "));
    let anew: GtidSet = server.gtid_executed().unwrap().parse().unwrap();
    captured_on(&site, 3, &anew).await;
    agent.stop().await;
    // What was there is there as it was.
    let segments = site.inventory().segments;
    assert_eq!(segments.iter().filter(|segment| segment.timeline.0 == 1).cloned().collect::<Vec<_>>(), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reused_gtids_are_a_fork_even_when_the_sets_agree() {
    let server = MysqlServer::builder().start().unwrap();
    let site = Site::new(&server);
    server.sql("CREATE DATABASE d").unwrap();
    let agent = site.agent(&server).unwrap();
    site.caught_up(&server, &agent).await;
    agent.stop().await;
    // As many transactions as before, and others.
    server
        .sql("RESET BINARY LOGS AND GTIDS; CREATE DATABASE e; CREATE DATABASE f; CREATE DATABASE g; CREATE DATABASE h")
        .unwrap();
    let agent = site.agent(&server).unwrap();
    let second = timelines(&site, &agent, 2).await;
    assert!(second.reason.contains(" of the source differs from the archive between "), "{}", second.reason);
    let executed: GtidSet = server.gtid_executed().unwrap().parse().unwrap();
    // Everything of the new history is captured, also what has the same GTIDs as before.
    captured_on(&site, 2, &executed).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_inside_the_same_history_goes_on() {
    let first = MysqlServer::builder().start().unwrap();
    let second = MysqlServer::builder().server_id(2).start().unwrap();
    let site = Site::new(&first);
    first
        .sql("CREATE USER repl IDENTIFIED BY 'pw'; GRANT REPLICATION SLAVE ON *.* TO repl; CREATE DATABASE d")
        .unwrap();
    // Its own first transactions would be errant.
    second.sql("RESET BINARY LOGS AND GTIDS").unwrap();
    let follow = |follower: &MysqlServer, leader: &MysqlServer| {
        follower
            .sql(&format!(
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={}, SOURCE_USER='repl', \
                 SOURCE_PASSWORD='pw', SOURCE_AUTO_POSITION=1, SOURCE_SSL=1; START REPLICA",
                leader.port()
            ))
            .unwrap();
    };
    follow(&second, &first);
    let agent = site.agent(&first).unwrap();
    write(&first, 1);
    site.caught_up(&first, &agent).await;
    agent.stop().await;
    let wait = |server: &MysqlServer, set: &str| {
        server.sql(&format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{set}', 60)")).unwrap();
    };
    wait(&second, &first.gtid_executed().unwrap());
    second.sql("STOP REPLICA").unwrap();
    write(&second, 2);
    let agent = site.agent(&second).unwrap();
    site.caught_up(&second, &agent).await;
    agent.stop().await;
    // And back: the first server's binlog now has transactions in between that came from the second.
    follow(&first, &second);
    wait(&first, &second.gtid_executed().unwrap());
    write(&first, 3);
    let agent = site.agent(&first).unwrap();
    site.caught_up(&first, &agent).await;
    agent.stop().await;
    let inventory = site.inventory();
    let servers: std::collections::BTreeSet<_> = inventory.segments.iter().map(|segment| segment.server).collect();
    assert_eq!((servers.len(), inventory.timelines.len()), (2, 1));
    assert_eq!(site.gtids().to_string(), first.gtid_executed().unwrap());
    // Once more without a change of server.
    write(&first, 4);
    let agent = site.agent(&first).unwrap();
    site.caught_up(&first, &agent).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfit_settings_are_named_with_the_statements_that_change_them() {
    let server = MysqlServer::builder().option("--gtid-mode=OFF").start().unwrap();
    let site = Site::new(&server);
    let error = site.agent(&server).unwrap().error().await;
    assert_eq!(error.to_string(), "server has gtid_mode = OFF, needed is ON");
    assert!(error.hint().unwrap().contains("SET PERSIST enforce_gtid_consistency = ON; SET PERSIST gtid_mode"));
    assert!(matches!(error, CaptureError::Source(ServerError::Unfit { .. })));
    let server = MysqlServer::builder().without_keyring().option("--skip-log-bin").start().unwrap();
    let error = Site::new(&server).agent(&server).unwrap().error().await;
    assert_eq!(error.to_string(), "server has log_bin = OFF, needed is ON");
}
