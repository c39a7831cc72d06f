//! Dumps: files first, the manifest last.

use std::io::{self, Write};

use highwater_catalog::{Dump, DumpFile, DumpFileKind, DumpId, Manifest, dump_manifest_key, dump_object_key};

use super::sealed::Sealed;
use super::{Archive, ArchiveError, ObjectReader, Published, StoredFacts, exists, object_key};
use crate::seal::{Compression, SealWriter};
use crate::store::StoreErrorKind;

/// A dump that is being written; invisible until `publish`. Its files may be written in any order and at once.
#[derive(Debug, Clone)]
pub struct DumpWriter {
    archive: Archive,
    id: DumpId,
}

impl Archive {
    /// Begins a dump. Its id must be new.
    pub fn begin_dump(&self, id: DumpId) -> Result<DumpWriter, ArchiveError> {
        let manifest = dump_manifest_key(&id);
        if exists(&*self.store, &object_key(&manifest)?)? {
            return Err(ArchiveError::Conflict { object: manifest });
        }
        Ok(DumpWriter { archive: self.clone(), id })
    }

    /// The bytes of a dump's file, proven at their end.
    pub fn read_dump_file(&self, dump: &Dump, file: &DumpFile) -> Result<ObjectReader, ArchiveError> {
        self.read_object(&StoredFacts::of_dump_file(dump, file))
    }

    /// Reads a dump's file to its end and forgets it: proves that it can be read.
    pub fn check_dump_file(&self, dump: &Dump, file: &DumpFile) -> Result<(), ArchiveError> {
        self.read_dump_file(dump, file)?.check().map(drop)
    }
}

impl DumpWriter {
    /// The dump's id.
    #[must_use]
    pub fn id(&self) -> &DumpId {
        &self.id
    }

    /// Begins a file, named without the endings that sealing adds: `data/000001.tsv`.
    pub fn create_file(&self, name: &str) -> Result<DumpFileWriter, ArchiveError> {
        Ok(DumpFileWriter {
            dump: self.clone(),
            name: name.to_owned(),
            writer: self.archive.seal_writer(Compression::Regular)?,
        })
    }

    /// Publishes the dump: `dump.files` are files that were finished, in the order they must be loaded.
    pub fn publish(self, dump: Dump) -> Result<Dump, ArchiveError> {
        if dump.id != self.id {
            return Err(ArchiveError::Name { object: dump_manifest_key(&dump.id) });
        }
        for file in &dump.files {
            let object = dump_object_key(&dump.id, file);
            if !exists(&*self.archive.store, &object_key(&object)?)? {
                return Err(ArchiveError::ObjectMissing { object });
            }
        }
        match self.archive.publish(&dump)? {
            Published::Now => Ok(dump),
            Published::Before(there) if there == dump => Ok(dump),
            Published::Before(_) => Err(ArchiveError::Conflict { object: dump.key() }),
        }
    }

    /// Removes the files that were finished so far, as far as the store lets us: for a dump that failed.
    pub fn abandon(self, files: &[DumpFile]) {
        for file in files {
            let Ok(key) = object_key(&dump_object_key(&self.id, file)) else { continue };
            if let Err(error) = self.archive.store.delete(&key) {
                tracing::debug!(object = %key, error = %error, "file of an abandoned dump stays");
            }
        }
    }
}

/// A file of a dump that is being written. It is in the archive only when it is finished.
pub struct DumpFileWriter {
    dump: DumpWriter,
    name: String,
    writer: SealWriter<Sealed>,
}

impl DumpFileWriter {
    /// Plain bytes written so far.
    #[must_use]
    pub fn plain_size(&self) -> u64 {
        self.writer.plain_size()
    }

    /// Stores the file. What kind it is may be known only now (rows are counted while they are written).
    pub fn finish(self, kind: DumpFileKind) -> Result<DumpFile, ArchiveError> {
        let Self { dump, name, writer } = self;
        let (sealed, object) = dump.archive.sealed(writer)?;
        let file = DumpFile { name, kind, object };
        let key = object_key(&dump_object_key(&dump.id, &file))?;
        sealed.create(&*dump.archive.store, &key).map_err(|error| match error.kind {
            StoreErrorKind::Exists => ArchiveError::Conflict { object: key.to_string() },
            _ => error.into(),
        })?;
        Ok(file)
    }
}

impl Write for DumpFileWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
