//! What an archive holds, put together again, and compared with what the server wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use highwater::archive::Archive;
use highwater::seal::Identities;
use highwater::store::DirectoryStore;
use highwater_binlog::GtidSet;
use highwater_catalog::{Inventory, TimelineId};

use crate::installation::Installation;
use crate::mysql::MysqlServer;

/// Bytes of a binlog in one timeline, without a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedBytes {
    /// Offset of the first byte.
    pub start: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// A binlog of a server in a timeline.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BinlogPlace {
    /// The timeline's number.
    pub timeline: u32,
    /// The `server_uuid`.
    pub server: String,
    /// The file's name.
    pub name: String,
}

/// An archive's segments, unsealed and joined.
#[derive(Debug)]
pub struct Archived {
    /// What the manifests say.
    pub inventory: Inventory,
    /// The bytes. There is more than one stretch only of a server that took another's place: it leaves out what the archive
    /// has.
    pub binlogs: BTreeMap<BinlogPlace, Vec<ArchivedBytes>>,
}

impl Archived {
    /// Reads everything. A segment that does not follow the one before it is an error.
    pub fn read(installation: &Installation) -> Result<Self> {
        let identities = Identities::read_file(&installation.identity())?;
        let archive = Archive::open(Arc::new(DirectoryStore::open(&installation.store())?), Some(identities))?
            .with_scratch(installation.folder());
        let inventory = archive.inventory()?;
        let mut binlogs: BTreeMap<BinlogPlace, Vec<ArchivedBytes>> = BTreeMap::new();
        let mut servers = BTreeMap::new();
        let mut next: BTreeMap<TimelineId, u64> = BTreeMap::new();
        for segment in &inventory.segments {
            let expected = next.entry(segment.timeline).or_default();
            let (timeline, sequence) = (segment.timeline, segment.sequence);
            ensure!(sequence == *expected, "timeline {timeline}: segment {sequence} follows {expected}");
            *expected += 1;
            let place = BinlogPlace {
                timeline: segment.timeline.0,
                server: segment.server.to_string(),
                name: segment.binlog.to_string(),
            };
            let may_skip = *servers.entry(segment.timeline).or_insert(segment.server) != segment.server;
            let stretches = binlogs.entry(place).or_default();
            let end = stretches.last().map_or(segment.start, ArchivedBytes::end);
            ensure!(
                segment.start == end || (may_skip && segment.start > end),
                "segment {sequence} of {} starts at {}, not {end}",
                segment.binlog,
                segment.start
            );
            if stretches.is_empty() || segment.start > end {
                stretches.push(ArchivedBytes { start: segment.start, bytes: Vec::new() });
            }
            let stretch = stretches.last_mut().context("a stretch")?;
            archive.read_segment(segment)?.read_to_end(&mut stretch.bytes)?;
            let end = stretch.end();
            ensure!(segment.end == end, "segment {sequence} of {} ends at {end}, not {}", segment.binlog, segment.end);
        }
        Ok(Self { inventory, binlogs })
    }

    /// Every transaction that the manifests of the newest timeline name, and those before its start.
    #[must_use]
    pub fn gtids(&self) -> GtidSet {
        gtids_of(&self.inventory)
    }

    /// How many timelines there are.
    #[must_use]
    pub fn timelines(&self) -> usize {
        self.inventory.timelines.len()
    }

    /// Every binlog that the server has is here, byte for byte as `mysqlbinlog` fetches it.
    pub fn require_equal(&self, server: &MysqlServer) -> Result<()> {
        let uuid = server.uuid()?;
        for (name, theirs) in server.remote_binlogs()? {
            self.require_binlog(&uuid, &name, &theirs)?;
        }
        Ok(())
    }

