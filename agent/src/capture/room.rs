//! What of a file system the spool may take, and waiting for more of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use super::spool::RESERVE_BYTES;

/// With so many free bytes more than are kept free, writing begins again.
const ENOUGH_BYTES: u64 = 64 << 20;

/// What is written between two looks: a group of events, and the catalog's record of a segment. So much is always kept free.
const SLACK_BYTES: u64 = 16 << 20;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The room that the spool has.
#[derive(Debug, Clone)]
pub(super) struct Room {
    folder: PathBuf,
    /// Bytes that the spool may have.
    bytes_max: u64,
    /// Free bytes that the sealing of one object takes here, without which a full spool could never be published.
    object: u64,
}

/// A file system's sizes.
#[derive(Debug, Clone, Copy)]
struct Space {
    total: u64,
    free: u64,
}

impl Room {
    /// For a spool of at most `bytes_max` bytes in `folder`, from which objects of `object_bytes_max` bytes are sealed into
    /// the folder `sealed`.
    pub(super) fn new(folder: &Path, bytes_max: u64, sealed: &Path, object_bytes_max: u64) -> Self {
        let device = |path| fs::metadata(path).map(|facts| facts.dev()).ok();
        // What cannot be compressed gets a bit larger.
        let object = match device(folder) == device(sealed) {
            true => object_bytes_max.saturating_add(object_bytes_max / 16),
            false => 0,
        };
        Self { folder: folder.to_owned(), bytes_max, object }
    }

    /// Whether a spool of so many bytes must not grow before some of it is published.
    pub(super) fn is_used_up(&self, spool_bytes: u64) -> bool {
        spool_bytes >= self.bytes_max || self.is_short()
    }

    fn is_short(&self) -> bool {
        // A file system that cannot be asked tells by its errors.
        Space::of(&self.folder).is_some_and(|space| space.free < space.kept_free(self.object))
    }

    /// Returns when the file system has enough space beside what is kept free and in reserve, or cannot be asked.
    pub(super) async fn wait(self) {
        while let Some(space) = Space::of(&self.folder) {
            if space.free >= space.enough(self.object) {
                return;
            }
            sleep(LOOK).await;
        }
    }
}

impl Space {
    fn of(folder: &Path) -> Option<Self> {
        let facts = rustix::fs::statvfs(folder).ok()?;
        Some(Self { total: facts.f_blocks * facts.f_frsize, free: facts.f_bavail * facts.f_frsize })
    }

    /// Free bytes that the spool leaves to others: to the sealing of one object, and to what is written between two looks. Of
    /// a small file system half, and, where objects are sealed, what the spool may go beyond that by: then no segment is
    /// larger than what is left to seal it in.
    fn kept_free(self, object: u64) -> u64 {
        let beyond = if object > 0 { SLACK_BYTES.min(self.total / 4) } else { 0 };
        object.saturating_add(SLACK_BYTES).min(self.total / 2 + beyond)
    }

    /// With so many free bytes writing begins again; more than seven eighths no file system has for us alone.
    fn enough(self, object: u64) -> u64 {
        // Small file systems never have that much.
        let more = ENOUGH_BYTES.min(self.total / 8) + RESERVE_BYTES.min(self.total / 8);
        (self.kept_free(object) + more).min(self.total - self.total / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_free_is_an_objects_size_and_of_a_small_file_system_enough_for_what_the_spool_has() {
        const MIB: u64 = 1 << 20;
        let kept = |total, object| Space { total: total * MIB, free: 0 }.kept_free(object * MIB) / MIB;
        assert_eq!((kept(1000, 0), kept(1000, 64)), (16, 80));
        assert_eq!((kept(16, 0), kept(96, 64), kept(400, 1000)), (8, 64, 216));
        for total in [24, 64, 96, 160, 400] {
            // One look before it is full, a group and a batch more are written, beside the reserve.
            let (left, reserve) = (kept(total, 1000) - 9, RESERVE_BYTES / MIB);
            assert!(total < left + reserve + left, "{total}: a segment of {} in {left}", total - left - reserve);
        }
    }

    #[test]
    fn writing_begins_again_on_a_file_system_of_any_size() {
        for total in [8, 16, 24, 64, 96, 400, 100_000].map(|mib: u64| mib << 20) {
            for object in [0, 64 << 20, 1 << 40] {
                let space = Space { total, free: 0 };
                assert!(space.kept_free(object) < space.enough(object), "{total} {object}");
                assert!(space.enough(object) <= total - total / 8, "{total} {object}");
            }
        }
    }

    #[test]
    fn a_spool_is_limited_by_its_own_bytes_and_by_the_space_that_sealing_takes() {
        let folder = tempfile::tempdir().unwrap();
        let ample = Room::new(folder.path(), 100, folder.path(), 1 << 20);
        assert!(ample.is_used_up(100));
        let half = Space::of(folder.path()).unwrap().total / 2;
        let is_short = Space::of(folder.path()).unwrap().free < half;
        let greedy = Room::new(folder.path(), 100, folder.path(), half);
        assert_eq!(greedy.is_used_up(0), is_short);
        let elsewhere = Room::new(folder.path(), 100, Path::new("/proc"), u64::MAX);
        assert_eq!((elsewhere.object, elsewhere.is_used_up(0)), (0, false));
    }
}
