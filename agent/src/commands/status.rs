//! `status`: what can be restored right now.

use highwater_catalog::{Break, KeptFile, Span, Window};
use serde_json::{Value, json};

use super::Context;
use super::list::dump_json;
use crate::archive::now;
use crate::capture::{AgentReport, AgentState};
use crate::cli::StatusArgs;
use crate::exit::{Exit, Failure};
use crate::operate::liveness::agent_reasons;
use crate::operate::status::{Level, Status, break_text};
use crate::render;

/// Runs it.
pub(super) fn run(context: &Context, args: &StatusArgs) -> anyhow::Result<Exit> {
    if args.nagios {
        return nagios(context, args);
    }
    let status = read(context, args)?;
    let agent = agent_report(context, args);
    if context.json() {
        let mut value = as_json(&status);
        value["agent"] = serde_json::to_value(&agent)?;
        let troubles = troubles(agent.as_ref());
        value["agent_troubles"] = troubles.iter().map(|(level, what)| trouble_json(*level, what)).collect();
        render::print_json(&value)?;
    } else {
        render::print(&as_text(&status, agent.as_ref()))?;
    }
    if let Some(damage) = status.damage.first() {
        return Err(Failure::new(Exit::Damaged, damage.clone()).hint("`highwater verify` lists all damage").into());
    }
    let broken = status.windows.iter().flat_map(|window| &window.breaks).next();
    if let Some(broken) = broken {
        let hint = "points inside the gap cannot be restored; a new full dump protects from now on";
        return Err(Failure::new(Exit::Unreachable, break_text(broken)).hint(hint).into());
    }
    if let Some(branch) = status.unprotected() {
        let hint =
            "the agent takes a full dump by itself: see its log; points before the break are restored with --timeline";
        return Err(Failure::new(Exit::Unreachable, branch.text()).hint(hint).into());
    }
    if let Some(nothing) = status.nothing_restorable() {
        let hint = "a running agent takes the first full dump by itself: see its log";
        return Err(Failure::new(Exit::Unreachable, nothing).hint(hint).into());
    }
    Ok(Exit::Done)
}

fn read(context: &Context, args: &StatusArgs) -> anyhow::Result<Status> {
    let reading = context.reading(&args.archive)?;
    let scan = reading.scan()?;
    let damage = scan.problems.iter().map(ToString::to_string).collect();
    let archive = &reading.archive;
    Ok(Status::of(archive.repository().clone(), archive.store().describe(), &scan.inventory, damage, now()))
}

/// One line and the plug-in's codes, whatever happens.
fn nagios(context: &Context, args: &StatusArgs) -> anyhow::Result<Exit> {
    let status = match read(context, args) {
        Ok(status) => status,
        Err(error) => {
            render::print(&format!("HIGHWATER UNKNOWN - {}\n", Failure::of(&error).error))?;
            return Ok(Exit::Nagios(3));
        }
    };
    let troubles = troubles(agent_report(context, args).as_ref());
    let (level, reasons) = status.level(args.warn_lag, args.critical_lag, troubles);
    let said = if reasons.is_empty() { "everything can be restored".to_owned() } else { reasons.join("; ") };
    let number = |seconds: Option<u64>| seconds.map_or_else(|| "U".to_owned(), |seconds| format!("{seconds}s"));
    render::print(&format!(
        "HIGHWATER {} - {said} | newest_age={};{};{} dump_age={}\n",
        level.name(),
        number(status.newest_age_seconds),
        args.warn_lag,
        args.critical_lag,
        number(status.dump_age_seconds),
    ))?;
    Ok(Exit::Nagios(level.code()))
}

/// What the agent of this machine last said, if it was ever here and we may read it.
fn agent_report(context: &Context, args: &StatusArgs) -> Option<AgentReport> {
    if args.archive.store.is_some() {
        return None;
    }
    let state_dir = context.config().ok()?.state_dir;
    AgentReport::read(&state_dir)
        .inspect_err(|error| tracing::debug!(error = %error, "agent's report not read"))
        .ok()
        .flatten()
}

