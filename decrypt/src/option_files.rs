//! What a server's option files (`my.cnf`) say about its keyring.
//!
//! Read are, below the root of the disk that a data folder is on, `/etc/my.cnf` and `/etc/mysql/my.cnf` with what they
//! include, and `my.cnf` in the data folder and beside it. Which folder above the data folder is the root of its disk,
//! nothing says: each of them that has option files is taken for one, and this machine's own root only where none has.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::keyring_file::read_secret_file;

/// How deep files include others: as deep as MySQL's own clients follow (`my_search_option_files`).
const DEPTH_MAX: usize = 10;

/// Files read altogether. Distributions have a dozen; more is a circle, or no configuration.
const FILES_MAX: usize = 500;

/// The places that packages agree on.
const GLOBAL: [&str; 2] = ["etc/my.cnf", "etc/mysql/my.cnf"];

/// Groups that the server reads; those of a version (`mysqld-8.4`) begin like these.
const GROUPS: [&str; 6] = ["mysqld", "server", "mariadb", "mariadbd", "mysqld_safe", "galera"];

/// The settings that say where keys are.
const NAMES: [&str; 8] = [
    "keyring_file_data",
    "keyring_vault_config",
    "early_plugin_load",
    "plugin_load",
    "plugin_load_add",
    "file_key_management_filename",
    "file_key_management_filekey",
    "file_key_management_use_pbkdf2",
];

/// One setting of a server.
pub(crate) struct Setting {
    /// One of [`NAMES`].
    pub(crate) name: &'static str,
    /// May be a password.
    pub(crate) value: Zeroizing<String>,
    /// The option file that has it.
    pub(crate) file: PathBuf,
}

/// Every setting about keys, in the order in which the server reads them.
#[derive(Default)]
pub(crate) struct OptionFiles {
    pub(crate) settings: Vec<Setting>,
    /// Option files that could not be read, for people.
    pub(crate) notes: Vec<String>,
    seen: BTreeSet<PathBuf>,
}

impl OptionFiles {
    /// Reads those of the server whose data is in `datadir`.
    pub(crate) fn of(datadir: &Path) -> Self {
        let mut files = Self::default();
        let datadir = fs::canonicalize(datadir).unwrap_or_else(|_| datadir.to_owned());
        let mut roots: Vec<&Path> = datadir.ancestors().skip(1).collect();
        let own = roots.pop();
        for root in roots {
            files.read_global(root);
        }
        if let Some(own) = own.filter(|_| files.seen.is_empty()) {
            files.read_global(own);
        }
        let beside = datadir.parent().unwrap_or(&datadir);
        for folder in [beside, &datadir] {
            files.read(&folder.join("my.cnf"), folder, 0);
        }
        files
    }

    fn read_global(&mut self, root: &Path) {
        for name in GLOBAL {
            self.read(&root.join(name), root, 0);
        }
    }

    /// Reads a file, once, and what it includes below `root`. Absent ones are none.
    fn read(&mut self, path: &Path, root: &Path, depth: usize) {
        if depth > DEPTH_MAX || self.seen.len() >= FILES_MAX || !path.is_file() || self.seen.contains(path) {
            return;
        }
        self.seen.insert(path.to_owned());
        let bytes = match read_secret_file(path) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return,
            Err(error) => return self.notes.push(format!("{}: {error}", path.display())),
        };
        let mut of_server = false;
        for line in bytes.split(|byte| *byte == b'\n') {
            let Ok(line) = std::str::from_utf8(line).map(str::trim) else { continue };
            if let Some(group) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                of_server = is_of_server(group.trim());
            } else if let Some(folder) = line.strip_prefix("!includedir") {
                self.read_folder(&below(root, path, folder.trim()), root, depth);
            } else if let Some(file) = line.strip_prefix("!include") {
                self.read(&below(root, path, file.trim()), root, depth + 1);
            } else if of_server && let Some((name, value)) = setting(line) {
                self.settings.push(Setting { name, value: Zeroizing::new(value), file: path.to_owned() });
            }
        }
    }

    /// Reads the `*.cnf` of a folder, in the order of their names.
    fn read_folder(&mut self, folder: &Path, root: &Path, depth: usize) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "cnf"));
        files.sort();
        for file in files {
            self.read(&file, root, depth + 1);
        }
    }
}

