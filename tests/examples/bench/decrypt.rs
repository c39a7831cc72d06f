//! Opening an encrypted binlog offline: `openssl enc` against `binlog-decrypt`, alternating on the same bytes.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_binlog::{ENCRYPTION_HEADER_LEN, EncryptionHeader, StreamCipher};
use highwater_keyring::{FilePassword, Keyring};
use highwater_tests::{Finished, Programs};
use sha2::{Digest, Sha512};

use crate::catch_up::settle;
use crate::load;
use crate::proc;
use crate::report::Section;
use crate::settings::Settings;
use crate::statistics::{median, runs};

/// Bytes that both ciphers are given at a time in memory.
const PIECE_LEN: usize = 64 << 10;

/// How long each cipher runs in memory, each time.
const IN_MEMORY: Duration = Duration::from_secs(1);

/// One binlog, and what opens it.
struct Scene {
    /// As the server left it.
    binlog: PathBuf,
    /// The same without its header: what `openssl enc` can be given.
    body: PathBuf,
    keyring: PathBuf,
    password: FilePassword,
    /// Key and vector of the body, hexadecimal.
    key: String,
    iv: String,
    folder: tempfile::TempDir,
    program: PathBuf,
}

/// The runs of one side.
#[derive(Default)]
struct Side {
    seconds: Vec<f64>,
    cpu_seconds: Vec<f64>,
}

/// Measures.
pub(crate) fn run(settings: &Settings) -> Result<Section> {
    let scene = Scene::new(settings.megabytes)?;
    let bytes = fs::metadata(&scene.body)?.len();
    let [mut openssl, mut openssl_synced, mut to_file, mut verify, mut null] = [(); 5].map(|()| Side::default());
    let (mut openssl_memory, mut our_memory) = (Vec::new(), Vec::new());
    scene.compare()?;
    for repetition in 1..=settings.repetitions {
        openssl.time(&scene, Scene::openssl)?;
        to_file.time(&scene, Scene::decrypt)?;
        openssl_synced.time(&scene, |scene| scene.openssl().and_then(|()| sync(&scene.output())))?;
        verify.time(&scene, Scene::verify)?;
        null.time(&scene, Scene::decrypt_to_null)?;
        openssl_memory.push(openssl_speed()?);
        our_memory.push(our_speed(&scene.password)?);
        eprintln!("decrypt {repetition}/{}", settings.repetitions);
    }
    let mut section = Section::new("decrypt");
    let megabytes = bytes as f64 / 1e6;
    section.about(format!(
        "one binlog of {megabytes:.0} MB, encrypted by its server, in the page cache; {} alternating repetitions, medians",
        settings.repetitions
    ));
    section.about("binlog-decrypt finds the key, verifies every event, follows every transaction, and has its file on the disk when it ends");
    section.about("openssl is given the key, verifies nothing, and leaves its file in the page cache");
    let baseline = openssl.figures(&mut section, "openssl enc", megabytes);
    let synced = openssl_synced.figures(&mut section, "openssl enc, then sync FILE", megabytes);
    let ours = to_file.figures(&mut section, "binlog-decrypt -o", megabytes);
    let verified = verify.figures(&mut section, "binlog-decrypt --verify", megabytes);
    null.figures(&mut section, "binlog-decrypt > /dev/null", megabytes);
    section.figure("file to file, openssl = 1", ours / baseline, "x", "time; goal: at most 1.0");
    section.figure("file to file, openssl with sync = 1", ours / synced, "x", "time; both on the disk");
    section.figure("--verify, openssl = 1", verified / baseline, "x", "time; goal: at most 1.2");
    let (theirs, mine) = (median(&openssl_memory), median(&our_memory));
    section.figure("openssl speed -evp aes-256-ctr", theirs, "MB/s", runs(&openssl_memory));
    section.figure("our cipher in memory, one core", mine, "MB/s", runs(&our_memory));
    section.figure("in memory, openssl = 100", mine / theirs * 100.0, "%", "speed; goal: at least 90");
    section.figure("resident memory, largest", scene.resident_peak()?, "MiB", "VmHWM with -o; goal: under 64");
    section.command("openssl enc -d -aes-256-ctr -K KEY -iv IV -in BODY -out FILE");
    section.command("binlog-decrypt --keyring KEYRING -o FILE BINLOG");
    section.command(format!("openssl speed -evp aes-256-ctr -bytes {PIECE_LEN} -seconds {}", IN_MEMORY.as_secs()));
    Ok(section)
}

impl Side {
    /// Runs once, when nothing waits to be written and no output is there.
    fn time(&mut self, scene: &Scene, run: impl FnOnce(&Scene) -> Result<()>) -> Result<()> {
        scene.clear()?;
        settle()?;
        let before = proc::cpu_seconds(0)?;
        let started = Instant::now();
        run(scene)?;
        self.seconds.push(started.elapsed().as_secs_f64());
        self.cpu_seconds.push(proc::cpu_seconds(0)? - before);
        Ok(())
    }

    /// Adds its numbers; gives the median of its times.
    fn figures(&self, section: &mut Section, name: &str, megabytes: f64) -> f64 {
        let (seconds, cpu) = (median(&self.seconds), median(&self.cpu_seconds));
        section.figure(name, seconds, "s", runs(&self.seconds));
        section.figure(format!("{name}: throughput"), megabytes / seconds, "MB/s", "");
        section.figure(format!("{name}: cores used"), cpu / seconds, "", format!("{cpu:.2} s of CPU"));
        seconds
    }
}

