//! The password of one encrypted binlog, kept apart from the file.

use std::fmt;

use crate::secret::FilePassword;

/// Tells one encrypted file from every other, whatever its name is and whichever key its header names: the first 16
/// bytes after its header. They depend on the file's password alone, which is random and never changes; the flag that a
/// server clears when it closes the file comes later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileMark([u8; 16]);

impl FileMark {
    /// The mark of a file whose bytes after the header begin with `body`; none for fewer than 16 bytes.
    #[must_use]
    pub fn of_body(body: &[u8]) -> Option<Self> {
        body.first_chunk().copied().map(Self)
    }

    /// Reads 32 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut mark = [0; 16];
        hex::decode_to_slice(text, &mut mark).ok()?;
        Some(Self(mark))
    }
}

impl fmt::Display for FileMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FileMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileMark({self})")
    }
}

/// The password of one file: opens it after its master key is gone.
#[derive(Debug)]
pub struct FileKey {
    /// Which file.
    pub mark: FileMark,
    /// The file's name when it was taken, for people.
    pub binlog: String,
    /// Its password.
    pub password: FilePassword,
}
