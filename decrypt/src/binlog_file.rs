//! A binary log or relay log on disk: what it is, and its plaintext once a key opened it.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use highwater_binlog::{
    ChecksumAlgorithm, ENCRYPTION_HEADER_LEN, ENCRYPTION_MAGIC, EncryptionHeader, EventHeader, EventType,
    FormatDescription, MAGIC, RawEvent, StreamCipher,
};

use crate::failure::{Exit, Failure, chain};
use crate::keys::Keys;

/// Bytes that hold the magic and any format description: 19 bytes of header, 57 fixed ones, one for each of at most
/// 255 event types, and the checksum with its algorithm.
const OPENING_LEN_MAX: usize = 4 + 19 + 57 + 255 + 5;

/// `LOG_EVENT_BINLOG_IN_USE_F`: set while the server writes the file, cleared when it closes it.
const FLAG_IN_USE: u16 = 0x1;

/// A file that is a binlog by its first bytes.
#[derive(Debug)]
pub(crate) struct BinlogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    header: Option<EncryptionHeader>,
}

/// What the first event says.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) description: FormatDescription,
    /// Whether the server had not closed the file.
    pub(crate) in_use: bool,
}

/// The plaintext of a file, proven by its first event.
#[derive(Debug)]
pub(crate) struct PlainStream {
    file: File,
    cipher: Option<StreamCipher>,
    /// Stream offset of the next byte.
    offset: u64,
    pub(crate) opening: Opening,
    /// Where the key was; none for a plain file.
    pub(crate) key_place: Option<PathBuf>,
}

/// What the beginning of a stream looks like under one key.
enum Probe {
    Opens(Opening),
    /// The magic is not there: a wrong key.
    NoMagic,
    /// Too short for a first event.
    Cut,
    /// The magic is there, a first event is not.
    Damaged(String),
}

