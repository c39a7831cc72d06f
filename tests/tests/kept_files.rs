//! Encrypted binlogs kept as they are, and given back to a server.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use binlog_decrypt::KeyPlaces;
use highwater::archive::{Archive, FileDraft};
use highwater::capture::{Index, KeyBackups, KeyOrigin, OpenedIndex};
use highwater::config::Config;
use highwater::kept::{BodyProof, KeepError, Keeping, Kept, RefusedFile, keep};
use highwater::source::Keyrings;
use highwater::store::{DirectoryStore, ObjectInfo, ObjectKey, ObjectStore, StoreError, StoreErrorKind};
use highwater_binlog::{ENCRYPTION_HEADER_LEN, EncryptionHeader, ServerUuid};
use highwater_catalog::{Blake3Digest, KeptFile, Micros};
use highwater_keyring::{FileKey, FileMark, FilePassword, KeyBundle, Keyring, MasterKey};
use highwater_tests::{
    Background, Finished, Installation, MysqlServer, Programs, Protected, Workload, Writer, mysql_program,
};
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

/// How long an agent may take to keep a file.
const LIMIT: Duration = Duration::from_secs(120);

/// A server with several closed binlogs, under several master keys, and where they are kept.
struct Bed {
    server: MysqlServer,
    highwater: Installation,
}

impl Bed {
    fn new() -> Result<Self> {
        // A rotation at the start keeps the headers of older files, and so their keys.
        let mut server = MysqlServer::builder().start()?;
        server.add_option("--binlog-rotate-encryption-master-key-at-startup=ON");
        Workload::create(&server)?;
        let writer = Writer::start(&server, 31, Duration::ZERO)?;
        for statement in ["FLUSH BINARY LOGS", "ALTER INSTANCE ROTATE BINLOG MASTER KEY", "FLUSH BINARY LOGS"] {
            writer.wait_for(40)?;
            server.sql(statement)?;
        }
        writer.wait_for(20)?;
        writer.stop()?;
        server.restart()?;
        server.sql(
            "CREATE DATABASE large; CREATE TABLE large.t (id INT PRIMARY KEY, v LONGTEXT);
             INSERT INTO large.t VALUES (1, REPEAT(UUID(), 10000)); FLUSH BINARY LOGS",
        )?;
        let highwater = Installation::new(&server)?;
        // Bodies of more than one object.
        highwater.configure("seal", "object_bytes_max = 65536")?;
        Ok(Self { server, highwater })
    }

    fn archive(&self) -> Result<Archive> {
        let (config, _) = Config::load(Some(&self.highwater.config()))?;
        let store = Arc::new(DirectoryStore::open(&self.highwater.store())?);
        let archive = Archive::open(store, None)?.for_writing(&config.service_name()?, config.recipients()?)?;
        let archive = archive.with_object_bytes_max(config.seal.object_bytes_max);
        Ok(archive.with_scratch(self.highwater.folder()))
    }

    fn keep(&self, keyring: &Path) -> Result<Result<Kept, KeepError>> {
        let archive = self.archive()?;
        let server = self.server.uuid()?.parse()?;
        let known = archive.inventory()?.files;
        Ok(keep_all(&archive, server, keyring, &self.paths()?, &known))
    }

    /// All binlogs, the open one last.
    fn paths(&self) -> Result<Vec<PathBuf>> {
        Ok(self.server.binlogs()?.iter().map(|name| self.server.data().join(name)).collect())
    }

    /// The closed files' bytes after the header.
    fn bodies(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut bodies = BTreeMap::new();
        let mut names = self.server.binlogs()?;
        names.pop();
        for name in names {
            let bytes = fs::read(self.server.data().join(&name))?;
            ensure!(bytes.starts_with(b"\xfdbin"), "{name} is not encrypted");
            bodies.insert(name, bytes[ENCRYPTION_HEADER_LEN..].to_vec());
        }
        Ok(bodies)
    }

    /// Every file's first bytes.
    fn headers(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let names = self.server.binlogs()?;
        let read = |name: String| {
            let mut bytes = fs::read(self.server.data().join(&name))?;
            bytes.truncate(ENCRYPTION_HEADER_LEN);
            Ok((name, bytes))
        };
        names.into_iter().map(read).collect()
    }

    /// The binlogs and their index, as they lie in the data folder.
    fn server_files(&self) -> Result<Vec<PathBuf>> {
        let names = fs::read_dir(self.server.data())?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let is_one =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("binlog."));
        Ok(names.into_iter().filter(is_one).collect())
    }

    fn binlogs(&self, folder: &Path, more: &[&str]) -> Result<Finished> {
        let folder = folder.display().to_string();
        self.highwater.run(&[&["--json", "binlogs", "--output-dir", &folder], more].concat())
    }
}

/// Keeps them as somebody does who keeps nothing else.
fn keep_all(
    archive: &Archive,
    server: ServerUuid,
    keyring: &Path,
    paths: &[PathBuf],
    known: &[KeptFile],
) -> Result<Kept, KeepError> {
    let (bar, stop) = (ProgressBar::hidden(), CancellationToken::new());
    let keeping = Keeping { archive, server, keys: &keyrings(keyring), known, bar: &bar, stop: &stop };
    let mut kept = Kept::default();
    keep(&keeping, paths, &mut BTreeMap::new(), &mut kept).map(|()| kept)
}

fn keyrings(keyring: &Path) -> Keyrings {
    Keyrings::new(KeyPlaces { keyrings: vec![keyring.to_owned()], ..KeyPlaces::default() })
}

/// Everything in a folder, by its path in it.
fn contents(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = PathBuf::from(path.file_name().context("a name")?);
        if path.is_dir() {
            found.extend(contents(&path)?.into_iter().map(|(below, bytes)| (name.join(below), bytes)));
        } else {
            found.insert(name, fs::read(&path)?);
        }
    }
    Ok(found)
}

