//! Parts of files, files that end early, several files, pipes, and interruptions.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use highwater_binlog::StreamCipher;
use highwater_keyring::FilePassword;

use crate::support::{FILE_PASSWORD, Folder, KEY_HEX, Run, encrypted, event, open, opening, text, transactions};

#[test]
fn a_file_cut_anywhere_gives_everything_up_to_its_last_whole_transaction() {
    let folder = Folder::new();
    let (plain, begins) = transactions(1..4);
    let plain = open(plain);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let whole = encrypted(&plain);
    for end in (begins[0]..plain.len()).step_by(3) {
        let file = folder.write("binlog.000001", &whole[..512 + end]);
        let kept = *begins.iter().rfind(|begin| **begin <= end).unwrap();
        let run = Run::new(&["--keyring", text(&keyring), text(&file)]);
        assert!(run.bytes() == &plain[..kept], "{end}: {} of {kept}", run.bytes().len());
        assert_eq!(run.code(), if end == kept { 0 } else { 4 }, "{end}: {}", run.stderr());
        let out = folder.path("out");
        let run = Run::new(&["--keyring", text(&keyring), "-o", text(&out), text(&file)]);
        assert_eq!(run.code(), if end == kept { 0 } else { 4 });
        assert!(fs::read(&out).unwrap() == plain[..kept], "{end}");
        fs::remove_file(out).unwrap();
    }
}

#[test]
fn a_read_that_fails_keeps_everything_before_it_under_another_name() {
    let folder = Folder::new();
    let (plain, begins) = transactions(1..500);
    assert!(begins[480] > 100 << 10, "all of it is read before it is decrypted");
    let keyring = folder.keyring("keyring", KEY_HEX);
    let out = folder.path("out");
    // A socket that is closed before all that was sent to it was taken ends with an error, behind what it sent.
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"never taken").unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_binlog-decrypt"))
        .args(["--keyring", text(&keyring), "-o", text(&out), "-"])
        .stdin(OwnedFd::from(theirs))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    ours.write_all(&encrypted(&plain)[..512 + begins[480] + 50]).unwrap();
    drop(ours);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("reset by peer"), "{stderr}");
    assert!(stderr.contains(&format!("the {} bytes before it are whole and are in", begins[480])), "{stderr}");
    assert_eq!(folder.names(), ["keyring", "out.partial"]);
    assert!(fs::read(folder.path("out.partial")).unwrap() == plain[..begins[480]]);
}

#[test]
fn what_a_file_ends_inside_of_is_named() {
    let folder = Folder::new();
    let (plain, begins) = transactions(1..4);
    let second = begins[1];
    // The GTID event alone: no event is torn.
    let file = folder.write("binlog.000001", &plain[..second + 42 + 23]);
    let stderr = Run::new(&["--verify", text(&file)]).fails_with(4, &folder);
    let expected = format!(
        "error: DIR/binlog.000001 ends inside of transaction 00508583-b5ce-11e8-a6a5-0010e0734796:2, \
         which begins at {second}\nhint: "
    );
    assert!(stderr.starts_with(&expected), "{stderr}");
}

#[test]
fn a_position_begins_and_another_ends_the_output() {
    let folder = Folder::new();
    let (plain, begins) = transactions(1..6);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let file = folder.write("binlog.000001", encrypted(&plain));
    let description = &opening(0)[..];
    for (from, to) in [(1, 3), (0, 5), (2, 2), (4, 5)] {
        let (from, to) = (begins[from], begins[to]);
        let expected = [description, &plain[from..to.max(from)]].concat();
        let (from, to) = (from.to_string(), (to.max(from + 1)).to_string());
        let arguments = ["--keyring", text(&keyring), "--from", &from, "--to", &to];
        if expected.len() == description.len() {
            continue;
        }
        let run = Run::new(&[&arguments[..], &[text(&file)]].concat());
        assert_eq!((run.code(), run.stderr().as_str()), (0, ""));
        assert!(run.bytes() == expected, "{from} to {to}: {} bytes", run.bytes().len());
        let piped = Run::piped(&[&arguments[..], &["-"]].concat(), &file);
        assert!(piped.bytes() == expected, "{from} to {to}: {}", piped.stderr());
        let out = folder.path("out");
        let run = Run::new(&[&arguments[..], &["-o", text(&out), text(&file)]].concat());
        assert_eq!(run.code(), 0, "{}", run.stderr());
        assert!(fs::read(&out).unwrap() == expected);
        fs::remove_file(out).unwrap();
    }
    let to = begins[2].to_string();
    let run = Run::new(&["--keyring", text(&keyring), "--to", &to, text(&file)]);
    assert!(run.bytes() == &plain[..begins[2]]);
}

