//! Proof that an encrypted body is a whole binlog: every event of it is decrypted and checked.

use std::io;

use highwater_binlog::{
    EventType, FormatDescription, FrameError, Framer, GtidSet, SegmentError, SegmentFacts, SegmentPolicy, Segmenter,
    StreamCipher, TransactionError, TransactionTracker, previous_gtids,
};
use highwater_catalog::{KeptFile, Manifest};
use highwater_keyring::FilePassword;

use super::{KeepError, KeptKeys};
use crate::archive::{Archive, ArchiveError, CopyError};

/// Why a body is not a whole binlog.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// Its bytes are no events, or not as the server wrote them.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Its events are in an order that transactions cannot have.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// A GTID is in it twice, or events do not follow each other.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// It ends inside of a transaction.
    #[error("ends inside of the transaction that begins at offset {start}")]
    Unfinished {
        /// Offset of the transaction.
        start: u64,
    },
    /// It lacks what every binlog of a server with encryption begins with.
    #[error("has no {0} event")]
    Missing(EventType),
}

/// What a body turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyFacts {
    /// The server's `@@version`.
    pub server_version: String,
    /// All transactions that the server had executed before it.
    pub gtids_before: GtidSet,
    /// What it holds.
    pub contents: SegmentFacts,
}

/// Takes an encrypted body from its first byte to its last, and checks what it decrypts to: magic, format description,
/// the CRC of every event, whole transactions.
///
/// Memory is that of the longest event.
#[derive(Debug)]
pub struct BodyProof {
    cipher: StreamCipher,
    offset: u64,
    plain: Vec<u8>,
    framer: Framer,
    tracker: TransactionTracker,
    segmenter: Segmenter,
    server_version: Option<String>,
    gtids_before: Option<GtidSet>,
}

impl BodyProof {
    /// For the file with this password.
    #[must_use]
    pub fn new(password: &FilePassword) -> Self {
        // Nothing is ever cut off.
        let policy = SegmentPolicy { bytes_max: u64::MAX, age_micros_max: u64::MAX };
        Self {
            cipher: StreamCipher::new(password),
            offset: 0,
            plain: Vec::new(),
            framer: Framer::new(),
            tracker: TransactionTracker::new(),
            segmenter: Segmenter::new(policy, 0),
            server_version: None,
            gtids_before: None,
        }
    }

    /// Takes the bytes that follow.
    ///
    /// # Errors
    /// As soon as they show that it is no binlog.
    pub fn push(&mut self, body: &[u8]) -> Result<(), ProofError> {
        self.plain.clear();
        self.plain.extend_from_slice(body);
        self.cipher.apply(self.offset, &mut self.plain);
        self.offset = self.offset.saturating_add(body.len() as u64);
        self.framer.push(&self.plain);
        while let Some((offset, event)) = self.framer.next()? {
            match event.event_type() {
                EventType::FORMAT_DESCRIPTION if self.server_version.is_none() => {
                    let read = FormatDescription::read(&event);
                    let description = read.map_err(|source| FrameError::Event { offset, source })?;
                    self.server_version = Some(description.server_version);
                }
                EventType::PREVIOUS_GTIDS if self.gtids_before.is_none() => {
                    let read = previous_gtids(&event);
                    self.gtids_before = Some(read.map_err(|source| FrameError::Event { offset, source })?);
                }
                _ => {}
            }
            let progress = self.tracker.accept(offset, &event)?;
            self.segmenter.accept(offset, &event, &progress, 0)?;
        }
        Ok(())
    }

    /// Says that no bytes follow.
    ///
    /// # Errors
    /// When it ends inside of an event or a transaction, or lacks its first events.
    pub fn finish(&self) -> Result<BodyFacts, ProofError> {
        self.framer.finish()?;
        if let Some(open) = self.tracker.open() {
            return Err(ProofError::Unfinished { start: open.start });
        }
        let missing = |event_type| move || ProofError::Missing(event_type);
        Ok(BodyFacts {
            server_version: self.server_version.clone().ok_or_else(missing(EventType::FORMAT_DESCRIPTION))?,
            gtids_before: self.gtids_before.clone().ok_or_else(missing(EventType::PREVIOUS_GTIDS))?,
            contents: self.segmenter.facts().clone(),
        })
    }
}

impl io::Write for BodyProof {
    fn write(&mut self, body: &[u8]) -> io::Result<usize> {
        self.push(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(body.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a kept file's body to its end: proves that it is what was kept, and that its password opens it.
///
/// # Errors
/// When it is not, or no bundle has its password.
pub fn prove_kept(archive: &Archive, file: &KeptFile, keys: &KeptKeys) -> Result<(), KeepError> {
    let mut proof = BodyProof::new(keys.password(file)?);
    let damaged = |source| KeepError::Damaged { binlog: file.binlog.clone(), source };
    archive.read_file_body(file)?.copy_to(&mut proof).map_err(|error| match error {
        CopyError::Object(error) => error.into(),
        CopyError::Sink(error) => match error.downcast() {
            Ok(source) => damaged(source),
            Err(source) => ArchiveError::Read { object: file.key(), source }.into(),
        },
    })?;
    let facts = proof.finish().map_err(damaged)?;
    let claimed = (&file.gtids_before, &file.gtids_added, file.events, file.transactions);
    let contents = &facts.contents;
    if claimed != (&facts.gtids_before, &contents.gtids_added, contents.events, contents.transactions) {
        let what = "its binlog is another than it says".to_owned();
        return Err(ArchiveError::Damaged { object: file.key(), what }.into());
    }
    Ok(())
}
