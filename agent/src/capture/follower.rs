//! Follows a source's stream: verifies each event, counts offsets, finds transactions, says what to keep and where to cut.
//!
//! Pure: events and times come in, [`Effect`]s come out.

use std::collections::BTreeMap;
use std::ops::Range;

use highwater_binlog::{
    BinlogName, ChecksumAlgorithm, EventError, EventType, FIRST_EVENT_OFFSET, FormatDescription, Gtid, GtidSet, MAGIC,
    Progress, RawEvent, RotateEvent, SegmentError, SegmentFacts, SegmentPolicy, Segmenter, ServerUuid,
    TransactionError, TransactionTracker, previous_gtids,
};
use highwater_catalog::{Segment, Sha256Digest};
use sha2::{Digest, Sha256};

use super::continuity::{Discontinuity, Start};

/// What an event asks the shell to do. Effects are carried out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Begin a new stretch of a binlog. One that starts at 0 begins with the magic, which is not in the stream.
    Open {
        /// The binlog.
        binlog: BinlogName,
        /// Offset of its first byte.
        start: u64,
    },
    /// Append these bytes of the batch.
    Append(Range<usize>),
    /// Publish this part of the stretch as a segment.
    Cut(Cut),
}

/// A segment to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The server whose binlog it is.
    pub server: ServerUuid,
    /// The binlog.
    pub binlog: BinlogName,
    /// What is in it.
    pub facts: SegmentFacts,
}

/// What is wrong with a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// An event is not what its length and checksum say.
    #[error("event in {place}")]
    Event {
        /// Binlog and offset.
        place: String,
        /// What is wrong with it.
        source: EventError,
    },
    /// The order of events is none that transactions can have.
    #[error("transactions of {binlog}")]
    Transaction {
        /// The binlog.
        binlog: String,
        /// What is wrong.
        source: TransactionError,
    },
    /// Segments cannot be cut from it.
    #[error("segments of {binlog}")]
    Segment {
        /// The binlog.
        binlog: String,
        /// What is wrong.
        source: SegmentError,
    },
    /// An event before the one that names the binlog.
    #[error("the source sends {found} before it names a binlog")]
    Unannounced {
        /// The event.
        found: EventType,
    },
    /// The source begins a binlog inside of it, or the same one again.
    #[error("the source begins {binlog} again or not at its start")]
    NotFromStart {
        /// The binlog.
        binlog: String,
    },
    /// A binlog ends inside a transaction.
    #[error("{binlog} ends inside a transaction")]
    TornBinlog {
        /// The binlog.
        binlog: String,
    },
    /// A binlog that says that it follows transactions we never saw.
    #[error("{binlog} follows transactions that the source did not send: {missing}")]
    MissedTransactions {
        /// The binlog.
        binlog: String,
        /// The transactions.
        missing: GtidSet,
    },
    /// Bytes of a binlog that the source leaves out.
    #[error("the source leaves out the bytes of {binlog} between {from} and {to}")]
    Hole {
        /// The binlog.
        binlog: String,
        /// Offset after the last byte we have.
        from: u64,
        /// Offset of the next event.
        to: u64,
    },
    /// An event that begins inside of what the archive has, and ends behind it.
    #[error("the event at {binlog}:{offset} overlaps the archive's end at {end}")]
    Overlap {
        /// The binlog.
        binlog: String,
        /// Where the event starts.
        offset: u64,
        /// Where the archive's bytes end.
        end: u64,
    },
    /// A transaction without a GTID.
    #[error("the transaction at {binlog}:{offset} has no GTID")]
    Anonymous {
        /// The binlog.
        binlog: String,
        /// Where it starts.
        offset: u64,
    },
    /// A transaction that the archive has already.
    #[error("the source sends {gtid} again at {binlog}:{offset}")]
    Repeated {
        /// The transaction.
        gtid: Gtid,
        /// The binlog.
        binlog: String,
        /// Where it starts.
        offset: u64,
    },
    /// What is sent again differs from the archive.
    #[error(transparent)]
    Discontinuity(#[from] Discontinuity),
}

/// The state of one stream.
#[derive(Debug)]
pub struct Follower {
    server: ServerUuid,
    policy: SegmentPolicy,
    captured: GtidSet,
    ends: BTreeMap<BinlogName, u64>,
    comparison: Option<Comparison>,
    may_skip: bool,
    checksum: ChecksumAlgorithm,
    file: Option<OpenFile>,
    last_event_second: Option<u32>,
}