#[test]
fn what_is_before_the_position_is_not_read() {
    let folder = Folder::new();
    let (plain, begins) = transactions(1..40);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let file = folder.write("binlog.000001", encrypted(&opening(0)));
    // A tebibyte that is not there, and would take hours to read.
    let from = 1u64 << 40;
    let mut rest = plain[begins[0]..].to_vec();
    StreamCipher::new(&FilePassword::from_slice(&FILE_PASSWORD).unwrap()).apply(from, &mut rest);
    fs::OpenOptions::new().write(true).open(&file).unwrap().write_all_at(&rest, 512 + from).unwrap();
    let from = from.to_string();
    let run = Run::new(&["--keyring", text(&keyring), "--from", &from, text(&file)]);
    assert_eq!(run.code(), 0, "{}", run.stderr());
    assert!(run.bytes() == [&opening(0)[..], &plain[begins[0]..]].concat());
}

#[test]
fn a_position_inside_of_an_event_is_refused_and_one_inside_of_a_transaction_is_said() {
    let folder = Folder::new();
    let (plain, begins) = transactions(1..4);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let file = folder.write("binlog.000001", encrypted(&plain));
    for from in [begins[1] + 1, begins[1] - 4, begins[0] + 30] {
        let out = folder.path("out");
        let from = from.to_string();
        let arguments = ["--keyring", text(&keyring), "--from", &from, "-o", text(&out), text(&file)];
        let stderr = Run::new(&arguments).fails_with(2, &folder);
        assert!(stderr.starts_with(&format!("error: DIR/binlog.000001: no event begins at {from}\n")), "{stderr}");
        assert!(!out.exists());
    }
    let inside = (begins[1] + 1).to_string();
    let run = Run::new(&["--keyring", text(&keyring), "--to", &inside, text(&file)]);
    assert_eq!(run.code(), 0);
    assert!(run.stderr().contains("lies inside of transaction"), "{}", run.stderr());
    assert!(run.bytes() == &plain[..begins[1] + 65]);
}

#[test]
fn every_changed_bit_of_a_length_is_damage_whether_the_file_was_closed_or_not() {
    let folder = Folder::new();
    let (closed, begins) = transactions(1..6);
    let keyring = folder.keyring("keyring", KEY_HEX);
    for plain in [open(closed.clone()), closed] {
        let whole = encrypted(&plain);
        for bit in 0..32 {
            let mut bytes = whole.clone();
            bytes[512 + begins[2] + 9 + bit / 8] ^= 1 << (bit % 8);
            let file = folder.write("binlog.000001", bytes);
            let out = folder.path("out");
            let stderr = Run::new(&["--keyring", text(&keyring), "-o", text(&out), text(&file)]).fails_with(4, &folder);
            let expected = format!("error: DIR/binlog.000001: event at offset {}: ", begins[2]);
            assert!(stderr.starts_with(&expected), "bit {bit}: {stderr}");
            assert_eq!(folder.names(), ["binlog.000001", "keyring", "out.partial"], "bit {bit}");
            assert!(fs::read(folder.path("out.partial")).unwrap() == plain[..begins[2]], "bit {bit}");
            fs::remove_file(folder.path("out.partial")).unwrap();
        }
    }
}

#[test]
fn a_closed_file_that_was_cut_gives_a_part_and_an_open_one_all_that_was_committed() {
    let folder = Folder::new();
    let (closed, begins) = transactions(1..4);
    let keyring = folder.keyring("keyring", KEY_HEX);
    // Inside of an event, and between the events of a transaction.
    for end in [begins[1] + 30, begins[1] + 42 + 23] {
        let file = folder.write("binlog.000001", encrypted(&closed[..end]));
        let out = folder.path("out");
        let arguments = ["--keyring", text(&keyring), "-o", text(&out), text(&file)];
        let stderr = Run::new(&arguments).fails_with(4, &folder);
        assert!(stderr.contains("its server closed the file, so it was cut later"), "{stderr}");
        assert!(stderr.contains("are in DIR/out.partial"), "{stderr}");
        assert!(!out.exists());
        assert!(fs::read(folder.path("out.partial")).unwrap() == closed[..begins[1]]);
        fs::remove_file(folder.path("out.partial")).unwrap();

        let plain = open(closed.clone());
        folder.write("binlog.000001", encrypted(&plain[..end]));
        let stderr = Run::new(&arguments).fails_with(4, &folder);
        assert!(stderr.contains("its server was still writing it, or was killed"), "{stderr}");
        assert!(fs::read(&out).unwrap() == plain[..begins[1]]);
        fs::remove_file(out).unwrap();
    }
}

