//! Follows a source's stream: verifies each event, counts offsets, finds transactions, says what to keep and where to cut.
//!
//! Pure: events and times come in, [`Effect`]s come out.

mod comparison;
mod heartbeat;

use std::collections::BTreeMap;
use std::ops::Range;

use highwater_binlog::{
    BinlogName, ChecksumAlgorithm, EventError, EventType, FIRST_EVENT_OFFSET, FormatDescription, Gtid, GtidEvent,
    GtidSet, Progress, RawEvent, RotateEvent, SegmentError, SegmentFacts, SegmentPolicy, Segmenter, ServerUuid,
    TransactionError, TransactionTracker, previous_gtids,
};
use highwater_catalog::Blake3Digest;

use self::comparison::Comparison;
use self::heartbeat::Silence;
use super::continuity::{Discontinuity, Request, Start};
use super::tip::Tip;
use crate::failpoint;

/// What an event asks the shell to do. Effects are carried out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Begin a new stretch of a binlog. One that starts at 0 begins with the magic, which is not in the stream.
    Open {
        /// The binlog.
        binlog: BinlogName,
        /// Offset of its first byte.
        start: u64,
        /// The binlog's format description event.
        description: Vec<u8>,
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
    /// A transaction without a GTID.
    #[error("the transaction at {binlog}:{offset} has no GTID")]
    Anonymous {
        /// The binlog.
        binlog: String,
        /// Where it starts.
        offset: u64,
    },
    /// A transaction with a GTID where positions decide.
    #[error("{gtid} at {binlog}:{offset} has a GTID, and capture goes by positions")]
    Numbered {
        /// The transaction.
        gtid: Gtid,
        /// The binlog.
        binlog: String,
        /// Where its last event starts.
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
    mode: Mode,
    /// Whether age is a reason to cut.
    by_age: bool,
    /// Bytes with which a segment is cut, if the policy does not say fewer.
    bytes_max: u64,
    checksum: ChecksumAlgorithm,
    /// The last format description event.
    description: Vec<u8>,
    file: Option<OpenFile>,
    last_event_second: Option<u32>,
}

/// How transactions are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// By GTIDs: every one has its own.
    Gtids,
    /// By positions. The first binlog is sent from this offset on.
    Positions { first: u64 },
}

/// The binlog that is being sent.
#[derive(Debug)]
struct OpenFile {
    binlog: BinlogName,
    /// Offset after the last event.
    offset: u64,
    /// Where the archive's bytes end; 0 when it has none.
    archived: u64,
    /// The binlog that comes next, when this one has ended in order.
    next: Option<BinlogName>,
    tracker: TransactionTracker,
    /// From the first byte on that the archive does not have.
    segmenter: Option<Segmenter>,
    /// The 64-bit position of the last heartbeat: where the events that were left out end.
    heartbeat: Option<u64>,
    silence: Silence,
}

