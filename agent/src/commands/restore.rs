//! `restore`: everything back, to a moment.

use std::sync::{Arc, Mutex, PoisonError};

use highwater_binlog::GtidSet;
use highwater_catalog::TimelineId;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::point::parse_gtid;
use super::{Context, blocking_value, parse_point, target_login};
use crate::cli::RestoreArgs;
use crate::exit::{Exit, Failure};
use crate::render;
use crate::restore::{self, Phase, Progress, ProgressSink, RestoreOptions, RestoreReport};

/// Runs it.
pub(super) async fn run(context: Context, args: RestoreArgs, stop: CancellationToken) -> anyhow::Result<Exit> {
    let options = options(&args)?;
    let login = target_login(&args.target)?;
    if login.is_none() && !args.dry_run {
        let failure = Failure::new(Exit::Usage, "no target to restore into");
        return Err(failure.hint("give --target mysql://USER@HOST:PORT or --target-socket, or --dry-run").into());
    }
    let (json, archive_args) = (context.json(), args.archive.clone());
    let opened = blocking_value(move || {
        let reading = context.reading(&archive_args)?;
        let inventory = reading.inventory()?;
        anyhow::Ok((reading.archive, inventory))
    });
    let (archive, inventory) = opened.await??;
    let bars = Arc::new(Bars::default());
    let sink: ProgressSink = {
        let bars = bars.clone();
        Arc::new(move |progress| bars.show(progress))
    };
    let result = restore::run(&options, &archive, &inventory, login.as_ref(), sink, &stop).await;
    bars.finish();
    let report = result?;
    if json {
        render::print_json(&as_json(&report))?;
    } else {
        render::print(&as_text(&report))?;
    }
    Ok(Exit::Done)
}

fn options(args: &RestoreArgs) -> anyhow::Result<RestoreOptions> {
    let mut exclude_gtids = GtidSet::new();
    for text in &args.exclude_gtid {
        exclude_gtids.insert(&parse_gtid(text)?);
    }
    Ok(RestoreOptions {
        timeline: args.timeline.map(TimelineId),
        exclude_gtids,
        keep_events_disabled: args.keep_events_disabled,
        serve_address: args.serve_address,
        serve_port: args.serve_port,
        dry_run: args.dry_run,
        resume: args.resume,
        ..RestoreOptions::to(parse_point(&args.point)?)
    })
}

/// One progress bar after the other, on a terminal.
#[derive(Debug, Default)]
struct Bars(Mutex<Option<(Phase, ProgressBar)>>);

impl Bars {
    fn show(&self, progress: Progress) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some((phase, bar)) if *phase == progress.phase => bar.set_position(progress.done),
            _ => {
                if let Some((_, bar)) = current.take() {
                    bar.finish();
                }
                let bar = bar(progress);
                bar.set_position(progress.done);
                *current = Some((progress.phase, bar));
            }
        }
    }

    fn finish(&self) {
        if let Some((_, bar)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.abandon();
        }
    }
}

fn bar(progress: Progress) -> ProgressBar {
    match progress.phase {
        Phase::Prove => render::bytes_bar(progress.total, "proving"),
        Phase::Load => render::bytes_bar(progress.total, "loading"),
        Phase::Replay => {
            let bar = ProgressBar::with_draw_target(Some(progress.total), render::progress_target());
            let style = ProgressStyle::with_template("{msg} [{bar:30}] {human_pos}/{human_len} transactions {eta}");
            if let Ok(style) = style {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.with_message("replaying")
        }
    }
}

fn as_text(report: &RestoreReport) -> String {
    let plan = &report.plan;
    let binlog: u64 = plan.segments.iter().map(|segment| segment.plain_size()).sum();
    let mut lines = vec![
        format!("point        {}, timeline {}", plan.stop.point, plan.stop.timeline),
        format!("dump         {}, {} files", plan.dump.id, plan.dump.files.len()),
        format!(
            "binlog       {} transactions in {} segments, {}",
            plan.replay.count(),
            plan.segments.len(),
            render::bytes(binlog)
        ),
        format!("GTIDs        {}", plan.stop.gtids),
    ];
    if let Some(excluded) = &plan.stop.first_excluded {
        let time = excluded.committed.map(|time| format!(", committed {}", render::local_time(time)));
        lines.push(format!("stops before {} at {}{}", excluded.gtid, excluded.position, time.unwrap_or_default()));
    }
    if report.later_with_earlier_time > 0 {
        lines.push(format!(
            "note         {} transactions after the stop were committed before that time: the binlog's order decides",
            report.later_with_earlier_time
        ));
    }
    lines.push(format!("proven       every byte read in {}", render::seconds(report.proving)));
    if report.executed {
        let how = if report.resumed { "gone on with and finished" } else { "done" };
        lines.push(format!(
            "restored     {how} in {}; the target has exactly these GTIDs",
            render::seconds(report.executing)
        ));
        let events = &report.events;
        if events.enabled + events.disabled > 0 {
            lines.push(format!("events       {} enabled, {} disabled", events.enabled, events.disabled));
        }
    } else {
        lines.push("dry run      nothing was changed".to_owned());
    }
    for xid in &report.in_doubt {
        lines.push(format!("in doubt     XA transaction {xid} is prepared: commit or roll it back"));
    }
    for note in report.events.notes.iter().chain(&report.notes) {
        lines.push(format!("note         {note}"));
    }
    lines.join("\n") + "\n"
}

fn as_json(report: &RestoreReport) -> Value {
    let plan = &report.plan;
    json!({
        "point": plan.stop.point.to_string(),
        "timeline": plan.stop.timeline.0,
        "dump": plan.dump.id.to_string(),
        "segments": plan.segments.len(),
        "transactions": plan.replay.count(),
        "gtids": plan.stop.gtids.to_string(),
        "first_excluded": plan.stop.first_excluded.as_ref().map(|excluded| json!({
            "gtid": excluded.gtid.to_string(),
            "committed": excluded.committed.map(|time| time.to_string()),
            "position": excluded.position.to_string(),
        })),
        "later_with_earlier_time": report.later_with_earlier_time,
        "executed": report.executed,
        "resumed": report.resumed,
        "events": { "enabled": report.events.enabled, "disabled": report.events.disabled },
        "in_doubt": report.in_doubt,
        "notes": report.events.notes.iter().chain(&report.notes).collect::<Vec<_>>(),
        "proving_seconds": report.proving.as_secs_f64(),
        "executing_seconds": report.executing.as_secs_f64(),
    })
}
