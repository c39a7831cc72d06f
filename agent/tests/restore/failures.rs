//! Faults 8, 33, 47 and 48: what goes wrong, how it is told, and what is left on the target.

use highwater::exit::Exit;
use highwater::restore::{Phase, RestoreFailure, RestoreOptions};
use highwater_catalog::RestorePoint;
use highwater_tests::MysqlServer;

use super::archived::Archived;
use super::{odd_target, restore, restore_until, traces};

fn fill(source: &MysqlServer, rows: usize) {
    let insert = "INSERT INTO app.t (v) VALUES (1);";
    let sql = format!(
        "CREATE DATABASE app; CREATE TABLE app.t (id INT PRIMARY KEY AUTO_INCREMENT, v INT); {}",
        insert.repeat(rows)
    );
    source.sql(&sql).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_makes_a_target_unfit_is_said_at_once() {
    let source = MysqlServer::builder().start().unwrap();
    fill(&source, 3);
    let archived = Archived::of(&source);
    let latest = RestoreOptions::to(RestorePoint::Latest);
    let target = MysqlServer::builder()
        .server_id(2)
        .option("--gtid-mode=OFF")
        .option("--enforce-gtid-consistency=OFF")
        .option("--replica-exec-mode=IDEMPOTENT")
        .start()
        .unwrap();
    target.sql("CREATE DATABASE other; SET GLOBAL super_read_only = ON").unwrap();
    let failure = restore(&archived, &target, &latest).await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Target);
    let text = failure.to_string();
    for part in [
        "gtid_mode = OFF",
        "enforce_gtid_consistency = OFF",
        "super_read_only = ON",
        "replica_exec_mode = IDEMPOTENT",
        "not empty: it has 1 schemas (other)",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The source itself is never a target.
    let failure = restore(&archived, &source, &latest).await.unwrap_err();
    assert!(failure.to_string().contains("is a source of this archive"), "{failure}");
    assert!(failure.hint().unwrap().contains("RESET BINARY LOGS AND GTIDS"));
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_privileges_are_named() {
    let source = MysqlServer::builder().start().unwrap();
    fill(&source, 3);
    let archived = Archived::of(&source);
    let target = MysqlServer::builder().server_id(2).start().unwrap();
    target
        .sql("SET sql_log_bin = 0; CREATE USER weak@localhost; GRANT SELECT, INSERT ON *.* TO weak@localhost")
        .unwrap();
    let mut login = super::login(&target);
    login.user = "weak".to_owned();
    let stop = tokio_util::sync::CancellationToken::new();
    let options = RestoreOptions::to(RestorePoint::Latest);
    let silent: highwater::restore::ProgressSink = std::sync::Arc::new(|_| {});
    let failure =
        highwater::restore::run(&options, &archived.archive, &archived.inventory, Some(&login), silent, &stop)
            .await
            .unwrap_err();
    assert_eq!(failure.exit(), Exit::Target);
    let text = failure.to_string();
    assert!(text.contains("'weak'@'localhost' lacks CREATE, DROP, "), "{text}");
    assert!(text.contains("REPLICATION_SLAVE_ADMIN"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_segment_is_found_before_the_target_is_touched() {
    let source = MysqlServer::builder().start().unwrap();
    fill(&source, 20);
    let archived = Archived::of(&source);
    let target = odd_target(2);
    let before = traces(&target);
    let segment = &archived.inventory.segments[1];
    let key = highwater_catalog::segment_object_keys(segment)[0].parse().unwrap();
    let mut bytes = archived.store.get(&key).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    archived.store.overwrite(&key, bytes);
    let failure = restore(&archived, &target, &RestoreOptions::to(RestorePoint::Latest)).await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Damaged, "{failure}");
    assert_eq!(traces(&target), before);
    assert_eq!(target.gtid_executed().unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_replay_puts_settings_back_and_goes_on_later() {
    let source = MysqlServer::builder().start().unwrap();
    fill(&source, 400);
    let archived = Archived::of(&source);
    let target = odd_target(2);
    let before = traces(&target);
    let latest = RestoreOptions::to(RestorePoint::Latest);
    let (result, seen) = restore_until(&archived, &target, &latest, |p| p.phase == Phase::Replay).await;
    let failure = result.unwrap_err();
    assert!(matches!(failure, RestoreFailure::Interrupted { resumable: true, .. }), "{failure}");
    assert_eq!(failure.exit(), Exit::Interrupted);
    assert!(seen.iter().any(|p| p.phase == Phase::Prove && p.done == p.total && p.total > 0));
    assert_eq!(traces(&target).replace("highwater_restore", ""), before);

    // Another point is refused; the same one goes on.
    let other = RestoreOptions::to(RestorePoint::AfterGtid(archived.history[399].gtid.clone()));
    let failure = restore(&archived, &target, &other).await.unwrap_err();
    assert!(failure.to_string().contains("another restore was interrupted on the target"), "{failure}");
    let failure = restore(&archived, &target, &latest).await.unwrap_err();
    assert!(failure.to_string().contains("this very restore was interrupted"), "{failure}");
    assert_eq!(failure.hint().unwrap(), "add --continue to go on with it");
    let report = restore(&archived, &target, &RestoreOptions { resume: true, ..latest }).await.unwrap();
    assert!(report.resumed);
    assert_eq!(target.gtid_executed().unwrap(), source.gtid_executed().unwrap());
    assert_eq!(traces(&target), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn applier_error_is_told_with_its_transaction_which_can_be_left_out() {
    let source = MysqlServer::builder().start().unwrap();
    fill(&source, 5);
    source
        .sql(
            "DROP USER IF EXISTS nobody; SET sql_log_bin = 0; CREATE TABLE app.hidden (id INT PRIMARY KEY); \
                SET sql_log_bin = 1; INSERT INTO app.hidden VALUES (1); INSERT INTO app.t (v) VALUES (7)",
        )
        .unwrap();
    let archived = Archived::of(&source);
    let bad = &archived.history[archived.history.len() - 2].gtid;
    let target = odd_target(2);
    let before = traces(&target);
    let mut options = RestoreOptions::to(RestorePoint::Latest);
    let failure = restore(&archived, &target, &options).await.unwrap_err();
    let RestoreFailure::Applier { code, gtid, message } = &failure else { panic!("{failure}") };
    assert_eq!((*code, gtid.as_ref()), (1146, Some(bad)));
    assert!(message.contains("app.hidden"), "{message}");
    assert!(failure.hint().unwrap().contains(&format!("--exclude-gtid {bad}")));
    assert_eq!(failure.exit(), Exit::Failed);
    assert_eq!(traces(&target).replace("highwater_restore", ""), before);

    options.exclude_gtids.insert(bad);
    options.resume = true;
    let report = restore(&archived, &target, &options).await.unwrap();
    assert!(report.notes.contains(&format!("transactions left out: {bad}")), "{:?}", report.notes);
    assert_eq!(target.gtid_executed().unwrap(), source.gtid_executed().unwrap());
    assert_eq!(target.sql("SELECT MAX(v) FROM app.t").unwrap(), "7");
    assert_eq!(traces(&target), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_in_doubt_are_listed() {
    let source = MysqlServer::builder().start().unwrap();
    fill(&source, 3);
    source.sql("XA START 'a', 'b'; INSERT INTO app.t (v) VALUES (9); XA END 'a', 'b'; XA PREPARE 'a', 'b'").unwrap();
    let archived = Archived::of(&source);
    let target = MysqlServer::builder().server_id(2).start().unwrap();
    let report = restore(&archived, &target, &RestoreOptions::to(RestorePoint::Latest)).await.unwrap();
    assert_eq!(report.in_doubt, ["0x6162"]);
    assert_eq!(target.gtid_executed().unwrap(), source.gtid_executed().unwrap());
}
