//! `binlog-decrypt` against the files of real servers: what it makes of them is what the server itself would send.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use highwater_keyring::{KeyBundle, Keyring};
use highwater_tests::{Finished, MysqlServer, Programs};
use tempfile::TempDir;

/// Stream offset of the flag that a server clears when it closes a binlog.
const IN_USE_AT: usize = 21;

/// Writes of several kinds: small and large rows, a compressed transaction, DDL.
fn write_something(server: &MysqlServer, name: &str) -> Result<()> {
    server.sql(&format!(
        "CREATE DATABASE {name}; CREATE TABLE {name}.t (id INT AUTO_INCREMENT PRIMARY KEY, v LONGTEXT);
         INSERT INTO {name}.t (v) VALUES (REPEAT('{name}', 300000)), ('small');
         SET SESSION binlog_transaction_compression = ON;
         INSERT INTO {name}.t (v) SELECT REPEAT(UUID(), 30) FROM mysql.help_topic LIMIT 100;
         UPDATE {name}.t SET v = CONCAT(v, '!') WHERE id < 50;"
    ))?;
    Ok(())
}

fn paths(server: &MysqlServer, names: &[String]) -> Vec<PathBuf> {
    names.iter().map(|name| server.data().join(name)).collect()
}

/// Decrypts files into a new folder with the keyring that the data folder leads to.
fn decrypt(programs: &Programs, datadir: &Path, files: &[PathBuf]) -> Result<(Finished, TempDir)> {
    let out = tempfile::tempdir()?;
    let mut arguments =
        vec![PathBuf::from("--datadir"), datadir.to_owned(), "--output-dir".into(), out.path().to_owned()];
    arguments.extend_from_slice(files);
    Ok((programs.decrypt(arguments)?, out))
}

/// Every binlog of the server, decrypted from its disk, is what replication delivers.
fn assert_files_are_what_replication_delivers(programs: &Programs, server: &MysqlServer) -> Result<()> {
    let names = server.binlogs()?;
    let (run, out) = decrypt(programs, &server.data(), &paths(server, &names))?;
    run.success()?;
    for (i, name) in names.iter().enumerate() {
        let mut decrypted = fs::read(out.path().join(name))?;
        let delivered = server.remote_binlog(name)?;
        if i + 1 == names.len() {
            assert_eq!(decrypted[IN_USE_AT], 1, "{name} is open");
            decrypted[IN_USE_AT] = 0;
        }
        assert!(decrypted == delivered, "{name}: {} bytes, {} delivered", decrypted.len(), delivered.len());
    }
    Ok(())
}

#[test]
fn files_of_a_server_decrypt_to_what_replication_delivers_before_and_after_a_rotation() -> Result<()> {
    let programs = Programs::find()?;
    let mut server = MysqlServer::builder().start()?;
    write_something(&server, "one")?;
    server.sql("FLUSH BINARY LOGS")?;
    write_something(&server, "two")?;
    assert_files_are_what_replication_delivers(&programs, &server)?;

    server.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")?;
    write_something(&server, "three")?;
    assert_files_are_what_replication_delivers(&programs, &server)?;

    // A rotation at start keeps the old keys and headers, and files without encryption may come between.
    server.add_option("--binlog-rotate-encryption-master-key-at-startup=ON");
    server.restart()?;
    server.sql("SET GLOBAL binlog_encryption = OFF")?;
    write_something(&server, "four")?;
    server.sql("SET GLOBAL binlog_encryption = ON")?;
    let listing = server.sql("SHOW BINARY LOGS")?;
    ensure!(listing.contains("\tNo") && listing.contains("\tYes"), "{listing}");
    ensure!(Keyring::read(&fs::read(server.keyring())?)?.len() > 1, "more than one key is in use");
    assert_files_are_what_replication_delivers(&programs, &server)
}

