//! Encrypted binlogs: the 512-byte header and the stream cipher behind it.
//!
//! `sql/rpl_log_encryption.cc` and `sql/stream_cipher.cc` of MySQL, since 8.0.14. Every offset that is not in the header
//! is one of the plaintext stream: stream offset 0 is the byte after the header.

mod event_cipher;
mod stream_cipher;

use highwater_keyring::{KeyId, KeyIdError, WrappedFilePassword};

pub use event_cipher::{EventCipher, EventScheme, START_ENCRYPTION, StartEncryption};
pub use stream_cipher::StreamCipher;

/// The size of the header, and so the distance between a stream offset and the offset in the encrypted file.
pub const ENCRYPTION_HEADER_LEN: usize = 512;

/// The first bytes of an encrypted binlog or relay log; a plain one begins with `fe 'bin'`.
pub const ENCRYPTION_MAGIC: [u8; 4] = [0xfd, b'b', b'i', b'n'];

/// The only version there is.
const VERSION: u8 = 1;

const FIELD_END: u8 = 0;
const FIELD_KEY_ID: u8 = 1;
const FIELD_PASSWORD: u8 = 2;
const FIELD_IV: u8 = 3;

/// What is wrong with an encryption header. Offsets are those of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionHeaderError {
    /// The file does not begin with [`ENCRYPTION_MAGIC`].
    #[error("not an encrypted binlog: begins with {found:02x?}")]
    Magic {
        /// Its first bytes, 4 at most.
        found: Vec<u8>,
    },
    /// Magic, but no version after it.
    #[error("encryption header ends before its version")]
    VersionMissing,
    /// A version other than 1.
    #[error("encryption header has unknown version {version}")]
    Version {
        /// The version found.
        version: u8,
    },
    /// Fewer than 512 bytes.
    #[error("encryption header is cut: {have} of 512 bytes")]
    Incomplete {
        /// The bytes there are.
        have: usize,
    },
    /// A field type that has no meaning; fields carry no length, so nothing after it can be read.
    #[error("encryption header has unknown field type {field} at offset {offset}")]
    UnknownField {
        /// The type found.
        field: u8,
        /// Where it is.
        offset: usize,
    },
    /// A field that reaches beyond the header, or no end mark.
    #[error("encryption header is corrupted: field at offset {offset} reaches beyond byte 511")]
    Overrun {
        /// Where the field, or the missing end mark, begins.
        offset: usize,
    },
    /// No key id, or an empty one.
    #[error("encryption header names no key")]
    KeyIdMissing,
    /// A key id that is no text.
    #[error("encryption header")]
    KeyId(#[from] KeyIdError),
    /// No encrypted file password.
    #[error("encryption header has no file password")]
    PasswordMissing,
    /// No initialisation vector.
    #[error("encryption header has no initialisation vector for the file password")]
    IvMissing,
}

/// The header of an encrypted binlog: which key opens it, and the file's own password, wrapped with that key.
///
/// `ALTER INSTANCE ROTATE BINLOG MASTER KEY` rewrites it in place: key and wrapping change, the password stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptionHeader {
    key_id: KeyId,
    wrapped: WrappedFilePassword,
}

impl EncryptionHeader {
    /// A header that names `key_id` and carries a password wrapped with that key.
    #[must_use]
    pub fn new(key_id: KeyId, wrapped: WrappedFilePassword) -> Self {
        Self { key_id, wrapped }
    }

    /// Reads the header from the first bytes of a file (512 or more of them) by the rules of the server
    /// (`Rpl_encryption_header::get_header`, `Rpl_encryption_header_v1::deserialize`): fields in any order, the last of
    /// a kind counts, padding after the end mark is not looked at.
    ///
    /// # Errors
    /// One variant for each thing that can be wrong.
    pub fn parse(file: &[u8]) -> Result<Self, EncryptionHeaderError> {
        let Some(after_magic) = file.strip_prefix(&ENCRYPTION_MAGIC) else {
            return Err(EncryptionHeaderError::Magic { found: file.iter().take(4).copied().collect() });
        };
        match after_magic.first() {
            None => return Err(EncryptionHeaderError::VersionMissing),
            Some(&VERSION) => {}
            Some(&version) => return Err(EncryptionHeaderError::Version { version }),
        }
        let header = file.get(..ENCRYPTION_HEADER_LEN).ok_or(EncryptionHeaderError::Incomplete { have: file.len() })?;
        let fields = Fields::read(header)?;
        let key_id = match fields.key_id {
            None | Some([]) => return Err(EncryptionHeaderError::KeyIdMissing),
            Some(text) => KeyId::from_bytes(text)?,
        };
        let ciphertext = *fields.password.ok_or(EncryptionHeaderError::PasswordMissing)?;
        let iv = *fields.iv.ok_or(EncryptionHeaderError::IvMissing)?;
        Ok(Self { key_id, wrapped: WrappedFilePassword { ciphertext, iv } })
    }

