//! age keys: public ones to seal to, private ones to read back.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use age::x25519::{Identity, Recipient};
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use super::SealError;

/// An identity file is a few lines; more than this is another file.
const IDENTITY_FILE_BYTES_MAX: u64 = 64 << 10;

/// Public keys that objects are sealed to. None: objects are compressed only.
#[derive(Debug, Clone, Default)]
pub struct Recipients(Vec<Recipient>);

impl Recipients {
    /// Reads `age1…` texts.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, SealError> {
        let one = |text: &T| {
            let text = text.as_ref().trim();
            if text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
                return Err(SealError::RecipientIsPrivate);
            }
            text.parse::<Recipient>().map_err(|_| SealError::Recipient { text: text.to_owned() })
        };
        Ok(Self(texts.iter().map(one).collect::<Result<_, _>>()?))
    }

    /// Whether objects are left unencrypted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys as text.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &dyn age::Recipient> {
        self.0.iter().map(|recipient| {
            let recipient: &dyn age::Recipient = recipient;
            recipient
        })
    }
}

/// Private keys that open sealed objects.
pub struct Identities(Vec<Identity>);

impl Identities {
    /// Reads a file as `age-keygen` writes it: `AGE-SECRET-KEY-1…` lines, comments and empty lines.
    ///
    /// A file that other accounts can read is refused.
    pub fn read_file(path: &Path) -> Result<Self, SealError> {
        let name = || path.display().to_string();
        let unreadable = |source| SealError::IdentityFile { path: name(), source };
        let file = File::open(path).map_err(unreadable)?;
        let facts = file.metadata().map_err(unreadable)?;
        let mode = facts.permissions().mode() & 0o7777;
        if facts.is_file() && mode & 0o077 != 0 {
            return Err(SealError::IdentityExposed { path: name(), mode });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(IDENTITY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
        let mut identities = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let identity = line.parse().map_err(|_| SealError::IdentityLine { path: name(), line: index + 1 })?;
            identities.push(identity);
        }
        if identities.is_empty() {
            return Err(SealError::IdentityNone { path: name() });
        }
        Ok(Self(identities))
    }

    /// Those of several files.
    pub fn read_files<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Self, SealError> {
        let read: Result<Vec<Self>, SealError> = paths.into_iter().map(Self::read_file).collect();
        Ok(Self(read?.into_iter().flat_map(|identities| identities.0).collect()))
    }

    /// The public keys that belong to them.
    #[must_use]
    pub fn recipients(&self) -> Recipients {
        Recipients(self.0.iter().map(Identity::to_public).collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|identity| {
            let identity: &dyn age::Identity = identity;
            identity
        })
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identities(..)")
    }
}

/// A fresh key pair.
pub struct NewIdentity(Identity);

impl NewIdentity {
    /// Makes one from the system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(Identity::generate())
    }

    /// The public key, `age1…`.
    #[must_use]
    pub fn public_key(&self) -> String {
        self.0.to_public().to_string()
    }

    /// The text of an identity file, as `age-keygen` lays it out.
    #[must_use]
    pub fn file_text(&self) -> Zeroizing<String> {
        let secret = self.0.to_string();
        Zeroizing::new(format!("# public key: {}\n{}\n", self.public_key(), secret.expose_secret()))
    }

    /// For use in the same process.
    #[must_use]
    pub fn into_identities(self) -> Identities {
        Identities(vec![self.0])
    }
}

impl fmt::Debug for NewIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewIdentity({})", self.public_key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn file(text: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity.txt");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn a_written_identity_reads_back() {
        let new = NewIdentity::generate();
        let text = format!("# created: 2026-11-22T15:00:00Z\n\n{}", *new.file_text());
        let (_folder, path) = file(&text, 0o600);
        assert_eq!(Identities::read_file(&path).unwrap().recipients().texts(), [new.public_key()]);
    }

    #[test]
    fn an_identity_file_others_can_read_is_refused() {
        for mode in [0o644, 0o640, 0o604] {
            let (_folder, path) = file(&NewIdentity::generate().file_text(), mode);
            let error = Identities::read_file(&path).unwrap_err();
            let expected = format!("identity file {} can be read by other users (mode {mode:04o})", path.display());
            assert_eq!(error.to_string(), expected);
            assert_eq!(error.hint(), Some(format!("chmod 600 {}", path.display())));
        }
    }

    #[test]
    fn a_bad_line_is_named_by_number_and_not_shown() {
        let (_folder, path) = file("# c\nAGE-SECRET-KEY-1NOTREALLY\n", 0o600);
        let error = Identities::read_file(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("line 2 of identity file {} is no age identity", path.display()));
    }

    #[test]
    fn an_identity_file_without_identity_is_refused() {
        let (_folder, path) = file("# only talk\n", 0o600);
        let error = Identities::read_file(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("identity file {} holds no identity", path.display()));
    }

    #[test]
    fn debug_output_shows_no_private_key() {
        let new = NewIdentity::generate();
        let secret = new.file_text();
        let secret = secret.lines().last().unwrap().to_owned();
        assert!(!format!("{new:?}").contains(&secret));
        assert!(!format!("{:?}", new.into_identities()).contains(&secret));
    }

    #[test]
    fn bad_recipients_are_refused_and_private_keys_not_repeated() {
        let error = Recipients::parse(&["age1nonsense"]).unwrap_err();
        assert_eq!(error.to_string(), "`age1nonsense` is not an age public key");
        let secret = NewIdentity::generate().file_text().lines().last().unwrap().to_owned();
        let error = Recipients::parse(&[&secret]).unwrap_err();
        assert_eq!(error.to_string(), "an age private key stands where a public key belongs");
    }
}
