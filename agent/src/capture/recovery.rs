//! What an earlier run left in the spool: read back, verified, cut at its last whole transaction.

use std::io::{self, Read};
use std::sync::Arc;

use highwater_binlog::{
    ChecksumAlgorithm, EVENT_HEADER_LEN, EventHeader, FIRST_EVENT_OFFSET, FormatDescription, Framer, Progress,
    RawEvent, SegmentPolicy, Segmenter, TransactionTracker,
};
use highwater_catalog::RepositoryId;

use super::follower::Cut;
use super::lineage::Lineage;
use super::publisher::Job;
use super::spool::{Spool, Stretch, StretchName};
use super::tip::Tip;

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// Makes segments of what is left, in order, and takes them into account. Blocking.
///
/// A stretch ends at its last whole transaction: the source is asked again for what follows. One that is of another timeline,
/// or that does not follow what we have, which it would leave a hole before, is put aside. So are those behind one that is
/// damaged before its end, but not what was fetched again in their place.
///
/// # Errors
/// Those of the file system.
pub(super) fn recover(
    spool: &Spool,
    left: &[StretchName],
    repository: RepositoryId,
    tip: &mut Tip,
    policy: SegmentPolicy,
) -> io::Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for name in left {
        if !follows(name, repository, tip) {
            let aside = spool.set_aside(name)?;
            tracing::error!(file = %aside.display(),
                "part of the spool does not follow what is in the archive and the spool before it, put aside");
            continue;
        }
        let (stretch, description) = match spool.adopt(name) {
            Ok(adopted) => adopted,
            // The agent died before the first event was in it.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                spool.remove(name)?;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let aside = spool.set_aside(name)?;
                tracing::error!(file = %aside.display(), error = %error, "part of the spool cannot be read, put aside");
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut scan = Scan::new(&stretch, &description, tip, policy);
        let end = scan.run().and_then(|damage| Ok((damage, scan.is_followed()?)));
        let cuts = scan.finish();
        match end? {
            (None, false) => {}
            // A power failure leaves anything behind what was synced, and only there.
            (Some(what), false) if Some(name) == left.last() => tracing::info!(what, "the rest was not written"),
            (what, _) => {
                let aside = spool.keep_copy(name)?;
                let what = what.as_deref().unwrap_or("an event has no end");
                tracing::error!(file = %aside.display(), what,
                    "the spool is damaged: what follows is asked for again, and the file is kept");
            }
        }
        // Only now: what cannot be read or kept must not be removed.
        stretch.close(cuts.last().map_or(0, |cut| cut.facts.end));
        let transactions: u64 = cuts.iter().map(|cut| cut.facts.transactions).sum();
        tracing::info!(binlog = %name.binlog, start = name.start, transactions, "found in the spool");
        for cut in cuts {
            tip.spooled(&cut, &stretch);
            jobs.push(Job { cut, stretch: Arc::clone(&stretch) });
        }
    }
    Ok(jobs)
}

/// Whether nothing is missing between what we have and a stretch: we have its first bytes or those right before them, or it
/// was begun behind the very same.
fn follows(name: &StretchName, repository: RepositoryId, tip: &Tip) -> bool {
    let end = tip.end_of(name.server, &name.binlog);
    let is_continued = end > 0 && end >= name.start;
    name.timeline == tip.timeline && (is_continued || name.follows == Lineage::of(repository, tip).mark())
}

/// Follows the events of one stretch.
struct Scan<'a> {
    stretch: &'a Stretch,
    framer: Framer,
    tip: &'a Tip,
    tracker: TransactionTracker,
    segmenter: Option<Segmenter>,
    policy: SegmentPolicy,
    /// Where the bytes that we have already end.
    archived: u64,
    checksum: ChecksumAlgorithm,
    /// Offset after the last event that is in order.
    end: u64,
    cuts: Vec<Cut>,
}

impl<'a> Scan<'a> {
    fn new(stretch: &'a Stretch, description: &FormatDescription, tip: &'a Tip, policy: SegmentPolicy) -> Self {
        let StretchName { server, binlog, start, .. } = stretch.name();
        let framer = match start {
            0 => Framer::new(),
            _ => Framer::resume(description.checksum_algorithm, *start),
        };
        let archived = tip.end_of(*server, binlog);
        let tracker = TransactionTracker::new();
        let (checksum, end) = (description.checksum_algorithm, *start);
        Self { stretch, framer, tip, tracker, segmenter: None, policy, archived, checksum, end, cuts: Vec::new() }
    }

