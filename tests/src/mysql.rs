//! A real MySQL server for one test.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mysql_async::{Conn, OptsBuilder};
use tempfile::TempDir;

use crate::process::{Background, Finished};
use crate::tls::TlsFiles;

/// A server starts in about a second; a loaded machine gets this much.
const START_LIMIT: Duration = Duration::from_secs(90);
/// A clean shutdown writes everything back.
const STOP_LIMIT: Duration = Duration::from_secs(90);
/// Somebody else may take a port between our look and the server's start.
const START_ATTEMPTS: u32 = 3;

/// The path of one of MySQL's programs (`mysqld`, `mysql`, `mysqlbinlog`, …).
pub fn mysql_program(name: &str) -> Result<PathBuf> {
    let path = cache().join("mysql/bin").join(name);
    ensure!(path.is_file(), "{} is missing: run scripts/setup (or scripts/mysql)", path.display());
    Ok(path)
}

/// The folder that scripts fill: `HIGHWATER_CACHE`, or `.cache` in the repository.
fn cache() -> PathBuf {
    std::env::var_os("HIGHWATER_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache"), PathBuf::from)
}

/// What a server is to be like.
#[derive(Debug, Clone)]
pub struct MysqlServerBuilder {
    server_id: u32,
    encrypted: bool,
    keyring: bool,
    gtids: bool,
    options: Vec<String>,
}

impl MysqlServerBuilder {
    /// Its `server_id`; 1 by default.
    #[must_use]
    pub fn server_id(mut self, server_id: u32) -> Self {
        self.server_id = server_id;
        self
    }

    /// Whether it encrypts its binlog; it does by default.
    #[must_use]
    pub fn encrypted(mut self, encrypted: bool) -> Self {
        self.encrypted = encrypted;
        self
    }

    /// Without a keyring component (and so without encryption).
    #[must_use]
    pub fn without_keyring(mut self) -> Self {
        self.keyring = false;
        self.encrypted = false;
        self
    }

    /// With `gtid_mode=OFF`.
    #[must_use]
    pub fn without_gtids(mut self) -> Self {
        self.gtids = false;
        self
    }

    /// One more option for mysqld: `--event-scheduler=OFF`. Later ones win.
    #[must_use]
    pub fn option(mut self, option: impl Into<String>) -> Self {
        self.options.push(option.into());
        self
    }

    /// Fit for semi-synchronous replication (`AFTER_SYNC`), which [`MysqlServer::require_acks`] begins: commits then wait
    /// this long for a replica's acknowledgement, also while no replica is there.
    #[must_use]
    pub fn semi_sync(self, timeout: Duration) -> Self {
        self.option("--plugin-load-add=semisync_source.so")
            .option(format!("--rpl-semi-sync-source-timeout={}", timeout.as_millis()))
            .option("--rpl-semi-sync-source-wait-point=AFTER_SYNC")
            .option("--rpl-semi-sync-source-wait-no-replica=ON")
    }

    /// Creates the data folder and starts the server.
    pub fn start(self) -> Result<MysqlServer> {
        mysql_program("mysqld")?;
        let home = tempfile::Builder::new().prefix("hw-mysql-").tempdir()?;
        let data = home.path().join("data");
        copy_folder(&template()?, &data)?;
        if self.keyring {
            let keyring = home.path().join("keyring.json");
            fs::write(data.join("mysqld.my"), r#"{"components": "file://component_keyring_file"}"#)?;
            let settings = serde_json::json!({"path": keyring, "read_only": false});
            fs::write(data.join("component_keyring_file.cnf"), settings.to_string())?;
        }
        let tls = TlsFiles::create(home.path())?;
        let mut server = MysqlServer { home, tls, builder: self, port: 0, process: None };
        server.start()?;
        Ok(server)
    }
}

/// A running MySQL server with its own data folder. `root` has no password and comes in by the socket.
/// Killed, and its folder removed, on drop.
#[derive(Debug)]
pub struct MysqlServer {
    home: TempDir,
    tls: TlsFiles,
    builder: MysqlServerBuilder,
    port: u16,
    process: Option<Background>,
}

impl MysqlServer {
    /// A server with GTIDs, an encrypted binlog and a keyring file.
    #[must_use]
    pub fn builder() -> MysqlServerBuilder {
        MysqlServerBuilder { server_id: 1, encrypted: true, keyring: true, gtids: true, options: Vec::new() }
    }

