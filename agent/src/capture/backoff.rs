//! Pauses between attempts: doubling, limited, and never the same for two agents.

use std::time::Duration;

/// The pauses of one thing that is tried again and again.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from about `first` to about `longest`.
    #[must_use]
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// Between attempts with a store.
    #[must_use]
    pub(crate) fn for_the_store() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(60))
    }

    /// The next pause: between half and all of twice the one before.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next.mul_f64(rand::random_range(0.5..1.0));
        self.next = (self.next * 2).min(self.longest);
        pause
    }

    /// After a success: the next failure pauses shortly again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(8));
        for limit in [1, 2, 4, 8, 8, 8] {
            let pause = backoff.next();
            assert!(pause <= Duration::from_secs(limit) && pause >= Duration::from_millis(limit * 500), "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_secs(1));
    }
}