impl Follower {
    /// At the start of a stream that was asked for as `start` says, behind `tip`. `expected` is the digest of the piece
    /// that is to be compared.
    pub fn new(
        server: ServerUuid,
        policy: SegmentPolicy,
        tip: &Tip,
        start: &Start,
        expected: Option<Blake3Digest>,
    ) -> Self {
        let mode = match &start.request {
            Request::Gtids { .. } => Mode::Gtids,
            Request::Position(position) => Mode::Positions { first: position.offset },
        };
        Self {
            server,
            policy,
            captured: tip.captured.clone(),
            ends: tip.ends_of(server),
            comparison: start.compare.as_ref().zip(expected).map(|(piece, digest)| Comparison::new(piece, digest)),
            may_skip: start.may_skip,
            mode,
            by_age: true,
            bytes_max: u64::MAX,
            // What we announced; each binlog's format description says how it goes on.
            checksum: ChecksumAlgorithm::Crc32,
            description: Vec::new(),
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
        let event = verified(bytes, self.checksum).map_err(|source| self.event_error(source))?;
        match event.event_type() {
            EventType::HEARTBEAT | EventType::HEARTBEAT_V2 => self.heartbeat(&event),
            EventType::ROTATE if event.is_artificial() => {
                let rotate = RotateEvent::read(&event).map_err(|source| self.event_error(source))?;
                self.open(rotate.next.binlog, rotate.next.offset, effects)
            }
            // Sent in front of what a position was asked for: it is not in the binlog there.
            EventType::FORMAT_DESCRIPTION if event.is_artificial() => self.read_prologue(&event),
            _ if event.is_artificial() => Ok(()),
            _ => self.event(&event, range, now_micros, effects),
        }
    }

    /// Begins a binlog whose events are given one by one with their places.
    ///
    /// # Errors
    /// When the one before it was not at its end.
    pub fn begin(&mut self, binlog: &BinlogName, effects: &mut Vec<Effect>) -> Result<(), StreamError> {
        self.open(binlog.clone(), FIRST_EVENT_OFFSET, effects)
    }

    /// Says where the next event stands; what lies between is left out.
    pub fn place(&mut self, offset: u64) {
        if let Some(file) = self.file.as_mut().filter(|file| offset > file.offset) {
            file.heartbeat = Some(offset);
        }
    }

    /// The source has no more, for now: what was to be sent again was sent.
    ///
    /// # Errors
    /// When it differs from the archive, or was not sent.
    pub fn caught_up(&mut self) -> Result<(), StreamError> {
        match self.comparison.take() {
            Some(comparison) => Ok(comparison.finish()?),
            None => Ok(()),
        }
    }

    /// Says whether age is a reason to cut, from now on; size always is.
    pub fn cut_by_age(&mut self, by_age: bool) {
        self.by_age = by_age;
    }

    /// Cuts segments with so many bytes, from now on, if the policy does not say fewer.
    pub fn cut_by_size(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// Cuts what is due by age.
    pub fn tick(&mut self, now_micros: u64, effects: &mut Vec<Effect>) {
        if self.by_age && self.segmenter().is_some_and(|segmenter| segmenter.is_due(now_micros)) {
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

    /// What [`Self::cut`] would cut.
    #[must_use]
    pub fn whole(&self) -> Option<Cut> {
        let OpenFile { binlog, segmenter, .. } = self.file.as_ref()?;
        let facts = segmenter.as_ref()?.facts();
        (facts.events > 0).then(|| Cut { server: self.server, binlog: binlog.clone(), facts: facts.clone() })
    }

    /// When [`Self::tick`] has something to do next.
    #[must_use]
    pub fn due_at(&self) -> Option<u64> {
        self.segmenter()?.due_at()
    }

    /// The server whose stream it is.
    #[must_use]
    pub fn server(&self) -> ServerUuid {
        self.server
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
        let expected = match self.mode {
            Mode::Positions { first } if self.file.is_none() => first,
            Mode::Positions { .. } | Mode::Gtids => FIRST_EVENT_OFFSET,
        };
        if same || offset != expected {
            return Err(StreamError::NotFromStart { binlog: binlog.to_string() });
        }
        if let Some(file) = self.file.as_ref().filter(|file| file.tracker.open().is_some()) {
            return Err(StreamError::TornBinlog { binlog: file.binlog.to_string() });
        }
        // With GTIDs the next binlog itself says what comes before it.
        if let (Mode::Positions { .. }, Some(OpenFile { binlog: left, next: Some(next), .. })) = (self.mode, &self.file)
            && *next != binlog
        {
            let (left, next) = (left.clone(), next.clone());
            return Err(Discontinuity::BinlogSkipped { binlog: left, next, found: binlog }.into());
        }
        let left = self.file.as_ref().map(|file| &file.binlog);
        if let Some(comparison) = self.comparison.take_if(|comparison| Some(&comparison.binlog) == left) {
            comparison.finish()?;
        }
        let archived = self.ends.get(&binlog).copied().unwrap_or(0);
        failpoint::crash("rotate.seen");
        self.file = Some(OpenFile {
            binlog,
            offset,
            archived,
            next: None,
            tracker: TransactionTracker::new(),
            segmenter: None,
            heartbeat: None,
            silence: Silence::default(),
        });
        Ok(())
    }

    fn heartbeat(&mut self, event: &RawEvent<'_>) -> Result<(), StreamError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if event.event_type() == EventType::HEARTBEAT_V2 {
            file.heartbeat = heartbeat::position(event.body());
        }
        let told = file.heartbeat.unwrap_or_else(|| u64::from(event.header().end_log_pos));
        let is_idle = file.silence.goes_on(told);
        let binlog = &file.binlog;
        // Behind the piece all of it has been sent, if the source has it.
        let is_over = |comparison: &mut Comparison| comparison.binlog == *binlog && (is_idle || told >= comparison.end);
        if let Some(comparison) = self.comparison.take_if(is_over) {
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
        let next = match event.event_type() {
            EventType::ROTATE => Some(RotateEvent::read(event).map_err(|source| self.event_error(source))?.next.binlog),
            _ => None,
        };
        let Some(file) = &mut self.file else {
            return Err(StreamError::Unannounced { found: event.event_type() });
        };
        file.next = next;
        let compared_from = self.comparison.as_ref().filter(|c| c.binlog == file.binlog).map(|c| c.start);
        let offset = file.place(event, compared_from);
        let end = offset.saturating_add(event.byte_count());
        (file.heartbeat, file.silence) = (None, Silence::default());
        if end <= file.archived {
            file.offset = end;
            let (binlog, archived) = (file.binlog.clone(), file.archived);
            // Name and offset alone prove nothing: a server that was reset uses them again.
            if self.mode == Mode::Gtids && self.begins_unknown(event)? {
                return Err(Discontinuity::Differs { binlog, start: offset, end: archived }.into());
            }
            if let Some(comparison) = self.comparison.as_mut().filter(|c| c.binlog == binlog) {
                comparison.feed(offset, event.bytes());
            }
            return Ok(());
        }
        // The archive ends between two events of the binlog that it knows.
        if offset < file.archived {
            let (binlog, start, end) = (file.binlog.clone(), offset, file.archived);
            return Err(Discontinuity::Differs { binlog, start, end }.into());
        }
        self.begin_stretch(offset, effects)?;
        self.keep(event, offset, range, now_micros, effects)
    }

    /// Whether a transaction begins that we do not have.
    fn begins_unknown(&self, event: &RawEvent<'_>) -> Result<bool, StreamError> {
        if !GtidEvent::is_one(event) {
            return Ok(false);
        }
        let begun = GtidEvent::read(event).map_err(|source| self.event_error(source))?;
        Ok(begun.gtid.is_some_and(|gtid| !self.captured.contains(&gtid)))
    }

    /// The events in front of a binlog's transactions say how to read the rest, and what must have come before.
    fn read_prologue(&mut self, event: &RawEvent<'_>) -> Result<(), StreamError> {
        match event.event_type() {
            EventType::FORMAT_DESCRIPTION => {
                let description = FormatDescription::read(event).map_err(|source| self.event_error(source))?;
                self.checksum = description.checksum_algorithm;
                self.description = event.bytes().to_vec();
                failpoint::crash("fde.new");
            }
            EventType::PREVIOUS_GTIDS => {
                let before = previous_gtids(event).map_err(|source| self.event_error(source))?;
                let missing = before.subtract(&self.captured);
                let decides = self.mode == Mode::Gtids && !failpoint::is_broken("broken.gap");
                if decides && !missing.is_empty() {
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
            let description = self.description.clone();
            effects.push(Effect::Open { binlog: file.binlog.clone(), start, description });
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
        if event.event_type() == EventType::INCIDENT {
            let gtid = tracker.open().and_then(|open| open.gtid.clone());
            return Err(Discontinuity::Incident { binlog: binlog.clone(), offset, gtid }.into());
        }
        let progress = tracker
            .accept(offset, event)
            .map_err(|source| StreamError::Transaction { binlog: binlog.to_string(), source })?;
        if let Some(gtid) = tracker.open().and_then(|open| open.gtid.as_ref()).filter(|g| self.captured.contains(g)) {
            return Err(StreamError::Repeated { gtid: gtid.clone(), binlog: binlog.to_string(), offset });
        }
        if let Progress::Committed(transaction) = &progress {
            match (&transaction.gtid, self.mode) {
                (Some(gtid), Mode::Gtids) => self.captured.insert(gtid),
                (None, Mode::Positions { .. }) => {}
                (None, Mode::Gtids) => {
                    return Err(StreamError::Anonymous { binlog: binlog.to_string(), offset: transaction.start });
                }
                (Some(gtid), Mode::Positions { .. }) => {
                    return Err(StreamError::Numbered { gtid: gtid.clone(), binlog: binlog.to_string(), offset });
                }
            }
        }
        segmenter
            .accept(offset, event, &progress, now_micros)
            .map_err(|source| StreamError::Segment { binlog: binlog.to_string(), source })?;
        *reached = offset.saturating_add(event.byte_count());
        if tracker.open().is_some() {
            failpoint::crash("recv.mid_trx");
        }
        let due = segmenter.facts().byte_count() >= self.bytes_max
            || if self.by_age { segmenter.is_due(now_micros) } else { segmenter.is_full() };
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

/// The event, if it is what its length and checksum say.
fn verified(bytes: &[u8], checksum: ChecksumAlgorithm) -> Result<RawEvent<'_>, EventError> {
    match RawEvent::verify(bytes, checksum) {
        Err(EventError::Checksum { .. }) if failpoint::is_broken("broken.crc") => {
            RawEvent::verify(bytes, ChecksumAlgorithm::None)
        }
        result => result,
    }
}

/// Adds bytes to those already to be appended, where they follow them.
fn append(effects: &mut Vec<Effect>, range: Range<usize>) {
    match effects.last_mut() {
        Some(Effect::Append(before)) if before.end == range.start => before.end = range.end,
        _ => effects.push(Effect::Append(range)),
    }
}

#[cfg(test)]
mod tests;
