//! What a server's files say about its history.

use std::fs::{self, File};
use std::io::Read;

use highwater_binlog::{
    BinlogName, BinlogPosition, ENCRYPTION_HEADER_LEN, ENCRYPTION_MAGIC, EventType, FIRST_EVENT_OFFSET, FrameError,
    GtidEvent, GtidSet, Interval, Progress, TransactionError, TransactionTracker, previous_gtids,
};

use super::binlog::OpenBinlog;
use super::{FilesError, Indexed, ServerFiles};
use crate::source::{BinlogFile, GtidMode, ServerFacts, ServerVersion};

/// What a server's files say about its history, as far back as somebody asked.
#[derive(Debug, Clone)]
pub struct FilesHistory {
    /// The server: what it has executed and purged. Settings that are not in its files are unknown.
    pub facts: ServerFacts,
    /// The binlogs, oldest first.
    pub binlogs: Vec<BinlogFile>,
    /// Where the newest whole transaction ends.
    pub end: BinlogPosition,
    /// The binlogs looked at, newest first, and what the server had executed before each.
    before: Vec<(BinlogName, GtidSet)>,
    /// The newest binlog that was not read to its end, and why.
    broken: Option<(BinlogName, Broken)>,
}

/// Why a binlog was not read to its end.
#[derive(Debug, Clone)]
enum Broken {
    Opening(binlog_decrypt::Failure),
    Absent,
    Event(FrameError),
    Order(TransactionError),
}

impl FilesHistory {
    /// The newest binlog that has everything which is not in `have`.
    #[must_use]
    pub fn binlog_after(&self, have: &GtidSet) -> Option<&BinlogName> {
        self.before.iter().find(|(_, before)| before.is_subset(have)).map(|(name, _)| name)
    }

    /// What keeps the newest transactions from being seen, if they may be there and are not.
    #[must_use]
    pub fn damage(&self) -> Option<FilesError> {
        let (binlog, broken) = self.broken.clone()?;
        Some(match broken {
            Broken::Opening(failure) => FilesError::Open(failure),
            Broken::Absent => FilesError::Absent { binlog },
            Broken::Event(source) => FilesError::Damaged { binlog, source },
            Broken::Order(source) => FilesError::Disordered { binlog, source },
        })
    }
}

/// What one binlog says.
struct Scanned {
    version: String,
    /// What was executed before; none when it breaks off before it says so.
    before: Option<GtidSet>,
    gtids: GtidSet,
    /// Whether its transactions have GTIDs; none when it has no transactions.
    numbered: Option<bool>,
    whole: u64,
    broken: Option<Broken>,
}

/// The newest binlog that has its first events.
struct Newest<'a> {
    binlog: &'a Indexed,
    scanned: Scanned,
    broken: Option<(BinlogName, Broken)>,
}

