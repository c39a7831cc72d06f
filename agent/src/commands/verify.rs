//! `verify`: everything is read back and proven.

use std::collections::BTreeSet;

use highwater_catalog::{Difference, Inventory, KeptFile, Manifest, ManifestName, Segment, differences, windows};
use indicatif::ProgressBar;
use serde_json::json;

use super::Context;
use crate::archive::{Archive, ArchiveError, CopyError, Scan, StoredFacts, WholeDigest};
use crate::cli::VerifyArgs;
use crate::exit::{Exit, Failure};
use crate::kept::{KeepError, KeptKeys, prove_kept};
use crate::operate::status::break_text;
use crate::render;

/// Runs it.
pub(super) fn run(context: &Context, args: &VerifyArgs) -> anyhow::Result<Exit> {
    let mut outcomes = Vec::new();
    for reading in context.reading_each(&args.archive)? {
        let archive = &reading.archive;
        let scan = archive.scan(&Inventory::default())?;
        let lost = reading.cache().map(|cache| lost(cache.known(), &scan)).unwrap_or_default();
        let mut outcome = Outcome::of(archive, scan)?;
        outcome.damage.extend(lost);
        if !context.json() {
            render::print(&outcome.as_text())?;
        }
        outcomes.push(outcome);
    }
    if context.json() {
        render::print_json(&as_json(&outcomes))?;
    }
    verdict(&outcomes)
}

/// The first store's, with those of its copies.
fn as_json(outcomes: &[Outcome]) -> serde_json::Value {
    let mut all = outcomes.iter().map(Outcome::as_json);
    let mut first = all.next().unwrap_or_default();
    first["copies"] = all.collect();
    first
}

/// The worst: damage before gaps, wherever it is.
fn verdict(outcomes: &[Outcome]) -> anyhow::Result<Exit> {
    let told = |outcome: &Outcome, text: &String| match outcomes.len() {
        1 => text.clone(),
        _ => format!("{}: {text}", outcome.store),
    };
    let all = |found: fn(&Outcome) -> &Vec<String>| -> Vec<String> {
        outcomes.iter().flat_map(|outcome| found(outcome).iter().map(move |text| told(outcome, text))).collect()
    };
    let (damage, gaps) = (all(|outcome| &outcome.damage), all(|outcome| &outcome.gaps));
    let others = |count: usize| if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    if let Some(first) = damage.first() {
        let error = format!("{first}{}", others(damage.len()));
        let hint = "bring what is damaged back from another copy of the store, and take a new dump now";
        return Err(Failure::new(Exit::Damaged, error).hint(hint).into());
    }
    if let Some(first) = gaps.first() {
        let error = format!("{first}{}", others(gaps.len()));
        let hint = "points inside a gap cannot be restored; `highwater status` shows those that can";
        return Err(Failure::new(Exit::Unreachable, error).hint(hint).into());
    }
    Ok(Exit::Done)
}

/// What the local catalog remembers and the store no longer has: the store was cut short or put back.
fn lost(known: &Inventory, scan: &Scan) -> Vec<String> {
    // Those that cannot be read are reported as such.
    let listed = |name: &String| scan.objects.iter().any(|object| object.key.as_str() == name);
    let tell = |difference| match difference {
        Difference::NotStored(name) if !listed(&name) => Some(format!("{name} was published and is gone")),
        Difference::Altered(name) => Some(format!("{name} is not what was published")),
        Difference::NotStored(_) | Difference::NotCatalogued(_) => None,
    };
    differences(known, &scan.inventory).into_iter().filter_map(tell).collect()
}

/// What was found.
#[derive(Debug, Default)]
struct Outcome {
    store: String,
    segments: usize,
    dump_files: usize,
    key_bundles: usize,
    files: usize,
    stored_bytes: u64,
    /// Whether plain bytes were proven, not only stored ones.
    unsealed: bool,
    damage: Vec<String>,
    gaps: Vec<String>,
    orphans: Vec<String>,
}

impl Outcome {
    fn of(archive: &Archive, scan: Scan) -> Result<Self, ArchiveError> {
        let Scan { inventory, problems, objects, .. } = scan;
        let mut outcome = Self {
            store: archive.store().describe(),
            unsealed: !archive.is_encrypted() || archive.has_identities(),
            damage: problems.iter().map(ToString::to_string).collect(),
            gaps: windows(&inventory).iter().flat_map(|window| &window.breaks).map(break_text).collect(),
            ..Self::default()
        };
        let named: BTreeSet<String> = objects_of(&inventory).iter().map(|object| object.key().to_owned()).collect();
        for object in &objects {
            let key = object.key.as_str();
            if ManifestName::recognise(key).is_none() && !named.contains(key) {
                outcome.orphans.push(key.to_owned());
            }
        }
        let total = objects_of(&inventory).iter().map(StoredFacts::stored_size).sum();
        let bar = render::bytes_bar(total, "verifying");
        outcome.check_all(archive, &inventory, &bar)?;
        bar.finish_and_clear();
        Ok(outcome)
    }

