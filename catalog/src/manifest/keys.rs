//! `keys/<server-uuid>/<generation>.json`.

use serde::{Deserialize, Serialize};

use super::Wire;
use super::parts::{Preamble, digest, parse, same_key};
use crate::check::RecordError;
use crate::names::key_object_key;
use crate::record::KeyGeneration;
use highwater_binlog::Micros;

/// Version 1 on the wire.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyBundleV1 {
    format: u32,
    kind: String,
    repository: String,
    software: String,
    server: String,
    generation: u32,
    key_ids: Vec<String>,
    taken_us: u64,
    object: BundleObjectV1,
}

/// A bundle is always encrypted, and no digest of its plaintext is written down.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleObjectV1 {
    key: String,
    stored_size: u64,
    stored_blake3: String,
}

impl Wire for KeyGeneration {
    const KIND: &'static str = "keys";
    type V1 = KeyBundleV1;

    fn to_wire(&self, preamble: Preamble) -> KeyBundleV1 {
        let Preamble { format, kind, repository, software } = preamble;
        KeyBundleV1 {
            format,
            kind,
            repository,
            software,
            server: self.server.to_string(),
            generation: self.generation,
            key_ids: self.key_ids.clone(),
            taken_us: self.taken.0,
            object: BundleObjectV1 {
                key: key_object_key(self),
                stored_size: self.stored_size,
                stored_blake3: self.stored_blake3.to_string(),
            },
        }
    }

    fn from_wire(wire: KeyBundleV1) -> Result<(Preamble, Self), RecordError> {
        let KeyBundleV1 { format, kind, repository, software, .. } = wire;
        let record = Self {
            server: parse("server", &wire.server)?,
            generation: wire.generation,
            key_ids: wire.key_ids,
            taken: Micros(wire.taken_us),
            stored_size: wire.object.stored_size,
            stored_blake3: digest("object.stored_blake3", &wire.object.stored_blake3)?,
        };
        same_key("object.key", &wire.object.key, &key_object_key(&record))?;
        Ok((Preamble { format, kind, repository, software }, record))
    }
}
