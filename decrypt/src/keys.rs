//! The keys at hand, and where each came from.

use std::path::Path;
use std::sync::Arc;

use highwater_binlog::{EncryptionHeader, EventCipher, EventScheme, StartEncryption};
use highwater_keyring::{FileKey, FileMark, FilePassword, KeyBundle, KeyId, KeyRole, Keyring, MariaDbKeys, MasterKey};

use crate::cli::KeyPlaces;
use crate::datadir;
use crate::failure::{Exit, Failure};
use crate::keyring_file::{self, Openers};

/// What one place has.
#[derive(Debug, Default)]
pub(crate) struct KeySource {
    /// Where it is, for people.
    pub(crate) place: String,
    pub(crate) keyring: Keyring,
    /// Passwords of single files, from bundles.
    pub(crate) files: Vec<FileKey>,
    /// MariaDB's keys.
    pub(crate) event_keys: MariaDbKeys,
    /// What is wrong with it and did not keep it from being read, for people.
    pub(crate) warnings: Vec<String>,
}

/// All keyrings given, kept apart: two servers, or one before and after a reset, may have different keys of one id.
#[derive(Debug, Default)]
pub struct Keys {
    sources: Vec<KeySource>,
    /// Why a data folder gave no keyring.
    notes: Vec<String>,
    /// Those that were read before, and come after these.
    others: Option<Arc<Keys>>,
}

impl Keys {
    /// Reads every keyring given.
    ///
    /// # Errors
    /// A keyring or key file named on the command line that cannot be used. Those of data folders become notes: the
    /// files may be plain, or their key come from elsewhere.
    pub fn collect(places: &KeyPlaces) -> Result<Self, Failure> {
        let mut keys = Self::default();
        let mut openers = Openers::read(&places.passwords, &places.identities)?;
        openers.iterations.extend(places.iterations.iter().copied());
        let mut found = Vec::new();
        for datadir in &places.datadirs {
            let mut data = datadir_keys(datadir)?;
            keys.notes.append(&mut data.notes);
            // What a data folder says opens the keyrings that are given by themselves too.
            openers.passwords.append(&mut data.passwords.0);
            openers.iterations.append(&mut data.iterations);
            found.push(data);
        }
        for key in &places.keys {
            keys.sources.push(keyring_file::read_key(key)?);
        }
        for path in &places.keyrings {
            keys.sources.extend(keyring_file::read_with_backup(path, &openers)?);
        }
        #[cfg(feature = "vault")]
        for config in &places.vaults {
            keys.sources.push(crate::vault::read(config)?);
        }
        for found in found {
            #[cfg(feature = "vault")]
            for config in found.vaults {
                match crate::vault::read(&config) {
                    Ok(source) => keys.sources.push(source),
                    Err(failure) => keys.notes.push(failure.error),
                }
            }
            for path in found.keyrings {
                match keyring_file::read_with_backup(&path, &openers) {
                    Ok(sources) => keys.sources.extend(sources),
                    Err(failure) => keys.notes.push(failure.error),
                }
            }
        }
        Ok(keys)
    }

    /// Adds the keys of a bundle that is at `place`; all values that one id has there are kept apart.
    pub fn add_bundle(&mut self, place: &str, bundle: KeyBundle) {
        let (keyring, files) = bundle.into_parts();
        let new = || KeySource { place: place.to_owned(), ..KeySource::default() };
        for (key_id, key) in keyring.keys() {
            let takes = |source: &KeySource| {
                source.place == place && source.keyring.get(key_id).is_none_or(|known| known.is_same_as(key))
            };
            let at = self.sources.iter().position(takes).unwrap_or(self.sources.len());
            if at == self.sources.len() {
                self.sources.push(new());
            }
            if let Some(source) = self.sources.get_mut(at) {
                source.keyring.insert(key_id.clone(), copy(key));
            }
        }
        if let Some(source) = self.sources.iter_mut().find(|source| source.place == place) {
            source.files.extend(files);
        } else if !files.is_empty() {
            self.sources.push(KeySource { files, ..new() });
        }
    }

    /// Says why a place has no keys.
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// The same, and `others` after them.
    #[must_use]
    pub fn and(self, others: Arc<Self>) -> Self {
        Self { others: Some(others), ..self }
    }