/// What keeps the agent from its work.
fn troubles(agent: Option<&AgentReport>) -> Vec<(Level, String)> {
    agent.map(|report| agent_reasons(report, now().0)).unwrap_or_default()
}

fn trouble_json(level: Level, what: &str) -> Value {
    json!({ "level": level.name().to_lowercase(), "what": what })
}

fn agent_text(report: &AgentReport) -> String {
    let state = match report.state {
        AgentState::Connecting => "connecting",
        AgentState::Streaming => "streaming",
        AgentState::Blocked => "BLOCKED: the store takes nothing, the spool takes what comes",
        AgentState::Full => "FULL: no room for the spool, the source is not read",
        AgentState::Stopped => "stopped",
        AgentState::Failed => "FAILED",
    };
    let at = report.position.as_ref().map(|position| format!(", received {position}")).unwrap_or_default();
    let pending = format!(", {} not in the store yet", render::bytes(report.pending_bytes));
    let said = render::duration(now().0.saturating_sub(report.updated_us) / 1_000_000);
    let ack = report.semi_sync.as_ref().map(|state| format!(", semi-sync {state}")).unwrap_or_default();
    let purge = report.watched.as_ref().and_then(|watched| watched.purge_in_seconds);
    let purge = purge.map(|seconds| format!(", purged at the source in {}", render::duration(seconds)));
    let purge = purge.unwrap_or_default();
    let error = report.last_error.as_ref().map(|error| format!("; last error: {error}")).unwrap_or_default();
    format!("{state}{at}{pending}{purge}{ack}, said {said} ago{error}")
}

fn as_text(status: &Status, agent: Option<&AgentReport>) -> String {
    let mut lines = vec![
        format!("service      {}", status.repository.service),
        format!("archive      {} in {}", status.repository.id, status.store),
    ];
    for recipient in &status.repository.recipients {
        lines.push(format!("sealed to    {recipient}"));
    }
    if let Some(agent) = agent {
        lines.push(format!("agent        {}", agent_text(agent)));
        let troubles = troubles(Some(agent));
        lines.extend(troubles.iter().map(|(level, what)| format!("{:<12} {what}", level.name())));
        let watched = agent.watched.iter().flat_map(|watched| &watched.warnings);
        lines.extend(watched.map(|warning| format!("SOURCE       {warning}")));
        if agent.spool_set_aside > 0 {
            let count = agent.spool_set_aside;
            lines.push(format!("SPOOL        {count} files put aside (*.set-aside): look at them, then remove them"));
        }
    }
    if let Some(dump) = &status.last_dump {
        let age = status.dump_age_seconds.map(render::duration).unwrap_or_default();
        lines.push(format!("last dump    {}, {age} ago, {}", dump.id, dump.method));
    }
    if let Some(age) = status.newest_age_seconds {
        lines.push(format!("newest       transaction is {} old", render::duration(age)));
    }
    let servers: std::collections::BTreeSet<_> = status.keys.iter().map(|keys| keys.server).collect();
    for server in servers {
        let newest = status.keys.iter().rfind(|keys| keys.server == server);
        let count = newest.map_or(0, |keys| keys.key_ids.len());
        let taken = newest.map(|keys| render::local_time(keys.taken)).unwrap_or_default();
        lines.push(format!("keys         {count} of server {server}, sealed {taken}"));
    }
    if !status.files.is_empty() {
        let stored = render::bytes(kept_bytes(status));
        lines.push(format!("files        {} encrypted binlogs kept as they were, {stored}", status.files.len()));
    }
    status.windows.iter().for_each(|window| window_lines(window, &mut lines));
    for branch in status.branches.iter().filter(|branch| branch.has_dump) {
        lines.push(format!("BREAK        {}, {}", branch.text(), render::local_time(branch.timeline.created)));
    }
    status.warnings().iter().for_each(|warning| lines.push(format!("WARNING      {warning}")));
    status.problems().iter().for_each(|problem| lines.push(format!("PROBLEM      {problem}")));
    lines.join("\n") + "\n"
}

