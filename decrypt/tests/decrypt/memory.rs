//! Keys are gone from memory when their owners are.
//!
//! The search runs in a process of its own, which opens a file, lets go of everything and then reads all of its memory.
//! What it looks for it has only with every bit of some flipped, so that it does not find itself.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use binlog_decrypt::{BinlogFile, Input, KeyPlaces, Keys};
use highwater_keyring::{FilePassword, MasterKey};
use sha2::{Digest, Sha512};

use crate::support::{Folder, encrypted_with, text, transactions};

/// What is flipped.
const MASK: u8 = 0xa5;

/// Where the process finds what it is to do: the keyring, the binlog, what to look for, and whether to leak it.
const VARIABLES: [&str; 4] = ["MEMORY_KEYRING", "MEMORY_BINLOG", "MEMORY_NEEDLES", "MEMORY_LEAK"];

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    std::io::Read::read_exact(&mut File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the process found, opening one file.
fn found(leak: bool) -> String {
    let folder = Folder::new();
    let (key, password) = (random(), random());
    let master = MasterKey::from_slice(&key).unwrap();
    let file = encrypted_with(&transactions(1..400).0, &master, &FilePassword::from_slice(&password).unwrap());
    let binlog = folder.write("binlog.000001", file);
    let keyring = folder.keyring("keyring", &hex(&key));
    let file_key = &Sha512::digest(password)[..32];
    let needles = [&key[..], &password, file_key, hex(&key).as_bytes(), hex(&key).to_uppercase().as_bytes()]
        .map(|needle| hex(&needle.iter().map(|byte| byte ^ MASK).collect::<Vec<_>>()))
        .join(" ");
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::in_a_process_of_its_own", "--nocapture"])
        .envs(VARIABLES.into_iter().zip([text(&keyring), text(&binlog), &needles, if leak { "yes" } else { "no" }]))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said} {}", String::from_utf8_lossy(&output.stderr));
    said.lines()
        .filter(|line| line.starts_with("found ") || line.starts_with("searched "))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn nothing_of_a_key_stays_when_its_owners_are_gone() {
    let clean = found(false);
    assert!(clean.starts_with("searched ") && !clean.contains("found "), "{clean}");
    let leaked = found(true);
    for needle in ["master key", "file password", "file key"] {
        assert!(leaked.contains(&format!("found {needle}")), "a leaked {needle} is not found: {leaked}");
    }
}

/// Does nothing unless the test above asks it to.
#[test]
fn in_a_process_of_its_own() {
    let [Ok(keyring), Ok(binlog), Ok(needles), Ok(leak)] = VARIABLES.map(std::env::var) else { return };
    let needles: Vec<Vec<u8>> = needles.split(' ').map(unhex).collect();
    let places = KeyPlaces { keyrings: vec![keyring.into()], ..KeyPlaces::default() };
    let leaked = open(&places, &Input::File(binlog.into()), leak == "yes");
    search(&needles);
    drop(leaked);
}

/// Opens the file and reads it to its end. What is returned is a leak.
#[inline(never)]
fn open(places: &KeyPlaces, binlog: &Input, leak: bool) -> Option<(Keys, FilePassword, Vec<u8>)> {
    let keys = Keys::collect(places).unwrap();
    let opened = BinlogFile::open(binlog).unwrap().opened(&keys).unwrap().expect("it is encrypted");
    let mut plain = Vec::new();
    let mut stream = BinlogFile::open(binlog).unwrap().unlock(&keys).unwrap().stream;
    let mut size = 0;
    while stream.next(&mut plain).unwrap() {
        size += plain.len();
    }
    assert!(size > 10_000);
    leak.then(|| {
        let file_key = Sha512::digest(opened.password.expose())[..32].to_vec();
        (keys, opened.password, file_key)
    })
}

fn unhex(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Reads everything that this process can, and prints what it finds.
fn search(needles: &[Vec<u8>]) {
    const NAMES: [&str; 5] = ["master key", "file password", "file key", "master key as text", "master key as TEXT"];
    const PART: usize = 1 << 20;
    let memory = File::open("/proc/self/mem").unwrap();
    let (mut searched, mut part) = (0u64, vec![0; PART + 64]);
    for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let (mut from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        while from < to {
            let len = part.len().min((to - from) as usize);
            let Ok(count) = memory.read_at(&mut part[..len], from) else { break };
            for (needle, name) in needles.iter().zip(NAMES) {
                let is_it = |window: &[u8]| window.iter().zip(needle).all(|(byte, flipped)| byte ^ MASK == *flipped);
                if let Some(at) = part[..count].windows(needle.len()).position(is_it) {
                    println!("found {name} at {:x} in {line}", from + at as u64);
                }
            }
            searched += count as u64;
            // What it found must not be found again in here.
            part.fill(0);
            from += if count > 64 { (count - 64).min(PART) as u64 } else { count.max(1) as u64 };
        }
    }
    println!("searched {searched} bytes");
}