    /// Starts it (again).
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the server runs already");
        for attempt in 1..=START_ATTEMPTS {
            if self.port == 0 || attempt > 1 {
                self.port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            }
            let process = Background::start(&mut self.command()?, self.home.path(), "mysqld")?;
            if self.wait_until_ready(process)? {
                return Ok(());
            }
        }
        bail!("mysqld found no free port in {START_ATTEMPTS} attempts")
    }

    /// A clean shutdown.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("the server does not run")?;
        process.terminate(STOP_LIMIT)?;
        Ok(())
    }

    /// What a power cut does to the process (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the server does not run")?.kill()?;
        // The socket's lock names a dead process, which another process may become.
        let _ = fs::remove_file(self.home.path().join("mysql.sock.lock"));
        Ok(())
    }

    /// A clean shutdown, a copy of its data to another folder, and a start.
    pub fn save_data(&mut self, to: &Path) -> Result<()> {
        self.stop()?;
        copy_folder(&self.data(), to)?;
        self.start()
    }

    /// Puts saved data in the place of what it has, and starts it: what was committed since never happened.
    pub fn roll_back_to(&mut self, saved: &Path) -> Result<()> {
        if self.process.is_some() {
            self.kill()?;
        }
        fs::remove_dir_all(self.data())?;
        copy_folder(saved, &self.data())?;
        self.start()
    }

    /// A clean shutdown and a start, at the same port.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// Begins to replicate all that a source has.
    pub fn replicate_from(&self, source: &Self) -> Result<()> {
        source.sql("CREATE USER IF NOT EXISTS repl IDENTIFIED BY 'pw'; GRANT REPLICATION SLAVE ON *.* TO repl")?;
        self.sql(&format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST='127.0.0.1', SOURCE_PORT={}, SOURCE_USER='repl', \
             SOURCE_PASSWORD='pw', SOURCE_AUTO_POSITION=1, SOURCE_SSL=1; START REPLICA",
            source.port()
        ))?;
        Ok(())
    }

    /// Takes its newest binlog out of the index, when statements have been written to the one behind it: the file is there,
    /// and no longer sent.
    pub fn hide_newest_binlog(&mut self, behind: &str) -> Result<()> {
        let hidden = self.binlogs()?.pop().context("a binlog")?;
        self.sql(&format!("FLUSH BINARY LOGS; {behind}"))?;
        self.stop()?;
        let index = self.data().join("binlog.index");
        let names = fs::read_to_string(&index)?;
        let kept: String =
            names.lines().filter(|name| !name.ends_with(&hidden)).map(|name| format!("{name}\n")).collect();
        ensure!(kept.lines().count() + 1 == names.lines().count(), "{hidden} is not in the index");
        fs::write(&index, kept)?;
        self.start()
    }

    /// From now on, and after restarts too, commits wait for acknowledgements.
    pub fn require_acks(&mut self) -> Result<()> {
        self.sql("SET GLOBAL rpl_semi_sync_source_enabled = ON")?;
        self.add_option("--rpl-semi-sync-source-enabled=ON");
        Ok(())
    }

    /// Whether commits wait for acknowledgements at this moment.
    pub fn is_semi_sync(&self) -> Result<bool> {
        Ok(self.sql("SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_source_status'")?.ends_with("ON"))
    }

    /// Adds an option for the next start.
    pub fn add_option(&mut self, option: impl Into<String>) {
        self.builder.options.push(option.into());
    }

    /// Runs statements as root with the `mysql` program; rows come back as lines of tab-separated values.
    pub fn sql(&self, statements: &str) -> Result<String> {
        let mut client = Command::new(mysql_program("mysql")?)
            .args(["--user=root", "--batch", "--skip-column-names", "--default-character-set=utf8mb4"])
            .arg(format!("--socket={}", self.socket().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run mysql")?;
        let mut stdin = client.stdin.take().context("mysql has no stdin")?;
        let statements_owned = statements.to_owned();
        let feeder = thread::spawn(move || stdin.write_all(statements_owned.as_bytes()));
        let output = client.wait_with_output()?;
        // The client closes its end early when a statement fails; its own words say more.
        let _ = feeder.join();
        ensure!(output.status.success(), "{}: {}", String::from_utf8_lossy(&output.stderr).trim_end(), {
            statements.chars().take(200).collect::<String>()
        });
        Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned())
    }

    /// A connection as root.
    pub async fn connect(&self) -> Result<Conn> {
        let options = OptsBuilder::default()
            .socket(Some(self.socket().display().to_string()))
            .user(Some("root"))
            .prefer_socket(true);
        Ok(Conn::new(options).await?)
    }

    /// Its unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("mysql.sock")
    }

    /// Its TCP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its data folder, with the binlogs `binlog.000001`….
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// Its keyring file (`component_keyring_file`).
    #[must_use]
    pub fn keyring(&self) -> PathBuf {
        self.home.path().join("keyring.json")
    }

    /// Its certificates; it names itself `localhost`.
    #[must_use]
    pub fn tls(&self) -> &TlsFiles {
        &self.tls
    }

    /// Its `server_uuid`.
    pub fn uuid(&self) -> Result<String> {
        self.sql("SELECT @@server_uuid")
    }

    /// Its `gtid_executed`, on one line.
    pub fn gtid_executed(&self) -> Result<String> {
        Ok(self.sql("SELECT @@GLOBAL.gtid_executed")?.replace("\\n", ""))
    }

    /// The only transaction that was added to a GTID set since.
    pub fn only_gtid_since(&self, before: &str) -> Result<String> {
        let added = self.sql(&format!("SELECT GTID_SUBTRACT(@@GLOBAL.gtid_executed, '{before}')"))?;
        let one = added.rsplit_once(':').is_some_and(|(_, number)| number.parse::<u64>().is_ok());
        ensure!(one && !added.contains(','), "more than one transaction since {before}: {added}");
        Ok(added)
    }

    /// Its clock, in UTC with microseconds, as RFC 3339.
    pub fn now(&self) -> Result<String> {
        self.sql("SELECT DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%fZ')")
    }

    /// Whether its transactions have GTIDs.
    pub fn has_gtids(&self) -> Result<bool> {
        Ok(self.sql("SELECT @@GLOBAL.gtid_mode")? == "ON")
    }

    /// Names of its binlogs, oldest first.
    pub fn binlogs(&self) -> Result<Vec<String>> {
        let listing = self.sql("SHOW BINARY LOGS")?;
        Ok(listing.lines().filter_map(|line| line.split('\t').next()).map(str::to_owned).collect())
    }

    /// Bytes of a binlog as `mysqlbinlog --read-from-remote-server --raw` writes them.
    pub fn remote_binlog(&self, name: &str) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir_in(self.home.path())?;
        let prefix = folder.path().join("raw-");
        Finished::run(
            Command::new(mysql_program("mysqlbinlog")?)
                .args(["--user=root", "--read-from-remote-server", "--raw"])
                .arg(format!("--socket={}", self.socket().display()))
                .arg(format!("--result-file={}", prefix.display()))
                .arg(name),
        )?
        .success()?;
        Ok(fs::read(folder.path().join(format!("raw-{name}")))?)
    }

    /// Bytes of all its binlogs, by name, as `mysqlbinlog --read-from-remote-server --raw` writes them.
    pub fn remote_binlogs(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let names = self.binlogs()?;
        let first = names.first().context("the server has no binlog")?;
        let folder = tempfile::tempdir_in(self.home.path())?;
        let prefix = folder.path().join("raw-");
        Finished::run(
            Command::new(mysql_program("mysqlbinlog")?)
                .args(["--user=root", "--read-from-remote-server", "--raw", "--to-last-log"])
                .arg(format!("--socket={}", self.socket().display()))
                .arg(format!("--result-file={}", prefix.display()))
                .arg(first),
        )?
        .success()?;
        let read = |name: &String| Ok((name.clone(), fs::read(folder.path().join(format!("raw-{name}")))?));
        names.iter().map(read).collect()
    }

    /// The error log's text.
    #[must_use]
    pub fn error_log(&self) -> String {
        fs::read(self.home.path().join("error.log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn command(&self) -> Result<Command> {
        let home = self.home.path();
        let mut command = Command::new(mysql_program("mysqld")?);
        command
            .arg(format!("--datadir={}", self.data().display()))
            .arg(format!("--socket={}", self.socket().display()))
            .arg(format!("--port={}", self.port))
            .arg(format!("--pid-file={}", home.join("mysqld.pid").display()))
            .arg(format!("--log-error={}", home.join("error.log").display()))
            .arg(format!("--ssl-ca={}", self.tls.ca.display()))
            .arg(format!("--ssl-cert={}", self.tls.certificate.display()))
            .arg(format!("--ssl-key={}", self.tls.key.display()))
            .arg(format!("--server-id={}", self.builder.server_id))
            .arg(format!("--binlog-encryption={}", if self.builder.encrypted { "ON" } else { "OFF" }))
            .args(["--bind-address=127.0.0.1", "--mysqlx=OFF", "--secure-file-priv=NULL", "--log-bin=binlog"])
            .args(["--innodb-buffer-pool-size=64M", "--innodb-redo-log-capacity=32M"]);
        let gtids = if self.builder.gtids { "ON" } else { "OFF" };
        command.args([format!("--gtid-mode={gtids}"), format!("--enforce-gtid-consistency={gtids}")]);
        command.args(&self.builder.options);
        Ok(command)
    }

    /// True when it answers; false when its port was taken.
    fn wait_until_ready(&mut self, mut process: Background) -> Result<bool> {
        let started = Instant::now();
        loop {
            if greets(&self.socket()) {
                self.process = Some(process);
                return Ok(true);
            }
            if !process.is_running()? {
                let log = self.error_log();
                if log.lines().rev().take(8).any(|line| line.contains("Do you already have another mysqld server")) {
                    return Ok(false);
                }
                let errors: Vec<&str> = log.lines().filter(|line| line.contains("[ERROR]")).collect();
                bail!("mysqld ended at its start: {}\n{}", errors.join("\n"), process.stderr());
            }
            ensure!(
                started.elapsed() < START_LIMIT,
                "mysqld does not answer after {START_LIMIT:?}: {}",
                self.error_log()
            );
            thread::sleep(Duration::from_millis(25));
        }
    }
}

/// Whether a server sends its greeting at a socket.
fn greets(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let mut header = [0u8; 5];
    stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok() && stream.read_exact(&mut header).is_ok()
}

/// An initialised data folder without identity, made once per unpacked MySQL.
fn template() -> Result<PathBuf> {
    let folder = cache().join("mysql");
    let template = folder.join("template-1");
    if template.is_dir() {
        return Ok(template);
    }
    let lock = File::create(folder.join("template.lock"))?;
    lock.lock()?;
    if template.is_dir() {
        return Ok(template);
    }
    let work = folder.join("template.work");
    match fs::remove_dir_all(&work) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    Finished::run(
        Command::new(mysql_program("mysqld")?)
            .args(["--initialize-insecure", "--skip-log-bin", "--innodb-redo-log-capacity=32M"])
            .arg(format!("--datadir={}", work.display()))
            .arg(format!("--log-error={}", folder.join("template.log").display())),
    )?
    .success()
    .with_context(|| format!("initialise a server; see {}", folder.join("template.log").display()))?;
    // Each copy draws its own server_uuid.
    fs::remove_file(work.join("auto.cnf"))?;
    fs::rename(&work, &template)?;
    Ok(template)
}

/// Copies a folder and all in it, with its files' modes.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
