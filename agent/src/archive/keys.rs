//! Key bundles: append-only generations, always sealed.

use std::io::Read;

use highwater_binlog::ServerUuid;
use highwater_catalog::{KEYS_PREFIX, KeyGeneration, ManifestName, key_object_key};
use highwater_keyring::KEYRING_BYTES_MAX;
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
            let (sealed, facts) = self.seal(&mut &plain[..])?;
            let keys = KeyGeneration {
                server,
                generation,
                key_ids: key_ids.clone(),
                taken: now(),
                stored_size: facts.stored_size,
                stored_blake3: facts.stored_blake3,
            };
            let key = object_key(&key_object_key(&keys))?;
            match sealed.create(&*self.store, &key) {
                Ok(_) => {}
                Err(error) if error.kind == StoreErrorKind::Exists => {}
                Err(error) => {
                    self.discard([key.to_string()]);
                    return Err(error.into());
                }
            }
            // The manifest may be there even if this fails: its object stays.
            match self.publish(&keys)? {
                Published::Now => return Ok(keys),
                Published::Before(there) if there == keys => return Ok(keys),
                Published::Before(_) => {
                    self.discard([key.to_string()]);
                    generation += 1;
                }
            }
        }
    }

    /// The plain bytes of a key bundle.
    pub fn read_keys(&self, keys: &KeyGeneration) -> Result<Zeroizing<Vec<u8>>, ArchiveError> {
        let facts = StoredFacts::of_keys(keys);
        // Room for all of it, which is random enough to be at most so much longer: growing would leave copies behind.
        let size = usize::try_from(keys.stored_size.saturating_mul(8)).unwrap_or(usize::MAX);
        let mut plain = Zeroizing::new(Vec::with_capacity(size.min(KEYRING_BYTES_MAX)));
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
