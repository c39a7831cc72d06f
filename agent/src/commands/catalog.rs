//! `catalog rebuild`, and the catalog as a cache for every other command.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use highwater_catalog::{
    Catalog, CatalogError, CatalogProblem, Difference, Inventory, Manifest, RepositoryId, differences,
};
use serde_json::json;

use super::Context;
use crate::cli::{ArchiveArgs, CatalogAction, CatalogArgs};
use crate::exit::Exit;
use crate::{fsync, render};

/// Runs it.
pub(super) fn run(context: &Context, args: &CatalogArgs) -> anyhow::Result<Exit> {
    match args.action {
        CatalogAction::Rebuild => rebuild(context),
    }
}

fn rebuild(context: &Context) -> anyhow::Result<Exit> {
    let config = context.config()?;
    let reading = context.reading(&ArchiveArgs { store: None, identity: None })?;
    // The store is read whole before the old catalog is touched.
    let inventory = reading.archive.inventory()?;
    let path = config.catalog_file();
    fsync::create_directories(&config.state_dir)
        .with_context(|| format!("make folder {}", config.state_dir.display()))?;
    let repository = reading.archive.repository().id;
    let mut catalog = match Catalog::open(&path, repository) {
        Err(error) if replaceable(&error.problem) => {
            remove_files(&path).with_context(|| format!("remove {}", path.display()))?;
            Catalog::open(&path, repository)?
        }
        other => other?,
    };
    catalog.replace_all(&inventory)?;
    let Inventory { timelines, segments, dumps, keys, files } = &inventory;
    if context.json() {
        render::print_json(&json!({
            "catalog": path.display().to_string(),
            "timelines": timelines.len(),
            "segments": segments.len(),
            "dumps": dumps.len(),
            "keys": keys.len(),
            "files": files.len(),
        }))?;
    } else {
        render::print(&format!(
            "catalog {}: {} timelines, {} segments, {} dumps, {} key bundles, {} kept files\n",
            path.display(),
            timelines.len(),
            segments.len(),
            dumps.len(),
            keys.len(),
            files.len()
        ))?;
    }
    Ok(Exit::Done)
}

/// Whether a rebuild may throw the old file away. One of another archive hints at a wrong configuration.
fn replaceable(problem: &CatalogProblem) -> bool {
    match problem {
        CatalogProblem::NotACatalog
        | CatalogProblem::Newer
        | CatalogProblem::Damaged { .. }
        | CatalogProblem::Row { .. }
        | CatalogProblem::Conflict { .. }
        | CatalogProblem::NoTimeline { .. } => true,
        CatalogProblem::OtherRepository { .. }
        | CatalogProblem::Record { .. }
        | CatalogProblem::Full
        | CatalogProblem::Busy
        | CatalogProblem::Io(_)
        | CatalogProblem::Sqlite(_) => false,
    }
}

/// The file and what SQLite keeps beside it.
fn remove_files(path: &Path) -> std::io::Result<()> {
    for ending in ["", "-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        match fsync::remove(&PathBuf::from(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// The catalog of a state folder as a cache: whatever is wrong with it, the store has the truth.
#[derive(Debug)]
pub(super) struct Cache {
    catalog: Catalog,
    known: Inventory,
}

impl Cache {
    /// Opens the catalog, if there is a state folder for it.
    pub(super) fn open(path: &Path, repository: RepositoryId) -> Option<Self> {
        if !path.parent().is_some_and(Path::is_dir) {
            return None;
        }
        let open = || {
            let mut catalog = Catalog::open(path, repository)?;
            let known = catalog.load()?;
            Ok(Self { catalog, known })
        };
        open().inspect_err(|error: &CatalogError| warn(error)).ok()
    }

    /// What it has.
    pub(super) fn known(&self) -> &Inventory {
        &self.known
    }

    /// Adds what the store has and it has not. What is gone from the store stays, for `verify` to tell.
    pub(super) fn learn(&mut self, stored: &Inventory) {
        if let Err(error) = self.try_learn(stored) {
            warn(&error);
        }
    }

    fn try_learn(&mut self, stored: &Inventory) -> Result<(), CatalogError> {
        let new: Vec<String> = differences(&self.known, stored)
            .into_iter()
            .filter_map(|difference| match difference {
                Difference::NotCatalogued(name) => Some(name),
                Difference::NotStored(_) | Difference::Altered(_) => None,
            })
            .collect();
        let is_new = |name: String| new.binary_search(&name).is_ok();
        for timeline in stored.timelines.iter().filter(|timeline| is_new(timeline.key())) {
            self.catalog.record_timeline(timeline)?;
        }
        for segment in stored.segments.iter().filter(|segment| is_new(segment.key())) {
            self.catalog.record_segment(segment)?;
        }
        for dump in stored.dumps.iter().filter(|dump| is_new(dump.key())) {
            self.catalog.record_dump(dump)?;
        }
        for keys in stored.keys.iter().filter(|keys| is_new(keys.key())) {
            self.catalog.record_keys(keys)?;
        }
        for file in stored.files.iter().filter(|file| is_new(file.key())) {
            self.catalog.record_file(file)?;
        }
        Ok(())
    }
}

fn warn(error: &CatalogError) {
    tracing::warn!(error = %error, hint = error.hint(), "catalog not used, the store is read instead");
}
