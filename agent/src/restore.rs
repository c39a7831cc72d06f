//! Bringing a service back to a moment: prove the plan, load the dump, replay the binlogs, leave the target clean.

mod replay;
pub mod serve;

pub use replay::{ReplayBinlog, ReplayPart, ReplaySource};
