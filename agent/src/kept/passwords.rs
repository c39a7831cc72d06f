//! All keys of a server that its bundles have, over all generations.

use std::collections::BTreeMap;

use binlog_decrypt::Keys;
use highwater_binlog::ServerUuid;
use highwater_catalog::{Inventory, KeptFile, KeyGeneration};
use highwater_keyring::{FileMark, FilePassword, KeyBundle, Keyring};

use super::KeepError;
use crate::archive::{Archive, ArchiveError, StoredFacts};
use crate::capture::chain;
use crate::exit::Exit;

/// The keys of a server's bundles. No generation has all that an older one had, and none is ever removed: together they
/// have every key and every password. Of a key that a server made once more under its old id the newest value counts.
#[derive(Debug, Default)]
pub struct KeptKeys {
    keyring: Keyring,
    files: BTreeMap<FileMark, FilePassword>,
}

impl KeptKeys {
    /// Reads all generations, which needs the identity.
    ///
    /// # Errors
    /// When a bundle cannot be read.
    pub fn read(archive: &Archive, inventory: &Inventory, server: ServerUuid) -> Result<Self, ArchiveError> {
        let mut keys = Self::default();
        of_server(inventory, server).into_iter().try_for_each(|generation| keys.add(archive, generation))?;
        Ok(keys)
    }

    /// The same past bundles that are damaged or gone.
    ///
    /// # Errors
    /// When the store fails, or the identity is another one.
    pub fn read_sound(archive: &Archive, inventory: &Inventory, server: ServerUuid) -> Result<Self, ArchiveError> {
        let mut keys = Self::default();
        for generation in of_server(inventory, server) {
            match keys.add(archive, generation) {
                Err(error) if error.exit() != Exit::Damaged => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(keys)
    }

    fn add(&mut self, archive: &Archive, generation: &KeyGeneration) -> Result<(), ArchiveError> {
        let (keyring, files) = bundle(archive, generation)?.into_parts();
        self.keyring.merge(keyring);
        self.files.extend(files.into_iter().map(|file| (file.mark, file.password)));
        Ok(())
    }

    /// The password of a kept file.
    ///
    /// # Errors
    /// No bundle has it.
    pub fn password(&self, file: &KeptFile) -> Result<&FilePassword, KeepError> {
        self.files.get(&file.mark).ok_or_else(|| KeepError::PasswordMissing { binlog: file.binlog.clone() })
    }

    /// The master keys.
    #[must_use]
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Adds a master key.
    pub(super) fn keyring_mut(&mut self) -> &mut Keyring {
        &mut self.keyring
    }
}

/// All bundles that can be opened, for whoever looks for a key: of each, all values that it ever had.
#[must_use]
pub fn bundled_keys(archive: &Archive, inventory: &[KeyGeneration]) -> Keys {
    let mut keys = Keys::default();
    for generation in newest_first(inventory.iter()) {
        match bundle(archive, generation) {
            Ok(bundle) => keys.add_bundle("the key bundles of the archive", bundle),
            Err(error) => keys.note(chain(&error)),
        }
    }
    keys
}

/// Those of a server, the newest first.
fn of_server(inventory: &Inventory, server: ServerUuid) -> Vec<&KeyGeneration> {
    newest_first(inventory.keys.iter().filter(|keys| keys.server == server))
}

/// Key bundles, the newest first: of two values of a key the first one stays.
pub fn newest_first<'a>(generations: impl Iterator<Item = &'a KeyGeneration>) -> Vec<&'a KeyGeneration> {
    let mut generations: Vec<_> = generations.collect();
    generations.sort_by_key(|keys| std::cmp::Reverse((keys.taken, keys.generation)));
    generations
}

/// Opens a bundle, which needs the identity.
///
/// # Errors
/// When it cannot be read.
pub fn bundle(archive: &Archive, generation: &KeyGeneration) -> Result<KeyBundle, ArchiveError> {
    let plain = archive.read_keys(generation)?;
    KeyBundle::decode(&plain).map_err(|error| {
        let object = StoredFacts::of_keys(generation).key().to_owned();
        ArchiveError::Damaged { object, what: error.to_string() }
    })
}
