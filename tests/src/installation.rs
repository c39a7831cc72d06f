//! One installation of Highwater for a test: configuration, age identity, store and state folder.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use age::secrecy::ExposeSecret;
use anyhow::{Context, Result, bail};
use highwater_binlog::GtidSet;
use tempfile::TempDir;

use crate::mysql::MysqlServer;
use crate::process::{Background, Finished};
use crate::programs::Programs;

/// What the agent's account on the source may do: nothing but reading.
pub(crate) const SOURCE_GRANTS: &str = "\
GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT, SHOW VIEW, TRIGGER, EVENT, PROCESS, RELOAD ON *.* TO 'highwater'@'%';
GRANT BACKUP_ADMIN, SHOW_ROUTINE, XA_RECOVER_ADMIN ON *.* TO 'highwater'@'%';
";
/// Its password.
pub(crate) const SOURCE_PASSWORD: &str = "not a secret: tests only";

/// How long the agent may take to archive what a test wrote.
const ARCHIVE_LIMIT: Duration = Duration::from_secs(120);

/// A folder with everything `highwater` needs to protect one source.
#[derive(Debug)]
pub struct Installation {
    home: TempDir,
    programs: Programs,
}

impl Installation {
    /// Creates the agent's account on the source, an age identity and a configuration over a directory store.
    pub fn new(source: &MysqlServer) -> Result<Self> {
        source.sql(&format!(
            "CREATE USER IF NOT EXISTS 'highwater'@'%' IDENTIFIED BY '{SOURCE_PASSWORD}';\n{SOURCE_GRANTS}"
        ))?;
        let home = tempfile::Builder::new().prefix("hw-agent-").tempdir()?;
        let installation = Self { home, programs: Programs::find()? };
        let identity = age::x25519::Identity::generate();
        installation.write_secret(&installation.identity(), identity.to_string().expose_secret())?;
        installation.write_secret(&installation.password(), SOURCE_PASSWORD)?;
        fs::write(installation.config(), installation.configuration(source, &identity.to_public().to_string()))?;
        installation.run(&["init"])?.success().context("highwater init")?;
        Ok(installation)
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder().join("highwater.toml")
    }

    /// The age identity that opens the archive.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.folder().join("identity.txt")
    }

    /// The file with the password of the agent's account.
    #[must_use]
    pub fn password(&self) -> PathBuf {
        self.folder().join("password")
    }

    /// Writes a file that only its owner can read.
    pub fn write_secret(&self, path: &Path, secret: &str) -> Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(file.write_all(secret.as_bytes())?)
    }

    /// The directory store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.folder().join("store")
    }

    /// The agent's own folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// The programs it runs.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Replaces text of the configuration; an error when the text is not there.
    pub fn change_config(&self, from: &str, to: &str) -> Result<()> {
        let text = fs::read_to_string(self.config())?;
        anyhow::ensure!(text.contains(from), "the configuration has no {from:?}:\n{text}");
        fs::write(self.config(), text.replace(from, to))?;
        Ok(())
    }

    /// Runs `highwater` with its configuration.
    pub fn run(&self, arguments: &[&str]) -> Result<Finished> {
        Finished::run(&mut self.programs.highwater(&self.config(), arguments))
    }

    /// Runs `highwater --json` and reads what it printed.
    pub fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let mut all = vec!["--json"];
        all.extend(arguments);
        let finished = self.run(&all)?.success()?;
        serde_json::from_slice(&finished.stdout).with_context(|| format!("not JSON: {}", finished.text()))
    }

    /// Starts the agent.
    pub fn agent(&self) -> Result<Background> {
        Background::start(&mut self.programs.highwater(&self.config(), &["agent"]), &self.folder(), "agent")
    }

    /// Restores into a target; `arguments` name the point.
    pub fn restore(&self, target: &MysqlServer, arguments: &[&str]) -> Result<Finished> {
        let socket = target.socket().display().to_string();
        let mut all = vec!["restore", "--target-socket", &socket, "--target-user", "root"];
        all.extend(arguments);
        self.run(&all)
    }

    /// Waits until the archive has every transaction of a GTID set.
    pub fn wait_for_gtids(&self, agent: &mut Background, gtids: &str) -> Result<()> {
        let wanted: GtidSet = gtids.parse()?;
        self.wait_until("archive with all transactions", ARCHIVE_LIMIT, agent, |installation| {
            let status = installation.json(&["status"])?;
            let newest = status["timelines"].as_array().and_then(|timelines| timelines.last());
            let Some(archived) = newest.and_then(|timeline| timeline["high_water"].as_str()) else { return Ok(false) };
            Ok(wanted.is_subset(&archived.parse()?))
        })
    }

    /// Waits for the first full dump.
    pub fn wait_for_dump(&self, agent: &mut Background) -> Result<()> {
        self.wait_until("dump", ARCHIVE_LIMIT, agent, |installation| {
            let dumps = installation.json(&["list", "dumps"])?;
            Ok(dumps.as_array().is_some_and(|dumps| !dumps.is_empty()))
        })
    }

    /// Asks again until `done` says yes; the agent's words are part of the error.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        agent: &mut Background,
        mut done: impl FnMut(&Self) -> Result<bool>,
    ) -> Result<()> {
        let started = Instant::now();
        while !done(self)? {
            if !agent.is_running()? {
                bail!("the agent ended before {what}: {}", agent.stderr());
            }
            if started.elapsed() > limit {
                bail!("no {what} within {limit:?}; the agent says: {}", agent.stderr());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn configuration(&self, source: &MysqlServer, recipient: &str) -> String {
        format!(
            "service = \"shop\"\n\
             state_dir = \"{state}\"\n\n\
             [source]\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"highwater\"\n\
             password = {{ file = \"{password}\" }}\nca = \"{ca}\"\n\n\
             [store]\nkind = \"directory\"\npath = \"{store}\"\n\n\
             [seal]\nrecipients = [\"{recipient}\"]\nidentity_file = \"{identity}\"\n\n\
             [capture]\nsegment_age_seconds = 1\nheartbeat_seconds = 1\n\n\
             [keyring]\nfiles = [\"{keyring}\"]\n",
            state = self.state().display(),
            port = source.port(),
            password = self.password().display(),
            ca = source.tls().ca.display(),
            store = self.store().display(),
            identity = self.identity().display(),
            keyring = source.keyring().display(),
        )
    }
}
