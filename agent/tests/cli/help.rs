//! Help that teaches.

use super::Place;

const COMMANDS: [&str; 11] =
    ["init", "doctor", "agent", "dump", "status", "list", "find", "restore", "verify", "catalog", "keyring"];

#[test]
fn help_begins_with_what_it_is_and_ends_with_examples_and_exit_codes() {
    let ran = Place::new().run(&["--help"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.starts_with("Point-in-time backup for MySQL: restore to any transaction\n"));
    assert!(ran.stdout.ends_with(
        "\
Examples:
  highwater init --service orders --store /backup/orders --host db1.example.net
  highwater agent                              capture until stopped
  highwater status                             what can be restored right now
  highwater find --table shop.orders --kind delete
  highwater restore --before-gtid UUID:4711 --target mysql://root@127.0.0.1:3307 \\
      --target-password-file target.pw
  highwater status --store /mnt/backup/orders  from any machine, without configuration

Exit codes: 0 done, 1 failed, 2 usage, 3 key missing or wrong, 4 damaged data,
5 the wanted point is not reachable, 6 the target is not fit, 7 interrupted,
8 another agent writes the archive now.
"
    ));
}

#[test]
fn every_command_is_listed_and_has_help() {
    let place = Place::new();
    let help = place.run(&["--help"]).stdout;
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
        let ran = place.run(&[command, "--help"]);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{command}");
        assert!(ran.stdout.contains("Usage: highwater "), "{command}");
    }
}

#[test]
fn reading_commands_tell_that_a_store_and_an_identity_are_enough() {
    let place = Place::new();
    for command in ["status", "list", "find", "restore", "verify"] {
        let help = place.run(&[command, "--help"]).stdout;
        assert!(help.contains("--store <DIR>") && help.contains("no configuration is needed then"), "{command}");
        assert!(help.contains("--identity <FILE>"), "{command}");
    }
}

#[test]
fn the_version_is_data() {
    let ran = Place::new().run(&["--version"]);
    assert_eq!((ran.code, ran.stdout), (0, format!("highwater {}\n", env!("CARGO_PKG_VERSION"))));
}
