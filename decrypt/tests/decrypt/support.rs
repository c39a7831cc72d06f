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

/// The password of every file that [`encrypted`] makes.
pub(crate) const FILE_PASSWORD: [u8; 32] = [0x42; 32];

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

/// A plain binlog of a format description and `events` more events outside of transactions, and the offsets where each
/// event begins.
pub(crate) fn plain_binlog(events: usize) -> (Vec<u8>, Vec<usize>) {
    let mut file = opening(0);
    let mut offsets = vec![4];
    for n in 0..events {
        offsets.push(file.len());
        let body = vec![n as u8; 10 + 37 * n];
        file.extend(event(28, file.len(), 0x80, &body));
    }
    (file, offsets)
}

/// Magic and format description.
pub(crate) fn opening(flags: u16) -> Vec<u8> {
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
    file.extend(event(15, 4, flags, &description));
    file
}

/// The same binlog while its server has not closed it.
pub(crate) fn open(mut plain: Vec<u8>) -> Vec<u8> {
    plain[21] |= 1;
    plain
}

/// A plain binlog with the transactions `numbers` of one server, each of four events, after those before the first. Its
/// transactions begin at the offsets returned; the last of these is the end.
pub(crate) fn transactions(numbers: std::ops::Range<u64>) -> (Vec<u8>, Vec<usize>) {
    let mut file = opening(0);
    let uuid = *b"\x00\x50\x85\x83\xb5\xce\x11\xe8\xa6\xa5\x00\x10\xe0\x73\x47\x96";
    let mut previous = Vec::new();
    previous.extend_from_slice(&1u64.to_le_bytes());
    previous.extend_from_slice(&uuid);
    previous.extend_from_slice(&1u64.to_le_bytes());
    previous.extend_from_slice(&1u64.to_le_bytes());
    previous.extend_from_slice(&numbers.start.to_le_bytes());
    if numbers.start == 1 {
        previous = 0u64.to_le_bytes().to_vec();
    }
    file.extend(event(35, file.len(), 0, &previous));
    let mut offsets = Vec::new();
    for number in numbers {
        offsets.push(file.len());
        let mut gtid = vec![1];
        gtid.extend_from_slice(&uuid);
        gtid.extend_from_slice(&number.to_le_bytes());
        gtid.push(2);
        gtid.extend_from_slice(&[0; 16]);
        file.extend(event(33, file.len(), 0, &gtid));
        let mut query = vec![0; 13];
        query.extend_from_slice(b"\0BEGIN");
        file.extend(event(2, file.len(), 0, &query));
        file.extend(event(29, file.len(), 0, &vec![b'x'; 1 + (number as usize % 40) * 11]));
        file.extend(event(16, file.len(), 0, &number.to_le_bytes()));
    }
    offsets.push(file.len());
    (file, offsets)
}

/// `plain` the way a server with the tests' key writes it.
pub(crate) fn encrypted(plain: &[u8]) -> Vec<u8> {
    let key = MasterKey::from_hex(KEY_HEX.as_bytes()).unwrap();
    encrypted_with(plain, &key, &FilePassword::from_slice(&FILE_PASSWORD).unwrap())
}

/// `plain` under this key and password.
pub(crate) fn encrypted_with(plain: &[u8], key: &MasterKey, password: &FilePassword) -> Vec<u8> {
    let wrapped = WrappedFilePassword::wrap(password, key, [7; 16]);
    let mut body = plain.to_vec();
    StreamCipher::new(password).apply(0, &mut body);
    [&EncryptionHeader::new(KEY_ID.parse().unwrap(), wrapped).to_bytes()[..], &body].concat()
}

/// One run of the program.
pub(crate) struct Run(Output);

impl Run {
    pub(crate) fn new<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Self {
        Self::of(Command::new(env!("CARGO_BIN_EXE_binlog-decrypt")).args(arguments).stdin(Stdio::null()))
    }

    /// A run with a file as its stdin, through a pipe.
    pub(crate) fn piped<S: AsRef<std::ffi::OsStr>>(arguments: &[S], stdin: &Path) -> Self {
        let mut cat = Command::new("cat").arg(stdin).stdout(Stdio::piped()).spawn().expect("cat runs");
        let pipe = cat.stdout.take().expect("a pipe");
        let run = Self::of(Command::new(env!("CARGO_BIN_EXE_binlog-decrypt")).args(arguments).stdin(pipe));
        cat.wait().expect("cat ends");
        run
    }

    fn of(command: &mut Command) -> Self {
        let run = Self(command.output().expect("the program runs"));
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
