//! Whether a source waits for acknowledgements.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

/// What a source does about acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SemiSyncState {
    /// Nothing: the plug-in (`semisync_source.so`, before 8.0.26 `semisync_master.so`) is not there.
    Unavailable,
    /// Nothing: `rpl_semi_sync_source_enabled` is off.
    Disabled,
    /// It does not wait: too few acknowledgements came in time, or it has not begun.
    Asynchronous {
        /// `Rpl_semi_sync_source_clients`: connected replicas that asked for semi-sync.
        clients: u32,
    },
    /// Commits wait until replicas have acknowledged them, or for `rpl_semi_sync_source_timeout`. Without clients they
    /// wait for nobody, and the first one that does makes it asynchronous.
    Synchronous {
        /// `Rpl_semi_sync_source_clients`: connected replicas that asked for semi-sync.
        clients: u32,
        /// `rpl_semi_sync_source_wait_for_replica_count`: acknowledgements of so many of them are enough.
        wait_for: u32,
    },
}

const VARIABLE: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('rpl_semi_sync_source_enabled', 'rpl_semi_sync_master_enabled', \
    'rpl_semi_sync_source_wait_for_replica_count', 'rpl_semi_sync_master_wait_for_slave_count')";

const STATUS: &str = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Rpl_semi_sync_source_status', \
    'Rpl_semi_sync_master_status', 'Rpl_semi_sync_source_clients', 'Rpl_semi_sync_master_clients')";

/// Asks the server, by the old names and the new.
pub(super) async fn read(conn: &mut Conn) -> Result<SemiSyncState, mysql_async::Error> {
    let variables: Vec<(String, String)> = conn.query(VARIABLE).await?;
    let status: Vec<(String, String)> = conn.query(STATUS).await?;
    Ok(SemiSyncState::from_rows(&variables, &status))
}

impl SemiSyncState {
    fn from_rows(variables: &[(String, String)], status: &[(String, String)]) -> Self {
        let is_on = |value: &str| value.eq_ignore_ascii_case("ON") || value == "1";
        let find = |end: &str| status.iter().find(|(name, _)| name.to_ascii_lowercase().ends_with(end));
        let set = |end: &str| variables.iter().find(|(name, _)| name.to_ascii_lowercase().ends_with(end));
        match set("_enabled") {
            None => return Self::Unavailable,
            Some((_, enabled)) if !is_on(enabled) => return Self::Disabled,
            Some(_) => {}
        }
        let clients = find("_clients").and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        if find("_status").is_some_and(|(_, value)| is_on(value)) {
            let wait_for = set("_count").and_then(|(_, value)| value.parse().ok()).unwrap_or(1);
            Self::Synchronous { clients, wait_for }
        } else {
            Self::Asynchronous { clients }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_before_8_0_26_are_read_too() {
        let row = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let enabled =
            [row("rpl_semi_sync_master_enabled", "ON"), row("rpl_semi_sync_master_wait_for_slave_count", "2")];
        let status = [row("Rpl_semi_sync_master_clients", "2"), row("Rpl_semi_sync_master_status", "ON")];
        assert_eq!(SemiSyncState::from_rows(&enabled, &status), SemiSyncState::Synchronous { clients: 2, wait_for: 2 });
        assert_eq!(SemiSyncState::from_rows(&enabled, &status[..1]), SemiSyncState::Asynchronous { clients: 2 });
        assert_eq!(SemiSyncState::from_rows(&[], &status), SemiSyncState::Unavailable);
    }
}