#[test]
fn a_position_where_no_event_begins_is_no_damage_whatever_stands_there() {
    let folder = Folder::new();
    let (plain, _) = transactions(1..4);
    // Inside of an event, what looks like the header of one that the file is too short for, at its place or without one.
    let from = plain.len() + 19 + 4;
    let header = |end_log_pos: u32| {
        let mut header = vec![0u8; 19];
        header[4] = 29;
        header[9..13].copy_from_slice(&100_000u32.to_le_bytes());
        header[13..17].copy_from_slice(&end_log_pos.to_le_bytes());
        header
    };
    for end_log_pos in [0, from as u32 + 100_000, 77] {
        let at = plain.len();
        let file = [&plain[..], &event(28, at, 0x80, &[&[0; 4][..], &header(end_log_pos)[..], &[9; 50]].concat())];
        let file = folder.write("binlog.000001", file.concat());
        let (out, from) = (folder.path("out"), from.to_string());
        let stderr = Run::new(&["--from", &from, "-o", text(&out), text(&file)]).fails_with(2, &folder);
        assert!(stderr.starts_with(&format!("error: DIR/binlog.000001: no event begins at {from}\n")), "{stderr}");
        assert_eq!(folder.names(), ["binlog.000001"]);
    }
}

#[test]
fn a_relay_log_goes_on_where_its_replica_says_and_does_not_say_whether_it_was_closed() {
    let folder = Folder::new();
    let rotate = |name: &str| [&4u64.to_le_bytes()[..], name.as_bytes()].concat();
    let mut file = opening(0x40);
    // Its source's: positions and flags are those of the source's binlog.
    file.extend(event(4, 100_000, 0, &rotate("binlog.000002")));
    let source_only = folder.write("db1-relay-bin.000001", &file);
    let inspect = |path: &std::path::Path| Run::new(&["--inspect", text(path)]).stdout();
    let report = inspect(&source_only);
    assert!(report.contains("closed          not known: a relay log does not say\n"), "{report}");
    assert!(!report.contains("binlog.000002"), "{report}");
    let json = Run::new(&["--inspect", "--json", text(&source_only)]).stdout();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["in_use"].is_null() && json["next_binlog"].is_null() && json["kind"] == "relay log", "{json}");

    let torn = folder.write("torn", [&file[..], &event(28, 9, 0x80, &[0; 9])[..20]].concat());
    let stderr = Run::new(&["--verify", text(&torn)]).fails_with(4, &folder);
    assert!(stderr.contains("hint: a relay log does not say whether it was closed"), "{stderr}");

    file.extend(event(4, file.len(), 0x40, &rotate("db1-relay-bin.000002")));
    let report = inspect(&folder.write("db1-relay-bin.000001", &file));
    assert!(report.contains("closed          yes: db1-relay-bin.000002 follows\n"), "{report}");
}