/// What `mysqlbinlog` says of a file, its checksums verified.
fn decoded(path: &Path) -> Result<String> {
    let mut command = Command::new(mysql_program("mysqlbinlog")?);
    Ok(Finished::run(command.arg("--verify-binlog-checksum").arg(path))?.success()?.text())
}

/// What `mysqlbinlog` says of a server's file, read from the server.
fn decoded_remote(server: &MysqlServer, name: &str) -> Result<String> {
    let mut command = Command::new(mysql_program("mysqlbinlog")?);
    command.args(["--user=root", "--read-from-remote-server", "--verify-binlog-checksum"]);
    Ok(Finished::run(command.arg(format!("--socket={}", server.socket().display())).arg(name))?.success()?.text())
}

/// The statements and rows: comments tell where they were read from.
fn without_comments(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

/// A server's files and a keyring as the data folder of another one, which starts with them.
fn serve(given: &Path) -> Result<MysqlServer> {
    let mut target = MysqlServer::builder().server_id(2).start()?;
    target.stop()?;
    for entry in fs::read_dir(target.data())? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("binlog.")) {
            fs::remove_file(path)?;
        }
    }
    for entry in fs::read_dir(given)? {
        let entry = entry?;
        let to = if entry.file_name() == "component_keyring_file" {
            target.keyring()
        } else {
            target.data().join(entry.file_name())
        };
        fs::copy(entry.path(), to)?;
    }
    target.start().with_context(|| target.error_log())?;
    Ok(target)
}

#[test]
fn kept_files_come_back_byte_for_byte_and_a_server_serves_them() -> Result<()> {
    let mut bed = Bed::new()?;
    let bodies = bed.bodies()?;
    ensure!(bodies.len() >= 4, "only {:?}", bodies.keys());
    let headers = bed.headers()?;
    let kept = bed.keep(&bed.server.keyring())??;
    ensure!(kept.files.len() == bodies.len() && kept.keys.len() == 1 && kept.refused.is_empty(), "{kept:?}");
    ensure!(kept.open.len() == 1 && kept.known == 0, "{kept:?}");
    ensure!(kept.files.iter().any(|file| file.objects.len() > 1), "no body has several objects");
    let key_ids: std::collections::BTreeSet<_> = kept.files.iter().map(|file| &file.key_id).collect();
    ensure!(key_ids.len() > 1, "all files are under {key_ids:?}");
    for file in &kept.files {
        let digest = blake3::hash(&bodies[file.binlog.as_str()]);
        ensure!(file.body_blake3.to_string() == digest.to_hex().as_str(), "{}", file.binlog);
    }

    // A rotation writes the headers of all files anew and deletes the old keys; bodies stay.
    bed.server.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY; CREATE DATABASE later; FLUSH BINARY LOGS")?;
    let rotated = bed.bodies()?;
    ensure!(bodies.iter().all(|(name, body)| rotated.get(name) == Some(body)), "a rotation changed a body");
    let kept = bed.keep(&bed.server.keyring())??;
    ensure!(kept.known == bodies.len() && kept.files.len() == rotated.len() - bodies.len(), "{kept:?}");
    let before = contents(&bed.highwater.store())?;
    let again = bed.keep(&bed.server.keyring())??;
    ensure!(again.known == rotated.len() && again.files.is_empty() && again.keys.is_empty(), "{again:?}");
    ensure!(contents(&bed.highwater.store())? == before, "a second run wrote something");

    // The archive knows them.
    let listed = bed.highwater.json(&["list", "files"])?;
    ensure!(listed.as_array().map(Vec::len) == Some(rotated.len()), "{listed}");
    let verified = bed.highwater.json(&["verify"])?;
    ensure!(verified["files"] == rotated.len() && verified["orphans"] == serde_json::json!([]), "{verified}");
    let rebuilt = bed.highwater.json(&["catalog", "rebuild"])?;
    ensure!(rebuilt["files"] == rotated.len(), "{rebuilt}");
    let status = bed.highwater.run(&["status"])?;
    ensure!(status.text().contains(&format!("{} encrypted binlogs kept", rotated.len())), "{}", status.text());

    // The server is gone, with its keyring.
    let originals = bed.server.remote_binlogs()?;
    let texts: BTreeMap<String, String> =
        rotated.keys().map(|name| Ok((name.clone(), decoded_remote(&bed.server, name)?))).collect::<Result<_>>()?;
    bed.server.kill()?;
    fs::remove_dir_all(bed.server.data())?;
    fs::remove_file(bed.server.keyring())?;

    let folder = tempfile::tempdir()?;
    let given = folder.path().join("given");
    let report = bed.binlogs(&given, &[])?.success()?;
    let report: serde_json::Value = serde_json::from_slice(&report.stdout)?;
    ensure!(report["rewritten_headers"] == serde_json::json!([]), "{report}");
    for (name, body) in &rotated {
        let bytes = fs::read(given.join(name))?;
        ensure!(bytes[ENCRYPTION_HEADER_LEN..] == body[..], "{name} has another body");
        let header = headers.get(name).filter(|_| bodies.contains_key(name));
        ensure!(header.is_none_or(|header| bytes[..ENCRYPTION_HEADER_LEN] == header[..]), "{name} has another header");
        let plain = folder.path().join(format!("plain-{name}"));
        let arguments = ["--datadir".as_ref(), given.as_os_str(), "-o".as_ref(), plain.as_os_str()];
        let input = given.join(name);
        Programs::find()?.decrypt([&arguments[..], &[input.as_os_str()]].concat())?.success()?;
        ensure!(fs::read(&plain)? == originals[name], "{name} decrypts to something else");
        ensure!(without_comments(&decoded(&plain)?) == without_comments(&texts[name]), "{name}");
    }

    let target = serve(&given)?;
    let served = target.sql("SHOW BINARY LOGS")?;
    for name in rotated.keys() {
        ensure!(target.remote_binlog(name)? == originals[name], "the server sends another {name}");
        ensure!(served.contains(&format!("{name}\t{}\tYes", rotated[name].len() + 512)), "{served}");
        target.sql(&format!("SHOW BINLOG EVENTS IN '{name}'"))?;
    }
    Ok(())
}

