//! Opens MySQL's encrypted binary logs with the keyring of the server that wrote them: offline, without a server.
//!
//! Others take from here how a server's files and its keyring are found and opened, and how keys are kept in memory.

mod binlog_file;
mod cli;
mod datadir;
mod decode;
mod facts;
mod failure;
mod hardening;
mod input;
mod keyring_file;
mod keys;
mod mariadb;
mod option_files;
mod output;
mod report;
mod run;
mod sealed;
mod sequence;
mod signals;
mod stream;
#[cfg(feature = "vault")]
mod vault;

pub use binlog_file::{BinlogFile, Encryption, Opened, Opening, Unlocked};
pub use cli::{KeyArgs, KeyFile, KeyPlaces};
pub use failure::{Exit, Failure};
pub use hardening::keep_memory_private;
pub use input::{Input, of_index};
pub use keys::Keys;
pub use stream::PlainStream;

use std::process::ExitCode;

use clap::Parser;

/// The program. Its exit code is one of the table in its help.
#[must_use]
pub fn main() -> ExitCode {
    keep_memory_private();
    signals::watch();
    let arguments = match cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too, and are no errors.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { failure::Exit::Usage.code() } else { 0 });
        }
    };
    match cli::Job::try_from(arguments).and_then(|job| run::run(&job)) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.exit.code())
        }
    }
}
