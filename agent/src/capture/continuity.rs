//! Whether a source continues the archive, decided before one byte is accepted.

use highwater_binlog::{
    BinlogName, BinlogPosition, ENCRYPTION_HEADER_LEN, FIRST_EVENT_OFFSET, Gtid, GtidSet, ServerUuid,
};

use super::tip::{Piece, Tip};
use crate::source::{BinlogFile, GtidMode, ServerError, ServerFacts};

/// How capture goes on.
#[derive(Debug, Clone)]
pub struct Start {
    /// What the source is asked for.
    pub request: Request,
    /// The piece whose bytes the source sends again, to be compared with ours.
    pub compare: Option<Piece>,
    /// Whether the source may leave out bytes: transactions that we have from another server, or need not have.
    pub may_skip: bool,
}

/// What a source is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Every transaction but these, from the start of a binlog on.
    Gtids {
        /// What we say we have. Less than we do when the last bytes are to be sent again.
        have: GtidSet,
        /// The binlog; without one the source finds it.
        from: Option<BinlogName>,
    },
    /// Everything from a position on.
    Position(BinlogPosition),
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
    /// The source no longer has the binlog that the archive ends in: nobody knows whether what it has now is what was in it.
    /// With GTIDs, none of the transactions that it had is purged.
    #[error("gap: the source no longer has {binlog}, in which the archive ends at {offset}")]
    BinlogGone {
        /// The binlog.
        binlog: BinlogName,
        /// Offset after our last byte.
        offset: u64,
    },
    /// Another binlog comes behind one than that which it says itself, and without GTIDs nobody knows what was in between.
    #[error("gap: {binlog} of the source goes on in {next}, and {found} was sent instead")]
    BinlogSkipped {
        /// The binlog that ended.
        binlog: BinlogName,
        /// The one that its ROTATE names.
        next: BinlogName,
        /// The one that came.
        found: BinlogName,
    },
    /// A binlog of the source comes behind transactions that none of its binlogs has.
    #[error("gap: {binlog} of the source follows transactions that it did not send: {missing}")]
    NotSent {
        /// The binlog whose `Previous_gtids` has them.
        binlog: String,
        /// The transactions.
        missing: GtidSet,
    },
    /// The source says itself that it lost events (`INCIDENT_EVENT`, `LOST_EVENTS`).
    #[error("gap: the source reports lost events at {binlog}:{offset}{}", .gtid.as_ref().map(|gtid| format!(", in {gtid}")).unwrap_or_default())]
    Incident {
        /// The binlog.
        binlog: BinlogName,
        /// Where the event starts.
        offset: u64,
        /// The GTID that stands for what was lost.
        gtid: Option<Gtid>,
    },
    /// Some transactions have no GTID: what they changed cannot be captured by GTIDs.
    #[error("gap: the source's binlogs have transactions without a GTID")]
    Anonymous,
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
        binlog: BinlogName,
        /// Offset of the first byte compared.
        start: u64,
        /// Offset after the last.
        end: u64,
    },
    /// Another server, and without GTIDs nothing tells what it has.
    #[error(
        "fork: server {found} instead of {known}, and without GTIDs it cannot be known whether it has the same history"
    )]
    OtherServer {
        /// The server of the archive.
        known: ServerUuid,
        /// The one that answers now.
        found: ServerUuid,
    },
    /// Transactions have GTIDs now and had none before, or the other way round.
    #[error("gtid_mode is {now}, and the timeline was captured with the other kind of transactions")]
    OtherMode {
        /// The setting.
        now: GtidMode,
    },
}

impl Discontinuity {
    /// The transactions that the history which begins now does not need: they lie before it.
    #[must_use]
    pub fn starting_gtids(&self, captured: &GtidSet, facts: &ServerFacts) -> GtidSet {
        match self {
            // Nothing is captured twice.
            Self::Gap { .. } => captured.union(&facts.gtid_purged),
            Self::BinlogGone { .. } if facts.gtid_mode == GtidMode::On => captured.union(&facts.gtid_purged),
            Self::NotSent { missing, .. } => captured.union(&facts.gtid_purged).union(missing),
            // A dump of now has what they changed. All that the source executed lies in binlogs that may have more of them.
            Self::Anonymous => captured.union(&facts.gtid_executed),
            Self::Incident { gtid, .. } => {
                let mut starting = captured.union(&facts.gtid_purged);
                gtid.iter().for_each(|gtid| starting.insert(gtid));
                starting
            }
            // Where the histories part is not known: all that the source still has belongs to the new one.
            Self::BinlogGone { .. }
            | Self::BinlogSkipped { .. }
            | Self::Forked { .. }
            | Self::Differs { .. }
            | Self::OtherServer { .. }
            | Self::OtherMode { .. } => facts.gtid_purged.clone(),
        }
    }

