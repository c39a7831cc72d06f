//! Connections that break (faults 14 and 36): the archive still equals the server's binlogs, byte for byte.
//!
//! `HIGHWATER_CUTS` is how many positions of a recorded stream are cut, `all` for every byte; `HIGHWATER_CUT_WORKERS` how
//! many agents do that at once.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use highwater_tests::{Archived, Fault, Installation, MysqlServer, Proxy, size_of_run};

const LIMIT: Duration = Duration::from_secs(60);

/// A source whose binlog does not grow any more, and an archive that has the first half of it.
struct Fixture {
    source: MysqlServer,
    half: Installation,
}

impl Fixture {
    fn create() -> Result<Self> {
        let source = MysqlServer::builder().start()?;
        source.sql("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, a VARCHAR(200))")?;
        let half = Installation::new(&source)?;
        let mut agent = half.agent()?;
        half.wait_for_dump(&mut agent)?;
        source.sql("INSERT INTO d.t VALUES (1, 'archived before')")?;
        half.catch_up(&mut agent, &source)?;
        agent.terminate(LIMIT)?;
        source.sql(
            "INSERT INTO d.t VALUES (2, 'two'); BEGIN; INSERT INTO d.t VALUES (3, 'three'), (4, REPEAT('f', 200));
             UPDATE d.t SET a = 'changed' WHERE id > 1; COMMIT; FLUSH BINARY LOGS; INSERT INTO d.t VALUES (5, 'five');
             ALTER TABLE d.t ADD COLUMN b INT; DELETE FROM d.t WHERE id = 2",
        )?;
        Ok(Self { source, half })
    }

    /// An agent's run over a copy of the half archive with this fault; afterwards the archive is the server's binlogs.
    fn run(&self, fault: Option<Fault>, server_id: usize) -> Result<Vec<u8>> {
        let proxy = Proxy::start(self.source.port())?;
        let highwater = self.half.copy()?;
        highwater.go_through(&self.source, &proxy)?;
        // Every agent is a replica of its own.
        highwater.configure("source", &format!("server_id = {}", 1000 + server_id))?;
        if let Some(fault) = &fault {
            proxy.plan(fault.clone());
        }
        let mut agent = highwater.agent()?;
        highwater.catch_up(&mut agent, &self.source)?;
        if fault.is_some() {
            ensure!(proxy.struck() == 1, "the fault did not happen");
        }
        let recorded = proxy.recorded();
        agent.terminate(LIMIT)?;
        Archived::read(&highwater)?.require_equal(&self.source)?;
        Ok(recorded)
    }
}

/// Offsets in a recorded stream: the beginning of each packet, of its event, the middle of each.
fn edges(stream: &[u8]) -> Vec<u64> {
    let (mut edges, mut at) = (Vec::new(), 0);
    while let Some(header) = stream.get(at..at + 4) {
        let length = usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16;
        edges.extend([at, at + 1, at + 4, at + 5, at + 5 + 19, at + 4 + length / 2, at + 3 + length]);
        at += 4 + length;
    }
    edges.push(at);
    edges.retain(|edge| *edge <= stream.len());
    edges.into_iter().map(|edge| edge as u64).collect()
}

/// So many of them, spread evenly.
fn spread(edges: Vec<u64>, count: usize) -> Vec<u64> {
    let step = (edges.len() / count.max(1)).max(1);
    edges.into_iter().step_by(step).collect()
}

#[test]
fn a_stream_cut_at_any_byte_goes_on_where_it_was() -> Result<()> {
    let fixture = Fixture::create()?;
    let recorded = fixture.run(None, 0)?;
    let cuts = match std::env::var("HIGHWATER_CUTS").as_deref() {
        Ok("all") => (0..recorded.len() as u64).collect(),
        _ => spread(edges(&recorded), size_of_run("HIGHWATER_CUTS", 24)),
    };
    ensure!(cuts.len() >= 10, "a stream of {} bytes has too few places to cut", recorded.len());
    let (next, workers) = (AtomicUsize::new(0), size_of_run("HIGHWATER_CUT_WORKERS", 6));
    thread::scope(|scope| {
        let work = || -> Result<()> {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(at) = cuts.get(index) else { return Ok(()) };
                let fault = if index % 2 == 0 { Fault::Reset(*at) } else { Fault::Close(*at) };
                fixture
                    .run(Some(fault.clone()), index + 1)
                    .with_context(|| format!("{fault:?} of {}", recorded.len()))?;
            }
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a worker panicked"))?)
    })?;
    println!("{} cuts in a stream of {} bytes", cuts.len(), recorded.len());
    Ok(())
}

#[test]
fn a_flipped_byte_is_noticed_and_asked_for_again() -> Result<()> {
    let fixture = Fixture::create()?;
    let recorded = fixture.run(None, 0)?;
    // Inside a row: only the event's checksum can tell.
    let row = recorded.windows(5).position(|window| window == b"three").context("the stream shows the row")?;
    fixture.run(Some(Fault::Flip(row as u64)), 1)?;
    // In a GTID event, just behind the header: the transaction's very name.
    let events = edges(&recorded);
    let gtid = events.iter().find(|at| recorded.get(**at as usize + 4) == Some(&33)).context("a GTID event")?;
    fixture.run(Some(Fault::Flip(*gtid + 30)), 2)?;
    Ok(())
}

#[test]
fn a_connection_that_falls_silent_is_given_up_and_made_again() -> Result<()> {
    let fixture = Fixture::create()?;
    let recorded = fixture.run(None, 0)?;
    // In the middle of a transaction, and then nothing: no end of file, no reset.
    let row = recorded.windows(5).position(|window| window == b"three").context("the stream shows the row")?;
    let started = Instant::now();
    fixture.run(Some(Fault::HalfOpen(row as u64)), 1)?;
    println!("a half-open connection was survived in {:?}", started.elapsed());
    // Bytes come, but so slowly that no event is whole in time.
    fixture.run(Some(Fault::Trickle(row as u64, Duration::from_millis(400))), 2)?;
    Ok(())
}

#[test]
fn copies_of_an_archive_are_independent() -> Result<()> {
    let source = MysqlServer::builder().start()?;
    let first = Installation::new(&source)?;
    let second = first.copy()?;
    fs::write(second.store().join("mine"), "")?;
    ensure!(!Path::new(&first.store().join("mine")).exists());
    ensure!(fs::read_to_string(second.config())?.contains(second.store().to_str().unwrap_or("?")));
    Ok(())
}
