//! `timelines/<id>.json`.

use serde::{Deserialize, Serialize};

use super::Wire;
use super::parts::{Preamble, gtids};
use crate::check::RecordError;
use crate::record::{Timeline, TimelineId};
use highwater_binlog::Micros;

/// Version 1 on the wire.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TimelineV1 {
    format: u32,
    kind: String,
    repository: String,
    software: String,
    timeline: u32,
    parent: Option<u32>,
    reason: String,
    starting_gtids: String,
    created_us: u64,
}

impl Wire for Timeline {
    const KIND: &'static str = "timeline";
    type V1 = TimelineV1;

    fn to_wire(&self, preamble: Preamble) -> TimelineV1 {
        let Preamble { format, kind, repository, software } = preamble;
        TimelineV1 {
            format,
            kind,
            repository,
            software,
            timeline: self.id.0,
            parent: self.parent.map(|parent| parent.0),
            reason: self.reason.clone(),
            starting_gtids: self.starting_gtids.to_string(),
            created_us: self.created.0,
        }
    }

    fn from_wire(wire: TimelineV1) -> Result<(Preamble, Self), RecordError> {
        let TimelineV1 { format, kind, repository, software, timeline, parent, reason, starting_gtids, created_us } =
            wire;
        let record = Self {
            id: TimelineId(timeline),
            parent: parent.map(TimelineId),
            reason,
            starting_gtids: gtids("starting_gtids", &starting_gtids)?,
            created: Micros(created_us),
        };
        Ok((Preamble { format, kind, repository, software }, record))
    }
}
