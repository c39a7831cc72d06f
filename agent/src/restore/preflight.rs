//! Whether the target can take the restore: everything that is wrong, at once, before the first write.

use std::fmt;

use super::channel;
use super::mark::{MARK_SCHEMA, Mark, Phase};
use super::target::{Target, literal};
use crate::source::{GtidMode, ServerError, ServerVersion};
use highwater_binlog::{GtidSet, ServerUuid};

/// One thing that makes the target unfit, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub problem: String,
    /// The next step.
    pub hint: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl Finding {
    fn new(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { problem: problem.into(), hint: hint.into() }
    }
}

/// What the restore will bring, as far as the target must be fit for it.
#[derive(Debug, Clone)]
pub(crate) struct Demand {
    /// The dump.
    pub(crate) dump: String,
    /// `@@version` of the server it was taken from.
    pub(crate) source_version: String,
    /// Every server that the archive knows as a source.
    pub(crate) sources: Vec<ServerUuid>,
    /// What the target must have executed in the end.
    pub(crate) stop: GtidSet,
    /// The longest event of the replay, in bytes.
    pub(crate) event_len_max: u64,
    /// Whether an interrupted restore of the same may be gone on with.
    pub(crate) resume: bool,
    /// Whether there is anything to replay.
    pub(crate) replays: bool,
}

/// What the target is in for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// It is empty.
    Empty,
    /// The same restore was interrupted after loading; it goes on.
    Resume(Mark),
}

/// Privileges that a restore needs on `*.*`, by the version that introduced them; a person gives them all by GRANT ALL.
const PRIVILEGES: &[(&str, ServerVersion)] = &[
    ("SELECT", ServerVersion::OLDEST),
    ("INSERT", ServerVersion::OLDEST),
    ("CREATE", ServerVersion::OLDEST),
    ("DROP", ServerVersion::OLDEST),
    ("ALTER", ServerVersion::OLDEST),
    ("INDEX", ServerVersion::OLDEST),
    ("REFERENCES", ServerVersion::OLDEST),
    ("CREATE VIEW", ServerVersion::OLDEST),
    ("SHOW VIEW", ServerVersion::OLDEST),
    ("CREATE ROUTINE", ServerVersion::OLDEST),
    ("ALTER ROUTINE", ServerVersion::OLDEST),
    ("TRIGGER", ServerVersion::OLDEST),
    ("EVENT", ServerVersion::OLDEST),
    ("CREATE USER", ServerVersion::OLDEST),
    ("RELOAD", ServerVersion::OLDEST),
    ("SYSTEM_VARIABLES_ADMIN", ServerVersion::OLDEST),
    ("REPLICATION_SLAVE_ADMIN", ServerVersion::OLDEST),
    ("SYSTEM_USER", ServerVersion::new(8, 0, 16)),
    ("SET_ANY_DEFINER", ServerVersion::new(8, 2, 0)),
    ("ALLOW_NONEXISTENT_DEFINER", ServerVersion::new(8, 2, 0)),
];

/// Looks at the target. Writes nothing.
pub(crate) async fn check(target: &mut Target, demand: &Demand) -> Result<(Start, Vec<Finding>), ServerError> {
    let mut findings = Vec::new();
    identity(target, demand, &mut findings);
    privileges(target, &mut findings).await?;
    modes(target, &mut findings).await?;
    if demand.replays {
        replication(target, demand, &mut findings).await?;
    }
    let start = emptiness(target, demand, &mut findings).await?;
    Ok((start, findings))
}

/// Who the target is.
fn identity(target: &Target, demand: &Demand, findings: &mut Vec<Finding>) {
    let facts = target.facts();
    if demand.sources.contains(&facts.uuid) {
        findings.push(Finding::new(
            format!("the target is a source of this archive (server_uuid {})", facts.uuid),
            "restore into another server; never over the one that is backed up",
        ));
    }
    match demand.source_version.parse::<ServerVersion>() {
        Ok(source) if facts.version < source => findings.push(Finding::new(
            format!("the target runs MySQL {}, older than the source's {source}", facts.version),
            format!("use a target with MySQL {source} or newer"),
        )),
        Ok(_) => {}
        Err(_) => findings.push(Finding::new(
            format!("the dump's server version {:?} is not MySQL's", demand.source_version),
            "the dump's manifest is not one of ours: verify the archive",
        )),
    }
}

