//! The replication channel on the target through which the archive is replayed.

use std::net::SocketAddr;

use highwater_binlog::Gtid;

use super::serve::ReplicaAccount;
use super::target::{Target, quoted};
use crate::source::ServerError;

/// The channel's name.
pub(crate) const CHANNEL: &str = "highwater";
/// Seconds between heartbeats asked of us.
const HEARTBEAT_SECONDS: u32 = 5;

/// What keeps the channel from going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The receiver cannot reach us or log in; it tries again by itself.
    Receiver { code: u32, message: String },
    /// The applier met what it cannot do.
    Applier { code: u32, message: String, gtid: Option<Gtid> },
}

/// Makes the channel; it does not run yet.
pub(crate) async fn create(
    target: &mut Target,
    address: SocketAddr,
    account: &ReplicaAccount,
) -> Result<(), ServerError> {
    let (statement, word) = if target.version().says_change_replication_source() {
        ("CHANGE REPLICATION SOURCE TO", "SOURCE")
    } else {
        ("CHANGE MASTER TO", "MASTER")
    };
    let sql = format!(
        "{statement} {word}_HOST = {host}, {word}_PORT = {port}, {word}_USER = {user}, {word}_PASSWORD = {password}, \
         {word}_AUTO_POSITION = 1, {word}_SSL = 1, {word}_CONNECT_RETRY = 1, {word}_RETRY_COUNT = 100000, \
         {word}_HEARTBEAT_PERIOD = {HEARTBEAT_SECONDS} FOR CHANNEL '{CHANNEL}'",
        host = quoted(&address.ip().to_string()),
        port = address.port(),
        user = quoted(&account.user),
        password = quoted(account.password.expose()),
    );
    target.run(&sql, statement).await
}

fn word(target: &Target) -> &'static str {
    if target.version().says_replica() { "REPLICA" } else { "SLAVE" }
}

/// Starts receiving and applying.
pub(crate) async fn start(target: &mut Target) -> Result<(), ServerError> {
    let word = word(target);
    target.run(&format!("START {word} FOR CHANNEL '{CHANNEL}'"), "START REPLICA").await
}

/// Whether the channel exists.
pub(crate) async fn exists(target: &mut Target) -> Result<bool, ServerError> {
    let sql = format!(
        "SELECT COUNT(*) FROM performance_schema.replication_connection_configuration WHERE CHANNEL_NAME = '{CHANNEL}'"
    );
    Ok(target.row::<u64>(&sql, "read replication channels").await?.unwrap_or(0) > 0)
}

/// Stops the channel and removes it with its relay logs; nothing happens when there is none.
pub(crate) async fn remove(target: &mut Target) -> Result<(), ServerError> {
    if !exists(target).await? {
        return Ok(());
    }
    let word = word(target);
    target.run(&format!("STOP {word} FOR CHANNEL '{CHANNEL}'"), "STOP REPLICA").await?;
    target.run(&format!("RESET {word} ALL FOR CHANNEL '{CHANNEL}'"), "RESET REPLICA ALL").await
}

/// Whatever holds the channel up now.
pub(crate) async fn trouble(target: &mut Target) -> Result<Option<Trouble>, ServerError> {
    let what = "read the channel's state";
    let workers: Vec<(u32, String, Option<String>)> = target
        .rows(
            &format!(
                "SELECT LAST_ERROR_NUMBER, LAST_ERROR_MESSAGE, APPLYING_TRANSACTION \
                 FROM performance_schema.replication_applier_status_by_worker \
                 WHERE CHANNEL_NAME = '{CHANNEL}' AND LAST_ERROR_NUMBER <> 0 ORDER BY LAST_ERROR_TIMESTAMP"
            ),
            what,
        )
        .await?;
    if let Some((code, message, applying)) = first_cause(workers) {
        let gtid = applying.and_then(|text| text.parse().ok()).or_else(|| gtid_in(&message));
        return Ok(Some(Trouble::Applier { code, message, gtid }));
    }
    let coordinator: Option<(u32, String)> = target
        .row(
            &format!(
                "SELECT LAST_ERROR_NUMBER, LAST_ERROR_MESSAGE \
                 FROM performance_schema.replication_applier_status_by_coordinator \
                 WHERE CHANNEL_NAME = '{CHANNEL}' AND LAST_ERROR_NUMBER <> 0"
            ),
            what,
        )
        .await?;
    if let Some((code, message)) = coordinator {
        let gtid = gtid_in(&message);
        return Ok(Some(Trouble::Applier { code, message, gtid }));
    }
    let receiver: Option<(u32, String)> = target
        .row(
            &format!(
                "SELECT LAST_ERROR_NUMBER, LAST_ERROR_MESSAGE FROM performance_schema.replication_connection_status \
                 WHERE CHANNEL_NAME = '{CHANNEL}' AND LAST_ERROR_NUMBER <> 0 AND SERVICE_STATE <> 'ON'"
            ),
            what,
        )
        .await?;
    Ok(receiver.map(|(code, message)| Trouble::Receiver { code, message }))
}

/// The worker whose error made the others stop: those say only that they waited for it (errors 1756, 3030, 13127 are
/// `ER_MTA_INCONSISTENT_DATA`, `ER_REPLICA_WORKER_STOPPED_PREVIOUS_THD_ERROR` and its log form).
fn first_cause(workers: Vec<(u32, String, Option<String>)>) -> Option<(u32, String, Option<String>)> {
    let follows = |code: u32| matches!(code, 1756 | 3030 | 13127);
    let cause = workers.iter().position(|(code, ..)| !follows(*code)).unwrap_or(0);
    workers.into_iter().nth(cause)
}

/// The GTID in `failed executing transaction '…'`.
fn gtid_in(message: &str) -> Option<Gtid> {
    message.split('\'').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gtid_is_read_from_the_appliers_text() {
        let text = "Worker 1 failed executing transaction '3e11fa47-71ca-11e1-9e33-c80aa9429562:23' at source log b.1";
        assert_eq!(gtid_in(text).unwrap().number.get(), 23);
        assert_eq!(gtid_in("Coordinator stopped"), None);
    }

    #[test]
    fn the_cause_is_told_from_its_followers() {
        let row = |code, text: &str| (code, text.to_owned(), None);
        let cause = first_cause(vec![row(3030, "waited"), row(1062, "duplicate")]).unwrap();
        assert_eq!(cause.0, 1062);
        assert_eq!(first_cause(vec![row(3030, "waited")]).unwrap().0, 3030);
        assert_eq!(first_cause(vec![]), None);
    }
}
