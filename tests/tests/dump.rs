//! Dumps of real servers, loaded into other real servers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use highwater::archive::Archive;
use highwater::dump::{self, DumpError, DumpOptions, DumpProgress, LoadError, LoadReport, TakenDump};
use highwater::seal::Recipients;
use highwater::secret::Password;
use highwater::server::{ServerAddress, ServerLogin, TlsPolicy};
use highwater::store::DirectoryStore;
use highwater_catalog::TimelineId;
use highwater_tests::{MysqlServer, State, TOTAL_BALANCE, Workload, Writer, mysql_program};
use tempfile::TempDir;

const TYPES: &str = include_str!("../fixtures/types.sql");
const OBJECTS: &str = include_str!("../fixtures/objects.sql");

fn login(server: &MysqlServer, user: &str, password: Option<&str>) -> ServerLogin {
    ServerLogin {
        address: ServerAddress::Socket(server.socket()),
        user: user.to_owned(),
        password: password.map(|text| Password::new(text.to_owned())),
        tls: TlsPolicy::default(),
    }
}

fn archive(folder: &TempDir) -> Result<Archive> {
    let store = DirectoryStore::open(folder.path())?;
    Ok(Archive::create(Arc::new(store), "orders".parse()?, Recipients::default())?)
}

fn options() -> DumpOptions {
    DumpOptions { chunk_bytes: 1 << 20, lock_wait: Duration::from_secs(20), ..DumpOptions::new(TimelineId(1)) }
}

async fn take(server: &MysqlServer, archive: &Archive) -> Result<TakenDump, DumpError> {
    dump::take(&login(server, "root", None), archive, &options(), &|_| {}).await
}

async fn load(server: &MysqlServer, archive: &Archive, taken: &TakenDump) -> Result<LoadReport> {
    let mut conn = server.connect().await?;
    let report = dump::load::load(&mut conn, archive, &taken.dump, &|_| {}).await?;
    conn.disconnect().await?;
    Ok(report)
}

/// Every stored column's values as hexadecimal of what the server holds, summed by table: bytes, bits of numbers, the
/// JSON types of every part of a document.
fn contents(server: &MysqlServer) -> Result<BTreeMap<String, String>> {
    let columns = server.sql(
        "SET SESSION show_gipk_in_create_table_and_information_schema = ON, group_concat_max_len = 1000000;
         SELECT HEX(CONCAT('`', REPLACE(TABLE_SCHEMA, '`', '``'), '`.`', REPLACE(TABLE_NAME, '`', '``'), '`')),
                HEX(CONCAT('`', REPLACE(COLUMN_NAME, '`', '``'), '`')), DATA_TYPE
         FROM information_schema.COLUMNS JOIN information_schema.TABLES USING (TABLE_SCHEMA, TABLE_NAME)
         WHERE TABLE_TYPE = 'BASE TABLE' AND TABLE_SCHEMA NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema')",
    )?;
    let mut contents = BTreeMap::new();
    for line in columns.lines() {
        let mut parts = line.split('\t');
        let mut next = || parts.next().context("three columns");
        let (table, column, data_type) = (unhex(next()?)?, unhex(next()?)?, next()?.to_owned());
        let value = match data_type.as_str() {
            "float" | "double" => format!("HEX(CONCAT({column} * 1e0))"),
            "enum" | "set" | "bit" => format!("HEX(CAST({column} AS UNSIGNED))"),
            "json" => format!(
                "CONCAT(HEX({column}), COALESCE(JSON_TYPE({column}), ''), (SELECT COALESCE(GROUP_CONCAT(JSON_TYPE(v)), '') FROM JSON_TABLE({column}, '$**[*]' COLUMNS (v JSON PATH '$')) x))"
            ),
            _ => format!("HEX({column})"),
        };
        let sum = server.sql(&format!(
            "SET SESSION time_zone = '+00:00', group_concat_max_len = 1000000;
             SELECT COUNT(*), COUNT({column}), COALESCE(SUM(CAST(CONV(LEFT(SHA2({value}, 256), 15), 16, 10) AS DECIMAL(40,0))), 0) FROM {table}"
        ))?;
        contents.insert(format!("{table}.{column} ({data_type})"), sum);
    }
    let tables: Vec<String> = contents.keys().filter_map(|key| key.split("`.`").next().map(str::to_owned)).collect();
    ensure!(!tables.is_empty(), "no tables to compare");
    Ok(contents)
}

