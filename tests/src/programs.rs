//! The programs under test, as cargo built them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

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
            if let Some(source) = newer_source(program)? {
                let (program, source) = (program.display(), source.display());
                bail!("{program} is older than {source}: run `cargo build --workspace --bins`");
            }
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

/// A source that was changed after a program was built, by the list that cargo leaves beside it: a test of one package
/// does not build the programs of the others.
fn newer_source(program: &Path) -> Result<Option<PathBuf>> {
    let Ok(list) = fs::read_to_string(program.with_extension("d")) else { return Ok(None) };
    let built = fs::metadata(program)?.modified()?;
    let (_, sources) = list.split_once(": ").context("a list of dependencies names its program")?;
    let is_newer = |source: &&str| fs::metadata(source).and_then(|facts| facts.modified()).is_ok_and(|at| at > built);
    Ok(sources.split_whitespace().find(is_newer).map(PathBuf::from))
}