    /// The key that opens the file.
    #[must_use]
    pub fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// The file password as the header carries it.
    #[must_use]
    pub fn wrapped(&self) -> &WrappedFilePassword {
        &self.wrapped
    }

    /// The 512 bytes, as the server writes them.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; ENCRYPTION_HEADER_LEN] {
        let id = self.key_id.as_str().as_bytes();
        // A key id has 255 bytes at most.
        let id_len = u8::try_from(id.len()).unwrap_or(u8::MAX);
        let parts: [&[u8]; 8] = [
            &ENCRYPTION_MAGIC,
            &[VERSION, FIELD_KEY_ID, id_len],
            id,
            &[FIELD_PASSWORD],
            &self.wrapped.ciphertext,
            &[FIELD_IV],
            &self.wrapped.iv,
            &[FIELD_END],
        ];
        let mut header = [0u8; ENCRYPTION_HEADER_LEN];
        for (slot, byte) in header.iter_mut().zip(parts.into_iter().flatten()) {
            *slot = *byte;
        }
        header
    }
}

/// The fields of a header as they were found, the last of each kind.
#[derive(Default)]
struct Fields<'a> {
    key_id: Option<&'a [u8]>,
    password: Option<&'a [u8; 32]>,
    iv: Option<&'a [u8; 16]>,
}

