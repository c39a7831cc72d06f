//! Kept files: encrypted binlogs as their server wrote them, header and body apart.

use std::io::{BufReader, Read};

use highwater_binlog::{BinlogName, ENCRYPTION_HEADER_LEN, GtidSet, ServerUuid};
use highwater_catalog::{
    Blake3Digest, KeptFile, Manifest, Micros, ObjectFacts, file_body_key, file_body_keys, file_header_key,
};
use highwater_keyring::FileMark;

use super::pieces::{Pieces, Stored, Stretch};
use super::{Archive, ArchiveError, ObjectReader, Published, StoredFacts, now};
use crate::failpoint;
use crate::seal::{Compression, FRAME_BYTES};

/// A kept file before it is sealed: all its facts but those of its objects. Its body was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDraft {
    /// The server whose file it is.
    pub server: ServerUuid,
    /// The binlog.
    pub binlog: BinlogName,
    /// Which file of that name.
    pub mark: FileMark,
    /// That server's `@@version`.
    pub server_version: String,
    /// All transactions before it.
    pub gtids_before: GtidSet,
    /// The transactions in it.
    pub gtids_added: GtidSet,
    /// Earliest original commit time in it.
    pub first_commit: Option<Micros>,
    /// Latest original commit time in it.
    pub last_commit: Option<Micros>,
    /// Events in it.
    pub events: u64,
    /// Transactions in it.
    pub transactions: u64,
    /// The master key that its header names.
    pub key_id: String,
    /// The key bundle that has its password.
    pub key_generation: u32,
    /// Bytes of the body.
    pub body_size: u64,
    /// Their digest.
    pub body_blake3: Blake3Digest,
}

impl FileDraft {
    fn stretch(&self) -> Stretch<'_> {
        let Self { server, binlog, mark, body_size, body_blake3, .. } = self;
        let key = move |start, object: &ObjectFacts| file_body_key(server, binlog, mark, start, object);
        let what = format!("the {body_size} bytes of {binlog}");
        Stretch { what, start: 0, end: *body_size, digest: Some(*body_blake3), key: Box::new(key) }
    }

    fn header_stretch(&self) -> Stretch<'_> {
        let Self { server, binlog, mark, .. } = self;
        let key = move |_, object: &ObjectFacts| file_header_key(server, binlog, mark, object);
        let what = format!("the header of {binlog}");
        Stretch { what, start: 0, end: KeptFile::HEADER_LEN, digest: None, key: Box::new(key) }
    }

    fn with(self, header: ObjectFacts, objects: Vec<ObjectFacts>) -> KeptFile {
        let Self {
            server,
            binlog,
            mark,
            server_version,
            gtids_before,
            gtids_added,
            first_commit,
            last_commit,
            events,
            transactions,
            key_id,
            key_generation,
            body_size: _,
            body_blake3,
        } = self;
        KeptFile {
            server,
            binlog,
            mark,
            server_version,
            gtids_before,
            gtids_added,
            first_commit,
            last_commit,
            events,
            transactions,
            key_id,
            key_generation,
            taken: now(),
            body_blake3,
            header,
            objects,
        }
    }
}

impl Archive {
    /// Seals an encrypted binlog, header and body apart, and publishes it. The bundle with its password was published
    /// before.
    ///
    /// Publishing the same body again, whatever its header has become, returns what is there. Another body under its
    /// mark is a conflict.
    pub fn keep_file(
        &self,
        draft: FileDraft,
        header: &[u8; ENCRYPTION_HEADER_LEN],
        body: &mut dyn Read,
    ) -> Result<KeptFile, ArchiveError> {
        let mut body = BufReader::with_capacity(FRAME_BYTES, body);
        // Encrypted bytes do not compress: whoever tries hardest finds nothing.
        let Stored { objects, keys, .. } = Pieces::new(self, draft.stretch(), Compression::Fast).store(&mut body)?;
        let pieces = Pieces::in_one(self, draft.header_stretch(), Compression::Fast);
        let header = pieces.store(&mut header.as_slice()).inspect_err(|_| self.discard(keys))?.objects;
        let [header] = header.as_slice() else {
            return Err(ArchiveError::Draft { what: draft.binlog.to_string(), bytes: 0 });
        };
        let file = draft.with(*header, objects);
        failpoint::crash("manifest.before");
        let published = self.publish(&file)?;
        failpoint::crash("manifest.after");
        match published {
            Published::Now => Ok(file),
            Published::Before(there) => {
                let named = names(&there);
                self.discard(names(&file).into_iter().filter(|key| !named.contains(key)));
                if (there.body_blake3, there.body_size()) != (file.body_blake3, file.body_size()) {
                    return Err(ArchiveError::Conflict { object: file.key() });
                }
                Ok(there)
            }
        }
    }

    /// The header that was kept with a file.
    pub fn read_file_header(&self, file: &KeptFile) -> Result<Vec<u8>, ArchiveError> {
        let facts = StoredFacts::of_file_header(file);
        let mut header = Vec::with_capacity(ENCRYPTION_HEADER_LEN);
        let mut reader = self.read_object(&facts)?;
        reader.read_to_end(&mut header).map_err(|error| ArchiveError::of_read(facts.key(), error))?;
        Ok(header)
    }

    /// A kept file's body, encrypted as it was: each object is proven at its end, and all of it at its own.
    pub fn read_file_body(&self, file: &KeptFile) -> Result<ObjectReader, ArchiveError> {
        ObjectReader::of_file(self, file)
    }
}

fn names(file: &KeptFile) -> Vec<String> {
    let header = file_header_key(&file.server, &file.binlog, &file.mark, &file.header);
    std::iter::once(header).chain(file_body_keys(file)).collect()
}