#[test]
fn nobody_listening_on_stderr_changes_nothing() {
    let folder = Folder::new();
    let (plain, _) = transactions(1..4);
    let file = folder.write("binlog.000001", &plain);
    let missing = folder.path("missing");
    let out = folder.path("out");
    for (arguments, code) in [(vec![text(&missing)], 1), (vec!["-o", text(&out), text(&file)], 0)] {
        let (theirs, ours) = UnixStream::pair().unwrap();
        drop(theirs);
        let status = Command::new(env!("CARGO_BIN_EXE_binlog-decrypt"))
            .args(&arguments)
            .stdout(Stdio::null())
            .stderr(OwnedFd::from(ours))
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
    assert!(fs::read(out).unwrap() == plain);
}

#[test]
fn stdin_gives_what_the_file_gives() {
    let folder = Folder::new();
    let (plain, _) = transactions(1..3000);
    let keyring = folder.keyring("keyring", KEY_HEX);
    for bytes in [encrypted(&plain), plain.clone()] {
        let file = folder.write("binlog.000001", bytes);
        let run = Run::piped(&["--keyring", text(&keyring), "-"], &file);
        assert_eq!((run.code(), run.stderr().as_str()), (0, ""));
        assert!(run.bytes() == plain);
    }
    let cut = folder.write("cut", &encrypted(&plain)[..300]);
    let run = Run::piped(&["--keyring", text(&keyring), "-"], &cut);
    assert_eq!(run.code(), 4);
    assert!(run.stderr().starts_with("error: stdin: encryption header is cut"), "{}", run.stderr());
}

#[test]
fn a_transaction_larger_than_memory_is_held_back_until_it_is_whole() {
    let folder = Folder::new();
    let (mut plain, begins) = transactions(1..2);
    // Its GTID and BEGIN events, 40 MiB of rows, and its end.
    let (whole, _) = transactions(1..3);
    let (head, end) = (whole[begins[1]..begins[1] + 65 + 42].to_vec(), |at| event(16, at, 0, &[0; 8]));
    plain.extend(head);
    for _ in 0..40 {
        let row = event(29, plain.len(), 0, &vec![7; 1 << 20]);
        plain.extend(row);
    }
    let file = folder.write("open", &plain);
    let run = Run::new(&[text(&file)]);
    assert_eq!(run.code(), 4, "{}", run.stderr());
    assert!(run.bytes() == &plain[..begins[1]], "{}", run.bytes().len());
    plain.extend(end(plain.len()));
    let file = folder.write("whole", &plain);
    let run = Run::new(&[text(&file)]);
    assert_eq!(run.code(), 0, "{}", run.stderr());
    assert!(run.bytes() == plain);
}

#[test]
fn each_binlog_must_follow_the_one_before_it() {
    let folder = Folder::new();
    for (name, numbers) in [("binlog.000001", 1..4), ("binlog.000002", 4..9), ("binlog.000003", 9..11)] {
        folder.write(&format!("data/{name}"), encrypted(&transactions(numbers).0));
    }
    folder.write("data/binlog.index", "./binlog.000001\n./binlog.000002\n./binlog.000003\n");
    let keyring = folder.keyring("keyring", KEY_HEX);
    let data = folder.path("data");
    let index = data.join("binlog.index");
    for all in [&data, &index] {
        let run = Run::new(&["--verify", "--keyring", text(&keyring), text(all)]);
        assert_eq!(run.code(), 0, "{}", run.stderr());
        assert_eq!(run.stdout().lines().count(), 3);
        assert_eq!(run.stdout().matches(", follows ").count(), 2, "{}", run.stdout());
    }
    fs::remove_file(data.join("binlog.000002")).unwrap();
    let stderr = Run::new(&["--verify", "--keyring", text(&keyring), text(&data)]).fails_with(4, &folder);
    let expected = "error: DIR/data/binlog.000003 does not follow DIR/data/binlog.000001: \
                    transactions 00508583-b5ce-11e8-a6a5-0010e0734796:4-8 are in neither\n";
    assert!(stderr.starts_with(expected), "{stderr}");
    let stderr = Run::new(&["--verify", "--keyring", text(&keyring), text(&index)]).fails_with(1, &folder);
    assert!(stderr.contains("DIR/data/binlog.000002: No such file"), "{stderr}");
    // The wrong way round.
    let (third, first) = (data.join("binlog.000003"), data.join("binlog.000001"));
    let run = Run::new(&["--verify", "--keyring", text(&keyring), text(&third), text(&first)]);
    assert!(run.fails_with(4, &folder).contains("it was begun without"), "{}", run.stderr());
}

#[test]
fn an_interrupted_run_leaves_nothing_and_says_so() {
    let folder = Folder::new();
    let (plain, begins) = transactions(1..400);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let bytes = encrypted(&plain);
    // More than is read before anything is believed.
    assert!(begins[380] > 80 << 10);
    fs::create_dir(folder.path("out")).unwrap();
    for signal in ["INT", "TERM", "HUP"] {
        let out = folder.path("out/plain");
        let mut child = Command::new(env!("CARGO_BIN_EXE_binlog-decrypt"))
            .args(["--keyring", text(&keyring), "-o", text(&out), "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&bytes[..512 + begins[380]]).unwrap();
        // Once it has the output open, it waits for more.
        let open = |link: fs::DirEntry| fs::read_link(link.path()).is_ok_and(|to| to.starts_with(folder.path("out")));
        let descriptors = format!("/proc/{}/fd", child.id());
        while !fs::read_dir(&descriptors).unwrap().flatten().any(open) {
            assert!(child.try_wait().unwrap().is_none());
        }
        Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        assert_eq!(output.status.code(), Some(7), "{signal}");
        assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: interrupted\n"));
        assert_eq!(fs::read_dir(folder.path("out")).unwrap().count(), 0, "{signal}");
    }
}
