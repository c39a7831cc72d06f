//! `agents/<epoch>.json`.

use serde::{Deserialize, Serialize};

use super::Wire;
use super::parts::Preamble;
use crate::check::RecordError;
use crate::owner::{AgentOwner, Epoch, Takeover};
use highwater_binlog::Micros;

/// Version 1 on the wire.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentV1 {
    format: u32,
    kind: String,
    repository: String,
    software: String,
    epoch: u32,
    host: String,
    pid: u32,
    started_us: u64,
}

impl Wire for Takeover {
    const KIND: &'static str = "agent";
    type V1 = AgentV1;

    fn to_wire(&self, preamble: Preamble) -> AgentV1 {
        let Preamble { format, kind, repository, software } = preamble;
        let AgentOwner { host, pid, started } = self.owner.clone();
        AgentV1 { format, kind, repository, software, epoch: self.epoch.0, host, pid, started_us: started.0 }
    }

    fn from_wire(wire: AgentV1) -> Result<(Preamble, Self), RecordError> {
        let AgentV1 { format, kind, repository, software, epoch, host, pid, started_us } = wire;
        let owner = AgentOwner { host, pid, started: Micros(started_us) };
        Ok((Preamble { format, kind, repository, software }, Self { epoch: Epoch(epoch), owner }))
    }
}