#[test]
fn kept_files_are_made_again_with_stock_tools() -> Result<()> {
    let bed = Bed::new()?;
    bed.keep(&bed.server.keyring())??;
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/by-hand.md"))?;
    let blocks: Vec<&str> = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let [names, .., kept] = blocks.as_slice() else { anyhow::bail!("the page has {} blocks", blocks.len()) };
    ensure!(kept.contains("$OUT/kept"), "{kept}");
    let out = bed.highwater.folder().join("by-hand");
    Finished::run(
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", &format!("{names}\n{kept}")])
            .env("ARCHIVE", bed.highwater.store())
            .env("IDENTITY", bed.highwater.identity())
            .env("OUT", &out),
    )?
    .success()?;
    let exported = out.join("keyring");
    bed.highwater.run(&["keyring", "export", "--output", &exported.display().to_string()])?.success()?;
    for (name, body) in bed.bodies()? {
        let mark = FileMark::of_body(&body).context("a mark")?.to_string();
        let path = out.join("kept").join(bed.server.uuid()?).join(mark).join(&name);
        let bytes = fs::read(&path)?;
        ensure!(bytes == fs::read(bed.server.data().join(&name))?, "{name} is not the file that the server has");
        ensure!(bytes[ENCRYPTION_HEADER_LEN..] == body[..]);
        let arguments = ["--keyring".as_ref(), exported.as_os_str(), path.as_os_str()];
        let plain = Programs::find()?.decrypt(arguments)?.success()?.stdout;
        ensure!(plain == bed.server.remote_binlog(&name)?, "{name} decrypts to something else");
    }
    Ok(())
}

#[test]
fn a_header_whose_master_key_is_in_no_bundle_is_written_anew() -> Result<()> {
    let bed = Bed::new()?;
    let (archive, server) = (bed.archive()?, bed.server.uuid()?);
    let keyring = Keyring::read(&fs::read(bed.server.keyring())?)?;
    let mut paths = bed.paths()?;
    paths.pop();
    let mut passwords = Vec::new();
    let mut drafts = Vec::new();
    for path in &paths {
        let bytes = fs::read(path)?;
        let (header, body) = bytes.split_at(ENCRYPTION_HEADER_LEN);
        let parsed = EncryptionHeader::parse(header)?;
        let key = keyring.get(parsed.key_id()).context("the key")?;
        let password: FilePassword = parsed.wrapped().unwrap_with(key);
        let mut proof = BodyProof::new(&password);
        proof.push(body)?;
        let facts = proof.finish()?;
        let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
        let mark = FileMark::of_body(body).context("a mark")?;
        drafts.push((
            bytes.clone(),
            FileDraft {
                server: server.parse()?,
                binlog: name.parse()?,
                mark,
                server_version: facts.server_version,
                gtids_before: facts.gtids_before,
                gtids_added: facts.contents.gtids_added,
                first_commit: facts.contents.first_commit_micros.map(Micros),
                last_commit: facts.contents.last_commit_micros.map(Micros),
                events: facts.contents.events,
                transactions: facts.contents.transactions,
                key_id: parsed.key_id().to_string(),
                key_generation: 1,
                body_size: body.len() as u64,
                body_blake3: Blake3Digest(blake3::hash(body).into()),
            },
        ));
        passwords.push(FileKey { mark, binlog: name.to_owned(), password });
    }
    // Passwords alone, no master key.
    let bundle = KeyBundle::new(&server, 1, Keyring::new())?.with_files(passwords);
    archive.publish_keys(server.parse()?, Vec::new(), &bundle.encode())?;
    for (bytes, draft) in drafts {
        let (header, mut body) = bytes.split_at(ENCRYPTION_HEADER_LEN);
        archive.keep_file(draft, header.try_into()?, &mut body)?;
    }

    let folder = tempfile::tempdir()?;
    let given = folder.path().join("given");
    let report = bed.binlogs(&given, &[])?.success()?;
    let report: serde_json::Value = serde_json::from_slice(&report.stdout)?;
    ensure!(report["rewritten_headers"].as_array().map(Vec::len) == Some(paths.len()), "{report}");
    bed.highwater.run(&["verify"])?.success()?;
    let bodies = bed.bodies()?;
    for (name, body) in &bodies {
        let bytes = fs::read(given.join(name))?;
        ensure!(bytes[..ENCRYPTION_HEADER_LEN] != fs::read(bed.server.data().join(name))?[..ENCRYPTION_HEADER_LEN]);
        ensure!(bytes[ENCRYPTION_HEADER_LEN..] == body[..], "{name} has another body");
    }
    let target = serve(&given)?;
    for name in bodies.keys() {
        ensure!(target.remote_binlog(name)? == bed.server.remote_binlog(name)?, "the server sends another {name}");
    }
    Ok(())
}

#[test]
fn a_keyring_that_does_not_open_them_is_refused_before_anything_is_published() -> Result<()> {
    let bed = Bed::new()?;
    let before = contents(&bed.highwater.store())?;
    let other = MysqlServer::builder().server_id(3).start()?;
    let error = bed.keep(&other.keyring())?.err().context("keys of another server")?;
    ensure!(error.to_string().contains("is missing") && error.exit().code() == 3, "{error:?}");

    // A key of the right name and another value.
    let keyring = fs::read_to_string(bed.server.keyring())?;
    let right = Keyring::read(keyring.as_bytes())?;
    let mut text = keyring;
    for (_, key) in right.keys() {
        let value = hex::encode_upper(key.expose());
        ensure!(text.contains(&value), "the keyring has no such value");
        text = text.replace(&value, &value.chars().rev().collect::<String>());
    }
    let wrong = bed.highwater.folder().join("wrong");
    fs::write(&wrong, text)?;
    let error = bed.keep(&wrong)?.err().context("a wrong key")?;
    ensure!(error.to_string().contains("does not open it") && error.exit().code() == 3, "{error:?}");
    ensure!(contents(&bed.highwater.store())? == before, "something was published");
    Ok(())
}