fn unhex(text: &str) -> Result<String> {
    Ok(String::from_utf8(hex::decode(text)?)?)
}

/// What differs between two maps, for a readable failure.
fn differences(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<String> {
    let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    keys.into_iter()
        .filter(|key| a.get(*key) != b.get(*key))
        .map(|key| format!("{key}: {:?} {:?}", a.get(key), b.get(key)))
        .collect()
}

#[tokio::test]
async fn every_type_comes_back_bit_for_bit() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    let target = MysqlServer::builder().server_id(2).start()?;
    source.sql(TYPES)?;
    let folder = TempDir::new()?;
    let archive = archive(&folder)?;
    let taken = take(&source, &archive).await?;
    assert!(taken.warnings.is_empty(), "{:?}", taken.warnings);
    assert_eq!(taken.dump.gtids.to_string(), source.gtid_executed()?);
    let report = load(&target, &archive, &taken).await?;
    assert!(report.not_restored.is_empty(), "{:?}", report.not_restored);
    let (there, here) = (contents(&source)?, contents(&target)?);
    assert!(there.len() > 150, "{}", there.len());
    assert_eq!(differences(&there, &here), Vec::<String>::new());
    let state = State::read(&source).await?;
    let loaded = State::read(&target).await?;
    assert_eq!(
        state
            .differences(&loaded)
            .into_iter()
            .filter(|d| d.fact != "gtid_executed")
            .map(|d| format!("{d:?}"))
            .collect::<Vec<_>>(),
        Vec::<String>::new()
    );
    // Nothing of the load is in the target's history, and its settings are as before.
    assert_eq!(target.gtid_executed()?, "");
    assert_eq!(target.sql("SELECT @@GLOBAL.local_infile, @@GLOBAL.log_bin_trust_function_creators")?, "0\t0");
    Ok(())
}

