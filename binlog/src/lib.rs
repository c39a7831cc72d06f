//! What a MySQL server wrote: binary logs as verified bytes.
//!
//! Nothing here turns a parsed view back into bytes, and nothing does I/O, reads a clock or spawns a task.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions))]

mod control;
mod cursor;
mod encryption;
mod error;
mod event;
mod frame;
mod gtid;
mod gtid_event;
mod meaning;
mod payload;
mod position;
mod query;
mod rows;
mod scheduler;
mod segment;
mod statement;
mod time;
mod tokens;
mod transaction;
mod walk;

pub use control::{FormatDescription, RotateEvent, previous_gtids};
pub use encryption::{
    ENCRYPTION_HEADER_LEN, ENCRYPTION_MAGIC, EncryptionHeader, EncryptionHeaderError, EventCipher, EventScheme,
    START_ENCRYPTION, StartEncryption, StreamCipher,
};
pub use error::{
    EventError, FrameError, MeaningError, ParseError, PayloadError, SegmentError, TransactionError, WireError,
};
pub use event::{
    ChecksumAlgorithm, EVENT_HEADER_LEN, EVENT_LEN_MAX, EventHeader, EventType, FIRST_EVENT_OFFSET, MAGIC, RawEvent,
};
pub use frame::Framer;
pub use gtid::{Gtid, GtidOrigin, GtidSet, Interval, Tag};
pub use gtid_event::GtidEvent;
pub use meaning::{Change, ChangeKind, Changes};
pub use payload::{PAYLOAD_INFLATED_MAX, for_each_payload_event};
pub use position::{BinlogName, BinlogPosition, ServerUuid};
pub use query::{Boundary, QueryEvent};
pub use scheduler::{SchedulerEventName, SchedulerEventStatus, SchedulerStatement, event_statement};
pub use segment::{SegmentFacts, SegmentPolicy, Segmenter};
pub use time::Micros;
pub use transaction::{OpenTransaction, Progress, Transaction, TransactionTracker};
pub use walk::EventWalk;
