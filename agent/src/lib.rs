//! Point-in-time backup for MySQL: the parts of the `highwater` program.

pub mod archive;
pub mod capture;
pub mod cli;
pub mod commands;
pub mod config;
pub mod dump;
pub mod exit;
pub mod failpoint;
pub mod fsync;
#[doc(hidden)]
pub mod fuzzing;
pub mod kept;
pub mod operate;
pub mod render;
pub mod restore;
pub mod seal;
pub mod secret;
pub mod server;
pub mod source;
pub mod store;