#[tokio::test]
async fn views_code_events_and_accounts_come_back_as_they_were() -> Result<()> {
    let source = MysqlServer::builder().option("--event-scheduler=OFF").start()?;
    let target = MysqlServer::builder().server_id(2).option("--event-scheduler=OFF").start()?;
    source.sql(OBJECTS)?;
    let folder = TempDir::new()?;
    let archive = archive(&folder)?;
    let taken = take(&source, &archive).await?;
    let report = load(&target, &archive, &taken).await?;
    assert_eq!(report.not_restored, Vec::<String>::new());
    let texts = "SET character_set_results = binary;
        SELECT HEX(CONCAT_WS('|', ROUTINE_SCHEMA, ROUTINE_NAME, ROUTINE_DEFINITION, SQL_MODE, CHARACTER_SET_CLIENT, COLLATION_CONNECTION, DATABASE_COLLATION, DEFINER, SECURITY_TYPE, ROUTINE_COMMENT)) FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA IN ('alpha', 'zeta') ORDER BY ROUTINE_NAME;
        SELECT HEX(CONCAT_WS('|', EVENT_SCHEMA, EVENT_NAME, TIME_ZONE, EVENT_DEFINITION, EXECUTE_AT, INTERVAL_VALUE, SQL_MODE, STARTS, ENDS, STATUS, ON_COMPLETION, EVENT_COMMENT, CHARACTER_SET_CLIENT, DATABASE_COLLATION, DEFINER)) FROM information_schema.EVENTS WHERE EVENT_SCHEMA <> 'sys' ORDER BY EVENT_NAME;
        SELECT HEX(CONCAT_WS('|', TRIGGER_NAME, ACTION_ORDER, ACTION_STATEMENT, SQL_MODE, CHARACTER_SET_CLIENT, DATABASE_COLLATION, DEFINER)) FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA <> 'sys' ORDER BY TRIGGER_NAME;
        SELECT HEX(CONCAT_WS('|', TABLE_SCHEMA, TABLE_NAME, VIEW_DEFINITION, CHECK_OPTION, DEFINER, SECURITY_TYPE, CHARACTER_SET_CLIENT, COLLATION_CONNECTION)) FROM information_schema.VIEWS WHERE TABLE_SCHEMA <> 'sys' ORDER BY 1;
        SELECT * FROM information_schema.ST_SPATIAL_REFERENCE_SYSTEMS WHERE SRS_ID = 990001;
        SELECT * FROM mysql.user ORDER BY User, Host; SELECT * FROM mysql.global_grants ORDER BY 1, 2, 3; SELECT User, Host, Db FROM mysql.db ORDER BY 1, 2, 3;
        SELECT User, Host, Proxied_user FROM mysql.proxies_priv ORDER BY 1, 2, 3; SELECT * FROM mysql.role_edges ORDER BY 1, 2, 3, 4; SELECT * FROM mysql.default_roles ORDER BY 1, 2, 3, 4;
        SELECT User, Host, Table_name, Table_priv, Column_priv FROM mysql.tables_priv ORDER BY 1, 2, 3; SELECT User, Host, Column_name, Column_priv FROM mysql.columns_priv ORDER BY 1, 2, 3;
        SELECT User, Host, Routine_name, Proc_priv FROM mysql.procs_priv ORDER BY 1, 2, 3";
    let (there, here) = (source.sql(texts)?, target.sql(texts)?);
    for (there, here) in there.lines().zip(here.lines()) {
        assert_eq!(without_password_times(there), without_password_times(here));
    }
    assert_eq!(there.lines().count(), here.lines().count());
    // Nobody can open this one, as on the source; its text was compared above.
    for server in [&source, &target] {
        server.sql("SET sql_log_bin = 0; DROP VIEW alpha.`quotes ``\"'`")?;
    }
    let (state, loaded) = (State::read(&source).await?, State::read(&target).await?);
    let different: Vec<String> = state
        .differences(&loaded)
        .into_iter()
        .filter(|difference| difference.fact != "gtid_executed")
        .map(|difference| format!("{difference:?}"))
        .collect();
    assert_eq!(different, Vec::<String>::new());
    // Old texts still say what they said.
    assert_eq!(
        target.sql("SELECT HEX(a), HEX(b) FROM alpha.old_view")?,
        source.sql("SELECT HEX(a), HEX(b) FROM alpha.old_view")?
    );
    let insert = "SET sql_log_bin = 0; INSERT INTO alpha.`té` VALUES (1, '0'); SELECT v FROM alpha.`té`";
    assert_eq!(target.sql(insert)?, "0123");
    let states: Vec<(&str, &str)> =
        report.events.iter().map(|event| (event.name.as_str(), event.status.as_str())).collect();
    assert!(states.contains(&("running", "ENABLED")) && states.contains(&("paused", "DISABLED")), "{states:?}");
    assert!(states.contains(&("passed", "ENABLED")) && states.contains(&("ended", "ENABLED")), "{states:?}");
    Ok(())
}

/// `mysql.user` has the time of the last password change, which no statement sets.
fn without_password_times(line: &str) -> String {
    let fields: Vec<&str> = line.split('\t').filter(|field| !(field.len() == 19 && field.starts_with("20"))).collect();
    fields.join("\t")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invariant_across_tables_holds_in_every_dump_taken_while_it_is_written() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Workload::create(&source)?;
    let writer = Writer::start(&source, 31, Duration::from_millis(1))?;
    for _ in 0..3 {
        let folder = TempDir::new()?;
        let archive = archive(&folder)?;
        let taken = take(&source, &archive).await?;
        let target = MysqlServer::builder().server_id(2).start()?;
        load(&target, &archive, &taken).await?;
        assert_eq!(target.sql("SELECT SUM(balance) FROM bank.accounts")?, TOTAL_BALANCE.to_string());
        assert!(taken.dump.method.contains("LOCK INSTANCE FOR BACKUP"), "{}", taken.dump.method);
    }
    writer.stop()?;
    Ok(())
}

