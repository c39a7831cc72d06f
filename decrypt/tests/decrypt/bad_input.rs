//! Every byte of the header changed, every short length, foreign bytes: typed errors, never a panic, never a file.

use std::fs;

use crate::support::{Folder, KEY_HEX, KEY_ID, Run, encrypted, open, text, transactions};

#[test]
fn every_byte_of_the_header_changed_is_harmless_or_a_typed_error_without_output() {
    let folder = Folder::new();
    let (plain, _) = transactions(1..3);
    let whole = encrypted(&plain);
    let keyring = folder.keyring("keyring", KEY_HEX);
    fs::create_dir(folder.path("out")).unwrap();
    let mut files = Vec::new();
    for at in 0..512 {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        files.push(folder.write(&format!("in/binlog.{at:06}"), bytes));
    }
    let out = folder.path("out");
    let mut arguments = vec!["--json", "--keyring", text(&keyring), "--output-dir", text(&out)];
    arguments.extend(files.iter().map(|file| text(file)));
    let run = Run::new(&arguments);
    assert_eq!(run.code(), 4, "the first file's exit");
    let reports: Vec<serde_json::Value> =
        run.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports.len(), 512);
    for (at, report) in reports.iter().enumerate() {
        let made = out.join(format!("binlog.{at:06}"));
        // Magic, version, field marks: damaged. Key id, password, vector: a key that is missing or wrong. Padding: none.
        let expected = match at {
            0..=6 | 0x41 | 0x62 => "damaged",
            7..0x41 => "damaged",
            0x42..0x62 | 0x63..0x73 => "key",
            // A field after the last one where the end mark was.
            0x73 => "damaged",
            _ => "done",
        };
        let kind = report["error"]["kind"].as_str().unwrap_or("done");
        assert_eq!(kind, expected, "byte {at}: {report}");
        assert_eq!(made.exists(), expected == "done", "byte {at}");
        if expected == "done" {
            assert!(fs::read(made).unwrap() == plain, "byte {at}");
        }
    }
    assert_eq!(fs::read_dir(out).unwrap().count(), 512 - 0x74);
}

#[test]
fn a_key_id_that_is_another_one_is_a_missing_key_by_that_name() {
    let folder = Folder::new();
    let (plain, _) = transactions(1..3);
    let whole = encrypted(&plain);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let mut files = Vec::new();
    for at in 7..7 + KEY_ID.len() {
        let mut bytes = whole.clone();
        bytes[at] = if bytes[at] == b'7' { b'8' } else { b'7' };
        files.push(folder.write(&format!("in/binlog.{at:06}"), bytes));
    }
    let mut arguments = vec!["--json", "--verify", "--keyring", text(&keyring)];
    arguments.extend(files.iter().map(|file| text(file)));
    let run = Run::new(&arguments);
    assert_eq!(run.code(), 3);
    assert_eq!(run.stdout().lines().count(), KEY_ID.len());
    for (index, line) in run.stdout().lines().enumerate() {
        let mut other = KEY_ID.to_owned();
        let digit = if other[index..].starts_with('7') { "8" } else { "7" };
        other.replace_range(index..=index, digit);
        let report: serde_json::Value = serde_json::from_str(line).unwrap();
        let error = report["error"]["error"].as_str().unwrap();
        assert!(error.contains(&format!("key {other} is missing; searched ")), "{error}");
        assert_eq!(report["error"]["kind"], "key", "{report}");
    }
}

#[test]
fn every_length_below_2_kib_is_a_typed_error_or_whole_transactions() {
    let folder = Folder::new();
    let (plain, begins) = transactions(1..12);
    let plain = open(plain);
    let whole = encrypted(&plain);
    assert!(whole.len() > 2048);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let files: Vec<_> = (0..2048).map(|len| folder.write(&format!("in/binlog.{len:06}"), &whole[..len])).collect();
    let out = folder.path("out");
    let mut arguments = vec!["--json", "--keyring", text(&keyring), "--output-dir", text(&out)];
    arguments.extend(files.iter().map(|file| text(file)));
    let run = Run::new(&arguments);
    let reports: Vec<serde_json::Value> =
        run.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports.len(), 2048);
    let first = crate::support::opening(0).len();
    for (len, report) in reports.iter().enumerate() {
        let made = out.join(format!("binlog.{len:06}"));
        let stream = len.saturating_sub(512);
        if stream < first {
            assert_eq!(report["error"]["kind"], "damaged", "{len}: {report}");
            assert!(!made.exists(), "{len}");
            continue;
        }
        let ends = begins.iter().copied().chain([first]);
        let kept = ends.filter(|end| *end <= stream).max().unwrap();
        assert!(fs::read(made).unwrap() == plain[..kept], "{len}");
        assert_eq!(report["error"].is_null(), kept == stream, "{len}: {report}");
    }
}

#[test]
fn header_and_body_of_different_files_are_a_wrong_key_and_no_garbage() {
    let folder = Folder::new();
    let (plain, _) = transactions(1..3);
    let keyring = folder.keyring("keyring", KEY_HEX);
    let mut bytes = encrypted(&plain);
    // Another file's password: another wrapping of other bytes.
    bytes[0x42..0x62].copy_from_slice(&[0x5a; 32]);
    let file = folder.write("binlog.000001", bytes);
    let out = folder.path("out");
    let stderr = Run::new(&["--keyring", text(&keyring), "-o", text(&out), text(&file)]).fails_with(3, &folder);
    assert!(stderr.contains("does not open it"), "{stderr}");
    assert!(!out.exists() && !folder.path("out.partial").exists());
}

#[test]
fn keyrings_cut_or_changed_give_the_key_or_a_typed_error() {
    let folder = Folder::new();
    let (plain, _) = transactions(1..3);
    let file = folder.write("binlog.000001", encrypted(&plain));
    let keyring = folder.keyring("keyring", KEY_HEX);
    let whole = fs::read(&keyring).unwrap();
    for at in (0..whole.len()).step_by(11) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        for bytes in [&whole[..at], &bytes[..]] {
            fs::write(&keyring, bytes).unwrap();
            let run = Run::new(&["--keyring", text(&keyring), text(&file)]);
            match run.code() {
                0 => assert!(run.bytes() == plain, "{at}"),
                code => assert_eq!((code, run.bytes().len()), (3, 0), "{at}: {}", run.stderr()),
            }
        }
    }
}
