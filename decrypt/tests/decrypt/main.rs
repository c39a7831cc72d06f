//! What the program does with files, good and bad: output, messages and exit codes.

mod bad_input;
mod keyrings;
mod memory;
mod operator;
mod secrecy;
mod streams;
mod support;

use std::fs;

use support::{Folder, KEY_HEX, KEY_ID, Run, encrypted, open, plain_binlog, text, transactions};

#[test]
fn an_encrypted_file_becomes_the_plain_one_on_stdout() {
    let folder = Folder::new();
    let (plain, _) = plain_binlog(20);
    let file = folder.write("binlog.000001", encrypted(&plain));
    let keyring = folder.keyring("keyring", KEY_HEX);
    let run = Run::new(&["--keyring", text(&keyring), text(&file)]);
    assert_eq!((run.code(), run.stderr().as_str()), (0, ""));
    assert!(run.bytes() == plain);
}

#[test]
fn a_single_key_file_opens_it_too() {
    let folder = Folder::new();
    let (plain, _) = plain_binlog(1);
    let file = folder.write("binlog.000001", encrypted(&plain));
    let key = folder.write("key", format!("{}\n", KEY_HEX.to_uppercase()));
    let run = Run::new(&["--key", &format!("{KEY_ID}={}", key.display()), text(&file)]);
    assert_eq!(run.code(), 0, "{}", run.stderr());
    assert!(run.bytes() == plain);
}

