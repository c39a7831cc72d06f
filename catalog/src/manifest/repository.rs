//! `highwater.json`.

use serde::{Deserialize, Serialize};

use super::Wire;
use super::parts::{Preamble, parse};
use crate::check::RecordError;
use crate::repository::Repository;
use highwater_binlog::Micros;

/// Version 1 on the wire.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RepositoryV1 {
    format: u32,
    kind: String,
    repository: String,
    software: String,
    service: String,
    recipients: Vec<String>,
    created_us: u64,
}

impl Wire for Repository {
    const KIND: &'static str = "repository";
    type V1 = RepositoryV1;

    fn to_wire(&self, preamble: Preamble) -> RepositoryV1 {
        let Preamble { format, kind, repository, software } = preamble;
        RepositoryV1 {
            format,
            kind,
            repository,
            software,
            service: self.service.to_string(),
            recipients: self.recipients.clone(),
            created_us: self.created.0,
        }
    }

    fn from_wire(wire: RepositoryV1) -> Result<(Preamble, Self), RecordError> {
        let RepositoryV1 { format, kind, repository, software, service, recipients, created_us } = wire;
        let preamble = Preamble { format, kind, repository, software };
        let record = Self {
            id: preamble.repository()?,
            service: parse("service", &service)?,
            recipients,
            created: Micros(created_us),
        };
        Ok((preamble, record))
    }
}
