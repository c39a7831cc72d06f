//! Reads a whole replay once before anything is written to the target.
//!
//! Sealing, digests, framing and checksums of every byte are proven by reading them, and what the restore must know
//! about the transactions is collected on the way.

use std::collections::BTreeSet;
use std::io::Read;

use highwater_binlog::{
    EventError, EventType, FormatDescription, FrameError, Framer, GtidEvent, GtidSet, QueryEvent, RawEvent,
};

use super::replay::{ReplayBinlog, ReplayPart, ReplaySource};
use super::scheduler_events::EventChange;

/// How much of a part is read at once.
const READ_BYTES: usize = 256 << 10;

/// What is wrong with the archive's bytes.
#[derive(Debug, thiserror::Error)]
#[error("{binlog} {start}-{end}")]
pub struct Damage {
    /// The binlog.
    pub binlog: String,
    /// Where the part begins.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// What was found.
    #[source]
    pub cause: DamageCause,
}

/// What was found instead of the recorded bytes.
#[derive(Debug, thiserror::Error)]
pub enum DamageCause {
    /// The object cannot be read, or is not what its manifest says.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// Its bytes are not a binlog.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// An event in it is not what it says.
    #[error(transparent)]
    Event(#[from] EventError),
    /// It has no format description.
    #[error("no format description event")]
    NoFormat,
    /// A transaction has no GTID.
    #[error("a transaction without gtid at offset {0}")]
    Anonymous(u64),
    /// Its transactions are not those that are recorded.
    #[error("has transactions {found}, recorded are {recorded}")]
    Transactions {
        /// What is there.
        found: GtidSet,
        /// What the manifest says.
        recorded: GtidSet,
    },
    /// The check was told to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What a replay consists of.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplayFacts {
    /// The longest event, in bytes.
    pub(crate) event_len_max: u64,
    /// The servers that first executed the transactions.
    pub(crate) server_ids: BTreeSet<u32>,
    /// What the transactions do to events of the scheduler, in order.
    pub(crate) event_changes: Vec<EventChange>,
    /// Bytes of the parts.
    pub(crate) bytes: u64,
}

/// Reads everything of `source`; facts are those of the transactions in `wanted`. `progress` gets the bytes read so
/// far and answers whether to go on. Blocking.
pub(crate) fn prove(
    source: &dyn ReplaySource,
    wanted: &GtidSet,
    mut progress: impl FnMut(u64) -> bool,
) -> Result<ReplayFacts, Damage> {
    let mut facts = ReplayFacts::default();
    for (at, binlog) in source.binlogs().iter().enumerate() {
        let mut format = None;
        for (index, part) in binlog.parts.iter().enumerate() {
            let damage = |cause| damage(binlog, part, cause);
            if format.is_none() {
                format = Some(read_format(source, at).map_err(damage)?);
            }
            let Some(format) = &format else { continue };
            let framer = match part.start {
                0 => Framer::new(),
                start => Framer::resume(format.checksum_algorithm, start),
            };
            let reader = source.open_part(at, index).map_err(|error| damage(error.into()))?;
            prove_part(framer, reader, part, wanted, &mut facts, &mut progress).map_err(damage)?;
        }
    }
    Ok(facts)
}

fn damage(binlog: &ReplayBinlog, part: &ReplayPart, cause: DamageCause) -> Damage {
    Damage { binlog: binlog.name.to_string(), start: part.start, end: part.end, cause }
}

fn read_format(source: &dyn ReplaySource, binlog: usize) -> Result<FormatDescription, DamageCause> {
    let mut reader = source.open_head(binlog)?;
    let mut framer = Framer::new();
    let mut buffer = vec![0u8; 4 << 10];
    loop {
        if let Some((_, event)) = framer.next()? {
            return Ok(FormatDescription::read(&event)?);
        }
        match reader.read(&mut buffer)? {
            0 => return Err(DamageCause::NoFormat),
            read => framer.push(buffer.get(..read).unwrap_or_default()),
        }
    }
}

fn prove_part(
    mut framer: Framer,
    mut reader: Box<dyn Read + Send>,
    part: &ReplayPart,
    wanted: &GtidSet,
    facts: &mut ReplayFacts,
    progress: &mut impl FnMut(u64) -> bool,
) -> Result<(), DamageCause> {
    let mut buffer = vec![0u8; READ_BYTES];
    let mut found = GtidSet::new();
    let mut inside = false;
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        facts.bytes += u64::try_from(read).unwrap_or_default();
        framer.push(buffer.get(..read).unwrap_or_default());
        while let Some((offset, event)) = framer.next()? {
            if GtidEvent::is_one(&event) {
                let gtid = GtidEvent::read(&event)?.gtid.ok_or(DamageCause::Anonymous(offset))?;
                found.insert(&gtid);
                inside = wanted.contains(&gtid);
            }
            if inside {
                facts.note(&event)?;
            }
        }
        if !progress(facts.bytes) {
            return Err(DamageCause::Interrupted);
        }
    }
    framer.finish()?;
    if found != part.gtids {
        return Err(DamageCause::Transactions { found, recorded: part.gtids.clone() });
    }
    Ok(())
}

impl ReplayFacts {
    fn note(&mut self, event: &RawEvent<'_>) -> Result<(), DamageCause> {
        self.event_len_max = self.event_len_max.max(event.byte_count());
        self.server_ids.insert(event.header().server_id);
        if event.header().event_type == EventType::QUERY {
            self.event_changes.extend(EventChange::read(&QueryEvent::read(event)?));
        }
        Ok(())
    }
}
