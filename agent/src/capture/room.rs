//! Waiting for space on a file system.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

use super::spool::RESERVE_BYTES;

/// With so many free bytes writing begins again: room for a group of events and a segment's scratch.
const ENOUGH_BYTES: u64 = 64 << 20;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Returns when the file system of a folder has enough space beside what is kept in reserve, or cannot be asked.
pub(super) async fn wait(folder: PathBuf) {
    loop {
        let Ok(facts) = rustix::fs::statvfs(&folder) else { return };
        let (total, free) = (facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize);
        // Small file systems never have that much.
        if free >= ENOUGH_BYTES.min(total / 4) + RESERVE_BYTES.min(total / 4) {
            return;
        }
        sleep(LOOK).await;
    }
}