    /// One binlog is here, byte for byte. Only a timeline that was opened later may begin inside it.
    pub fn require_binlog(&self, server: &str, name: &str, theirs: &[u8]) -> Result<()> {
        let found = self.binlogs.iter().rev().find(|(place, _)| place.server == server && place.name == name);
        let (place, stretches) = found.with_context(|| format!("{name} is not in the archive"))?;
        let (first, last) = stretches.first().zip(stretches.last()).context("a binlog without bytes")?;
        ensure!(first.start == 0 || place.timeline > 1, "{name} begins at {} in the archive", first.start);
        ensure!(last.end() == theirs.len() as u64, "{name}: ends at {} here, at {} there", last.end(), theirs.len());
        let first_server = self.inventory.segments.iter().find(|segment| segment.timeline.0 == place.timeline);
        let leaves_out = first_server.is_some_and(|segment| segment.server.to_string() != place.server);
        for ArchivedBytes { start, bytes } in stretches {
            let theirs = theirs.get(*start as usize..).unwrap_or_default();
            let ignored = |at: &usize| leaves_out && *start == 0 && is_creation(theirs, *at);
            let differs = (0..bytes.len()).find(|at| bytes.get(*at) != theirs.get(*at) && !ignored(at));
            ensure!(differs.is_none(), "{name}, from {start} on: {} bytes, differing at {differs:?}", bytes.len());
        }
        Ok(())
    }

    /// How often each ledger entry's marker stands in the bytes, over all binlogs.
    #[must_use]
    pub fn markers(&self) -> BTreeMap<String, usize> {
        let mut markers = BTreeMap::new();
        self.binlogs.values().flatten().for_each(|stretch| count_markers(&stretch.bytes, &mut markers));
        markers
    }

    /// Every entry that a client saw committed is here, and none is here twice.
    pub fn require_markers(&self, seen: &BTreeSet<String>) -> Result<()> {
        let markers = self.markers();
        let missing: Vec<_> = seen.iter().filter(|marker| !markers.contains_key(*marker)).collect();
        ensure!(
            missing.is_empty(),
            "{} of {} committed entries are not in the archive, the first {}",
            missing.len(),
            seen.len(),
            missing.first().map_or("", |marker| marker)
        );
        let twice: Vec<_> = markers.iter().filter(|(_, count)| **count > 1).collect();
        ensure!(twice.is_empty(), "{} entries are in the archive more than once: {:?}", twice.len(), twice.first());
        Ok(())
    }
}

/// Whether a byte is of the time in a binlog's format description at which it was created, or of that event's checksum. A
/// server that leaves out transactions sends no time there (`Binlog_sender::send_format_description_event`).
fn is_creation(binlog: &[u8], at: usize) -> bool {
    // Behind the magic, the event's header and two versions.
    let created = 75..79;
    let length = binlog.get(13..17).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    let end = 4 + length as usize;
    created.contains(&at) || (end - 4..end).contains(&at)
}

impl ArchivedBytes {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// Every transaction that the manifests of the newest timeline name, and those before its start.
pub(crate) fn gtids_of(inventory: &Inventory) -> GtidSet {
    let Some(newest) = inventory.timelines.iter().max_by_key(|timeline| timeline.id) else { return GtidSet::new() };
    let segments = inventory.segments.iter().filter(|segment| segment.timeline == newest.id);
    segments.fold(newest.starting_gtids.clone(), |set, segment| set.union(&segment.gtids_added))
}

/// Counts the ledger's markers in bytes.
fn count_markers(bytes: &[u8], markers: &mut BTreeMap<String, usize>) {
    const BEGIN: &[u8] = b"<entry.";
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(BEGIN.len()).position(|window| window == BEGIN) {
        let start = at + found;
        at = start + BEGIN.len();
        let Some(length) = bytes[start..].iter().take(40).position(|byte| *byte == b'>') else { continue };
        if let Ok(marker) = std::str::from_utf8(&bytes[start..=start + length]) {
            *markers.entry(marker.to_owned()).or_default() += 1;
        }
    }
}
