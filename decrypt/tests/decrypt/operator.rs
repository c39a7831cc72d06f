//! What goes wrong at three in the morning: each mistake has a message that says what to do, and leaves nothing behind.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::{Folder, KEY_HEX, Run, encrypted, text, transactions};

/// A folder with `binlog.000001`, `keyring` and nothing else, and how long the plaintext is.
fn scene() -> (Folder, usize) {
    let folder = Folder::new();
    let (plain, _) = transactions(1..4);
    folder.write("binlog.000001", encrypted(&plain));
    folder.keyring("keyring", KEY_HEX);
    (folder, plain.len())
}

/// Runs in the folder with its keyring; what is refused has this message, and no file is made.
#[track_caller]
fn refused(folder: &Folder, arguments: &[&str], code: i32, message: &str) {
    let before = folder.names();
    let (keyring, file) = (folder.path("keyring"), folder.path("binlog.000001"));
    let at = |argument: &&str| argument.replace("DIR", text(&folder.path("")).trim_end_matches('/'));
    let mut all = vec!["--keyring".to_owned(), text(&keyring).to_owned()];
    all.extend(arguments.iter().map(at));
    all.push(text(&file).to_owned());
    let stderr = Run::new(&all).fails_with(code, folder);
    assert_eq!(stderr, message, "{arguments:?}");
    assert_eq!(folder.names(), before, "{arguments:?}");
}

#[test]
fn places_that_cannot_be_written_to_are_named_with_the_next_step() {
    let (folder, _) = scene();
    refused(
        &folder,
        &["-o", "DIR/absent/out"],
        1,
        "error: DIR/absent: No such file or directory (os error 2)\nhint: make the folder first, or choose another place\n",
    );
    refused(
        &folder,
        &["--output-dir", "DIR/keyring"],
        1,
        "error: DIR/keyring is no folder\nhint: --output-dir takes a folder, -o a file\n",
    );
    refused(
        &folder,
        &["-o", "DIR/keyring"],
        1,
        "error: DIR/keyring exists already\nhint: nothing is overwritten: remove it, or choose another place\n",
    );
}

#[test]
fn keyrings_and_folders_that_are_none_are_named_with_the_next_step() {
    let (folder, _) = scene();
    refused(
        &folder,
        &["--verify", "--keyring", "DIR/binlog.000001"],
        3,
        "error: keyring DIR/binlog.000001: this is a binary log, no keyring\n\
         hint: binlogs are given by their names alone: binlog-decrypt --keyring KEYRING BINLOG\n",
    );
    refused(
        &folder,
        &["--verify", "--datadir", "DIR/absent"],
        3,
        "error: data folder DIR/absent: no such folder\n\
         hint: give the folder with the server's ibdata1 and mysqld-auto.cnf, wherever its disk is mounted\n",
    );
}

#[test]
fn a_position_beyond_the_end_gives_no_file() {
    let (folder, len) = scene();
    let position = (len + 70_000).to_string();
    refused(
        &folder,
        &["-o", "DIR/out", "--from", &position],
        2,
        &format!(
            "error: DIR/binlog.000001 ends before {position}\n\
             hint: --inspect shows where it ends; the position may be one of another binlog\n"
        ),
    );
    let (keyring, file) = (folder.path("keyring"), folder.path("binlog.000001"));
    let run = Run::piped(&["--keyring", text(&keyring), "--from", &position, "-"], &file);
    assert_eq!((run.code(), run.bytes().len()), (2, 0), "{}", run.stderr());
}

#[test]
fn a_stdout_that_takes_nothing_is_a_failure_and_one_to_dev_null_is_not() {
    let (folder, _) = scene();
    for (redirection, code, message) in [
        (">&-", 2, "error: stdout is closed\nhint: give -o FILE, or --verify\n"),
        (
            ">/dev/full",
            1,
            "error: stdout: No space left on device (os error 28)\nhint: make room there, or choose another place\n",
        ),
        (">/dev/null", 0, ""),
    ] {
        let output = Command::new("sh")
            .args(["-c", &format!("\"$@\" {redirection}"), "sh", env!("CARGO_BIN_EXE_binlog-decrypt"), "--keyring"])
            .args([folder.path("keyring"), folder.path("binlog.000001")])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.as_str()), (Some(code), message), "{redirection}");
    }
}

#[test]
fn links_are_followed_to_what_is_read_and_never_written_through() {
    let (folder, len) = scene();
    std::os::unix::fs::symlink(folder.path("binlog.000001"), folder.path("link")).unwrap();
    std::os::unix::fs::symlink(folder.path("elsewhere"), folder.path("out")).unwrap();
    refused(
        &folder,
        &["-o", "DIR/out"],
        1,
        "error: DIR/out exists already\nhint: nothing is overwritten: remove it, or choose another place\n",
    );
    let (keyring, link) = (folder.path("keyring"), folder.path("link"));
    let run = Run::new(&["--keyring", text(&keyring), text(&link)]);
    assert_eq!((run.code(), run.bytes().len()), (0, len));
    assert!(fs::symlink_metadata(folder.path("elsewhere")).is_err());
}
