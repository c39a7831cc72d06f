//! Encrypted binlogs kept as their server wrote them, and given back as files that a server opens.
//!
//! What never changes about such a file are its bytes after the header and its own password. A rotation of the master key
//! writes the header anew and deletes the key that the old one names. So the password goes into the server's sealed key
//! bundle before the file's manifest is published: with it the kept body opens, whatever became of keys and headers.

mod error;
mod give;
mod keeper;
mod open;
mod passwords;
mod proof;
mod take;

pub use error::KeepError;
pub use give::{GivenFiles, give};
pub use keeper::Keeper;
pub use passwords::{KeptKeys, bundle, bundled_keys, newest_first};
pub use proof::{BodyFacts, BodyProof, ProofError, prove_kept};
pub use take::{Keeping, Kept, RefusedFile, Wanted, keep, survey};