    fn check_all(&mut self, archive: &Archive, inventory: &Inventory, bar: &ProgressBar) -> Result<(), ArchiveError> {
        for segment in &inventory.segments {
            self.segments += 1;
            self.check_segment(archive, segment, bar)?;
        }
        for dump in &inventory.dumps {
            for file in &dump.files {
                self.dump_files += 1;
                self.take(check(archive, &StoredFacts::of_dump_file(dump, file), self.unsealed, None), bar)?;
            }
        }
        for keys in &inventory.keys {
            self.key_bundles += 1;
            self.take(check(archive, &StoredFacts::of_keys(keys), self.unsealed, None), bar)?;
        }
        for server in inventory.files.iter().map(|file| file.server).collect::<BTreeSet<_>>() {
            // A bundle that cannot be read is damage found above: the passwords in it are missing then.
            let keys = match self.unsealed {
                true => KeptKeys::read_sound(archive, inventory, server)?,
                false => KeptKeys::default(),
            };
            for file in inventory.files.iter().filter(|file| file.server == server) {
                self.files += 1;
                self.check_file(archive, file, &keys, bar)?;
            }
        }
        Ok(())
    }

    /// Header and body, and that the file's password opens them.
    fn check_file(
        &mut self,
        archive: &Archive,
        file: &KeptFile,
        keys: &KeptKeys,
        bar: &ProgressBar,
    ) -> Result<(), ArchiveError> {
        self.take(check(archive, &StoredFacts::of_file_header(file), self.unsealed, None), bar)?;
        if !self.unsealed {
            for facts in StoredFacts::of_file_body(file) {
                self.take(check(archive, &facts, false, None), bar)?;
            }
            return Ok(());
        }
        let body: u64 = file.objects.iter().map(|object| object.stored_size).sum();
        match prove_kept(archive, file, keys) {
            Ok(()) => self.take(Ok(body), bar),
            Err(KeepError::Archive(error)) => self.take(Err(error), bar),
            Err(error) => {
                self.damage.push(format!("{}: {error}", file.key()));
                Ok(())
            }
        }
    }

    /// Each object, and if all are sound, that they are the segment together.
    fn check_segment(&mut self, archive: &Archive, segment: &Segment, bar: &ProgressBar) -> Result<(), ArchiveError> {
        let damage_before = self.damage.len();
        let mut whole = WholeDigest::of_segment(segment);
        for facts in StoredFacts::of_segment(segment) {
            self.take(check(archive, &facts, self.unsealed, whole.as_mut()), bar)?;
        }
        match whole.filter(|_| self.unsealed && self.damage.len() == damage_before) {
            Some(whole) => self.take(whole.prove().map(|()| 0), bar),
            None => Ok(()),
        }
    }

    /// Keeps damage and goes on; anything else (a wrong identity, a store that is gone) ends the run.
    fn take(&mut self, checked: Result<u64, ArchiveError>, bar: &ProgressBar) -> Result<(), ArchiveError> {
        match checked {
            Ok(stored) => {
                self.stored_bytes += stored;
                bar.inc(stored);
                Ok(())
            }
            Err(error) if error.exit() == Exit::Damaged => {
                self.damage.push(error.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn as_text(&self) -> String {
        let mut text = String::new();
        self.damage.iter().for_each(|line| text.push_str(&format!("DAMAGED  {line}\n")));
        self.gaps.iter().for_each(|line| text.push_str(&format!("GAP      {line}\n")));
        if !self.orphans.is_empty() {
            let (count, first) = (self.orphans.len(), &self.orphans[0]);
            text.push_str(&format!(
                "note     {count} objects belong to no manifest (of interrupted writers): {first}\n"
            ));
        }
        if !self.unsealed {
            text.push_str("note     no identity was given: stored bytes were checked, but not unsealed\n");
        }
        text.push_str(&format!(
            "{}: read {} segments, {} dump files, {} key bundles and {} kept files, {}\n",
            self.store,
            self.segments,
            self.dump_files,
            self.key_bundles,
            self.files,
            render::bytes(self.stored_bytes)
        ));
        text
    }

    fn as_json(&self) -> serde_json::Value {
        json!({
            "store": self.store,
            "segments": self.segments,
            "dump_files": self.dump_files,
            "key_bundles": self.key_bundles,
            "files": self.files,
            "stored_bytes": self.stored_bytes,
            "unsealed": self.unsealed,
            "damage": self.damage,
            "gaps": self.gaps,
            "orphans": self.orphans,
        })
    }
}

/// Every data object that a manifest names.
fn objects_of(inventory: &Inventory) -> Vec<StoredFacts> {
    let segments = inventory.segments.iter().flat_map(StoredFacts::of_segment);
    let file = |dump| move |file| StoredFacts::of_dump_file(dump, file);
    let files = inventory.dumps.iter().flat_map(|dump| dump.files.iter().map(file(dump)));
    let keys = inventory.keys.iter().map(StoredFacts::of_keys);
    let headers = inventory.files.iter().map(StoredFacts::of_file_header);
    let bodies = inventory.files.iter().flat_map(StoredFacts::of_file_body);
    segments.chain(files).chain(keys).chain(headers).chain(bodies).collect()
}

/// Proves one object and returns its stored size. Its plain bytes, if they are unsealed, are part of `whole`.
fn check(
    archive: &Archive,
    facts: &StoredFacts,
    unseal: bool,
    whole: Option<&mut WholeDigest>,
) -> Result<u64, ArchiveError> {
    match (unseal, whole) {
        (false, _) => archive.check_stored(facts)?,
        (true, None) => drop(archive.read_object(facts)?.check()?),
        (true, Some(whole)) => drop(archive.read_object(facts)?.copy_to(whole).map_err(|error| match error {
            CopyError::Object(error) => error,
            CopyError::Sink(source) => ArchiveError::Read { object: facts.key().to_owned(), source },
        })?),
    }
    Ok(facts.stored_size())
}
