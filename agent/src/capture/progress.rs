//! How far capture is, stage by stage.

/// Bytes of the source's binlogs that passed each stage since the agent connected.
///
/// Durability is this ordered relation: `received >= spooled >= stored >= catalogued`.
/// - *received*: verified events of the stream.
/// - *spooled*: fsynced in the spool. Only these may ever be acknowledged to a source.
/// - *stored*: in a segment whose manifest is in the store.
/// - *catalogued*: in the catalog too; the spool may be dropped.
///
/// Every change asserts it: a violation is a bug that must not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    received: u64,
    spooled: u64,
    stored: u64,
    catalogued: u64,
}

impl Progress {
    /// Bytes were verified.
    pub fn receive(&mut self, bytes: u64) {
        self.received = self.received.saturating_add(bytes);
        self.check();
    }

    /// Everything received is on the disk.
    pub fn spool(&mut self, received: u64) {
        self.spooled = self.spooled.saturating_add(received);
        self.check();
    }

    /// A segment was published.
    pub fn store(&mut self, bytes: u64) {
        self.stored = self.stored.saturating_add(bytes);
        self.check();
    }

    /// A segment was recorded.
    pub fn catalogue(&mut self, bytes: u64) {
        self.catalogued = self.catalogued.saturating_add(bytes);
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
        let Self { received, spooled, stored, catalogued } = *self;
        assert!(
            received >= spooled && spooled >= stored && stored >= catalogued,
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
        progress.receive(10);
        progress.spool(10);
        progress.store(6);
        progress.catalogue(6);
        assert_eq!((progress.received(), progress.stored(), progress.pending()), (10, 6, 4));
    }

    #[test]
    #[should_panic(expected = "durability is out of order")]
    fn storing_what_is_not_on_the_disk_is_a_bug() {
        let mut progress = Progress::default();
        progress.receive(10);
        progress.store(1);
    }
}
