//! Giving back: kept files as a server's binlogs, with an index and a keyring that opens them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use highwater_binlog::{ENCRYPTION_HEADER_LEN, EncryptionHeader};
use highwater_catalog::{FileRange, Inventory, KeptFile, Manifest, file_range};
use highwater_keyring::{FilePassword, KEYRING_BYTES_MAX, KeyId, KeyRole, Keyring, MasterKey, WrappedFilePassword};
use indicatif::ProgressBar;
use zeroize::Zeroizing;

use super::{BodyProof, KeepError, KeptKeys};
use crate::archive::{Archive, ArchiveError, ObjectReader};
use crate::fsync::{self, Complete, WriteError};

/// What a server's keyring is called in the folder.
const KEYRING_NAME: &str = "component_keyring_file";

/// What was written.
#[derive(Debug)]
pub struct GivenFiles {
    /// The binlogs, in order.
    pub files: Vec<KeptFile>,
    /// Those whose header was written anew, since no bundle has the key that it named.
    pub rewritten: Vec<String>,
    /// The index file.
    pub index: PathBuf,
    /// The keyring.
    pub keyring: PathBuf,
    /// The keys in it.
    pub key_ids: Vec<String>,
}

/// Writes the files of a range into `folder`, as one step: all of them get their names when all of them are proven and on
/// the disk. Only `replace` lets them take the place of others, and nothing that of a keyring: it may have the only keys of
/// tables. One that opens the files stays as it is. Blocking.
///
/// # Errors
/// When the range is not whole, a key or an object is missing or damaged, or the folder cannot be written.
pub fn give(
    archive: &Archive,
    inventory: &Inventory,
    wanted: &FileRange,
    folder: &Path,
    replace: bool,
    bar: &ProgressBar,
) -> Result<GivenFiles, KeepError> {
    let files: Vec<KeptFile> = file_range(&inventory.files, wanted)?.into_iter().cloned().collect();
    let Some(last) = files.last() else {
        return Err(highwater_catalog::FileRefusal::None { server: wanted.server }.into());
    };
    let mut keys = KeptKeys::read(archive, inventory, last.server)?;
    let mut headers = Vec::new();
    let mut rewritten = Vec::new();
    for file in &files {
        let (header, new) = header_of(archive, file, &mut keys)?;
        headers.push(header);
        rewritten.extend(new.then(|| file.binlog.to_string()));
    }
    bar.set_length(files.iter().map(KeptFile::body_size).sum());

    let index = folder.join(format!("{}.index", base(last.binlog.as_str())));
    let keyring = folder.join(KEYRING_NAME);
    let names: Vec<PathBuf> = files.iter().map(|file| folder.join(file.binlog.as_str())).collect();
    let is_there = |path: &&PathBuf| fs::symlink_metadata(path).is_ok();
    if !replace && let Some(path) = names.iter().chain([&keyring, &index]).find(is_there) {
        return Err(KeepError::Exists { path: path.clone() });
    }
    let needs_keyring = !has_keys(&keyring, keys.keyring())?;
    let _alone = prepare(folder)?;
    let mut incoming = Vec::new();
    for (file, (header, path)) in files.iter().zip(headers.iter().zip(&names)) {
        incoming.push((write_one(archive, file, header, keys.password(file)?, folder, bar)?, path));
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| KeepError::Write { path, source }
    };
    let lines: String = files.iter().map(|file| format!("./{}\n", file.binlog)).collect();
    let lines = Complete::write(folder, &mut lines.as_bytes()).map_err(|error| failed(&index)(error.into()))?;
    // The keyring first: without it nothing else is of use. The index last: what it does not name is no binlog to a server.
    if needs_keyring {
        let bytes = keys.keyring().to_component_file();
        let written = Complete::write(folder, &mut bytes.as_slice()).map_err(|error| failed(&keyring)(error.into()))?;
        written.create(&keyring).map_err(not_named(&keyring))?;
    }
    incoming.push((lines, &index));
    for (incoming, path) in incoming {
        let named = if replace { incoming.replace(path) } else { incoming.create(path) };
        named.map_err(not_named(path))?;
    }
    fsync::sync_directory(folder).map_err(failed(folder))?;
    let key_ids = keys.keyring().key_ids().map(ToString::to_string).collect();
    Ok(GivenFiles { files, rewritten, index, keyring, key_ids })
}

/// Whether the keyring at `path` has all of `keys`; `false` where there is none.
///
/// # Errors
/// When it has not: it is nobody's to replace.
fn has_keys(path: &Path, keys: &Keyring) -> Result<bool, KeepError> {
    let failed = |source| KeepError::Write { path: path.to_owned(), source };
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 << 10));
    match File::open(path) {
        Ok(file) => file.take(KEYRING_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            return Ok(false);
        }
        Err(error) => return Err(failed(error)),
    };
    let other = || KeepError::OtherKeyring { path: path.to_owned() };
    let there = Keyring::read(&bytes).map_err(|_| other())?;
    match keys.keys().all(|(key_id, key)| there.get(key_id).is_some_and(|its| its.is_same_as(key))) {
        true => Ok(true),
        false => Err(other()),
    }
}

