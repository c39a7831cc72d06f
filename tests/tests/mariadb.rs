//! `binlog-decrypt` on files that a real MariaDB encrypted, against what that server itself sends.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use highwater_tests::{Finished, Programs};
use tempfile::TempDir;

/// Stream offset of the flag that a server clears when it closes a binlog.
const IN_USE_AT: usize = 21;

/// A throw-away MariaDB, stopped when dropped.
struct MariaDb {
    folder: TempDir,
    facts: BTreeMap<String, String>,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/mariadb")
}

impl MariaDb {
    /// Starts one; the script fetches the packages if they are not there.
    fn start(options: &[&str]) -> Result<Self> {
        let mut server = Self { folder: tempfile::tempdir()?, facts: BTreeMap::new() };
        server.run(options)?;
        Ok(server)
    }

    fn run(&mut self, options: &[&str]) -> Result<()> {
        let output = Finished::run(Command::new(script()).arg("start").arg(self.folder.path()).args(options))?;
        let text = output.success()?.text();
        self.facts = text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
        Ok(())
    }

    fn stop(&self) -> Result<()> {
        Finished::run(Command::new(script()).arg("stop").arg(self.folder.path()))?.success()?;
        Ok(())
    }

    fn fact(&self, name: &str) -> Result<&str> {
        self.facts.get(name).map(String::as_str).with_context(|| format!("no {name} in server.env"))
    }

    fn program(&self, name: &str) -> Result<Command> {
        let bin = Finished::run(&mut Command::new(script()))?.success()?.text();
        let mut command = Command::new(Path::new(bin.trim()).join(name));
        command.args(["-uroot", "-S", self.fact("SOCKET")?]);
        Ok(command)
    }

    fn sql(&self, statements: &str) -> Result<String> {
        Ok(Finished::run(self.program("mariadb")?.args(["-N", "-B", "-e", statements]))?.success()?.text())
    }

    fn data(&self) -> Result<PathBuf> {
        Ok(self.fact("DATADIR")?.into())
    }

    /// Statements, row events, a row longer than what is read at a time, DDL, and a file that is closed.
    fn write_something(&self) -> Result<()> {
        self.sql(
            "CREATE DATABASE IF NOT EXISTS d; CREATE OR REPLACE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY, v LONGTEXT);
             INSERT INTO d.t (v) VALUES ('one'), (REPEAT('long', 700000));
             SET SESSION binlog_format = ROW; USE d;
             INSERT INTO d.t (v) SELECT REPEAT(UUID(), 20) FROM seq_1_to_50;
             INSERT INTO d.t (v) SELECT CONCAT(seq) FROM seq_1_to_300;
             START TRANSACTION; UPDATE d.t SET v = CONCAT(v, '!'); DELETE FROM d.t WHERE id = 3; COMMIT;
             FLUSH BINARY LOGS; INSERT INTO d.t (v) VALUES ('after')",
        )?;
        Ok(())
    }

    /// Every binlog as the server sends it.
    fn sent(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let folder = tempfile::tempdir()?;
        let names = self.sql("SHOW BINARY LOGS")?;
        let mut sent = BTreeMap::new();
        for name in names.lines().filter_map(|line| line.split('\t').next()) {
            let mut prefix = folder.path().as_os_str().to_owned();
            prefix.push("/");
            let mut program = self.program("mariadb-binlog")?;
            program.args(["--read-from-remote-server", "--raw"]).arg("--result-file").arg(prefix).arg(name);
            Finished::run(&mut program)?.success()?;
            sent.insert(name.to_owned(), fs::read(folder.path().join(name))?);
        }
        Ok(sent)
    }