#[test]
fn damage_is_found_and_refused_and_nothing_is_overwritten() -> Result<()> {
    let bed = Bed::new()?;
    bed.keep(&bed.server.keyring())??;
    let store = bed.highwater.store();
    let whole = contents(&store)?;
    let folder = tempfile::tempdir()?;
    let given = folder.path().join("given");
    bed.binlogs(&given, &[])?.success()?;
    let first = contents(&given)?;

    // Files that are there stay as they are.
    fs::write(given.join("binlog.000002"), "precious")?;
    let refused = bed.binlogs(&given, &[])?;
    ensure!(refused.code == Some(2) && refused.stderr.contains("--force"), "{}", refused.stderr);
    ensure!(fs::read(given.join("binlog.000002"))? == b"precious");
    let refused = bed.binlogs(&folder.path().join("none"), &["--from", "binlog.000009"])?;
    ensure!(refused.code == Some(5), "{}", refused.stderr);

    let of = |ending: &str| {
        let fits = |path: &&PathBuf| path.display().to_string().contains(ending);
        whole.keys().find(fits).cloned().with_context(|| format!("no {ending} in the store"))
    };
    for (ending, code) in [(".body.zst.age", 4), (".header.zst.age", 4), ("000001.json", 3)] {
        let path = store.join(of(ending)?);
        let bytes = fs::read(&path)?;
        if code == 3 {
            fs::remove_file(&path)?;
        } else {
            let mut flipped = bytes.clone();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 1;
            fs::write(&path, flipped)?;
        }
        let found = bed.highwater.run(&["verify"])?;
        ensure!(found.code == Some(4), "{ending}: verify ended with {:?}: {}", found.code, found.text());
        for force in [&[][..], &["--force"][..]] {
            let to = if force.is_empty() { folder.path().join(format!("out{ending}")) } else { given.clone() };
            let refused = bed.binlogs(&to, force)?;
            ensure!(refused.code == Some(code), "{ending}: {:?} {}", refused.code, refused.stderr);
            let left = if to.exists() { contents(&to)? } else { BTreeMap::new() };
            ensure!(force.is_empty() == left.is_empty(), "{ending} left {:?}", left.keys());
        }
        ensure!(fs::read(given.join("binlog.000002"))? == b"precious", "{ending} replaced a file");
        fs::write(&path, bytes)?;
    }
    bed.highwater.run(&["verify"])?.success()?;

    // With --force what is there is replaced, headers and keys as they were.
    bed.binlogs(&given, &["--force"])?.success()?;
    ensure!(contents(&given)? == first, "the second time gave something else");
    let part = folder.path().join("part");
    bed.binlogs(&part, &["--from", "binlog.000002", "--to", "binlog.000003"])?.success()?;
    ensure!(fs::read_to_string(part.join("binlog.index"))? == "./binlog.000002\n./binlog.000003\n");
    Ok(())
}

#[test]
fn a_keyring_is_never_replaced() -> Result<()> {
    let bed = Bed::new()?;
    bed.keep(&bed.server.keyring())??;
    let folder = tempfile::tempdir()?;
    let given = folder.path().join("given");
    fs::create_dir(&given)?;
    let path = given.join("component_keyring_file");
    let innodb = || -> Result<Keyring> {
        let mut keyring = Keyring::new();
        keyring.insert("INNODBKey-1".parse()?, MasterKey::init_with(|key| *key = [7; 32]));
        Ok(keyring)
    };
    // A server's, with the keys of its tables.
    fs::write(&path, innodb()?.to_component_file())?;
    for force in [&[][..], &["--force"][..]] {
        let before = contents(&given)?;
        let refused = bed.binlogs(&given, force)?;
        ensure!(refused.code == Some(2), "{force:?}: {:?} {}", refused.code, refused.stderr);
        ensure!(refused.stderr.contains("component_keyring_file"), "{}", refused.stderr);
        ensure!(contents(&given)? == before, "{force:?} wrote {:?}", contents(&given)?.keys());
    }
    // One that has the keys of the binlogs, too, needs no other one.
    let mut all = innodb()?;
    all.merge(Keyring::read(&fs::read(bed.server.keyring())?)?);
    let bytes = all.to_component_file();
    fs::write(&path, &bytes)?;
    bed.binlogs(&given, &["--force"])?.success()?;
    ensure!(fs::read(&path)? == **bytes, "the keyring was written");
    for name in bed.bodies()?.keys() {
        let input = given.join(name);
        let arguments = ["--datadir".as_ref(), given.as_os_str(), input.as_os_str()];
        ensure!(Programs::find()?.decrypt(arguments)?.success()?.stdout == bed.server.remote_binlog(name)?, "{name}");
    }
    Ok(())
}

