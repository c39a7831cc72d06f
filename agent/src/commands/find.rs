//! `find`: which transaction did that?

use highwater_binlog::{Change, ChangeKind};
use highwater_catalog::TimelineId;
use serde_json::{Value, json};

use super::point::parse_gtid;
use super::{Context, parse_time};
use crate::cli::{FindArgs, FoundKind};
use crate::exit::{Exit, Failure};
use crate::render::{self, Table};
use crate::restore::{FindQuery, FindReport, FoundTransaction, WantedKind, find};

/// Runs it.
pub(super) fn run(context: &Context, args: &FindArgs) -> anyhow::Result<Exit> {
    let query = query(args)?;
    let reading = context.reading(&args.archive)?;
    let report = find(&reading.archive, &reading.inventory()?, &query)?;
    if context.json() {
        render::print_json(&as_json(&report))?;
        return Ok(Exit::Done);
    }
    render::print(&as_text(&report))?;
    if report.transactions.is_empty() {
        render::remark("no transaction matches");
    } else if report.more {
        render::remark("there are more: raise --limit, or narrow the search");
    }
    Ok(Exit::Done)
}

fn query(args: &FindArgs) -> Result<FindQuery, Failure> {
    let (mut schema, mut table) = (args.schema.clone(), None);
    if let Some(text) = &args.table {
        let Some((of_schema, name)) = text.split_once('.') else {
            let failure = Failure::new(Exit::Usage, format!("`{text}` names no schema"));
            return Err(failure.hint("write --table SCHEMA.TABLE"));
        };
        schema = Some(of_schema.to_owned());
        table = Some(name.to_owned());
    }
    let kind = |kind: &FoundKind| match kind {
        FoundKind::Insert => WantedKind::Insert,
        FoundKind::Update => WantedKind::Update,
        FoundKind::Delete => WantedKind::Delete,
        FoundKind::Ddl => WantedKind::Ddl,
    };
    Ok(FindQuery {
        timeline: args.timeline.map(TimelineId),
        from: args.from.as_deref().map(parse_time).transpose()?,
        until: args.until.as_deref().map(parse_time).transpose()?,
        gtid: args.gtid.as_deref().map(parse_gtid).transpose()?,
        schema,
        table,
        kinds: args.kind.iter().map(kind).collect(),
        rows_min: args.rows_min,
        limit: args.limit,
    })
}

fn as_text(report: &FindReport) -> String {
    if report.transactions.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["committed", "GTID", "position", ">size", "changes"]);
    for transaction in &report.transactions {
        table.row(vec![
            render::local_time(transaction.committed),
            gtid(transaction),
            transaction.position.to_string(),
            render::bytes(transaction.bytes),
            transaction.changes.iter().map(change).collect::<Vec<_>>().join(", "),
        ]);
    }
    table.to_text()
}

fn gtid(transaction: &FoundTransaction) -> String {
    transaction.gtid.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}

/// `DELETE 19 shop.orders`, `DROP TABLE shop.orders`. Names come from the binlog: no control character gets through.
fn change(change: &Change) -> String {
    let rows = match (change.kind, change.rows) {
        (ChangeKind::Statement(_), _) => String::new(),
        (_, Some(rows)) => format!(" {rows}"),
        (_, None) => " ?".to_owned(),
    };
    let dot = if change.schema.is_empty() || change.table.is_empty() { "" } else { "." };
    let name = format!("{}{dot}{}", change.schema, change.table);
    let shown: String = name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    format!("{}{rows} {shown}", change.kind).trim_end().to_owned()
}

fn as_json(report: &FindReport) -> Value {
    let change = |change: &Change| {
        json!({
            "schema": change.schema,
            "table": change.table,
            "kind": change.kind.to_string(),
            "rows": change.rows,
        })
    };
    let transaction = |transaction: &FoundTransaction| {
        json!({
            "gtid": transaction.gtid.as_ref().map(ToString::to_string),
            "committed": transaction.committed.to_string(),
            "position": transaction.position.to_string(),
            "bytes": transaction.bytes,
            "events": transaction.events,
            "changes": transaction.changes.iter().map(change).collect::<Vec<_>>(),
        })
    };
    json!({
        "transactions": report.transactions.iter().map(transaction).collect::<Vec<_>>(),
        "more": report.more,
    })
}
