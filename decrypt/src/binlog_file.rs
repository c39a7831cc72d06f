//! A binary log or relay log: what it is, and which key opens it.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::Path;

use highwater_binlog::{
    ChecksumAlgorithm, ENCRYPTION_HEADER_LEN, ENCRYPTION_MAGIC, EncryptionHeader, EventCipher, EventHeader,
    EventScheme, EventType, FormatDescription, MAGIC, RawEvent, START_ENCRYPTION, StartEncryption, StreamCipher,
};
use highwater_keyring::{FileMark, FilePassword};

use crate::failure::{Exit, Failure, chain};
use crate::input::Input;
use crate::keys::Keys;
use crate::stream::{Decoder, PlainStream};

/// Stream bytes looked at before anything is believed: the magic, a format description, and for MariaDB the two events
/// after it, the second of which has 16 bytes for each server that ever wrote.
const HEAD_LEN: usize = 64 << 10;

/// Magic and the longest format description: 19 bytes of header, 57 fixed ones, one for each of at most 255 event types,
/// and the checksum with its algorithm.
const OPENING_LEN_MAX: usize = 4 + 19 + 57 + 255 + 5;

/// `LOG_EVENT_BINLOG_IN_USE_F`: set while the server writes the file, cleared when it closes it.
const FLAG_IN_USE: u16 = 0x1;
/// `LOG_EVENT_RELAY_LOG_F`: the file is a replica's relay log; of an event in it, that the replica made it itself.
pub(crate) const FLAG_RELAY_LOG: u16 = 0x40;
/// `LOG_EVENT_IGNORABLE_F`, at the first of the two bytes of flags.
const FLAG_IGNORABLE: u8 = 0x80;
const FLAGS_AT: usize = 17;
const CHECKSUM_LEN: usize = 4;

/// A file that is a binlog by its first bytes.
#[derive(Debug)]
pub struct BinlogFile {
    name: String,
    file: File,
    seekable: bool,
    bytes: Option<u64>,
    header: Option<EncryptionHeader>,
    /// Why the header that it has is none.
    header_damage: Option<Failure>,
    /// The first bytes of the stream, as they are on the disk.
    head: Vec<u8>,
}

/// What the first event says.
#[derive(Debug, Clone)]
pub struct Opening {
    /// How the other events are read.
    pub description: FormatDescription,
    /// Whether the server had not closed the file.
    pub in_use: bool,
    /// Whether it is a replica's relay log.
    pub relay_log: bool,
    /// Its time, seconds since 1970.
    pub timestamp: u32,
    /// The server that wrote it.
    pub server_id: u32,
    /// Plaintext from the magic to the last event that says how the others are read.
    pub bytes: Vec<u8>,
}

/// How the stream is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    None,
    /// The whole stream, MySQL's way.
    MySql,
    /// Every event by itself.
    Events(EventScheme),
    /// Every event by itself, but there is none.
    NoEvents,
}

/// What opens a file that is encrypted as a whole.
#[derive(Debug)]
pub struct Opened {
    /// Its password.
    pub password: FilePassword,
    /// What its first event says.
    pub opening: Opening,
    /// Where the key was.
    pub key_place: String,
}

/// A file whose key is found.
#[derive(Debug)]
pub struct Unlocked {
    /// Its plaintext.
    pub stream: PlainStream,
    /// What its first event says.
    pub opening: Opening,
    /// What it was on the disk.
    pub encryption: Encryption,
    /// Where the key was; none for a plain file.
    pub key_place: Option<String>,
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
    ///
    /// # Errors
    /// When it cannot be read, or is no binlog.
    pub fn open(input: &Input) -> Result<Self, Failure> {
        let mut file = Self::open_with_any_header(input)?;
        match file.header_damage.take() {
            Some(damage) => Err(damage),
            None => Ok(file),
        }
    }

