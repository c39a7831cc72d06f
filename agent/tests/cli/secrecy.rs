//! Keys stay inside: no core file, and nobody else of the account looks in.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Place;

/// SIGABRT's number.
const ABORT: i32 = 6;

/// Any machine starts a program within this.
const LIMIT: Duration = Duration::from_secs(60);

/// A command of this account without root's capabilities, which see everything.
fn unprivileged(program: &str) -> Command {
    let uid = Command::new("id").arg("-u").output().unwrap().stdout;
    if uid != b"0\n" {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", program]);
    command
}

/// The program as it waits for its configuration, allowed to leave a core file of any size.
fn waiting(place: &Place) -> Child {
    let config = place.path("config");
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&config).status().unwrap().success());
    unprivileged("sh")
        .args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_highwater"), "--config"])
        .arg(config)
        .arg("status")
        .current_dir(place.path(""))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_abort_leaves_no_core_file_and_the_account_itself_cannot_look_in() {
    let place = Place::new();
    let mut child = waiting(&place);
    let process = format!("/proc/{}", child.id());
    let read = |file: &str| {
        let path = format!("{process}/{file}");
        unprivileged("cat").arg(path).stderr(Stdio::null()).stdout(Stdio::null()).status().unwrap().success()
    };
    // Between two programs of the same process nobody looks in either.
    let is_started = || fs::read_to_string(format!("{process}/comm")).unwrap() == "highwater\n";
    wait_until("it can be looked into", || is_started() && ["environ", "maps", "mem"].iter().all(|file| !read(file)));
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
    // What monitoring needs stays readable.
    assert!(read("status") && read("stat"));
    assert!(Command::new("kill").args(["-ABRT", &child.id().to_string()]).status().unwrap().success());
    let status = child.wait().unwrap();
    assert_eq!((status.signal(), status.core_dumped()), (Some(ABORT), false));
    let names: Vec<_> = fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["config"]);
}
