//! The command line of `restore`.

use super::Place;

#[test]
fn a_password_on_the_command_line_is_refused_and_not_repeated() {
    let place = Place::new();
    place.init();
    let expected = "error: --target holds a password\n\
                    hint: the command line is visible to every user: give --target-password-file or \
                    --target-password-env\n";
    place.refused(&["restore", "--to", "latest", "--target", "mysql://root:hunter2@127.0.0.1"], 2, expected);
}

#[test]
fn a_bad_point_is_refused() {
    let place = Place::new();
    place.init();
    let time = "error: `yesterday` is no time\n\
                hint: write a time as `2026-11-22 14:02:31` (local) or `2026-11-22T14:02:31.5Z`, or `latest`\n";
    place.refused(&["restore", "--to", "yesterday", "--dry-run"], 2, time);
    let gtid = "error: `4711` is no GTID\nhint: a GTID looks like 3e11fa47-71ca-11e1-9e33-c80aa9429562:4711\n";
    place.refused(&["restore", "--before-gtid", "4711", "--dry-run"], 2, gtid);
    let position = "error: `binlog.000001` is no binlog position\nhint: a position looks like binlog.000042:1337\n";
    place.refused(&["restore", "--to-position", "binlog.000001", "--dry-run"], 2, position);
}

#[test]
fn a_restore_without_target_is_refused() {
    let place = Place::new();
    place.init();
    let expected = "error: no target to restore into\n\
                    hint: give --target mysql://USER@HOST:PORT or --target-socket, or --dry-run\n";
    place.refused(&["restore", "--to", "latest"], 2, expected);
}
