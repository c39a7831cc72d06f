//! Events of the scheduler: none fires during a restore, and each ends as it was on the source.

use highwater::restore::RestoreOptions;
use highwater_catalog::RestorePoint;
use highwater_tests::MysqlServer;

use super::archived::Archived;
use super::{empty, odd_target, pause, restore};

const EVENTS: &str = "SELECT EVENT_SCHEMA, EVENT_NAME, STATUS, DEFINER, TIME_ZONE, SQL_MODE, EVENT_DEFINITION, \
                      CHARACTER_SET_CLIENT, COLLATION_CONNECTION, EVENT_COMMENT \
                      FROM information_schema.EVENTS ORDER BY 1, 2";

fn fill(source: &MysqlServer) {
    let each_second = "ON SCHEDULE EVERY 1 SECOND";
    let write = "DO INSERT INTO app.fired VALUES ()";
    source
        .sql(&format!(
            "CREATE DATABASE app; CREATE DATABASE gone; CREATE TABLE app.fired (id INT PRIMARY KEY AUTO_INCREMENT); \
             USE app; \
             SET SESSION time_zone = '+03:00', sql_mode = 'ANSI_QUOTES,NO_ZERO_DATE'; \
             CREATE DEFINER = 'nobody'@'else.where' EVENT on_at_source {each_second} {write}; \
             SET SESSION time_zone = 'SYSTEM', sql_mode = DEFAULT; \
             CREATE EVENT off_at_source {each_second} DISABLE {write}; \
             CREATE EVENT turned_off {each_second} {write}; \
             CREATE EVENT turned_on {each_second} DISABLE {write}; \
             CREATE EVENT dropped {each_second} {write}; \
             CREATE EVENT gone.with_its_schema {each_second} {write}; \
             CREATE EVENT `näme` {each_second} {write}; \
             CREATE EVENT renamed {each_second} {write}; \
             CREATE EVENT later_altered {each_second} {write}; \
             ALTER EVENT turned_off DISABLE; ALTER EVENT turned_on ENABLE; DROP EVENT dropped; DROP DATABASE gone; \
             ALTER EVENT renamed RENAME TO new_name; ALTER EVENT later_altered COMMENT 'DISABLE'; \
             INSERT INTO app.fired VALUES (1000)"
        ))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_end_as_on_the_source_and_none_fires() {
    let source = MysqlServer::builder().option("--event-scheduler=OFF").start().unwrap();
    fill(&source);
    let archived = Archived::of(&source);
    let target = odd_target(2);
    // Off at first, so that what the restore leaves can be compared before the scheduler goes on.
    target.sql("SET GLOBAL event_scheduler = OFF").unwrap();
    let report = restore(&archived, &target, &RestoreOptions::to(RestorePoint::Latest)).await.unwrap();
    assert_eq!(target.sql(EVENTS).unwrap(), source.sql(EVENTS).unwrap());
    assert_eq!((report.events.enabled, report.events.disabled, report.events.notes.len()), (5, 2, 0));
    assert_eq!(target.sql("SELECT GROUP_CONCAT(id) FROM app.fired").unwrap(), "1000");

    // With the scheduler on before: it is on again after, and then events fire.
    empty(&target);
    target.sql("SET GLOBAL event_scheduler = ON").unwrap();
    let mut options = RestoreOptions::to(RestorePoint::Latest);
    restore(&archived, &target, &options).await.unwrap();
    assert_eq!(target.sql("SELECT @@event_scheduler").unwrap(), "ON");
    pause(2_500).await;
    assert!(target.sql("SELECT COUNT(*) FROM app.fired").unwrap().parse::<u32>().unwrap() > 1);

    // Unless they are to stay disabled.
    target.sql("SET GLOBAL event_scheduler = OFF").unwrap();
    empty(&target);
    target.sql("SET GLOBAL event_scheduler = ON").unwrap();
    options.keep_events_disabled = true;
    let report = restore(&archived, &target, &options).await.unwrap();
    assert_eq!((report.events.enabled, report.events.disabled), (0, 7));
    pause(2_500).await;
    assert_eq!(target.sql("SELECT GROUP_CONCAT(id) FROM app.fired").unwrap(), "1000");
    assert_eq!(target.gtid_executed().unwrap(), archived.first(archived.history.len()).to_string());
}