impl BinlogFile {
    /// Opens a file and reads its encryption header, if it has one.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let shown = &path.display();
        let mut file = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => {
                Failure::io(shown, &error).hint("read it as the account that runs mysqld, or as root")
            }
            _ => Failure::io(shown, &error),
        })?;
        let metadata = file.metadata().map_err(|error| Failure::io(shown, &error))?;
        if metadata.is_dir() {
            let failure = Failure::new(Exit::Usage, format!("{shown} is a folder"));
            return Err(failure.hint(format!("give its files: {shown}/binlog.[0-9]*")));
        }
        let head = read_up_to(&mut file, ENCRYPTION_HEADER_LEN).map_err(|error| Failure::io(shown, &error))?;
        let header = if head.starts_with(&ENCRYPTION_MAGIC) {
            Some(EncryptionHeader::parse(&head).map_err(|error| {
                Failure::new(Exit::Damaged, format!("{shown}: {}", chain(&error)))
                    .hint("without its header an encrypted file cannot be opened; look for another copy of it")
            })?)
        } else if head.starts_with(&MAGIC) {
            None
        } else if head.is_empty() {
            let failure = Failure::new(Exit::Damaged, format!("{shown} is empty"));
            return Err(failure
                .hint("a server that is killed while it creates a binlog leaves an empty file; nothing is in it"));
        } else {
            let failure = Failure::new(Exit::Damaged, format!("{shown} is not a binary log"));
            return Err(failure.hint("binary logs begin with fe 'bin', encrypted ones with fd 'bin'"));
        };
        Ok(Self { path: path.to_owned(), file, bytes: metadata.len(), header })
    }

    /// Its encryption header; none for a plain file.
    pub(crate) fn header(&self) -> Option<&EncryptionHeader> {
        self.header.as_ref()
    }

    /// Its size on disk in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Finds the key whose plaintext is a binlog. Nothing else tells a right key from a wrong one.
    pub(crate) fn unlock(mut self, keys: &Keys) -> Result<PlainStream, Failure> {
        let Some(header) = self.header.take() else {
            return match self.probe(None)? {
                Probe::Opens(opening) => self.into_stream(None, opening, None),
                Probe::NoMagic | Probe::Cut => Err(self.cut()),
                Probe::Damaged(what) => Err(self.damaged(&what)),
            };
        };
        let mut wrong = Vec::new();
        let mut unproven = None;
        for (place, key) in keys.candidates(header.key_id()) {
            let mut cipher = StreamCipher::new(&header.wrapped().unwrap_with(key));
            match self.probe(Some(&mut cipher))? {
                Probe::Opens(opening) => return self.into_stream(Some(cipher), opening, Some(place.to_owned())),
                Probe::NoMagic => wrong.push(place),
                Probe::Cut => unproven = Some(self.cut()),
                Probe::Damaged(what) => unproven = Some(self.damaged(&what)),
            }
        }
        Err(match unproven {
            Some(failure) => failure,
            None if wrong.is_empty() => keys.missing(&self.path, header.key_id()),
            None => Keys::wrong(&self.path, header.key_id(), &wrong),
        })
    }

    /// Offset in the file where the stream begins.
    fn stream_start(cipher: Option<&StreamCipher>) -> u64 {
        if cipher.is_some() { ENCRYPTION_HEADER_LEN as u64 } else { 0 }
    }

    fn probe(&mut self, mut cipher: Option<&mut StreamCipher>) -> Result<Probe, Failure> {
        let start = Self::stream_start(cipher.as_deref());
        let failed = |error| Failure::io(self.path.display(), &error);
        self.file.seek(SeekFrom::Start(start)).map_err(failed)?;
        let mut head = read_up_to(&mut self.file, OPENING_LEN_MAX).map_err(failed)?;
        if let Some(cipher) = cipher.as_mut() {
            cipher.apply(0, &mut head);
        }
        Ok(judge_opening(&head))
    }

    fn into_stream(
        mut self,
        cipher: Option<StreamCipher>,
        opening: Opening,
        key_place: Option<PathBuf>,
    ) -> Result<PlainStream, Failure> {
        let start = Self::stream_start(cipher.as_ref());
        self.file.seek(SeekFrom::Start(start)).map_err(|error| Failure::io(self.path.display(), &error))?;
        Ok(PlainStream { file: self.file, cipher, offset: 0, opening, key_place })
    }

    fn cut(&self) -> Failure {
        let text = format!("{} ends inside of its first event: {} bytes", self.path.display(), self.bytes);
        Failure::new(Exit::Damaged, text).hint("there is nothing to recover in it; look for a longer copy")
    }

    fn damaged(&self, what: &str) -> Failure {
        Failure::new(Exit::Damaged, format!("{}: first event is damaged: {what}", self.path.display()))
            .hint("the first event says how the others are read; look for another copy of the file")
    }
}

impl PlainStream {
    /// Reads the next plaintext bytes into `buffer`; 0 at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = loop {
            match self.file.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        let Some(bytes) = buffer.get_mut(..count) else { return Ok(0) };
        if let Some(cipher) = &mut self.cipher {
            cipher.apply(self.offset, bytes);
        }
        self.offset += count as u64;
        Ok(count)
    }
}

/// Judges the first bytes of a stream.
fn judge_opening(head: &[u8]) -> Probe {
    let Some((magic, rest)) = head.split_at_checked(MAGIC.len()) else { return Probe::Cut };
    if magic != MAGIC {
        return Probe::NoMagic;
    }
    let Some(header) = EventHeader::read(rest) else { return Probe::Cut };
    if header.event_type != EventType::FORMAT_DESCRIPTION {
        return Probe::Damaged(format!("{} where a format description belongs", header.event_type));
    }
    let Some(len) = header.checked_len().ok().filter(|len| *len <= OPENING_LEN_MAX - MAGIC.len()) else {
        return Probe::Damaged(format!("format description of {} bytes", header.event_len));
    };
    let Some(bytes) = rest.get(..len) else { return Probe::Cut };
    let read = RawEvent::verify(bytes, ChecksumAlgorithm::Crc32).and_then(|event| FormatDescription::read(&event));
    match read {
        Ok(description) => Probe::Opens(Opening { description, in_use: header.flags & FLAG_IN_USE != 0 }),
        Err(error) => Probe::Damaged(chain(&error)),
    }
}

/// Reads `limit` bytes, or fewer at the end of the file.
fn read_up_to(file: &mut File, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(limit);
    file.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
