//! A dump taken while others write, then binlogs, then everything back to the moment before.

use highwater::dump::{DumpOptions, take};
use highwater::restore::RestoreOptions;
use highwater_catalog::{RestorePoint, TimelineId};
use highwater_tests::{MysqlServer, State, Workload};

use super::archived::Archived;
use super::{login, odd_target, restore, traces};

#[tokio::test(flavor = "multi_thread")]
async fn server_comes_back_as_it_was_before_the_bad_delete() {
    let source = MysqlServer::builder().option("--event-scheduler=OFF").start().unwrap();
    Workload::create(&source).unwrap();
    Workload::create_ticker(&source).unwrap();
    let mut workload = Workload::new(7);
    let mut connection = source.connect().await.unwrap();
    for _ in 0..40 {
        workload.step(&mut connection).await.unwrap();
    }
    let mut archived = Archived::new(&source);
    let taken = take(&login(&source), &archived.archive, &DumpOptions::new(TimelineId(1)), &|_| {}).await.unwrap();
    for _ in 0..40 {
        workload.step(&mut connection).await.unwrap();
    }
    source
        .sql("CREATE EVENT bank.late ON SCHEDULE EVERY 1 DAY DO DO 1; CREATE USER late@'%' IDENTIFIED BY 'x'")
        .unwrap();
    let before = State::read(&source).await.unwrap();
    source.sql("SET SQL_SAFE_UPDATES = 0; SET FOREIGN_KEY_CHECKS = 0; DELETE FROM bank.accounts").unwrap();
    source.sql("CREATE TABLE bank.later (id INT PRIMARY KEY)").unwrap();
    archived.publish_binlogs(&source);
    let bad = &archived.history[archived.history.len() - 2];

    let target = odd_target(1);
    let traces_before = traces(&target);
    // On a fresh server the ticker would fire at once: compared is what the restore leaves.
    target.sql("SET GLOBAL event_scheduler = OFF").unwrap();
    let point = RestorePoint::BeforeGtid(bad.gtid.clone());
    let report = restore(&archived, &target, &RestoreOptions::to(point)).await.unwrap();
    assert_eq!(report.plan.dump.id, taken.dump.id);
    let after = State::read(&target).await.unwrap();
    before.require_equal(&after).unwrap();
    assert_eq!(target.gtid_executed().unwrap(), report.plan.stop.gtids.to_string());
    target.sql("SET GLOBAL event_scheduler = ON").unwrap();
    assert_eq!(traces(&target), traces_before);

    // The dump alone, which has nothing to replay.
    let only_dump = odd_target(2);
    only_dump.sql("SET GLOBAL event_scheduler = OFF").unwrap();
    let dumped = archived.history.iter().rfind(|t| taken.dump.gtids.contains(&t.gtid)).unwrap();
    let point = RestorePoint::AfterGtid(dumped.gtid.clone());
    let report = restore(&archived, &only_dump, &RestoreOptions::to(point)).await.unwrap();
    assert_eq!(report.plan.stop.gtids, taken.dump.gtids);
    assert_eq!(only_dump.gtid_executed().unwrap(), taken.dump.gtids.to_string());
}