fn kept_bytes(status: &Status) -> u64 {
    status.files.iter().map(KeptFile::stored_size).sum()
}

fn window_lines(window: &Window, lines: &mut Vec<String>) {
    lines.push(String::new());
    lines.push(format!("timeline     {}", window.timeline));
    if window.spans.is_empty() {
        lines.push("restorable   nothing yet".to_owned());
    }
    for span in &window.spans {
        lines.push(format!("restorable   {}", span_text(span)));
    }
    lines.push(format!("high water   {}", window.high_water));
    lines.push(format!(
        "holds        {} transactions in {} segments, {} of binlog in {}; {} dumps in {}",
        window.transactions,
        window.segments,
        render::bytes(window.binlog_plain_bytes),
        render::bytes(window.binlog_stored_bytes),
        window.dumps,
        render::bytes(window.dump_stored_bytes),
    ));
}

fn span_text(span: &Span) -> String {
    let earliest = render::local_time(span.earliest.time);
    match span.latest.time {
        Some(latest) => format!("{earliest}  to  {}", render::local_time(latest)),
        None => format!("{earliest}, the moment of dump {}", span.earliest.dump),
    }
}

fn as_json(status: &Status) -> Value {
    json!({
        "service": status.repository.service.to_string(),
        "repository": status.repository.id.to_string(),
        "store": status.store,
        "encrypted": status.is_encrypted(),
        "recipients": status.repository.recipients,
        "newest_age_seconds": status.newest_age_seconds,
        "dump_age_seconds": status.dump_age_seconds,
        "last_dump": status.last_dump.as_ref().map(dump_json),
        "high_water": status.windows.first().map(|window| json!({
            "timeline": window.timeline.0,
            "gtids": window.high_water.to_string(),
            "time": window.last_commit.map(|time| time.to_string()),
        })),
        "timelines": status.windows.iter().map(window_json).collect::<Value>(),
        "breaks": status.branches.iter().map(|branch| json!({
            "timeline": branch.timeline.id.0,
            "parent": branch.timeline.parent.map(|parent| parent.0),
            "reason": branch.timeline.reason,
            "time": branch.timeline.created.to_string(),
            "has_dump": branch.has_dump,
        })).collect::<Value>(),
        "files": { "count": status.files.len(), "stored_bytes": kept_bytes(status) },
        "warnings": status.warnings(),
        "problems": status.problems(),
    })
}

fn window_json(window: &Window) -> Value {
    let gaps = window.breaks.iter().map(|broken| match broken {
        Break::Gap(gap) => json!({ "kind": "gap", "missing": gap.missing.to_string(), "what": gap.to_string() }),
        Break::Chain(chain) => json!({ "kind": "chain", "what": chain.to_string() }),
    });
    json!({
        "timeline": window.timeline.0,
        "spans": window.spans.iter().map(span_json).collect::<Value>(),
        "breaks": gaps.collect::<Value>(),
        "high_water": window.high_water.to_string(),
        "last_commit": window.last_commit.map(|time| time.to_string()),
        "segments": window.segments,
        "transactions": window.transactions,
        "dumps": window.dumps,
        "binlog_plain_bytes": window.binlog_plain_bytes,
        "binlog_stored_bytes": window.binlog_stored_bytes,
        "dump_stored_bytes": window.dump_stored_bytes,
    })
}

fn span_json(span: &Span) -> Value {
    json!({
        "earliest": {
            "dump": span.earliest.dump.to_string(),
            "time": span.earliest.time.to_string(),
            "gtids": span.earliest.gtids.to_string(),
        },
        "latest": {
            "time": span.latest.time.map(|time| time.to_string()),
            "gtids": span.latest.gtids.to_string(),
        },
    })
}
