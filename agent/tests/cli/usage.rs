//! Wrong command lines and configurations: message, hint and exit code.

use std::os::unix::fs::PermissionsExt;

use super::Place;

const CONFIGURATION: &str = r#"service = "orders"
state_dir = "state"

[source]
host = "127.0.0.1"
user = "highwater"

[store]
kind = "directory"
path = "store"
"#;

#[test]
fn no_command_shows_the_help_and_is_a_usage_error() {
    let ran = Place::new().run(&[]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("Usage: highwater [OPTIONS] <COMMAND>"));
}

#[test]
fn an_unknown_command_is_a_usage_error_with_a_suggestion() {
    let ran = Place::new().run(&["restor"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.starts_with("error: unrecognized subcommand 'restor'\n"));
    assert!(ran.stderr.contains("a similar subcommand exists: 'restore'"));
}

#[test]
fn a_restore_needs_exactly_one_point() {
    let ran = Place::new().run(&["restore"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("<--to <TIME>|--to-gtid <GTID>|--before-gtid <GTID>|--to-position <FILE:POS>>"));
    let ran = Place::new().run(&["restore", "--to", "latest", "--to-gtid", "x"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.starts_with("error: the argument '--to <TIME>' cannot be used with '--to-gtid <GTID>'"));
}

#[test]
fn without_configuration_the_places_searched_are_named() {
    let hint = "hint: name one with --config FILE or HIGHWATER_CONFIG; `highwater init` writes a first one";
    let error = "error: no configuration: looked for highwater.toml and /etc/highwater/highwater.toml\n";
    for command in [&["agent"][..], &["dump"], &["doctor"], &["salvage", "--datadir", "."]] {
        Place::new().refused(command, 2, &format!("{error}{hint}\n"));
    }
    // Those that read the archive do without.
    let alone = "; or give --store DIR and --identity FILE, which do without";
    for command in [&["status"][..], &["verify"], &["list", "dumps"]] {
        Place::new().refused(command, 2, &format!("{error}{hint}{alone}\n"));
    }
}

#[test]
fn an_absent_configuration_is_named() {
    let place = Place::new();
    let expected = "error: read configuration $DIR/none.toml: No such file or directory (os error 2)\n\
                    hint: `highwater init` writes a first configuration\n";
    place.refused(&["--config", "none.toml", "status"], 2, expected);
    let ran = place.run_with(&["status"], &[("HIGHWATER_CONFIG", "none.toml")]);
    assert_eq!((ran.code, ran.stderr.as_str()), (2, expected));
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let place = Place::new();
    place.write("highwater.toml", &CONFIGURATION.replace("user =", "usr ="));
    let expected = "error: $DIR/highwater.toml, line 6, usr: unknown field `usr`, expected one of `host`, `port`, \
                    `socket`, `user`, `password`, `tls`, `ca`, `failover`, `server_id`\n";
    place.refused(&["status"], 2, expected);
}

#[test]
fn an_inline_password_is_refused_and_never_repeated() {
    let place = Place::new();
    place.write("highwater.toml", &CONFIGURATION.replace("user =", "password = \"hunter2\"\nuser ="));
    let expected = "error: $DIR/highwater.toml, line 6, password: expected the place of a secret, not the secret\n\
                    hint: a configuration names the place of a secret: password = { file = \
                    \"/etc/highwater/password\" }, or { env = \"NAME\" }, or { command = [\"program\", \"argument\"] }\n";
    place.refused(&["-vvv", "status"], 2, expected);
}

#[test]
fn errors_are_one_json_object_when_asked_for() {
    let place = Place::new();
    place.write("highwater.toml", &CONFIGURATION.replace("orders", "or ders"));
    let expected = "{\"error\":\"$DIR/highwater.toml: service: `or ders` is no service name: use letters, digits, \
                    `.`, `_` and `-`\",\"exit\":2,\"hint\":null}\n";
    place.refused(&["--json", "status"], 2, expected);
}

#[test]
fn a_store_that_is_not_there_is_named() {
    let place = Place::new();
    place.write("highwater.toml", CONFIGURATION);
    let expected = "error: open the folder in $DIR/store: No such file or directory (os error 2)\n\
                    hint: check the store's address and that it is mounted\n";
    place.refused(&["status"], 1, expected);
    place.refused(&["status", "--store", "$DIR/store"], 1, expected);
}

/// Fault 7: an empty folder where the archive was mounted is refused, and stays empty.
#[test]
fn an_empty_store_is_no_archive_and_is_not_made_one() {
    let place = Place::new();
    place.write("highwater.toml", CONFIGURATION);
    std::fs::create_dir(place.path("store")).unwrap();
    let expected = "error: $DIR/store holds no archive\n\
                    hint: check the store's address and that it is mounted; `highwater init` makes a new archive\n";
    for command in ["status", "verify", "agent", "dump"] {
        place.refused(&[command], 1, expected);
    }
    assert_eq!(std::fs::read_dir(place.path("store")).unwrap().count(), 0);
}

#[test]
fn a_secret_file_that_everyone_can_read_is_refused() {
    let place = Place::new();
    place.init();
    let password = place.write("password", "hunter2\n");
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ran = place.run(&["dump"]);
    let expected = "error: secret file $DIR/password can be read by other users (mode 0644)\n\
                    hint: chmod 600 $DIR/password\n";
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (2, "", expected));
}

#[test]
fn an_unreachable_source_is_named() {
    let place = Place::new();
    let init = ["init", "--service", "orders", "--store", "$DIR/store", "--state-dir", "$DIR/state"];
    place.run(&[&init[..], &["--socket", "$DIR/none.sock"]].concat());
    let password = place.write("password", "x\n");
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let ran = place.run(&["dump"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("error: server $DIR/none.sock is unreachable"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: check that the server runs and listens there"), "{}", ran.stderr);
}

/// Every command at its loudest, with secrets that are easy to find: none of them is printed.
#[test]
fn no_secret_is_ever_printed() {
    let place = Place::new();
    let init = ["init", "--service", "orders", "--store", "$DIR/store", "--state-dir", "$DIR/state"];
    place.run(&[&init[..], &["--socket", "$DIR/none.sock"]].concat());
    let identity = super::read(&place.path("highwater-identity.txt"));
    let identity = identity.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap();
    let password = place.write("password", "canary-in-file\n");
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let target = ["--target-socket", "$DIR/none.sock", "--target-user", "root", "--target-password-env", "CANARY"];
    let restore = [&["restore", "--to", "latest"][..], &target].concat();
    let commands = [&["doctor"][..], &["agent"], &["dump"], &["status"], &["verify"], &["find"], &restore];
    for words in commands {
        for format in [&["-vvvv"][..], &["-vvvv", "--json"]] {
            let ran = place.run_with(&[words, format].concat(), &[("CANARY", "canary-in-environment")]);
            let said = format!("{}{}", ran.stdout, ran.stderr);
            assert!(!said.contains("canary-in") && !said.contains(identity), "{words:?}: {said}");
        }
    }
}
