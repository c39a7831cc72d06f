//! Loading the dump.

use highwater_catalog::Dump;

use super::failure::RestoreFailure;
use super::target::Target;
use super::{Phase, Progress, ProgressSink};
use crate::archive::Archive;
use crate::exit::Exit;

/// Loads `dump` over `side`.
pub(crate) async fn load(
    side: &mut Target,
    _archive: &Archive,
    dump: &Dump,
    progress: &ProgressSink,
) -> Result<(), RestoreFailure> {
    if !dump.files.is_empty() {
        let message = "loading is not part of this build".to_owned();
        return Err(RestoreFailure::Load { message, hint: None, exit: Exit::Failed });
    }
    side.stop_logging().await?;
    let total = dump.files.iter().map(|file| file.object.plain_size).sum();
    progress(Progress { phase: Phase::Load, done: total, total });
    Ok(())
}