    /// The same for a file whose header may be damaged: [`Self::opened`] then tries the passwords that were kept for it.
    ///
    /// # Errors
    /// When it cannot be read, or is no binlog.
    pub(crate) fn open_with_any_header(input: &Input) -> Result<Self, Failure> {
        let shown = &input.to_string();
        let failed = |error: &std::io::Error| match error.kind() {
            ErrorKind::PermissionDenied => {
                Failure::io(shown, error).hint("read it as the account that runs mysqld, or as root")
            }
            _ => Failure::io(shown, error),
        };
        let (mut file, bytes) = match input {
            Input::Stdin => {
                let copy = std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| failed(&error))?;
                (File::from(copy), None)
            }
            Input::File(path) => Self::open_file(path).map_err(|error| failed(&error))?,
        };
        let mut head = read_up_to(&mut file, ENCRYPTION_HEADER_LEN).map_err(|error| failed(&error))?;
        let (header, header_damage) = match header_of(shown, &head) {
            Ok(header) => (header, None),
            // What is behind it may be whole.
            Err(damage) if head.starts_with(&ENCRYPTION_MAGIC) && head.len() == ENCRYPTION_HEADER_LEN => {
                (None, Some(damage))
            }
            Err(failure) => return Err(failure),
        };
        if header.is_some() || header_damage.is_some() {
            head.clear();
        }
        let more = read_up_to(&mut file, HEAD_LEN - head.len()).map_err(|error| failed(&error))?;
        head.extend_from_slice(&more);
        Ok(Self { name: shown.clone(), file, seekable: bytes.is_some(), bytes, header, header_damage, head })
    }

    /// The file and, where it has one, its size.
    fn open_file(path: &Path) -> std::io::Result<(File, Option<u64>)> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        Ok((file, metadata.is_file().then_some(metadata.len())))
    }

    /// Its encryption header; none for a plain file.
    #[must_use]
    pub fn header(&self) -> Option<&EncryptionHeader> {
        self.header.as_ref()
    }

    /// Its size on disk in bytes, where it is a file.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Which encrypted file it is, whatever its name and its header; none for a plain one.
    #[must_use]
    pub fn mark(&self) -> Option<FileMark> {
        self.header.as_ref().and_then(|_| FileMark::of_body(&self.head))
    }

    /// The bytes after the encryption header, encrypted as they are, as far as they reached when it was opened.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn body(&self) -> std::io::Result<impl Read + '_> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(ENCRYPTION_HEADER_LEN as u64))?;
        Ok(file.take(self.bytes.unwrap_or(0).saturating_sub(ENCRYPTION_HEADER_LEN as u64)))
    }

    /// Finds the key whose plaintext is a binlog. Nothing else tells a right key from a wrong one.
    ///
    /// # Errors
    /// When no key opens it, or its first events are damaged or not all there.
    pub fn unlock(self, keys: &Keys) -> Result<Unlocked, Failure> {
        let Some(Opened { password, opening, key_place }) = self.opened(keys)? else {
            return self.unlock_plain(keys);
        };
        let decoder = Decoder::Stream(Box::new(StreamCipher::new(&password)));
        Ok(self.into_unlocked(decoder, opening, Encryption::MySql, Some(key_place)))
    }

    /// The password that opens it; none for a file that is not encrypted as a whole.
    ///
    /// # Errors
    /// When no key opens it, or its first event is damaged or not all there.
    pub fn opened(&self, keys: &Keys) -> Result<Option<Opened>, Failure> {
        if self.header.is_none() && self.header_damage.is_none() {
            return Ok(None);
        }
        let mut wrong = Vec::new();
        let mut unproven = None;
        for (place, password) in keys.candidates(self.header.as_ref(), &self.head) {
            let mut head = self.head.get(..self.head.len().min(OPENING_LEN_MAX)).unwrap_or_default().to_vec();
            StreamCipher::new(&password).apply(0, &mut head);
            match judge_opening(&head) {
                Probe::Opens(opening) => return Ok(Some(Opened { password, opening, key_place: place.to_owned() })),
                Probe::NoMagic => wrong.push(place),
                Probe::Cut => unproven = Some(self.cut()),
                Probe::Damaged(what) => unproven = Some(self.damaged(&what)),
            }
        }
        if let Some(failure) = unproven {
            return Err(failure);
        }
        match (&self.header, &self.header_damage) {
            (Some(header), _) if wrong.is_empty() => Err(keys.missing(&self.name, header.key_id())),
            (Some(header), _) => Err(Keys::wrong(&self.name, header.key_id(), &wrong)),
            (None, Some(damage)) => Err(damage.clone()),
            (None, None) => Ok(None),
        }
    }

    /// A file that begins like a plain one: each of its events may still be encrypted.
    fn unlock_plain(mut self, keys: &Keys) -> Result<Unlocked, Failure> {
        let mut opening = match judge_opening(&self.head) {
            Probe::Opens(opening) => opening,
            Probe::NoMagic | Probe::Cut => return Err(self.cut()),
            Probe::Damaged(what) => return Err(self.damaged(&what)),
        };
        let Some(start) = self.start_encryption(&opening)? else {
            return Ok(self.into_unlocked(Decoder::Plain, opening, Encryption::None, None));
        };
        let begin = opening.bytes.len();
        let end = begin + event_len(self.head.get(begin..).unwrap_or_default()).unwrap_or(0);
        let probed = self.head.get(end..).unwrap_or_default();
        // Where no event follows, or not even the header of one, there is nothing to open.
        let found =
            event_len(probed).map(|_| keys.event_cipher(&start, |cipher| proves(&opening, end, probed, cipher)));
        // A source sends this event marked as one to be skipped, since the others are plain then.
        if let Some(event) = self.head.get_mut(begin..end) {
            mark_ignorable(event, opening.description.checksum_algorithm);
        }
        opening.bytes = self.head.get(..end).unwrap_or_default().to_vec();
        match found {
            None => Ok(self.into_unlocked(Decoder::Plain, opening, Encryption::NoEvents, None)),
            Some(Ok((place, scheme, cipher))) => {
                let decoder = Decoder::Events { cipher: Box::new(cipher), first: end as u64 };
                Ok(self.into_unlocked(decoder, opening, Encryption::Events(scheme), Some(place)))
            }
            Some(Err(wrong)) => {
                let percona = !opening.description.server_version.contains("MariaDB");
                Err(keys.no_event_key(&self.name, &start, &wrong, percona))
            }
        }
    }

    /// The second event, if it says that the others are encrypted.
    fn start_encryption(&self, opening: &Opening) -> Result<Option<StartEncryption>, Failure> {
        let rest = self.head.get(opening.bytes.len()..).unwrap_or_default();
        let Some(header) = EventHeader::read(rest).filter(|header| header.event_type == START_ENCRYPTION) else {
            return Ok(None);
        };
        let event = header.checked_len().ok().and_then(|len| rest.get(..len)).ok_or_else(|| self.cut())?;
        let read = RawEvent::verify(event, opening.description.checksum_algorithm);
        match read.and_then(|event| StartEncryption::read(&event)) {
            Ok(start) => Ok(Some(start)),
            Err(error) => Err(self.damaged(&chain(&error))),
        }
    }

    fn into_unlocked(
        self,
        decoder: Decoder,
        opening: Opening,
        encryption: Encryption,
        key_place: Option<String>,
    ) -> Unlocked {
        let stream = PlainStream::new(self.file, self.seekable, decoder, self.head);
        Unlocked { stream, opening, encryption, key_place }
    }

    fn cut(&self) -> Failure {
        let bytes = self.bytes.map(|bytes| format!(": {bytes} bytes")).unwrap_or_default();
        Failure::new(Exit::Damaged, format!("{} ends inside of its first events{bytes}", self.name))
            .hint("there is nothing to recover in it; look for a longer copy")
    }

    fn damaged(&self, what: &str) -> Failure {
        Failure::new(Exit::Damaged, format!("{}: first event is damaged: {what}", self.name))
            .hint("the first event says how the others are read; look for another copy of the file")
    }
}

