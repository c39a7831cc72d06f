//! The target's global settings that a restore changes for its time, and puts back.

use serde::{Deserialize, Serialize};

use super::target::Target;
use crate::source::ServerError;

/// Workers of the applier while a restore runs, at least: MySQL's own default since 8.0.27.
const PARALLEL_WORKERS_MIN: u32 = 4;

/// A setting and what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setting {
    name: String,
    /// As it is written in a statement.
    original: String,
    /// While the restore runs.
    #[serde(skip)]
    ours: String,
}

/// Settings to change, with their original values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings(Vec<Setting>);

impl Settings {
    /// Reads what must be changed. `server_id` is the one for the time of the replay: a replica silently skips events
    /// that carry its own, and the target may have the source's.
    pub(crate) async fn read(target: &mut Target, server_id: u32) -> Result<Self, ServerError> {
        let mut settings = Vec::new();
        let mut change = |name: &str, original: String, ours: String| {
            settings.push(Setting { name: name.to_owned(), original, ours });
        };
        // DISABLED can neither be changed nor needs to be.
        if target.variable("event_scheduler").await?.as_deref() == Some("ON") {
            change("event_scheduler", "ON".to_owned(), "OFF".to_owned());
        }
        if target.variable("local_infile").await?.as_deref() == Some("OFF") {
            change("local_infile", "OFF".to_owned(), "ON".to_owned());
        }
        // Routines of the dump are made by an account that need not have SUPER.
        if target.variable("log_bin_trust_function_creators").await?.as_deref() == Some("OFF") {
            change("log_bin_trust_function_creators", "OFF".to_owned(), "ON".to_owned());
        }
        change("server_id", target.facts().server_id.to_string(), server_id.to_string());
        let workers = if target.version().variables_say_replica() {
            "replica_parallel_workers"
        } else {
            "slave_parallel_workers"
        };
        let now = target.variable(workers).await?.and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
        if now < PARALLEL_WORKERS_MIN {
            change(workers, now.to_string(), PARALLEL_WORKERS_MIN.to_string());
        }
        Ok(Self(settings))
    }

    /// Takes the original values from an earlier, interrupted restore.
    pub(crate) fn with_originals_of(mut self, earlier: &Self) -> Self {
        for old in &earlier.0 {
            match self.0.iter_mut().find(|setting| setting.name == old.name) {
                Some(setting) => setting.original.clone_from(&old.original),
                // What is as we want it already was changed by the earlier restore.
                None => self.0.push(Setting { ours: String::new(), ..old.clone() }),
            }
        }
        self
    }

    /// Changes the settings.
    pub(crate) async fn change(&self, target: &mut Target) -> Result<(), ServerError> {
        for setting in self.0.iter().filter(|setting| !setting.ours.is_empty()) {
            let sql = format!("SET GLOBAL {} = {}", setting.name, setting.ours);
            target.run(&sql, &format!("SET GLOBAL {}", setting.name)).await?;
        }
        Ok(())
    }

    /// Puts every setting back, also those after one that cannot be; the scheduler last. Returns what could not be.
    pub(crate) async fn put_back(&self, target: &mut Target) -> Vec<ServerError> {
        let mut errors = Vec::new();
        for setting in self.0.iter().rev() {
            let sql = format!("SET GLOBAL {} = {}", setting.name, setting.original);
            if let Err(error) = target.run(&sql, &format!("SET GLOBAL {}", setting.name)).await {
                errors.push(error);
            }
        }
        errors
    }

    /// The statements that put everything back, for somebody who must do it by hand.
    pub(crate) fn by_hand(&self) -> String {
        let statements = self.0.iter().rev().map(|s| format!("SET GLOBAL {} = {}", s.name, s.original));
        statements.collect::<Vec<_>>().join("; ")
    }
}