    /// The transactions that the source was to have and does not have, if it is a gap of known transactions.
    #[must_use]
    pub fn missing(&self) -> Option<&GtidSet> {
        match self {
            Self::Gap { missing } | Self::NotSent { missing, .. } => Some(missing),
            Self::BinlogGone { .. }
            | Self::BinlogSkipped { .. }
            | Self::Incident { .. }
            | Self::Anonymous
            | Self::Forked { .. }
            | Self::Differs { .. }
            | Self::OtherServer { .. }
            | Self::OtherMode { .. } => None,
        }
    }

    /// Whether a replica that lags behind would look the same.
    #[must_use]
    pub fn may_be_lag(&self) -> bool {
        matches!(self, Self::Forked { .. })
    }

    /// The next step for the reader.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::BinlogGone { .. } => {
                "if a replica still has these transactions, name it in source.failover; binlogs are removed by PURGE alone, and \
                 kept for binlog_expire_logs_seconds"
            }
            Self::Gap { .. } | Self::BinlogSkipped { .. } => {
                "if a replica still has these binlogs, name it in source.failover; raise binlog_expire_logs_seconds on \
                 the source"
            }
            Self::NotSent { .. } => {
                "a binlog is missing from the source's index: if a replica still has these transactions, name it in \
                 source.failover"
            }
            Self::Incident { .. } => {
                "the source's error log says what happened; its own replicas stop at the same place and must be built anew"
            }
            Self::Anonymous => {
                "nothing to do while gtid_mode stays ON: the new timeline has a full dump of its own, and nothing in between \
                 can be restored"
            }
            Self::Forked { .. } => {
                "the source was reset, restored or lost its last transactions, or a failover lost them: what only the \
                 archive has can be restored from the old timeline"
            }
            Self::Differs { .. } => {
                "the source was reset, restored or lost its last transactions and has reused their GTIDs: what only the \
                 archive has can be restored from the old timeline"
            }
            Self::OtherServer { .. } => "set gtid_mode = ON: then a failover is no break",
            Self::OtherMode { .. } => "nothing to do: the new timeline has a full dump of its own",
        }
    }
}

/// What the source must be set to; with `allow_positions` it need not have GTIDs.
///
/// # Errors
/// Names the first setting that makes capture impossible, and the statements that change it.
pub fn check_settings(facts: &ServerFacts, allow_positions: bool) -> Result<(), ServerError> {
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
    if facts.gtid_mode != GtidMode::On && !allow_positions {
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

/// A source that keeps its binlogs for less time leaves nobody the time to mend anything.
const KEPT_SECONDS_MIN: u64 = 86_400;

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
             are in the archive, which forks its history; SET PERSIST sync_binlog = 1; SET PERSIST \
             innodb_flush_log_at_trx_commit = 1",
            facts.sync_binlog, facts.innodb_flush_log_at_trx_commit
        ));
    }
    if facts.binlog_checksum.eq_ignore_ascii_case("NONE") {
        warnings.push(
            "binlog_checksum is NONE: damage on the way is not noticed; SET PERSIST binlog_checksum = CRC32".to_owned(),
        );
    }
    if !facts.binlog_row_image.eq_ignore_ascii_case("FULL") {
        warnings.push(format!(
            "binlog_row_image is {}: binlogs lack columns of the rows before a change, which nobody can look up or turn \
             back then; SET PERSIST binlog_row_image = FULL",
            facts.binlog_row_image
        ));
    }
    if !facts.binlog_encryption {
        warnings.push(
            "binlog_encryption is OFF: whoever reads the source's disk reads every change; SET PERSIST binlog_encryption = \
             ON, which needs a keyring"
                .to_owned(),
        );
    }
    let keep = facts.binlog_expire_logs_seconds;
    if facts.binlog_expire_logs_auto_purge && (1..KEPT_SECONDS_MIN).contains(&keep) {
        warnings.push(format!(
            "binlog_expire_logs_seconds is {keep}: an agent that is away for longer finds a gap; SET PERSIST \
             binlog_expire_logs_seconds = 259200"
        ));
    }
    if facts.read_only && !facts.log_replica_updates {
        warnings.push(
            "the source is a replica without log_replica_updates: its binlog lacks what it replicates; SET PERSIST_ONLY \
             log_replica_updates = ON; RESTART"
                .to_owned(),
        );
    }
    warnings
}

