//! `catalog rebuild`: the index again, from the store alone.

use super::Context;
use crate::cli::{ArchiveArgs, CatalogAction, CatalogArgs};
use crate::exit::Exit;
use crate::render;

/// Runs it.
pub(super) fn run(context: &Context, args: &CatalogArgs) -> anyhow::Result<Exit> {
    match args.action {
        CatalogAction::Rebuild => rebuild(context),
    }
}

fn rebuild(context: &Context) -> anyhow::Result<Exit> {
    context.config()?;
    let reading = context.reading(&ArchiveArgs { store: None, identity: None })?;
    let inventory = reading.inventory()?;
    render::print(&format!("{} segments\n", inventory.segments.len()))?;
    Ok(Exit::Done)
}
