//! The keyring of a data folder, found the way its server found it.
//!
//! Looked at are, in this order: `mysqld.my` (which components there are), `component_keyring_vault.cnf`,
//! `component_keyring_file.cnf` in the data folder and in the plug-in folders, `component_percona_keyring_encrypted_file.cnf`,
//! `mysqld-auto.cnf`, the option files, and, where none of these names a keyring, the places where packages put it. All
//! that is found is used: what a key opens decides, not where it was.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::keyring_file::{existing, read_secret_file};
use crate::option_files::{OptionFiles, Setting};

/// Where packages put components, and with them the configuration that counts where a data folder has none.
const PLUGIN_FOLDERS: [&str; 4] =
    ["/usr/lib/mysql/plugin", "/usr/lib64/mysql/plugin", "/usr/local/mysql/lib/plugin", "/usr/lib/mysql/plugins"];

/// `mysqld.my`: the components loaded at start, several separated by commas or semicolons.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    components: String,
}

/// `component_keyring_file.cnf`
#[derive(Deserialize)]
struct ComponentConfig {
    path: Option<PathBuf>,
}

/// `component_percona_keyring_encrypted_file.cnf`: one of the two passwords.
#[derive(Deserialize)]
struct PerconaConfig {
    path: PathBuf,
    password: Option<String>,
    password_file: Option<PathBuf>,
}

/// Passwords of keyrings.
#[derive(Default)]
pub(crate) struct Passwords(pub(crate) Vec<Zeroizing<Vec<u8>>>);

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Passwords({})", self.0.len())
    }
}

/// What a data folder says about its keyring.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Files that may be its keyring.
    pub(crate) keyrings: Vec<PathBuf>,
    /// What opens them.
    pub(crate) passwords: Passwords,
    /// Iterations of PBKDF2 that MariaDB's server was told to use.
    pub(crate) iterations: Vec<u32>,
    /// Configurations of the component that keeps keys in a Vault.
    #[cfg(feature = "vault")]
    pub(crate) vaults: Vec<PathBuf>,
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
    let configs = [component_config(datadir), percona_config(datadir, &mut found), persisted_config(datadir)];
    let mut configured = false;
    let vault = datadir.join("component_keyring_vault.cnf");
    if vault.is_file() {
        configured = true;
        #[cfg(feature = "vault")]
        found.vaults.push(vault);
        #[cfg(not(feature = "vault"))]
        found.notes.push(no_network(&vault));
    }
    for config in configs {
        match config {
            Ok(Some(path)) => {
                configured = true;
                let places = existing(places_of(&path, datadir));
                if places.is_empty() {
                    let path = path.display();
                    found.notes.push(format!("{} names the keyring {path}, which is not there", datadir.display()));
                }
                found.keyrings.extend(places);
            }
            Ok(None) => {}
            Err(note) => found.notes.push(note),
        }
    }
    let options = OptionFiles::of(datadir);
    found.notes.extend(options.notes);
    for setting in &options.settings {
        configured |= found.add_setting(setting, datadir);
    }
    if configured {
        return found;
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
        found.notes.push(format!(
            "{} has no component_keyring_file.cnf, no option file names a keyring, and there is none",
            datadir.display()
        ));
    }
    found
}

impl Found {
    /// Takes a setting of an option file; whether it names a place of keys.
    fn add_setting(&mut self, setting: &Setting, datadir: &Path) -> bool {
        let Setting { name, value, file } = setting;
        match *name {
            "keyring_file_data" | "file_key_management_filename" => {
                let places = existing(places_of(Path::new(value.as_str()), datadir));
                if places.is_empty() {
                    let (file, path) = (file.display(), value.as_str());
                    self.notes.push(format!("{file} names the keyring {path}, which is not there"));
                }
                self.keyrings.extend(places);
                true
            }
            "keyring_vault_config" => {
                let configs = places_of(Path::new(value.as_str()), datadir).into_iter().filter(|path| path.is_file());
                #[cfg(feature = "vault")]
                self.vaults.extend(configs.take(1));
                #[cfg(not(feature = "vault"))]
                self.notes.extend(configs.map(|path| no_network(&path)).take(1));
                true
            }
            "file_key_management_filekey" => {
                self.add_filekey(value, datadir);
                false
            }
            "file_key_management_use_pbkdf2" => {
                self.iterations.extend(value.parse::<u32>().ok().filter(|iterations| *iterations > 0));
                false
            }
            _ => {
                note_other_plugins(value, &mut self.notes);
                false
            }
        }
    }

