//! From a plaintext stream to its verified events.

use std::path::Path;

use highwater_binlog::{Framer, MAGIC};

use crate::binlog_file::PlainStream;
use crate::failure::{Exit, Failure, chain};

/// Bytes read at a time. With the longest event, all that is held in memory.
const CHUNK_LEN: usize = 1 << 20;

/// `START_ENCRYPTION_EVENT` of MariaDB and of Percona Server before 8.0.14: each event after it is encrypted by itself.
const START_ENCRYPTION: u8 = 164;

/// How far a stream goes.
#[derive(Debug)]
pub(crate) struct Extent {
    /// Whole events.
    pub(crate) events: u64,
    /// Stream offset after the last whole event.
    pub(crate) end: u64,
    /// What follows there.
    pub(crate) ending: Ending,
}

/// What follows the last whole event.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Nothing.
    Whole,
    /// The first bytes of an event.
    Torn {
        /// How many.
        bytes: u64,
    },
    /// Bytes that are not an event.
    Damaged {
        /// What is wrong with them.
        what: String,
    },
}

/// Verifies every event of `stream` and gives the bytes of the magic and of each whole event to `sink`, in order.
pub(crate) fn decode(
    file: &Path,
    stream: &mut PlainStream,
    mut sink: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<Extent, Failure> {
    let mut framer = Framer::new();
    let mut events = 0;
    let mut buffer = vec![0; CHUNK_LEN];
    let mut read = 0;
    sink(&MAGIC)?;
    loop {
        let count = stream.read(&mut buffer).map_err(|error| Failure::io(file.display(), &error))?;
        read += count as u64;
        framer.push(buffer.get(..count).unwrap_or_default());
        loop {
            match framer.next() {
                Ok(Some((_, event))) if event.event_type().0 == START_ENCRYPTION => return Err(other_product(file)),
                Ok(Some((_, event))) => {
                    events += 1;
                    sink(event.bytes())?;
                }
                Ok(None) => break,
                Err(error) => {
                    let ending = Ending::Damaged { what: chain(&error) };
                    return Ok(Extent { events, end: framer.offset(), ending });
                }
            }
        }
        if count == 0 {
            let end = framer.offset();
            let ending = if read == end { Ending::Whole } else { Ending::Torn { bytes: read - end } };
            return Ok(Extent { events, end, ending });
        }
    }
}

fn other_product(file: &Path) -> Failure {
    let text = format!("{} is encrypted by MariaDB or by Percona Server before 8.0.14", file.display());
    Failure::new(Exit::Failed, text)
        .hint("this program opens files of MySQL 8.0.14 and newer; use mariadb-binlog's server")
}
