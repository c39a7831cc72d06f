//! The program from outside: what it prints, and the code it ends with.

mod archive;
mod help;
mod init;
mod restore;
mod secrecy;
mod usage;

use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder to run the program in; `$DIR` stands for it in what is expected.
struct Place {
    folder: tempfile::TempDir,
}

/// What a run printed, and its exit code.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn run(&self, words: &[&str]) -> Ran {
        self.run_with(words, &[])
    }

    fn run_with(&self, words: &[&str], environment: &[(&str, &str)]) -> Ran {
        let folder = self.path("");
        let folder = folder.to_str().unwrap().trim_end_matches('/');
        let words: Vec<String> = words.iter().map(|word| word.replace("$DIR", folder)).collect();
        let output = Command::new(env!("CARGO_BIN_EXE_highwater"))
            .args(words)
            .current_dir(folder)
            .env_remove("HIGHWATER_CONFIG")
            .env("TZ", "UTC")
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(folder, "$DIR");
        Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Runs what must be refused: nothing on stdout, exactly this on stderr.
    #[track_caller]
    fn refused(&self, words: &[&str], code: i32, stderr: &str) {
        let expected = Ran { code, stdout: String::new(), stderr: stderr.to_owned() };
        assert_eq!(self.run(words), expected);
    }

    /// Makes a configuration, an identity and an archive.
    fn init(&self) {
        let ran = self.run(&["init", "--service", "orders", "--store", "$DIR/store", "--state-dir", "$DIR/state"]);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
