//! `keyring`: replication keys in the archive.

use std::collections::BTreeSet;
use std::path::Path;

use highwater_binlog::ServerUuid;
use highwater_catalog::{Inventory, KeyGeneration};
use highwater_keyring::Keyring;
use serde_json::json;

use super::Context;
use super::list::show_keys;
use crate::archive::{Archive, ArchiveError};
use crate::cli::{ArchiveArgs, KeyringAction, KeyringArgs};
use crate::exit::{Exit, Failure};
use crate::kept::{bundle, newest_first};
use crate::{fsync, render};

/// Runs it.
pub(super) fn run(context: &Context, args: &KeyringArgs) -> anyhow::Result<Exit> {
    match &args.action {
        KeyringAction::List { archive } => show_keys(context, archive),
        KeyringAction::Export { archive, output, server } => export(context, archive, output, server.as_deref()),
    }
}

fn export(context: &Context, args: &ArchiveArgs, output: &Path, server: Option<&str>) -> anyhow::Result<Exit> {
    let reading = context.reading(args)?;
    let inventory = reading.inventory()?;
    let server = server.map(parse_server).transpose()?;
    let generations = wanted(&inventory, server)?;
    let keyring = read(&reading.archive, &generations)?;
    let ids: Vec<String> = keyring.key_ids().map(|id| id.as_str().to_owned()).collect();
    fsync::write_new(output, &keyring.to_component_file()).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            let failure = Failure::new(Exit::Usage, format!("{} exists", output.display()));
            failure.hint("name a new file: nothing is replaced").into()
        }
        _ => anyhow::Error::new(error).context(format!("write {}", output.display())),
    })?;
    if context.json() {
        render::print_json(&json!({ "file": output.display().to_string(), "key_ids": ids }))?;
    } else {
        render::print(&format!("{} keys in {}\n", ids.len(), output.display()))?;
    }
    Ok(Exit::Done)
}

pub(super) fn parse_server(text: &str) -> Result<ServerUuid, Failure> {
    text.parse().map_err(|_| {
        Failure::new(Exit::Usage, format!("`{text}` is no server_uuid"))
            .hint("`highwater keyring list` shows the servers whose keys are in the archive")
    })
}

/// The bundles to read, newest first. Keys are never taken back, so all generations together have every key.
fn wanted(inventory: &Inventory, server: Option<ServerUuid>) -> Result<Vec<&KeyGeneration>, Failure> {
    let servers: BTreeSet<ServerUuid> = inventory.keys.iter().map(|keys| keys.server).collect();
    let fits = |keys: &&KeyGeneration| server.is_none_or(|server| keys.server == server);
    let generations = newest_first(inventory.keys.iter().filter(fits));
    if generations.is_empty() {
        let of = server.map(|server| format!(" of server {server}")).unwrap_or_default();
        let known = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let hint = match servers.is_empty() {
            true => "set keyring.files: the agent seals their keys into the archive".to_owned(),
            false => format!("it has keys of {known}"),
        };
        return Err(Failure::new(Exit::Key, format!("the archive has no keys{of}")).hint(hint));
    }
    Ok(generations)
}

/// Of two values that a key had, the one of the first bundle.
fn read(archive: &Archive, generations: &[&KeyGeneration]) -> Result<Keyring, ArchiveError> {
    let mut keyring = Keyring::new();
    for keys in generations {
        keyring.merge(bundle(archive, keys)?.into_keyring());
    }
    Ok(keyring)
}