#[test]
fn a_data_folder_is_enough_and_plain_files_pass_through() {
    let folder = Folder::new();
    let (plain, _) = plain_binlog(3);
    let first = folder.write("data/binlog.000001", encrypted(&plain));
    let second = folder.write("data/binlog.000002", &plain);
    folder.keyring("keys/keyring", KEY_HEX);
    let config = serde_json::json!({"path": folder.path("keys/keyring"), "read_only": false});
    folder.write("data/component_keyring_file.cnf", config.to_string());
    folder.write("data/mysqld.my", r#"{"components": "file://component_keyring_file"}"#);
    let out = folder.path("out");
    let run =
        Run::new(&["--datadir", text(&folder.path("data")), "--output-dir", text(&out), text(&first), text(&second)]);
    assert_eq!((run.code(), run.stdout().as_str()), (0, ""), "{}", run.stderr());
    for name in ["binlog.000001", "binlog.000002"] {
        assert!(fs::read(out.join(name)).unwrap() == plain, "{name}");
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 2);
}

#[test]
fn a_whole_backup_replaces_a_keyring_that_is_cut() {
    let folder = Folder::new();
    let (plain, _) = plain_binlog(1);
    let file = folder.write("binlog.000001", encrypted(&plain));
    let keyring = folder.keyring("keyring", KEY_HEX);
    fs::rename(&keyring, folder.path("keyring.backup")).unwrap();
    for main in [None, Some(&b"{\"version\":\"1.0\",\"elem"[..]), Some(b"")] {
        if let Some(bytes) = main {
            fs::write(&keyring, bytes).unwrap();
        }
        let run = Run::new(&["--keyring", text(&keyring), text(&file)]);
        assert_eq!(run.code(), 0, "{}", run.stderr());
        assert!(run.bytes() == plain);
    }
}

#[test]
fn without_a_keyring_the_missing_key_is_named() {
    let folder = Folder::new();
    let file = folder.write("binlog.000001", encrypted(&plain_binlog(1).0));
    let stderr = Run::new(&[text(&file)]).fails_with(3, &folder);
    assert_eq!(
        stderr,
        format!(
            "error: DIR/binlog.000001: key {KEY_ID} is missing: no keyring was given\n\
             hint: give the server's data folder with --datadir DIR, or its keyring with --keyring PATH\n"
        )
    );
}

#[test]
fn a_keyring_without_the_key_is_named_with_what_it_has() {
    let folder = Folder::new();
    let file = folder.write("binlog.000001", encrypted(&plain_binlog(1).0));
    let keyring = folder.write("keyring", "");
    let stderr = Run::new(&["--keyring", text(&keyring), text(&file)]).fails_with(3, &folder);
    assert_eq!(
        stderr,
        format!(
            "error: DIR/binlog.000001: key {KEY_ID} is missing; searched DIR/keyring (no keys)\n\
             hint: a server deletes old keys when its master key is rotated: \
             look for a keyring from when the file was made\n"
        )
    );
}

#[test]
fn a_wrong_key_is_told_before_a_byte_is_written() {
    let folder = Folder::new();
    let file = folder.write("binlog.000001", encrypted(&plain_binlog(1).0));
    let keyring = folder.keyring("keyring", &"00".repeat(32));
    let out = folder.path("plain");
    let stderr = Run::new(&["--keyring", text(&keyring), "-o", text(&out), text(&file)]).fails_with(3, &folder);
    assert!(
        stderr
            .starts_with(&format!("error: DIR/binlog.000001: key {KEY_ID} from DIR/keyring does not open it\nhint: "))
    );
    assert_eq!(folder.names(), ["binlog.000001", "keyring"]);
}

#[test]
fn the_right_key_is_found_beside_a_wrong_one_of_the_same_name() {
    let folder = Folder::new();
    let (plain, _) = plain_binlog(1);
    let file = folder.write("binlog.000001", encrypted(&plain));
    let wrong = folder.keyring("wrong", &"00".repeat(32));
    let right = folder.keyring("right", KEY_HEX);
    let run = Run::new(&["--keyring", text(&wrong), "--keyring", text(&right), text(&file)]);
    assert_eq!(run.code(), 0, "{}", run.stderr());
    assert!(run.bytes() == plain);
}

#[test]
fn files_that_are_no_keyring_or_not_there_are_named() {
    let folder = Folder::new();
    let file = folder.write("binlog.000001", encrypted(&plain_binlog(1).0));
    let stderr = Run::new(&["--keyring", text(&folder.path("nowhere")), text(&file)]).fails_with(3, &folder);
    assert!(stderr.starts_with("error: keyring DIR/nowhere: no such file\nhint: "), "{stderr}");
    let other = folder.write("other", "PNG, or whatever");
    let stderr = Run::new(&["--keyring", text(&other), text(&file)]).fails_with(3, &folder);
    assert!(stderr.starts_with("error: keyring DIR/other: not a keyring: "), "{stderr}");
    let short = folder.write("short", &KEY_HEX[..60]);
    let key = format!("{KEY_ID}={}", short.display());
    let stderr = Run::new(&["--key", &key, text(&file)]).fails_with(3, &folder);
    assert!(stderr.starts_with("error: key file DIR/short: key has 60 hexadecimal digits, not 64\nhint: "), "{stderr}");
}

#[test]
fn a_torn_file_gives_all_whole_events_and_says_so() {
    let folder = Folder::new();
    let (plain, offsets) = plain_binlog(3);
    let plain = open(plain);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let last = offsets[3];
    for cut in [last + 1, last + 18, last + 19, plain.len() - 1] {
        let file = folder.write("binlog.000001", encrypted(&plain[..cut]));
        let out = folder.path("plain");
        let stderr = Run::new(&["--keyring", text(&keyring), "-o", text(&out), text(&file)]).fails_with(4, &folder);
        let expected = format!(
            "error: DIR/binlog.000001 ends inside of an event: {} bytes after offset {last} are not a whole one\nhint: ",
            cut - last
        );
        assert!(stderr.starts_with(&expected), "{stderr}");
        assert!(fs::read(&out).unwrap() == plain[..last]);
        fs::remove_file(out).unwrap();
    }
}

#[test]
fn damage_inside_is_told_with_its_place_and_no_partial_file_has_the_final_name() {
    let folder = Folder::new();
    let (plain, offsets) = plain_binlog(3);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let mut damaged = encrypted(&plain);
    damaged[512 + offsets[2] + 25] ^= 0x10;
    let file = folder.write("binlog.000001", damaged);
    let out = folder.path("plain");
    let stderr = Run::new(&["--keyring", text(&keyring), "-o", text(&out), text(&file)]).fails_with(4, &folder);
    let expected = format!("error: DIR/binlog.000001: event at offset {}: IGNORABLE event with CRC32 ", offsets[2]);
    assert!(stderr.starts_with(&expected), "{stderr}");
    assert!(stderr.contains("are in DIR/plain.partial"), "{stderr}");
    assert_eq!(folder.names(), ["binlog.000001", "keyring", "plain.partial"]);
    assert!(fs::read(folder.path("plain.partial")).unwrap() == plain[..offsets[2]]);
    let run = Run::new(&["--verify", "--keyring", text(&keyring), text(&file)]);
    assert_eq!(run.code(), 4);
}

#[test]
fn a_file_cut_at_any_length_is_an_error_without_output_or_a_prefix_of_whole_events() {
    let folder = Folder::new();
    let (plain, offsets) = plain_binlog(1);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let whole = encrypted(&plain);
    for end in (0..whole.len()).step_by(7) {
        let file = folder.write("binlog.000001", &whole[..end]);
        let run = Run::new(&["--keyring", text(&keyring), text(&file)]);
        let boundary = end == 512 + offsets[1];
        assert_eq!(run.code(), if boundary { 0 } else { 4 }, "{end}: {}", run.stderr());
        let expected = if end < 512 + offsets[1] { &[][..] } else { &plain[..offsets[1]] };
        assert!(run.bytes() == expected, "{end}");
    }
}

#[test]
fn no_flipped_bit_of_the_stream_goes_unnoticed_but_the_in_use_flag() {
    let folder = Folder::new();
    let (plain, _) = plain_binlog(1);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let whole = encrypted(&plain);
    // All of the format description, whose version and algorithm decide about the checks of the whole file.
    for bit in 512 * 8..(512 + 123) * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let file = folder.write("binlog.000001", bytes);
        let code = Run::new(&["--verify", "--keyring", text(&keyring), text(&file)]).code();
        assert_eq!(code == 0, bit == (512 + 21) * 8, "bit {} of byte {}: {code}", bit % 8, bit / 8);
    }
}

