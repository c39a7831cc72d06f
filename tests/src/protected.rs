//! A source, its archive, and the agent between them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::archived::Archived;
use crate::installation::Installation;
use crate::mysql::{MysqlServer, MysqlServerBuilder};
use crate::process::{Background, Finished};
use crate::state::State;

/// How long an agent may take to publish what it has and end.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A source that is being captured.
#[derive(Debug)]
pub struct Protected {
    /// The source.
    pub source: MysqlServer,
    /// The archive and its configuration.
    pub highwater: Installation,
    /// The agent.
    pub agent: Background,
}

impl Protected {
    /// Starts a server and an agent, and waits for the first dump.
    pub fn start(builder: MysqlServerBuilder) -> Result<Self> {
        Self::of(builder.start()?, |_| Ok(()))
    }

    /// Starts an agent for a server, with a configuration that `configure` changes first, and waits for the first dump.
    pub fn of(source: MysqlServer, configure: impl FnOnce(&Installation) -> Result<()>) -> Result<Self> {
        let highwater = Installation::new(&source)?;
        configure(&highwater)?;
        let mut agent = highwater.agent()?;
        highwater.wait_for_dump(&mut agent)?;
        Ok(Self { source, highwater, agent })
    }

    /// Waits until the archive has all that the source executed.
    pub fn catch_up(&mut self) -> Result<()> {
        self.highwater.catch_up(&mut self.agent, &self.source)
    }

    /// Catches up and stops the agent; the archive equals the server's binlogs, byte for byte.
    pub fn settle(&mut self) -> Result<Archived> {
        self.catch_up()?;
        let status = self.agent.terminate(STOP_LIMIT)?;
        ensure!(status.code() == Some(0), "the agent ended with {status}: {}", self.agent.stderr());
        let archived = Archived::read(&self.highwater)?;
        archived.require_equal(&self.source)?;
        Ok(archived)
    }

    /// Kills the agent, if it still runs, and starts it again with variables in its environment.
    pub fn restart_agent(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        if self.agent.is_running()? {
            self.agent.kill()?;
        }
        self.agent = self.highwater.agent_with(environment)?;
        Ok(())
    }

    /// A restore to the latest point on a new server is the source.
    pub fn require_restorable(&self) -> Result<MysqlServer> {
        let target = MysqlServer::builder().server_id(4_000_002).start()?;
        self.highwater.restore(&target, &["--to", "latest"])?.success()?;
        State::read_blocking(&self.source)?.require_equal(&State::read_blocking(&target)?)?;
        Ok(target)
    }

    /// What `highwater status` says and its exit code.
    pub fn status(&self) -> Result<(Finished, serde_json::Value)> {
        let finished = self.highwater.run(&["--json", "status"])?;
        let value = serde_json::from_slice(&finished.stdout).with_context(|| finished.stderr.clone())?;
        Ok((finished, value))
    }
}
