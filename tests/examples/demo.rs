//! The whole way once, on real servers: `scripts/demo`.

use std::fmt::Display;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use highwater_tests::{Installation, MysqlServer, State, Workload, Writer};

/// Where an event's flags lie in the first event of a binlog, and the flag that says the file is open.
const IN_USE: (usize, u8) = (21, 1);

fn main() -> ExitCode {
    let story = Story { started: Instant::now(), number: 0 };
    match tell(story) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tell(mut story: Story) -> Result<()> {
    let source = story.step("start the source: encrypted binlog, GTIDs, keyring component", || {
        let source = MysqlServer::builder().start()?;
        let version = source.sql("SELECT VERSION()")?;
        Ok((source, format!("MySQL {version}")))
    })?;
    let writers = story.step("create schemas and accounts; two clients begin to write", || start_writing(&source))?;
    let (highwater, mut agent) = story.step("start the agent on a directory store, sealed to an age key", || {
        let highwater = Installation::new(&source)?;
        let agent = highwater.agent()?;
        Ok(((highwater, agent), "highwater agent".to_owned()))
    })?;
    story.step("full dump while the writes go on", || {
        let before = written(&writers);
        highwater.wait_for_dump(&mut agent)?;
        Ok(((), format!("{} transactions were committed meanwhile", written(&writers) - before)))
    })?;
    story.step("rotate the binlog master key and the binlog; write more", || {
        writers.iter().try_for_each(|writer| writer.wait_for(100))?;
        source.sql("ALTER INSTANCE ROTATE BINLOG MASTER KEY; FLUSH BINARY LOGS")?;
        writers.iter().try_for_each(|writer| writer.wait_for(200))?;
        Ok(((), format!("{} transactions so far", written(&writers))))
    })?;
    let quiet = story.step("note the state at a quiet moment, then write more", || {
        let moment = {
            let _paused: Vec<_> = writers.iter().map(Writer::pause).collect();
            let state = State::read_blocking(&source)?;
            (source.now()?, state)
        };
        writers.iter().try_for_each(|writer| writer.wait_for(200))?;
        let told = moment.0.clone();
        Ok((moment, told))
    })?;
    let disaster =
        story.step("DISASTER: DELETE FROM shop.orders, without its WHERE", || disaster(&source, &writers))?;
    story.step("nobody notices: more writes, all of them archived", || {
        writers.iter().try_for_each(|writer| writer.wait_for(100))?;
        let total = written(&writers);
        for writer in writers {
            writer.stop()?;
        }
        highwater.wait_for_gtids(&mut agent, &source.gtid_executed()?)?;
        Ok(((), format!("{total} transactions")))
    })?;
    story.step("highwater status", || {
        show(&highwater.run(&["status"])?.success()?.text());
        Ok(((), "the recoverable window".to_owned()))
    })?;
    story.step("highwater find --table shop.orders --kind delete", || {
        let found = highwater.run(&["find", "--table", "shop.orders", "--kind", "delete"])?.success()?.text();
        show(&found);
        ensure!(found.contains(&disaster.0), "the bad transaction {} was not found", disaster.0);
        Ok(((), format!("found {}", disaster.0)))
    })?;
    restore(&mut story, &highwater, &["--before-gtid", &disaster.0], &disaster.1)?;
    restore(&mut story, &highwater, &["--to", &quiet.0], &quiet.1)?;
    story.step("binlog-decrypt the source's files from its disk; compare with mysqlbinlog --raw", || {
        decrypt_everything(&source, &highwater)
    })?;
    story.step("stop the agent", || {
        let status = agent.terminate(Duration::from_secs(60))?;
        ensure!(matches!(status.code(), Some(0 | 7)), "the agent ended with {status}: {}", agent.stderr());
        Ok(((), status.to_string()))
    })?;
    println!("\nEverything came back. {} steps, {:.1} s.", story.number, story.started.elapsed().as_secs_f64());
    Ok(())
}

/// Numbers, times and prints the steps.
struct Story {
    started: Instant,
    number: u32,
}

impl Story {
    fn step<T, D: Display>(&mut self, title: &str, run: impl FnOnce() -> Result<(T, D)>) -> Result<T> {
        self.number += 1;
        println!("{:>2}. {title}", self.number);
        let started = Instant::now();
        let (value, told) = run().with_context(|| format!("step {}, {title}", self.number))?;
        println!("    ok, {:.1} s: {told}", started.elapsed().as_secs_f64());
        Ok(value)
    }
}

fn show(text: &str) {
    text.lines().for_each(|line| println!("      | {line}"));
}

fn written(writers: &[Writer]) -> u64 {
    writers.iter().map(Writer::transactions).sum()
}

fn start_writing(source: &MysqlServer) -> Result<(Vec<Writer>, String)> {
    Workload::create(source)?;
    Workload::create_ticker(source)?;
    let rest = Duration::from_millis(5);
    let writers = vec![Writer::start(source, 1, rest)?, Writer::start(source, 2, rest)?];
    writers.iter().try_for_each(|writer| writer.wait_for(50))?;
    Ok((writers, "foreign keys, views, trigger, routines, events, generated and JSON columns, grants".to_owned()))
}

/// Runs the bad statement; returns its GTID and the state just before it.
fn disaster(source: &MysqlServer, writers: &[Writer]) -> Result<((String, State), String)> {
    let _paused: Vec<_> = writers.iter().map(Writer::pause).collect();
    source.sql("SET GLOBAL event_scheduler = OFF")?;
    Workload::check_balance(source)?;
    let before = State::read_blocking(source)?;
    let lost = source.sql("SELECT COUNT(*) FROM shop.orders")?;
    source.sql("DELETE FROM shop.orders")?;
    let gtid = source.only_gtid_since(before.gtids())?;
    source.sql("SET GLOBAL event_scheduler = ON")?;
    Ok(((gtid.clone(), before), format!("{lost} orders and their items are gone; it was {gtid}")))
}

fn restore(story: &mut Story, highwater: &Installation, point: &[&str], wanted: &State) -> Result<()> {
    let title = format!("restore {} into an empty server", point.join(" "));
    let target = story.step(&title, || {
        let target = MysqlServer::builder().server_id(2).option("--event-scheduler=OFF").start()?;
        let finished = highwater.restore(&target, point)?.success()?;
        show(&finished.text());
        Ok((target, "done".to_owned()))
    })?;
    story.step("compare with what the source had at that very transaction", || {
        let found = State::read_blocking(&target)?;
        wanted.require_equal(&found)?;
        Workload::check_balance(&target)?;
        for name in found.names().filter(|name| name.starts_with("rows of ")) {
            println!("      | {:<28} {}", &name["rows of ".len()..], found.fact(name).unwrap_or_default());
        }
        println!("      | gtid_executed                {}", found.gtids());
        Ok((
            (),
            format!(
                "{} tables, {} accounts and {} other facts are equal, the GTID set too",
                found.tables(),
                found.accounts(),
                found.facts() - found.tables() - found.accounts(),
            ),
        ))
    })
}

fn decrypt_everything(source: &MysqlServer, highwater: &Installation) -> Result<((), String)> {
    let (mut files, mut bytes) = (0, 0);
    source.sql("SET GLOBAL event_scheduler = OFF")?;
    let names = source.binlogs()?;
    for name in &names {
        let path = source.data().join(name);
        ensure!(fs::read(&path)?.starts_with(b"\xfdbin"), "{name} is not encrypted");
        let decrypted = highwater
            .programs()
            .decrypt([path.as_os_str(), "--keyring".as_ref(), source.keyring().as_os_str()])?
            .success()?
            .stdout;
        let mut expected = source.remote_binlog(name)?;
        // The server clears the flag of the open file in what it sends; on the disk it is set.
        if Some(name) == names.last() {
            expected[IN_USE.0] |= decrypted[IN_USE.0] & IN_USE.1;
        }
        ensure!(decrypted == expected, "{name} differs from mysqlbinlog --raw");
        files += 1;
        bytes += decrypted.len();
    }
    Ok(((), format!("{files} files, {bytes} bytes, equal")))
}