/// What the account may do.
async fn privileges(target: &mut Target, findings: &mut Vec<Finding>) -> Result<(), ServerError> {
    let account = target.account().to_owned();
    let sql =
        format!("SELECT PRIVILEGE_TYPE FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = {}", literal(&account));
    let granted: Vec<String> = target.rows(&sql, "read privileges").await?;
    let has = |name: &str| granted.iter().any(|g| g == name || g == "SUPER" && name.ends_with("_ADMIN"));
    let version = target.version();
    let mut missing: Vec<&str> =
        PRIVILEGES.iter().filter(|(name, since)| version >= *since && !has(name)).map(|(name, _)| *name).collect();
    if version < ServerVersion::new(8, 2, 0) && !has("SET_USER_ID") && !has("SUPER") {
        missing.push("SET_USER_ID");
    }
    if !missing.is_empty() {
        findings.push(Finding::new(
            format!("{account} lacks {} on the target", missing.join(", ")),
            format!("GRANT ALL ON *.* TO {account} WITH GRANT OPTION (the dump's accounts may have any privilege)"),
        ));
    }
    Ok(())
}

/// GTIDs, and writing at all.
async fn modes(target: &mut Target, findings: &mut Vec<Finding>) -> Result<(), ServerError> {
    if target.facts().gtid_mode != GtidMode::On {
        findings.push(Finding::new(
            format!("the target has gtid_mode = {}", target.facts().gtid_mode),
            "start it with gtid_mode = ON and enforce_gtid_consistency = ON",
        ));
    }
    if let Some(value) = target.variable("enforce_gtid_consistency").await?
        && value != "ON"
    {
        findings.push(Finding::new(
            format!("the target has enforce_gtid_consistency = {value}"),
            "start it with enforce_gtid_consistency = ON",
        ));
    }
    for name in ["super_read_only", "read_only"] {
        if target.variable(name).await?.as_deref() == Some("ON") {
            findings.push(Finding::new(
                format!("the target has {name} = ON"),
                "SET GLOBAL read_only = OFF (which turns super_read_only off too)",
            ));
            break;
        }
    }
    Ok(())
}

/// What would make a replay impossible, or wrong without a word.
async fn replication(target: &mut Target, demand: &Demand, findings: &mut Vec<Finding>) -> Result<(), ServerError> {
    let new_names = target.version().variables_say_replica();
    let of = |new: &'static str, old: &'static str| if new_names { new } else { old };
    let name = of("replica_exec_mode", "slave_exec_mode");
    if let Some(value) = target.variable(name).await?
        && value != "STRICT"
    {
        findings.push(Finding::new(
            format!("the target has {name} = {value}, which hides errors of the replay"),
            format!("SET GLOBAL {name} = STRICT"),
        ));
    }
    let name = of("replica_skip_errors", "slave_skip_errors");
    if let Some(value) = target.variable(name).await?
        && value != "OFF"
        && !value.is_empty()
    {
        findings.push(Finding::new(
            format!("the target has {name} = {value}, which hides errors of the replay"),
            format!("start it without {name}"),
        ));
    }
    let name = of("replica_max_allowed_packet", "slave_max_allowed_packet");
    let limit = target.variable(name).await?.and_then(|text| text.parse::<u64>().ok()).unwrap_or(u64::MAX);
    if limit < demand.event_len_max {
        findings.push(Finding::new(
            format!("the target has {name} = {limit}, the longest event has {} bytes", demand.event_len_max),
            format!("SET GLOBAL {name} = 1073741824"),
        ));
    }
    let sql = "SELECT FILTER_NAME FROM performance_schema.replication_applier_global_filters WHERE FILTER_RULE <> ''";
    let filters: Vec<String> = target.rows(sql, "read replication filters").await?;
    if !filters.is_empty() {
        findings.push(Finding::new(
            format!("the target filters replication: {}", filters.join(", ")),
            "start it without replicate-* options: a filtered replay is not the source's history",
        ));
    }
    Ok(())
}

