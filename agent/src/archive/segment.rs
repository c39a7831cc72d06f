//! Segments: published once, read back whole.

use std::fs::File;
use std::io::{self, BufRead, Seek, SeekFrom};
use std::path::Path;

use highwater_binlog::{BinlogName, GtidSet, ServerUuid};
use highwater_catalog::{
    Blake3Digest, Manifest, Micros, ObjectFacts, Sealing, Segment, TimelineId, segment_manifest_key,
    segment_object_key, segment_object_keys,
};

use super::pieces::{Pieces, Stored, Stretch};
use super::{Archive, ArchiveError, CopyError, ObjectReader, Published, object_key, scratch_error};
use crate::failpoint;
use crate::seal::Compression;

/// A segment before it is sealed: all its facts but those of its bytes.
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
    /// `plain_blake3` of the segment before it.
    pub previous_blake3: Option<Blake3Digest>,
}

/// A segment's objects in the store, before a manifest names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSegment {
    plain_blake3: Blake3Digest,
    objects: Vec<ObjectFacts>,
    /// Whether storing them took longer than sealing them.
    pub(crate) waited_for_the_store: bool,
}

impl StoredSegment {
    /// Digest of its plain bytes, which the segment after it names.
    #[must_use]
    pub fn plain_blake3(&self) -> Blake3Digest {
        self.plain_blake3
    }
}

impl SegmentDraft {
    fn with(self, plain_blake3: Blake3Digest, objects: Vec<ObjectFacts>) -> Segment {
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
            previous_blake3,
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
            plain_blake3,
            objects,
            previous_blake3,
        }
    }

    fn stretch(&self) -> Stretch<'_> {
        let Self { timeline, server, binlog, start, end, .. } = self;
        let key = move |start, object: &ObjectFacts| segment_object_key(*timeline, server, binlog, start, object);
        let what = format!("segment {start}-{end} of {binlog}");
        Stretch { what, start: *start, end: *end, digest: None, key: Box::new(key) }
    }

    /// The segment with objects that could be its own.
    fn outline(&self) -> Segment {
        let plain_blake3 = Blake3Digest([0; 32]);
        let object = ObjectFacts {
            plain_size: self.end.saturating_sub(self.start),
            plain_blake3,
            stored_size: 1,
            stored_blake3: plain_blake3,
            sealing: Sealing::ZstdAge,
        };
        self.clone().with(plain_blake3, vec![object])
    }
}

impl Archive {
    /// Seals `plain` and publishes it as a segment: its objects one after the other, then the manifest.
    ///
    /// Publishing the same segment again, after a crash or a lost answer, returns the one that is there. Anything else
    /// under its number is a conflict.
    pub fn publish_segment(&self, draft: SegmentDraft, plain: &mut dyn BufRead) -> Result<Segment, ArchiveError> {
        let stored = self.store_segment(&draft, plain, Compression::Regular)?;
        self.publish_stored(draft, stored)
    }

    /// Seals `plain` and stores the objects of a segment. Nobody sees them before [`Self::publish_stored`], so that
    /// several segments can be stored at once; what the draft says about the segment before it does not matter yet.
    pub fn store_segment(
        &self,
        draft: &SegmentDraft,
        plain: &mut dyn BufRead,
        compression: Compression,
    ) -> Result<StoredSegment, ArchiveError> {
        // What could not be read back is refused before anything is stored.
        draft.outline().encode(&self.repository.id)?;
        let Stored { digest, objects, waited_for_the_store, .. } =
            Pieces::new(self, draft.stretch(), compression).store(plain)?;
        Ok(StoredSegment { plain_blake3: digest, objects, waited_for_the_store })
    }

    /// Publishes a segment whose objects are stored; like [`Self::publish_segment`].
    pub fn publish_stored(&self, draft: SegmentDraft, stored: StoredSegment) -> Result<Segment, ArchiveError> {
        let segment = draft.with(stored.plain_blake3, stored.objects);
        self.require_continued(&segment)?;
        failpoint::crash("manifest.before");
        // Should this fail, the manifest may be there all the same: the objects stay.
        let published = self.publish(&segment)?;
        failpoint::crash("manifest.after");
        match published {
            Published::Now => Ok(segment),
            Published::Before(there) => {
                if (Segment { objects: segment.objects.clone(), ..there.clone() }) != segment {
                    return Err(ArchiveError::Conflict { object: segment.key() });
                }
                let named = segment_object_keys(&there);
                self.discard(segment_object_keys(&segment).into_iter().filter(|key| !named.contains(key)));
                Ok(there)
            }
        }
    }

    /// Makes sure that every store still has what a segment follows, and its objects: an older copy may have been put back.
    /// What it follows comes back, or is [`ArchiveError::Lost`]; its objects can be stored again.
    fn require_continued(&self, segment: &Segment) -> Result<(), ArchiveError> {
        let before = segment.sequence.checked_sub(1).map(|sequence| segment_manifest_key(segment.timeline, sequence));
        let lacking = |object: &String| self.store.lacking(&object_key(object)?).map_err(ArchiveError::from);
        if let Some(object) = &before
            && let Some(store) = lacking(object)?
        {
            return Err(ArchiveError::Lost { object: object.clone(), store });
        }
        for object in segment_object_keys(segment) {
            if lacking(&object)?.is_some() {
                return Err(ArchiveError::ObjectMissing { object });
            }
        }
        let Some(object) = before else { return Ok(()) };
        let previous: Segment = self.read_manifest(&object_key(&object)?).map_err(|error| match error {
            // Damage of what is there already is no reason to end: `verify` says what it is.
            ArchiveError::Manifest(source) => {
                ArchiveError::Read { object: object.clone(), source: io::Error::other(source) }
            }
            error => error,
        })?;
        if segment.previous_blake3 == Some(previous.plain_blake3) {
            Ok(())
        } else {
            Err(ArchiveError::Conflict { object })
        }
    }

    /// The bytes of a segment as the source wrote them, out of all its objects: each is proven at its end, and the
    /// segment at its own.
    pub fn read_segment(&self, segment: &Segment) -> Result<ObjectReader, ArchiveError> {
        ObjectReader::of_segment(self, segment)
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