#[test]
fn a_key_that_is_made_once_more_under_its_id_is_backed_up_and_both_values_open_their_files() -> Result<()> {
    let mut bed = Bed::new()?;
    let (archive, server) = (bed.archive()?, bed.server.uuid()?);
    let state = bed.highwater.state();
    fs::create_dir_all(&state)?;
    let OpenedIndex { index, .. } = Index::open(&state.join("catalog.sqlite"), &archive)?;
    let places = KeyPlaces { keyrings: vec![bed.server.keyring()], ..KeyPlaces::default() };
    // As an agent that was started just now.
    let started = || -> Result<KeyBackups> {
        let origin = KeyOrigin::Places(places.clone());
        Ok(KeyBackups::new(archive.clone(), index.clone(), server.parse()?, origin, &state))
    };
    let first = started()?.look()?.context("the first backup")?;
    ensure!(started()?.look()?.is_none(), "the same keys twice");
    bed.keep(&bed.server.keyring())??;
    let old = bed.bodies()?;

    // The server keeps its UUID and loses its keyring and its binlogs.
    bed.server.stop()?;
    fs::remove_file(bed.server.keyring())?;
    for path in bed.server_files()? {
        fs::remove_file(path)?;
    }
    bed.server.start()?;
    for _ in 1..first.key_ids.len() {
        bed.server.restart()?;
    }
    bed.server.sql("CREATE DATABASE anew; FLUSH BINARY LOGS")?;
    let second = started()?.look()?.context("a backup of the new values")?;
    ensure!(second.key_ids.iter().any(|id| first.key_ids.contains(id)), "{first:?} {second:?}");
    ensure!(started()?.look()?.is_none(), "the same keys twice");
    let mode = fs::metadata(state.join("keys-backed-up.json"))?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");

    // The export has the newest values.
    let exported = bed.highwater.folder().join("exported");
    bed.highwater.run(&["keyring", "export", "--output", &exported.display().to_string()])?.success()?;
    let (now, exported) = (Keyring::read(&fs::read(bed.server.keyring())?)?, Keyring::read(&fs::read(&exported)?)?);
    for (key_id, key) in now.keys().filter(|(key_id, _)| key_id.sequence().is_some()) {
        ensure!(exported.get(key_id).is_some_and(|its| its.is_same_as(key)), "{key_id} has an old value");
    }
    // Files of both times come back, though a keyring has only one value of a key.
    let kept = bed.keep(&bed.server.keyring())??;
    ensure!(!kept.files.is_empty() && kept.refused.is_empty(), "{kept:?}");
    bed.highwater.run(&["verify"])?.success()?;
    let new = bed.bodies()?;
    let newest = new.keys().next_back().context("a binlog")?;
    let (given, rest) = (bed.highwater.folder().join("given"), bed.highwater.folder().join("rest"));
    bed.binlogs(&given, &["--to", newest])?.success()?;
    let oldest = old.keys().find(|name| !new.contains_key(*name)).context("a binlog of before")?;
    bed.binlogs(&rest, &["--from", oldest])?.success()?;
    let only_old = old.iter().filter(|(name, _)| !new.contains_key(*name));
    for (folder, (name, body)) in new.iter().map(|of| (&given, of)).chain(only_old.map(|of| (&rest, of))) {
        let path = folder.join(name);
        ensure!(fs::read(&path)?[ENCRYPTION_HEADER_LEN..] == body[..], "{name} has another body");
        let arguments = ["--verify".as_ref(), "--datadir".as_ref(), folder.as_os_str(), path.as_os_str()];
        Programs::find()?.decrypt(arguments)?.success().with_context(|| name.clone())?;
    }
    Ok(())
}

#[test]
fn a_damaged_file_is_not_kept_and_the_others_are() -> Result<()> {
    let mut bed = Bed::new()?;
    let paths = bed.paths()?;
    let archive = bed.archive()?;
    let (server, keyring) = (bed.server.uuid()?.parse()?, bed.server.keyring());
    bed.server.kill()?;
    let mut bytes = fs::read(&paths[1])?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&paths[1], bytes)?;
    let kept = keep_all(&archive, server, &keyring, &paths, &[])?;
    let [RefusedFile { error: damaged, .. }] = kept.refused.as_slice() else { anyhow::bail!("{kept:?}") };
    ensure!(damaged.to_string() == "binlog.000002 is damaged" && damaged.exit().code() == 4, "{damaged:?}");
    ensure!(kept.files.len() == paths.len() - 2 && kept.open.len() == 1, "{kept:?}");
    // What is kept has a gap then, and a range over it is refused.
    let folder = tempfile::tempdir()?;
    let refused = bed.binlogs(&folder.path().join("all"), &[])?;
    ensure!(refused.code == Some(5), "{}", refused.stderr);
    ensure!(refused.stderr.contains("binlog.000003 does not continue binlog.000001"), "{}", refused.stderr);
    bed.binlogs(&folder.path().join("rest"), &["--from", "binlog.000003"])?.success()?;
    Ok(())
}

#[test]
fn a_file_whose_key_is_lost_is_told_and_the_others_are_kept() -> Result<()> {
    let bed = Bed::new()?;
    let keyring = Keyring::read(&fs::read(bed.server.keyring())?)?;
    let first = EncryptionHeader::parse(&fs::read(&bed.paths()?[0])?)?.key_id().clone();
    let mut fewer = Keyring::new();
    for (key_id, key) in keyring.keys().filter(|(key_id, _)| **key_id != first) {
        fewer.insert(key_id.clone(), MasterKey::from_slice(key.expose())?);
    }
    ensure!(!fewer.is_empty() && fewer.len() < keyring.len(), "all files are under {first}");
    let path = bed.highwater.folder().join("fewer");
    fs::write(&path, fewer.to_component_file())?;
    let kept = bed.keep(&path)??;
    ensure!(!kept.refused.is_empty() && !kept.files.is_empty(), "{kept:?}");
    ensure!(kept.refused.len() + kept.files.len() == bed.bodies()?.len(), "{kept:?}");
    for RefusedFile { error, .. } in &kept.refused {
        ensure!(error.exit().code() == 3 && error.to_string().contains(&first.to_string()), "{error:?}");
    }
    // With the key they are kept, too.
    let all = bed.keep(&bed.server.keyring())??;
    ensure!(all.files.len() == kept.refused.len() && all.refused.is_empty(), "{all:?}");
    Ok(())
}

#[test]
fn a_file_that_cannot_be_read_or_has_changed_is_told_and_the_others_are_kept() -> Result<()> {
    let bed = Bed::new()?;
    let (archive, server) = (bed.archive()?, bed.server.uuid()?.parse()?);
    let folder = tempfile::tempdir()?;
    // It opens like a file, and cannot be read.
    let unreadable = folder.path().join("binlog.000000");
    fs::create_dir(&unreadable)?;
    let purged = folder.path().join("binlog.000042");
    let mut paths = bed.paths()?;
    let first = keep_all(&archive, server, &bed.server.keyring(), &paths[..1], &[])?;
    let mut known = first.files;
    known[0].objects[0].plain_size += 1;
    paths.insert(0, unreadable.clone());
    paths.insert(2, purged);
    let kept = keep_all(&archive, server, &bed.server.keyring(), &paths, &known)?;
    let refused: Vec<(&Path, u8)> =
        kept.refused.iter().map(|file| (file.path.as_path(), file.error.exit().code())).collect();
    ensure!(refused == [(unreadable.as_path(), 1), (paths[1].as_path(), 4)], "{kept:?}");
    ensure!(kept.files.len() == bed.bodies()?.len() - 1 && kept.open.len() == 1, "{kept:?}");
    Ok(())
}