    /// What is wrong with keyrings that were read all the same, for people.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.sources().flat_map(|source| source.warnings.iter().map(String::as_str))
    }

    /// All master keys together; of two with one id, the one that was found first.
    #[must_use]
    pub fn keyring(&self) -> Keyring {
        let mut all = Keyring::new();
        for (key_id, key) in self.sources().flat_map(|source| source.keyring.keys()) {
            all.insert(key_id.clone(), copy(key));
        }
        all
    }

    fn sources(&self) -> impl Iterator<Item = &KeySource> {
        self.sources.iter().chain(self.others.iter().flat_map(|others| &others.sources))
    }

    fn notes(&self) -> impl Iterator<Item = &String> {
        self.notes.iter().chain(self.others.iter().flat_map(|others| &others.notes))
    }

    /// Whether no place was given at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.sources().next().is_none() && self.notes().next().is_none()
    }

    /// Every password that may open a file with this header, none if that is damaged, and these first bytes after it;
    /// and where it is from.
    pub(crate) fn candidates(&self, header: Option<&EncryptionHeader>, body: &[u8]) -> Vec<(&str, FilePassword)> {
        let mut found = Vec::new();
        for source in self.sources() {
            if let Some(header) = header
                && let Some(key) = source.keyring.get(header.key_id())
            {
                found.push((source.place.as_str(), header.wrapped().unwrap_with(key)));
            }
        }
        let Some(mark) = FileMark::of_body(body) else { return found };
        for source in self.sources() {
            for file in source.files.iter().filter(|file| file.mark == mark) {
                let password = FilePassword::init_with(|bytes| *bytes = *file.password.expose());
                found.push((source.place.as_str(), password));
            }
        }
        found
    }

    /// The first key and scheme whose events `proves` accepts; otherwise the places whose keys it does not.
    pub(crate) fn event_cipher(
        &self,
        start: &StartEncryption,
        proves: impl Fn(&EventCipher) -> bool,
    ) -> Result<(String, EventScheme, EventCipher), Vec<String>> {
        let mut wrong = Vec::new();
        for source in self.sources() {
            let Some(key) = source.event_keys.get(MariaDbKeys::BINLOG_KEY) else { continue };
            for scheme in EventScheme::ALL {
                match EventCipher::new(key, scheme, start) {
                    Some(cipher) if proves(&cipher) => return Ok((source.place.clone(), scheme, cipher)),
                    _ => {}
                }
            }
            wrong.push(source.place.clone());
        }
        Err(wrong)
    }

    /// The failure that no keyring has the key of `file`.
    pub(crate) fn missing(&self, file: &str, key_id: &KeyId) -> Failure {
        let text = format!("{file}: key {key_id} is missing");
        if self.is_empty() {
            return Failure::new(Exit::Key, format!("{text}: no keyring was given"))
                .hint("give the server's data folder with --datadir DIR, or its keyring with --keyring PATH");
        }
        let hint = match key_id.role() {
            _ if self.sources().next().is_none() => {
                "what is in the way is named above; give the keyring itself with --keyring PATH"
            }
            KeyRole::Master { .. } => {
                "a server deletes old keys when its master key is rotated: look for a keyring from when the file was made"
            }
            _ => "give the keyring that has this key with --keyring PATH",
        };
        Failure::new(Exit::Key, format!("{text}; {}", self.searched())).hint(hint)
    }

    /// The failure that `places` have a key of that id, and none of them opens `file`.
    pub(crate) fn wrong(file: &str, key_id: &KeyId, places: &[&str]) -> Failure {
        let text = format!("{file}: key {key_id} from {} does not open it", places.join(", "));
        Failure::new(Exit::Key, text).hint(
            "the key is another server's or another time's of the same name, or the file's first 512 bytes are damaged",
        )
    }

    /// The failure that no key opens a file whose events are encrypted one by one.
    pub(crate) fn no_event_key(
        &self,
        file: &str,
        start: &StartEncryption,
        wrong: &[String],
        is_percona: bool,
    ) -> Failure {
        let (product, hint) = if is_percona {
            (
                "Percona Server",
                "write the keyring's percona_binlog key into a file as the line `1;HEX`, and give that with --keyring",
            )
        } else {
            ("MariaDB", "give the server's file_key_management_filename with --keyring PATH; it needs key number 1")
        };
        let version = start.key_version;
        let text = match wrong {
            [] if self.is_empty() => format!("{file} is encrypted by {product}: no keyring was given"),
            [] => {
                format!("{file} is encrypted by {product}: its key (version {version}) is missing; {}", self.searched())
            }
            wrong => format!("{file} is encrypted by {product}: key 1 from {} does not open it", wrong.join(", ")),
        };
        Failure::new(Exit::Key, text).hint(hint)
    }

    /// Which keyrings were searched, for people.
    fn searched(&self) -> String {
        let one = |source: &KeySource| format!("{} ({})", source.place, source.count());
        let mut parts: Vec<String> = self.sources().map(one).collect();
        if parts.is_empty() {
            parts.push("no keyring".to_owned());
        }
        let mut text = format!("searched {}", parts.join(", "));
        for note in self.notes() {
            text.push_str("; ");
            text.push_str(note);
        }
        text
    }
}

/// The same key once more.
fn copy(key: &MasterKey) -> MasterKey {
    MasterKey::init_with(|bytes| *bytes = *key.expose())
}

/// What a data folder says about its server's keyring.
fn datadir_keys(datadir: &Path) -> Result<datadir::Found, Failure> {
    if datadir.is_dir() {
        return Ok(datadir::find(datadir));
    }
    Err(Failure::new(Exit::Key, format!("data folder {}: no such folder", datadir.display()))
        .hint("give the folder with the server's ibdata1 and mysqld-auto.cnf, wherever its disk is mounted"))
}

impl KeySource {
    /// How much it has, for people.
    fn count(&self) -> String {
        let files = match self.files.len() {
            0 => String::new(),
            1 => ", 1 file's password".to_owned(),
            n => format!(", {n} files' passwords"),
        };
        match self.keyring.len() + self.event_keys.len() {
            0 => format!("no keys{files}"),
            1 => format!("1 key{files}"),
            n => format!("{n} keys{files}"),
        }
    }
}
