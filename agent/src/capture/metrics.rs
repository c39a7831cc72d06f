//! The agent's numbers for Prometheus, in a file that node_exporter's textfile collector reads: `metrics.prom` in the
//! state folder.

use std::fmt::Write;

use super::report::{AgentReport, AgentState};

/// The file's name in the state folder.
pub(super) const FILE_NAME: &str = "metrics.prom";

const STATES: [(AgentState, &str); 6] = [
    (AgentState::Connecting, "connecting"),
    (AgentState::Streaming, "streaming"),
    (AgentState::Blocked, "blocked"),
    (AgentState::Full, "full"),
    (AgentState::Stopped, "stopped"),
    (AgentState::Failed, "failed"),
];

/// The report as metrics.
pub(super) fn text(report: &AgentReport) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "# HELP highwater_{name} {help}\n# TYPE highwater_{name} gauge\nhighwater_{name} {value}\n"
            );
        }
    };
    let count = |bytes: u64| Some(lossy(bytes));
    let seconds = |micros: u64| lossy(micros) / 1e6;
    gauge("agent_updated_timestamp_seconds", "When the agent last said something.", Some(seconds(report.updated_us)));
    gauge("capture_pending_bytes", "Bytes received and in no segment of the store yet.", count(report.pending_bytes));
    gauge("capture_spool_bytes", "Bytes of the spool on the disk.", count(report.spool_bytes));
    gauge("capture_timeline", "The timeline that segments go to.", report.timeline.map(f64::from));
    gauge("timeline_breaks", "Timelines that began with a gap or a fork.", count(report.breaks));
    let event = report.last_event.map(f64::from);
    gauge("capture_last_event_timestamp_seconds", "Time of the last event, by the source's clock.", event);
    let segment = report.last_segment_us.map(seconds);
    gauge("capture_last_segment_timestamp_seconds", "When the last segment was published.", segment);
    let synchronous = report.synchronous.map(|synchronous| if synchronous { 1.0 } else { 0.0 });
    gauge("source_semi_sync", "1 while commits on the source wait for acknowledgements.", synchronous);
    let purge = report.watched.as_ref().and_then(|watched| watched.purge_in_seconds).map(lossy);
    gauge("source_purge_in_seconds", "Seconds until the source may purge what is not captured yet.", purge);
    let warnings = report.watched.as_ref().map(|watched| lossy(watched.warnings.len() as u64));
    gauge("source_warnings", "Settings of the source that are not ideal.", warnings);
    text.push_str("# HELP highwater_agent_state 1 for what the agent does.\n# TYPE highwater_agent_state gauge\n");
    for (state, name) in STATES {
        let value = u8::from(state == report.state);
        let _ = writeln!(text, "highwater_agent_state{{state=\"{name}\"}} {value}");
    }
    text
}

/// Prometheus has no other numbers.
fn lossy(value: u64) -> f64 {
    value as f64
}
