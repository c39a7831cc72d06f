//! What the agent is doing, in a file that other programs read: `agent.json` in the state folder.

mod files;

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::files::ReportFiles;
use super::watched::WatchedSource;
use crate::config::AckPolicy;

/// The file is written at most this often while only numbers change.
const WRITE_INTERVAL: Duration = Duration::from_secs(2);

/// A live agent writes it at least this often, even if nothing changes.
const ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// What the agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// On the way to the source.
    Connecting,
    /// Events come in and segments go out.
    Streaming,
    /// The store takes nothing; the spool takes what comes.
    Blocked,
    /// The spool is full too, or its disk; the source keeps its binlogs.
    Full,
    /// Ended when asked to; everything received is published.
    Stopped,
    /// Ended by an error.
    Failed,
}

/// The file's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentReport {
    /// What the agent does.
    pub state: AgentState,
    /// Its process id.
    pub pid: u32,
    /// When this was written, microseconds since 1970.
    pub updated_us: u64,
    /// Since when it has been on the way to the source, if it is, microseconds since 1970.
    pub connecting_since_us: Option<u64>,
    /// Where the source is.
    pub source: String,
    /// The source's `server_uuid`, once known.
    pub server_uuid: Option<String>,
    /// The source's version, once known.
    pub server_version: Option<String>,
    /// The binlog being received and the offset reached: `binlog.000042:1234`.
    pub position: Option<String>,
    /// When the last event was written, by the source's clock, seconds since 1970.
    pub last_event: Option<u32>,
    /// The timeline that segments go to.
    pub timeline: Option<u32>,
    /// Every transaction in the archive.
    pub stored_gtids: String,
    /// Every transaction in the archive or, fsynced, in the spool.
    pub spooled_gtids: String,
    /// Bytes that the spool has on the disk.
    pub spool_bytes: u64,
    /// Files of the spool that were put aside, damaged or of another timeline, for somebody to look at.
    #[serde(default)]
    pub spool_set_aside: u64,
    /// When the source is acknowledged to: `off`, `local`, `stored`.
    pub ack: AckPolicy,
    /// What the source does about acknowledgements, once known and if we give any.
    pub semi_sync: Option<String>,
    /// Whether commits on the source wait for acknowledgements; see `semi_sync`.
    pub synchronous: Option<bool>,
    /// The source as it was last looked at, once it was.
    pub watched: Option<WatchedSource>,
    /// Timelines that began because the source did not continue the one before.
    #[serde(default)]
    pub breaks: u64,
    /// When the last segment was published, microseconds since 1970.
    pub last_segment_us: Option<u64>,
    /// Bytes received and not in the archive yet.
    pub pending_bytes: u64,
    /// The last error, even if capture went on.
    pub last_error: Option<String>,
}

impl AgentReport {
    /// The file's name in the state folder.
    pub const FILE_NAME: &'static str = "agent.json";

    /// Reads the report in a state folder; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is no report.
    pub fn read(state_dir: &Path) -> std::io::Result<Option<Self>> {
        match std::fs::read(state_dir.join(Self::FILE_NAME)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(std::io::Error::from),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AgentReport {
    /// Of an agent that begins.
    pub(crate) fn new(source: String, ack: AckPolicy) -> Self {
        Self {
            state: AgentState::Connecting,
            pid: std::process::id(),
            updated_us: 0,
            connecting_since_us: None,
            source,
            server_uuid: None,
            server_version: None,
            position: None,
            last_event: None,
            timeline: None,
            stored_gtids: String::new(),
            spooled_gtids: String::new(),
            spool_bytes: 0,
            spool_set_aside: 0,
            ack,
            semi_sync: None,
            synchronous: None,
            watched: None,
            breaks: 0,
            last_segment_us: None,
            pending_bytes: 0,
            last_error: None,
        }
    }

    /// The source is not looked at any more: what it does now is not known.
    pub(super) fn lose_sight(&mut self) {
        if self.ack != AckPolicy::Off {
            (self.semi_sync, self.synchronous) = (Some("unknown: the source does not answer".to_owned()), Some(false));
        }
        if let Some(watched) = &mut self.watched {
            watched.lose_sight();
        }
    }
}

/// Writes the report when it has something new to say.
#[derive(Debug)]
pub(super) struct Reporter {
    files: ReportFiles,
    report: AgentReport,
    written: Option<(Instant, AgentReport)>,
}

impl Reporter {
    pub(super) fn new(state_dir: &Path, source: String, ack: AckPolicy, breaks: u64) -> Self {
        // Known from the last run: what changed meanwhile is told.
        let watched = AgentReport::read(state_dir).ok().flatten().and_then(|report| report.watched);
        let mut report = AgentReport { watched, breaks, ..AgentReport::new(source, ack) };
        report.lose_sight();
        Self { files: ReportFiles::new(state_dir), report, written: None }
    }

    /// Whether a change would be written now.
    pub(super) fn is_due(&self, state: AgentState) -> bool {
        let written = self.written.as_ref();
        written.is_none_or(|(at, before)| before.state != state || at.elapsed() >= WRITE_INTERVAL)
    }

    /// Changes the report. A new state is written at once, other changes soon.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut AgentReport)) {
        change(&mut self.report);
        self.report.connecting_since_us = match self.report.state {
            AgentState::Connecting => self.report.connecting_since_us.or_else(|| Some(now_micros())),
            AgentState::Streaming
            | AgentState::Blocked
            | AgentState::Full
            | AgentState::Stopped
            | AgentState::Failed => None,
        };
        let is_news = |(at, before): &(Instant, AgentReport)| *before != self.report || at.elapsed() >= ALIVE_INTERVAL;
        if !self.written.as_ref().is_none_or(is_news) || !self.is_due(self.report.state) {
            return;
        }
        let report = AgentReport { updated_us: now_micros(), ..self.report.clone() };
        self.files.write(report);
        self.written = Some((Instant::now(), self.report.clone()));
    }
}

/// The time by this machine's clock, microseconds since 1970.
pub(super) fn now_micros() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or(0)
}