#[tokio::test]
async fn missing_privileges_are_named_one_by_one() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT); CREATE VIEW d.v AS SELECT 1; CREATE EVENT d.e ON SCHEDULE EVERY 1 DAY DO SELECT 1; CREATE PROCEDURE d.p () SELECT 1; CREATE TRIGGER d.tr BEFORE INSERT ON d.t FOR EACH ROW SET @a = 1")?;
    let needed = ["SELECT", "SHOW VIEW", "TRIGGER", "EVENT", "XA_RECOVER_ADMIN", "LOCK TABLES"];
    let folder = TempDir::new()?;
    let archive = archive(&folder)?;
    for left_out in needed {
        let rest: Vec<&str> = needed.into_iter().filter(|name| *name != left_out).collect();
        source.sql(&format!(
            "DROP USER IF EXISTS dumper; CREATE USER dumper IDENTIFIED BY 'x'; GRANT {} ON *.* TO dumper",
            rest.join(", ")
        ))?;
        let error = dump::take(&login(&source, "dumper", Some("x")), &archive, &options(), &|_| {}).await.unwrap_err();
        assert!(error.to_string().contains(left_out), "{error}");
    }
    // With exactly these, and each way to lock, a dump is complete.
    for (further, method) in [
        ("LOCK TABLES", "schema compared before and after; LOCK TABLES"),
        ("FLUSH_TABLES", "schema compared before and after; FLUSH TABLES WITH READ LOCK"),
        ("BACKUP_ADMIN, RELOAD, REPLICATION CLIENT, PROCESS", "LOCK INSTANCE FOR BACKUP; FLUSH TABLES WITH READ LOCK"),
    ] {
        source.sql(&format!("DROP USER dumper; CREATE USER dumper IDENTIFIED BY 'x'; GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, XA_RECOVER_ADMIN, {further} ON *.* TO dumper"))?;
        let taken = dump::take(&login(&source, "dumper", Some("x")), &archive, &options(), &|_| {}).await?;
        assert!(taken.dump.method.starts_with(method), "{}", taken.dump.method);
        assert_eq!(taken.dump.position.is_some(), further.contains("REPLICATION CLIENT"));
    }
    Ok(())
}

#[tokio::test]
async fn what_no_snapshot_covers_is_refused_by_name() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.my (a INT) ENGINE=MyISAM; INSERT INTO d.my VALUES (1), (2); CREATE TABLE d.mem (a INT) ENGINE=MEMORY; INSERT INTO d.mem VALUES (3); CREATE TABLE d.hole (a INT) ENGINE=BLACKHOLE; CREATE TABLE d.xa (a INT)")?;
    let folder = TempDir::new()?;
    let archive = archive(&folder)?;
    let error = take(&source, &archive).await.unwrap_err();
    assert_eq!(error.to_string(), "2 tables in engines without transactions: d.mem (MEMORY), d.my (MyISAM)");
    let allowed = DumpOptions { allow_non_transactional: true, ..options() };
    let taken = dump::take(&login(&source, "root", None), &archive, &allowed, &|_| {}).await?;
    let target = MysqlServer::builder().server_id(2).start()?;
    load(&target, &archive, &taken).await?;
    assert_eq!(
        target.sql("SELECT SUM(a) FROM d.my; SELECT SUM(a) FROM d.mem; SELECT COUNT(*) FROM d.hole")?,
        "3\n3\n0"
    );

    source.sql("XA START 'x'; INSERT INTO d.xa VALUES (1); XA END 'x'; XA PREPARE 'x'")?;
    let impatient = DumpOptions { lock_wait: Duration::from_secs(1), ..allowed };
    let error = dump::take(&login(&source, "root", None), &archive, &impatient, &|_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "1 XA transaction prepared and neither committed nor rolled back");
    assert_eq!(archive.inventory()?.dumps.len(), 1, "a dump that failed is not published");
    Ok(())
}

#[tokio::test]
async fn json_that_text_cannot_hold_is_named() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, fine JSON, typed JSON);
        INSERT INTO d.t VALUES (1, '{\"a\": [1, 1.5, null, true, \"x.y\"]}', JSON_OBJECT('at', CAST('2020-01-01' AS DATETIME))),
          (2, JSON_ARRAY(CAST(5 AS UNSIGNED), 1.5e0), JSON_ARRAY(CAST(1.5 AS DECIMAL(10,1)))), (3, '0.1', CAST(CAST('x' AS BINARY) AS JSON)), (4, NULL, NULL), (5, '5', '5')")?;
    let folder = TempDir::new()?;
    let archive = archive(&folder)?;
    let taken = take(&source, &archive).await?;
    assert_eq!(taken.warnings.len(), 1, "{:?}", taken.warnings);
    assert!(taken.warnings[0].starts_with("d.t.typed: 3 JSON documents"), "{:?}", taken.warnings);
    Ok(())
}

