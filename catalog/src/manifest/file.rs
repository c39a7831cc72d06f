//! `files/<server-uuid>/<binlog>/<mark>.json`.

use highwater_keyring::FileMark;
use serde::{Deserialize, Serialize};

use super::Wire;
use super::parts::{ObjectV1, Preamble, digest, gtids, parse, same_key};
use crate::check::RecordError;
use crate::names::{file_body_keys, file_header_key};
use crate::record::KeptFile;
use highwater_binlog::Micros;

/// Version 1 on the wire.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptFileV1 {
    format: u32,
    kind: String,
    repository: String,
    software: String,
    server: String,
    binlog: String,
    mark: String,
    server_version: String,
    gtids_before: String,
    gtids_added: String,
    first_commit_us: Option<u64>,
    last_commit_us: Option<u64>,
    events: u64,
    transactions: u64,
    key_id: String,
    key_generation: u32,
    taken_us: u64,
    body_size: u64,
    body_blake3: String,
    header: ObjectV1,
    objects: Vec<ObjectV1>,
}

impl Wire for KeptFile {
    const KIND: &'static str = "file";
    type V1 = KeptFileV1;

    fn to_wire(&self, preamble: Preamble) -> KeptFileV1 {
        let Preamble { format, kind, repository, software } = preamble;
        let header = file_header_key(&self.server, &self.binlog, &self.mark, &self.header);
        KeptFileV1 {
            format,
            kind,
            repository,
            software,
            server: self.server.to_string(),
            binlog: self.binlog.to_string(),
            mark: self.mark.to_string(),
            server_version: self.server_version.clone(),
            gtids_before: self.gtids_before.to_string(),
            gtids_added: self.gtids_added.to_string(),
            first_commit_us: self.first_commit.map(|micros| micros.0),
            last_commit_us: self.last_commit.map(|micros| micros.0),
            events: self.events,
            transactions: self.transactions,
            key_id: self.key_id.clone(),
            key_generation: self.key_generation,
            taken_us: self.taken.0,
            body_size: self.body_size(),
            body_blake3: self.body_blake3.to_string(),
            header: ObjectV1::new(header, &self.header),
            objects: file_body_keys(self)
                .into_iter()
                .zip(&self.objects)
                .map(|(key, object)| ObjectV1::new(key, object))
                .collect(),
        }
    }

    fn from_wire(wire: KeptFileV1) -> Result<(Preamble, Self), RecordError> {
        let KeptFileV1 { format, kind, repository, software, .. } = wire;
        let mark = FileMark::from_hex(&wire.mark).filter(|mark| mark.to_string() == wire.mark);
        let (header_key, header) = wire.header.read()?;
        let objects = wire.objects.into_iter().map(ObjectV1::read).collect::<Result<Vec<_>, _>>()?;
        let (keys, objects): (Vec<_>, Vec<_>) = objects.into_iter().unzip();
        let record = Self {
            server: parse("server", &wire.server)?,
            binlog: parse("binlog", &wire.binlog)?,
            mark: mark.ok_or_else(|| RecordError::new("mark", "not 32 lower-case hexadecimal digits"))?,
            server_version: wire.server_version,
            gtids_before: gtids("gtids_before", &wire.gtids_before)?,
            gtids_added: gtids("gtids_added", &wire.gtids_added)?,
            first_commit: wire.first_commit_us.map(Micros),
            last_commit: wire.last_commit_us.map(Micros),
            events: wire.events,
            transactions: wire.transactions,
            key_id: wire.key_id,
            key_generation: wire.key_generation,
            taken: Micros(wire.taken_us),
            body_blake3: digest("body_blake3", &wire.body_blake3)?,
            header,
            objects,
        };
        if record.body_size() != wire.body_size {
            let reason = format!("{} where the objects have {} bytes", wire.body_size, record.body_size());
            return Err(RecordError::new("body_size", reason));
        }
        let expected = file_header_key(&record.server, &record.binlog, &record.mark, &record.header);
        same_key("header.key", &header_key, &expected)?;
        for (found, expected) in keys.iter().zip(file_body_keys(&record)) {
            same_key("objects.key", found, &expected)?;
        }
        Ok((Preamble { format, kind, repository, software }, record))
    }
}
