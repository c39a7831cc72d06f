//! All keys of a server that its bundles have, over all generations.

use std::collections::BTreeMap;

use highwater_binlog::ServerUuid;
use highwater_catalog::{Inventory, KeptFile, KeyGeneration};
use highwater_keyring::{FileMark, FilePassword, KeyBundle, Keyring};

use super::KeepError;
use crate::archive::{Archive, ArchiveError, StoredFacts};
use crate::exit::Exit;

/// The keys of a server's bundles. No generation has all that an older one had, and none is ever removed: together they
/// have every key and every password.
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
        of_server(inventory, server).try_for_each(|generation| keys.add(archive, generation))?;
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
        let plain = archive.read_keys(generation)?;
        let bundle = KeyBundle::decode(&plain).map_err(|error| {
            let object = StoredFacts::of_keys(generation).key().to_owned();
            ArchiveError::Damaged { object, what: error.to_string() }
        })?;
        let (keyring, files) = bundle.into_parts();
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

fn of_server(inventory: &Inventory, server: ServerUuid) -> impl Iterator<Item = &KeyGeneration> {
    inventory.keys.iter().filter(move |keys| keys.server == server)
}