fn is_of_server(group: &str) -> bool {
    GROUPS
        .iter()
        .any(|known| group.strip_prefix(known).is_some_and(|version| version.is_empty() || version.starts_with('-')))
}

/// A path of an option file as it is below the root of the disk; a relative one is beside the file.
fn below(root: &Path, file: &Path, path: &str) -> PathBuf {
    match Path::new(path).strip_prefix("/") {
        Ok(path) => root.join(path),
        Err(_) => file.with_file_name(path),
    }
}

/// `name = value` of a setting about keys. `-` and `_` are the same in names, and `loose_` may precede them.
fn setting(line: &str) -> Option<(&'static str, String)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim().replace('-', "_");
    let name = name.strip_prefix("loose_").unwrap_or(&name);
    let name = NAMES.into_iter().find(|known| *known == name)?;
    Some((name, value_of(value.trim())))
}

/// Without quotes, and without the comment after it.
fn value_of(text: &str) -> String {
    for quote in ['"', '\''] {
        if let Some((value, _)) = text.strip_prefix(quote).and_then(|rest| rest.split_once(quote)) {
            return value.to_owned();
        }
    }
    let end = text.match_indices('#').map(|(at, _)| at).find(|at| text[..*at].ends_with([' ', '\t']));
    text[..end.unwrap_or(text.len())].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn found(datadir: &Path) -> Vec<(&'static str, String)> {
        OptionFiles::of(datadir).settings.iter().map(|s| (s.name, s.value.as_str().to_owned())).collect()
    }

    #[test]
    fn files_are_read_below_the_root_of_the_disk_with_all_they_include() {
        let disk = tempfile::tempdir().unwrap();
        let root = disk.path();
        let datadir = root.join("var/lib/mysql");
        fs::create_dir_all(&datadir).unwrap();
        write(&root.join("etc/my.cnf"), "[mysqld]\nkeyring_file_data=/first\n");
        let main = "[client]\nkeyring_file_data=/not-this\n!includedir /etc/mysql/conf.d/\n!include extra.cnf\n";
        write(&root.join("etc/mysql/my.cnf"), main);
        write(&root.join("etc/mysql/conf.d/b.cnf"), "[mysqld-8.4]\nkeyring-file-data = '/third # x' # comment\n");
        write(&root.join("etc/mysql/conf.d/a.cnf"), "[server]\nloose-early-plugin-load=keyring_file.so # it\n");
        write(&root.join("etc/mysql/conf.d/c.txt"), "[mysqld]\nkeyring_file_data=/not-this\n");
        write(&root.join("etc/mysql/extra.cnf"), "[mariadb]\nfile_key_management_filekey = \"a#b\"\n");
        write(&root.join("var/lib/my.cnf"), "[mysqld]\nkeyring_file_data=keys\n!include /var/lib/my.cnf\n");
        let expected = [
            ("keyring_file_data", "keys"),
            ("keyring_file_data", "/first"),
            ("early_plugin_load", "keyring_file.so"),
            ("keyring_file_data", "/third # x"),
            ("file_key_management_filekey", "a#b"),
        ];
        let mut found = found(&datadir);
        // The file beside the data folder comes last, as the one that overrules the others.
        found.rotate_right(1);
        assert_eq!(found, expected.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn files_that_include_each_other_and_bytes_that_are_no_text_end() {
        let disk = tempfile::tempdir().unwrap();
        let datadir = disk.path().join("data");
        fs::create_dir_all(&datadir).unwrap();
        write(&disk.path().join("etc/my.cnf"), "!includedir /etc\n[mysqld]\nkeyring_file_data=/keys\n");
        write(&disk.path().join("etc/other.cnf"), "!include /etc/my.cnf\n!include /etc/other.cnf\n!include\n[");
        fs::write(datadir.join("my.cnf"), b"[mysqld]\n\xff\xfe=\nkeyring_file_data=/last\n=\n[mysqld\n").unwrap();
        let expected = [("keyring_file_data", "/keys"), ("keyring_file_data", "/last")];
        assert_eq!(found(&datadir), expected.map(|(name, value)| (name, value.to_owned())));
    }
}
