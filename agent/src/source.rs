//! The server being protected, and every other server we log in to.

mod auth;
mod bridge;
mod error;
mod greeting;
mod packet;
mod replication;
mod session;
mod tls;
mod transport;
mod version;

pub use error::{Retry, ServerError};
pub use replication::{BinlogStream, ReplicaIdentity, ReplicationClient};
pub use session::{GtidMode, ServerFacts, Session};
pub use version::ServerVersion;
