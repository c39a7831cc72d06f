//! Every kind of keyring, given by name or found from a data folder.

use std::fs;
use std::path::Path;

use binlog_decrypt::{KeyPlaces, Keys};
use highwater_keyring::{FileKey, FileMark, FilePassword, KeyBundle, Keyring, MasterKey};
use sha2::{Digest, Sha256};

use crate::support::{FILE_PASSWORD, Folder, KEY_HEX, KEY_ID, Run, encrypted, text, transactions};

fn keyring() -> Keyring {
    let mut keyring = Keyring::new();
    keyring.insert(KEY_ID.parse().unwrap(), MasterKey::from_hex(KEY_HEX.as_bytes()).unwrap());
    keyring
}

/// A folder with an encrypted file, and its plaintext.
fn scene() -> (Folder, std::path::PathBuf, Vec<u8>) {
    let folder = Folder::new();
    let (plain, _) = transactions(1..4);
    let file = folder.write("binlog.000001", encrypted(&plain));
    (folder, file, plain)
}

fn opens(arguments: &[&str], file: &Path, plain: &[u8]) {
    let run = Run::new(&[arguments, &[text(file)]].concat());
    assert_eq!((run.code(), run.stderr().as_str()), (0, ""), "{arguments:?}");
    assert!(run.bytes() == plain);
}

/// The file of Percona's component under `password`: by `openssl enc`, with a key of PBKDF2 made by `openssl kdf`.
fn percona(folder: &Folder, password: &str) -> Vec<u8> {
    let json = folder.write("json", keyring().to_component_file());
    let (salt, iv) = ("11".repeat(32), "22".repeat(16));
    let script = format!(
        "key=$(openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt pass:'{password}' -kdfopt hexsalt:{salt} \
         -kdfopt iter:5000 PBKDF2 | tr -d ':\n') && openssl enc -aes-256-cbc -K \"$key\" -iv {iv} -in {}",
        json.display()
    );
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_file(json).unwrap();
    [&[1][..], &[0x11; 32], &5000u32.to_be_bytes(), &[0x22; 16], &output.stdout].concat()
}

#[test]
fn perconas_encrypted_keyring_opens_with_its_password_given_or_configured() {
    let (folder, file, plain) = scene();
    let keyring = folder.write("keyring", percona(&folder, "pass word"));
    let right = folder.write("right", "pass word\n");
    let wrong = folder.write("wrong", "password");
    let (wrong, right) = (text(&wrong), text(&right));
    opens(&["--keyring", text(&keyring), "--keyring-password", wrong, "--keyring-password", right], &file, &plain);
    let stderr = Run::new(&["--keyring", text(&keyring), text(&file)]).fails_with(3, &folder);
    assert!(stderr.contains("protected by a password") && stderr.contains("hint: give the file"), "{stderr}");
    let run = Run::new(&["--keyring", text(&keyring), "--keyring-password", wrong, text(&file)]);
    assert!(run.fails_with(3, &folder).contains("does not open with this password"), "{}", run.stderr());

    for member in ["\"password\": \"pass word\"".to_owned(), format!("\"password_file\": {:?}", folder.path("secret"))]
    {
        folder.write("secret", "pass word");
        let config = format!("{{\"path\": {keyring:?}, \"read_only\": false, {member}}}");
        folder.write("data/component_percona_keyring_encrypted_file.cnf", config);
        opens(&["--datadir", text(&folder.path("data"))], &file, &plain);
    }
}

