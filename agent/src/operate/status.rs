//! What state an archive is in.

use highwater_catalog::{
    Break, Dump, Inventory, KeptFile, KeyGeneration, Micros, Repository, Timeline, Window, windows,
};

/// The state, as far as the store tells it.
#[derive(Debug)]
pub struct Status {
    /// Which archive.
    pub repository: Repository,
    /// The store.
    pub store: String,
    /// The newest timeline first.
    pub windows: Vec<Window>,
    /// Where the source did not continue the archive, oldest first.
    pub branches: Vec<Branch>,
    /// The newest dump.
    pub last_dump: Option<Dump>,
    /// Key bundles, by server and generation.
    pub keys: Vec<KeyGeneration>,
    /// Encrypted binlogs that were kept as they were, by server and name.
    pub files: Vec<KeptFile>,
    /// Manifests that cannot be read.
    pub damage: Vec<String>,
    /// Seconds since the newest transaction in the archive was committed, by this machine's clock.
    pub newest_age_seconds: Option<u64>,
    /// Seconds since the newest dump was complete.
    pub dump_age_seconds: Option<u64>,
}

/// A timeline that began because the source did not continue the one before it.
#[derive(Debug)]
pub struct Branch {
    /// The timeline, its parent, the reason and the time.
    pub timeline: Timeline,
    /// Whether it has a full dump: then everything since can be restored.
    pub has_dump: bool,
}

impl Branch {
    /// Said to people.
    #[must_use]
    pub fn text(&self) -> String {
        let Timeline { id, reason, .. } = &self.timeline;
        match self.has_dump {
            true => format!("timeline {id} began with a {reason}"),
            false => format!("timeline {id} began with a {reason}; it has no full dump yet"),
        }
    }
}

impl Status {
    /// Works it out from what the store lists.
    #[must_use]
    pub fn of(repository: Repository, store: String, inventory: &Inventory, damage: Vec<String>, now: Micros) -> Self {
        let age = |time: Micros| now.0.saturating_sub(time.0) / 1_000_000;
        let windows = windows(inventory);
        let last_dump = inventory.dumps.iter().max_by_key(|dump| dump.finished).cloned();
        let newest = windows.first().and_then(|window| window.last_commit);
        let has_dump = |id| inventory.dumps.iter().any(|dump| dump.timeline == id);
        let branched = inventory.timelines.iter().filter(|timeline| timeline.parent.is_some());
        let branches =
            branched.map(|timeline| Branch { has_dump: has_dump(timeline.id), timeline: timeline.clone() }).collect();
        Self {
            branches,
            repository,
            store,
            newest_age_seconds: newest.map(age),
            dump_age_seconds: last_dump.as_ref().map(|dump| age(dump.finished)),
            windows,
            last_dump,
            keys: inventory.keys.clone(),
            files: inventory.files.clone(),
            damage,
        }
    }

    /// Whether objects are sealed.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        !self.repository.recipients.is_empty()
    }

    /// Everything that keeps some point from being restored.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.damage.clone();
        for window in &self.windows {
            problems.extend(window.breaks.iter().map(break_text));
        }
        problems.extend(self.unprotected().map(Branch::text));
        problems.extend(self.nothing_restorable().map(str::to_owned));
        problems
    }

    /// That no point can be restored, if it is so.
    #[must_use]
    pub fn nothing_restorable(&self) -> Option<&'static str> {
        self.last_dump.is_none().then_some("no full dump: nothing can be restored yet")
    }

    /// The newest timeline, if it began with a break and has no full dump: nothing of it can be restored yet.
    #[must_use]
    pub fn unprotected(&self) -> Option<&Branch> {
        self.branches.last().filter(|branch| !branch.has_dump)
    }

    /// What should be changed although everything can be restored.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        if self.is_encrypted() {
            return Vec::new();
        }
        vec!["the archive is not encrypted: whoever reads the store reads every row".to_owned()]
    }
}

/// Where a timeline does not continue, for people.
#[must_use]
pub fn break_text(broken: &Break) -> String {
    match broken {
        Break::Gap(gap) => format!("gap: {gap}"),
        Break::Chain(chain) => format!("broken chain: {chain}"),
    }
}

/// The state as a monitoring plug-in tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// 0
    Ok,
    /// 1
    Warning,
    /// 2
    Critical,
}

impl Level {
    /// Its name in the plug-in's line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
        }
    }

    /// The plug-in's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
        }
    }
}

impl Status {
    /// The level and the reasons; `agent` has those of the agent.
    ///
    /// An idle source commits nothing, and its newest transaction ages: limits on it need a regular write.
    #[must_use]
    pub fn level(
        &self,
        warn_lag_seconds: u64,
        critical_lag_seconds: u64,
        agent: Vec<(Level, String)>,
    ) -> (Level, Vec<String>) {
        let mut reasons: Vec<(Level, String)> =
            self.problems().into_iter().map(|problem| (Level::Critical, problem)).collect();
        reasons.extend(agent);
        if let Some(age) = self.newest_age_seconds {
            let text = || format!("newest transaction is {age} s old");
            if age >= critical_lag_seconds {
                reasons.push((Level::Critical, text()));
            } else if age >= warn_lag_seconds {
                reasons.push((Level::Warning, text()));
            }
        }
        reasons.extend(self.warnings().into_iter().map(|warning| (Level::Warning, warning)));
        let level = reasons.iter().map(|(level, _)| *level).max().unwrap_or(Level::Ok);
        (level, reasons.into_iter().map(|(_, reason)| reason).collect())
    }
}