/// The binlog that is being sent.
#[derive(Debug)]
struct OpenFile {
    binlog: BinlogName,
    /// Offset after the last event.
    offset: u64,
    /// Where the archive's bytes end; 0 when it has none.
    archived: u64,
    tracker: TransactionTracker,
    /// From the first byte on that the archive does not have.
    segmenter: Option<Segmenter>,
    /// The 64-bit position of the last heartbeat: where the events that were left out end.
    heartbeat: Option<u64>,
    /// Heartbeats since the last event.
    heartbeats: u32,
}

/// Bytes that are in the archive and are sent again.
#[derive(Debug)]
struct Comparison {
    binlog: BinlogName,
    start: u64,
    end: u64,
    expected: Sha256Digest,
    hasher: Sha256,
    next: u64,
}

impl Follower {
    /// At the start of a stream that was asked for as `start` says. `captured` is what the archive has.
    pub fn new(
        server: ServerUuid,
        policy: SegmentPolicy,
        captured: GtidSet,
        ends: BTreeMap<BinlogName, u64>,
        start: &Start,
    ) -> Self {
        Self {
            server,
            policy,
            captured,
            ends,
            comparison: start.compare.as_ref().map(Comparison::new),
            may_skip: start.may_skip,
            // What we announced; each binlog's format description says how it goes on.
            checksum: ChecksumAlgorithm::Crc32,
            file: None,
            last_event_second: None,
        }
    }

