//! `init`.

use std::os::unix::fs::PermissionsExt;

use super::{Place, read};

const INIT: [&str; 7] = ["init", "--service", "orders", "--store", "$DIR/store", "--state-dir", "$DIR/state"];

#[test]
fn init_makes_configuration_identity_and_archive_and_says_what_comes_next() {
    let place = Place::new();
    let ran = place.run(&INIT);
    let expected = "\
made  age identity $DIR/highwater-identity.txt
made  configuration $DIR/highwater.toml
made  archive of service orders in $DIR/store

Keep a copy of $DIR/highwater-identity.txt away from this machine: without it nothing can be restored.
The agent does not need it; it may be moved away.

On the MySQL server, as an administrator:

  CREATE USER 'highwater'@'%' IDENTIFIED BY '…';
  GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO 'highwater'@'%';
  GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, RELOAD ON *.* TO 'highwater'@'%';
  GRANT BACKUP_ADMIN, XA_RECOVER_ADMIN ON *.* TO 'highwater'@'%';

Then:

  put the password into $DIR/password (chmod 600)
  highwater doctor
  highwater agent
";
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, expected, ""));
    for (name, mode) in [
        ("highwater-identity.txt", 0o600),
        ("highwater.toml", 0o600),
        ("store", 0o700),
        ("store/highwater.json", 0o600),
    ] {
        let found = std::fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }
    assert!(!read(&place.path("highwater.toml")).contains("AGE-SECRET-KEY"));
    assert!(!ran.stdout.contains("AGE-SECRET-KEY"));
}

#[test]
fn init_again_changes_nothing() {
    let place = Place::new();
    place.run(&INIT);
    let before =
        ["highwater.toml", "highwater-identity.txt", "store/highwater.json"].map(|name| read(&place.path(name)));
    let ran = place.run(&["init"]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.stdout
            .starts_with("kept  configuration $DIR/highwater.toml\nkept  archive of service orders in $DIR/store\n")
    );
    let after =
        ["highwater.toml", "highwater-identity.txt", "store/highwater.json"].map(|name| read(&place.path(name)));
    assert_eq!(before, after);
}

#[test]
fn init_without_names_says_which_are_needed() {
    let place = Place::new();
    let hint = "hint: highwater init --service orders --store /backup/orders --host db1.example.net\n";
    let error = "error: $DIR/highwater.toml does not exist, and --service is not given\n";
    place.refused(&["init"], 2, &format!("{error}{hint}"));
    let error = "error: $DIR/highwater.toml does not exist, and --store is not given\n";
    place.refused(&["init", "--service", "orders"], 2, &format!("{error}{hint}"));
    assert_eq!(std::fs::read_dir(place.path("")).unwrap().count(), 0);
}

#[test]
fn init_refuses_what_is_there_and_makes_nothing() {
    let place = Place::new();
    std::fs::create_dir(place.path("store")).unwrap();
    place.write("store/photo.jpg", "");
    let expected = "error: $DIR/store is not empty: it has photo.jpg\n\
                    hint: give a new archive a folder of its own\n";
    place.refused(&INIT, 1, expected);
    assert!(!place.path("highwater.toml").exists() && !place.path("highwater-identity.txt").exists());

    std::fs::remove_file(place.path("store/photo.jpg")).unwrap();
    place.run(&INIT);
    std::fs::remove_file(place.path("highwater.toml")).unwrap();
    let expected = "error: $DIR/highwater-identity.txt exists, and the configuration does not\n\
                    hint: name its public key with --recipient, or move it away for a new one\n";
    place.refused(&INIT, 2, expected);
    std::fs::remove_file(place.path("highwater-identity.txt")).unwrap();
    let expected = "error: $DIR/store holds an archive already\n\
                    hint: nothing was changed; an archive is created once\n";
    place.refused(&INIT, 1, expected);
    assert!(!place.path("highwater.toml").exists() && !place.path("highwater-identity.txt").exists());
}

#[test]
fn init_refuses_a_private_key_as_recipient_and_does_not_repeat_it() {
    let place = Place::new();
    let secret = "AGE-SECRET-KEY-1QQPZZ";
    let ran = place.run(&[&INIT[..], &["--recipient", secret]].concat());
    assert_eq!(ran.code, 2);
    assert_eq!(
        ran.stderr,
        "error: $DIR/highwater.toml: seal.recipients: an age private key stands where a public key belongs\n"
    );
}

#[test]
fn an_unencrypted_archive_is_loud_in_init_and_status() {
    let place = Place::new();
    let ran = place.run(&[&INIT[..], &["--danger-unencrypted"]].concat());
    assert!(ran.stdout.contains("The archive is NOT encrypted: whoever reads the store reads every row."));
    assert!(!place.path("highwater-identity.txt").exists());
    let ran = place.run(&["status"]);
    assert!(
        ran.stdout.contains("WARNING      the archive is not encrypted: whoever reads the store reads every row\n")
    );
    // What restores nothing is no success.
    assert_eq!((ran.code, ran.stderr.lines().next()), (5, Some("error: no full dump: nothing can be restored yet")));
}