#[test]
fn one_bad_file_does_not_keep_the_others_from_being_done() {
    let folder = Folder::new();
    let (plain, _) = plain_binlog(2);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let bad = folder.write("binlog.000001", "not a binlog");
    let good = folder.write("binlog.000002", encrypted(&plain));
    let missing = folder.path("binlog.000003");
    let out = folder.path("out");
    let run =
        Run::new(&["--keyring", text(&keyring), "--output-dir", text(&out), text(&bad), text(&good), text(&missing)]);
    let stderr = run.fails_with(4, &folder);
    assert!(stderr.contains("error: DIR/binlog.000001 is not a binary log\n"), "{stderr}");
    assert!(stderr.contains("error: DIR/binlog.000003: No such file"), "{stderr}");
    assert!(fs::read(out.join("binlog.000002")).unwrap() == plain);
    assert_eq!(fs::read_dir(out).unwrap().count(), 1);
}

#[test]
fn nothing_is_overwritten() {
    let folder = Folder::new();
    let file = folder.write("binlog.000001", plain_binlog(2).0);
    let before = fs::read(&file).unwrap();
    let stderr = Run::new(&["--output-dir", text(&folder.path("")), text(&file)]).fails_with(1, &folder);
    assert_eq!(
        stderr,
        "error: DIR/binlog.000001 exists already\nhint: nothing is overwritten: remove it, or choose another place\n"
    );
    assert!(fs::read(&file).unwrap() == before);
    assert_eq!(folder.names(), ["binlog.000001"]);
}

#[test]
fn command_lines_that_cannot_be_meant_are_refused() {
    let folder = Folder::new();
    folder.write("a/binlog.000001", plain_binlog(1).0);
    folder.write("b/binlog.000001", plain_binlog(1).0);
    let (a, b) = (folder.path("a/binlog.000001"), folder.path("b/binlog.000001"));
    let stderr = Run::new(&[text(&a), text(&b)]).fails_with(2, &folder);
    assert!(stderr.starts_with("error: 2 files cannot become one\nhint: give --output-dir DIR"), "{stderr}");
    let out = folder.path("out");
    let stderr = Run::new(&["--output-dir", text(&out), text(&a), text(&b)]).fails_with(2, &folder);
    assert!(stderr.starts_with("error: two files are called binlog.000001\n"), "{stderr}");
    let stderr = Run::new(&["--json", text(&a)]).fails_with(2, &folder);
    assert!(stderr.starts_with("error: stdout cannot carry both"), "{stderr}");
    let stderr = Run::new(&["--inspect", text(&folder.path(""))]).fails_with(2, &folder);
    assert!(stderr.starts_with("error: DIR/ has no binary logs\nhint: "), "{stderr}");
    let stderr = Run::new(&["--output-dir", text(&out), "-"]).fails_with(2, &folder);
    assert!(stderr.starts_with("error: stdin has no name"), "{stderr}");
    let stderr = Run::new(&["--from", "9", "--to", "8", text(&a)]).fails_with(2, &folder);
    assert!(stderr.starts_with("error: --to lies before --from"), "{stderr}");
    assert_eq!(Run::new(&["--verify", "-o", "x", text(&a)]).code(), 2);
    assert_eq!(Run::new::<&str>(&[]).code(), 2);
    assert!(!out.exists());
}

