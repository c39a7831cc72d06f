//! `highwater restore` and `highwater find` as programs: what they print, and how they end.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use highwater_tests::MysqlServer;

use super::archived::Archived;
use super::{odd_target, traces};

const PASSWORD: &str = "correct horse battery staple";

fn fill(source: &MysqlServer, rows: usize) {
    let insert = "INSERT INTO app.t (v) VALUES (1);";
    let sql = format!(
        "CREATE DATABASE app; CREATE TABLE app.t (id INT PRIMARY KEY AUTO_INCREMENT, v INT); {} \
         DELETE FROM app.t; INSERT INTO app.t (v) VALUES (9)",
        insert.repeat(rows)
    );
    source.sql(&sql).unwrap();
}

/// An account that comes in over TCP.
fn admit(target: &MysqlServer, folder: &Path) {
    target
        .sql(&format!(
            "SET sql_log_bin = 0; CREATE USER restorer@'%' IDENTIFIED BY '{PASSWORD}'; \
             GRANT ALL ON *.* TO restorer@'%' WITH GRANT OPTION"
        ))
        .unwrap();
    std::fs::write(folder.join("pw"), format!("{PASSWORD}\n")).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder.join("pw"), std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn highwater(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    command.args(args).arg("--store").arg(folder.join("store")).current_dir(folder).env_remove("HIGHWATER_CONFIG");
    command
}

fn restore_to(folder: &Path, target: &MysqlServer, more: &[&str]) -> Command {
    let mut command = highwater(folder, &["restore"]);
    command
        .args(more)
        .arg(format!("--target=mysql://restorer@localhost:{}", target.port()))
        .arg("--target-password-file")
        .arg(folder.join("pw"))
        .arg("--target-ca")
        .arg(&target.tls().ca);
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn bad_transaction_is_found_and_everything_before_it_restored_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("store")).unwrap();
    let source = MysqlServer::builder().start().unwrap();
    fill(&source, 30);
    let archived = Archived::in_folder(&source, &folder.path().join("store"));
    let bad = archived.history[32].gtid.to_string();

    let found = highwater(folder.path(), &["find", "--table", "app.t", "--kind", "delete"]).output().unwrap();
    assert!(found.status.success(), "{}", text(&found));
    assert!(text(&found).contains(&bad) && text(&found).contains("DELETE 30 app.t"), "{}", text(&found));

    let planned = highwater(folder.path(), &["restore", "--dry-run", "--before-gtid", &bad]).output().unwrap();
    assert!(planned.status.success(), "{}", text(&planned));
    assert!(text(&planned).contains("dry run      nothing was changed"), "{}", text(&planned));
    assert!(text(&planned).contains(&format!("stops before {bad} at ")), "{}", text(&planned));

    let without = highwater(folder.path(), &["restore", "--before-gtid", &bad]).output().unwrap();
    assert_eq!(without.status.code(), Some(2), "{}", text(&without));

    let target = odd_target(1);
    admit(&target, folder.path());
    let before = traces(&target);
    let restored = restore_to(folder.path(), &target, &["--before-gtid", &bad, "--json"]).output().unwrap();
    assert!(restored.status.success(), "{}", text(&restored));
    let report: serde_json::Value = serde_json::from_slice(&restored.stdout).unwrap();
    assert_eq!(report["first_excluded"]["gtid"], bad.as_str());
    assert_eq!(report["transactions"], 32);
    assert_eq!(target.sql("SELECT COUNT(*) FROM app.t").unwrap(), "30");
    assert_eq!(target.gtid_executed().unwrap(), archived.first(32).to_string());
    assert_eq!(traces(&target), before);
    assert!(!text(&restored).contains(PASSWORD));

    // Once more: the target is not empty any longer.
    let again = restore_to(folder.path(), &target, &["--before-gtid", &bad]).output().unwrap();
    assert_eq!(again.status.code(), Some(6), "{}", text(&again));
    assert!(text(&again).contains("the target is not empty: it has 1 schemas (app)"), "{}", text(&again));
    assert!(text(&again).contains("hint: "), "{}", text(&again));
    let outside = restore_to(folder.path(), &target, &["--to", "1970-01-01T00:00:00.000001Z"]).output().unwrap();
    assert_eq!(outside.status.code(), Some(5), "{}", text(&outside));
}

#[test]
fn interrupt_ends_with_its_code_and_the_same_command_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("store")).unwrap();
    let source = MysqlServer::builder().start().unwrap();
    fill(&source, 1_500);
    Archived::in_folder(&source, &folder.path().join("store"));
    let target = odd_target(2);
    admit(&target, folder.path());
    let before = traces(&target);

    let mut running = restore_to(folder.path(), &target, &["--to", "latest"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    // root is made anew while the accounts are loaded, and cannot always look.
    let tables = "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'app'";
    while target.sql(tables).unwrap_or_default() != "1" {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing is replayed");
        std::thread::sleep(Duration::from_millis(5));
    }
    let interrupted = Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    assert!(running.wait().unwrap().code().is_some());
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert!(text(&output).contains("error: interrupted while replaying binlogs"), "{}", text(&output));
    assert_eq!(traces(&target).replace("highwater_restore", ""), before);

    let gone_on = restore_to(folder.path(), &target, &["--to", "latest", "--continue"]).output().unwrap();
    assert!(gone_on.status.success(), "{}", text(&gone_on));
    assert_eq!(target.gtid_executed().unwrap(), source.gtid_executed().unwrap());
    assert_eq!(target.sql("SELECT COUNT(*), MAX(v) FROM app.t").unwrap(), "1\t9");
    assert_eq!(traces(&target), before);
}