impl Scene {
    /// Has a server write a binlog of this size, and takes that and the keyring from its disk.
    fn new(megabytes: u64) -> Result<Self> {
        let mut source = load::source()?;
        // One file, so that openssl needs one run.
        source.sql("SET GLOBAL max_binlog_size = 1073741824; FLUSH BINARY LOGS")?;
        let backlog = load::fill(&source, megabytes)?;
        let largest = backlog.binlogs.iter().zip(&backlog.sizes).max_by_key(|(_, size)| **size);
        let (name, _) = largest.context("no binlog was written")?;
        let folder = tempfile::tempdir()?;
        let [binlog, body, keyring] = ["binlog.000001", "body", "keyring"].map(|name| folder.path().join(name));
        source.stop()?;
        fs::copy(source.data().join(name), &binlog)?;
        fs::copy(source.keyring(), &keyring)?;
        let mut encrypted = File::open(&binlog)?;
        let mut header = [0; ENCRYPTION_HEADER_LEN];
        encrypted.read_exact(&mut header)?;
        encrypted.seek(SeekFrom::Start(ENCRYPTION_HEADER_LEN as u64))?;
        std::io::copy(&mut encrypted, &mut File::create(&body)?)?;
        let header = EncryptionHeader::parse(&header)?;
        let keys = Keyring::read(&fs::read(&keyring)?)?;
        let key = keys.get(header.key_id()).context("the keyring lacks the key")?;
        let password = header.wrapped().unwrap_with(key);
        let digest = Sha512::digest(password.expose());
        let (key, iv) = (hex::encode(&digest[..32]), hex::encode(&digest[32..40]) + "0000000000000000");
        let program = Programs::find()?.binlog_decrypt;
        Ok(Self { binlog, body, keyring, password, key, iv, folder, program })
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    fn clear(&self) -> Result<()> {
        match fs::remove_file(self.output()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn openssl(&self) -> Result<()> {
        let mut command = Command::new("openssl");
        command.args(["enc", "-d", "-aes-256-ctr", "-K", &self.key, "-iv", &self.iv]);
        command.arg("-in").arg(&self.body).arg("-out").arg(self.output());
        Finished::run(&mut command)?.success().map(drop)
    }

    fn command(&self, what: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--keyring").arg(&self.keyring).args(what).arg(&self.binlog);
        command
    }

    fn decrypt(&self) -> Result<()> {
        Finished::run(&mut self.command(&["-o", &self.output().to_string_lossy()]))?.success().map(drop)
    }

    fn verify(&self) -> Result<()> {
        Finished::run(&mut self.command(&["--verify"]))?.success().map(drop)
    }

    fn decrypt_to_null(&self) -> Result<()> {
        let status = self.command(&[]).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "binlog-decrypt: {status}");
        Ok(())
    }

    /// Both sides give the same bytes.
    fn compare(&self) -> Result<()> {
        self.openssl()?;
        let theirs = self.folder.path().join("theirs");
        fs::rename(self.output(), &theirs)?;
        self.decrypt()?;
        Finished::run(Command::new("cmp").arg(&theirs).arg(self.output()))?.success()?;
        Ok(fs::remove_file(theirs)?)
    }

    /// The largest resident memory of a run, MiB, as often looked at as possible until it ends.
    fn resident_peak(&self) -> Result<f64> {
        self.clear()?;
        let mut child = self.command(&["-o", &self.output().to_string_lossy()]).stderr(Stdio::null()).spawn()?;
        let mut peak: f64 = 0.0;
        while child.try_wait()?.is_none() {
            peak = peak.max(highwater_tests::resident_peak_mib(child.id()).unwrap_or(0.0));
            thread::sleep(Duration::from_millis(1));
        }
        Ok(peak)
    }
}

/// Puts a file on the disk, as `binlog-decrypt` does with its own.
fn sync(path: &Path) -> Result<()> {
    Finished::run(Command::new("sync").arg(path))?.success().map(drop)
}

/// MB/s of openssl's cipher on one core, by its CPU time.
fn openssl_speed() -> Result<f64> {
    let (bytes, seconds) = (PIECE_LEN.to_string(), IN_MEMORY.as_secs().to_string());
    let mut command = Command::new("openssl");
    command.args(["speed", "-mr", "-evp", "aes-256-ctr", "-bytes", &bytes, "-seconds", &seconds]);
    let output = Finished::run(&mut command)?.success()?.text();
    let line = output.lines().find(|line| line.starts_with("+F:")).context("openssl speed names no result")?;
    let speed: f64 = line.rsplit(':').next().unwrap_or_default().parse().with_context(|| line.to_owned())?;
    Ok(speed / 1e6)
}

/// MB/s of ours, by its CPU time too: whatever else runs on this machine.
fn our_speed(password: &FilePassword) -> Result<f64> {
    let cipher = StreamCipher::new(password);
    let mut piece = vec![0; PIECE_LEN];
    let before = proc::cpu_seconds(std::process::id())?;
    let (started, mut offset) = (Instant::now(), 0);
    while started.elapsed() < IN_MEMORY {
        for _ in 0..100 {
            cipher.apply(offset, std::hint::black_box(&mut piece));
            offset += PIECE_LEN as u64;
        }
    }
    Ok(offset as f64 / (proc::cpu_seconds(std::process::id())? - before) / 1e6)
}
