//! The archive without Highwater: the commands of docs/by-hand.md, and nothing else.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use highwater_tests::{Finished, Installation, MysqlServer, State, Workload, Writer, mysql_program};

#[test]
fn the_page_about_restoring_by_hand_works_as_it_stands() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Workload::create(&source)?;
    let highwater = Installation::new(&source)?;
    highwater.configure("seal", "object_bytes_max = 65536")?;
    let mut agent = highwater.agent()?;
    let writer = Writer::start(&source, 21, Duration::from_millis(2))?;
    highwater.wait_for_dump(&mut agent)?;
    writer.wait_for(100)?;
    source.sql("CREATE TABLE shop.large (id INT PRIMARY KEY, body LONGBLOB)")?;
    source.sql("INSERT INTO shop.large VALUES (1, REPEAT('large ', 50000)), (2, RANDOM_BYTES(1000))")?;
    source.sql("FLUSH BINARY LOGS")?;
    writer.wait_for(50)?;
    let (before, bad) = {
        let _paused = writer.pause();
        let before = State::read_blocking(&source)?;
        source.sql("DELETE FROM shop.items")?;
        (before.clone(), source.only_gtid_since(before.gtids())?)
    };
    writer.wait_for(20)?;
    writer.stop()?;
    source.sql("FLUSH BINARY LOGS; CREATE DATABASE afterwards")?;
    highwater.wait_for_gtids(&mut agent, &source.gtid_executed()?)?;
    agent.kill()?;
    let segments = highwater.json(&["list", "segments"])?;
    let in_several = |segment: &serde_json::Value| segment["objects"].as_u64() > Some(1);
    ensure!(segments.as_array().is_some_and(|all| all.iter().any(in_several)), "no segment is in several objects");

    let target = MysqlServer::builder().server_id(2).start()?;
    let out = highwater.folder().join("by-hand");
    run_page(&highwater, &target, &out, &bad)?;
    before.require_equal(&State::read_blocking(&target)?)?;

    // Files that the source closed are whole; of the open one there is the beginning.
    let names = source.binlogs()?;
    for name in &names {
        let expected = source.remote_binlog(name)?;
        let rebuilt = fs::read(out.join("binlogs").join(name))?;
        ensure!(expected.starts_with(&rebuilt), "{name} is not what the server wrote");
        ensure!(expected.len() == rebuilt.len() || Some(name) == names.last(), "{name} is not whole");
    }
    digests_are_those_of_b3sum(&highwater)
}

/// FORMAT.md, "Sealing": both digests of every object, by age, zstd and b3sum alone.
fn digests_are_those_of_b3sum(highwater: &Installation) -> Result<()> {
    let script = r#"
        for manifest in "$ARCHIVE"/segments/*/*.json; do
            field() { sed -n "s/^ *\"$1\": \"\(.*\)\",\{0,1\}\$/\1/p" "$manifest"; }
            whole=$(field plain_blake3 | head -n 1)
            for key in $(field key); do age --decrypt -i "$IDENTITY" "$ARCHIVE/$key" | zstd -dq; done |
                b3sum --check <(echo "$whole  -")
            paste -d ' ' <(field stored_blake3) <(field key) |
                while read -r digest key; do echo "$digest  $ARCHIVE/$key"; done | b3sum --check
        done
    "#;
    let checked = Finished::run(
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", script])
            .env("ARCHIVE", highwater.store())
            .env("IDENTITY", highwater.identity()),
    )?
    .success()?;
    let count = String::from_utf8(checked.stdout)?.lines().filter(|line| line.ends_with(": OK")).count();
    ensure!(count > 10, "{count} digests checked");
    Ok(())
}

/// Runs all shell blocks of the page as one script, with the programs of our MySQL and its login on the path.
fn run_page(highwater: &Installation, target: &MysqlServer, out: &Path, before: &str) -> Result<()> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/by-hand.md"))?;
    let blocks: Vec<&str> = page.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    ensure!(blocks.len() >= 5, "the page has {} blocks", blocks.len());
    let bin = highwater.folder().join("bin");
    fs::create_dir_all(&bin)?;
    // A person has the login in an option file.
    let client = format!(
        "#!/bin/sh\nexec {} --user=root --socket={} \"$@\"\n",
        mysql_program("mysql")?.display(),
        target.socket().display()
    );
    for (name, text) in [
        ("mysql", client),
        ("mysqlbinlog", format!("#!/bin/sh\nexec {} \"$@\"\n", mysql_program("mysqlbinlog")?.display())),
    ] {
        fs::write(bin.join(name), text)?;
        Command::new("chmod").arg("755").arg(bin.join(name)).status()?;
    }
    ensure!(Command::new("age").arg("--version").output().is_ok(), "age is missing: run scripts/setup");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    Finished::run(
        Command::new("bash")
            .args(["-euo", "pipefail", "-c", &blocks.concat()])
            .env("PATH", path)
            .env("ARCHIVE", highwater.store())
            .env("IDENTITY", highwater.identity())
            .env("OUT", out)
            .env("BEFORE", before),
    )?
    .success()?;
    Ok(())
}