#[tokio::test]
async fn a_dump_that_lost_a_row_or_a_file_is_not_loaded() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (a INT PRIMARY KEY); INSERT INTO d.t VALUES (1), (2)")?;
    let folder = TempDir::new()?;
    let archive = archive(&folder)?;
    let mut taken = take(&source, &archive).await?;
    for file in &mut taken.dump.files {
        if let highwater_catalog::DumpFileKind::Rows { rows, .. } = &mut file.kind {
            *rows = 3;
        }
    }
    let target = MysqlServer::builder().server_id(2).start()?;
    let mut conn = target.connect().await?;
    let error = dump::load::load(&mut conn, &archive, &taken.dump, &|_| {}).await.unwrap_err();
    assert_eq!(error.to_string(), "load data/000001.tsv into d.t: 2 rows arrived of 3");
    taken.dump.files.remove(0);
    let error = dump::load::load(&mut conn, &archive, &taken.dump, &|_| {}).await.unwrap_err();
    assert!(matches!(error, LoadError::Unknown { .. }), "{error}");
    Ok(())
}

/// Runs `act` when the first table's rows are read.
fn at_first_table(act: impl Fn() + Send + Sync) -> impl Fn(DumpProgress) + Send + Sync {
    let once = std::sync::Once::new();
    move |progress| {
        if progress.tables_done > 0 {
            once.call_once(&act);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_change_waits_for_the_dump_or_makes_it_fail() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    let tables = "CREATE DATABASE d; CREATE TABLE d.a (id INT PRIMARY KEY); INSERT INTO d.a VALUES (1); CREATE TABLE d.b (id INT PRIMARY KEY)";
    source.sql(tables)?;
    source.sql("CREATE USER dumper IDENTIFIED BY 'x'; GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, XA_RECOVER_ADMIN, RELOAD ON *.* TO dumper")?;
    let folder = TempDir::new()?;
    let archive = archive(&folder)?;

    let change = || {
        let changed = source.sql("SET SESSION lock_wait_timeout = 1; ALTER TABLE d.a ADD COLUMN more INT");
        assert!(changed.unwrap_err().to_string().contains("Lock wait timeout"));
        source.sql("INSERT INTO d.a VALUES (2)").unwrap();
    };
    let root = login(&source, "root", None);
    dump::take(&root, &archive, &options(), &at_first_table(change)).await?;
    source.sql("ALTER TABLE d.a ADD COLUMN more INT")?;

    for (statement, changed) in [
        ("ALTER TABLE d.a DROP COLUMN more", "tables"),
        ("CREATE USER late", "accounts"),
        ("CREATE VIEW d.v AS SELECT 1", "views"),
    ] {
        let change = || drop(source.sql(statement).unwrap());
        let dumper = login(&source, "dumper", Some("x"));
        let error = dump::take(&dumper, &archive, &options(), &at_first_table(change)).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("schema or accounts changed during the dump: {changed} while rows were read"),
            "{statement}"
        );
    }
    assert_eq!(archive.inventory()?.dumps.len(), 1);
    assert_eq!(source.sql("SELECT COUNT(*) FROM performance_schema.metadata_locks WHERE LOCK_TYPE = 'SHARED_READ_ONLY' OR OBJECT_TYPE = 'BACKUP LOCK'")?, "0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_changes_and_events_all_the_time_do_not_keep_a_dump_from_its_point() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    source.sql(
        "CREATE DATABASE d; CREATE TABLE d.a (id INT AUTO_INCREMENT PRIMARY KEY); INSERT INTO d.a VALUES (NULL);
         CREATE EVENT d.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO d.a VALUES (NULL);
         CREATE USER flusher IDENTIFIED BY 'x'; CREATE USER locker IDENTIFIED BY 'x';
         GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, XA_RECOVER_ADMIN, BACKUP_ADMIN ON *.* TO flusher, locker;
         GRANT RELOAD ON *.* TO flusher; GRANT LOCK TABLES ON *.* TO locker",
    )?;
    let folder = TempDir::new()?;
    let archive = archive(&folder)?;
    let is_done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let changing: Vec<_> = (0..3)
            .map(|n| {
                let (source, is_done) = (&source, &is_done);
                threads.spawn(move || -> Result<()> {
                    while !is_done.load(Ordering::Relaxed) {
                        source.sql(&format!("CREATE TABLE d.t{n} (id INT); DROP TABLE d.t{n}"))?;
                    }
                    Ok(())
                })
            })
            .collect();
        let taken = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for (user, lock) in [("flusher", "FLUSH TABLES WITH READ LOCK"), ("locker", "LOCK TABLES")] {
                    for _ in 0..3 {
                        let (login, options) = (login(&source, user, Some("x")), options());
                        let dump = dump::take(&login, &archive, &options, &|_| {});
                        let method = tokio::time::timeout(Duration::from_secs(60), dump).await??.dump.method;
                        let expected = format!("LOCK INSTANCE FOR BACKUP; {lock} held");
                        ensure!(method.starts_with(&expected), "{method}");
                    }
                }
                Ok(())
            })
        });
        is_done.store(true, Ordering::Relaxed);
        changing.into_iter().try_for_each(|thread| thread.join().unwrap())?;
        taken
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_query_makes_nobody_wait() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.a (id INT PRIMARY KEY); INSERT INTO d.a VALUES (1)")?;
    let folder = TempDir::new()?;
    let archive = archive(&folder)?;
    std::thread::scope(|threads| {
        // Ends with an error when it is killed below.
        threads.spawn(|| source.sql("SELECT SLEEP(600) FROM d.a"));
        let long = "SELECT ID FROM performance_schema.processlist WHERE INFO LIKE 'SELECT SLEEP%' AND TIME >= 3";
        let id = loop {
            let id = source.sql(long)?;
            if !id.is_empty() {
                break id;
            }
        };
        let taken = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(take(&source, &archive)));
        let written =
            source.sql("SET SESSION lock_wait_timeout = 1; INSERT INTO d.a VALUES (2); SELECT COUNT(*) FROM d.a");
        source.sql(&format!("KILL {id}"))?;
        assert_eq!(written?, "2");
        let method = taken?.dump.method;
        assert!(method.contains("; LOCK TABLES held"), "{method}");
        Ok(())
    })
}

