//! Full dumps: everything a server holds at one point of its history, as files that MySQL itself reads.
//!
//! A dump has files of SQL statements ([`statements`]) and files of rows in `LOAD DATA` format, loaded in this order:
//! `accounts/users.sql`, `schema/tables.sql`, `data/load.sql` (one statement for each file of rows) with `data/*.tsv`,
//! `schema/routines.sql`, `schema/views.sql`, `schema/triggers.sql`, `schema/events.sql`, `accounts/grants.sql`.

mod accounts;
mod chunks;
mod columns;
mod error;
mod files;
mod json;
pub mod load;
mod objects;
mod order;
mod part;
mod privileges;
mod pulse;
pub mod quote;
mod rows;
mod schema;
mod scope;
mod session;
mod snapshot;
mod sql_file;
pub mod statements;
mod take;

pub use error::{DumpError, LoadError};
pub use load::{EventState, LoadProgress, LoadReport};
pub use privileges::check_privileges;
pub use take::{DumpOptions, DumpOrigin, DumpPoint, DumpProgress, TakenDump, UnpublishedDump, read, take};
