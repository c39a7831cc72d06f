//! What an earlier run left in the spool: read back, verified, cut at its last whole transaction.

use std::io::{self, Read};
use std::sync::Arc;

use highwater_binlog::{
    FIRST_EVENT_OFFSET, FormatDescription, Framer, Progress, RawEvent, SegmentPolicy, Segmenter, TransactionTracker,
};

use super::follower::Cut;
use super::publisher::Job;
use super::spool::{Spool, Stretch, StretchName};
use super::tip::Tip;

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// Makes segments of what is left, in order, and takes them into account. Blocking.
///
/// A stretch ends at its last whole transaction: the source is asked again for what follows. One that is damaged before
/// that, or of another timeline, is put aside with all that come after it, which it would leave a hole before.
///
/// # Errors
/// Those of the file system.
pub(super) fn recover(
    spool: &Spool,
    left: &[StretchName],
    tip: &mut Tip,
    policy: SegmentPolicy,
) -> io::Result<Vec<Job>> {
    let mut jobs = Vec::new();
    let mut broken = false;
    for name in left {
        if broken || name.timeline != tip.timeline {
            let aside = spool.set_aside(name)?;
            tracing::error!(file = %aside.display(), timeline = %name.timeline, "part of the spool put aside, not read");
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
                broken = true;
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut scan = Scan::new(&stretch, &description, tip, policy);
        let end = scan.run();
        let cuts = scan.finish();
        stretch.close(cuts.last().map_or(0, |cut| cut.facts.end));
        let transactions: u64 = cuts.iter().map(|cut| cut.facts.transactions).sum();
        tracing::info!(binlog = %name.binlog, start = name.start, transactions, "found in the spool");
        for cut in cuts {
            tip.spooled(&cut, &stretch);
            jobs.push(Job { cut, stretch: Arc::clone(&stretch) });
        }
        match end? {
            End::Torn => {}
            // A power failure leaves anything behind what was synced, and only there.
            End::Damaged(what) if Some(name) == left.last() => tracing::info!(what, "the rest was not written"),
            End::Damaged(what) => {
                let aside = spool.keep_copy(name)?;
                tracing::error!(file = %aside.display(), what, "the spool is damaged, its last whole transactions kept");
                broken = true;
            }
        }
    }
    Ok(jobs)
}

/// How a stretch ends.
enum End {
    /// As far as it was written.
    Torn,
    /// With bytes that no source sent.
    Damaged(String),
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
        Self { stretch, framer, tip, tracker, segmenter: None, policy, archived, cuts: Vec::new() }
    }

    fn run(&mut self) -> io::Result<End> {
        let mut reader = self.stretch.read(self.stretch.name().start, u64::MAX)?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = reader.read(&mut buffer)?;
            if count == 0 {
                return Ok(End::Torn);
            }
            self.framer.push(buffer.get(..count).unwrap_or_default());
            loop {
                // Taken out for the borrow of the event.
                let mut framer = std::mem::take(&mut self.framer);
                let accepted = match framer.next() {
                    Ok(None) => None,
                    Ok(Some((offset, event))) => Some(self.accept(offset, &event)),
                    Err(error) => Some(Err(error.to_string())),
                };
                self.framer = framer;
                match accepted {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(what)) => return Ok(End::Damaged(what)),
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
