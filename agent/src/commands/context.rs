//! What every command starts from: the configuration, or a store and an identity alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use highwater_catalog::Inventory;

use super::catalog::Cache;
use super::stores;
use crate::archive::{Archive, Scan, catch_up};
use crate::cli::ArchiveArgs;
use crate::config::{Config, ConfigError};
use crate::exit::{Exit, Failure};
use crate::fsync;
use crate::seal::Identities;
use crate::store::{DirectoryStore, MirrorStore};

/// How the command was called.
#[derive(Debug, Clone)]
pub struct Context {
    config: Option<PathBuf>,
    json: bool,
}

impl Context {
    /// From the global options.
    #[must_use]
    pub fn new(config: Option<PathBuf>, json: bool) -> Self {
        Self { config, json }
    }

    /// Whether results are printed as JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        self.json
    }

    /// The configuration named by `--config` or the environment.
    pub(super) fn named_config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The configuration, which the command cannot do without.
    pub fn config(&self) -> Result<Config, ConfigError> {
        Config::load(self.config.as_deref()).map(|(config, _)| config)
    }

    /// The archive, for reading, from whichever of the configured stores are there. `--store` makes the configuration
    /// unnecessary: one that lies around is not even read then, only one that is named.
    pub fn reading(&self, args: &ArchiveArgs) -> anyhow::Result<Reading> {
        let config = self.reading_config(args)?;
        let stores = match (&args.store, &config) {
            (Some(folder), _) => MirrorStore::new(Arc::new(DirectoryStore::open(folder)?), Vec::new()),
            (None, Some(config)) => stores::open_any(config)?,
            (None, None) => return Err(ConfigError::None.into()),
        };
        Self::read_from(stores, config, args)
    }

    /// The archive in each of the stores, which must all be there.
    pub(super) fn reading_each(&self, args: &ArchiveArgs) -> anyhow::Result<Vec<Reading>> {
        let config = match (&args.store, self.reading_config(args)?) {
            (None, Some(config)) if !config.copies.is_empty() => config,
            _ => return Ok(vec![self.reading(args)?]),
        };
        Archive::open_mirrored(stores::open_all(&config)?, None)?;
        let alone =
            |place| Self::read_from(MirrorStore::new(stores::open(place)?, Vec::new()), Some(config.clone()), args);
        config.stores().map(alone).collect()
    }

    fn reading_config(&self, args: &ArchiveArgs) -> anyhow::Result<Option<Config>> {
        Ok(match (&args.store, &self.config) {
            (Some(_), None) => None,
            (Some(_), Some(path)) => Some(Config::load(Some(path))?.0),
            (None, _) => Some(self.config().map_err(or_store)?),
        })
    }

    fn read_from(stores: MirrorStore, config: Option<Config>, args: &ArchiveArgs) -> anyhow::Result<Reading> {
        let configured = config.as_ref().and_then(|config| config.seal.identity_file.as_deref());
        let identities = match (&args.identity, configured) {
            (Some(path), _) => Some(Identities::read_file(path)?),
            // One that only the restoring machine has is no error elsewhere.
            (None, Some(path)) if path.exists() => Some(Identities::read_file(path)?),
            (None, _) => None,
        };
        let archive = Archive::open_mirrored(stores, identities)?;
        Ok(Reading { archive, config })
    }

    /// The archive of a configuration, for writing: its copies have all that the first store has.
    pub fn writing(config: &Config) -> anyhow::Result<Archive> {
        let archive = Self::checked(config)?;
        let sent = catch_up(&stores::open_all(config)?)?;
        if sent > 0 {
            tracing::info!(objects = sent, "copies of the archive lacked what an interrupted writer left to them");
        }
        Ok(archive)
    }

    /// The same before anything is written.
    pub(super) fn checked(config: &Config) -> anyhow::Result<Archive> {
        let archive = Archive::open_mirrored(stores::open_all(config)?, None)?;
        let archive = archive.for_writing(&config.service.parse()?, config.recipients()?)?;
        let scratch = config.scratch_dir();
        fsync::create_directories(&scratch)
            .map_err(|error| anyhow::Error::new(error).context(format!("make folder {}", scratch.display())))?;
        Ok(archive.with_scratch(scratch).with_object_bytes_max(config.seal.object_bytes_max))
    }
}

/// Commands that read need no configuration.
fn or_store(error: ConfigError) -> anyhow::Error {
    match (&error, error.hint()) {
        (ConfigError::None, Some(hint)) => {
            let hint = format!("{hint}; or give --store DIR and --identity FILE, which do without");
            Failure::new(Exit::Usage, error.to_string()).hint(hint).into()
        }
        _ => error.into(),
    }
}

/// An archive that was opened for reading.
#[derive(Debug)]
pub struct Reading {
    /// The archive.
    pub archive: Archive,
    /// The configuration, if one was needed or named.
    pub config: Option<Config>,
}

impl Reading {
    /// The local catalog, where there is one.
    pub(super) fn cache(&self) -> Option<Cache> {
        Cache::open(&self.config.as_ref()?.catalog_file(), self.archive.repository().id)
    }

    /// All that the archive holds.
    pub fn inventory(&self) -> anyhow::Result<Inventory> {
        let mut scan = self.scan()?;
        match scan.problems.is_empty() {
            true => Ok(scan.inventory),
            false => Err(scan.problems.swap_remove(0).into()),
        }
    }

    /// All that the archive holds, past manifests that are damaged.
    pub fn scan(&self) -> anyhow::Result<Scan> {
        let mut cache = self.cache();
        let nothing = Inventory::default();
        let scan = self.archive.scan(cache.as_ref().map_or(&nothing, Cache::known))?;
        if let Some(cache) = &mut cache {
            cache.learn(&scan.inventory);
        }
        Ok(scan)
    }
}
