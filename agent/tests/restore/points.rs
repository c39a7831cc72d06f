//! Faults 49 and 40: every kind of point is an exact boundary.

use highwater::exit::Exit;
use highwater::restore::{RestoreOptions, find_stop};
use highwater_binlog::BinlogPosition;
use highwater_catalog::{Micros, RestorePoint};
use highwater_tests::{MysqlServer, State};

use super::archived::Archived;
use super::{empty, odd_target, restore, traces};

fn fill(source: &MysqlServer) {
    let insert = "INSERT INTO app.t (v) VALUES (1); DO SLEEP(0.002);";
    let sql = format!(
        "CREATE DATABASE app; CREATE TABLE app.t (id INT PRIMARY KEY AUTO_INCREMENT, v INT); {} FLUSH BINARY LOGS; {}",
        insert.repeat(15),
        insert.repeat(15)
    );
    source.sql(&sql).unwrap();
}

#[test]
fn each_point_is_an_exact_boundary() {
    let source = MysqlServer::builder().start().unwrap();
    fill(&source);
    let archived = Archived::of(&source);
    let find = |point: &RestorePoint| find_stop(&archived.archive, &archived.inventory, None, point).unwrap();
    for (at, transaction) in archived.history.iter().enumerate() {
        let before = find(&RestorePoint::BeforeGtid(transaction.gtid.clone()));
        assert_eq!(before.stop.gtids, archived.first(at), "before {at}");
        assert_eq!(before.stop.first_excluded.as_ref().unwrap().gtid, transaction.gtid);
        assert_eq!(before.stop.first_excluded.unwrap().committed, Some(transaction.committed));
        let after = find(&RestorePoint::AfterGtid(transaction.gtid.clone()));
        assert_eq!(after.stop.gtids, archived.first(at + 1), "after {at}");
        // A time is inclusive: what was committed at exactly that time is in.
        let time = find(&RestorePoint::Time(transaction.committed));
        assert_eq!(time.stop.gtids, archived.first(at + 1), "time {at}");
        assert_eq!(time.later_with_earlier_time, 0);
        let position = find(&RestorePoint::Position(transaction.end.clone()));
        assert_eq!(position.stop.gtids, archived.first(at + 1), "position {at}");
        let inside = BinlogPosition { offset: transaction.end.offset - 1, ..transaction.end.clone() };
        assert_eq!(find(&RestorePoint::Position(inside)).stop.gtids, archived.first(at), "inside {at}");
    }
    let end = archived.history.len();
    assert_eq!(find(&RestorePoint::Latest).stop.gtids, archived.first(end));
    let just_before = RestorePoint::Time(Micros(archived.history[10].committed.0 - 1));
    assert_eq!(find(&just_before).stop.gtids, archived.first(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn target_has_exactly_the_wanted_transactions_and_is_left_as_it_was() {
    let source = MysqlServer::builder().server_id(7).start().unwrap();
    fill(&source);
    let at_last = State::read(&source).await.unwrap();
    let archived = Archived::of(&source);
    // The same server_id as the source: a replica would silently skip everything.
    let target = odd_target(7);
    let before = traces(&target);
    let bad = &archived.history[20];
    for (point, count) in [
        (RestorePoint::BeforeGtid(bad.gtid.clone()), 20),
        (RestorePoint::AfterGtid(bad.gtid.clone()), 21),
        (RestorePoint::Time(archived.history[9].committed), 10),
        (RestorePoint::Latest, archived.history.len()),
    ] {
        let report = restore(&archived, &target, &RestoreOptions::to(point.clone())).await.unwrap();
        assert_eq!(report.plan.stop.gtids, archived.first(count));
        assert_eq!(target.gtid_executed().unwrap(), archived.first(count).to_string(), "{point}");
        // The first two transactions create the schema and the table.
        assert_eq!(target.sql("SELECT COUNT(*) FROM app.t").unwrap(), (count - 2).to_string());
        assert_eq!(traces(&target), before, "{point}");
        assert_eq!((report.executed, report.resumed), (true, false));
        assert_eq!(report.notes, ["the account used for this restore now has the source's password and privileges"]);
        if point == RestorePoint::Latest {
            at_last.require_equal(&State::read(&target).await.unwrap()).unwrap();
        }
        empty(&target);
    }
    let mut options = RestoreOptions::to(RestorePoint::Latest);
    options.dry_run = true;
    let report = restore(&archived, &target, &options).await.unwrap();
    assert!(!report.executed);
    assert_eq!(target.gtid_executed().unwrap(), "");
    assert_eq!(traces(&target), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_transaction_is_an_unreachable_point() {
    let source = MysqlServer::builder().start().unwrap();
    source.sql("CREATE DATABASE app").unwrap();
    let archived = Archived::of(&source);
    let target = MysqlServer::builder().server_id(2).start().unwrap();
    let gtid = "11111111-1111-1111-1111-111111111111:5".parse().unwrap();
    let failure = restore(&archived, &target, &RestoreOptions::to(RestorePoint::BeforeGtid(gtid))).await.unwrap_err();
    assert_eq!(failure.exit(), Exit::Unreachable);
    assert_eq!(failure.to_string(), "no segment has transaction 11111111-1111-1111-1111-111111111111:5");
}
