//! The keys of a server's binlogs: read when the first file needs one, and again when none of them opens a file.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use binlog_decrypt::{Exit, Failure, KeyPlaces, Keys};

/// How often a file is opened whose key is not there or whose header makes no sense: a rotation of the master key writes
/// keyring and headers in place.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// Where the keys of a server's binlogs are, and what was found there. Clones share it. Opening a keyring may take a password
/// through half a million rounds, or a request to a Vault for each key.
#[derive(Debug, Clone)]
pub struct Keyrings(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: KeyPlaces,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    keys: Option<Arc<Keys>>,
    /// What gives further keys, once nothing else opens a file.
    reserve: Option<Reserve>,
    further: Option<Arc<Keys>>,
}

type Reserve = Box<dyn FnOnce() -> Keys + Send>;

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("keys", &self.keys).field("further", &self.further).finish_non_exhaustive()
    }
}

impl Keyrings {
    /// Of these places.
    #[must_use]
    pub fn new(places: KeyPlaces) -> Self {
        Self(Arc::new(Shared { places, found: Mutex::default() }))
    }

    /// Has `reserve` asked for further keys as soon as those of the places do not open a file.
    pub fn and_at_last(&self, reserve: impl FnOnce() -> Keys + Send + 'static) {
        self.found().reserve = Some(Box::new(reserve));
    }

    /// The keys, as they were read the last time.
    ///
    /// # Errors
    /// When a keyring that was named cannot be used.
    pub fn keys(&self) -> Result<Arc<Keys>, Failure> {
        let known = self.found().keys.clone();
        known.map_or_else(|| self.read(), Ok)
    }

    /// Opens something, with keys that are read anew for as long as they are missing.
    ///
    /// # Errors
    /// Those of `open`, when trying again does not help; and when a keyring that was named cannot be used.
    pub fn open<T>(&self, open: impl Fn(&Keys) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut keys = self.keys();
        let mut attempt = 1;
        loop {
            let failure = match keys.and_then(|keys| open(&keys)) {
                Err(failure) if matches!(failure.exit, Exit::Key | Exit::Damaged) && attempt < ATTEMPTS => failure,
                result => return result,
            };
            // The first time nothing is waited for: the keys may simply be older than the file.
            if attempt > 1 || failure.exit != Exit::Key {
                sleep(PAUSE);
            }
            keys = if failure.exit == Exit::Key { self.read() } else { self.keys() };
            attempt += 1;
        }
    }

    fn read(&self) -> Result<Arc<Keys>, Failure> {
        let keys = Keys::collect(&self.0.places);
        let mut found = self.found();
        let was_read = found.keys.take().is_some();
        if let Some(reserve) = found.reserve.take_if(|_| was_read) {
            found.further = Some(Arc::new(reserve()));
        }
        let keys = match &found.further {
            Some(further) => keys?.and(Arc::clone(further)),
            None => keys?,
        };
        let keys = Arc::new(keys);
        found.keys = Some(Arc::clone(&keys));
        Ok(keys)
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.0.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use highwater_keyring::{KeyBundle, KeyId, Keyring, MasterKey};

    use super::*;

    const UUID: &str = "00508583-b5ce-11e8-a6a5-0010e0734796";

    fn keyring(number: u8) -> Keyring {
        let mut keyring = Keyring::new();
        keyring.insert(id(number), MasterKey::init_with(|key| *key = [number; 32]));
        keyring
    }

    fn id(number: u8) -> KeyId {
        format!("MySQLReplicationKey_{UUID}_{number}").parse().unwrap()
    }

    /// A failure of the library, of which only it makes some.
    fn missing() -> Failure {
        let places = KeyPlaces { keyrings: vec!["/nowhere".into()], ..KeyPlaces::default() };
        Keys::collect(&places).unwrap_err()
    }

    fn has(keys: &Keys, number: u8) -> Result<(), Failure> {
        keys.keyring().get(&id(number)).map(|_| ()).ok_or_else(missing)
    }

    #[test]
    fn a_keyring_is_read_again_only_when_it_lacks_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keyring");
        fs::write(&path, keyring(1).to_component_file()).unwrap();
        let keyrings = Keyrings::new(KeyPlaces { keyrings: vec![path.clone()], ..KeyPlaces::default() });
        keyrings.open(|keys| has(keys, 1)).unwrap();
        fs::write(&path, keyring(2).to_component_file()).unwrap();
        let tries = Cell::new(0);
        let counted = |number| {
            tries.set(0);
            keyrings.open(|keys| {
                tries.set(tries.get() + 1);
                has(keys, number)
            })
        };
        counted(1).unwrap();
        assert_eq!(tries.get(), 1, "what is known is used");
        counted(2).unwrap();
        assert_eq!(tries.get(), 2, "read again without a pause");
        assert_eq!(counted(3).unwrap_err().exit, Exit::Key);
        assert_eq!(tries.get(), ATTEMPTS);
    }

    #[test]
    fn further_keys_are_asked_for_once_and_only_when_nothing_else_opens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keyring");
        fs::write(&path, keyring(1).to_component_file()).unwrap();
        let keyrings = Keyrings::new(KeyPlaces { keyrings: vec![path], ..KeyPlaces::default() });
        let asked = Arc::new(Mutex::new(0));
        let count = Arc::clone(&asked);
        keyrings.and_at_last(move || {
            *count.lock().unwrap() += 1;
            let mut keys = Keys::default();
            keys.add_bundle("archive", KeyBundle::new(UUID, 0, keyring(2)).unwrap());
            keys
        });
        keyrings.open(|keys| has(keys, 1)).unwrap();
        assert_eq!(*asked.lock().unwrap(), 0);
        keyrings.open(|keys| has(keys, 2)).unwrap();
        keyrings.open(|keys| has(keys, 1)).unwrap();
        keyrings.open(|keys| has(keys, 3)).unwrap_err();
        keyrings.open(|keys| has(keys, 2)).unwrap();
        assert_eq!(*asked.lock().unwrap(), 1);
    }
}