#[test]
fn bundles_of_an_archive_open_files_by_key_and_by_file_password() {
    let (folder, file, plain) = scene();
    let uuid = "00508583-b5ce-11e8-a6a5-0010e0734796";
    let bundle = KeyBundle::new(uuid, 1, keyring()).unwrap().encode();
    let open = folder.write("bundle.json", &*bundle);
    opens(&["--keyring", text(&open)], &file, &plain);

    // The master key is gone; the file's own password was kept.
    let mark = FileMark::of_body(&fs::read(&file).unwrap()[512..]).unwrap();
    let password = FilePassword::from_slice(&FILE_PASSWORD).unwrap();
    let kept = FileKey { mark, binlog: "binlog.000001".into(), password };
    let bundle = KeyBundle::new(uuid, 1, Keyring::new()).unwrap().with_files(vec![kept]).encode();
    let compressed = zstd::encode_all(&bundle[..], 3).unwrap();
    let unsealed = folder.write("bundle.zst", &compressed);
    opens(&["--keyring", text(&unsealed)], &file, &plain);
    // Its header is damaged: what tells the file apart is behind it.
    let mut bytes = fs::read(&file).unwrap();
    bytes[4..100].fill(0xee);
    let headless = folder.write("headless", &bytes);
    opens(&["--keyring", text(&unsealed)], &headless, &plain);
    bytes[512] ^= 1;
    let other = folder.write("headless", &bytes);
    let stderr = Run::new(&["--keyring", text(&unsealed), text(&other)]).fails_with(4, &folder);
    assert!(stderr.starts_with("error: DIR/headless: ") && stderr.contains("bundles of keys"), "{stderr}");
    let stderr = Run::new(&["--inspect", text(&other)]).fails_with(4, &folder);
    assert!(stderr.starts_with("error: DIR/headless: "), "{stderr}");
    let renamed = folder.path("other-name");
    fs::rename(&file, &renamed).unwrap();
    opens(&["--keyring", text(&unsealed)], &renamed, &plain);

    let identity = age::x25519::Identity::generate();
    let sealed = age::encrypt(&identity.to_public(), &compressed).unwrap();
    let sealed = folder.write("bundle.zst.age", sealed);
    let secret = age::secrecy::ExposeSecret::expose_secret(&identity.to_string()).to_owned();
    let given = folder.write("identity", format!("# ours\n{secret}\n"));
    opens(&["--keyring", text(&sealed), "--identity", text(&given)], &renamed, &plain);
    let stderr = Run::new(&["--keyring", text(&sealed), text(&renamed)]).fails_with(3, &folder);
    assert!(stderr.contains("no identity was given"), "{stderr}");
    let other = age::x25519::Identity::generate().to_string();
    let other = folder.write("other", age::secrecy::ExposeSecret::expose_secret(&other));
    let run = Run::new(&["--keyring", text(&sealed), "--identity", text(&other), text(&renamed)]);
    assert!(run.fails_with(3, &folder).contains("sealed to another identity"), "{}", run.stderr());
}

#[test]
fn one_keyring_with_keys_of_several_servers_opens_the_files_of_each() {
    let (folder, file, plain) = scene();
    let mut all = keyring();
    for n in 1..9 {
        let id = format!("MySQLReplicationKey_{n}0508583-b5ce-11e8-a6a5-0010e0734796_1");
        all.insert(id.parse().unwrap(), MasterKey::from_slice(&[n; 32]).unwrap());
    }
    let path = folder.write("keyring", all.to_component_file());
    opens(&["--keyring", text(&path)], &file, &plain);
}

