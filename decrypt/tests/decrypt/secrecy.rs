//! Keys stay inside: not in output, not in messages, not in a core file.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use crate::support::{Folder, KEY_HEX, KEY_ID, Run, encrypted, text, transactions};

/// SIGABRT's number.
const ABORT: i32 = 6;

#[test]
fn an_abort_while_keys_are_in_memory_leaves_no_core_file() {
    let folder = Folder::new();
    let keyring = folder.keyring("keyring", KEY_HEX);
    // More than is looked at before anything is believed.
    let (plain, begins) = transactions(1..2000);
    let file = folder.path("");
    let mut child = Command::new("sh")
        .args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_binlog-decrypt")])
        .args(["--keyring", text(&keyring), "-"])
        .current_dir(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || {
        // Nobody reads all of it.
        let _ = stdin.write_all(&encrypted(&plain)[..512 + begins[1900]]);
        stdin
    });
    // Once it gives plaintext and waits for more, the keys are in its memory.
    let mut first = [0; 4];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"\xfebin");
    let process = format!("/proc/{}", child.id());
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    Command::new("kill").args(["-ABRT", &child.id().to_string()]).status().unwrap();
    let status = child.wait().unwrap();
    drop(writer.join().unwrap());
    assert_eq!((status.signal(), status.core_dumped()), (Some(ABORT), false));
    assert_eq!(folder.names(), ["keyring"]);
}

#[test]
fn no_message_or_report_has_a_key_in_any_form() {
    let folder = Folder::new();
    let (plain, _) = transactions(1..3);
    let file = folder.write("binlog.000001", encrypted(&plain));
    let keyring = folder.keyring("keyring", KEY_HEX);
    let json = fs::read_to_string(&keyring).unwrap();
    // Broken in every place near the key, so that parsers have a reason to talk about it.
    let at = json.find("5EC5E7A1").unwrap();
    let mut texts = vec![json.clone(), json.replace("\"data\":\"", "\"data\":[\""), json.replace("\"AES\"", "7")];
    texts.extend((0..80).map(|n| format!("{}\u{1}{}", &json[..at + n - 8], &json[at + n - 8..])));
    texts.push(format!("1;{KEY_HEX}ff\n2;{KEY_HEX}x"));
    texts.push(format!("{{\"version\":1,\"server_uuid\":7,\"keys\":[{{\"id\":\"{KEY_ID}\",\"key\":\"{KEY_HEX}\"}}]}}"));
    for (n, content) in texts.iter().enumerate() {
        fs::write(&keyring, content).unwrap();
        for task in ["--inspect", "--verify"] {
            // `Run` looks for the key's digits in all that is printed.
            let run = Run::new(&[task, "--json", "--keyring", text(&keyring), text(&file)]);
            assert!(matches!(run.code(), 0 | 3), "{n}: {}", run.stderr());
        }
    }
    let raw: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&KEY_HEX[2 * i..2 * i + 2], 16).unwrap()).collect();
    let run = Run::new(&["--keyring", text(&keyring), "--json", "--inspect", text(&file)]);
    assert!(!run.bytes().windows(8).any(|window| window == &raw[..8]));
}
