//! Events of the scheduler: during a restore none runs, after it each has the state that it had on the source.
//!
//! Replication stores every event that it brings as `REPLICA_SIDE_DISABLED`, whatever the statement says
//! (`Event_parse_data::check_originator_id`). So the states are followed by ourselves: those that the dump loaded, then
//! what the replayed statements say.

use std::collections::BTreeMap;

use highwater_binlog::{QueryEvent, SchedulerEventName, SchedulerEventStatus, SchedulerStatement, event_statement};
use serde::{Deserialize, Serialize};

use super::target::{Target, identifier, literal};
use crate::source::ServerError;

/// An event of the scheduler: schema and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct EventName {
    schema: String,
    name: String,
}

/// What an event does when its time comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum EventState {
    /// It runs.
    Enabled,
    /// It does not.
    Disabled,
    /// It does not, because this server is a replica.
    ReplicaSideDisabled,
}

impl From<SchedulerEventStatus> for EventState {
    fn from(status: SchedulerEventStatus) -> Self {
        match status {
            SchedulerEventStatus::Enabled => Self::Enabled,
            SchedulerEventStatus::Disabled => Self::Disabled,
            SchedulerEventStatus::DisabledOnReplica => Self::ReplicaSideDisabled,
        }
    }
}

/// What a replayed statement does to events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EventChange {
    statement: SchedulerStatement,
    /// The current schema, for names without one.
    schema: String,
}

impl EventChange {
    /// Reads a statement of the binlog; `None` when it is not about events.
    pub(crate) fn read(query: &QueryEvent<'_>) -> Option<Self> {
        let statement = event_statement(&String::from_utf8_lossy(query.statement))?;
        Some(Self { statement, schema: String::from_utf8_lossy(query.schema).into_owned() })
    }

    fn name(&self, event: &SchedulerEventName) -> EventName {
        let schema = event.schema.as_ref().unwrap_or(&self.schema).clone();
        EventName { schema, name: event.name.clone() }
    }
}

/// The state that each event had on the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EventStates(BTreeMap<EventName, EventState>);

/// An event's state as it is kept in the restore's mark.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptEvent {
    schema: String,
    name: String,
    state: EventState,
}

impl EventStates {
    /// The states that the target's events have now: right after loading, those of the dump.
    pub(crate) async fn read(target: &mut Target) -> Result<Self, ServerError> {
        let events = read_events(target).await?;
        Ok(Self(events.into_iter().map(|event| (event.name, event.state)).collect()))
    }

    pub(crate) fn to_json(&self) -> String {
        let kept = |(name, state): (&EventName, &EventState)| KeptEvent {
            schema: name.schema.clone(),
            name: name.name.clone(),
            state: *state,
        };
        serde_json::to_string(&self.0.iter().map(kept).collect::<Vec<_>>()).unwrap_or_default()
    }

    pub(crate) fn from_json(text: &str) -> Option<Self> {
        let kept: Vec<KeptEvent> = serde_json::from_str(text).ok()?;
        let event = |kept: KeptEvent| (EventName { schema: kept.schema, name: kept.name }, kept.state);
        Some(Self(kept.into_iter().map(event).collect()))
    }

    /// Follows one statement.
    pub(crate) fn apply(&mut self, change: &EventChange) {
        match &change.statement {
            SchedulerStatement::Create { event, if_not_exists, status } => {
                let event = change.name(event);
                if !if_not_exists || !self.0.contains_key(&event) {
                    self.0.insert(event, EventState::from(*status));
                }
            }
            SchedulerStatement::Alter { event, renamed_to, status } => {
                let old = self.0.remove(&change.name(event));
                if let Some(state) = status.map(EventState::from).or(old) {
                    self.0.insert(change.name(renamed_to.as_ref().unwrap_or(event)), state);
                }
            }
            SchedulerStatement::Drop { event } => {
                self.0.remove(&change.name(event));
            }
            SchedulerStatement::DropSchema { schema } => self.0.retain(|event, _| event.schema != *schema),
        }
    }
}

/// An event as the target has it.
struct TargetEvent {
    name: EventName,
    state: EventState,
    definer: String,
    time_zone: String,
    sql_mode: String,
    character_set: String,
    collation: String,
}

/// What became of the events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventsReport {
    /// Events that run again when the scheduler is on.
    pub enabled: u64,
    /// Events that do not.
    pub disabled: u64,
    /// What a person should look at: events whose state could not be set, and why.
    pub notes: Vec<String>,
}

/// Gives every event its state, or disables all of them.
pub(crate) async fn settle(
    target: &mut Target,
    states: &EventStates,
    keep_disabled: bool,
) -> Result<EventsReport, ServerError> {
    let mut report = EventsReport::default();
    for event in read_events(target).await? {
        let shown = format!("{}.{}", event.name.schema, event.name.name);
        let mut wanted = match states.0.get(&event.name) {
            Some(state) => *state,
            None => {
                report.notes.push(format!("event {shown}: its state on the source is not known; left disabled"));
                EventState::Disabled
            }
        };
        if keep_disabled && wanted == EventState::Enabled {
            wanted = EventState::Disabled;
        }
        if wanted != event.state
            && let Err(error) = set_state(target, &event, wanted).await
        {
            report.notes.push(format!("event {shown} stays disabled: {error}"));
            wanted = EventState::Disabled;
        }
        match wanted {
            EventState::Enabled => report.enabled += 1,
            EventState::Disabled | EventState::ReplicaSideDisabled => report.disabled += 1,
        }
    }
    // An event whose time has passed is disabled again by the server, with a note that only says so.
    let now: BTreeMap<_, _> = read_events(target).await?.into_iter().map(|e| (e.name, e.state)).collect();
    for (name, state) in &states.0 {
        if *state == EventState::Enabled && !keep_disabled && now.get(name) == Some(&EventState::Disabled) {
            report.notes.push(format!("event {}.{}: its time has passed; it is disabled", name.schema, name.name));
        }
    }
    Ok(report)
}

