//! Key bundles as an archive of Highwater has them: compressed with zstd, then sealed with age.

use std::path::PathBuf;

#[cfg(feature = "sealed")]
use highwater_keyring::KEYRING_BYTES_MAX;
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure};

const AGE: &[u8] = b"age-encryption.org/v1\n";
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Whether `bytes` are compressed or sealed.
pub(crate) fn looks_like(bytes: &[u8]) -> bool {
    bytes.starts_with(AGE) || bytes.starts_with(ZSTD)
}

/// Private age keys.
#[derive(Default)]
pub(crate) struct Identities {
    #[cfg(feature = "sealed")]
    keys: Vec<age::x25519::Identity>,
}

#[cfg(feature = "sealed")]
impl Identities {
    /// Reads files as `age-keygen` writes them.
    pub(crate) fn read(paths: &[PathBuf]) -> Result<Self, Failure> {
        let mut keys = Vec::new();
        for path in paths {
            let failed = |text: String| {
                Failure::new(Exit::Key, format!("identity file {}: {text}", path.display()))
                    .hint("it is the file that `highwater init` or age-keygen wrote, with a line AGE-SECRET-KEY-1...")
            };
            let bytes = crate::keyring_file::read_secret_file(path).map_err(|error| failed(error.to_string()))?;
            let bytes = bytes.ok_or_else(|| failed("no such file".to_owned()))?;
            let before = keys.len();
            for (index, line) in bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).enumerate() {
                if line.is_empty() || line.starts_with(b"#") {
                    continue;
                }
                let parsed = std::str::from_utf8(line).ok().and_then(|line| line.parse().ok());
                keys.push(parsed.ok_or_else(|| failed(format!("line {} is no age identity", index + 1)))?);
            }
            if keys.len() == before {
                return Err(failed("it holds no identity".to_owned()));
            }
        }
        Ok(Self { keys })
    }

    /// The document inside of a bundle.
    pub(crate) fn open(&self, bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, (String, &'static str)> {
        use std::io::Read;

        let damaged = || ("sealed keys are damaged or cut".to_owned(), "get the bundle again from the archive");
        if !bytes.starts_with(AGE) {
            return inflate(bytes).ok_or_else(damaged);
        }
        if self.keys.is_empty() {
            return Err(("keys are sealed, and no identity was given".to_owned(), "give it with --identity PATH"));
        }
        let decryptor = age::Decryptor::new(bytes).map_err(|_| damaged())?;
        let identities = self.keys.iter().map(|key| {
            let key: &dyn age::Identity = key;
            key
        });
        let reader = decryptor.decrypt(identities).map_err(|error| match error {
            age::DecryptError::NoMatchingKeys => (
                "keys are sealed to another identity".to_owned(),
                "give the identity that belongs to the archive's recipients with --identity PATH",
            ),
            _ => damaged(),
        })?;
        let mut compressed = Zeroizing::new(Vec::with_capacity(bytes.len()));
        reader.take(KEYRING_BYTES_MAX as u64).read_to_end(&mut compressed).map_err(|_| damaged())?;
        inflate(&compressed).ok_or_else(damaged)
    }
}

#[cfg(feature = "sealed")]
fn inflate(bytes: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    use std::io::Read;

    let mut decoder = zstd::Decoder::new(bytes).ok()?;
    // Room for all of it from the start: growing would leave copies behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(KEYRING_BYTES_MAX + 64));
    let count = decoder.by_ref().take(KEYRING_BYTES_MAX as u64 + 1).read_to_end(&mut plain).ok()?;
    (count <= KEYRING_BYTES_MAX).then_some(plain)
}

#[cfg(not(feature = "sealed"))]
impl Identities {
    pub(crate) fn read(paths: &[PathBuf]) -> Result<Self, Failure> {
        if paths.is_empty() {
            return Ok(Self::default());
        }
        Err(Failure::new(Exit::Usage, "this build opens no sealed keys").hint("build it with the feature `sealed`"))
    }

    #[expect(clippy::unused_self, reason = "the other build's method uses it")]
    pub(crate) fn open(&self, _: &[u8]) -> Result<Zeroizing<Vec<u8>>, (String, &'static str)> {
        Err((
            "keys are sealed, and this build opens none".to_owned(),
            "age -d -i IDENTITY FILE | zstd -d > bundle.json",
        ))
    }
}
