//! What an interrupted run leaves behind: nothing.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Exit;

/// The temporary file that has a name, while there is one.
static TEMPORARY: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Names the file that goes when the program is interrupted.
pub(crate) fn remove_when_interrupted(path: Option<&Path>) {
    *TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner) = path.map(Path::to_owned);
}

/// From now on SIGINT, SIGTERM and SIGHUP end the program with its own exit code, whatever it waits for.
pub(crate) fn watch() {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            if let Some(path) = TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner).take() {
                let _ = std::fs::remove_file(path);
            }
            crate::failure::say("error: interrupted\nhint: files that were complete are kept, nothing else is");
            std::process::exit(Exit::Interrupted.code().into());
        }
    });
}
