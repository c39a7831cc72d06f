//! Chance that can be repeated.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Pseudo-random numbers of a printed seed (xorshift64*, Vigna 2014).
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
    seed: u64,
}

impl Dice {
    /// Of the seed in `HIGHWATER_SEED`, or of the clock; says which, so that a failure can be repeated.
    #[must_use]
    pub fn throw(what: &str) -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
        let given = std::env::var("HIGHWATER_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed: u64 = given.unwrap_or_else(clock);
        println!("{what}: HIGHWATER_SEED={seed}");
        Self { state: seed.max(1), seed }
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A number from `low` up to, not including, `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let number = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        low + number % (high - low).max(1)
    }

    /// A duration between two numbers of milliseconds.
    pub fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// True one time in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.between(0, times) == 0
    }
}

/// The size of a run: a number from the environment, or the default.
pub fn size_of_run(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