/// Why a file did not get its name.
fn not_named(path: &Path) -> impl FnOnce(io::Error) -> KeepError {
    let path = path.to_owned();
    move |source| match source.kind() {
        io::ErrorKind::AlreadyExists => KeepError::Exists { path },
        _ => KeepError::Write { path, source },
    }
}

/// Makes the folder, takes it for this process, and removes what a killed one left in it.
fn prepare(folder: &Path) -> Result<File, KeepError> {
    let failed = |source| KeepError::Write { path: folder.to_owned(), source };
    fsync::create_directories(folder).map_err(failed)?;
    let lock = File::open(folder).map_err(failed)?;
    lock.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => KeepError::Busy { path: folder.to_owned() },
        fs::TryLockError::Error(source) => failed(source),
    })?;
    fsync::sweep_temporaries(folder).map_err(failed)?;
    Ok(lock)
}

/// A file under a temporary name: its header, and its body once that is proven to be what was kept.
fn write_one(
    archive: &Archive,
    file: &KeptFile,
    header: &[u8; ENCRYPTION_HEADER_LEN],
    password: &FilePassword,
    folder: &Path,
    bar: &ProgressBar,
) -> Result<Complete, KeepError> {
    let reader = archive.read_file_body(file)?;
    let body = ProvenBody { reader, proof: BodyProof::new(password), bar };
    Complete::write(folder, &mut header.chain(body)).map_err(|error| match error {
        WriteError::Body(error) => damage(file, error),
        WriteError::File(source) => KeepError::Write { path: folder.join(file.binlog.as_str()), source },
    })
}

fn damage(file: &KeptFile, error: io::Error) -> KeepError {
    match error.downcast::<super::ProofError>() {
        Ok(source) => KeepError::Damaged { binlog: file.binlog.clone(), source },
        Err(error) => ArchiveError::of_read(&file.key(), error).into(),
    }
}

/// A kept body whose end is given only if its digests are right and it decrypts to a whole binlog.
struct ProvenBody<'a> {
    reader: ObjectReader,
    proof: BodyProof,
    bar: &'a ProgressBar,
}

impl Read for ProvenBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let count = self.reader.read(buffer)?;
        match count {
            0 => drop(self.proof.finish().map_err(wrong)?),
            _ => self.proof.push(&buffer[..count]).map_err(wrong)?,
        }
        self.bar.inc(count as u64);
        Ok(count)
    }
}

/// The header to write: the kept one if the exported keyring opens the file with it, otherwise a new one. Whether it is
/// new.
fn header_of(
    archive: &Archive,
    file: &KeptFile,
    keys: &mut KeptKeys,
) -> Result<([u8; ENCRYPTION_HEADER_LEN], bool), KeepError> {
    let bytes = archive.read_file_header(file)?;
    let kept = EncryptionHeader::parse(&bytes);
    let kept = kept.map_err(|source| KeepError::Header { binlog: file.binlog.clone(), source })?;
    let password = keys.password(file)?;
    let opens =
        keys.keyring().get(kept.key_id()).is_some_and(|key| kept.wrapped().unwrap_with(key).is_same_as(password));
    match <[u8; ENCRYPTION_HEADER_LEN]>::try_from(bytes) {
        Ok(header) if opens => return Ok((header, false)),
        Ok(_) | Err(_) => {}
    }
    let key_id = wrapping_key(file, keys)?;
    let wrapped = match keys.keyring().get(&key_id) {
        Some(key) => WrappedFilePassword::wrap(keys.password(file)?, key, rand::random()),
        None => return Err(KeepError::KeyMissing { binlog: file.binlog.clone(), key_id: key_id.to_string() }),
    };
    Ok((EncryptionHeader::new(key_id, wrapped).to_bytes(), true))
}

/// The server's newest key in the keyring; a random one is added where there is none.
fn wrapping_key(file: &KeptFile, keys: &mut KeptKeys) -> Result<KeyId, KeepError> {
    let own = format!("MySQLReplicationKey_{}_", file.server);
    let is_own = |id: &&KeyId| id.as_str().starts_with(&own) && matches!(id.role(), KeyRole::Master { .. });
    if let Some(newest) = keys.keyring().key_ids().filter(is_own).max_by_key(|id| id.sequence()) {
        return Ok(newest.clone());
    }
    // The number after the one that the kept header names: a key of that name may be elsewhere still.
    let named = file.key_id.parse::<KeyId>().ok().and_then(|id| id.sequence()).unwrap_or(0);
    let text = format!("{own}{}", named.saturating_add(1));
    let key_id: KeyId =
        text.parse().map_err(|_| KeepError::KeyMissing { binlog: file.binlog.clone(), key_id: text })?;
    keys.keyring_mut().insert(key_id.clone(), MasterKey::init_with(|key| *key = rand::random()));
    Ok(key_id)
}

/// A binlog's name without its number.
fn base(binlog: &str) -> &str {
    binlog.rsplit_once('.').map_or(binlog, |(base, _)| base)
}
