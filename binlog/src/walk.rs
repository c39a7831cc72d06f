//! Events checked as their bytes go by, without keeping them.

use crate::error::{EventError, FrameError};
use crate::event::{
    CHECKSUM_LEN, ChecksumAlgorithm, EVENT_HEADER_LEN, EventHeader, EventType, FIRST_EVENT_OFFSET, FLAG_IN_USE, MAGIC,
};

/// Where an event's flags are in its header.
const FLAGS_AT: std::ops::Range<usize> = 17..19;

/// Checks length and checksum of each event. It takes the memory of a header, where a [`Framer`](crate::Framer) takes that of
/// the longest event, and says nothing of what the events are: it is for bytes that were events when they came. After an
/// error, every further call gives the same error.
#[derive(Debug)]
pub struct EventWalk {
    algorithm: ChecksumAlgorithm,
    /// Offset in the binlog of the first byte that is in no whole event yet.
    offset: u64,
    /// Of the magic, a header or a checksum what is there, until all of it is.
    part: Vec<u8>,
    inside: Option<Inside>,
    failed: Option<FrameError>,
}

/// An event whose header is known.
#[derive(Debug)]
struct Inside {
    header: EventHeader,
    /// Bytes in front of the checksum that are still to come.
    content_left: usize,
    /// Of those that came.
    hasher: crc32fast::Hasher,
}

impl EventWalk {
    /// For a binlog whose events end as `algorithm` says, from the event at `start` on, or from its magic at 0.
    #[must_use]
    pub const fn new(algorithm: ChecksumAlgorithm, start: u64) -> Self {
        Self { algorithm, offset: start, part: Vec::new(), inside: None, failed: None }
    }

    /// Takes the bytes that follow.
    ///
    /// # Errors
    /// When they are not as the server wrote them.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.walk(bytes).inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Says that no bytes follow.
    ///
    /// # Errors
    /// [`FrameError::Torn`] when the bytes end inside of an event or of the magic; the error of `accept` if there was one.
    pub fn finish(&mut self) -> Result<(), FrameError> {
        self.accept(&[])?;
        let before_part = match &self.inside {
            Some(Inside { header, content_left, .. }) => {
                u64::from(header.event_len).saturating_sub(byte_count(*content_left + self.checksum_len()))
            }
            None if self.part.is_empty() && self.offset > 0 => return Ok(()),
            None => 0,
        };
        let bytes = before_part.saturating_add(byte_count(self.part.len()));
        Err(FrameError::Torn { offset: self.offset, bytes })
    }

    fn walk(&mut self, mut bytes: &[u8]) -> Result<(), FrameError> {
        loop {
            if self.inside.is_none() {
                match self.header(&mut bytes)? {
                    Some(header) => self.begin(header)?,
                    None if bytes.is_empty() => return Ok(()),
                    None => continue,
                }
            }
            if !self.end(&mut bytes)? {
                return Ok(());
            }
        }
    }

    /// The next event's header, when all of it is there, taken from `bytes`.
    fn header(&mut self, bytes: &mut &[u8]) -> Result<Option<[u8; EVENT_HEADER_LEN]>, FrameError> {
        if self.offset > 0 {
            return Ok(self.next_part(bytes));
        }
        match self.next_part(bytes) {
            Some(MAGIC) => self.offset = FIRST_EVENT_OFFSET,
            Some(found) => return Err(FrameError::NotABinlog { found }),
            None => {}
        }
        Ok(None)
    }

    /// The next `N` bytes, when all of them are there, taken from `bytes`.
    fn next_part<const N: usize>(&mut self, bytes: &mut &[u8]) -> Option<[u8; N]> {
        if self.part.is_empty()
            && let Some((part, later)) = bytes.split_first_chunk()
        {
            *bytes = later;
            return Some(*part);
        }
        let (now, later) = bytes.split_at_checked(N.saturating_sub(self.part.len())).unwrap_or((bytes, &[]));
        self.part.extend_from_slice(now);
        *bytes = later;
        let part = self.part.first_chunk().copied();
        if part.is_some() {
            self.part.clear();
        }
        part
    }

    fn begin(&mut self, mut bytes: [u8; EVENT_HEADER_LEN]) -> Result<(), FrameError> {
        let wrong = |declared| self.wrong(EventError::ImpossibleLength { declared });
        let Some(header) = EventHeader::read(&bytes) else { return Err(wrong(0)) };
        // Without checksums its place is all that tells.
        let is_moved = header.ahead_of(self.offset).is_some_and(|ahead| ahead > 0);
        if is_moved && self.algorithm == ChecksumAlgorithm::None && header.event_type != EventType::FORMAT_DESCRIPTION {
            return Err(self.wrong(header.wrong_position(self.offset)));
        }
        let front_len = EVENT_HEADER_LEN + self.checksum_len();
        let content_left = header.checked_len().ok().and_then(|len| len.checked_sub(front_len));
        let Some(content_left) = content_left else { return Err(wrong(u64::from(header.event_len))) };
        if header.event_type == EventType::FORMAT_DESCRIPTION
            && let Some(flags) = bytes.get_mut(FLAGS_AT)
        {
            // The server changes it in place, and it is not part of the checksum.
            flags.copy_from_slice(&(header.flags & !FLAG_IN_USE).to_le_bytes());
        }
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes);
        self.inside = Some(Inside { header, content_left, hasher });
        Ok(())
    }

    /// Takes what of the event is in `bytes`; whether all of it was there.
    fn end(&mut self, bytes: &mut &[u8]) -> Result<bool, FrameError> {
        let Some(Inside { content_left, hasher, .. }) = &mut self.inside else { return Ok(false) };
        let (content, rest) = bytes.split_at_checked(*content_left).unwrap_or((bytes, &[]));
        hasher.update(content);
        *content_left = content_left.saturating_sub(content.len());
        *bytes = rest;
        if *content_left > 0 {
            return Ok(false);
        }
        let stored = match self.algorithm {
            ChecksumAlgorithm::None => None,
            ChecksumAlgorithm::Crc32 => match self.next_part(bytes) {
                None => return Ok(false),
                stored => stored.map(u32::from_le_bytes),
            },
        };
        let Some(Inside { header, hasher, .. }) = self.inside.take() else { return Ok(false) };
        let computed = hasher.finalize();
        if let Some(stored) = stored.filter(|stored| *stored != computed) {
            return Err(self.wrong(EventError::Checksum { event_type: header.event_type, stored, computed }));
        }
        self.offset = self.offset.saturating_add(u64::from(header.event_len));
        Ok(true)
    }

    const fn checksum_len(&self) -> usize {
        match self.algorithm {
            ChecksumAlgorithm::Crc32 => CHECKSUM_LEN,
            ChecksumAlgorithm::None => 0,
        }
    }

    fn wrong(&self, source: EventError) -> FrameError {
        FrameError::Event { offset: self.offset, source }
    }
}

fn byte_count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