/// A store that is full when so many bodies are in it.
#[derive(Debug)]
struct FullStore {
    inner: DirectoryStore,
    room: AtomicUsize,
}

impl ObjectStore for FullStore {
    fn create(&self, key: &ObjectKey, body: &mut dyn Read) -> Result<ObjectInfo, StoreError> {
        let is_body = key.as_str().contains(".body.");
        let takes = |room: usize| room.checked_sub(1);
        if is_body && self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, takes).is_err() {
            let (key, store, source) = (key.to_string(), self.describe(), ErrorKind::StorageFull.into());
            return Err(StoreError { kind: StoreErrorKind::Full, action: "create", key, store, source });
        }
        self.inner.create(key, body)
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        self.inner.open(key)
    }

    fn visit(&self, prefix: Option<&ObjectKey>, visitor: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.inner.visit(prefix, visitor)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.delete(key)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[test]
fn what_was_published_before_the_store_was_full_is_not_published_again() -> Result<()> {
    let bed = Bed::new()?;
    let (paths, server, keyring) = (bed.paths()?, bed.server.uuid()?.parse()?, bed.server.keyring());
    let (config, _) = Config::load(Some(&bed.highwater.config()))?;
    let store = Arc::new(FullStore { inner: DirectoryStore::open(&bed.highwater.store())?, room: 1.into() });
    let archive = Archive::open(Arc::clone(&store) as Arc<dyn ObjectStore>, None)?;
    let archive = archive.for_writing(&config.service_name()?, config.recipients()?)?;
    let archive = archive.with_scratch(bed.highwater.folder());
    let (bar, stop) = (ProgressBar::hidden(), CancellationToken::new());
    let mut known = Vec::new();
    let mut bundled = BTreeMap::new();
    let mut look = |known: &[KeptFile]| {
        let mut kept = Kept::default();
        let keyrings = keyrings(&keyring);
        let keeping = Keeping { archive: &archive, server, keys: &keyrings, known, bar: &bar, stop: &stop };
        (keep(&keeping, &paths, &mut bundled, &mut kept), kept)
    };
    for (keys, files) in [(1, 1), (0, 0)] {
        let (outcome, kept) = look(&known);
        ensure!(outcome.is_err() && (kept.keys.len(), kept.files.len()) == (keys, files), "{outcome:?} {kept:?}");
        known.extend(kept.files);
    }
    store.room.store(1000, Ordering::Relaxed);
    let (outcome, kept) = look(&known);
    outcome?;
    ensure!(kept.known == 1 && kept.keys.is_empty(), "{kept:?}");
    ensure!(kept.files.len() == bed.bodies()?.len() - 1, "{kept:?}");
    let verified = bed.highwater.json(&["verify"])?;
    ensure!(verified["files"] == bed.bodies()?.len() && verified["orphans"] == serde_json::json!([]), "{verified}");
    Ok(())
}

#[test]
fn no_key_is_in_any_output_log_or_object() -> Result<()> {
    let bed = Bed::new()?;
    let mut said = format!("{:?}", bed.keep(&bed.server.keyring())?);
    let folder = tempfile::tempdir()?;
    let keyring = Keyring::read(&fs::read(bed.server.keyring())?)?;
    let mut secrets: Vec<[u8; 32]> = keyring.keys().map(|(_, key)| *key.expose()).collect();
    for path in bed.paths()? {
        let header = EncryptionHeader::parse(&fs::read(path)?)?;
        secrets.push(*header.wrapped().unwrap_with(keyring.get(header.key_id()).context("a key")?).expose());
    }
    // An agent, and a salvage of what it left behind.
    let mut command = bed.highwater.programs().highwater(&bed.highwater.config(), &["-vv", "agent"]);
    let mut agent = Background::start(&mut command, &bed.highwater.folder(), "agent")?;
    bed.highwater.catch_up(&mut agent, &bed.server)?;
    agent.terminate(LIMIT)?;
    said.push_str(&agent.stderr());
    bed.server.sql("CREATE DATABASE behind_the_agent; FLUSH BINARY LOGS")?;
    let datadir = bed.server.data().display().to_string();
    let exported = folder.path().join("exported").display().to_string();
    let given = folder.path().join("given").display().to_string();
    let missing = folder.path().join("missing").display().to_string();
    for arguments in [
        &["-vv", "salvage", "--datadir", &datadir, "--keep-encrypted"][..],
        &["-vv", "--json", "salvage", "--datadir", &datadir, "--keep-encrypted"],
        &["-vv", "keyring", "export", "--output", &exported],
        &["-vv", "list", "files"],
        &["-vv", "--json", "list", "keys"],
        &["-vv", "verify"],
        &["-vv", "catalog", "rebuild"],
        &["-vv", "binlogs", "--output-dir", &given],
        &["-vv", "--json", "binlogs", "--output-dir", &given],
        &["-vv", "--json", "binlogs", "--output-dir", &missing, "--from", "binlog.000099"],
    ] {
        let finished = bed.highwater.run(arguments)?;
        said.push_str(&finished.text());
        said.push_str(&finished.stderr);
    }
    ensure!(Path::new(&exported).exists() && said.contains("keys backed up"), "{said}");
    for secret in &secrets {
        let lower = said.to_lowercase();
        ensure!(!lower.contains(&hex::encode(secret)) && !lower.contains(&format!("{secret:?}")), "a key was printed");
    }
    for (path, bytes) in contents(&bed.highwater.store())?.into_iter().chain(contents(&bed.highwater.state())?) {
        for secret in &secrets {
            let hex = hex::encode(secret);
            let found = bytes.windows(32).any(|window| window == secret)
                || bytes.windows(64).any(|window| window.eq_ignore_ascii_case(hex.as_bytes()));
            ensure!(!found, "a key is in {}", path.display());
        }
    }
    Ok(())
}

/// A dead server's disk, an archive that goes on in it, and the bytes of its closed files.
fn left_behind() -> Result<(Protected, BTreeMap<String, Vec<u8>>)> {
    let source = MysqlServer::builder().start()?;
    Workload::create(&source)?;
    let mut site = Protected::of(source, |_| Ok(()))?;
    site.settle()?;
    for statement in ["FLUSH BINARY LOGS", "ALTER INSTANCE ROTATE BINLOG MASTER KEY", "FLUSH BINARY LOGS"] {
        site.source
            .sql(&format!("CREATE DATABASE d{}; {statement}", statement.len() + site.source.binlogs()?.len()))?;
    }
    let originals = site.source.remote_binlogs()?;
    site.source.kill()?;
    Ok((site, originals))
}

fn salvage(site: &Protected, more: &[&str]) -> Result<(Finished, serde_json::Value)> {
    let datadir = site.source.data().display().to_string();
    let finished = site.highwater.run(&[&["--json", "salvage", "--datadir", &datadir], more].concat())?;
    let said = serde_json::from_slice(&finished.stdout).unwrap_or_default();
    Ok((finished, said))
}

#[test]
fn salvage_keeps_the_encrypted_files_of_a_dead_server() -> Result<()> {
    let (site, originals) = left_behind()?;
    let closed = originals.len() - 1;
    let store = site.highwater.store();
    let before = contents(&store)?;

    // Without its keyring nothing is published.
    let away = site.highwater.folder().join("away");
    fs::rename(site.source.keyring(), &away)?;
    let (refused, _) = salvage(&site, &["--keep-encrypted"])?;
    ensure!(refused.code == Some(3), "{:?} {}", refused.code, refused.stderr);
    ensure!(contents(&store)? == before, "something was published without a key");
    fs::rename(&away, site.source.keyring())?;

    let (planned, plan) = salvage(&site, &["--keep-encrypted", "--dry-run"])?;
    planned.success()?;
    ensure!(plan["kept"]["would_keep"].as_array().map(Vec::len) == Some(closed), "{plan}");
    ensure!(contents(&store)? == before, "a dry run wrote something");
    let (taken, said) = salvage(&site, &[])?;
    taken.success()?;
    ensure!(said["kept"].is_null() && said["transactions"].as_u64() > Some(0), "{said}");
    ensure!(site.highwater.json(&["list", "files"])? == serde_json::json!([]), "kept without being asked");

    // Killed when the first file's objects are stored and its manifest is not, and when it is.
    for (place, kept) in [("manifest.before", 0), ("manifest.after", 1)] {
        let datadir = site.source.data().display().to_string();
        let arguments = ["salvage", "--datadir", &datadir, "--keep-encrypted"];
        let mut command = site.highwater.programs().highwater(&site.highwater.config(), &arguments);
        let killed = Finished::run(command.env("FAILPOINTS", format!("{place}=return")))?;
        ensure!(killed.code.is_none(), "{place}: {:?} {}", killed.code, killed.stderr);
        let listed = site.highwater.json(&["list", "files"])?;
        ensure!(listed.as_array().map(Vec::len) == Some(kept), "{place}: {listed}");
        site.highwater.run(&["verify"])?.success()?;
    }
    let (finished, said) = salvage(&site, &["--keep-encrypted"])?;
    finished.success()?;
    ensure!(said["kept"]["files"].as_array().map(Vec::len) == Some(closed - 1), "{said}");
    ensure!(said["kept"]["known"] == 1 && said["kept"]["open"].as_array().map(Vec::len) == Some(1), "{said}");
    let before = contents(&store)?;
    let (again, said) = salvage(&site, &["--keep-encrypted"])?;
    again.success()?;
    ensure!(said["kept"]["known"] == closed && contents(&store)? == before, "the second time: {said}");

    fs::remove_dir_all(site.source.data())?;
    fs::remove_file(site.source.keyring())?;
    fs::remove_dir_all(site.highwater.state())?;
    let given = site.highwater.folder().join("given");
    site.highwater.run(&["binlogs", "--output-dir", &given.display().to_string()])?.success()?;
    let target = serve(&given)?;
    for name in originals.keys().take(closed) {
        ensure!(target.remote_binlog(name)? == originals[name], "the server sends another {name}");
    }
    Ok(())
}

#[test]
fn salvage_keeps_files_that_do_not_continue_the_archive() -> Result<()> {
    let (site, originals) = left_behind()?;
    // All but the newest closed one and the one that was open.
    let index = site.source.data().join("binlog.index");
    let lines = fs::read_to_string(&index)?;
    let gone: Vec<&String> = originals.keys().rev().skip(2).collect();
    let rest: String =
        lines.split_inclusive('\n').filter(|line| !gone.iter().any(|name| line.contains(*name))).collect();
    ensure!(rest.lines().count() == 2, "{rest}");
    fs::write(&index, rest)?;
    gone.iter().try_for_each(|name| fs::remove_file(site.source.data().join(name)))?;
    let (refused, said) = salvage(&site, &["--keep-encrypted"])?;
    ensure!(refused.code == Some(5), "{:?} {}", refused.code, refused.stderr);
    ensure!(said["kept"]["files"].as_array().map(Vec::len) == Some(1) && said["transactions"].is_null(), "{said}");
    let listed = site.highwater.json(&["list", "files"])?;
    ensure!(listed.as_array().map(Vec::len) == Some(1), "{listed}");
    Ok(())
}

#[test]
fn an_agent_that_keeps_a_file_ends_when_it_is_told_to() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    let datadir = source.data().display().to_string();
    let mut site = Protected::of(source, |highwater| {
        let lines = format!("source = \"files\"\ndatadir = \"{datadir}\"\nkeep_encrypted = true");
        highwater.configure("capture", &lines)
    })?;
    site.restart_agent(&[("FAILPOINTS", "kept.read=sleep(3600000)")])?;
    site.source.sql("CREATE DATABASE d; FLUSH BINARY LOGS")?;
    let Protected { highwater, agent, .. } = &mut site;
    // Behind the bundle of the server's keys, one with its password is published just before a file is read.
    highwater.wait_until("key bundle", LIMIT, agent, |highwater| {
        let keys = highwater.json(&["list", "keys"])?;
        Ok(keys.as_array().is_some_and(|keys| keys.len() > 1))
    })?;
    site.settle()?;
    ensure!(site.highwater.json(&["list", "files"])? == serde_json::json!([]), "a file was kept");
    Ok(())
}

