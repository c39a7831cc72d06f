//! Where transactions start and end.

use crate::error::{EventError, TransactionError};
use crate::event::{EventType, RawEvent};
use crate::gtid::Gtid;
use crate::gtid_event::GtidEvent;
use crate::query::{Boundary, QueryEvent};

/// A transaction whose events have all been seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Its GTID; none when anonymous.
    pub gtid: Option<Gtid>,
    /// When it was first committed, on whichever server, in microseconds since 1970. From servers that do not tell,
    /// the best of what they do: their own commit time, or the second in which the statement began.
    pub original_commit_micros: u64,
    /// Offset of its GTID event.
    pub start: u64,
    /// Offset after its last event.
    pub end: u64,
    /// How many events it has, its GTID event included.
    pub events: u64,
}

/// A transaction that has begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Its GTID; none when anonymous.
    pub gtid: Option<Gtid>,
    /// See [`Transaction::original_commit_micros`].
    pub original_commit_micros: u64,
    /// Offset of its GTID event.
    pub start: u64,
    /// How many of its events have been seen.
    pub events: u64,
    /// Its length, where its GTID event tells.
    announced: Option<u64>,
    stage: Stage,
}

/// How far an open transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Only its GTID event: a statement may be all of it.
    Started,
    /// Variables for a statement, which may be all of it.
    Prepared,
    /// After `BEGIN` or `XA START`: ends with a commit.
    Begun,
}

/// What an event did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// No transaction is open: the end of this event is a safe place to cut.
    Outside,
    /// A transaction is open.
    Inside,
    /// This event ended a transaction: its end is a safe place to cut.
    Committed(Transaction),
}

/// What an event means to the transaction it is in.
enum Role {
    Begin,
    Statement,
    BeforeStatement,
    End,
    EndXa,
    Payload,
    /// The source lost events: in a group of its own since 5.7, before that outside of any.
    Incident,
    /// Never in a transaction: the binlog's own events.
    Binlog,
    /// Anywhere, and without meaning here.
    Neutral,
    /// A type that this program does not know.
    Unknown,
}

/// Follows the events of one binlog and tells where transactions start and end.
///
/// Every transaction starts with a GTID event (type 33, 34 or 42), so binlogs of servers before 5.7 are refused. How it
/// ends follows MySQL's own `Transaction_boundary_parser`, and where the GTID event tells the transaction's length
/// (8.0.2 and newer), both must agree. After an error the tracker must not be used further.
#[derive(Debug, Clone, Default)]
pub struct TransactionTracker {
    open: Option<OpenTransaction>,
}

impl TransactionTracker {
    /// Outside of any transaction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The transaction that has begun and not ended, from its GTID event on.
    #[must_use]
    pub const fn open(&self) -> Option<&OpenTransaction> {
        self.open.as_ref()
    }

    /// Takes the event at `offset` into account. Artificial events change nothing.
    ///
    /// # Errors
    /// When the events are not in an order that transactions can have.
    pub fn accept(&mut self, offset: u64, event: &RawEvent<'_>) -> Result<Progress, TransactionError> {
        if event.is_artificial() {
            return Ok(if self.open.is_some() { Progress::Inside } else { Progress::Outside });
        }
        let unreadable = |source: EventError| TransactionError::Event { offset, source };
        let found = event.event_type();
        if GtidEvent::is_one(event) {
            let gtid_event = GtidEvent::read(event).map_err(unreadable)?;
            return self.begin(offset, event, gtid_event);
        }
        let role = role(event).map_err(unreadable)?;
        let Some(open) = &mut self.open else {
            return match role {
                Role::Binlog | Role::Neutral | Role::Unknown | Role::Incident => Ok(Progress::Outside),
                _ => Err(TransactionError::OutsideTransaction { offset, found }),
            };
        };
        open.events += 1;
        let end = offset.saturating_add(event.byte_count());
        match open.step(&role) {
            Step::Goes(stage) => open.stage = stage,
            Step::Ends => return self.commit(end),
            Step::Unknown if open.announced.is_some_and(|length| end.saturating_sub(open.start) >= length) => {
                return self.commit(end);
            }
            Step::Unknown => {}
            Step::Never if matches!(role, Role::Binlog) => {
                let (start, gtid) = (open.start, open.gtid.clone());
                return Err(TransactionError::Unfinished { offset, found, start, gtid });
            }
            Step::Never => return Err(TransactionError::Unexpected { offset, found, gtid: open.gtid.clone() }),
        }
        open.check_length(end, false)?;
        Ok(Progress::Inside)
    }

