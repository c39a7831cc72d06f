//! Restores into real servers, from archives of real binlogs.

mod archived;
mod command;
mod events;
mod failures;
mod find;
mod points;
mod round_trip;
mod serve;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use archived::Archived;
use highwater::restore::{Progress, ProgressSink, RestoreFailure, RestoreOptions, RestoreReport, run};
use highwater::server::{ServerAddress, ServerLogin, TlsPolicy};
use highwater_tests::MysqlServer;
use tokio_util::sync::CancellationToken;

/// root over the socket.
fn login(server: &MysqlServer) -> ServerLogin {
    ServerLogin {
        address: ServerAddress::Socket(server.socket()),
        user: "root".to_owned(),
        password: None,
        tls: TlsPolicy::default(),
    }
}

/// Restores, with nobody watching.
async fn restore(
    archived: &Archived,
    target: &MysqlServer,
    options: &RestoreOptions,
) -> Result<RestoreReport, RestoreFailure> {
    let stop = CancellationToken::new();
    let silent: ProgressSink = Arc::new(|_| {});
    run(options, &archived.archive, &archived.inventory, Some(&login(target)), silent, &stop).await
}

/// Restores until `when` says stop, as Ctrl-C would.
async fn restore_until(
    archived: &Archived,
    target: &MysqlServer,
    options: &RestoreOptions,
    when: impl Fn(Progress) -> bool + Send + Sync + 'static,
) -> (Result<RestoreReport, RestoreFailure>, Vec<Progress>) {
    let stop = CancellationToken::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink: ProgressSink = {
        let (stop, seen) = (stop.clone(), seen.clone());
        Arc::new(move |progress| {
            seen.lock().unwrap().push(progress);
            if when(progress) {
                stop.cancel();
            }
        })
    };
    let result = run(options, &archived.archive, &archived.inventory, Some(&login(target)), sink, &stop).await;
    let seen = seen.lock().unwrap().clone();
    (result, seen)
}

/// The settings that a restore changes, channels, relay logs, and the schemas: what must be as it was.
fn traces(server: &MysqlServer) -> String {
    let settings =
        server.sql("SELECT @@event_scheduler, @@local_infile, @@server_id, @@replica_parallel_workers, @@log_bin_trust_function_creators").unwrap();
    let channels = server
        .sql(
            "SELECT CHANNEL_NAME FROM performance_schema.replication_connection_configuration; \
             SELECT Channel_name FROM mysql.slave_master_info; SELECT Channel_name FROM mysql.slave_relay_log_info; \
             SELECT Channel_name FROM mysql.slave_worker_info; SHOW DATABASES LIKE 'highwater%'",
        )
        .unwrap();
    let relay_logs: Vec<String> = std::fs::read_dir(server.data())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("relay") && name.contains("highwater"))
        .collect();
    format!("{settings} channels: {channels:?} relay logs: {relay_logs:?}")
}

/// A server with settings unlike those that a restore wants.
fn odd_target(server_id: u32) -> MysqlServer {
    MysqlServer::builder()
        .server_id(server_id)
        .option("--replica-parallel-workers=2")
        .option("--local-infile=OFF")
        .option("--event-scheduler=ON")
        .start()
        .unwrap()
}

/// Empties a server as the hint of the preflight says.
fn empty(server: &MysqlServer) {
    let schemas = server
        .sql(
            "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME NOT IN \
              ('mysql', 'information_schema', 'performance_schema', 'sys')",
        )
        .unwrap();
    let drops: String = schemas.lines().map(|schema| format!("DROP DATABASE `{schema}`;")).collect();
    server.sql(&format!("{drops} RESET BINARY LOGS AND GTIDS")).unwrap();
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}
