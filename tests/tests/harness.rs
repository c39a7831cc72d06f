//! The harness itself: what every other suite stands on.

use std::time::Duration;

use anyhow::Result;
use highwater_tests::{MysqlServer, State, Workload, Writer};

#[test]
fn state_names_every_kind_of_difference() -> Result<()> {
    let server = MysqlServer::builder().start()?;
    Workload::create(&server)?;
    let before = State::read_blocking(&server)?;
    before.require_equal(&State::read_blocking(&server)?)?;
    assert_eq!(before.gtids(), server.gtid_executed()?);

    server.sql(
        "SET sql_log_bin = 0;
         UPDATE shop.customers SET profile = JSON_SET(profile, '$.new', 1) WHERE id = 3;
         ALTER TABLE bank.transfers COMMENT 'changed';
         ALTER VIEW shop.best AS SELECT 1 AS one;
         DROP TRIGGER shop.count_orders;
         DROP FUNCTION bank.worth;
         ALTER EVENT bank.paused ENABLE;
         REVOKE DELETE ON shop.* FROM 'app'@'%';",
    )?;
    let facts: Vec<String> =
        before.differences(&State::read_blocking(&server)?).into_iter().map(|found| found.fact).collect();
    assert_eq!(
        facts,
        [
            "account 'app'@'%'",
            "event `bank`.`paused`",
            "function `bank`.`worth`",
            "rows of shop.customers",
            "table `bank`.`transfers`",
            "trigger `shop`.`count_orders`",
            "trigger order shop count_orders orders 1",
            "view `shop`.`best`",
        ]
    );
    Ok(())
}

#[test]
fn float_bits_count_in_the_state() -> Result<()> {
    let server = MysqlServer::builder().start()?;
    server.sql("CREATE DATABASE d; CREATE TABLE d.t (f FLOAT); INSERT INTO d.t VALUES (0.1 + 0.2)")?;
    let before = State::read_blocking(&server)?;
    // The next float prints as the same six digits.
    server.sql("SET sql_log_bin = 0; UPDATE d.t SET f = 0.30000004")?;
    assert_eq!(server.sql("SELECT f FROM d.t")?, "0.3");
    assert_eq!(before.differences(&State::read_blocking(&server)?).len(), 1);
    Ok(())
}

#[test]
fn writer_rests_while_paused_and_keeps_the_sum() -> Result<()> {
    let mut server = MysqlServer::builder().server_id(42).start()?;
    Workload::create(&server)?;
    let start = server.gtid_executed()?;
    let writer = Writer::start(&server, 7, Duration::ZERO)?;
    writer.wait_for(50)?;
    {
        let _paused = writer.pause();
        let executed = server.gtid_executed()?;
        State::read_blocking(&server)?;
        assert_eq!(server.gtid_executed()?, executed);
    }
    assert!(writer.stop()? >= 50);
    let uuid = server.uuid()?;
    assert_ne!(server.gtid_executed()?, start);
    Workload::check_balance(&server)?;

    let committed = server.gtid_executed()?;
    server.kill()?;
    server.start()?;
    assert_eq!(server.gtid_executed()?, committed);
    assert_eq!(server.sql("SELECT @@server_id, @@server_uuid")?, format!("42\t{uuid}"));
    assert!(server.sql("SHOW BINARY LOGS")?.contains("Yes"));
    Ok(())
}