    /// Takes one event, which stands at `range` of its batch and came `now`.
    ///
    /// # Errors
    /// When it cannot be what the source wrote there. The follower must not be used further.
    pub fn accept(
        &mut self,
        batch: &[u8],
        range: Range<usize>,
        now_micros: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StreamError> {
        let bytes = batch.get(range.clone()).unwrap_or_default();
        let event = RawEvent::verify(bytes, self.checksum).map_err(|source| self.event_error(source))?;
        match event.event_type() {
            EventType::HEARTBEAT | EventType::HEARTBEAT_V2 => self.heartbeat(&event),
            EventType::ROTATE if event.is_artificial() => {
                let rotate = RotateEvent::read(&event).map_err(|source| self.event_error(source))?;
                self.open(rotate.next.binlog, rotate.next.offset, effects)
            }
            _ if event.is_artificial() => Ok(()),
            _ => self.event(&event, range, now_micros, effects),
        }
    }

    /// Cuts what is due by age.
    pub fn tick(&mut self, now_micros: u64, effects: &mut Vec<Effect>) {
        if self.segmenter().is_some_and(|segmenter| segmenter.is_due(now_micros)) {
            self.cut(effects);
        }
    }

    /// Cuts all whole transactions, due or not.
    pub fn cut(&mut self, effects: &mut Vec<Effect>) {
        let server = self.server;
        let Some(OpenFile { binlog, segmenter: Some(segmenter), .. }) = &mut self.file else { return };
        if let Some(facts) = segmenter.cut() {
            effects.push(Effect::Cut(Cut { server, binlog: binlog.clone(), facts }));
        }
    }

    /// When [`Self::tick`] has something to do next.
    #[must_use]
    pub fn due_at(&self) -> Option<u64> {
        self.segmenter()?.due_at()
    }

    /// Where the stream is: the binlog, and the offset after its last event.
    #[must_use]
    pub fn position(&self) -> Option<(&BinlogName, u64)> {
        self.file.as_ref().map(|file| (&file.binlog, file.offset))
    }

    /// The source's clock in the last event that a transaction or the binlog itself wrote.
    #[must_use]
    pub fn last_event_second(&self) -> Option<u32> {
        self.last_event_second
    }

    /// All transactions that were accepted, those of the archive included.
    #[must_use]
    pub fn captured(&self) -> &GtidSet {
        &self.captured
    }

    fn segmenter(&self) -> Option<&Segmenter> {
        self.file.as_ref()?.segmenter.as_ref()
    }

    fn event_error(&self, source: EventError) -> StreamError {
        let place = self.position().map_or_else(|| "the stream's start".to_owned(), |(b, o)| format!("{b}:{o}"));
        StreamError::Event { place, source }
    }

    fn open(&mut self, binlog: BinlogName, offset: u64, effects: &mut Vec<Effect>) -> Result<(), StreamError> {
        self.cut(effects);
        let same = self.file.as_ref().is_some_and(|file| file.binlog == binlog);
        if same || offset != FIRST_EVENT_OFFSET {
            return Err(StreamError::NotFromStart { binlog: binlog.to_string() });
        }
        if let Some(file) = self.file.as_ref().filter(|file| file.tracker.open().is_some()) {
            return Err(StreamError::TornBinlog { binlog: file.binlog.to_string() });
        }
        let left = self.file.as_ref().map(|file| &file.binlog);
        if let Some(comparison) = self.comparison.take_if(|comparison| Some(&comparison.binlog) == left) {
            comparison.finish()?;
        }
        let archived = self.ends.get(&binlog).copied().unwrap_or(0);
        self.file = Some(OpenFile {
            binlog,
            offset: FIRST_EVENT_OFFSET,
            archived,
            tracker: TransactionTracker::new(),
            segmenter: None,
            heartbeat: None,
            heartbeats: 0,
        });
        Ok(())
    }

    fn heartbeat(&mut self, event: &RawEvent<'_>) -> Result<(), StreamError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.heartbeats += 1;
        if event.event_type() == EventType::HEARTBEAT_V2 {
            file.heartbeat = heartbeat_position(event.body());
        }
        // One heartbeat may stand for transactions that are left out. After two in a row the source has sent all it has.
        if file.heartbeats > 1
            && let Some(comparison) = self.comparison.take()
        {
            comparison.finish()?;
        }
        Ok(())
    }

    /// Takes an event that stands in a binlog.
    fn event(
        &mut self,
        event: &RawEvent<'_>,
        range: Range<usize>,
        now_micros: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StreamError> {
        self.read_prologue(event)?;
        let Some(file) = &mut self.file else {
            return Err(StreamError::Unannounced { found: event.event_type() });
        };
        let compared_from = self.comparison.as_ref().filter(|c| c.binlog == file.binlog).map(|c| c.start);
        let offset = file.place(event, compared_from);
        let end = offset.saturating_add(event.byte_count());
        (file.heartbeat, file.heartbeats) = (None, 0);
        if end <= file.archived {
            file.offset = end;
            if let Some(comparison) = self.comparison.as_mut().filter(|c| c.binlog == file.binlog) {
                comparison.feed(offset, event.bytes());
            }
            return Ok(());
        }
        if offset < file.archived {
            let binlog = file.binlog.to_string();
            return Err(StreamError::Overlap { binlog, offset, end: file.archived });
        }
        self.begin_stretch(offset, effects)?;
        self.keep(event, offset, range, now_micros, effects)
    }

    /// The events in front of a binlog's transactions say how to read the rest, and what must have come before.
    fn read_prologue(&mut self, event: &RawEvent<'_>) -> Result<(), StreamError> {
        match event.event_type() {
            EventType::FORMAT_DESCRIPTION => {
                let description = FormatDescription::read(event).map_err(|source| self.event_error(source))?;
                self.checksum = description.checksum_algorithm;
            }
            EventType::PREVIOUS_GTIDS => {
                let before = previous_gtids(event).map_err(|source| self.event_error(source))?;
                let missing = before.subtract(&self.captured);
                if !missing.is_empty() {
                    let binlog = self.position().map(|(binlog, _)| binlog.to_string()).unwrap_or_default();
                    return Err(StreamError::MissedTransactions { binlog, missing });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Makes sure that a segment is open which the byte at `offset` continues.
    fn begin_stretch(&mut self, offset: u64, effects: &mut Vec<Effect>) -> Result<(), StreamError> {
        let Some(file) = &self.file else { return Ok(()) };
        let continued = match &file.segmenter {
            Some(segmenter) => offset == segmenter.seen().max(FIRST_EVENT_OFFSET),
            None => {
                if let Some(comparison) = self.comparison.take().filter(|c| c.binlog == file.binlog) {
                    comparison.finish()?;
                }
                false
            }
        };
        if continued {
            return Ok(());
        }
        let expected = file.segmenter.as_ref().map_or(file.archived, Segmenter::seen).max(FIRST_EVENT_OFFSET);
        if offset != expected && (!self.may_skip || file.tracker.open().is_some()) {
            return Err(StreamError::Hole { binlog: file.binlog.to_string(), from: expected, to: offset });
        }
        self.cut(effects);
        let policy = self.policy;
        if let Some(file) = &mut self.file {
            let start = if offset == FIRST_EVENT_OFFSET { 0 } else { offset };
            file.segmenter = Some(Segmenter::new(policy, start));
            effects.push(Effect::Open { binlog: file.binlog.clone(), start });
        }
        Ok(())
    }

    /// Keeps an event that the archive does not have.
    fn keep(
        &mut self,
        event: &RawEvent<'_>,
        offset: u64,
        range: Range<usize>,
        now_micros: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StreamError> {
        let Some(OpenFile { binlog, offset: reached, tracker, segmenter: Some(segmenter), .. }) = &mut self.file else {
            return Err(StreamError::Unannounced { found: event.event_type() });
        };
        let progress = tracker
            .accept(offset, event)
            .map_err(|source| StreamError::Transaction { binlog: binlog.to_string(), source })?;
        if let Some(gtid) = tracker.open().and_then(|open| open.gtid.as_ref()).filter(|g| self.captured.contains(g)) {
            return Err(StreamError::Repeated { gtid: gtid.clone(), binlog: binlog.to_string(), offset });
        }
        if let Progress::Committed(transaction) = &progress {
            let Some(gtid) = &transaction.gtid else {
                return Err(StreamError::Anonymous { binlog: binlog.to_string(), offset: transaction.start });
            };
            self.captured.insert(gtid);
        }
        segmenter
            .accept(offset, event, &progress, now_micros)
            .map_err(|source| StreamError::Segment { binlog: binlog.to_string(), source })?;
        *reached = offset.saturating_add(event.byte_count());
        let due = segmenter.is_due(now_micros);
        append(effects, range);
        if event.header().timestamp > 0 {
            self.last_event_second = Some(event.header().timestamp);
        }
        // Nothing follows in this binlog.
        if due || matches!(event.event_type(), EventType::ROTATE | EventType::STOP) {
            self.cut(effects);
        }
        Ok(())
    }
}

impl OpenFile {
    /// Where the event starts. Its header has the lower 32 bits of its end; we count the rest.
    fn place(&self, event: &RawEvent<'_>, compared_from: Option<u64>) -> u64 {
        let low = u64::from(event.header().end_log_pos).wrapping_sub(event.byte_count()) & u64::from(u32::MAX);
        let fits = |offset: u64| offset & u64::from(u32::MAX) == low;
        if fits(self.offset) {
            return self.offset;
        }
        // The source left out what we said we have: a heartbeat tells where that ends.
        if let Some(told) = self.heartbeat.filter(|told| *told >= self.offset && fits(*told)) {
            return told;
        }
        let from = self.offset.max(compared_from.unwrap_or(0));
        let candidate = (from & !u64::from(u32::MAX)) | low;
        if candidate >= from { candidate } else { candidate.saturating_add(1 << 32) }
    }
}

impl Comparison {
    fn new(segment: &Segment) -> Self {
        let mut hasher = Sha256::new();
        let mut next = segment.start;
        if segment.start == 0 {
            hasher.update(MAGIC);
            next = FIRST_EVENT_OFFSET;
        }
        let expected = segment.object.plain_sha256;
        Self { binlog: segment.binlog.clone(), start: segment.start, end: segment.end, expected, hasher, next }
    }

    fn feed(&mut self, offset: u64, bytes: &[u8]) {
        if offset == self.next && offset < self.end {
            self.hasher.update(bytes);
            self.next = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        }
    }

    fn finish(self) -> Result<(), Discontinuity> {
        let Self { binlog, start, end, expected, hasher, next } = self;
        let found = Sha256Digest(hasher.finalize().into());
        if next == end && found == expected {
            Ok(())
        } else {
            Err(Discontinuity::Differs { binlog: binlog.to_string(), start, end })
        }
    }
}

/// Adds bytes to those already to be appended, where they follow them.
fn append(effects: &mut Vec<Effect>, range: Range<usize>) {
    match effects.last_mut() {
        Some(Effect::Append(before)) if before.end == range.start => before.end = range.end,
        _ => effects.push(Effect::Append(range)),
    }
}

/// The position in a heartbeat of version 2: fields of type, length and value, each number length-encoded
/// (`Heartbeat_event_v2` in `control_events.cpp`).
fn heartbeat_position(mut body: &[u8]) -> Option<u64> {
    loop {
        let field = length_encoded(&mut body)?;
        let len = usize::try_from(length_encoded(&mut body)?).ok()?;
        let (mut value, rest) = body.split_at_checked(len)?;
        body = rest;
        match field {
            // OT_HB_HEADER_END_MARK
            0 => return None,
            // OT_HB_LOG_POSITION_FIELD
            2 => return length_encoded(&mut value),
            _ => {}
        }
    }
}

fn length_encoded(bytes: &mut &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first()?;
    let len = match first {
        0..=250 => {
            *bytes = rest;
            return Some(u64::from(*first));
        }
        252 => 2,
        253 => 3,
        254 => 8,
        251 | 255 => return None,
    };
    let (value, rest) = rest.split_at_checked(len)?;
    *bytes = rest;
    let mut wide = [0u8; 8];
    wide.get_mut(..len)?.copy_from_slice(value);
    Some(u64::from_le_bytes(wide))
}
