//! Where MariaDB's transactions begin and end (`sql/log_event.h` of MariaDB, `Gtid_log_event`).

use std::collections::BTreeMap;
use std::fmt;

use highwater_binlog::{Boundary, EventType, QueryEvent, RawEvent};

const GTID: EventType = EventType(162);
const QUERY_COMPRESSED: EventType = EventType(165);
/// `FL_STANDALONE`: one statement, without `BEGIN` and `COMMIT`.
const FLAG_STANDALONE: u8 = 1;

/// `domain-server-number`, as MariaDB writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MariaDbGtid {
    domain: u32,
    server_id: u32,
    number: u64,
}

impl fmt::Display for MariaDbGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server_id, self.number)
    }
}

/// First and last number of each domain and server.
#[derive(Debug, Default)]
pub(crate) struct MariaDbGtids(BTreeMap<(u32, u32), (u64, u64)>);

impl MariaDbGtids {
    fn insert(&mut self, gtid: MariaDbGtid) {
        let range = self.0.entry((gtid.domain, gtid.server_id)).or_insert((gtid.number, gtid.number));
        *range = (range.0.min(gtid.number), range.1.max(gtid.number));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `0-1-5..0-1-9`, one range for each domain and server.
impl fmt::Display for MariaDbGtids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, ((domain, server), (first, last))) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{domain}-{server}-{first}")?;
            if last > first {
                write!(f, "..{domain}-{server}-{last}")?;
            }
        }
        Ok(())
    }
}

/// Follows the events of one file.
#[derive(Debug, Default)]
pub(crate) struct MariaDbTracker {
    open: Option<(MariaDbGtid, u64, bool)>,
    pub(crate) gtids: MariaDbGtids,
}

/// What an event did.
pub(crate) enum MariaDbStep {
    Outside,
    Inside,
    Committed,
    /// A transaction began, or the file ended, before the open one did.
    Unfinished,
}

impl MariaDbTracker {
    /// The transaction that has begun and not ended, and the offset where it did.
    pub(crate) fn open(&self) -> Option<(MariaDbGtid, u64)> {
        self.open.map(|(gtid, start, _)| (gtid, start))
    }

    pub(crate) fn accept(&mut self, offset: u64, event: &RawEvent<'_>) -> MariaDbStep {
        if event.event_type() == GTID {
            let interrupted = self.open.is_some();
            self.open = read_gtid(event).map(|(gtid, standalone)| (gtid, offset, standalone));
            return if interrupted { MariaDbStep::Unfinished } else { MariaDbStep::Inside };
        }
        let Some((gtid, _, standalone)) = self.open else { return MariaDbStep::Outside };
        let ends = match event.event_type() {
            EventType::XID | EventType::XA_PREPARE => true,
            EventType::QUERY if !standalone => {
                QueryEvent::read(event).is_ok_and(|query| matches!(query.boundary(), Boundary::End | Boundary::EndXa))
            }
            EventType::QUERY | EventType::EXECUTE_LOAD_QUERY | QUERY_COMPRESSED => standalone,
            EventType::ROTATE | EventType::STOP | EventType::FORMAT_DESCRIPTION if !event.is_artificial() => {
                self.open = None;
                return MariaDbStep::Unfinished;
            }
            _ => false,
        };
        if !ends {
            return MariaDbStep::Inside;
        }
        self.open = None;
        self.gtids.insert(gtid);
        MariaDbStep::Committed
    }
}

/// Number, domain and flags.
fn read_gtid(event: &RawEvent<'_>) -> Option<(MariaDbGtid, bool)> {
    let (number, rest) = event.body().split_first_chunk::<8>()?;
    let (domain, rest) = rest.split_first_chunk::<4>()?;
    let standalone = rest.first()? & FLAG_STANDALONE != 0;
    let (domain, number) = (u32::from_le_bytes(*domain), u64::from_le_bytes(*number));
    Some((MariaDbGtid { domain, server_id: event.header().server_id, number }, standalone))
}
