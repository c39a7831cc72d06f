//! The keyring of a data folder, found the way its server found it.
//!
//! Looked at are, in this order: `mysqld.my` in the data folder and beside `mysqld` (which components there are), the
//! components' configurations in the data folder and in the plug-in folders, `mysqld-auto.cnf`, the option files, and,
//! where none of these names a keyring, the places where packages put it. All that is found is used: what a key opens
//! decides, not where it was.

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

/// Where packages put `mysqld`, and with it the manifest of the whole installation.
const PROGRAM_FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/usr/libexec", "/usr/local/mysql/bin"];

/// Components whose keyrings only their server reads, each with a configuration `NAME.cnf`.
const OTHER_COMPONENTS: [&str; 6] = [
    "component_keyring_encrypted_file",
    "component_keyring_oci",
    "component_keyring_aws",
    "component_keyring_kmip",
    "component_keyring_kms",
    "component_keyring_hashicorp",
];

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
    note_other_components(datadir, &mut found.notes);
    let mut configs = component_configs(datadir);
    configs.extend(percona_configs(datadir, &mut found));
    configs.push(persisted_config(datadir));
    let mut configured = false;
    for vault in of_component(datadir, "component_keyring_vault.cnf") {
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
                found.add_keyrings(places);
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
    fn add_keyrings(&mut self, places: Vec<PathBuf>) {
        for place in places {
            if !self.keyrings.contains(&place) {
                self.keyrings.push(place);
            }
        }
    }

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
                self.add_keyrings(places);
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

/// Files of a component's configuration: in the data folder and, for the whole installation, in the plug-in folders.
fn of_component(datadir: &Path, name: &str) -> Vec<PathBuf> {
    let mut places = vec![datadir.join(name)];
    for folder in PLUGIN_FOLDERS {
        places.extend(places_below(&Path::new(folder).join(name), datadir));
    }
    places.retain(|path| path.is_file());
    places
}

/// A path out of a configuration, none if it has none, or why that is not understood.
type Configured = Result<Option<PathBuf>, String>;

/// The paths in the configurations of `component_keyring_file`. Which of them the server took, it alone knows: a file in
/// the data folder may be a forgotten one.
fn component_configs(datadir: &Path) -> Vec<Configured> {
    let places = of_component(datadir, "component_keyring_file.cnf").into_iter();
    // One without a path only says that the data folder's counts.
    places.map(|place| Ok(read_json::<ComponentConfig>(&place)?.and_then(|config| config.path))).collect()
}

/// The paths in the configurations of Percona's component, whose passwords are added to what was found.
fn percona_configs(datadir: &Path, found: &mut Found) -> Vec<Configured> {
    let places = of_component(datadir, "component_percona_keyring_encrypted_file.cnf").into_iter();
    places.map(|place| percona_config(&place, datadir, found)).collect()
}

fn percona_config(place: &Path, datadir: &Path, found: &mut Found) -> Configured {
    let Some(config) = read_json::<PerconaConfig>(place)? else { return Ok(None) };
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

/// An absolute path below each folder above the data folder, and as it stands.
fn places_below(path: &Path, datadir: &Path) -> Vec<PathBuf> {
    let datadir = fs::canonicalize(datadir).unwrap_or_else(|_| datadir.to_owned());
    let below = path.strip_prefix("/").unwrap_or(path);
    let above = datadir.ancestors().filter(|folder| folder.parent().is_some());
    above.map(|folder| folder.join(below)).chain([path.to_owned()]).collect()
}

/// Where a path of the server's configuration may be on this machine.
fn places_of(path: &Path, datadir: &Path) -> Vec<PathBuf> {
    let mut places = if path.is_absolute() { places_below(path, datadir) } else { Vec::new() };
    let datadir = fs::canonicalize(datadir).unwrap_or_else(|_| datadir.to_owned());
    if path.is_relative() {
        // The server's working directory is its data folder.
        places.push(datadir.join(path));
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
             --keyring-migration-source={library}.so --keyring-migration-to-component, with component_keyring_file in \
             mysqld.my, makes a keyring that is read here (before 8.0.24: --keyring-migration-destination=keyring_file.so \
             --keyring-file-data=FILE)"
        ));
    }
}

/// Components whose keyrings only their server reads: those that a manifest loads, and those that are configured. The
/// manifest is beside `mysqld`; one in the data folder counts where that says so.
fn note_other_components(datadir: &Path, notes: &mut Vec<String>) {
    let mut components = Vec::new();
    let global = PROGRAM_FOLDERS.iter().flat_map(|folder| places_below(&Path::new(folder).join("mysqld.my"), datadir));
    for manifest in std::iter::once(datadir.join("mysqld.my")).chain(global) {
        match read_json::<Manifest>(&manifest) {
            Ok(Some(manifest)) => {
                let names = manifest.components.split([',', ';']);
                components.extend(names.map(|name| name.trim().trim_start_matches("file://").to_owned()));
            }
            Ok(None) => {}
            Err(note) => notes.push(note),
        }
    }
    let configured =
        OTHER_COMPONENTS.into_iter().filter(|name| !of_component(datadir, &format!("{name}.cnf")).is_empty());
    components.extend(configured.map(str::to_owned));
    components.sort();
    components.dedup();
    let read = ["component_keyring_file", "component_percona_keyring_encrypted_file", "component_keyring_vault"];
    for name in components.iter().filter(|name| name.contains("keyring") && !read.contains(&name.as_str())) {
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
    fn the_installation_s_configuration_counts_beside_a_forgotten_one_in_the_data_folder() {
        let disk = tempfile::tempdir().unwrap();
        let root = disk.path().canonicalize().unwrap();
        let (datadir, plugins) = (root.join("var/lib/mysql"), root.join("usr/lib64/mysql/plugin"));
        for folder in [&datadir, &plugins, &root.join("keys"), &root.join("usr/sbin")] {
            fs::create_dir_all(folder).unwrap();
        }
        for name in ["old", "new", "percona"] {
            fs::write(root.join("keys").join(name), "").unwrap();
        }
        fs::write(datadir.join("component_keyring_file.cnf"), r#"{"path":"/keys/old"}"#).unwrap();
        fs::write(plugins.join("component_keyring_file.cnf"), r#"{"path":"/keys/new"}"#).unwrap();
        let percona = r#"{"path":"/keys/percona","password":"secret"}"#;
        fs::write(plugins.join("component_percona_keyring_encrypted_file.cnf"), percona).unwrap();
        fs::write(plugins.join("component_keyring_kmip.cnf"), "{}").unwrap();
        fs::write(root.join("usr/sbin/mysqld.my"), r#"{"components": "file://component_keyring_oci"}"#).unwrap();
        let found = find(&datadir);
        assert_eq!(found.keyrings, ["old", "new", "percona"].map(|name| root.join("keys").join(name)));
        assert_eq!(found.passwords.0.len(), 1);
        let notes = found.notes.join("\n");
        assert!(notes.contains("component_keyring_kmip") && notes.contains("component_keyring_oci"), "{notes}");
        assert_eq!(found.notes.len(), 2, "{notes}");
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
