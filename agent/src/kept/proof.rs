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

#[cfg(test)]
mod tests {
    use super::*;

    /// Binlogs of real servers, in the clear.
    const SAMPLES: [&[u8]; 4] = [
        include_bytes!("../../../binlog/tests/data/statements.binlog"),
        include_bytes!("../../../binlog/tests/data/tagged.binlog"),
        include_bytes!("../../../binlog/tests/data/compressed.binlog"),
        include_bytes!("../../../binlog/tests/data/without_checksum.binlog"),
    ];

    fn password(byte: u8) -> FilePassword {
        FilePassword::from_slice(&[byte; 32]).unwrap()
    }

    fn body(plain: &[u8]) -> Vec<u8> {
        let mut body = plain.to_vec();
        StreamCipher::new(&password(7)).apply(0, &mut body);
        body
    }

    fn proven(body: &[u8], at_once: usize) -> Result<BodyFacts, ProofError> {
        let mut proof = BodyProof::new(&password(7));
        body.chunks(at_once).try_for_each(|bytes| proof.push(bytes))?;
        proof.finish()
    }

    #[test]
    fn a_body_is_proven_alike_in_pieces_of_any_size() {
        for sample in SAMPLES {
            let body = body(sample);
            let facts = proven(&body, body.len()).unwrap();
            assert_eq!(facts.contents.end, sample.len() as u64);
            assert!(facts.contents.transactions > 0 && !facts.server_version.is_empty());
            for at_once in [1, 7, 512] {
                assert_eq!(proven(&body, at_once).unwrap(), facts);
            }
        }
    }

    #[test]
    fn a_body_cut_anywhere_but_between_transactions_is_refused() {
        let body = body(SAMPLES[0]);
        let accepted = (0..body.len()).filter(|end| proven(&body[..*end], body.len()).is_ok()).count();
        let transactions = proven(&body, body.len()).unwrap().contents.transactions;
        // After the first two events, and after each transaction but the last.
        assert!(accepted as u64 <= transactions + 3, "{accepted} of {transactions}");
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let whole = body(SAMPLES[0]);
        for at in 0..whole.len() {
            let mut body = whole.clone();
            body[at] ^= 0x10;
            assert!(proven(&body, body.len()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_wrong_password_is_refused_by_the_first_bytes() {
        let mut proof = BodyProof::new(&password(8));
        assert!(matches!(proof.push(&body(SAMPLES[0])[..16]), Err(ProofError::Frame(_))));
    }
}