impl ServerFiles {
    /// Reads the newest binlog, and the beginnings of those before it until one begins where everything executed before
    /// is in `enough`, or there are no more: what lies further back is not opened, and its keys may be gone. Blocking.
    ///
    /// A server that was made from a backup has the transactions of that in a table only, and never in a binlog. Those in
    /// `starting` are taken to be there when they are older than all that the binlogs have of the same origin.
    ///
    /// # Errors
    /// When a binlog that is needed cannot be opened.
    pub fn history(&self, enough: &GtidSet, starting: &GtidSet, numbered: bool) -> Result<FilesHistory, FilesError> {
        let binlogs = self.binlogs()?;
        let Newest { binlog: newest, scanned, broken } = self.newest(&binlogs)?;
        let executed_before = scanned.before.clone().unwrap_or_default();
        let mut before = vec![(newest.name.clone(), executed_before.clone())];
        for indexed in binlogs.iter().rev().skip_while(|indexed| indexed.name != newest.name).skip(1) {
            if before.last().is_some_and(|(_, before)| before.is_subset(enough)) {
                break;
            }
            let torn = || FilesError::Torn { binlog: indexed.name.clone(), offset: FIRST_EVENT_OFFSET };
            match self.executed_before(indexed) {
                Ok(executed) => before.push((indexed.name.clone(), executed.ok_or_else(torn)?)),
                // Whoever reads up to it says what is missing.
                Err(FilesError::Absent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let purged = before.last().map(|(_, before)| before.clone()).unwrap_or_default();
        let executed = executed_before.union(&scanned.gtids);
        let executed = executed.union(&older(starting, &executed));
        let older = || binlogs.iter().rev().skip_while(|indexed| indexed.name != newest.name).skip(1);
        let found = scanned.numbered.or_else(|| older().find_map(|indexed| self.is_numbered(indexed)));
        let gtid_mode = if found.unwrap_or(numbered) { GtidMode::On } else { GtidMode::Off };
        let mut facts = ServerFacts::unknown();
        facts.uuid = self.server;
        facts.version = scanned.version.parse().unwrap_or(ServerVersion::OLDEST);
        facts.version_text = scanned.version;
        facts.gtid_mode = gtid_mode;
        facts.gtid_executed = executed;
        facts.gtid_purged = purged;
        facts.log_bin = true;
        let end = BinlogPosition { binlog: newest.name.clone(), offset: scanned.whole };
        Ok(FilesHistory { facts, binlogs: binlogs.iter().map(listed).collect(), end, before, broken })
    }

    /// The newest binlog that has its first events: a server that is killed while it makes one leaves less than that.
    fn newest<'a>(&self, binlogs: &'a [Indexed]) -> Result<Newest<'a>, FilesError> {
        let mut newest = binlogs.iter().rev();
        let Some(last) = newest.next() else { return Err(FilesError::NoIndex { datadir: self.datadir.clone() }) };
        let (binlog, mut scanned, broken) = match (self.scan(last, false), newest.next()) {
            (Ok(scanned), _) if scanned.before.is_some() => (last, scanned, None),
            (Err(FilesError::Open(failure)), Some(previous)) if failure.exit == binlog_decrypt::Exit::Damaged => {
                (previous, self.scan(previous, false)?, Some(Broken::Opening(failure)))
            }
            (Err(FilesError::Absent { .. }), Some(previous)) => {
                (previous, self.scan(previous, false)?, Some(Broken::Absent))
            }
            (Ok(scanned), Some(previous)) => (previous, self.scan(previous, false)?, scanned.broken),
            (scanned, _) => (last, scanned?, None),
        };
        let of_last = broken.map(|broken| (last.name.clone(), broken));
        let broken = of_last.or_else(|| scanned.broken.take().map(|broken| (binlog.name.clone(), broken)));
        Ok(Newest { binlog, scanned, broken })
    }

    /// What the server had executed before a binlog; absent if it breaks off before it says so.
    pub(super) fn executed_before(&self, binlog: &Indexed) -> Result<Option<GtidSet>, FilesError> {
        Ok(self.scan(binlog, true)?.before)
    }

    /// Whether the first transaction of a binlog has a GTID; absent if it has no transaction, or cannot be read.
    fn is_numbered(&self, binlog: &Indexed) -> Option<bool> {
        let mut open = OpenBinlog::open(self, binlog).ok()?;
        while open.fill().ok()? {
            while let Some((_, event)) = open.framer.next().ok()? {
                if GtidEvent::is_one(&event) {
                    return Some(GtidEvent::read(&event).ok()?.gtid.is_some());
                }
            }
        }
        None
    }

    /// Reads a binlog, or only what is in front of its transactions. One that breaks off counts as far as it goes.
    fn scan(&self, binlog: &Indexed, only_beginning: bool) -> Result<Scanned, FilesError> {
        let mut open = OpenBinlog::open(self, binlog)?;
        let mut scanned = Scanned {
            version: open.version.clone(),
            before: None,
            gtids: GtidSet::new(),
            numbered: None,
            whole: 0,
            broken: None,
        };
        let mut tracker = TransactionTracker::new();
        while open.fill()? {
            loop {
                let (offset, event) = match open.framer.next() {
                    Ok(Some(framed)) => framed,
                    Ok(None) => break,
                    // What follows is not read: it would pile up.
                    Err(error) => {
                        scanned.broken = Some(Broken::Event(error));
                        return Ok(scanned);
                    }
                };
                if event.event_type() == EventType::PREVIOUS_GTIDS {
                    let read = previous_gtids(&event).map_err(|source| FrameError::Event { offset, source });
                    let damaged = |source| FilesError::Damaged { binlog: binlog.name.clone(), source };
                    scanned.before = Some(read.map_err(damaged)?);
                    if only_beginning {
                        return Ok(scanned);
                    }
                }
                let progress = match tracker.accept(offset, &event) {
                    Ok(progress) => progress,
                    Err(error) => {
                        scanned.broken = Some(Broken::Order(error));
                        return Ok(scanned);
                    }
                };
                if let Progress::Committed(transaction) = &progress {
                    scanned.numbered = Some(transaction.gtid.is_some());
                    transaction.gtid.iter().for_each(|gtid| scanned.gtids.insert(gtid));
                }
                if progress != Progress::Inside {
                    scanned.whole = offset.saturating_add(event.byte_count());
                }
            }
        }
        Ok(scanned)
    }
}

/// The transactions of `starting` that come before everything in `executed` of the same origin.
fn older(starting: &GtidSet, executed: &GtidSet) -> GtidSet {
    let mut older = GtidSet::new();
    for (origin, interval) in starting.intervals() {
        let first = executed.intervals().filter(|(of, _)| *of == origin).map(|(_, i)| i.start).min();
        let end = first.map_or(interval.end, |first| interval.end.min(first));
        older.insert_interval(origin, Interval { start: interval.start, end });
    }
    older
}

/// What a server would list about a binlog.
fn listed(binlog: &Indexed) -> BinlogFile {
    let size = fs::metadata(&binlog.path).map_or(0, |facts| facts.len());
    let mut magic = [0u8; ENCRYPTION_MAGIC.len()];
    let read = File::open(&binlog.path).and_then(|mut file| file.read_exact(&mut magic));
    let encrypted = read.is_ok() && magic == ENCRYPTION_MAGIC && size >= ENCRYPTION_HEADER_LEN as u64;
    BinlogFile { name: binlog.name.clone(), size, encrypted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_has_in_a_table_only_is_older_than_its_binlogs() {
        const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";
        let set = |text: String| -> GtidSet { text.parse().unwrap() };
        let starting = set(format!("{A}:1-41,{B}:1-7"));
        assert_eq!(older(&starting, &set(format!("{A}:42-50"))), starting);
        // A server that was reset counts from 1 again.
        assert_eq!(older(&starting, &set(format!("{A}:1-10"))), set(format!("{B}:1-7")));
        assert_eq!(older(&starting, &set(format!("{A}:30-50"))), set(format!("{A}:1-29,{B}:1-7")));
    }
}
