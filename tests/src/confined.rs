//! Agents in a mount namespace of their own: small, full and read-only file systems, without touching the machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::installation::Installation;
use crate::process::{Background, Finished};

/// `unshare` with what it needs here: as root a mount namespace, else a user namespace around it.
fn unshare() -> Result<Command> {
    for arguments in [&["--mount"][..], &["--mount", "--map-root-user"]] {
        let mut command = Command::new("unshare");
        command.args(arguments);
        let probe = command.args(["sh", "-c", "mount -t tmpfs tmpfs /mnt"]);
        if Finished::run(probe)?.code == Some(0) {
            let mut command = Command::new("unshare");
            command.args(arguments);
            return Ok(command);
        }
    }
    anyhow::bail!("this machine allows no mount namespaces: `unshare --mount --map-root-user` fails")
}

impl Installation {
    /// Starts the agent after these shell commands, in a mount namespace of their own.
    pub fn agent_after(&self, commands: &str, environment: &[(&str, &str)]) -> Result<Background> {
        let mut command = unshare()?;
        command
            .args(["sh", "-c", &format!("set -e; {commands}; exec \"$0\" --config \"$1\" agent")])
            .arg(&self.programs().highwater)
            .arg(self.config())
            .envs(environment.iter().copied());
        Background::start(&mut command, &self.folder(), "agent")
    }
}

/// A path as a process sees it in its own namespace.
pub fn seen_by(process: &Background, path: &Path) -> Result<PathBuf> {
    let inside = PathBuf::from(format!("/proc/{}/root{}", process.pid(), path.display()));
    ensure!(inside.exists(), "{} is not there", inside.display());
    Ok(inside)
}
