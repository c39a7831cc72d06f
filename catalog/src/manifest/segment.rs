//! `segments/<timeline>/<sequence>.json`.

use serde::{Deserialize, Serialize};

use super::Wire;
use super::parts::{ObjectV1, Preamble, digest, gtids, parse, same_key};
use crate::check::RecordError;
use crate::names::segment_object_keys;
use crate::record::{Segment, TimelineId};
use highwater_binlog::Micros;

/// Version 1 on the wire.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SegmentManifestV1 {
    format: u32,
    kind: String,
    repository: String,
    software: String,
    timeline: u32,
    sequence: u64,
    server: String,
    binlog: String,
    start: u64,
    end: u64,
    gtids_before: String,
    gtids_added: String,
    first_commit_us: Option<u64>,
    last_commit_us: Option<u64>,
    events: u64,
    transactions: u64,
    previous_blake3: Option<String>,
    plain_blake3: String,
    objects: Vec<ObjectV1>,
}

impl Wire for Segment {
    const KIND: &'static str = "segment";
    type V1 = SegmentManifestV1;

    fn to_wire(&self, preamble: Preamble) -> SegmentManifestV1 {
        let Preamble { format, kind, repository, software } = preamble;
        SegmentManifestV1 {
            format,
            kind,
            repository,
            software,
            timeline: self.timeline.0,
            sequence: self.sequence,
            server: self.server.to_string(),
            binlog: self.binlog.to_string(),
            start: self.start,
            end: self.end,
            gtids_before: self.gtids_before.to_string(),
            gtids_added: self.gtids_added.to_string(),
            first_commit_us: self.first_commit.map(|micros| micros.0),
            last_commit_us: self.last_commit.map(|micros| micros.0),
            events: self.events,
            transactions: self.transactions,
            previous_blake3: self.previous_blake3.map(|digest| digest.to_string()),
            plain_blake3: self.plain_blake3.to_string(),
            objects: segment_object_keys(self)
                .into_iter()
                .zip(&self.objects)
                .map(|(key, object)| ObjectV1::new(key, object))
                .collect(),
        }
    }

    fn from_wire(wire: SegmentManifestV1) -> Result<(Preamble, Self), RecordError> {
        let SegmentManifestV1 { format, kind, repository, software, .. } = wire;
        let objects = wire.objects.into_iter().map(ObjectV1::read).collect::<Result<Vec<_>, _>>()?;
        let (keys, objects): (Vec<_>, Vec<_>) = objects.into_iter().unzip();
        let record = Self {
            timeline: TimelineId(wire.timeline),
            sequence: wire.sequence,
            server: parse("server", &wire.server)?,
            binlog: parse("binlog", &wire.binlog)?,
            start: wire.start,
            end: wire.end,
            gtids_before: gtids("gtids_before", &wire.gtids_before)?,
            gtids_added: gtids("gtids_added", &wire.gtids_added)?,
            first_commit: wire.first_commit_us.map(Micros),
            last_commit: wire.last_commit_us.map(Micros),
            events: wire.events,
            transactions: wire.transactions,
            plain_blake3: digest("plain_blake3", &wire.plain_blake3)?,
            objects,
            previous_blake3: wire.previous_blake3.map(|text| digest("previous_blake3", &text)).transpose()?,
        };
        for (found, expected) in keys.iter().zip(segment_object_keys(&record)) {
            same_key("objects.key", found, &expected)?;
        }
        Ok((Preamble { format, kind, repository, software }, record))
    }
}
