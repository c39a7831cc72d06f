//! Named places where a test makes the agent die, fail or be wrong. Without the feature `failpoints`, which no shipped
//! build has, every function here does nothing.
//!
//! `FAILPOINTS="spool.fsync.before=3*off->return"` kills at the fourth time; `spool.write=return(enospc)` fails.

/// Places where a SIGKILL must lose nothing.
pub const CRASH_POINTS: &[&str] = &[
    // Of any object: when bytes of it are written. Of one of a segment: before it gets its name, and when it has it.
    "up.put.mid",
    "up.put.before",
    "up.put.after",
    // Some of a segment's objects are stored, others are not.
    "up.put.between",
    // A file's bytes are on the disk, its name is not there; it is, and its folder is not on the disk.
    "name.link.before",
    "name.link.after",
    // All of a segment's objects are stored; its manifest is.
    "manifest.before",
    "manifest.after",
    // The catalog does not know the published segment yet; now it does.
    "catalog.commit.before",
    "catalog.commit.after",
    "recv.mid_trx",
    "seg.open.tmp",
    "seg.write.mid",
    "seg.write.after",
    "seg.fsync.before",
    "seg.fsync.after",
    "seg.dirsync.before",
    "seg.dirsync.after",
    "ack.before",
    "ack.after",
    "rotate.seen",
    "fde.new",
    "timeline.new.before",
    "timeline.new.after",
    "keyid.new",
    "spool.delete.before",
    "spool.delete.after",
];

/// The same when some of a backlog that was held in memory is written, which no agent that acknowledges ever does.
pub const HELD_CRASH_POINT: &str = "held.write.mid";

/// The same inside a full dump, in order.
pub const DUMP_CRASH_POINTS: &[&str] = &[
    "dump.lock.before",
    // Under the short lock.
    "dump.snapshot",
    "dump.lock.after",
    "dump.unlock",
    "dump.schema",
    "dump.table.mid",
    "dump.manifest.before",
    "dump.manifest.after",
];

/// Ends the process by SIGKILL when the failpoint of this name returns.
#[cfg(feature = "failpoints")]
pub fn crash(name: &str) {
    let is_listed = CRASH_POINTS.contains(&name) || DUMP_CRASH_POINTS.contains(&name) || name == HELD_CRASH_POINT;
    debug_assert!(is_listed, "{name} is not listed");
    fail::fail_point!(name, |_| {
        // What remains is what the disk and the peers have.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::thread::park();
    });
}

/// Ends the process by SIGKILL when the failpoint of this name returns.
#[cfg(not(feature = "failpoints"))]
pub fn crash(_: &str) {}

/// The error that the failpoint of this name returns: `return(enospc)`, `return(eio)`.
#[cfg(feature = "failpoints")]
pub fn io(name: &str) -> std::io::Result<()> {
    fail::fail_point!(name, |kind| {
        let error = match kind.as_deref() {
            Some("enospc") => rustix::io::Errno::NOSPC,
            _ => rustix::io::Errno::IO,
        };
        Err(error.into())
    });
    Ok(())
}

/// The error that the failpoint of this name returns: `return(enospc)`, `return(eio)`.
#[cfg(not(feature = "failpoints"))]
pub fn io(_: &str) -> std::io::Result<()> {
    Ok(())
}

/// Whether a promise is broken on purpose, to see that a test notices.
#[cfg(feature = "failpoints")]
pub fn is_broken(name: &str) -> bool {
    fail::fail_point!(name, |_| true);
    false
}

/// Whether a promise is broken on purpose, to see that a test notices.
#[cfg(not(feature = "failpoints"))]
pub const fn is_broken(_: &str) -> bool {
    false
}

/// Notes in the file that `HIGHWATER_FSYNC_LOG` names that so many bytes of a file, or the names in a folder, are on the
/// disk: `<path>\t<length>` or `<path>\tdir`. A test that cuts the power undoes everything else. A new folder has length 0.
#[cfg(feature = "failpoints")]
pub fn synced(path: &std::path::Path, len: Option<u64>) {
    note(path, &len.map_or_else(|| "dir".to_owned(), |len| len.to_string()));
}

/// Notes that a file has a second name, `<path>\t=<from>`: what is on the disk of one is on the disk of the other.
#[cfg(feature = "failpoints")]
pub fn linked(from: &std::path::Path, path: &std::path::Path) {
    note(path, &format!("={}", from.display()));
}

#[cfg(feature = "failpoints")]
fn note(path: &std::path::Path, what: &str) {
    use std::io::Write;
    let Some(log) = std::env::var_os("HIGHWATER_FSYNC_LOG") else { return };
    let line = format!("{}\t{what}\n", path.display());
    // One write: lines of several threads do not mix.
    let noted = std::fs::File::options().create(true).append(true).open(log);
    let _ = noted.and_then(|mut file| file.write_all(line.as_bytes()));
}

/// Notes what is on the disk.
#[cfg(not(feature = "failpoints"))]
pub fn synced(_: &std::path::Path, _: Option<u64>) {}

/// Notes a second name.
#[cfg(not(feature = "failpoints"))]
pub fn linked(_: &std::path::Path, _: &std::path::Path) {}

/// Reads `FAILPOINTS`; what is set up lives as long as the result.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn set_up() -> impl Sized {
    fail::FailScenario::setup()
}

/// Reads `FAILPOINTS`; what is set up lives as long as the result.
#[cfg(not(feature = "failpoints"))]
pub const fn set_up() {}
