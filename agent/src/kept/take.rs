//! Keeping: a server's closed encrypted binlogs go into the archive as they are.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use highwater_binlog::{BinlogName, ServerUuid};
use highwater_catalog::{CatalogError, KeptFile, KeyGeneration, Micros};
use highwater_keyring::{FileKey, FileMark, KeyBundle};
use indicatif::ProgressBar;
use tokio_util::sync::CancellationToken;

use super::KeepError;
use super::open::{ClosedFile, OnDisk, binlog_of};
use super::proof::{BodyFacts, BodyProof};
use crate::archive::{Archive, ArchiveError, FileDraft, now};
use crate::capture::Index;
use crate::exit::Exit;
use crate::failpoint;
use crate::seal::Tally;
use crate::source::Keyrings;

/// How much is read at once.
const READ_BYTES: usize = 1 << 20;

/// Most passwords of a key bundle, each about 160 bytes: it stays far below the bundle's limit of 4 MiB.
const BUNDLED_FILES_MAX: usize = 4096;

/// What files of a server are kept with.
pub struct Keeping<'a> {
    /// Where to.
    pub archive: &'a Archive,
    /// Whose they are.
    pub server: ServerUuid,
    /// What opens them.
    pub keys: &'a Keyrings,
    /// What the archive has already.
    pub known: &'a [KeptFile],
    /// Bytes, as they are proven and stored.
    pub bar: &'a ProgressBar,
    /// Looked at between files.
    pub stop: &'a CancellationToken,
}

/// What came of keeping.
#[derive(Debug, Default)]
pub struct Kept {
    /// Key bundles that were published.
    pub keys: Vec<KeyGeneration>,
    /// Files that were published.
    pub files: Vec<KeptFile>,
    /// How many the archive had before.
    pub known: usize,
    /// How many are not encrypted: segments have them.
    pub plain: usize,
    /// Not closed yet.
    pub open: Vec<BinlogName>,
    /// What no key opens, what cannot be read, or what is not a whole binlog: it was not kept.
    pub refused: Vec<RefusedFile>,
}

/// A file that was not kept.
#[derive(Debug)]
pub struct RefusedFile {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub error: KeepError,
}

impl Kept {
    /// Goes on without one file, if the failure says nothing of others.
    fn refuse(&mut self, path: &Path, error: KeepError) -> Result<(), KeepError> {
        if !error.is_of_one_file() {
            return Err(error);
        }
        // A server may purge a file at any time.
        if !matches!(path.try_exists(), Ok(false)) {
            self.refused.push(RefusedFile { path: path.to_owned(), error });
        }
        Ok(())
    }

    /// Tells the catalog what was published.
    pub(super) fn record(&self, index: &Index) -> Result<(), CatalogError> {
        self.keys.iter().try_for_each(|keys| index.keys(keys))?;
        self.files.iter().try_for_each(|file| index.file(file))
    }
}

/// What keeping would do.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Files that the archive lacks.
    pub paths: Vec<PathBuf>,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// What is found besides.
    pub kept: Kept,
}

/// Which of `paths`, binlogs of `server`, are encrypted, closed and not among those `known`. Blocking.
///
/// # Errors
/// When `keys` open none at all. A file that cannot be opened for another reason is among those refused.
pub fn survey(server: ServerUuid, keys: &Keyrings, paths: &[PathBuf], known: &[KeptFile]) -> Result<Wanted, KeepError> {
    let known: BTreeMap<(&BinlogName, FileMark), &KeptFile> =
        known.iter().filter(|file| file.server == server).map(|file| ((&file.binlog, file.mark), file)).collect();
    let mut wanted = Wanted::default();
    for path in paths {
        let kept = &mut wanted.kept;
        let found = match OnDisk::open(path, keys) {
            // The newest one, which a server may have been killed in the making of.
            Err(KeepError::Open(failure))
                if failure.exit == binlog_decrypt::Exit::Damaged && paths.last() == Some(path) =>
            {
                kept.open.push(binlog_of(path)?);
                continue;
            }
            Err(error) => {
                kept.refuse(path, error)?;
                continue;
            }
            Ok(found) => found,
        };
        match found {
            OnDisk::Plain => kept.plain += 1,
            OnDisk::Open(binlog) => kept.open.push(binlog),
            OnDisk::Closed(file) => match known.get(&(&file.binlog, file.mark)) {
                Some(before) if before.body_size() == file.body_size => kept.known += 1,
                Some(before) => {
                    let (binlog, before) = (file.binlog.clone(), before.body_size());
                    kept.refuse(path, KeepError::Grown { binlog, found: file.body_size, kept: before })?;
                }
                None => {
                    wanted.bytes += file.body_size;
                    wanted.paths.push(file.path);
                }
            },
        }
    }
    let kept = &mut wanted.kept;
    let opened = wanted.paths.len() + kept.known + kept.open.len();
    match kept.refused.iter().position(|refused| refused.error.exit() == Exit::Key) {
        // It is not one lost key: the keyring is another one.
        Some(first) if opened == 0 => Err(kept.refused.swap_remove(first).error),
        Some(_) | None => Ok(wanted),
    }
}

