//! `list`: what the archive has.

use highwater_catalog::{Dump, DumpFileKind, Inventory, KeptFile, KeyGeneration, Micros, Segment, Timeline};
use serde_json::{Value, json};

use super::Context;
use crate::cli::{ArchiveArgs, ListArgs, Listed};
use crate::exit::Exit;
use crate::render::{self, Table};

/// Runs it.
pub(super) fn run(context: &Context, args: &ListArgs) -> anyhow::Result<Exit> {
    let inventory = context.reading(&args.archive)?.inventory()?;
    if context.json() {
        render::print_json(&as_json(&inventory, args.what))?;
    } else {
        render::print(&as_table(&inventory, args.what).to_text())?;
    }
    Ok(Exit::Done)
}

/// `keyring list`
pub(super) fn show_keys(context: &Context, archive: &ArchiveArgs) -> anyhow::Result<Exit> {
    run(context, &ListArgs { what: Listed::Keys, archive: archive.clone() })
}

fn as_json(inventory: &Inventory, what: Listed) -> Value {
    match what {
        Listed::Dumps => inventory.dumps.iter().map(dump_json).collect(),
        Listed::Segments => inventory.segments.iter().map(segment_json).collect(),
        Listed::Timelines => inventory.timelines.iter().map(timeline_json).collect(),
        Listed::Keys => inventory.keys.iter().map(keys_json).collect(),
        Listed::Files => inventory.files.iter().map(file_json).collect(),
    }
}

pub(super) fn dump_json(dump: &Dump) -> Value {
    json!({
        "id": dump.id.to_string(),
        "timeline": dump.timeline.0,
        "server": dump.server.to_string(),
        "server_version": dump.server_version,
        "gtids": dump.gtids.to_string(),
        "position": dump.position.as_ref().map(ToString::to_string),
        "started": dump.started.to_string(),
        "finished": dump.finished.to_string(),
        "method": dump.method,
        "tables": tables(dump),
        "rows": rows(dump),
        "plain_bytes": dump.files.iter().map(|file| file.object.plain_size).sum::<u64>(),
        "stored_bytes": dump.files.iter().map(|file| file.object.stored_size).sum::<u64>(),
    })
}

fn segment_json(segment: &Segment) -> Value {
    let time = |time: Option<Micros>| time.map(|time| time.to_string());
    json!({
        "timeline": segment.timeline.0,
        "sequence": segment.sequence,
        "server": segment.server.to_string(),
        "binlog": segment.binlog.to_string(),
        "start": segment.start,
        "end": segment.end,
        "gtids": segment.gtids_added.to_string(),
        "transactions": segment.transactions,
        "events": segment.events,
        "first_commit": time(segment.first_commit),
        "last_commit": time(segment.last_commit),
        "objects": segment.objects.len(),
        "stored_bytes": segment.stored_size(),
        "blake3": segment.plain_blake3.to_string(),
    })
}

fn timeline_json(timeline: &Timeline) -> Value {
    json!({
        "timeline": timeline.id.0,
        "parent": timeline.parent.map(|parent| parent.0),
        "reason": timeline.reason,
        "starting_gtids": timeline.starting_gtids.to_string(),
        "created": timeline.created.to_string(),
    })
}

fn keys_json(keys: &KeyGeneration) -> Value {
    json!({
        "server": keys.server.to_string(),
        "generation": keys.generation,
        "key_ids": keys.key_ids,
        "taken": keys.taken.to_string(),
    })
}

pub(super) fn file_json(file: &KeptFile) -> Value {
    let time = |time: Option<Micros>| time.map(|time| time.to_string());
    json!({
        "server": file.server.to_string(),
        "binlog": file.binlog.to_string(),
        "mark": file.mark.to_string(),
        "server_version": file.server_version,
        "previous_gtids": file.gtids_before.to_string(),
        "gtids": file.gtids_added.to_string(),
        "transactions": file.transactions,
        "events": file.events,
        "first_commit": time(file.first_commit),
        "last_commit": time(file.last_commit),
        "key_id": file.key_id,
        "key_generation": file.key_generation,
        "taken": file.taken.to_string(),
        "bytes": file.body_size() + KeptFile::HEADER_LEN,
        "stored_bytes": file.stored_size(),
        "blake3": file.body_blake3.to_string(),
    })
}

