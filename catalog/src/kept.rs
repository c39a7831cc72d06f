//! Which kept files make a server's binlogs again: pure.

use std::collections::{BTreeMap, BTreeSet};

use highwater_binlog::{BinlogName, GtidSet, ServerUuid};

use crate::check::brief;
use crate::record::KeptFile;

/// What is wanted of the kept files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileRange {
    /// Whose; needed only if files of several servers were kept.
    pub server: Option<ServerUuid>,
    /// The first one; the first there is if absent.
    pub from: Option<BinlogName>,
    /// The last one; the last there is if absent.
    pub to: Option<BinlogName>,
}

/// Why kept files do not make what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileRefusal {
    /// No file was kept.
    #[error("the archive has no kept files{}", of(.server))]
    None {
        /// Of this server, if one was named.
        server: Option<ServerUuid>,
    },
    /// Files of several servers were kept.
    #[error("the archive has kept files of {} servers", servers.len())]
    AmbiguousServer {
        /// The servers.
        servers: Vec<ServerUuid>,
    },
    /// A file that was named is not there.
    #[error("the archive has no kept file {binlog} of server {server}")]
    Unknown {
        /// The server.
        server: ServerUuid,
        /// The file.
        binlog: BinlogName,
        /// The first and the last one that it has.
        known: Box<(BinlogName, BinlogName)>,
    },
    /// The last one comes before the first one.
    #[error("{to} comes before {from}")]
    Backwards {
        /// The first one.
        from: BinlogName,
        /// The last one.
        to: BinlogName,
    },
    /// A file does not continue the one before it.
    #[error("{next} does not continue {previous}{}", lacking(.missing))]
    Gap {
        /// The file before.
        previous: BinlogName,
        /// The file after.
        next: BinlogName,
        /// Transactions between them, as far as GTIDs tell.
        missing: Box<GtidSet>,
    },
}

impl FileRefusal {
    /// What the operator can do now.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::None { .. } => {
                "`highwater salvage --keep-encrypted` keeps encrypted binlogs; what was captured is in segments, \
                 which `highwater restore` replays"
                    .to_owned()
            }
            Self::AmbiguousServer { servers } => {
                let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
                format!("name one with --server: {}", servers.join(", "))
            }
            Self::Unknown { known, .. } => {
                format!("it has {} to {}; `highwater list files` shows them", known.0, known.1)
            }
            Self::Backwards { .. } => "exchange --from and --to".to_owned(),
            Self::Gap { previous, next, .. } => {
                format!("take what belongs together: `--to {previous}`, or `--from {next}`")
            }
        }
    }
}

/// The files of a range, in their order; each continues the one before it.
///
/// Of several files with one name (the server was reset) the one that was kept last counts.
pub fn file_range<'a>(files: &'a [KeptFile], wanted: &FileRange) -> Result<Vec<&'a KeptFile>, FileRefusal> {
    let server = server_of(files, wanted.server)?;
    let mut newest: BTreeMap<Order, &KeptFile> = BTreeMap::new();
    for file in files.iter().filter(|file| file.server == server) {
        let kept = newest.entry(order(&file.binlog)).or_insert(file);
        if kept.taken < file.taken {
            *kept = file;
        }
    }
    let (Some((_, first)), Some((_, last))) = (newest.first_key_value(), newest.last_key_value()) else {
        return Err(FileRefusal::None { server: wanted.server });
    };
    let place = |binlog: &BinlogName| {
        let known = || Box::new((first.binlog.clone(), last.binlog.clone()));
        let unknown = || FileRefusal::Unknown { server, binlog: binlog.clone(), known: known() };
        let order = order(binlog);
        newest.contains_key(&order).then_some(order).ok_or_else(unknown)
    };
    let from = place(wanted.from.as_ref().unwrap_or(&first.binlog))?;
    let to = place(wanted.to.as_ref().unwrap_or(&last.binlog))?;
    if to < from {
        let (Some(from), Some(to)) = (newest.get(&from), newest.get(&to)) else {
            return Err(FileRefusal::None { server: wanted.server });
        };
        return Err(FileRefusal::Backwards { from: from.binlog.clone(), to: to.binlog.clone() });
    }
    let range: Vec<&KeptFile> = newest.range(from..=to).map(|(_, file)| *file).collect();
    for (previous, next) in range.iter().zip(range.iter().skip(1)) {
        let after = previous.gtids_after();
        if !continues(previous, &after, next) {
            let missing = Box::new(next.gtids_before.subtract(&after));
            return Err(FileRefusal::Gap { previous: previous.binlog.clone(), next: next.binlog.clone(), missing });
        }
    }
    Ok(range)
}

fn server_of(files: &[KeptFile], wanted: Option<ServerUuid>) -> Result<ServerUuid, FileRefusal> {
    let servers: BTreeSet<ServerUuid> = files.iter().map(|file| file.server).collect();
    match (wanted, servers.first()) {
        (Some(server), _) if servers.contains(&server) => Ok(server),
        (None, Some(only)) if servers.len() == 1 => Ok(*only),
        (None, Some(_)) => Err(FileRefusal::AmbiguousServer { servers: servers.into_iter().collect() }),
        (server, _) => Err(FileRefusal::None { server }),
    }
}

/// GTID sets tell. Without any, only neighbours by number can be said to continue each other.
fn continues(previous: &KeptFile, after: &GtidSet, next: &KeptFile) -> bool {
    if next.gtids_before != *after {
        return false;
    }
    let neighbours = match (order(&previous.binlog).1, order(&next.binlog).1) {
        (Some(previous), Some(next)) => next.checked_sub(previous) == Some(1),
        _ => false,
    };
    neighbours || !after.is_empty()
}

/// By name without its number, then by number: a server counts on from 999999 with more digits.
type Order = (String, Option<u64>);

fn order(binlog: &BinlogName) -> Order {
    let text = binlog.as_str();
    match text.rsplit_once('.').map(|(base, number)| (base, number.parse())) {
        Some((base, Ok(number))) => (base.to_owned(), Some(number)),
        _ => (text.to_owned(), None),
    }
}

fn of(server: &Option<ServerUuid>) -> String {
    server.map(|server| format!(" of server {server}")).unwrap_or_default()
}

fn lacking(missing: &GtidSet) -> String {
    match missing.is_empty() {
        true => String::new(),
        false => format!(": {} between them", brief(missing)),
    }
}
