//! Running it day by day: what state the archive is in, and when dumps are due.

pub mod dumps;
pub mod liveness;
mod proven;
pub mod schedule;
pub mod status;