/// ALTER EVENT gives the event the session's time zone, `sql_mode` and character set, and our account as its definer,
/// unless all of them are set to the event's own.
async fn set_state(target: &mut Target, event: &TargetEvent, state: EventState) -> Result<(), ServerError> {
    let (user, host) = event.definer.rsplit_once('@').unwrap_or((&event.definer, "%"));
    let state = match state {
        EventState::Enabled => "ENABLE",
        EventState::Disabled => "DISABLE",
        EventState::ReplicaSideDisabled if target.version().variables_say_replica() => "DISABLE ON REPLICA",
        EventState::ReplicaSideDisabled => "DISABLE ON SLAVE",
    };
    // Written while sql_mode is still ours.
    let session = format!(
        "SET SESSION character_set_client = {}, collation_connection = {}, time_zone = {}, sql_mode = {}",
        event.character_set,
        event.collation,
        literal(&event.time_zone),
        literal(&event.sql_mode),
    );
    let what = "ALTER EVENT";
    // The name is sent in utf8mb4, so the client's character set comes only where the name allows it.
    let alter = format!(
        "ALTER DEFINER = {}@{} EVENT {}.{} {state}",
        identifier(user),
        identifier(host),
        identifier(&event.name.schema),
        identifier(&event.name.name)
    );
    let result = if alter.is_ascii() {
        target.run(&session, what).await
    } else {
        let (time_zone, sql_mode) = (literal(&event.time_zone), literal(&event.sql_mode));
        target.run(&format!("SET SESSION time_zone = {time_zone}, sql_mode = {sql_mode}"), what).await
    };
    let result = match result {
        Ok(()) => target.run(&alter, what).await,
        Err(error) => Err(error),
    };
    target.run("SET NAMES utf8mb4", what).await?;
    target.run("SET SESSION time_zone = '+00:00', sql_mode = ''", what).await?;
    result
}

async fn read_events(target: &mut Target) -> Result<Vec<TargetEvent>, ServerError> {
    type Row = (String, String, String, String, String, String, String, String);
    let rows: Vec<Row> = target
        .rows(
            "SELECT EVENT_SCHEMA, EVENT_NAME, STATUS, DEFINER, TIME_ZONE, SQL_MODE, CHARACTER_SET_CLIENT, \
             COLLATION_CONNECTION FROM information_schema.EVENTS \
             WHERE EVENT_SCHEMA NOT IN ('sys', 'mysql') ORDER BY EVENT_SCHEMA, EVENT_NAME",
            "read events",
        )
        .await?;
    let event = |(schema, name, status, definer, time_zone, sql_mode, character_set, collation): Row| TargetEvent {
        name: EventName { schema, name },
        state: match status.as_str() {
            "ENABLED" => EventState::Enabled,
            "DISABLED" => EventState::Disabled,
            // SLAVESIDE_DISABLED before it was renamed.
            _ => EventState::ReplicaSideDisabled,
        },
        definer,
        time_zone,
        sql_mode,
        character_set,
        collation,
    };
    Ok(rows.into_iter().map(event).collect())
}

#[cfg(test)]
mod tests {
    use super::super::target::quoted;
    use super::*;

    fn follow(statements: &[&str]) -> Vec<(String, EventState)> {
        let mut states = EventStates::default();
        for text in statements {
            let query = QueryEvent { schema: b"app", statement: text.as_bytes() };
            let change = EventChange::read(&query).expect(text);
            states.apply(&change);
        }
        let kept = EventStates::from_json(&states.to_json()).unwrap();
        assert_eq!(kept, states);
        states.0.into_iter().map(|(name, state)| (format!("{}.{}", name.schema, name.name), state)).collect()
    }

    #[test]
    fn states_follow_the_statements() {
        use EventState::{Disabled, Enabled};
        let states = follow(&[
            "CREATE EVENT a ON SCHEDULE EVERY 1 DAY DO SELECT 1",
            "CREATE EVENT b ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1",
            "CREATE EVENT IF NOT EXISTS b ON SCHEDULE EVERY 1 DAY DO SELECT 1",
            "CREATE EVENT other.c ON SCHEDULE EVERY 1 DAY DO SELECT 1",
            "CREATE EVENT d ON SCHEDULE EVERY 1 DAY DO SELECT 1",
            "CREATE EVENT gone.e ON SCHEDULE EVERY 1 DAY DO SELECT 1",
            "ALTER EVENT a DISABLE",
            "ALTER EVENT a COMMENT 'still disabled'",
            "ALTER EVENT other.c RENAME TO app.c2",
            "DROP EVENT d",
            "DROP DATABASE gone",
        ]);
        let expected = [("app.a", Disabled), ("app.b", Disabled), ("app.c2", Enabled)];
        assert_eq!(states, expected.map(|(name, state)| (name.to_owned(), state)));
    }

    #[test]
    fn strings_of_statements_are_quoted() {
        assert_eq!(quoted("a'b\\"), "'a''b\\\\'");
        assert_eq!(identifier("a`b"), "`a``b`");
    }
}
