//! An encrypted binlog on a server's disk, and its password.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use highwater_binlog::{
    BinlogName, ENCRYPTION_HEADER_LEN, ENCRYPTION_MAGIC, EVENT_HEADER_LEN, EncryptionHeader, EventHeader, MAGIC,
    StreamCipher,
};
use highwater_keyring::{FileKey, FileMark, FilePassword, Keyring};

use super::KeepError;

/// Magic and the header of the format description.
const OPENING_LEN: u64 = (MAGIC.len() + EVENT_HEADER_LEN) as u64;

/// `LOG_EVENT_BINLOG_IN_USE_F`: set while the server writes the file, cleared when it closes it.
const FLAG_IN_USE: u16 = 0x1;

/// What a file of a server's index is.
pub(super) enum OnDisk {
    /// Not encrypted: segments have all that is in it.
    Plain,
    /// Not closed yet, or not even begun.
    Open(BinlogName),
    /// Encrypted and closed: it will never change but for its header.
    Closed(Box<ClosedFile>),
}

/// A closed encrypted binlog that its key opens.
pub(super) struct ClosedFile {
    pub(super) binlog: BinlogName,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) header: [u8; ENCRYPTION_HEADER_LEN],
    pub(super) key_id: String,
    pub(super) body_size: u64,
    pub(super) key: FileKey,
}

impl OnDisk {
    /// Opens a file and looks at its beginning: no more is needed to tell whether the key is right.
    ///
    /// # Errors
    /// When it cannot be read, or the keyring has not its key.
    pub(super) fn open(path: &Path, keyring: &Keyring) -> Result<Self, KeepError> {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<BinlogName>().ok());
        let binlog = name.ok_or_else(|| KeepError::Name { path: path.to_owned() })?;
        let failed = |source| KeepError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let mut header = [0; ENCRYPTION_HEADER_LEN];
        let magic = read_up_to(&mut file, header.len() as u64).map_err(failed)?;
        if magic.starts_with(&MAGIC) {
            return Ok(Self::Plain);
        }
        // A server writes the header and the first events at once, but not atomically.
        if magic.len() < header.len() && (magic.is_empty() || magic.starts_with(&ENCRYPTION_MAGIC)) {
            return Ok(Self::Open(binlog));
        }
        let parsed = EncryptionHeader::parse(&magic);
        let parsed = parsed.map_err(|source| KeepError::Header { binlog: binlog.clone(), source })?;
        header.copy_from_slice(&magic);
        let key_id = parsed.key_id().to_string();
        let Some(key) = keyring.get(parsed.key_id()) else {
            return Err(KeepError::KeyMissing { binlog, key_id });
        };
        let password = parsed.wrapped().unwrap_with(key);
        let opening = read_up_to(&mut file, OPENING_LEN).map_err(failed)?;
        let Some(mark) = FileMark::of_body(&opening) else { return Ok(Self::Open(binlog)) };
        match is_closed(opening, &password) {
            None => Err(KeepError::KeyWrong { binlog, key_id }),
            Some(false) => Ok(Self::Open(binlog)),
            Some(true) => {
                let body_size = len.saturating_sub(header.len() as u64);
                let key = FileKey { mark, binlog: binlog.to_string(), password };
                let path = path.to_owned();
                Ok(Self::Closed(Box::new(ClosedFile { binlog, path, file, header, key_id, body_size, key })))
            }
        }
    }
}

impl ClosedFile {
    /// The body from its first byte on, as long as it was when the file was opened.
    pub(super) fn body(&self) -> Result<impl Read + '_, KeepError> {
        let mut file = &self.file;
        let rewound = file.seek(SeekFrom::Start(ENCRYPTION_HEADER_LEN as u64));
        rewound.map_err(|source| KeepError::Read { path: self.path.clone(), source })?;
        Ok(file.take(self.body_size))
    }
}

/// Whether the server has closed the file; none if `opening` does not decrypt to a binlog's first bytes. What else is
/// wrong with it, the proof of the whole file tells.
fn is_closed(mut opening: Vec<u8>, password: &FilePassword) -> Option<bool> {
    StreamCipher::new(password).apply(0, &mut opening);
    let description = EventHeader::read(opening.strip_prefix(&MAGIC)?);
    Some(description.is_some_and(|header| header.flags & FLAG_IN_USE == 0))
}

/// Reads `limit` bytes, or fewer at the end of the file.
fn read_up_to(file: &mut File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