fn tables(dump: &Dump) -> usize {
    let names: std::collections::BTreeSet<_> = dump
        .files
        .iter()
        .filter_map(|file| match &file.kind {
            DumpFileKind::Rows { schema, table, .. } => Some((schema, table)),
            DumpFileKind::Schema | DumpFileKind::Accounts => None,
        })
        .collect();
    names.len()
}

fn rows(dump: &Dump) -> u64 {
    let rows = dump.files.iter().map(|file| match file.kind {
        DumpFileKind::Rows { rows, .. } => rows,
        DumpFileKind::Schema | DumpFileKind::Accounts => 0,
    });
    rows.sum()
}

fn as_table(inventory: &Inventory, what: Listed) -> Table {
    match what {
        Listed::Dumps => dumps_table(&inventory.dumps),
        Listed::Segments => segments_table(&inventory.segments),
        Listed::Timelines => timelines_table(&inventory.timelines),
        Listed::Keys => keys_table(&inventory.keys),
        Listed::Files => files_table(&inventory.files),
    }
}

fn dumps_table(dumps: &[Dump]) -> Table {
    let mut table = Table::new(&["dump", "timeline", "finished", ">tables", ">rows", ">stored", "server", "method"]);
    for dump in dumps {
        table.row(vec![
            dump.id.to_string(),
            dump.timeline.to_string(),
            render::local_time(dump.finished),
            tables(dump).to_string(),
            rows(dump).to_string(),
            render::bytes(dump.files.iter().map(|file| file.object.stored_size).sum()),
            dump.server_version.clone(),
            dump.method.clone(),
        ]);
    }
    table
}

fn segments_table(segments: &[Segment]) -> Table {
    let mut table = Table::new(&[
        "timeline",
        ">number",
        "binlog",
        ">start",
        ">end",
        ">transactions",
        ">stored",
        "last commit",
        "GTIDs",
    ]);
    for segment in segments {
        table.row(vec![
            segment.timeline.to_string(),
            segment.sequence.to_string(),
            segment.binlog.to_string(),
            segment.start.to_string(),
            segment.end.to_string(),
            segment.transactions.to_string(),
            render::bytes(segment.stored_size()),
            segment.last_commit.map_or_else(|| "-".to_owned(), render::local_time),
            segment.gtids_added.to_string(),
        ]);
    }
    table
}

fn timelines_table(timelines: &[Timeline]) -> Table {
    let mut table = Table::new(&["timeline", "parent", "opened", "reason", "begins with"]);
    for timeline in timelines {
        let starting = timeline.starting_gtids.to_string();
        table.row(vec![
            timeline.id.to_string(),
            timeline.parent.map_or_else(|| "-".to_owned(), |parent| parent.to_string()),
            render::local_time(timeline.created),
            timeline.reason.clone(),
            if starting.is_empty() { "-".to_owned() } else { starting },
        ]);
    }
    table
}

fn keys_table(keys: &[KeyGeneration]) -> Table {
    let mut table = Table::new(&["server", ">generation", "taken", "keys"]);
    for keys in keys {
        table.row(vec![
            keys.server.to_string(),
            keys.generation.to_string(),
            render::local_time(keys.taken),
            keys.key_ids.join(", "),
        ]);
    }
    table
}

fn files_table(files: &[KeptFile]) -> Table {
    let mut table =
        Table::new(&["server", "binlog", ">size", ">stored", ">transactions", "last commit", "kept", "key", "GTIDs"]);
    for file in files {
        table.row(vec![
            file.server.to_string(),
            file.binlog.to_string(),
            render::bytes(file.body_size() + KeptFile::HEADER_LEN),
            render::bytes(file.stored_size()),
            file.transactions.to_string(),
            file.last_commit.map_or_else(|| "-".to_owned(), render::local_time),
            render::local_time(file.taken),
            file.key_id.clone(),
            file.gtids_added.to_string(),
        ]);
    }
    table
}