#[test]
fn inspect_shows_the_header_without_a_key_and_the_server_with_it() {
    let folder = Folder::new();
    let (plain, _) = transactions(1..5);
    let file = folder.write("binlog.000001", encrypted(&plain));
    let keyring = folder.keyring("keyring", KEY_HEX);
    let run = Run::new(&["--inspect", text(&file)]);
    assert_eq!(run.code(), 0, "{}", run.stderr());
    let iv = "07".repeat(16);
    let header = format!("  key             {KEY_ID}\n  password's IV   {iv}\n  key found in    -\n");
    assert!(run.stdout().contains(&header), "{}", run.stdout());
    let run = Run::new(&["--inspect", "--keyring", text(&keyring), text(&file)]);
    let expected = format!(
        "DIR/binlog.000001
  kind            binlog
  encryption      MySQL, header version 1
  key             {KEY_ID}
  password's IV   {iv}
  key found in    DIR/keyring
  server version  9.7.4
  server id       1
  begun           2023-11-14T22:13:20.000000Z
  checksums       crc32
  closed          yes
  size            {} bytes: 512 of header, {} of stream
  ends at         {}
  events          18
  transactions    4
  first commit    2023-11-14T22:13:20.000000Z
  last commit     2023-11-14T22:13:20.000000Z
  previous GTIDs  none
  GTIDs           00508583-b5ce-11e8-a6a5-0010e0734796:1-4
",
        plain.len() + 512,
        plain.len(),
        plain.len()
    );
    assert_eq!(run.stdout().replace(&folder.path("").display().to_string(), "DIR/"), expected);
    let empty = folder.write("empty", "");
    let run = Run::new(&["--inspect", "--keyring", text(&empty), text(&file)]);
    assert_eq!(run.code(), 3);
    assert!(run.stdout().contains(KEY_ID), "{}", run.stdout());
}

#[test]
fn verify_reports_each_file_as_one_line_of_json() {
    let folder = Folder::new();
    let (plain, offsets) = plain_binlog(4);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let whole = folder.write("binlog.000001", encrypted(&plain));
    let torn = folder.write("binlog.000002", &plain[..plain.len() - 3]);
    let run = Run::new(&["--verify", "--json", "--keyring", text(&keyring), text(&whole), text(&torn)]);
    assert_eq!(run.code(), 4);
    let lines: Vec<serde_json::Value> = run.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["events"], 5);
    assert_eq!(lines[0]["stream_bytes"], plain.len());
    assert_eq!(lines[0]["key_id"], KEY_ID);
    assert_eq!(lines[0]["error"], serde_json::Value::Null);
    assert_eq!(lines[1]["encrypted"], false);
    assert_eq!(lines[1]["stream_bytes"], offsets[4]);
    assert_eq!(lines[1]["torn_bytes"], plain.len() - 3 - offsets[4]);
    assert_eq!(lines[1]["error"]["kind"], "damaged");
}

#[test]
fn help_teaches_with_an_example_and_has_the_exit_codes() {
    let run = Run::new(&["--help"]);
    assert_eq!(run.code(), 0);
    for part in [
        "--datadir /mnt/dead/var/lib/mysql",
        "mysqlbinlog plain/binlog.000042",
        "3 key missing or wrong",
        "7 interrupted",
    ] {
        assert!(run.stdout().contains(part), "{part}");
    }
}
