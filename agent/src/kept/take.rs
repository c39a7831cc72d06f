//! Keeping: a server's closed encrypted binlogs go into the archive as they are.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::PathBuf;

use highwater_binlog::{BinlogName, ServerUuid};
use highwater_catalog::{CatalogError, KeptFile, KeyGeneration, Micros};
use highwater_keyring::{FileMark, KeyBundle};
use indicatif::ProgressBar;

use super::KeepError;
use super::open::{ClosedFile, KeysOf, OnDisk, binlog_of};
use super::proof::{BodyFacts, BodyProof};
use crate::archive::{Archive, ArchiveError, FileDraft, now};
use crate::capture::Index;
use crate::exit::Exit;
use crate::seal::Tally;

/// How much is read at once.
const READ_BYTES: usize = 1 << 20;

/// Most passwords of a key bundle, each about 160 bytes: it stays far below the bundle's limit of 4 MiB.
const BUNDLED_FILES_MAX: usize = 4096;

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
    /// What no key opens, or what is not a whole binlog: it was not kept.
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
/// When a file cannot be read, or `keys` open none at all.
pub fn survey(
    server: ServerUuid,
    keys: &KeysOf<'_>,
    paths: &[PathBuf],
    known: &[KeptFile],
) -> Result<Wanted, KeepError> {
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
            Err(error) if matches!(error.exit(), Exit::Damaged | Exit::Key) => {
                kept.refused.push(RefusedFile { path: path.clone(), error });
                continue;
            }
            found => found?,
        };
        match found {
            OnDisk::Plain => kept.plain += 1,
            OnDisk::Open(binlog) => kept.open.push(binlog),
            OnDisk::Closed(file) => match known.get(&(&file.binlog, file.mark)) {
                Some(before) if before.body_size() == file.body_size => kept.known += 1,
                Some(before) => {
                    let (binlog, kept) = (file.binlog.clone(), before.body_size());
                    return Err(KeepError::Grown { binlog, found: file.body_size, kept });
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

/// Keeps those of `paths`, binlogs of `server`, that are encrypted, closed and not among those `known`. Blocking.
///
/// If `keys` open none of them, nothing is published. The passwords of those that they open are published first, then each
/// file that proves to be a whole binlog; the others are reported.
///
/// # Errors
/// When a file cannot be read or opened, or the archive fails. What was published before stays.
pub fn keep(
    archive: &Archive,
    server: ServerUuid,
    keys: &KeysOf<'_>,
    paths: &[PathBuf],
    known: &[KeptFile],
    bar: &ProgressBar,
) -> Result<Kept, KeepError> {
    if !archive.is_encrypted() {
        return Err(ArchiveError::KeysUnsealed.into());
    }
    let Wanted { paths, bytes, mut kept } = survey(server, keys, paths, known)?;
    // Each is proven, and then stored.
    bar.set_length(bytes.saturating_mul(2));
    for paths in paths.chunks(BUNDLED_FILES_MAX) {
        keep_some(archive, server, keys, paths, &mut kept, bar)?;
    }
    Ok(kept)
}

/// Opens each file only for as long as it is needed: a server may have more of them than a process can have open.
fn keep_some(
    archive: &Archive,
    server: ServerUuid,
    keys: &KeysOf<'_>,
    paths: &[PathBuf],
    kept: &mut Kept,
    bar: &ProgressBar,
) -> Result<(), KeepError> {
    let mut passwords = Vec::new();
    for path in paths {
        if let OnDisk::Closed(file) = OnDisk::open(path, keys)? {
            passwords.push(file.key);
        }
    }
    // Beside the passwords, the replication keys as they are now: the kept headers can stay as they are.
    let keyring = keys().map_err(KeepError::Open)?.into_keyring();
    let bundle = KeyBundle::new(&server.to_string(), now().0, keyring).map_err(KeepError::Bundle)?;
    let bundle = bundle.with_files(passwords);
    let key_ids = bundle.keyring().key_ids().map(ToString::to_string).collect();
    let generation = archive.publish_keys(server, key_ids, &bundle.encode())?;
    let key_generation = generation.generation;
    kept.keys.push(generation);
    let bundled: BTreeSet<FileMark> = bundle.files().iter().map(|file| file.mark).collect();
    for path in paths {
        // It was closed a moment ago; a rotation of the master key may have written its header anew.
        let OnDisk::Closed(file) = OnDisk::open(path, keys)? else { continue };
        if !bundled.contains(&file.mark) {
            return Err(ArchiveError::Changed { what: file.binlog.to_string() }.into());
        }
        match keep_one(archive, server, &file, key_generation, bar) {
            Ok(file) => kept.files.push(file),
            Err(error @ KeepError::Damaged { .. }) => kept.refused.push(RefusedFile { path: path.clone(), error }),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn keep_one(
    archive: &Archive,
    server: ServerUuid,
    file: &ClosedFile,
    key_generation: u32,
    bar: &ProgressBar,
) -> Result<KeptFile, KeepError> {
    let (facts, tally) = prove(file, bar)?;
    let (body_size, body_sha256) = tally.finish();
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
        body_sha256,
    };
    let body = file.file.body().map_err(|source| KeepError::Read { path: file.path.clone(), source })?;
    let mut body = bar.wrap_read(body);
    Ok(archive.keep_file(draft, &file.header.to_bytes(), &mut body)?)
}

/// Reads the whole body: every event of it.
fn prove(file: &ClosedFile, bar: &ProgressBar) -> Result<(BodyFacts, Tally), KeepError> {
    let damaged = |source| KeepError::Damaged { binlog: file.binlog.clone(), source };
    let mut proof = BodyProof::new(&file.key.password);
    let mut tally = Tally::default();
    let failed = |source| KeepError::Read { path: file.path.clone(), source };
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