    fn begin(
        &mut self,
        offset: u64,
        event: &RawEvent<'_>,
        gtid_event: GtidEvent,
    ) -> Result<Progress, TransactionError> {
        if let Some(open) = &self.open {
            let (start, gtid) = (open.start, open.gtid.clone());
            return Err(TransactionError::Unfinished { offset, found: event.event_type(), start, gtid });
        }
        let second = u64::from(event.header().timestamp) * 1_000_000;
        let open = OpenTransaction {
            original_commit_micros: gtid_event
                .original_commit_micros
                .or(gtid_event.immediate_commit_micros)
                .unwrap_or(second),
            gtid: gtid_event.gtid,
            start: offset,
            events: 1,
            announced: gtid_event.transaction_length.map(std::num::NonZeroU64::get),
            stage: Stage::Started,
        };
        open.check_length(offset.saturating_add(event.byte_count()), false)?;
        self.open = Some(open);
        Ok(Progress::Inside)
    }

    fn commit(&mut self, end: u64) -> Result<Progress, TransactionError> {
        let Some(open) = self.open.take() else { return Ok(Progress::Outside) };
        open.check_length(end, true)?;
        Ok(Progress::Committed(Transaction {
            gtid: open.gtid,
            original_commit_micros: open.original_commit_micros,
            start: open.start,
            end,
            events: open.events,
        }))
    }
}

/// What an event does to the open transaction.
enum Step {
    /// It stays open, at this stage.
    Goes(Stage),
    /// It ends.
    Ends,
    /// It cannot be there.
    Never,
    /// Only the announced length can tell.
    Unknown,
}

impl OpenTransaction {
    fn step(&self, role: &Role) -> Step {
        match (role, self.stage) {
            (Role::Begin, Stage::Started) => Step::Goes(Stage::Begun),
            (Role::Statement, Stage::Begun) => Step::Goes(Stage::Begun),
            (Role::BeforeStatement, Stage::Begun) => Step::Goes(Stage::Begun),
            (Role::BeforeStatement, Stage::Started | Stage::Prepared) => Step::Goes(Stage::Prepared),
            (Role::Statement, Stage::Started | Stage::Prepared) => Step::Ends,
            (Role::End, Stage::Begun) => Step::Ends,
            (Role::EndXa, Stage::Begun | Stage::Started) => Step::Ends,
            (Role::Payload, Stage::Started) => Step::Ends,
            (Role::Incident, _) => Step::Ends,
            (Role::Neutral, stage) => Step::Goes(stage),
            (Role::Unknown, _) => Step::Unknown,
            (Role::Begin, Stage::Prepared | Stage::Begun)
            | (Role::End, Stage::Started | Stage::Prepared)
            | (Role::EndXa, Stage::Prepared)
            | (Role::Payload, Stage::Prepared | Stage::Begun)
            | (Role::Binlog, _) => Step::Never,
        }
    }

    /// Compares with what the GTID event announced: an end must be exact, anything before it must fall short of it.
    fn check_length(&self, end: u64, ended: bool) -> Result<(), TransactionError> {
        let reached = end.saturating_sub(self.start);
        match self.announced {
            Some(announced) if (ended && reached != announced) || (!ended && reached >= announced) => {
                Err(TransactionError::Length { start: self.start, gtid: self.gtid.clone(), announced, reached })
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn role(event: &RawEvent<'_>) -> Result<Role, EventError> {
    Ok(match event.event_type() {
        EventType::QUERY => match QueryEvent::read(event)?.boundary() {
            Boundary::Begin => Role::Begin,
            Boundary::End => Role::End,
            Boundary::EndXa => Role::EndXa,
            Boundary::Statement => Role::Statement,
        },
        EventType::XID | EventType::XA_PREPARE => Role::End,
        EventType::TRANSACTION_PAYLOAD => Role::Payload,
        EventType::INTVAR | EventType::RAND | EventType::USER_VAR => Role::BeforeStatement,
        EventType::FORMAT_DESCRIPTION | EventType::PREVIOUS_GTIDS | EventType::ROTATE | EventType::STOP => Role::Binlog,
        EventType::TABLE_MAP
        | EventType::WRITE_ROWS_V1
        | EventType::UPDATE_ROWS_V1
        | EventType::DELETE_ROWS_V1
        | EventType::WRITE_ROWS
        | EventType::UPDATE_ROWS
        | EventType::DELETE_ROWS
        | EventType::PARTIAL_UPDATE_ROWS
        | EventType::ROWS_QUERY
        | EventType::BEGIN_LOAD_QUERY
        | EventType::APPEND_BLOCK
        | EventType::EXECUTE_LOAD_QUERY
        | EventType::VIEW_CHANGE => Role::Statement,
        EventType::DELETE_FILE | EventType::TRANSACTION_CONTEXT | EventType::IGNORABLE => Role::Neutral,
        EventType::INCIDENT => Role::Incident,
        _ if event.is_ignorable() => Role::Neutral,
        _ => Role::Unknown,
    })
}
