//! Numbers of segments.

use std::collections::BTreeMap;

/// Bits of a word.
const BITS: u64 = u64::BITS as u64;

/// A set of segments' numbers: an eighth of a byte each where they stand close together, as they do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentNumbers(BTreeMap<u64, u64>);

impl SegmentNumbers {
    /// Adds a number.
    pub fn insert(&mut self, number: u64) {
        *self.0.entry(number / BITS).or_default() |= 1 << (number % BITS);
    }

    /// Those that are not smaller than `first`, ascending.
    pub fn starting_at(&self, first: u64) -> impl Iterator<Item = u64> {
        let words = self.0.range(first / BITS..);
        words
            .flat_map(|(&word, &bits)| {
                (0..BITS).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * BITS + bit)
            })
            .skip_while(move |number| *number < first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    use super::*;

    proptest! {
        #[test]
        fn what_was_added_is_there_in_order(
            added in proptest::collection::vec(prop_oneof![0u64..300, any::<u64>()], 0..60),
            first in prop_oneof![0u64..300, any::<u64>()],
        ) {
            let mut numbers = SegmentNumbers::default();
            added.iter().for_each(|number| numbers.insert(*number));
            let expected: Vec<u64> = added.iter().copied().collect::<BTreeSet<_>>().range(first..).copied().collect();
            prop_assert_eq!(numbers.starting_at(first).collect::<Vec<_>>(), expected);
        }
    }
}
