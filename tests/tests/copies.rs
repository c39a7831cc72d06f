//! An archive in two stores, with the agent and either store dying.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use highwater_tests::{Installation, MysqlServer, State, Workload, Writer};

#[test]
fn either_store_alone_restores_and_none_is_left_behind() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    Workload::create(&source)?;
    let highwater = Installation::new(&source)?;
    let copy = highwater.folder().join("copy");
    let lines = format!("[[copies]]\nkind = \"directory\"\npath = \"{}\"\n\n[seal]\n", copy.display());
    highwater.change_config("[seal]\n", &lines)?;

    // A copy is not made by the agent: the folder may be a file system that is not mounted.
    let refused = highwater.run(&["doctor"])?;
    ensure!(refused.text().contains(&format!("open the folder in {}", copy.display())), "{}", refused.text());
    ensure!(!copy.exists());
    fs::create_dir(&copy)?;
    let refused = highwater.run(&["doctor"])?;
    ensure!(refused.text().contains("holds no copy of the archive in"), "{}", refused.text());
    let made = highwater.run(&["init"])?.success()?;
    ensure!(made.text().contains("made  copy of service shop in"), "{}", made.text());

    let mut agent = highwater.agent()?;
    let writer = Writer::start(&source, 21, Duration::from_millis(2))?;
    highwater.wait_for_dump(&mut agent)?;
    writer.wait_for(100)?;
    highwater.catch_up(&mut agent, &source)?;
    agent.kill()?;
    // As if it had died between the two stores.
    let manifests = files(&copy)?.into_keys().filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    let last = manifests.filter(|path| path.starts_with("segments")).max();
    fs::remove_file(copy.join(last.ok_or_else(|| anyhow::anyhow!("no segment was published"))?))?;
    let mut agent = highwater.agent()?;
    writer.wait_for(50)?;
    writer.stop()?;
    highwater.catch_up(&mut agent, &source)?;
    agent.signal("TERM")?;
    agent.wait(Duration::from_secs(30))?;
    highwater.run(&["verify"])?.success()?;
    ensure!(files(&highwater.store())? == files(&copy)?, "the stores have different objects");

    let expected = State::read_blocking(&source)?;
    let (gone, alone) = (highwater.folder().join("gone"), [highwater.store(), copy]);
    for (lost, number) in alone.iter().zip(2..) {
        fs::rename(lost, &gone)?;
        let target = MysqlServer::builder().server_id(number).start()?;
        let restored = highwater.restore(&target, &["--to", "latest"])?.success()?;
        ensure!(restored.stderr.contains("a store cannot be read"), "{}", restored.stderr);
        expected.require_equal(&State::read_blocking(&target)?)?;
        let refused = highwater.run(&["verify"])?;
        ensure!(refused.stderr.contains(&lost.display().to_string()), "{}", refused.stderr);
        ensure!(highwater.run(&["dump"])?.code == Some(1), "a required store is missing");
        ensure!(!lost.exists(), "an absent folder is never made");
        fs::rename(&gone, lost)?;
    }
    Ok(())
}

#[test]
fn commits_wait_for_every_store_when_they_wait_for_the_store() -> Result<()> {
    let mut source = MysqlServer::builder().semi_sync(Duration::from_secs(3)).start()?;
    source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY)")?;
    let highwater = Installation::new(&source)?;
    let (copy, away) = (highwater.folder().join("copy"), highwater.folder().join("away"));
    fs::create_dir(&copy)?;
    let lines = format!("[[copies]]\nkind = \"directory\"\npath = \"{}\"\n\n[seal]\n", copy.display());
    highwater.change_config("[seal]\n", &lines)?;
    highwater.configure("capture", "ack = \"stored\"")?;
    highwater.run(&["init"])?.success()?;
    let mut agent = highwater.agent()?;
    highwater.wait_for_dump(&mut agent)?;
    source.require_acks()?;
    source.sql("INSERT INTO d.t VALUES (1)")?;
    ensure!(source.is_semi_sync()?, "the source does not wait for both stores");
    // The first store takes it, the copy does not: nobody acknowledges, and the source gives up waiting.
    fs::rename(&copy, &away)?;
    source.sql("INSERT INTO d.t VALUES (2)")?;
    ensure!(!source.is_semi_sync()?, "acknowledged although a required store does not have it: {}", agent.stderr());
    fs::rename(&away, &copy)?;
    highwater.catch_up(&mut agent, &source)?;
    highwater.wait_until("semi-sync again", Duration::from_secs(60), &mut agent, |_| source.is_semi_sync())?;
    source.sql("INSERT INTO d.t VALUES (3)")?;
    ensure!(source.is_semi_sync()?);
    Ok(())
}

/// Every object by its name; temporary files are none.
fn files(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder)?.to_owned(), fs::read(&path)?);
            }
        }
    }
    Ok(found)
}