#[tokio::test]
async fn the_mysql_client_reads_every_file_of_a_dump() -> Result<()> {
    let source = MysqlServer::builder().option("--event-scheduler=OFF").start()?;
    source.sql(TYPES)?;
    Workload::create(&source)?;
    let folder = TempDir::new()?;
    let archive = archive(&folder)?;
    let taken = take(&source, &archive).await?;
    let target =
        MysqlServer::builder().server_id(2).option("--event-scheduler=OFF").option("--local-infile=ON").start()?;
    let files = TempDir::new()?;
    for file in &taken.dump.files {
        let path = files.path().join(&file.name);
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::io::copy(&mut archive.read_dump_file(&taken.dump, file)?, &mut std::fs::File::create(&path)?)?;
    }
    for file in taken.dump.files.iter().filter(|file| file.name.ends_with(".sql")) {
        let client = std::process::Command::new(mysql_program("mysql")?)
            .args(["--user=root", "--binary-mode", "--comments", "--local-infile=1"])
            .arg(format!("--socket={}", target.socket().display()))
            .current_dir(files.path())
            .stdin(std::fs::File::open(files.path().join(&file.name))?)
            .output()?;
        ensure!(client.status.success(), "{}: {}", file.name, String::from_utf8_lossy(&client.stderr));
    }
    // It has UNSIGNED INTEGERs, which JSON text does not tell from INTEGERs.
    let exact = |server| {
        contents(server).map(|mut all| {
            all.retain(|column, _| !column.starts_with("`shop`.`customers`.`profile`"));
            all
        })
    };
    assert_eq!(differences(&exact(&source)?, &exact(&target)?), Vec::<String>::new());
    Ok(())
}
