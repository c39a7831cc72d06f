//! Whether each binlog follows the one before it: its `PREVIOUS_GTIDS` are those of the one before and what that added.

use std::collections::BTreeMap;
use std::path::PathBuf;

use highwater_binlog::GtidSet;

use crate::facts::Facts;
use crate::failure::{Exit, Failure};
use crate::input::Input;

/// The last binlog of each sequence: folder and name without the number.
#[derive(Debug, Default)]
pub(crate) struct Sequences(BTreeMap<(PathBuf, String), Last>);

#[derive(Debug)]
struct Last {
    name: String,
    executed: GtidSet,
}

/// What the comparison with the binlog before showed.
#[derive(Debug)]
pub(crate) struct Followed {
    /// The binlog before.
    pub(crate) name: String,
    /// What it does not follow by.
    pub(crate) failure: Option<Failure>,
}

impl Sequences {
    /// Compares a binlog that was read to its end with the one given before it; none where there is nothing to compare.
    pub(crate) fn compare(&mut self, input: &Input, facts: &Facts) -> Option<Followed> {
        // What a relay log's server had received before is no history of its own.
        let (folder, stem) = input.sequence().filter(|_| !facts.is_relay_log())?;
        let previous = facts.previous_gtids.as_ref()?;
        let last = Last { name: input.to_string(), executed: previous.union(&facts.gtids) };
        let before = self.0.insert((folder.to_owned(), stem.to_owned()), last)?;
        let missing = previous.subtract(&before.executed);
        let more = before.executed.subtract(previous);
        let failure = if !missing.is_empty() {
            let text = format!("{input} does not follow {}: transactions {missing} are in neither", before.name);
            Some(
                Failure::new(Exit::Damaged, text).hint("a binlog between the two, or the end of the first, is missing"),
            )
        } else if !more.is_empty() {
            let text = format!("{input} does not follow {}: it was begun without {more}", before.name);
            Some(
                Failure::new(Exit::Damaged, text)
                    .hint("the two are of different servers or times, or in the wrong order"),
            )
        } else {
            None
        };
        Some(Followed { name: before.name, failure })
    }
}
