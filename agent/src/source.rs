//! The server being protected, and every other server we log in to.

mod auth;
mod bridge;
mod error;
mod facts;
mod files;
pub(crate) mod fuzzing;
mod greeting;
mod packet;
mod replication;
mod semi_sync;
mod session;
mod stream;
mod tls;
mod transport;
mod version;

pub use error::{Retry, ServerError};
pub use facts::{GtidMode, ServerFacts};
pub use files::{FileItem, FileStep, FileStream, FilesError, FilesHistory, Keyrings, ServerFiles};
pub use replication::{ReplicaIdentity, ReplicationClient, SemiSync};
pub use semi_sync::SemiSyncState;
pub use session::{BinlogFile, Session};
pub use stream::{Acknowledger, BinlogStream, StreamEvent};
pub use version::ServerVersion;
