//! Why a restore did not happen, or stopped.

use highwater_binlog::{Gtid, GtidSet};
use highwater_catalog::Refusal;

use super::preflight::Finding;
use super::prove::{Damage, DamageCause};
use super::serve::ServeError;
use crate::archive::ArchiveError;
use crate::dump::LoadError;
use crate::exit::Exit;
use crate::source::ServerError;

/// Why a restore did not happen, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RestoreFailure {
    /// There is no way to the wanted point.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive's bytes are not what was written.
    #[error("the replay is damaged")]
    Damage(#[from] Damage),
    /// The target cannot take the restore; nothing was written to it.
    #[error("the target {target} is not fit: {}", texts(.findings, |finding| &finding.problem))]
    Unfit {
        /// The target's address.
        target: String,
        /// Everything that is wrong with it.
        findings: Vec<Finding>,
    },
    /// The target could not be reached or refused the login.
    #[error("the target cannot be used")]
    Connect(#[source] ServerError),
    /// A statement on the target was refused.
    #[error("the target refuses")]
    Target(#[from] ServerError),
    /// The dump could not be loaded.
    #[error("load the dump")]
    Load(#[from] LoadError),
    /// The replication source could not be started.
    #[error("serve the binlogs")]
    Serve(#[from] ServeError),
    /// The replica was told what cannot be repaired by trying again.
    #[error("serve the binlogs: {0}")]
    Serving(String),
    /// The target never connected to us.
    #[error("the target did not connect to {address} within {seconds} seconds{}", reason(.message))]
    NotReached {
        /// Where we listen.
        address: String,
        /// How long we waited.
        seconds: u64,
        /// What its receiver says.
        message: Option<String>,
    },
    /// The target's applier stopped at a transaction.
    #[error("the target's applier stopped{}: {message} (error {code})", at(.gtid))]
    Applier {
        /// MySQL's error number.
        code: u32,
        /// The applier's own text.
        message: String,
        /// The transaction.
        gtid: Option<Gtid>,
    },
    /// The target does not have exactly what it should.
    #[error("the target has not exactly the wanted transactions: missing `{missing}`, too many `{extra}`")]
    NotExact {
        /// Wanted and not there.
        missing: GtidSet,
        /// There and not wanted.
        extra: GtidSet,
    },
    /// It was told to stop.
    #[error("interrupted while {during}")]
    Interrupted {
        /// What was being done.
        during: &'static str,
        /// Whether the same command goes on from there.
        resumable: bool,
    },
    /// Settings of the target could not be put back after what is said first.
    #[error("{failure}; and settings of the target could not be put back: {errors}")]
    SettingsLeft {
        /// What went wrong before, or nothing.
        failure: String,
        /// Why not.
        errors: String,
        /// The statements to run by hand.
        by_hand: String,
    },
    /// A part of the program failed.
    #[error("{0}")]
    Internal(String),
}

impl RestoreFailure {
    /// How the program ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refused(_) => Exit::Unreachable,
            Self::Archive(error) => error.exit(),
            Self::Damage(damage) => match &damage.cause {
                DamageCause::Read(error) => match error.get_ref().and_then(|e| e.downcast_ref::<ArchiveError>()) {
                    Some(error) => error.exit(),
                    None => Exit::Damaged,
                },
                DamageCause::Interrupted => Exit::Interrupted,
                DamageCause::Frame(_)
                | DamageCause::Event(_)
                | DamageCause::NoFormat
                | DamageCause::Anonymous(_)
                | DamageCause::Transactions { .. } => Exit::Damaged,
            },
            Self::Unfit { .. } | Self::Connect(_) => Exit::Target,
            Self::Load(error) => archive_error(error).map_or(Exit::Failed, ArchiveError::exit),
            Self::Interrupted { .. } => Exit::Interrupted,
            Self::Target(_)
            | Self::Serve(_)
            | Self::Serving(_)
            | Self::NotReached { .. }
            | Self::Applier { .. }
            | Self::NotExact { .. }
            | Self::SettingsLeft { .. }
            | Self::Internal(_) => Exit::Failed,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(refusal) => Some(refusal.hint()),
            Self::Archive(error) => error.hint(),
            Self::Damage(damage) => match &damage.cause {
                DamageCause::Read(error) => {
                    error.get_ref().and_then(|e| e.downcast_ref::<ArchiveError>()).and_then(ArchiveError::hint)
                }
                _ => Some("restore to a point before it, or take the object from another copy of the store".to_owned()),
            },
            Self::Unfit { findings, .. } => Some(texts(findings, |finding| &finding.hint)),
            Self::Connect(error) | Self::Target(error) => error.hint(),
            Self::Load(error) => archive_error(error).map_or_else(
                || Some("empty the target, and run the same command again once the cause is gone".to_owned()),
                ArchiveError::hint,
            ),
            Self::NotReached { .. } => Some(
                "the target connects to us: open that address to it, or name one it can reach with --serve-address"
                    .to_owned(),
            ),
            Self::Applier { gtid: Some(gtid), .. } => Some(format!(
                "repair what keeps it from being applied, or leave the transaction out with --exclude-gtid {gtid}; \
                 then run the same command with --continue"
            )),
            Self::Applier { gtid: None, .. } => {
                Some("the target's error log says more; the same command with --continue goes on from there".to_owned())
            }
            Self::NotExact { .. } => {
                Some("somebody else wrote to the target; restore into a server that nobody else uses".to_owned())
            }
            Self::Interrupted { resumable: true, .. } => {
                Some("the same command with --continue goes on from there".to_owned())
            }
            Self::Interrupted { resumable: false, .. } => Some("start again with an empty target".to_owned()),
            Self::SettingsLeft { by_hand, .. } => Some(format!("run on the target: {by_hand}")),
            Self::Serve(_) | Self::Serving(_) | Self::Internal(_) => None,
        }
    }
}

/// The archive's failure inside of a load's.
fn archive_error(error: &LoadError) -> Option<&ArchiveError> {
    match error {
        LoadError::Read { source, .. } => source.get_ref()?.downcast_ref(),
        LoadError::Server { .. }
        | LoadError::Unknown { .. }
        | LoadError::Statement { .. }
        | LoadError::Value { .. }
        | LoadError::Rows { .. } => None,
    }
}

fn texts<'a>(findings: &'a [Finding], part: impl Fn(&'a Finding) -> &'a String) -> String {
    findings.iter().map(|finding| part(finding).as_str()).collect::<Vec<_>>().join("; ")
}

fn reason(message: &Option<String>) -> String {
    message.as_ref().map(|message| format!(": {message}")).unwrap_or_default()
}

fn at(gtid: &Option<Gtid>) -> String {
    gtid.as_ref().map(|gtid| format!(" at {gtid}")).unwrap_or_default()
}
