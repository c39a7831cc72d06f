//! How far capture is, stage by stage.

use crate::config::AckPolicy;

/// Bytes of the source's binlogs that passed each stage since the agent started.
///
/// Durability is this ordered relation: `received >= spooled >= stored >= catalogued >= purgeable`.
/// - *received*: verified events of the stream.
/// - *spooled*: fsynced in the spool, or stored without having been there.
/// - *stored*: in a segment whose manifest is in every required store.
/// - *catalogued*: in the catalog too.
/// - *purgeable*: removed from the spool, or may be.
///
/// What is *acknowledged* to a source never runs ahead of *spooled*, with `capture.ack = "stored"` not even of *stored*.
/// Every change asserts it: a violation is a bug that must not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    received: u64,
    spooled: u64,
    stored: u64,
    catalogued: u64,
    purgeable: u64,
    acknowledged: u64,
}

impl Progress {
    /// Bytes were verified and written; of everything received, `held` bytes are in memory alone and not published.
    pub fn write(&mut self, bytes: u64, held: u64) {
        self.received = self.received.saturating_add(bytes);
        self.check();
        self.spooled = self.spooled.max(self.received.saturating_sub(held));
        self.check();
    }

    /// A segment is in every required store and in the catalog, and its bytes in the spool are about to be let go. One that
    /// `was_held` was never there: stored is more than spooled.
    pub fn publish(&mut self, bytes: u64, was_held: bool) {
        if was_held {
            self.spooled = self.spooled.saturating_add(bytes);
            self.check();
        }
        self.store(bytes);
        self.catalogue(bytes);
        self.purge(bytes);
    }

    fn store(&mut self, bytes: u64) {
        self.stored = self.stored.saturating_add(bytes);
        self.check();
    }

    fn catalogue(&mut self, bytes: u64) {
        self.catalogued = self.catalogued.saturating_add(bytes);
        self.check();
    }

    fn purge(&mut self, bytes: u64) {
        self.purgeable = self.purgeable.saturating_add(bytes);
        self.check();
    }

    /// Everything up to a number of received bytes is acknowledged.
    pub fn acknowledge(&mut self, received: u64, policy: AckPolicy) {
        self.acknowledged = self.acknowledged.max(received);
        let safe = match policy {
            AckPolicy::Off => 0,
            AckPolicy::Local => self.spooled,
            AckPolicy::Stored => self.stored,
        };
        assert!(received <= safe, "acknowledged what is not safe: {self:?}");
        self.check();
    }

    /// The stream ended: what was not cut into segments, so far `cut` bytes of all received, is asked for again.
    pub fn forget_behind(&mut self, cut: u64) {
        (self.received, self.spooled) = (cut, self.spooled.min(cut));
        self.acknowledged = self.acknowledged.min(cut);
        self.check();
    }

    /// Bytes of verified events.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes in published segments.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Bytes received and in no segment yet.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.received.saturating_sub(self.stored)
    }

    fn check(&self) {
        let Self { received, spooled, stored, catalogued, purgeable, acknowledged } = *self;
        assert!(
            received >= spooled
                && spooled >= stored
                && stored >= catalogued
                && catalogued >= purgeable
                && spooled >= acknowledged,
            "durability is out of order: {self:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_in_order_are_counted() {
        let mut progress = Progress::default();
        progress.write(10, 0);
        progress.acknowledge(10, AckPolicy::Local);
        progress.store(6);
        progress.catalogue(6);
        progress.purge(6);
        progress.acknowledge(6, AckPolicy::Stored);
        assert_eq!((progress.received(), progress.stored(), progress.pending()), (10, 6, 4));
    }

    #[test]
    #[should_panic(expected = "durability is out of order")]
    fn storing_what_is_not_on_the_disk_is_a_bug() {
        let mut progress = Progress::default();
        progress.write(10, 10);
        progress.store(1);
    }

    #[test]
    fn what_is_held_is_spooled_when_it_is_stored_or_written() {
        let mut progress = Progress::default();
        progress.write(10, 8);
        progress.publish(2, false);
        progress.publish(5, true);
        progress.write(1, 4);
        assert_eq!((progress.spooled, progress.stored()), (7, 7));
        progress.write(0, 0);
        progress.acknowledge(11, AckPolicy::Local);
    }

    #[test]
    #[should_panic(expected = "acknowledged what is not safe")]
    fn acknowledging_what_is_held_is_a_bug() {
        let mut progress = Progress::default();
        progress.write(10, 1);
        progress.acknowledge(10, AckPolicy::Local);
    }

    #[test]
    #[should_panic(expected = "durability is out of order")]
    fn letting_go_of_what_the_catalog_does_not_have_is_a_bug() {
        let mut progress = Progress::default();
        progress.write(10, 0);
        progress.store(10);
        progress.purge(10);
    }

    #[test]
    #[should_panic(expected = "durability is out of order")]
    fn recording_what_is_not_stored_is_a_bug() {
        let mut progress = Progress::default();
        progress.write(10, 0);
        progress.catalogue(10);
    }

    #[test]
    #[should_panic(expected = "acknowledged what is not safe")]
    fn acknowledging_what_is_only_received_is_a_bug() {
        let mut progress = Progress::default();
        progress.write(10, 10);
        progress.acknowledge(10, AckPolicy::Local);
    }

    #[test]
    #[should_panic(expected = "acknowledged what is not safe")]
    fn acknowledging_as_stored_what_is_only_spooled_is_a_bug() {
        let mut progress = Progress::default();
        progress.write(10, 0);
        progress.acknowledge(10, AckPolicy::Stored);
    }
}