    /// The password of MariaDB's key file: in a file, whose line end does not count, or there as it is.
    fn add_filekey(&mut self, value: &str, datadir: &Path) {
        let Some(path) = value.strip_prefix("FILE:") else {
            return self.passwords.0.push(Zeroizing::new(value.as_bytes().to_vec()));
        };
        for place in places_of(Path::new(path), datadir) {
            match read_secret_file(&place) {
                Ok(Some(mut password)) => {
                    while let Some(b'\r' | b'\n') = password.last() {
                        password.pop();
                    }
                    self.passwords.0.push(password);
                }
                Ok(None) => {}
                Err(error) => self.notes.push(format!("{}: {error}", place.display())),
            }
        }
    }
}

/// The path in the data folder's configuration of `component_keyring_file`, or in the one of the whole installation.
fn component_config(datadir: &Path) -> Result<Option<PathBuf>, String> {
    let name = Path::new("component_keyring_file.cnf");
    let mut places = vec![datadir.join(name)];
    for folder in PLUGIN_FOLDERS {
        places.extend(places_of(&Path::new(folder).join(name), datadir));
    }
    for place in places {
        // One without a path only says that the data folder's counts.
        if let Some(ComponentConfig { path: Some(path) }) = read_json::<ComponentConfig>(&place)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The path in the configuration of Percona's component, whose password is added to what was found.
fn percona_config(datadir: &Path, found: &mut Found) -> Result<Option<PathBuf>, String> {
    let name = "component_percona_keyring_encrypted_file.cnf";
    let Some(config) = read_json::<PerconaConfig>(&datadir.join(name))? else { return Ok(None) };
    if let Some(password) = config.password {
        found.passwords.0.push(Zeroizing::new(password.into_bytes()));
    }
    for file in config.password_file.iter().flat_map(|file| places_of(file, datadir)) {
        match read_secret_file(&file) {
            Ok(Some(password)) => found.passwords.0.push(password),
            Ok(None) => {}
            Err(error) => found.notes.push(format!("{}: {error}", file.display())),
        }
    }
    Ok(Some(config.path))
}

/// `keyring_file_data` of the plugin, where it was set with `SET PERSIST_ONLY`.
fn persisted_config(datadir: &Path) -> Result<Option<PathBuf>, String> {
    let Some(settings) = read_json::<serde_json::Value>(&datadir.join("mysqld-auto.cnf"))? else { return Ok(None) };
    Ok(named(&settings, "keyring_file_data").map(PathBuf::from))
}

/// The text that a setting has somewhere in `mysqld-auto.cnf`, whose layout changed between versions.
fn named<'a>(value: &'a serde_json::Value, name: &str) -> Option<&'a str> {
    let members = value.as_object()?;
    if let Some(setting) = members.get(name) {
        return setting.as_str().or_else(|| setting.get("Value")?.as_str());
    }
    members.values().find_map(|member| named(member, name))
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

#[cfg(not(feature = "vault"))]
fn no_network(config: &Path) -> String {
    format!("{} names a Vault, and this build asks none: build it with `--features vault`", config.display())
}

/// Plug-ins whose keyrings only their server reads, out of `NAME=LIBRARY;...` or `LIBRARY;...`.
fn note_other_plugins(list: &str, notes: &mut Vec<String>) {
    for plugin in list.split([';', ',']) {
        let library = plugin.rsplit('=').next().unwrap_or_default().trim().trim_end_matches(".so");
        if !library.starts_with("keyring_") || ["keyring_file", "keyring_vault", "keyring_udf"].contains(&library) {
            continue;
        }
        notes.push(format!(
            "the server kept its keys with {library}, which only its server reads: mysqld \
             --keyring-migration-source={library}.so --keyring-migration-destination=keyring_file.so \
             --keyring-file-data=FILE makes a keyring that is read here"
        ));
    }
}

fn note_other_components(manifest: &Manifest, notes: &mut Vec<String>) {
    for component in manifest.components.split([',', ';']) {
        let name = component.trim().trim_start_matches("file://");
        let read = ["component_keyring_file", "component_percona_keyring_encrypted_file", "component_keyring_vault"];
        if !name.contains("keyring") || read.contains(&name) {
            continue;
        }
        notes.push(format!(
            "the server kept its keys with {name}, which only its server reads: \
             mysql_migrate_keyring --source-keyring={name} --destination-keyring=component_keyring_file \
             --component-dir=DIR makes a keyring that is read here"
        ));
    }
}

/// A small JSON file; none if it does not exist. The error is for people.
fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, String> {
    // Some of them hold a password.
    let Some(bytes) = read_secret_file(path).map_err(|error| format!("{}: {error}", path.display()))? else {
        return Ok(None);
    };
    // The parser's message could quote it.
    let value = serde_json::from_slice(&bytes);
    value.map(Some).map_err(|error| format!("{}: not understood at line {}", path.display(), error.line()))
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
