//! Key bundles: append-only generations, always sealed.

use std::io::Read;

use highwater_binlog::ServerUuid;
use highwater_catalog::{KEYS_PREFIX, KeyGeneration, ManifestName, key_object_key};
use zeroize::Zeroizing;

use super::{Archive, ArchiveError, Published, StoredFacts, now, object_key};
use crate::store::StoreErrorKind;

impl Archive {
    /// Seals a key bundle and publishes it as the server's next generation.
    pub fn publish_keys(
        &self,
        server: ServerUuid,
        key_ids: Vec<String>,
        plain: &[u8],
    ) -> Result<KeyGeneration, ArchiveError> {
        if self.recipients.is_empty() {
            return Err(ArchiveError::KeysUnsealed);
        }
        let mut generation = self.last_generation(&server)? + 1;
        loop {
            let (mut sealed, facts) = self.seal(&mut &plain[..])?;
            let keys = KeyGeneration {
                server,
                generation,
                key_ids: key_ids.clone(),
                taken: now(),
                stored_size: facts.stored_size,
                stored_sha256: facts.stored_sha256,
            };
            let key = object_key(&key_object_key(&keys))?;
            match self.store.create(&key, &mut sealed) {
                Ok(_) => {}
                Err(error) if error.kind == StoreErrorKind::Exists => {}
                Err(error) => return Err(error.into()),
            }
            match self.publish(&keys)? {
                Published::Now => return Ok(keys),
                Published::Before(_) => generation += 1,
            }
        }
    }

    /// The plain bytes of a key bundle.
    pub fn read_keys(&self, keys: &KeyGeneration) -> Result<Zeroizing<Vec<u8>>, ArchiveError> {
        let facts = StoredFacts::of_keys(keys);
        let mut plain = Zeroizing::new(Vec::new());
        let mut reader = self.read_object(&facts)?;
        reader.read_to_end(&mut plain).map_err(|error| ArchiveError::of_read(facts.key(), error))?;
        Ok(plain)
    }

    fn last_generation(&self, server: &ServerUuid) -> Result<u32, ArchiveError> {
        let prefix = object_key(&format!("{KEYS_PREFIX}/{server}"))?;
        let generations =
            self.store.list(Some(&prefix))?.into_iter().filter_map(|info| {
                match ManifestName::recognise(info.key.as_str())? {
                    ManifestName::Keys(_, generation) => Some(generation),
                    _ => None,
                }
            });
        Ok(generations.max().unwrap_or(0))
    }
}
