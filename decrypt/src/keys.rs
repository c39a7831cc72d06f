//! The keys at hand, and where each came from.

use std::path::{Path, PathBuf};

use highwater_keyring::{KeyId, Keyring, MasterKey};

use crate::cli::KeyPlaces;
use crate::datadir;
use crate::failure::{Exit, Failure};
use crate::keyring_file;

/// One keyring and its file.
#[derive(Debug)]
pub(crate) struct KeySource {
    pub(crate) place: PathBuf,
    pub(crate) keyring: Keyring,
}

/// All keyrings given, kept apart: two servers, or one before and after a reset, may have different keys of one id.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    sources: Vec<KeySource>,
    /// Why a data folder gave no keyring.
    notes: Vec<String>,
}

impl Keys {
    /// Reads every keyring given.
    ///
    /// # Errors
    /// A keyring or key file named on the command line that cannot be used. Those of data folders become notes: the
    /// files may be plain, or their key come from elsewhere.
    pub(crate) fn collect(places: &KeyPlaces) -> Result<Self, Failure> {
        let mut keys = Self::default();
        for key in &places.keys {
            keys.sources.push(keyring_file::read_key(key)?);
        }
        for path in &places.keyrings {
            keys.sources.extend(keyring_file::read_with_backup(path)?);
        }
        for datadir in &places.datadirs {
            let found = datadir::find(datadir);
            keys.notes.extend(found.notes);
            for path in found.keyrings {
                match keyring_file::read_with_backup(&path) {
                    Ok(sources) => keys.sources.extend(sources),
                    Err(failure) => keys.notes.push(failure.error),
                }
            }
        }
        Ok(keys)
    }

    /// Whether no place was given at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.notes.is_empty()
    }

    /// Every key with this id, and the file it is from.
    pub(crate) fn candidates(&self, key_id: &KeyId) -> impl Iterator<Item = (&Path, &MasterKey)> {
        self.sources.iter().filter_map(move |source| Some((source.place.as_path(), source.keyring.get(key_id)?)))
    }

    /// The failure that no keyring has the key of `file`.
    pub(crate) fn missing(&self, file: &Path, key_id: &KeyId) -> Failure {
        let text = format!("{}: key {key_id} is missing", file.display());
        if self.is_empty() {
            return Failure::new(Exit::Key, format!("{text}: no keyring was given"))
                .hint("give the server's data folder with --datadir DIR, or its keyring with --keyring PATH");
        }
        let hint = match key_id.role() {
            highwater_keyring::KeyRole::Master { .. } => {
                "a server deletes old keys when its master key is rotated: look for a keyring from when the file was made"
            }
            _ => "give the keyring that has this key with --keyring PATH",
        };
        Failure::new(Exit::Key, format!("{text}; {}", self.searched())).hint(hint)
    }

    /// The failure that `places` have a key of that id, and none of them opens `file`.
    pub(crate) fn wrong(file: &Path, key_id: &KeyId, places: &[&Path]) -> Failure {
        let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        let text = format!("{}: key {key_id} from {} does not open it", file.display(), places.join(", "));
        Failure::new(Exit::Key, text).hint(
            "the key is another server's or another time's of the same name, or the file's first 512 bytes are damaged",
        )
    }

    /// Which keyrings were searched, for people.
    fn searched(&self) -> String {
        let mut parts: Vec<String> = self
            .sources
            .iter()
            .map(|source| format!("{} ({})", source.place.display(), count(source.keyring.len())))
            .collect();
        if parts.is_empty() {
            parts.push("no keyring".to_owned());
        }
        let mut text = format!("searched {}", parts.join(", "));
        for note in &self.notes {
            text.push_str("; ");
            text.push_str(note);
        }
        text
    }
}

fn count(keys: usize) -> String {
    match keys {
        0 => "no keys".to_owned(),
        1 => "1 key".to_owned(),
        n => format!("{n} keys"),
    }
}
