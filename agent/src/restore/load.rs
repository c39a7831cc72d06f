//! Loading the dump, in this module's terms.

use highwater_catalog::Dump;

use super::failure::RestoreFailure;
use super::target::Target;
use super::{Phase, Progress, ProgressSink};
use crate::archive::Archive;
use crate::dump::LoadProgress;

/// Loads `dump` over `side`; returns what a person should know.
pub(crate) async fn load(
    side: &mut Target,
    archive: &Archive,
    dump: &Dump,
    progress: &ProgressSink,
) -> Result<Vec<String>, RestoreFailure> {
    side.stop_logging().await?;
    let told = |loaded: LoadProgress| {
        progress(Progress { phase: Phase::Load, done: loaded.bytes, total: loaded.bytes_total });
    };
    let report = crate::dump::load::load(side.conn(), archive, dump, &told).await?;
    let mut notes = report.not_restored;
    if !report.kept_accounts.is_empty() {
        notes.push(format!("accounts of the target that the source has not: {}", report.kept_accounts.join(", ")));
    }
    if report.own_account_replaced {
        notes.push("the account used for this restore now has the source's password and privileges".to_owned());
    }
    Ok(notes)
}