#[test]
fn an_agent_beside_the_server_keeps_each_file_when_it_is_closed() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Workload::create(&source)?;
    let datadir = source.data().display().to_string();
    let mut site = Protected::of(source, |highwater| {
        let lines = format!("source = \"files\"\ndatadir = \"{datadir}\"\nkeep_encrypted = true");
        highwater.configure("capture", &lines)
    })?;
    let wait_for = |site: &mut Protected, count: usize| {
        let Protected { highwater, agent, .. } = site;
        highwater.wait_until("kept file", LIMIT, agent, |highwater| {
            let listed = highwater.json(&["list", "files"])?;
            Ok(listed.as_array().is_some_and(|files| files.len() >= count))
        })
    };
    for number in 1..=3 {
        site.source.sql(&format!("CREATE DATABASE d{number}; FLUSH BINARY LOGS"))?;
        wait_for(&mut site, number)?;
    }
    // Headers are written anew, and the binlog that was open is closed.
    site.source.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")?;
    wait_for(&mut site, 4)?;
    site.restart_agent(&[])?;
    site.source.sql("CREATE DATABASE d4; FLUSH BINARY LOGS")?;
    wait_for(&mut site, 5)?;
    let originals = site.source.remote_binlogs()?;
    site.settle()?;
    let listed = site.highwater.json(&["list", "files"])?;
    ensure!(listed.as_array().map(Vec::len) == Some(originals.len() - 1), "{listed}");
    site.highwater.run(&["verify"])?.success()?;

    let given = site.highwater.folder().join("given");
    site.highwater.run(&["binlogs", "--output-dir", &given.display().to_string()])?.success()?;
    for (name, bytes) in originals.iter().take(originals.len() - 1) {
        let input = given.join(name);
        let arguments = ["--datadir".as_ref(), given.as_os_str(), input.as_os_str()];
        ensure!(Programs::find()?.decrypt(arguments)?.success()?.stdout == *bytes, "{name}");
    }
    Ok(())
}

