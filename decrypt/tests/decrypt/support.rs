//! Binlogs, keyrings and runs of the program for the tests beside this file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use highwater_binlog::{EncryptionHeader, StreamCipher};
use highwater_keyring::{FilePassword, Keyring, MasterKey, WrappedFilePassword};
use tempfile::TempDir;

/// A key id that a server would choose.
pub(crate) const KEY_ID: &str = "MySQLReplicationKey_00508583-b5ce-11e8-a6a5-0010e0734796_1";

/// The key's bytes in these tests; its digits must never be printed.
pub(crate) const KEY_HEX: &str = "5ec5e7a15ec5e7a15ec5e7a15ec5e7a15ec5e7a15ec5e7a15ec5e7a15ec5e7a1";

/// A folder with whatever a test puts into it.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A component_keyring_file with the tests' key, or a key of other bytes under the same id.
    pub(crate) fn keyring(&self, name: &str, hex: &str) -> PathBuf {
        let mut keyring = Keyring::new();
        keyring.insert(KEY_ID.parse().unwrap(), MasterKey::from_hex(hex.as_bytes()).unwrap());
        self.write(name, keyring.to_component_file())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// An event with a right checksum.
pub(crate) fn event(event_type: u8, offset: usize, flags: u16, body: &[u8]) -> Vec<u8> {
    let len = 19 + body.len() + 4;
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&1_700_000_000u32.to_le_bytes());
    bytes.push(event_type);
    bytes.extend_from_slice(&1u32.to_le_bytes());
    bytes.extend_from_slice(&(len as u32).to_le_bytes());
    bytes.extend_from_slice(&((offset + len) as u32).to_le_bytes());
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes.extend_from_slice(body);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A plain binlog of a format description and `events` more events, and the offsets where each event begins.
pub(crate) fn plain_binlog(events: usize) -> (Vec<u8>, Vec<usize>) {
    let mut description = Vec::new();
    description.extend_from_slice(&4u16.to_le_bytes());
    let mut version = b"9.7.4".to_vec();
    version.resize(50, 0);
    description.extend_from_slice(&version);
    description.extend_from_slice(&1_700_000_000u32.to_le_bytes());
    description.push(19);
    description.extend_from_slice(&[0; 42]);
    description.push(1);
    let mut file = vec![0xfe, b'b', b'i', b'n'];
    let mut offsets = vec![file.len()];
    file.extend(event(15, 4, 0, &description));
    for n in 0..events {
        offsets.push(file.len());
        let body = vec![n as u8; 10 + 37 * n];
        file.extend(event(29, file.len(), 0, &body));
    }
    (file, offsets)
}

/// `plain` the way a server with the tests' key writes it.
pub(crate) fn encrypted(plain: &[u8]) -> Vec<u8> {
    let password = FilePassword::from_slice(&[0x42; 32]).unwrap();
    let key = MasterKey::from_hex(KEY_HEX.as_bytes()).unwrap();
    let wrapped = WrappedFilePassword::wrap(&password, &key, [7; 16]);
    let mut body = plain.to_vec();
    StreamCipher::new(&password).apply(0, &mut body);
    [&EncryptionHeader::new(KEY_ID.parse().unwrap(), wrapped).to_bytes()[..], &body].concat()
}

/// One run of the program.
pub(crate) struct Run(Output);

impl Run {
    pub(crate) fn new<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Self {
        let output = Command::new(env!("CARGO_BIN_EXE_binlog-decrypt"))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the program runs");
        let run = Self(output);
        // Whatever a test is about: no run ever prints the key.
        let shown = format!("{}{}", run.stderr(), String::from_utf8_lossy(&run.0.stdout)).to_lowercase();
        assert!(!shown.contains(&KEY_HEX[..16]), "{shown}");
        run
    }

    pub(crate) fn code(&self) -> i32 {
        self.0.status.code().unwrap()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0.stdout
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// Asserts the exit code and returns stderr with `folder`'s path replaced by `DIR`.
    pub(crate) fn fails_with(&self, code: i32, folder: &Folder) -> String {
        assert_eq!(self.code(), code, "{}", self.stderr());
        self.stderr().replace(&folder.path("").display().to_string(), "DIR/")
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
