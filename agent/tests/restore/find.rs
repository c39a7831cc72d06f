//! Looking for a transaction by what it did.

use highwater::restore::{FindQuery, WantedKind, find};
use highwater_catalog::Micros;
use highwater_tests::MysqlServer;

use super::archived::Archived;

#[test]
fn the_bad_delete_is_found_by_time_table_kind_and_size() {
    let source = MysqlServer::builder().start().unwrap();
    let insert = "INSERT INTO app.t (v) VALUES (1), (2);";
    let sql = format!(
        "CREATE DATABASE app; CREATE TABLE app.t (id INT PRIMARY KEY AUTO_INCREMENT, v INT); {} \
         CREATE TABLE app.other (id INT PRIMARY KEY); DELETE FROM app.t WHERE id = 1; DO SLEEP(0.01); \
         SET SESSION binlog_transaction_compression = ON; DELETE FROM app.t; \
         SET SESSION binlog_transaction_compression = OFF; DO SLEEP(0.01); {} DROP TABLE app.other",
        insert.repeat(10),
        insert.repeat(10)
    );
    source.sql(&sql).unwrap();
    let archived = Archived::of(&source);
    let look = |query: FindQuery| find(&archived.archive, &archived.inventory, &query).unwrap();
    let all = FindQuery { limit: 100, ..FindQuery::default() };

    let deletes = look(FindQuery {
        table: Some("t".to_owned()),
        schema: Some("app".to_owned()),
        kinds: vec![WantedKind::Delete],
        rows_min: Some(2),
        ..all.clone()
    });
    let [bad] = &deletes.transactions[..] else { panic!("{deletes:?}") };
    assert_eq!(bad.changes.iter().map(|change| change.rows).collect::<Vec<_>>(), [Some(19)]);
    assert_eq!(bad.gtid.as_ref(), Some(&archived.history[14].gtid));
    assert_eq!(bad.committed, archived.history[14].committed);
    assert_eq!(bad.position, archived.history[13].end);
    assert!(!deletes.more);

    let near = look(FindQuery {
        from: Some(Micros(bad.committed.0 - 5_000)),
        until: Some(Micros(bad.committed.0 + 5_000)),
        ..all.clone()
    });
    assert_eq!(near.transactions, deletes.transactions);
    let ddl = look(FindQuery { kinds: vec![WantedKind::Ddl], ..all.clone() });
    assert_eq!(ddl.transactions.len(), 4);
    let last = look(FindQuery { limit: 3, ..all.clone() });
    assert_eq!((last.transactions.len(), last.more), (3, true));
    assert_eq!(last.transactions[2].gtid.as_ref(), archived.history.last().map(|t| &t.gtid));
    assert_eq!(look(all.clone()).transactions.len(), archived.history.len());
    let one = look(FindQuery { gtid: bad.gtid.clone(), ..all });
    assert_eq!(one.transactions, deletes.transactions);
}