/// The encryption header that a file begins with; none for a plain binlog, an error for anything else.
fn header_of(shown: &str, head: &[u8]) -> Result<Option<EncryptionHeader>, Failure> {
    if head.starts_with(&ENCRYPTION_MAGIC) {
        return EncryptionHeader::parse(head).map(Some).map_err(|error| {
            Failure::new(Exit::Damaged, format!("{shown}: {}", chain(&error))).hint(
                "look for another copy of it; without its header an encrypted file opens only with its own password, \
                     as an archive of Highwater keeps it: give the archive's bundles of keys with --keyring",
            )
        });
    }
    if head.starts_with(&MAGIC) {
        return Ok(None);
    }
    if head.is_empty() {
        let failure = Failure::new(Exit::Damaged, format!("{shown} is empty"));
        return Err(
            failure.hint("a server that is killed while it creates a binlog leaves an empty file; nothing is in it")
        );
    }
    let failure = Failure::new(Exit::Damaged, format!("{shown} is not a binary log"));
    Err(failure.hint("binary logs begin with fe 'bin', encrypted ones with fd 'bin'"))
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
        Ok(description) => Probe::Opens(Opening {
            description,
            in_use: header.flags & FLAG_IN_USE != 0,
            relay_log: header.flags & FLAG_RELAY_LOG != 0,
            timestamp: header.timestamp,
            server_id: header.server_id,
            bytes: [magic, bytes].concat(),
        }),
        Err(error) => Probe::Damaged(chain(&error)),
    }
}

/// The length of the event that `bytes` begin with, encrypted or not, if an event can have it.
fn event_len(bytes: &[u8]) -> Option<usize> {
    EventHeader::read(bytes)?.checked_len().ok()
}

/// Whether `cipher` makes an event of the encrypted one at `offset`.
fn proves(opening: &Opening, offset: usize, encrypted: &[u8], cipher: &EventCipher) -> bool {
    let Some(len) = event_len(encrypted) else { return false };
    let algorithm = opening.description.checksum_algorithm;
    let mut event = encrypted.get(..len.min(encrypted.len())).unwrap_or_default().to_vec();
    cipher.decrypt(offset as u64, &mut event);
    if event.len() == len && algorithm == ChecksumAlgorithm::Crc32 {
        return RawEvent::verify(&event, algorithm).is_ok();
    }
    // Nothing but the header can be judged: it says where the event ends and which server wrote it.
    EventHeader::read(&event).is_some_and(|header| {
        let end = u32::try_from(offset + len).unwrap_or(u32::MAX);
        header.end_log_pos == end || (opening.relay_log && header.server_id == opening.server_id)
    })
}

fn mark_ignorable(event: &mut [u8], algorithm: ChecksumAlgorithm) {
    if let Some(flags) = event.get_mut(FLAGS_AT) {
        *flags |= FLAG_IGNORABLE;
    }
    if algorithm == ChecksumAlgorithm::Crc32
        && let Some((content, checksum)) = event.split_last_chunk_mut::<CHECKSUM_LEN>()
    {
        *checksum = crc32fast::hash(content).to_le_bytes();
    }
}

/// Reads `limit` bytes, or fewer at the end of the file.
fn read_up_to(file: &mut File, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(limit);
    file.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
