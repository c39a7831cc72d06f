//! Whether a source continues the archive, decided before one byte is accepted.

use highwater_binlog::GtidSet;
use highwater_catalog::Segment;

use super::standing::Standing;
use crate::source::{GtidMode, ServerError, ServerFacts};

/// How capture goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// What we say we have. Less than the archive has when the last bytes are to be sent again for comparison.
    pub have: GtidSet,
    /// The archived segment whose bytes the source sends again.
    pub compare: Option<Segment>,
    /// Whether the source may leave out transactions that the archive has from another server.
    pub may_skip: bool,
}

/// A source that does not continue the archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Discontinuity {
    /// The source has purged what the archive does not have.
    #[error("gap: the source has purged transactions that are not in the archive: {missing}")]
    Gap {
        /// The transactions.
        missing: GtidSet,
    },
    /// The archive has what the source never had, or no longer has.
    #[error("fork: the archive has transactions that the source does not have: {foreign}")]
    Forked {
        /// The transactions.
        foreign: GtidSet,
    },
    /// The source has other bytes under the same name, offset and GTIDs.
    #[error("fork: {binlog} of the source differs from the archive between {start} and {end}")]
    Differs {
        /// The binlog.
        binlog: String,
        /// Offset of the first byte compared.
        start: u64,
        /// Offset after the last.
        end: u64,
    },
}

impl Discontinuity {
    /// The next step for the reader.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Gap { .. } => {
                "point the agent at a replica that still has these binlogs; else they are lost, and a new archive with a \
                 new full dump is needed. Raise binlog_expire_logs_seconds on the source"
            }
            Self::Forked { .. } => {
                "a replica may lag behind: wait until it has them. If the source was reset, restored or lost its last \
                 transactions, its history is another one: start a new archive for it, and keep this one"
            }
            Self::Differs { .. } => {
                "the source was reset, restored or lost its last transactions and has reused their GTIDs: start a new \
                 archive for it, and keep this one"
            }
        }
    }
}

/// What the source must be set to.
///
/// # Errors
/// Names the first setting that makes capture impossible, and the statements that change it.
pub fn check_settings(facts: &ServerFacts) -> Result<(), ServerError> {
    let unfit = |variable: &str, value: String, needed: &str, remedy: &str| ServerError::Unfit {
        variable: variable.to_owned(),
        value,
        needed: needed.to_owned(),
        remedy: remedy.to_owned(),
    };
    if !facts.log_bin {
        let remedy = "start the server with log_bin (and server_id) set";
        return Err(unfit("log_bin", "OFF".to_owned(), "ON", remedy));
    }
    if facts.gtid_mode != GtidMode::On {
        let remedy = "SET PERSIST enforce_gtid_consistency = ON; SET PERSIST gtid_mode = OFF_PERMISSIVE; \
                      SET PERSIST gtid_mode = ON_PERMISSIVE; then, when Ongoing_anonymous_transaction_count is 0, \
                      SET PERSIST gtid_mode = ON; FLUSH BINARY LOGS";
        let first = match facts.gtid_mode {
            GtidMode::Off => remedy,
            GtidMode::OffPermissive | GtidMode::OnPermissive | GtidMode::On => {
                "SET PERSIST gtid_mode = ON_PERMISSIVE; then, when Ongoing_anonymous_transaction_count is 0, \
                 SET PERSIST gtid_mode = ON; FLUSH BINARY LOGS"
            }
        };
        return Err(unfit("gtid_mode", facts.gtid_mode.to_string(), "ON", first));
    }
    Ok(())
}

/// What is not ideal and no reason to stop: one sentence each.
#[must_use]
pub fn warnings(facts: &ServerFacts) -> Vec<String> {
    let mut warnings = Vec::new();
    if !facts.binlog_format.eq_ignore_ascii_case("ROW") {
        warnings.push(format!(
            "binlog_format is {}: statements can give other rows when they are replayed; SET PERSIST binlog_format = ROW",
            facts.binlog_format
        ));
    }
    if facts.sync_binlog != 1 || facts.innodb_flush_log_at_trx_commit != 1 {
        warnings.push(format!(
            "sync_binlog is {} and innodb_flush_log_at_trx_commit {}: a crash of the source can lose transactions that \
             are in the archive, which forks its history; set both to 1",
            facts.sync_binlog, facts.innodb_flush_log_at_trx_commit
        ));
    }
    if facts.binlog_checksum.eq_ignore_ascii_case("NONE") {
        warnings.push(
            "binlog_checksum is NONE: damage on the way is not noticed; SET PERSIST binlog_checksum = CRC32".to_owned(),
        );
    }
    if facts.read_only && !facts.log_replica_updates {
        warnings.push(
            "the source is a replica without log_replica_updates: its binlog lacks what it replicates".to_owned(),
        );
    }
    warnings
}

/// Decides how capture from this source goes on.
///
/// # Errors
/// When it does not continue the archive.
pub fn decide(standing: &Standing, facts: &ServerFacts) -> Result<Start, Discontinuity> {
    let foreign = standing.captured.subtract(&facts.gtid_executed);
    if !foreign.is_empty() {
        return Err(Discontinuity::Forked { foreign });
    }
    let missing = facts.gtid_purged.subtract(&standing.captured);
    if !missing.is_empty() {
        return Err(Discontinuity::Gap { missing });
    }
    let may_skip = standing.servers.iter().any(|server| *server != facts.uuid);
    // Asked for its last transactions once more, the source starts in the binlog where they are: its bytes can be
    // compared, and the events that end that binlog are not passed over.
    let again = standing.tail.first().filter(|segment| {
        !segment.gtids_added.is_empty()
            && standing.tail.iter().all(|later| later.server == facts.uuid)
            && segment.gtids_added.intersect(&facts.gtid_purged).is_empty()
    });
    Ok(match again {
        Some(segment) => {
            Start { have: standing.captured.subtract(&segment.gtids_added), compare: Some(segment.clone()), may_skip }
        }
        None => Start { have: standing.captured.clone(), compare: None, may_skip },
    })
}