    /// Every binlog of the disk, decrypted, is what the server sends.
    fn assert_decrypts(&self, keys: &[&std::ffi::OsStr]) -> Result<()> {
        let out = tempfile::tempdir()?;
        let mut arguments = keys.to_vec();
        let index = self.data()?.join("binlog.index");
        arguments.extend(["--output-dir".as_ref(), out.path().as_os_str(), index.as_os_str()]);
        Programs::find()?.decrypt(arguments)?.success()?;
        let sent = self.sent()?;
        ensure!(sent.len() > 1, "{} files", sent.len());
        let last = sent.keys().next_back().cloned();
        for (name, bytes) in sent {
            let mut decrypted = fs::read(out.path().join(&name))?;
            let disk = fs::read(self.data()?.join(&name))?;
            ensure!(disk[400..] != bytes[400..], "{name} is not encrypted");
            if Some(&name) == last.as_ref() {
                ensure!(decrypted[IN_USE_AT] == 1, "{name} is open");
                decrypted[IN_USE_AT] = 0;
            }
            ensure!(decrypted == bytes, "{name}: {} bytes, {} sent", decrypted.len(), bytes.len());
        }
        Ok(())
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

#[test]
fn every_binlog_equals_what_the_server_sends_in_cbc_and_in_ctr() -> Result<()> {
    for algorithm in ["AES_CBC", "AES_CTR"] {
        let server = MariaDb::start(&[&format!("--file-key-management-encryption-algorithm={algorithm}")])?;
        server.write_something()?;
        server.assert_decrypts(&["--keyring".as_ref(), server.fact("KEYS")?.as_ref()])?;
    }
    Ok(())
}

#[test]
fn keys_of_16_bytes_in_an_encrypted_file_and_events_without_checksums() -> Result<()> {
    let keys = tempfile::tempdir()?;
    let (plain, sealed, password) = (keys.path().join("k"), keys.path().join("k.enc"), keys.path().join("password"));
    fs::write(&plain, "# keys\n1;0123456789abcdef0123456789abcdef\n2;00\n".replace("2;00\n", ""))?;
    fs::write(&password, "a password\n")?;
    let mut openssl = Command::new("openssl");
    openssl.args(["enc", "-aes-256-cbc", "-md", "sha1", "-pass", "pass:a password", "-in"]).arg(&plain);
    Finished::run(openssl.arg("-out").arg(&sealed))?.success()?;
    let server = MariaDb::start(&[
        &format!("--file-key-management-filename={}", sealed.display()),
        &format!("--file-key-management-filekey=FILE:{}", password.display()),
        "--binlog-checksum=NONE",
    ])?;
    server.write_something()?;
    let given = ["--keyring".as_ref(), sealed.as_os_str(), "--keyring-password".as_ref(), password.as_os_str()];
    server.assert_decrypts(&given)
}

#[test]
fn a_wrong_key_and_a_missing_one_are_told_before_a_byte() -> Result<()> {
    let server = MariaDb::start(&[])?;
    server.write_something()?;
    let file = server.data()?.join("binlog.000001");
    let programs = Programs::find()?;
    let missing = programs.decrypt([&file])?;
    assert_eq!((missing.code, missing.stdout.len()), (Some(3), 0));
    assert!(missing.stderr.contains("is encrypted by MariaDB: no keyring was given"), "{}", missing.stderr);
    let wrong = server.folder.path().join("wrong");
    fs::write(&wrong, format!("1;{}", "5ec5e7a1".repeat(8)))?;
    let wrong = programs.decrypt([Path::new("--keyring"), &wrong, &file])?;
    assert_eq!((wrong.code, wrong.stdout.len()), (Some(3), 0));
    assert!(wrong.stderr.contains("does not open it") && !wrong.stderr.contains("5ec5e7a1"), "{}", wrong.stderr);
    Ok(())
}

#[test]
fn cut_files_give_whole_transactions_and_positions_are_reached_at_once() -> Result<()> {
    let server = MariaDb::start(&[])?;
    server.write_something()?;
    let programs = Programs::find()?;
    let (keys, file) = (PathBuf::from(server.fact("KEYS")?), server.data()?.join("binlog.000001"));
    let whole = server.sent()?.remove("binlog.000001").context("a file")?;
    // Where the server says that transactions begin: its GTID events.
    let events = server.sql("SHOW BINLOG EVENTS IN 'binlog.000001'")?;
    let column = |line: &str, n: usize| line.split('\t').nth(n).map(str::to_owned);
    let begins: Vec<usize> = events
        .lines()
        .filter(|line| column(line, 2).as_deref() == Some("Gtid"))
        .filter_map(|line| column(line, 1)?.parse().ok())
        .collect();
    ensure!(begins.len() > 5, "{events}");

    let cut = server.folder.path().join("cut");
    for (n, begin) in begins.iter().enumerate().skip(1) {
        fs::write(&cut, &fs::read(&file)?[..begin + 30 + n])?;
        let run = programs.decrypt([Path::new("--keyring"), &keys, &cut])?;
        assert_eq!(run.code, Some(4), "{}", run.stderr);
        ensure!(run.stdout == whole[..*begin], "cut after {begin}: {} bytes", run.stdout.len());

        let mut damaged = fs::read(&file)?;
        damaged[begins[0] + 20..*begin].fill(0x33);
        fs::write(&cut, &damaged)?;
        let from = begin.to_string();
        let arguments = [Path::new("--keyring"), &keys, Path::new("--from"), Path::new(&from), &cut];
        let run = programs.decrypt(arguments)?.success()?;
        ensure!(run.stdout.ends_with(&whole[*begin..]), "from {begin}: {} bytes", run.stdout.len());
    }
    let run = programs.decrypt([Path::new("--inspect"), Path::new("--json"), Path::new("--keyring"), &keys, &file])?;
    let report: serde_json::Value = serde_json::from_str(&run.success()?.text())?;
    assert_eq!(report["encryption"], "mariadb-cbc");
    assert_eq!(report["transactions"], begins.len());
    assert_eq!(report["gtids"], format!("0-1-1..0-1-{}", begins.len()));
    assert_eq!(report["next_binlog"], "binlog.000002");
    Ok(())
}
