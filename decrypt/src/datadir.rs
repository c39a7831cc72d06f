//! The keyring of a data folder, found the way its server found it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::keyring_file::existing;

/// `mysqld.my`: the components loaded at start, several separated by commas or semicolons.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    components: String,
}

/// `component_keyring_file.cnf`
#[derive(Deserialize)]
struct ComponentConfig {
    path: PathBuf,
}

/// What a data folder says about its keyring.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Files that may be its keyring.
    pub(crate) keyrings: Vec<PathBuf>,
    /// What stands in the way, for people.
    pub(crate) notes: Vec<String>,
}

/// Looks for the keyring of the server whose data is in `datadir`.
///
/// The folder may be a dead server's disk mounted elsewhere, so an absolute path in the configuration is looked for
/// below each folder above `datadir` too.
pub(crate) fn find(datadir: &Path) -> Found {
    let mut found = Found::default();
    if !datadir.is_dir() {
        found.notes.push(format!("{} is not a folder", datadir.display()));
        return found;
    }
    match read_json::<Manifest>(&datadir.join("mysqld.my")) {
        Ok(Some(manifest)) => note_other_components(&manifest, &mut found.notes),
        Ok(None) => {}
        Err(note) => found.notes.push(note),
    }
    match read_json::<ComponentConfig>(&datadir.join("component_keyring_file.cnf")) {
        Ok(Some(config)) => {
            found.keyrings = existing(places_of(&config.path, datadir));
            if found.keyrings.is_empty() {
                let path = config.path.display();
                found.notes.push(format!("{} names the keyring {path}, which is not there", datadir.display()));
            }
            return found;
        }
        Ok(None) => {}
        Err(note) => found.notes.push(note),
    }
    // Without a configuration: where packages put the plugin's file (keyring_file_data) and the component's.
    let beside = datadir.parent().unwrap_or(datadir).join("mysql-keyring");
    let usual = [
        beside.join("keyring"),
        beside.join("component_keyring_file"),
        datadir.join("keyring"),
        datadir.join("component_keyring_file"),
    ];
    found.keyrings = existing(usual);
    if found.keyrings.is_empty() {
        found.notes.push(format!("{} has no component_keyring_file.cnf and no keyring", datadir.display()));
    }
    found
}

/// Where a path of the server's configuration may be on this machine.
fn places_of(path: &Path, datadir: &Path) -> Vec<PathBuf> {
    let datadir = fs::canonicalize(datadir).unwrap_or_else(|_| datadir.to_owned());
    let mut places = Vec::new();
    match path.strip_prefix("/") {
        Ok(below) => {
            places.extend(
                datadir.ancestors().filter(|folder| folder.parent().is_some()).map(|folder| folder.join(below)),
            );
            places.push(path.to_owned());
        }
        // The server's working directory is its data folder.
        Err(_) => places.push(datadir.join(path)),
    }
    if let Some(name) = path.file_name() {
        places.push(datadir.join(name));
    }
    places
}

fn note_other_components(manifest: &Manifest, notes: &mut Vec<String>) {
    for component in manifest.components.split([',', ';']) {
        let name = component.trim().trim_start_matches("file://");
        if name.contains("keyring") && name != "component_keyring_file" {
            notes.push(format!("the server kept its keys with {name}, which is not read directly"));
        }
    }
}

/// A small JSON file; none if it does not exist. The error is for people.
fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, String> {
    match fs::read(path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            // Configurations of other components carry passwords; the parser's message could quote them.
            Err(error) => Err(format!("{}: not understood at line {}", path.display(), error.line())),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_path_is_found_below_the_mount_point() {
        let disk = tempfile::tempdir().unwrap();
        let root = disk.path().canonicalize().unwrap();
        let datadir = root.join("var/lib/mysql");
        fs::create_dir_all(&datadir).unwrap();
        fs::create_dir_all(root.join("etc/keys-of-a-test")).unwrap();
        fs::write(root.join("etc/keys-of-a-test/keyring"), "").unwrap();
        fs::write(
            datadir.join("component_keyring_file.cnf"),
            r#"{"path":"/etc/keys-of-a-test/keyring","read_only":false}"#,
        )
        .unwrap();
        assert_eq!(find(&datadir).keyrings, [root.join("etc/keys-of-a-test/keyring")]);
    }

    #[test]
    fn a_relative_path_is_below_the_data_folder_and_a_backup_counts() {
        let folder = tempfile::tempdir().unwrap();
        let datadir = folder.path().canonicalize().unwrap();
        fs::write(datadir.join("component_keyring_file.cnf"), r#"{"path":"keys"}"#).unwrap();
        let found = find(&datadir);
        assert!(found.keyrings.is_empty() && found.notes[0].contains("names the keyring keys"), "{found:?}");
        fs::write(datadir.join("keys.backup"), "{}").unwrap();
        assert_eq!(find(&datadir).keyrings, [datadir.join("keys")]);
    }

    #[test]
    fn a_component_that_is_not_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = r#"{"components": "file://component_validate_password,file://component_keyring_hashicorp"}"#;
        fs::write(folder.path().join("mysqld.my"), manifest).unwrap();
        let notes = find(folder.path()).notes.join("\n");
        assert!(notes.contains("component_keyring_hashicorp") && !notes.contains("validate"), "{notes}");
    }

    #[test]
    fn without_a_configuration_the_usual_places_are_looked_at() {
        let disk = tempfile::tempdir().unwrap();
        let datadir = disk.path().join("mysql");
        fs::create_dir_all(&datadir).unwrap();
        fs::create_dir_all(disk.path().join("mysql-keyring")).unwrap();
        fs::write(disk.path().join("mysql-keyring/keyring"), "").unwrap();
        assert_eq!(find(&datadir).keyrings, [disk.path().join("mysql-keyring/keyring")]);
    }
}