/// Keeps those of `paths`, binlogs of one server, that are encrypted, closed and not known. Blocking.
///
/// If the keys open none of them, nothing is published. The passwords of those that they open are published first, but
/// for those `bundled`, which a generation of the key bundle has; then each file that proves to be a whole binlog. The
/// others are reported.
///
/// # Errors
/// When the archive fails, or the keys open nothing. What was published before is in `kept` and `bundled`.
pub fn keep(
    with: &Keeping<'_>,
    paths: &[PathBuf],
    bundled: &mut BTreeMap<FileMark, u32>,
    kept: &mut Kept,
) -> Result<(), KeepError> {
    if !with.archive.is_encrypted() {
        return Err(ArchiveError::KeysUnsealed.into());
    }
    let wanted = survey(with.server, with.keys, paths, with.known)?;
    *kept = wanted.kept;
    // Each is proven, and then stored.
    with.bar.set_length(wanted.bytes.saturating_mul(2));
    wanted.paths.chunks(BUNDLED_FILES_MAX).try_for_each(|paths| keep_some(with, paths, bundled, kept))
}

/// Opens each file only for as long as it is needed: a server may have more of them than a process can have open.
fn keep_some(
    with: &Keeping<'_>,
    paths: &[PathBuf],
    bundled: &mut BTreeMap<FileMark, u32>,
    kept: &mut Kept,
) -> Result<(), KeepError> {
    let (mut ready, mut passwords) = (Vec::new(), Vec::new());
    for path in paths {
        match OnDisk::open(path, with.keys) {
            Ok(OnDisk::Closed(file)) => {
                ready.push(path);
                if !bundled.contains_key(&file.mark) {
                    passwords.push(file.key);
                }
            }
            Ok(OnDisk::Plain | OnDisk::Open(_)) => {}
            Err(error) => kept.refuse(path, error)?,
        }
    }
    if !passwords.is_empty() {
        let marks: Vec<FileMark> = passwords.iter().map(|password| password.mark).collect();
        let keys = publish_passwords(with, passwords)?;
        bundled.extend(marks.into_iter().map(|mark| (mark, keys.generation)));
        kept.keys.push(keys);
    }
    for path in ready {
        if with.stop.is_cancelled() {
            break;
        }
        match keep_one(with, path, bundled) {
            Ok(file) => kept.files.extend(file),
            Err(error) => kept.refuse(path, error)?,
        }
    }
    Ok(())
}

fn publish_passwords(with: &Keeping<'_>, passwords: Vec<FileKey>) -> Result<KeyGeneration, KeepError> {
    // Beside the passwords, the replication keys as they are now: the kept headers can stay as they are.
    let keyring = with.keys.keys().map_err(KeepError::Open)?.keyring();
    let bundle = KeyBundle::new(&with.server.to_string(), now().0, keyring).map_err(KeepError::Bundle)?;
    let bundle = bundle.with_files(passwords);
    let key_ids = bundle.keyring().key_ids().map(ToString::to_string).collect();
    Ok(with.archive.publish_keys(with.server, key_ids, &bundle.encode())?)
}

/// Proves and stores one; none if it is not a closed file any more.
fn keep_one(with: &Keeping<'_>, path: &Path, bundled: &BTreeMap<FileMark, u32>) -> Result<Option<KeptFile>, KeepError> {
    // It was closed a moment ago; a rotation of the master key may have written its header anew.
    let OnDisk::Closed(file) = OnDisk::open(path, with.keys)? else { return Ok(None) };
    let Some(&key_generation) = bundled.get(&file.mark) else {
        return Err(ArchiveError::Changed { what: file.binlog.to_string() }.into());
    };
    let Keeping { archive, server, bar, .. } = *with;
    let (facts, tally) = prove(&file, bar)?;
    let (body_size, body_blake3) = tally.finish();
    let BodyFacts { server_version, gtids_before, contents } = facts;
    let draft = FileDraft {
        server,
        binlog: file.binlog.clone(),
        mark: file.mark,
        server_version,
        gtids_before,
        gtids_added: contents.gtids_added,
        first_commit: contents.first_commit_micros.map(Micros),
        last_commit: contents.last_commit_micros.map(Micros),
        events: contents.events,
        transactions: contents.transactions,
        key_id: file.header.key_id().to_string(),
        key_generation,
        body_size,
        body_blake3,
    };
    let body = file.file.body().map_err(|source| KeepError::Read { path: file.path.clone(), source })?;
    let mut body = bar.wrap_read(body);
    Ok(Some(archive.keep_file(draft, &file.header.to_bytes(), &mut body)?))
}

/// Reads the whole body: every event of it.
fn prove(file: &ClosedFile, bar: &ProgressBar) -> Result<(BodyFacts, Tally), KeepError> {
    let damaged = |source| KeepError::Damaged { binlog: file.binlog.clone(), source };
    let mut proof = BodyProof::new(&file.key.password);
    let mut tally = Tally::default();
    let failed = |source| KeepError::Read { path: file.path.clone(), source };
    failpoint::io("kept.read").map_err(failed)?;
    let mut body = file.file.body().map_err(failed)?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                let bytes = &buffer[..count];
                tally.add(bytes);
                proof.push(bytes).map_err(damaged)?;
                bar.inc(count as u64);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(source) => return Err(failed(source)),
        }
    }
    Ok((proof.finish().map_err(damaged)?, tally))
}