#[test]
fn files_are_kept_while_master_keys_are_rotated() -> Result<()> {
    const ROTATIONS: usize = 12;
    let bed = Bed::new()?;
    let kept = std::thread::scope(|scope| {
        let rotating = scope.spawn(|| -> Result<()> {
            for number in 0..ROTATIONS {
                let statements = format!("CREATE DATABASE r{number}; ALTER INSTANCE ROTATE BINLOG MASTER KEY");
                bed.server.sql(&statements)?;
            }
            Ok(())
        });
        let mut kept = 0;
        while !rotating.is_finished() {
            kept += bed.keep(&bed.server.keyring())??.files.len();
        }
        rotating.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        Ok::<_, anyhow::Error>(kept + bed.keep(&bed.server.keyring())??.files.len())
    })?;
    let bodies = bed.bodies()?;
    ensure!(kept == bodies.len() && kept >= ROTATIONS, "{kept} of {}", bodies.len());
    let given = bed.highwater.folder().join("given");
    bed.binlogs(&given, &[])?.success()?;
    for (name, body) in &bodies {
        let path = given.join(name);
        ensure!(fs::read(&path)?[ENCRYPTION_HEADER_LEN..] == body[..], "{name} has another body");
        let arguments = ["--datadir".as_ref(), given.as_os_str(), path.as_os_str()];
        ensure!(Programs::find()?.decrypt(arguments)?.success()?.stdout == bed.server.remote_binlog(name)?, "{name}");
    }
    Ok(())
}

#[test]
fn a_server_that_was_reset_has_two_files_of_one_name() -> Result<()> {
    let bed = Bed::new()?;
    bed.keep(&bed.server.keyring())??;
    let old = bed.bodies()?;
    bed.server.sql("RESET BINARY LOGS AND GTIDS; CREATE DATABASE anew; FLUSH BINARY LOGS")?;
    let new = bed.bodies()?;
    let kept = bed.keep(&bed.server.keyring())??;
    ensure!(new.len() == 1 && kept.files.len() == 1 && kept.known == 0, "{kept:?}");
    let listed = bed.highwater.json(&["list", "files"])?;
    ensure!(listed.as_array().map(Vec::len) == Some(old.len() + 1), "{listed}");
    bed.highwater.run(&["verify"])?.success()?;
    // The newer one counts, and the old ones do not continue it.
    let given = bed.highwater.folder().join("given");
    let refused = bed.binlogs(&given, &[])?;
    ensure!(refused.code == Some(5), "{}", refused.stderr);
    bed.binlogs(&given, &["--to", "binlog.000001"])?.success()?;
    ensure!(fs::read(given.join("binlog.000001"))?[ENCRYPTION_HEADER_LEN..] == new["binlog.000001"][..]);
    let rest = bed.highwater.folder().join("rest");
    bed.binlogs(&rest, &["--from", "binlog.000002"])?.success()?;
    ensure!(fs::read(rest.join("binlog.000002"))?[ENCRYPTION_HEADER_LEN..] == old["binlog.000002"][..]);
    Ok(())
}
