//! Segments: published once, read back whole.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use highwater_binlog::{BinlogName, GtidSet, ServerUuid};
use highwater_catalog::{Manifest, Micros, ObjectFacts, Segment, Sha256Digest, TimelineId, segment_object_key};

use super::{Archive, ArchiveError, CopyError, ObjectReader, Published, StoredFacts, object_key, scratch_error};
use crate::store::StoreErrorKind;

/// A segment before it is sealed: all its facts but those of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentDraft {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Its place in the timeline, from 0, without holes.
    pub sequence: u64,
    /// The server whose binlog it is.
    pub server: ServerUuid,
    /// The binlog.
    pub binlog: BinlogName,
    /// Offset of its first byte.
    pub start: u64,
    /// Offset after its last byte.
    pub end: u64,
    /// All transactions of the timeline before it.
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
    /// `plain_sha256` of the segment before it.
    pub previous_sha256: Option<Sha256Digest>,
}

impl SegmentDraft {
    fn with(self, object: ObjectFacts) -> Segment {
        let Self {
            timeline,
            sequence,
            server,
            binlog,
            start,
            end,
            gtids_before,
            gtids_added,
            first_commit,
            last_commit,
            events,
            transactions,
            previous_sha256,
        } = self;
        Segment {
            timeline,
            sequence,
            server,
            binlog,
            start,
            end,
            gtids_before,
            gtids_added,
            first_commit,
            last_commit,
            events,
            transactions,
            object,
            previous_sha256,
        }
    }
}

impl Archive {
    /// Seals `plain` and publishes it as a segment: the object, then the manifest.
    ///
    /// Publishing the same segment again, after a crash or a lost answer, returns the one that is there. Anything else
    /// under its number is a conflict.
    pub fn publish_segment(&self, draft: SegmentDraft, plain: &mut dyn Read) -> Result<Segment, ArchiveError> {
        let (mut sealed, facts) = self.seal(plain)?;
        if draft.end.checked_sub(draft.start) != Some(facts.plain_size) {
            let (binlog, bytes) = (draft.binlog.to_string(), facts.plain_size);
            return Err(ArchiveError::Draft { binlog, start: draft.start, end: draft.end, bytes });
        }
        let segment = draft.with(facts);
        // Refuses what could not be read back before anything is stored.
        segment.encode(&self.repository.id)?;
        let key = object_key(&segment_object_key(&segment))?;
        match self.store.create(&key, &mut sealed) {
            Ok(_) => {}
            // The name holds the digest of these very bytes.
            Err(error) if error.kind == StoreErrorKind::Exists => {}
            Err(error) => return Err(error.into()),
        }
        match self.publish(&segment)? {
            Published::Now => Ok(segment),
            Published::Before(there) => {
                let same = Segment { object: segment.object, ..there.clone() } == segment
                    && there.object.plain_sha256 == segment.object.plain_sha256;
                if !same {
                    return Err(ArchiveError::Conflict { object: segment.key() });
                }
                if segment_object_key(&there) != key.as_str() && self.store.delete(&key).is_err() {
                    tracing::debug!(object = %key, "second sealing of a published segment stays as an orphan");
                }
                Ok(there)
            }
        }
    }

    /// The bytes of a segment as the source wrote them, proven at their end.
    pub fn read_segment(&self, segment: &Segment) -> Result<ObjectReader, ArchiveError> {
        self.read_object(&StoredFacts::of_segment(segment))
    }

    /// Reads a segment to its end and forgets it: proves that it can be read.
    pub fn check_segment(&self, segment: &Segment) -> Result<(), ArchiveError> {
        self.read_segment(segment)?.check().map(drop)
    }

    /// Copies a segment's proven plain bytes into an unnamed file in `folder`, wound back to its start.
    pub fn fetch_segment(&self, segment: &Segment, folder: &Path) -> Result<File, ArchiveError> {
        let mut file = tempfile::tempfile_in(folder).map_err(|source| scratch_error(folder, source))?;
        self.read_segment(segment)?.copy_to(&mut file).map_err(|error| match error {
            CopyError::Object(error) => error,
            CopyError::Sink(source) => scratch_error(folder, source),
        })?;
        file.seek(SeekFrom::Start(0)).map_err(|source| scratch_error(folder, source))?;
        Ok(file)
    }
}
