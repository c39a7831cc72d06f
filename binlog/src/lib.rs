//! What a MySQL server wrote: binary logs as verified bytes.
//!
//! Nothing here turns a parsed view back into bytes, and nothing does I/O, reads a clock or spawns a task.

mod error;
mod gtid;
mod position;

pub use error::ParseError;
pub use gtid::{Gtid, GtidOrigin, GtidSet, Interval, Tag};
pub use position::{BinlogName, BinlogPosition, ServerUuid};