    /// Goes through all events; what is wrong with the first that is not in order, if it is not only cut short.
    fn run(&mut self) -> io::Result<Option<String>> {
        let mut reader = self.stretch.read(self.stretch.name().start, u64::MAX)?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = reader.read(&mut buffer)?;
            if count == 0 {
                return Ok(None);
            }
            self.framer.push(buffer.get(..count).unwrap_or_default());
            loop {
                // Taken out for the borrow of the event.
                let mut framer = std::mem::take(&mut self.framer);
                let accepted = match framer.next() {
                    Ok(None) => None,
                    Ok(Some((offset, event))) => {
                        let end = offset.saturating_add(event.byte_count());
                        Some(self.accept(offset, &event).map(|()| self.end = end))
                    }
                    Err(error) => Some(Err(error.to_string())),
                };
                self.framer = framer;
                match accepted {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(what)) => return Ok(Some(what)),
                }
            }
        }
    }

    fn accept(&mut self, offset: u64, event: &RawEvent<'_>) -> Result<(), String> {
        if offset.saturating_add(event.byte_count()) <= self.archived {
            return Ok(());
        }
        let progress = self.tracker.accept(offset, event).map_err(|error| error.to_string())?;
        if let Progress::Committed(transaction) = &progress
            && let Some(gtid) = transaction.gtid.as_ref().filter(|gtid| self.tip.captured.contains(gtid))
        {
            return Err(format!("{gtid} is in the archive already"));
        }
        let start = if offset == FIRST_EVENT_OFFSET { 0 } else { offset };
        let segmenter = self.segmenter.get_or_insert_with(|| Segmenter::new(self.policy, start));
        // Age does not matter here: time stands still, and only a segment that is large enough is due.
        segmenter.accept(offset, event, &progress, 0).map_err(|error| error.to_string())?;
        if segmenter.is_due(0) {
            self.cut();
        }
        Ok(())
    }

    /// Whether a whole event stands behind the last one that is in order: then what lies between was damaged, and not left
    /// unwritten.
    fn is_followed(&self) -> io::Result<bool> {
        let mut reader = self.stretch.read(self.end, u64::MAX)?;
        let (mut window, mut at) = (Vec::new(), self.end);
        loop {
            let count = reader.by_ref().take(byte_count(READ_BYTES)).read_to_end(&mut window)?;
            for (index, front) in window.windows(EVENT_HEADER_LEN).enumerate() {
                let offset = at.saturating_add(byte_count(index));
                if let Some(header) = EventHeader::read(front)
                    && is_placed_at(offset, &header)
                    && self.is_whole(offset, header.event_len)?
                {
                    return Ok(true);
                }
            }
            if count == 0 {
                return Ok(false);
            }
            // The last bytes may begin a header.
            let looked_at = window.len().saturating_sub(EVENT_HEADER_LEN - 1);
            window.drain(..looked_at);
            at = at.saturating_add(byte_count(looked_at));
        }
    }

    fn is_whole(&self, offset: u64, len: u32) -> io::Result<bool> {
        let mut bytes = Vec::new();
        self.stretch.read(offset, offset.saturating_add(u64::from(len)))?.read_to_end(&mut bytes)?;
        Ok(RawEvent::verify(&bytes, self.checksum).is_ok())
    }

    fn cut(&mut self) {
        let StretchName { server, binlog, .. } = self.stretch.name();
        if let Some(facts) = self.segmenter.as_mut().and_then(Segmenter::cut) {
            self.cuts.push(Cut { server: *server, binlog: binlog.clone(), facts });
        }
    }

    fn finish(mut self) -> Vec<Cut> {
        self.cut();
        self.cuts
    }
}

/// Whether an event's header says that it stands at an offset. It has the lower 32 bits of the event's end.
fn is_placed_at(offset: u64, header: &EventHeader) -> bool {
    let end = offset.saturating_add(u64::from(header.event_len)) & u64::from(u32::MAX);
    header.event_len > 0 && u64::from(header.end_log_pos) == end
}

fn byte_count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
