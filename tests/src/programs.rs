//! The programs under test, as cargo built them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::Finished;

/// Where the built programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `highwater`.
    pub highwater: PathBuf,
    /// `binlog-decrypt`.
    pub binlog_decrypt: PathBuf,
}

impl Programs {
    /// Finds them in `HIGHWATER_BIN_DIR`, or in the target folder this test itself was built into.
    pub fn find() -> Result<Self> {
        let folder = match std::env::var_os("HIGHWATER_BIN_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => {
                let test = std::env::current_exe()?;
                let folder = test.parent().context("a program lies in a folder")?;
                match folder.file_name().and_then(|name| name.to_str()) {
                    Some("deps" | "examples") => folder.parent().context("it lies in the target folder")?.to_owned(),
                    _ => folder.to_owned(),
                }
            }
        };
        let programs = Self { highwater: folder.join("highwater"), binlog_decrypt: folder.join("binlog-decrypt") };
        for program in [&programs.highwater, &programs.binlog_decrypt] {
            ensure!(program.is_file(), "{} is missing: run `cargo build --workspace --bins`", program.display());
        }
        Ok(programs)
    }

    /// A `highwater` command line with a configuration file.
    #[must_use]
    pub fn highwater(&self, config: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.highwater);
        command.arg("--config").arg(config).args(arguments);
        command
    }

    /// Runs `binlog-decrypt`.
    pub fn decrypt<I, S>(&self, arguments: I) -> Result<Finished>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        Finished::run(Command::new(&self.binlog_decrypt).args(arguments))
    }
}
