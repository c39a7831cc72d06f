//! `binlogs`: kept files as a server's binlogs.

use highwater_binlog::BinlogName;
use highwater_catalog::{FileRange, KeptFile};
use serde_json::json;

use super::Context;
use super::keyring::parse_server;
use super::list::file_json;
use crate::cli::BinlogsArgs;
use crate::exit::{Exit, Failure};
use crate::kept::{GivenFiles, give};
use crate::render;

/// Runs it.
pub(super) fn run(context: &Context, args: &BinlogsArgs) -> anyhow::Result<Exit> {
    let wanted = FileRange {
        server: args.server.as_deref().map(parse_server).transpose()?,
        from: args.from.as_deref().map(parse_binlog).transpose()?,
        to: args.to.as_deref().map(parse_binlog).transpose()?,
    };
    let reading = context.reading(&args.archive)?;
    let bar = render::bytes_bar(0, "writing");
    let given = give(&reading.archive, &reading.inventory()?, &wanted, &args.output_dir, args.force, &bar)?;
    bar.finish_and_clear();
    if context.json() {
        render::print_json(&as_json(&given))?;
    } else {
        render::print(&as_text(&given))?;
    }
    Ok(Exit::Done)
}

fn parse_binlog(text: &str) -> Result<BinlogName, Failure> {
    text.parse().map_err(|_| {
        let failure = Failure::new(Exit::Usage, format!("`{text}` is no binlog's name"));
        failure.hint("a name as `highwater list files` shows it: binlog.000042")
    })
}

fn as_json(given: &GivenFiles) -> serde_json::Value {
    json!({
        "files": given.files.iter().map(file_json).collect::<serde_json::Value>(),
        "rewritten_headers": given.rewritten,
        "index": given.index.display().to_string(),
        "keyring": given.keyring.display().to_string(),
        "key_ids": given.key_ids,
    })
}

fn as_text(given: &GivenFiles) -> String {
    let bytes = given.files.iter().map(|file| file.body_size() + KeptFile::HEADER_LEN).sum();
    let mut text = String::new();
    if let (Some(first), Some(last)) = (given.files.first(), given.files.last()) {
        let (count, bytes) = (given.files.len(), render::bytes(bytes));
        text.push_str(&format!("binlogs   {count}, {} to {}, {bytes}\n", first.binlog, last.binlog));
    }
    text.push_str(&format!("index     {}\n", given.index.display()));
    text.push_str(&format!("keyring   {}, {} keys\n", given.keyring.display(), given.key_ids.len()));
    if !given.rewritten.is_empty() {
        let names = given.rewritten.join(", ");
        text.push_str(&format!("note      headers written anew, since no sealed backup has their key: {names}\n"));
    }
    text
}
