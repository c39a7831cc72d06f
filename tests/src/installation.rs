//! One installation of Highwater for a test: configuration, age identity, store and state folder.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use age::secrecy::ExposeSecret;
use anyhow::{Context, Result, bail};
use highwater::archive::Archive;
use highwater::store::DirectoryStore;
use highwater_binlog::GtidSet;
use highwater_catalog::Inventory;
use tempfile::TempDir;

use crate::archived::gtids_of;
use crate::mysql::{MysqlServer, copy_folder};
use crate::process::{Background, Finished};
use crate::programs::Programs;
use crate::proxy::Proxy;

/// What the agent's account on the source may do: nothing but reading.
pub(crate) const SOURCE_GRANTS: &str = "\
GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT, SHOW VIEW, TRIGGER, EVENT, PROCESS, RELOAD ON *.* TO 'highwater'@'%';
GRANT BACKUP_ADMIN, SHOW_ROUTINE, XA_RECOVER_ADMIN ON *.* TO 'highwater'@'%';
";
/// Its password.
pub(crate) const SOURCE_PASSWORD: &str = "not a secret: tests only";

/// How long the agent may take to archive what a test wrote.
const ARCHIVE_LIMIT: Duration = Duration::from_secs(120);

/// A stretch of the spool without an event has fewer bytes.
const STRETCH_HEAD_MAX: u64 = 1024;

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

    /// Another one with a copy of everything, store included.
    pub fn copy(&self) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("hw-agent-").tempdir()?;
        copy_folder(self.home.path(), home.path())?;
        let copy = Self { home, programs: self.programs.clone() };
        let text = fs::read_to_string(copy.config())?;
        let (from, to) = (self.folder().display().to_string(), copy.folder().display().to_string());
        fs::write(copy.config(), text.replace(&from, &to))?;
        Ok(copy)
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

    /// Starts the agent with variables in its environment: failpoints, for instance.
    pub fn agent_with(&self, environment: &[(&str, &str)]) -> Result<Background> {
        let mut command = self.programs.highwater(&self.config(), &["agent"]);
        command.envs(environment.iter().copied());
        Background::start(&mut command, &self.folder(), "agent")
    }

    /// Adds lines to a section of the configuration.
    pub fn configure(&self, section: &str, lines: &str) -> Result<()> {
        let header = format!("[{section}]\n");
        self.change_config(&header, &format!("{header}{lines}\n"))
    }

    /// Reaches the source through a proxy, which must be able to read what goes by.
    pub fn go_through(&self, source: &MysqlServer, proxy: &Proxy) -> Result<()> {
        self.change_config(&format!("port = {}\n", source.port()), &format!("port = {}\n", proxy.port()))?;
        let ca = format!("ca = \"{}\"\n", source.tls().ca.display());
        self.change_config(&ca, "tls = \"danger-disabled\"\n")
    }

    /// Files in the agent's spool.
    pub fn spool(&self) -> Result<Vec<PathBuf>> {
        let folder = self.state().join("spool");
        let entries = fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
        Ok(entries.into_iter().map(|entry| entry.path()).collect())
    }

    /// The spool has nothing that is not published: no bytes of transactions at all.
    pub fn require_empty_spool(&self) -> Result<()> {
        for path in self.spool()? {
            if path.extension().is_none_or(|extension| extension != "stretch") {
                continue;
            }
            // What a stretch begins with: a magic and a format description.
            let size = fs::metadata(&path)?.len();
            anyhow::ensure!(size < STRETCH_HEAD_MAX, "{} still has {size} bytes", path.display());
        }
        Ok(())
    }

    /// Waits until the archive has all that the source executed, or, if that has no GTIDs, its newest binlog to the end.
    pub fn catch_up(&self, agent: &mut Background, source: &MysqlServer) -> Result<()> {
        if source.has_gtids()? {
            return self.wait_for_gtids(agent, &source.gtid_executed()?);
        }
        let newest = source.binlogs()?.pop().context("a binlog")?;
        let len = source.remote_binlog(&newest)?.len() as u64;
        self.wait_until("archive up to the newest binlog's end", ARCHIVE_LIMIT, agent, |installation| {
            let inventory = installation.inventory()?;
            let timeline = inventory.timelines.iter().map(|timeline| timeline.id).max();
            let last = inventory.segments.iter().rfind(|segment| Some(segment.timeline) == timeline);
            Ok(last.is_some_and(|last| last.binlog.to_string() == newest && last.end == len))
        })
    }

    /// Another server is the source from now on.
    pub fn change_source(&self, from: &MysqlServer, to: &MysqlServer) -> Result<()> {
        self.change_config(&format!("port = {}\n", from.port()), &format!("port = {}\n", to.port()))?;
        self.change_config(&from.tls().ca.display().to_string(), &to.tls().ca.display().to_string())?;
        self.change_config(&from.keyring().display().to_string(), &to.keyring().display().to_string())
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
            Ok(wanted.is_subset(&installation.archived_gtids()?))
        })
    }

    /// Every transaction in the newest timeline, and those before it, as its manifests say.
    pub fn archived_gtids(&self) -> Result<GtidSet> {
        Ok(gtids_of(&self.inventory()?))
    }

    /// What the archive's manifests say.
    pub fn inventory(&self) -> Result<Inventory> {
        Ok(Archive::open(Arc::new(DirectoryStore::open(&self.store())?), None)?.inventory()?)
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
