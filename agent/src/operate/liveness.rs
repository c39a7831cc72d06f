//! Whether the agent of this machine does its work, by what it last said.

use super::status::Level;
use crate::capture::{AgentReport, AgentState, WatchedSource};
use crate::config::AckPolicy;

/// A live agent says something every 30 s; one that has not for so long is dead, or its disk is.
const SILENT_SECONDS: u64 = 120;

/// A connection that breaks is made again in less time than this.
const CONNECTING_SECONDS: u64 = 60;

/// Less time until the source purges what is not captured is an emergency.
const PURGE_CRITICAL_SECONDS: u64 = 3600;

/// What is wrong with the agent, if anything is.
#[must_use]
pub fn agent_reasons(report: &AgentReport, now_us: u64) -> Vec<(Level, String)> {
    let silent = now_us.saturating_sub(report.updated_us) / 1_000_000;
    let error = report.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    let mut reasons = Vec::new();
    match report.state {
        AgentState::Failed => reasons.push((Level::Critical, format!("the agent failed{error}"))),
        AgentState::Stopped => reasons.push((Level::Critical, "the agent is stopped: nothing is captured".to_owned())),
        AgentState::Full => reasons.push((
            Level::Critical,
            format!("the agent has no room for its spool, and does not read the source{error}"),
        )),
        AgentState::Blocked => {
            reasons
                .push((Level::Warning, format!("the store takes nothing, the agent's spool takes what comes{error}")));
        }
        AgentState::Connecting => {
            let since = report.connecting_since_us.map(|since| now_us.saturating_sub(since) / 1_000_000);
            let level =
                if since.is_some_and(|since| since < CONNECTING_SECONDS) { Level::Warning } else { Level::Critical };
            reasons.push((level, format!("the agent is not connected to the source{error}")));
        }
        AgentState::Streaming => {}
    }
    let ended = matches!(report.state, AgentState::Failed | AgentState::Stopped);
    if !ended && silent >= SILENT_SECONDS {
        reasons.push((
            Level::Critical,
            format!("the agent has said nothing for {silent} s: it is dead, or its disk is full"),
        ));
    }
    let ahead = report.updated_us.saturating_sub(now_us) / 1_000_000;
    if !ended && ahead >= SILENT_SECONDS {
        reasons.push((
            Level::Critical,
            format!(
                "the agent's last word is {ahead} s in the future: since the clock was set back it has said nothing"
            ),
        ));
    }
    if report.ack != AckPolicy::Off && !ended && report.synchronous != Some(true) {
        let state = report.semi_sync.as_deref().unwrap_or("unknown");
        reasons.push((Level::Warning, format!("commits do not wait for the agent, semi-sync is {state}")));
    }
    if let Some(seconds) = report.watched.as_ref().and_then(WatchedSource::purges_soon) {
        let level = if seconds < PURGE_CRITICAL_SECONDS { Level::Critical } else { Level::Warning };
        reasons.push((level, format!("the source may purge in {seconds} s what is not captured yet")));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000_000_000;

    fn report(change: impl FnOnce(&mut AgentReport)) -> Vec<(Level, String)> {
        let mut report = AgentReport::new("db:3306".to_owned(), AckPolicy::Off);
        (report.state, report.updated_us) = (AgentState::Streaming, NOW - 30_000_000);
        change(&mut report);
        agent_reasons(&report, NOW)
    }

    fn level(reasons: &[(Level, String)], words: &str) -> Level {
        let [(level, text)] = reasons else { panic!("{reasons:?}") };
        assert!(text.contains(words), "{text}");
        *level
    }

    #[test]
    fn an_agent_that_works_gives_no_reason() {
        assert_eq!(report(|_| {}), []);
        let synchronous = |report: &mut AgentReport| (report.ack, report.synchronous) = (AckPolicy::Local, Some(true));
        assert_eq!(report(synchronous), []);
    }

    #[test]
    fn what_keeps_an_agent_from_its_work_is_critical() {
        let failed = |report: &mut AgentReport| {
            (report.state, report.last_error) = (AgentState::Failed, Some("access denied".to_owned()));
        };
        assert_eq!(level(&report(failed), "failed: access denied"), Level::Critical);
        assert_eq!(level(&report(|report| report.state = AgentState::Stopped), "stopped"), Level::Critical);
        assert_eq!(level(&report(|report| report.state = AgentState::Full), "no room"), Level::Critical);
        assert_eq!(
            level(&report(|report| report.updated_us = NOW - 120_000_000), "nothing for 120 s"),
            Level::Critical
        );
        let clock_set_back = |report: &mut AgentReport| report.updated_us = NOW + 120_000_000;
        assert_eq!(level(&report(clock_set_back), "120 s in the future"), Level::Critical);
        assert_eq!(report(|report| report.updated_us = NOW + 119_000_000), []);
        let away = |seconds: u64| {
            report(|report| {
                report.state = AgentState::Connecting;
                report.connecting_since_us = Some(NOW - seconds * 1_000_000);
            })
        };
        assert_eq!(level(&away(60), "not connected"), Level::Critical);
        assert_eq!(level(&away(59), "not connected"), Level::Warning);
    }

    #[test]
    fn what_can_still_be_waited_for_is_a_warning() {
        assert_eq!(level(&report(|report| report.state = AgentState::Blocked), "store takes nothing"), Level::Warning);
        let asynchronous = |report: &mut AgentReport| {
            (report.ack, report.synchronous) = (AckPolicy::Stored, Some(false));
            report.semi_sync = Some("ASYNCHRONOUS".to_owned());
        };
        assert_eq!(level(&report(asynchronous), "ASYNCHRONOUS"), Level::Warning);
    }

    #[test]
    fn a_purge_alarms_when_little_of_the_time_is_left() {
        let left = |seconds: u64| {
            report(|report| {
                let watched = report.watched.get_or_insert_default();
                watched.settings.insert("binlog_expire_logs_seconds".to_owned(), "80000".to_owned());
                watched.purge_in_seconds = Some(seconds);
            })
        };
        assert_eq!(left(20_000), []);
        assert_eq!(level(&left(19_999), "19999 s"), Level::Warning);
        assert_eq!(level(&left(3_599), "3599 s"), Level::Critical);
    }
}
