//! `dumps/<id>/manifest.json`.

use highwater_binlog::BinlogPosition;
use serde::{Deserialize, Serialize};

use super::Wire;
use super::parts::{ObjectV1, Preamble, gtids, parse, same_key};
use crate::check::RecordError;
use crate::names::dump_object_key;
use crate::record::{Dump, DumpFile, DumpFileKind, DumpId, TimelineId};
use highwater_binlog::Micros;

/// Version 1 on the wire.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DumpManifestV1 {
    format: u32,
    kind: String,
    repository: String,
    software: String,
    dump: String,
    timeline: u32,
    server: String,
    server_version: String,
    gtids: String,
    position: Option<PositionV1>,
    started_us: u64,
    finished_us: u64,
    method: String,
    files: Vec<FileV1>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PositionV1 {
    binlog: String,
    offset: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileV1 {
    name: String,
    content: ContentV1,
    object: ObjectV1,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum ContentV1 {
    Schema {},
    Accounts {},
    Rows { schema: String, table: String, rows: u64 },
}

impl Wire for Dump {
    const KIND: &'static str = "dump";
    type V1 = DumpManifestV1;

    fn to_wire(&self, preamble: Preamble) -> DumpManifestV1 {
        let Preamble { format, kind, repository, software } = preamble;
        DumpManifestV1 {
            format,
            kind,
            repository,
            software,
            dump: self.id.to_string(),
            timeline: self.timeline.0,
            server: self.server.to_string(),
            server_version: self.server_version.clone(),
            gtids: self.gtids.to_string(),
            position: self.position.as_ref().map(|at| PositionV1 { binlog: at.binlog.to_string(), offset: at.offset }),
            started_us: self.started.0,
            finished_us: self.finished.0,
            method: self.method.clone(),
            files: self.files.iter().map(|file| file_to_wire(&self.id, file)).collect(),
        }
    }

    fn from_wire(wire: DumpManifestV1) -> Result<(Preamble, Self), RecordError> {
        let DumpManifestV1 { format, kind, repository, software, .. } = wire;
        let id: DumpId = parse("dump", &wire.dump)?;
        let position = wire
            .position
            .map(|at| Ok(BinlogPosition { binlog: parse("position.binlog", &at.binlog)?, offset: at.offset }));
        let record = Self {
            timeline: TimelineId(wire.timeline),
            server: parse("server", &wire.server)?,
            server_version: wire.server_version,
            gtids: gtids("gtids", &wire.gtids)?,
            position: position.transpose()?,
            started: Micros(wire.started_us),
            finished: Micros(wire.finished_us),
            method: wire.method,
            files: wire.files.into_iter().map(|file| file_from_wire(&id, file)).collect::<Result<_, _>>()?,
            id,
        };
        Ok((Preamble { format, kind, repository, software }, record))
    }
}

fn file_to_wire(dump: &DumpId, file: &DumpFile) -> FileV1 {
    FileV1 {
        name: file.name.clone(),
        content: match &file.kind {
            DumpFileKind::Schema => ContentV1::Schema {},
            DumpFileKind::Accounts => ContentV1::Accounts {},
            DumpFileKind::Rows { schema, table, rows } => {
                ContentV1::Rows { schema: schema.clone(), table: table.clone(), rows: *rows }
            }
        },
        object: ObjectV1::new(dump_object_key(dump, file), &file.object),
    }
}

fn file_from_wire(dump: &DumpId, wire: FileV1) -> Result<DumpFile, RecordError> {
    let (key, object) = wire.object.read()?;
    let kind = match wire.content {
        ContentV1::Schema {} => DumpFileKind::Schema,
        ContentV1::Accounts {} => DumpFileKind::Accounts,
        ContentV1::Rows { schema, table, rows } => DumpFileKind::Rows { schema, table, rows },
    };
    let file = DumpFile { name: wire.name, kind, object };
    same_key("files.object.key", &key, &dump_object_key(dump, &file))?;
    Ok(file)
}
