//! The mark that a running restore leaves on the target: so that another run knows what it finds, and can go on.

use super::scheduler_events::EventStates;
use super::settings::Settings;
use super::target::{Target, literal};
use crate::source::ServerError;

/// The schema that holds the mark, and nothing else.
pub(crate) const MARK_SCHEMA: &str = "highwater_restore";

/// How far a restore had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The dump was being loaded.
    Load,
    /// The dump was complete and `gtid_purged` says so.
    Replay,
}

/// What an interrupted restore wrote down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// How far it came.
    pub(crate) phase: Phase,
    /// The dump it loaded.
    pub(crate) dump: String,
    /// The transactions it was to end with.
    pub(crate) stop: String,
    /// The settings it changed.
    pub(crate) settings: Settings,
    /// The events' states right after loading.
    pub(crate) events: EventStates,
}

impl Mark {
    /// The mark of an earlier restore, if there is one.
    pub(crate) async fn read(target: &mut Target) -> Result<Option<Self>, ServerError> {
        let what = "read the mark of an earlier restore";
        let found: Option<u64> = target
            .row(
                &format!(
                    "SELECT COUNT(*) FROM information_schema.TABLES \
                     WHERE TABLE_SCHEMA = '{MARK_SCHEMA}' AND TABLE_NAME = 'mark'"
                ),
                what,
            )
            .await?;
        if found.unwrap_or(0) == 0 {
            return Ok(None);
        }
        let row: Option<(String, String, String, String, String)> = target
            .row(&format!("SELECT phase, dump, stop, settings, events FROM {MARK_SCHEMA}.mark WHERE id = 1"), what)
            .await?;
        Ok(row.and_then(|(phase, dump, stop, settings, events)| {
            let phase = if phase == "replay" { Phase::Replay } else { Phase::Load };
            let settings = serde_json::from_str(&settings).ok()?;
            Some(Self { phase, dump, stop, settings, events: EventStates::from_json(&events)? })
        }))
    }

    /// Writes the mark, or replaces it.
    pub(crate) async fn write(&self, target: &mut Target) -> Result<(), ServerError> {
        let what = "mark the target";
        target.run(&format!("CREATE DATABASE IF NOT EXISTS {MARK_SCHEMA}"), what).await?;
        let table = format!(
            "CREATE TABLE IF NOT EXISTS {MARK_SCHEMA}.mark (id TINYINT PRIMARY KEY, phase VARCHAR(10) NOT NULL, \
             dump VARCHAR(64) NOT NULL, stop LONGTEXT NOT NULL, settings LONGTEXT NOT NULL, events LONGTEXT NOT NULL) \
             ENGINE=InnoDB CHARACTER SET utf8mb4"
        );
        target.run(&table, what).await?;
        let phase = match self.phase {
            Phase::Load => "load",
            Phase::Replay => "replay",
        };
        let settings = serde_json::to_string(&self.settings).unwrap_or_default();
        let values = [phase, &self.dump, &self.stop, &settings, &self.events.to_json()].map(literal).join(", ");
        target.run(&format!("REPLACE INTO {MARK_SCHEMA}.mark VALUES (1, {values})"), what).await
    }

    /// Removes the mark.
    pub(crate) async fn remove(target: &mut Target) -> Result<(), ServerError> {
        target.run(&format!("DROP DATABASE IF EXISTS {MARK_SCHEMA}"), "remove the mark").await
    }
}