/// Decides how capture goes on from this source, which has these binlogs; without any, which is not known.
///
/// # Errors
/// When it does not continue the archive.
pub fn decide(tip: &Tip, facts: &ServerFacts, files: &[BinlogFile]) -> Result<Start, Discontinuity> {
    if tip.anonymous {
        return Err(Discontinuity::OtherMode { now: facts.gtid_mode });
    }
    let foreign = tip.captured.subtract(&facts.gtid_executed).subtract(&facts.gtid_owned);
    if !foreign.is_empty() {
        return Err(Discontinuity::Forked { foreign });
    }
    let missing = facts.gtid_purged.subtract(&tip.captured);
    if !missing.is_empty() {
        return Err(Discontinuity::Gap { missing });
    }
    let other_servers = tip.servers.iter().any(|server| *server != facts.uuid);
    let may_skip = other_servers || !tip.starting.is_subset(&facts.gtid_purged);
    // Asked for its last transactions once more, the source starts in the binlog where they are: its bytes can be
    // compared, and the events that end that binlog are not passed over.
    let again = tip.tail.first().filter(|piece| {
        !piece.gtids_added.is_empty()
            && tip.tail.iter().all(|later| later.server == facts.uuid)
            && piece.gtids_added.intersect(&facts.gtid_purged).is_empty()
    });
    let (have, from) = match again {
        // One that was restored, or whose files were removed: under the same GTIDs it may have other transactions now.
        Some(piece) if !files.is_empty() && files.iter().all(|file| file.name != piece.binlog) => {
            let offset = piece.end.max(tip.end_of(facts.uuid, &piece.binlog));
            return Err(Discontinuity::BinlogGone { binlog: piece.binlog.clone(), offset });
        }
        Some(piece) => (tip.captured.subtract(&piece.gtids_added), Some(piece.binlog.clone())),
        None => (tip.captured.clone(), None),
    };
    Ok(Start { request: Request::Gtids { have, from }, compare: again.cloned(), may_skip })
}

/// Decides how capture goes on from a source without GTIDs, which has these binlogs.
///
/// The proof is a chain of bytes: the last piece that we have is sent again and must be the same. It cannot follow a
/// failover, nor a binlog that was purged before it was captured.
///
/// # Errors
/// When it does not continue the archive.
pub fn decide_by_position(
    tip: &Tip,
    facts: &ServerFacts,
    first: &BinlogFile,
    files: &[BinlogFile],
) -> Result<Start, Discontinuity> {
    let newest = tip.tail.last();
    let Some(last) = newest.and_then(|newest| tip.tail.iter().find(|piece| piece.binlog == newest.binlog)) else {
        let request = Request::Position(BinlogPosition { binlog: first.name.clone(), offset: FIRST_EVENT_OFFSET });
        return Ok(Start { request, compare: None, may_skip: false });
    };
    if !tip.captured.is_subset(&tip.starting) {
        return Err(Discontinuity::OtherMode { now: facts.gtid_mode });
    }
    if last.server != facts.uuid {
        return Err(Discontinuity::OtherServer { known: last.server, found: facts.uuid });
    }
    let Piece { binlog, start, end, .. } = last.clone();
    let end = end.max(tip.end_of(facts.uuid, &binlog));
    match files.iter().find(|file| file.name == binlog) {
        None => return Err(Discontinuity::BinlogGone { binlog, offset: end }),
        Some(file) if stream_len(file) < end => return Err(Discontinuity::Differs { binlog, start, end }),
        Some(_) => {}
    }
    // The command's position has 32 bits: behind 4 GiB the whole binlog is sent again.
    let offset = if u32::try_from(start).is_ok() { start.max(FIRST_EVENT_OFFSET) } else { FIRST_EVENT_OFFSET };
    let request = Request::Position(BinlogPosition { binlog, offset });
    Ok(Start { request, compare: Some(last.clone()), may_skip: false })
}

/// A binlog's length without the header of an encrypted one.
fn stream_len(file: &BinlogFile) -> u64 {
    let header = if file.encrypted { ENCRYPTION_HEADER_LEN } else { 0 };
    file.size.saturating_sub(u64::try_from(header).unwrap_or(0))
}