#[test]
fn a_data_folder_leads_to_the_plugins_keyring_that_was_persisted() {
    let (folder, file, plain) = scene();
    let path = folder.keyring("elsewhere/keyring", KEY_HEX);
    for settings in [
        format!(
            r#"{{"Version":2,"mysql_static_variables":{{"keyring_file_data":{{"Value":{path:?},"Metadata":{{}}}}}}}}"#
        ),
        format!(r#"{{"Version":1,"mysql_server":{{"keyring_file_data":{path:?}}}}}"#),
    ] {
        folder.write("data/mysqld-auto.cnf", settings);
        opens(&["--datadir", text(&folder.path("data"))], &file, &plain);
    }
}

#[test]
fn option_files_lead_to_the_plugins_keyring_below_the_root_of_the_disk() {
    let (folder, file, plain) = scene();
    folder.keyring("disk/var/lib/keys/keyring", KEY_HEX);
    fs::create_dir_all(folder.path("disk/var/lib/mysql")).unwrap();
    let datadir = folder.path("disk/var/lib/mysql");
    let stderr = Run::new(&["--datadir", text(&datadir), text(&file)]).fails_with(3, &folder);
    assert!(stderr.contains("no option file names a keyring"), "{stderr}");
    folder.write("disk/etc/mysql/my.cnf", "!includedir /etc/mysql/conf.d\n");
    let settings = "[mysqld]\nearly-plugin-load=keyring_file.so\nkeyring_file_data=/var/lib/keys/keyring\n";
    folder.write("disk/etc/mysql/conf.d/keyring.cnf", settings);
    opens(&["--datadir", text(&datadir)], &file, &plain);

    folder.write("disk/etc/mysql/conf.d/keyring.cnf", "[mysqld]\nkeyring_file_data=/moved/keyring\n");
    let stderr = Run::new(&["--datadir", text(&datadir), text(&file)]).fails_with(3, &folder);
    assert!(stderr.contains("keyring.cnf names the keyring /moved/keyring, which is not there"), "{stderr}");
    let settings = "[mysqld]\nearly-plugin-load=keyring_okv=keyring_okv.so\n";
    folder.write("disk/etc/mysql/conf.d/keyring.cnf", settings);
    let stderr = Run::new(&["--datadir", text(&datadir), text(&file)]).fails_with(3, &folder);
    assert!(stderr.contains("mysqld --keyring-migration-source=keyring_okv.so"), "{stderr}");
    folder.write("disk/var/lib/my.cnf", "[server]\nkeyring-file-data = ../keys/keyring\n");
    opens(&["--datadir", text(&datadir)], &file, &plain);
}

/// A file of the `keyring_file` plugin with keys of this id, as a server with words of `size` bytes in this order writes
/// it. Version 2 ends with a digest.
fn plugin_file(version: u8, size: usize, is_big: bool, keys: &[(&str, &str)]) -> Vec<u8> {
    const OBFUSCATION: &[u8; 24] = b"*305=Ljt0*!@$Hnm(*-9-w;:";
    let word = |number: usize| match is_big {
        true => (number as u64).to_be_bytes()[8 - size..].to_vec(),
        false => (number as u64).to_le_bytes()[..size].to_vec(),
    };
    let mut records = Vec::new();
    for (id, hex) in keys {
        let value: Vec<u8> =
            (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect();
        let used = 5 * size + id.len() + 3 + value.len();
        let total = used.next_multiple_of(size);
        records.extend([total, id.len(), 3, 0, value.len()].into_iter().flat_map(word));
        records.extend(id.bytes().chain(*b"AES"));
        records.extend(value.iter().enumerate().map(|(n, byte)| byte ^ OBFUSCATION[n % 24]));
        records.resize(records.len() + total - used, 0);
    }
    let digest = if version == 2 { Sha256::digest(&records).to_vec() } else { Vec::new() };
    [format!("Keyring file version:{version}.0").as_bytes(), &records, b"EOF", &digest].concat()
}

/// Another key's bytes under the same id.
const OTHER_HEX: &str = "0707070707070707070707070707070707070707070707070707070707070707";

#[test]
fn the_plugins_keyrings_of_every_version_and_machine_open_the_file() {
    let (folder, file, plain) = scene();
    let other = KEY_ID.replace("_1", "_22");
    for (version, size, is_big) in
        [1, 2].into_iter().flat_map(|v| [(v, 8, false), (v, 8, true), (v, 4, false), (v, 4, true)])
    {
        let keyring = plugin_file(version, size, is_big, &[(&other, OTHER_HEX), (KEY_ID, KEY_HEX)]);
        let keyring = folder.write("keyring", keyring);
        opens(&["--keyring", text(&keyring)], &file, &plain);
    }
    let mut damaged = plugin_file(2, 8, false, &[(KEY_ID, KEY_HEX)]);
    *damaged.last_mut().unwrap() ^= 1;
    let keyring = folder.write("keyring", damaged);
    let run = Run::new(&["--keyring", text(&keyring), text(&file)]);
    assert_eq!(run.code(), 0);
    assert!(run.stderr().starts_with(&format!("warning: keyring {}: ", text(&keyring))), "{}", run.stderr());
    assert!(run.bytes() == plain);
}

#[test]
fn of_a_keyring_and_its_backup_that_are_both_whole_the_one_that_opens_the_file_counts() {
    let (folder, file, plain) = scene();
    // The component's backup is the new state, the plugin's the old one.
    let component = |hex: &str| fs::read(folder.keyring("made", hex)).unwrap();
    let plugin = |hex: &str| plugin_file(2, 8, false, &[(KEY_ID, hex)]);
    for (main, backup) in [
        (component(OTHER_HEX), component(KEY_HEX)),
        (component(KEY_HEX), component(OTHER_HEX)),
        (plugin(KEY_HEX), plugin(OTHER_HEX)),
        (plugin(OTHER_HEX), plugin(KEY_HEX)),
        (plugin_file(2, 8, false, &[]), plugin(KEY_HEX)),
        (component(KEY_HEX), plugin_file(2, 8, false, &[])),
    ] {
        let path = folder.write("keyring", main);
        folder.write("keyring.backup", backup);
        opens(&["--keyring", text(&path)], &file, &plain);
    }
}

#[test]
fn all_keys_of_the_places_given_become_one_keyring_and_the_first_of_two_counts() {
    let folder = Folder::new();
    let second = KEY_ID.replace("_1", "_2");
    let first = folder.write("first", plugin_file(2, 8, false, &[(KEY_ID, KEY_HEX)]));
    folder.write("first.backup", plugin_file(2, 8, false, &[(KEY_ID, OTHER_HEX), (&second, OTHER_HEX)]));
    let places = KeyPlaces { keyrings: vec![first], ..KeyPlaces::default() };
    let keys = Keys::collect(&places).unwrap();
    assert_eq!(keys.warnings().count(), 0);
    let all = keys.keyring();
    let expose = |id: &str| {
        all.get(&id.parse().unwrap())
            .map(|key| key.expose().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    };
    assert_eq!((expose(KEY_ID).as_deref(), expose(&second).as_deref()), (Some(KEY_HEX), Some(OTHER_HEX)));
}

#[test]
fn passwords_that_a_data_folder_has_open_keyrings_that_are_given_too() {
    let (folder, file, plain) = scene();
    let keyring = folder.write("saved", percona(&folder, "pass word"));
    folder.write("data/component_percona_keyring_encrypted_file.cnf", r#"{"path": "gone", "password": "pass word"}"#);
    opens(&["--datadir", text(&folder.path("data")), "--keyring", text(&keyring)], &file, &plain);
}

#[test]
fn an_enterprise_keyring_is_named_with_the_command_that_makes_it_readable() {
    let (folder, file, _) = scene();
    folder.write("data/mysqld.my", r#"{"components": "file://component_keyring_encrypted_file"}"#);
    let stderr = Run::new(&["--datadir", text(&folder.path("data")), text(&file)]).fails_with(3, &folder);
    let command = "mysql_migrate_keyring --source-keyring=component_keyring_encrypted_file \
                   --destination-keyring=component_keyring_file";
    assert!(stderr.contains(command), "{stderr}");
}

#[test]
fn a_keyring_that_is_being_rewritten_is_read_again() {
    let (folder, file, plain) = scene();
    let path = folder.keyring("keyring", KEY_HEX);
    let bytes = fs::read(&path).unwrap();
    // The moment in which a server has truncated it, several times over.
    fs::write(&path, b"").unwrap();
    let (rewritten, content) = (path.clone(), bytes);
    let writer = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(30));
        fs::write(rewritten, content).unwrap();
    });
    opens(&["--keyring", text(&path)], &file, &plain);
    writer.join().unwrap();
}
