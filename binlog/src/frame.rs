//! From a stream of bytes to whole, verified events, without doing the reading.

use crate::control::FormatDescription;
use crate::encryption::ENCRYPTION_MAGIC;
use crate::error::{EventError, FrameError};
use crate::event::{ChecksumAlgorithm, EventHeader, EventType, FIRST_EVENT_OFFSET, FLAG_RELAY_LOG, MAGIC, RawEvent};

/// Read bytes are dropped from the front of the buffer once they are this many, so that each is moved rarely.
const DROP_LEN: usize = 1 << 20;

/// Cuts the bytes of one binlog into events and verifies each.
///
/// Holds the bytes that were pushed and not yet taken, so the memory is that of the longest event and one push: take
/// all events after every push. After an error, every further call gives the same error.
///
/// An event says where it ends. A length that does not lead there is damaged, and is told as soon as the header is there:
/// waiting for so many bytes would make the end of the binlog look like an event that the server had not yet written.
#[derive(Debug)]
pub struct Framer {
    buffer: Vec<u8>,
    /// How much of `buffer` is taken.
    taken: usize,
    /// Offset in the binlog of the first byte that is not taken.
    offset: u64,
    ending: Ending,
    positions: Positions,
    failed: Option<FrameError>,
}

/// What is known about how events end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Nothing: the magic is next.
    BeforeMagic,
    /// Nothing: the format description is next.
    BeforeDescription,
    Known(ChecksumAlgorithm),
}

/// What is known about the positions that events say they end at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Positions {
    /// They are those of another file.
    Foreign,
    /// No event has one yet.
    Unknown,
    /// The next event has another one than its place: either the binlog is a part of one, whose events keep their
    /// positions, or the length is damaged. That all of it is there and right tells.
    Moved(FrameError),
    /// By so many they are ahead of the places here, modulo 2^32.
    Ahead(u32),
}

impl Default for Framer {
    fn default() -> Self {
        Self::new()
    }
}

impl Framer {
    /// For a binlog from its first byte.
    #[must_use]
    pub const fn new() -> Self {
        Self::at(0, Ending::BeforeMagic)
    }

    /// For a binlog from the event at `offset` on, whose events end as `algorithm` says.
    #[must_use]
    pub const fn resume(algorithm: ChecksumAlgorithm, offset: u64) -> Self {
        Self::at(offset, Ending::Known(algorithm))
    }

    const fn at(offset: u64, ending: Ending) -> Self {
        Self { buffer: Vec::new(), taken: 0, offset, ending, positions: Positions::Unknown, failed: None }
    }

    /// For events that say where they ended in another file: those of a relay log that is not read from its beginning,
    /// and those inside of a transaction payload.
    #[must_use]
    pub fn with_foreign_positions(self) -> Self {
        Self { positions: Positions::Foreign, ..self }
    }

