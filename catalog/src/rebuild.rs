//! A catalog against its store.

use std::collections::BTreeMap;

use crate::names::ManifestName;
use crate::record::Inventory;

/// One manifest about which a catalog and its store disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The store has it and the catalog does not: the catalog is behind, and a rebuild mends it.
    NotCatalogued(String),
    /// The catalog has it and the store does not: something was removed from the store, or an older copy of it was put
    /// in place. A rebuild would hide that.
    NotStored(String),
    /// Both have it, with different content: the store's was altered. A rebuild would hide that.
    Altered(String),
}

/// Every manifest about which they disagree, by name. None: a rebuild would change nothing.
#[must_use]
pub fn differences(catalog: &Inventory, store: &Inventory) -> Vec<Difference> {
    let (catalog, mut store) = (by_name(catalog), by_name(store));
    let mut found = Vec::new();
    for (name, known) in catalog {
        match store.remove(&name) {
            Some(stored) if stored == known => {}
            Some(_) => found.push((name.clone(), Difference::Altered(name))),
            None => found.push((name.clone(), Difference::NotStored(name))),
        }
    }
    found.extend(store.into_keys().map(|name| (name.clone(), Difference::NotCatalogued(name))));
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found.into_iter().map(|(_, difference)| difference).collect()
}

/// A record of any kind.
#[derive(PartialEq)]
enum Record<'a> {
    Timeline(&'a crate::record::Timeline),
    Segment(&'a crate::record::Segment),
    Dump(&'a crate::record::Dump),
    Keys(&'a crate::record::KeyGeneration),
    File(&'a crate::record::KeptFile),
}

fn by_name(inventory: &Inventory) -> BTreeMap<String, Record<'_>> {
    let timelines = inventory.timelines.iter().map(|it| (ManifestName::Timeline(it.id), Record::Timeline(it)));
    let segments =
        inventory.segments.iter().map(|it| (ManifestName::Segment(it.timeline, it.sequence), Record::Segment(it)));
    let dumps = inventory.dumps.iter().map(|it| (ManifestName::Dump(it.id.clone()), Record::Dump(it)));
    let keys = inventory.keys.iter().map(|it| (ManifestName::Keys(it.server, it.generation), Record::Keys(it)));
    let files =
        inventory.files.iter().map(|it| (ManifestName::File(it.server, it.binlog.clone(), it.mark), Record::File(it)));
    timelines.chain(segments).chain(dumps).chain(keys).chain(files).map(|(name, record)| (name.key(), record)).collect()
}