/// Nothing of anybody's may be on the target, unless it is our own unfinished work.
async fn emptiness(target: &mut Target, demand: &Demand, findings: &mut Vec<Finding>) -> Result<Start, ServerError> {
    let mark = Mark::read(target).await?;
    if let Some(mark) = mark {
        let same = mark.dump == demand.dump && mark.stop == demand.stop.to_string();
        match mark.phase {
            Phase::Replay if same => {
                let executed = target.gtid_executed().await?;
                if executed.is_subset(&demand.stop) && demand.resume {
                    return Ok(Start::Resume(mark));
                }
                if executed.is_subset(&demand.stop) {
                    findings.push(Finding::new(
                        format!("this very restore was interrupted on the target, with dump {} loaded", mark.dump),
                        "add --continue to go on with it",
                    ));
                    return Ok(Start::Empty);
                }
                findings.push(Finding::new(
                    format!(
                        "an interrupted restore is on the target, and transactions that are not its own: {}",
                        executed.subtract(&demand.stop)
                    ),
                    empty_hint(target.version()),
                ));
            }
            Phase::Replay => findings.push(Finding::new(
                format!("another restore was interrupted on the target: dump {}, up to {}", mark.dump, mark.stop),
                "run that one again with --continue to finish it, or use an empty target",
            )),
            Phase::Load => findings.push(Finding::new(
                format!("a restore was interrupted on the target while dump {} was loaded", mark.dump),
                empty_hint(target.version()),
            )),
        }
        return Ok(Start::Empty);
    }
    let schemas: Vec<String> = target
        .rows(
            &format!(
                "SELECT SCHEMA_NAME FROM information_schema.SCHEMATA WHERE SCHEMA_NAME NOT IN \
                 ('mysql', 'information_schema', 'performance_schema', 'sys', '{MARK_SCHEMA}') ORDER BY SCHEMA_NAME"
            ),
            "read schemas",
        )
        .await?;
    if !schemas.is_empty() {
        let shown = schemas.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        findings.push(Finding::new(
            format!("the target is not empty: it has {} schemas ({shown})", schemas.len()),
            empty_hint(target.version()),
        ));
    }
    let executed = target.gtid_executed().await?;
    if !executed.is_empty() {
        findings.push(Finding::new(
            format!("the target has executed transactions: {executed}"),
            format!("{} on the target, if it holds nothing of value", target.version().reset_binary_logs()),
        ));
    }
    let sql = "SELECT CHANNEL_NAME FROM performance_schema.replication_connection_configuration WHERE HOST <> ''";
    for name in target.rows::<String>(sql, "read replication channels").await? {
        let (problem, reset) = match name.as_str() {
            "" => ("the target is a replica already".to_owned(), "RESET REPLICA ALL".to_owned()),
            channel::CHANNEL => (
                "the target has a channel left over from another restore".to_owned(),
                format!("STOP REPLICA FOR CHANNEL '{name}'; RESET REPLICA ALL FOR CHANNEL '{name}'"),
            ),
            _ => (
                format!("the target is a replica already: channel {name}"),
                format!("STOP REPLICA FOR CHANNEL '{name}'; RESET REPLICA ALL FOR CHANNEL '{name}'"),
            ),
        };
        findings.push(Finding::new(problem, reset));
    }
    Ok(Start::Empty)
}

fn empty_hint(version: ServerVersion) -> String {
    format!("restore into a new server, or drop its schemas and run {}", version.reset_binary_logs())
}