#[test]
fn a_copy_from_before_a_rotation_needs_the_keyring_from_before() -> Result<()> {
    let programs = Programs::find()?;
    let server = MysqlServer::builder().start()?;
    write_something(&server, "one")?;
    server.sql("FLUSH BINARY LOGS")?;
    let name = server.binlogs()?[0].clone();
    let copies = tempfile::tempdir()?;
    let (file, keyring) = (copies.path().join(&name), copies.path().join("keyring"));
    fs::copy(server.data().join(&name), &file)?;
    fs::copy(server.keyring(), &keyring)?;
    server.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY")?;

    let key_id = format!("MySQLReplicationKey_{}_1", server.uuid()?);
    let (run, out) = decrypt(&programs, &server.data(), std::slice::from_ref(&file))?;
    assert_eq!(run.code, Some(3));
    assert!(run.stderr.contains(&format!("key {key_id} is missing")), "{}", run.stderr);
    assert!(run.stderr.contains(&server.keyring().display().to_string()), "{}", run.stderr);
    assert_eq!(fs::read_dir(out.path())?.count(), 0);

    let opened = programs.decrypt([Path::new("--keyring"), &keyring, &file])?.success()?;
    assert!(opened.stdout == server.remote_binlog(&name)?);
    Ok(())
}

#[test]
fn files_of_a_killed_server_are_opened_up_to_their_last_whole_event() -> Result<()> {
    let programs = Programs::find()?;
    let mut server = MysqlServer::builder().start()?;
    write_something(&server, "one")?;
    let names = server.binlogs()?;
    server.kill()?;
    let disk = tempfile::tempdir()?;
    for name in names.iter().map(String::as_str).chain(["component_keyring_file.cnf", "mysqld.my"]) {
        fs::copy(server.data().join(name), disk.path().join(name))?;
    }
    let files: Vec<PathBuf> = names.iter().map(|name| disk.path().join(name)).collect();
    let (run, out) = decrypt(&programs, disk.path(), &files)?;
    run.success()?;

    // Recovery closes the open file; nothing else about it changes.
    server.start()?;
    let name = names.last().map(String::as_str).unwrap_or_default();
    let mut decrypted = fs::read(out.path().join(name))?;
    assert_eq!(decrypted[IN_USE_AT], 1);
    decrypted[IN_USE_AT] = 0;
    assert!(decrypted == server.remote_binlog(name)?);

    // The same file, cut inside of its last event.
    let open = files.last().cloned().unwrap_or_default();
    let bytes = fs::read(&open)?;
    fs::write(&open, &bytes[..bytes.len() - 5])?;
    let (run, out) = decrypt(&programs, disk.path(), std::slice::from_ref(&open))?;
    assert_eq!(run.code, Some(4));
    assert!(run.stderr.contains("ends inside of an event"), "{}", run.stderr);
    let shorter = fs::read(out.path().join(name))?;
    assert!(shorter.len() < decrypted.len());
    assert!(decrypted[IN_USE_AT + 1..].starts_with(&shorter[IN_USE_AT + 1..]));
    Ok(())
}

#[test]
fn a_server_starts_from_bundled_keys_and_reads_its_old_binlogs() -> Result<()> {
    let mut server = MysqlServer::builder().start()?;
    write_something(&server, "one")?;
    let name = server.binlogs()?[0].clone();
    server.sql("FLUSH BINARY LOGS")?;
    let delivered = server.remote_binlog(&name)?;
    let uuid = server.uuid()?;
    server.stop()?;

    let keyring = Keyring::read(&fs::read(server.keyring())?)?;
    let sealed = KeyBundle::new(&uuid, 0, keyring)?.encode();
    fs::remove_file(server.keyring())?;
    fs::write(server.keyring(), KeyBundle::decode(&sealed)?.keyring().to_component_file())?;

    server.start()?;
    assert!(server.remote_binlog(&name)? == delivered);
    write_something(&server, "two")?;
    assert_files_are_what_replication_delivers(&Programs::find()?, &server)
}
