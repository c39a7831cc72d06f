//! The source, looked at from time to time while capture runs: its settings, whether it waits for our acknowledgements,
//! and how long it keeps what we do not have yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use highwater_binlog::{BinlogName, ServerUuid};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;

use super::continuity::warnings;
use super::report::now_micros;
use crate::server::ServerLogin;
use crate::source::{BinlogFile, SemiSyncState, ServerError, ServerFacts, Session};

/// How often the source is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Changes that are remembered.
const CHANGES_MAX: usize = 50;

/// One look at the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    facts: ServerFacts,
    semi_sync: SemiSyncState,
    /// The binlog that is being written.
    newest: Option<BinlogName>,
}

/// What is watched at the source while capture runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchedSource {
    /// Settings that matter to capture and restore, by name.
    pub settings: BTreeMap<String, String>,
    /// Settings that changed, the newest last.
    pub changes: Vec<SettingChange>,
    /// Settings that are not ideal, each with the statement that mends it.
    pub warnings: Vec<String>,
    /// Seconds until the source may purge what is not captured yet; absent while nothing is in danger.
    pub purge_in_seconds: Option<u64>,
}

/// A setting of the source that was another one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingChange {
    /// When it was noticed, microseconds since 1970.
    pub noticed_us: u64,
    /// The setting.
    pub setting: String,
    /// Its value before.
    pub from: String,
    /// Its value now.
    pub to: String,
}

/// Looks at the source for ever; while it cannot be looked at, there is no look. A source that does not answer is asked again:
/// capture notices by itself.
pub(super) async fn watch(login: Arc<ServerLogin>, looks: watch::Sender<Option<Look>>) {
    loop {
        if let Err(error) = look_on(&login, &looks).await {
            tracing::debug!(error = %error, "source not looked at");
            looks.send_replace(None);
        }
        sleep(LOOK).await;
    }
}

async fn look_on(login: &ServerLogin, looks: &watch::Sender<Option<Look>>) -> Result<(), ServerError> {
    let mut session = Session::connect(login).await?;
    loop {
        let facts = session.facts().clone();
        let semi_sync = session.semi_sync().await?;
        let newest = session.binlog_files().await?.pop().map(|BinlogFile { name, .. }| name);
        looks.send_replace(Some(Look { facts, semi_sync, newest }));
        sleep(LOOK).await;
        session.refresh().await?;
    }
}

impl Look {
    /// What the source does about acknowledgements, for people.
    pub(super) fn semi_sync(&self) -> String {
        match self.semi_sync {
            SemiSyncState::Unavailable => "unavailable: the source has no semi-sync plug-in".to_owned(),
            SemiSyncState::Disabled => "disabled: the source does not wait for acknowledgements".to_owned(),
            SemiSyncState::Asynchronous { .. } => "ASYNCHRONOUS: the source does not wait now".to_owned(),
            SemiSyncState::Synchronous { clients, wait_for } if clients > wait_for => format!(
                "synchronous, but not with us for certain: {clients} replicas acknowledge, and commits wait for {wait_for} of \
                 them; SET PERSIST rpl_semi_sync_source_wait_for_replica_count = {clients}"
            ),
            SemiSyncState::Synchronous { .. } => "synchronous".to_owned(),
        }
    }

    /// Whether commits wait for us: not if others' acknowledgements may be enough.
    pub(super) fn is_synchronous(&self) -> bool {
        matches!(self.semi_sync, SemiSyncState::Synchronous { clients, wait_for } if clients > 0 && clients <= wait_for)
    }

    /// Seconds until the source may purge what follows our position: its files are purged by age, and what we lack is at
    /// least as young as what we have. The file that is being written is never purged.
    fn purge_in_seconds(&self, at: Option<&BinlogName>, last_event_second: Option<u32>) -> Option<u64> {
        let (at, second) = at.zip(last_event_second)?;
        let ServerFacts { binlog_expire_logs_seconds: keep, binlog_expire_logs_auto_purge: purges, .. } = self.facts;
        if self.newest.as_ref() == Some(at) || keep == 0 || !purges {
            return None;
        }
        Some((u64::from(second) + keep).saturating_sub(now_micros() / 1_000_000))
    }
}

impl WatchedSource {
    /// Seconds until the source may purge what is not captured yet, if little of the time that it keeps its binlogs is left.
    #[must_use]
    pub fn purges_soon(&self) -> Option<u64> {
        let keep: Option<u64> =
            self.settings.get("binlog_expire_logs_seconds").and_then(|seconds| seconds.parse().ok());
        self.purge_in_seconds.filter(|left| keep.is_none_or(|keep| *left < keep / 4))
    }

    /// Forgets what is true only while the source is looked at.
    pub(super) fn lose_sight(&mut self) {
        self.purge_in_seconds = None;
    }

    /// Takes a look into account; what changed is logged. `server` is whose binlogs are captured.
    pub(super) fn learn(
        &mut self,
        look: &Look,
        server: ServerUuid,
        at: Option<&BinlogName>,
        last_event_second: Option<u32>,
    ) {
        let now = settings(&look.facts);
        for (setting, to) in &now {
            if let Some(from) = self.settings.get(setting).filter(|from| *from != to) {
                tracing::warn!(setting, from, to, "a setting of the source changed");
                let (from, setting, to) = (from.clone(), setting.clone(), to.clone());
                self.changes.push(SettingChange { noticed_us: now_micros(), setting, from, to });
            }
        }
        let old = self.changes.len().saturating_sub(CHANGES_MAX);
        self.changes.drain(..old);
        self.settings = now;
        let mut warnings = warnings(&look.facts);
        if look.facts.uuid != server {
            let found = look.facts.uuid;
            warnings.push(format!(
                "the server in [source] is {found}, and the binlogs captured are those of {server}: no dump of the \
                 former is published; name the server whose binlogs are captured in [source]"
            ));
        }
        for warning in warnings.iter().filter(|warning| !self.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.warnings = warnings;
        let before = self.purges_soon();
        self.purge_in_seconds = look.purge_in_seconds(at, last_event_second);
        if let (Some(seconds), None) = (self.purges_soon(), before) {
            tracing::error!(
                seconds,
                "the source soon purges what is not captured yet: SET GLOBAL binlog_expire_logs_seconds higher"
            );
        }
    }
}

/// The settings whose change is told, by the names that MySQL gives them.
fn settings(facts: &ServerFacts) -> BTreeMap<String, String> {
    let on = |value: bool| if value { "ON" } else { "OFF" }.to_owned();
    [
        ("version", facts.version_text.clone()),
        ("gtid_mode", facts.gtid_mode.to_string()),
        ("binlog_format", facts.binlog_format.clone()),
        ("binlog_row_image", facts.binlog_row_image.clone()),
        ("binlog_row_metadata", facts.binlog_row_metadata.clone()),
        ("binlog_checksum", facts.binlog_checksum.clone()),
        ("binlog_encryption", on(facts.binlog_encryption)),
        ("binlog_transaction_compression", on(facts.binlog_transaction_compression)),
        ("binlog_expire_logs_seconds", facts.binlog_expire_logs_seconds.to_string()),
        ("binlog_expire_logs_auto_purge", on(facts.binlog_expire_logs_auto_purge)),
        ("sync_binlog", facts.sync_binlog.to_string()),
        ("innodb_flush_log_at_trx_commit", facts.innodb_flush_log_at_trx_commit.to_string()),
        ("log_replica_updates", on(facts.log_replica_updates)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