    /// Adds the bytes that follow.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken >= DROP_LEN || self.taken == self.buffer.len() {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Offset in the binlog of the first byte that was not yet part of an event.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next whole event and its offset; none when more bytes are needed.
    ///
    /// # Errors
    /// When the bytes are not a binlog's, or not as the server wrote them.
    #[expect(clippy::should_implement_trait, reason = "the event borrows from the framer, so it is no Iterator")]
    pub fn next(&mut self) -> Result<Option<(u64, RawEvent<'_>)>, FrameError> {
        match self.whole_event() {
            Ok(None) => Ok(None),
            Ok(Some((algorithm, len))) => self.take_event(algorithm, len).map(Some),
            Err(error) => {
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Says that no bytes follow.
    ///
    /// # Errors
    /// [`FrameError::Torn`] when the bytes end inside of an event or of the magic; the error of `next` if there was one.
    pub fn finish(&self) -> Result<(), FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if let Positions::Moved(error) = &self.positions {
            return Err(error.clone());
        }
        let bytes = self.buffer.len() - self.taken;
        if bytes > 0 || self.ending == Ending::BeforeMagic {
            return Err(FrameError::Torn { offset: self.offset, bytes: u64::try_from(bytes).unwrap_or(u64::MAX) });
        }
        Ok(())
    }

    /// How the next event ends and how long it is, if all of it is there.
    fn whole_event(&mut self) -> Result<Option<(ChecksumAlgorithm, usize)>, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.ending == Ending::BeforeMagic {
            let Some(magic) = self.buffer.first_chunk::<4>() else { return Ok(None) };
            match *magic {
                MAGIC => {}
                ENCRYPTION_MAGIC => return Err(FrameError::Encrypted),
                found => return Err(FrameError::NotABinlog { found }),
            }
            self.ending = Ending::BeforeDescription;
            self.taken = MAGIC.len();
            self.offset = FIRST_EVENT_OFFSET;
        }
        let bytes = self.buffer.get(self.taken..).unwrap_or_default();
        let Some(header) = EventHeader::read(bytes) else { return Ok(None) };
        let offset = self.offset;
        let len = header.checked_len().map_err(|source| FrameError::Event { offset, source })?;
        let algorithm = match self.ending {
            Ending::Known(algorithm) => algorithm,
            // It says itself how it ends.
            _ if header.event_type == EventType::FORMAT_DESCRIPTION => ChecksumAlgorithm::None,
            _ => return Err(FrameError::NoFormatDescription { found: header.event_type }),
        };
        self.check_position(&header)?;
        let bytes = self.buffer.get(self.taken..).unwrap_or_default();
        Ok((bytes.len() >= len).then_some((algorithm, len)))
    }

    /// Compares where the event with `header` says that it ends with where its length leads to.
    fn check_position(&mut self, header: &EventHeader) -> Result<(), FrameError> {
        if header.event_type == EventType::FORMAT_DESCRIPTION {
            if header.flags & FLAG_RELAY_LOG != 0 {
                self.positions = Positions::Foreign;
            }
            // It is at the start of every file, also of one that goes on with later events.
            return Ok(());
        }
        let Some(ahead) = header.ahead_of(self.offset) else { return Ok(()) };
        let source = header.wrong_position(self.offset);
        let wrong = FrameError::Event { offset: self.offset, source };
        match &self.positions {
            Positions::Foreign | Positions::Moved(_) => {}
            Positions::Unknown if ahead == 0 => self.positions = Positions::Ahead(0),
            // Nothing but the beginning of a binlog has this event.
            Positions::Unknown if header.event_type == EventType::PREVIOUS_GTIDS => return Err(wrong),
            Positions::Unknown => self.positions = Positions::Moved(wrong),
            Positions::Ahead(before) if *before == ahead => {}
            Positions::Ahead(_) => return Err(wrong),
        }
        Ok(())
    }

    fn take_event(&mut self, algorithm: ChecksumAlgorithm, len: usize) -> Result<(u64, RawEvent<'_>), FrameError> {
        let offset = self.offset;
        let bytes = self.buffer.get(self.taken..).and_then(|rest| rest.get(..len)).unwrap_or_default();
        match verified(bytes, algorithm) {
            Ok((event, description)) => {
                if let Some(description) = description {
                    self.ending = Ending::Known(description.checksum_algorithm);
                }
                if let (Positions::Moved(_), Some(ahead)) = (&self.positions, event.header().ahead_of(offset)) {
                    self.positions = Positions::Ahead(ahead);
                }
                self.taken += len;
                self.offset = offset.saturating_add(event.byte_count());
                Ok((offset, event))
            }
            Err(source) => {
                let error = FrameError::Event { offset, source };
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }
}

/// A verified event and, if it is one, its format description read.
fn verified(
    bytes: &[u8],
    algorithm: ChecksumAlgorithm,
) -> Result<(RawEvent<'_>, Option<FormatDescription>), EventError> {
    let event = RawEvent::verify(bytes, algorithm)?;
    let is_description = event.event_type() == EventType::FORMAT_DESCRIPTION;
    let description = is_description.then(|| FormatDescription::read(&event)).transpose()?;
    Ok((event, description))
}