impl<'a> Fields<'a> {
    /// Reads the fields of a whole header, from the byte after the version to the end mark.
    fn read(header: &'a [u8]) -> Result<Self, EncryptionHeaderError> {
        let mut found = Self::default();
        let mut rest = header.get(ENCRYPTION_MAGIC.len() + 1..).unwrap_or_default();
        loop {
            let offset = header.len() - rest.len();
            let overrun = EncryptionHeaderError::Overrun { offset };
            let (&field, value) = rest.split_first().ok_or(overrun.clone())?;
            rest = match field {
                FIELD_END => return Ok(found),
                FIELD_KEY_ID => {
                    let (&len, value) = value.split_first().ok_or(overrun.clone())?;
                    let (text, rest) = value.split_at_checked(len.into()).ok_or(overrun)?;
                    found.key_id = Some(text);
                    rest
                }
                FIELD_PASSWORD => {
                    let (password, rest) = value.split_first_chunk().ok_or(overrun)?;
                    found.password = Some(password);
                    rest
                }
                FIELD_IV => {
                    let (iv, rest) = value.split_first_chunk().ok_or(overrun)?;
                    found.iv = Some(iv);
                    rest
                }
                field => return Err(EncryptionHeaderError::UnknownField { field, offset }),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use highwater_keyring::{FilePassword, MasterKey};
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "MySQLReplicationKey_00508583-b5ce-11e8-a6a5-0010e0734796_1";

    fn header() -> EncryptionHeader {
        EncryptionHeader::new(ID.parse().unwrap(), WrappedFilePassword { ciphertext: [0xcc; 32], iv: [0x11; 16] })
    }

    #[test]
    fn a_header_has_its_fields_where_the_server_puts_them() {
        let bytes = header().to_bytes();
        assert_eq!(&bytes[..7], [0xfd, b'b', b'i', b'n', 1, 1, 58]);
        assert_eq!(&bytes[7..0x41], ID.as_bytes());
        assert_eq!((bytes[0x41], &bytes[0x42..0x62]), (2, &[0xcc; 32][..]));
        assert_eq!((bytes[0x62], &bytes[0x63..0x73]), (3, &[0x11; 16][..]));
        assert!(bytes[0x73..].iter().all(|&b| b == 0));
        assert_eq!(EncryptionHeader::parse(&bytes).unwrap(), header());
    }

    #[test]
    fn bytes_after_the_header_and_after_the_end_mark_do_not_matter() {
        let mut bytes = header().to_bytes().to_vec();
        bytes[0x74..].fill(0xff);
        bytes.extend_from_slice(&[0xff; 100]);
        assert_eq!(EncryptionHeader::parse(&bytes).unwrap(), header());
    }

    #[test]
    fn a_plain_binlog_is_told_from_an_encrypted_one() {
        let error = EncryptionHeader::parse(b"\xfebin....").unwrap_err();
        assert_eq!(error, EncryptionHeaderError::Magic { found: vec![0xfe, b'b', b'i', b'n'] });
        assert_eq!(EncryptionHeader::parse(b"\xfd").unwrap_err(), EncryptionHeaderError::Magic { found: vec![0xfd] });
    }

    #[test]
    fn a_header_cut_anywhere_says_how_much_there_is() {
        let bytes = header().to_bytes();
        assert_eq!(EncryptionHeader::parse(&bytes[..4]).unwrap_err(), EncryptionHeaderError::VersionMissing);
        for have in 5..512 {
            let error = EncryptionHeader::parse(&bytes[..have]).unwrap_err();
            assert_eq!(error, EncryptionHeaderError::Incomplete { have });
        }
    }

    #[test]
    fn an_unknown_version_is_reported_before_the_length() {
        let error = EncryptionHeader::parse(b"\xfdbin\x02").unwrap_err();
        assert_eq!(error, EncryptionHeaderError::Version { version: 2 });
    }

    /// A header whose fields are `fields`, padded with zeros.
    fn with_fields(fields: &[u8]) -> Result<EncryptionHeader, EncryptionHeaderError> {
        let mut bytes = [&ENCRYPTION_MAGIC[..], &[1], fields].concat();
        bytes.resize(512, 0);
        EncryptionHeader::parse(&bytes)
    }

    #[test]
    fn fields_come_in_any_order_and_the_last_of_a_kind_counts() {
        let fields = [&[3u8][..], &[9; 16], &[1, 2], b"ab", &[2], &[8; 32], &[1, 1], b"z", &[3], &[7; 16]].concat();
        let read = with_fields(&fields).unwrap();
        assert_eq!(read.key_id().as_str(), "z");
        assert_eq!(read.wrapped(), &WrappedFilePassword { ciphertext: [8; 32], iv: [7; 16] });
    }

    #[test]
    fn an_unknown_field_is_reported_with_its_place() {
        let error = with_fields(&[1, 1, b'a', 9]).unwrap_err();
        assert_eq!(error, EncryptionHeaderError::UnknownField { field: 9, offset: 8 });
    }

    #[test]
    fn each_missing_field_has_its_own_error() {
        let password = [&[2u8][..], &[8; 32]].concat();
        let iv = [&[3u8][..], &[7; 16]].concat();
        let id: &[u8] = &[1, 1, b'a'];
        assert_eq!(with_fields(&[&*password, &*iv].concat()).unwrap_err(), EncryptionHeaderError::KeyIdMissing);
        assert_eq!(with_fields(&[id, &iv].concat()).unwrap_err(), EncryptionHeaderError::PasswordMissing);
        assert_eq!(with_fields(&[id, &password].concat()).unwrap_err(), EncryptionHeaderError::IvMissing);
        let emptied = [id, &password, &iv, &[1, 0]].concat();
        assert_eq!(with_fields(&emptied).unwrap_err(), EncryptionHeaderError::KeyIdMissing);
        let unprintable = [&[1, 1, 0xff][..], &password, &iv].concat();
        assert!(matches!(with_fields(&unprintable), Err(EncryptionHeaderError::KeyId(_))));
    }

    #[test]
    fn fields_that_fill_the_header_without_an_end_mark_are_an_overrun() {
        let mut fields =
            [&[1u8, 255][..], &[b'a'; 255], &[1, 195], &[b'a'; 195], &[2], &[8; 32], &[3], &[7; 16]].concat();
        fields.extend_from_slice(&[1, 1, b'b']);
        assert_eq!(with_fields(&fields).unwrap_err(), EncryptionHeaderError::Overrun { offset: 512 });
        fields.truncate(504);
        fields.extend_from_slice(&[1, 2, b'b']);
        assert_eq!(with_fields(&fields).unwrap_err(), EncryptionHeaderError::Overrun { offset: 509 });
    }

    proptest! {
        #[test]
        fn a_header_reads_back(id in "[ -~]{1,255}", password: [u8; 32], key: [u8; 32], iv: [u8; 16]) {
            let password = FilePassword::from_slice(&password).unwrap();
            let key = MasterKey::from_slice(&key).unwrap();
            let wrapped = WrappedFilePassword::wrap(&password, &key, iv);
            let header = EncryptionHeader::new(id.parse().unwrap(), wrapped);
            let read = EncryptionHeader::parse(&header.to_bytes()).unwrap();
            prop_assert!(read.wrapped().unwrap_with(&key).is_same_as(&password));
            prop_assert_eq!(read, header);
        }

        #[test]
        fn changed_bytes_never_panic(at in 0usize..512, byte: u8, tail in prop::collection::vec(any::<u8>(), 507)) {
            let mut bytes = header().to_bytes();
            bytes[at] = byte;
            let _ = EncryptionHeader::parse(&bytes);
            let _ = EncryptionHeader::parse(&[&ENCRYPTION_MAGIC[..], &[1], &tail].concat());
        }
    }
}
