//! The command line of the benchmarks.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// What `--help` prints.
pub(crate) const HELP: &str = "\
usage: scripts/bench NAME... [OPTION...]

Names:
  capture      all of the following but the last
  catch-up     an encrypted binlog fetched by `mysqlbinlog --read-from-remote-server --raw`, and by a new
               `highwater agent` until all of it is in the store: time, CPU, memory, ratio
  latency      from a commit on the source until its segment is published
  semi-sync    commit latency: asynchronous, with our agent, with MySQL's own semi-sync replica
  memory       the agent's largest resident memory with one huge transaction in the stream
  stalled      the same while the store takes nothing more (needs root, for a small tmpfs of its own)
  idle         the agent's CPU time while nothing happens
  decrypt      `binlog-decrypt` against `openssl enc` on one encrypted binlog: file to file, `--verify`, in memory

Options:
  --megabytes N              binlog for catch-up, stalled and decrypt [600]
  --repetitions N            of each side, alternating [3]
  --seconds N                how long latency, semi-sync and idle measure [10]
  --rate N                   transactions a second for latency and semi-sync [1000]
  --transaction-megabytes N  the huge transaction [512; the goal is stated for 4096]
  --against PROGRAM          another `highwater` to compare with, in the same run; may be repeated
  --json                     one JSON object instead of tables

Servers and archives live in a temporary folder ($TMPDIR): up to six times the binlog, plus five times
the huge transaction.
";

/// One benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bench {
    /// Fetching a backlog.
    CatchUp,
    /// Commit to archive.
    Latency,
    /// Commit latency under semi-sync.
    SemiSync,
    /// One huge transaction.
    Memory,
    /// A store that takes nothing.
    Stalled,
    /// Nothing to do.
    Idle,
    /// A binlog opened offline.
    Decrypt,
}

/// Those of the agent, in the order in which they run.
const CAPTURE: [Bench; 6] =
    [Bench::CatchUp, Bench::Latency, Bench::SemiSync, Bench::Memory, Bench::Stalled, Bench::Idle];

impl Bench {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CatchUp => "catch-up",
            Self::Latency => "latency",
            Self::SemiSync => "semi-sync",
            Self::Memory => "memory",
            Self::Stalled => "stalled",
            Self::Idle => "idle",
            Self::Decrypt => "decrypt",
        }
    }
}

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// What to run.
    pub(crate) benches: Vec<Bench>,
    /// JSON instead of tables.
    pub(crate) json: bool,
    /// Binlog of a catch-up, MB.
    pub(crate) megabytes: u64,
    /// Runs of each side.
    pub(crate) repetitions: usize,
    /// Length of measurements under load.
    pub(crate) seconds: u64,
    /// Transactions a second.
    pub(crate) rate: u64,
    /// The huge transaction, MB.
    pub(crate) transaction_megabytes: u64,
    /// Other agents.
    pub(crate) against: Vec<PathBuf>,
}

impl Settings {
    /// Reads arguments; `None` when help is asked for.
    pub(crate) fn read(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut settings = Self {
            benches: Vec::new(),
            json: false,
            megabytes: 600,
            repetitions: 3,
            seconds: 10,
            rate: 1000,
            transaction_megabytes: 512,
            against: Vec::new(),
        };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "-h" | "--help" => return Ok(None),
                "--json" => settings.json = true,
                "--megabytes" => settings.megabytes = value(&argument, &mut arguments)?,
                "--repetitions" => settings.repetitions = value(&argument, &mut arguments)?,
                "--seconds" => settings.seconds = value(&argument, &mut arguments)?,
                "--rate" => settings.rate = value(&argument, &mut arguments)?,
                "--transaction-megabytes" => settings.transaction_megabytes = value(&argument, &mut arguments)?,
                "--against" => settings.against.push(value(&argument, &mut arguments)?),
                "capture" => settings.benches.extend(CAPTURE),
                name => match CAPTURE.into_iter().chain([Bench::Decrypt]).find(|bench| bench.name() == name) {
                    Some(bench) => settings.benches.push(bench),
                    None => bail!("there is no benchmark or option {name}"),
                },
            }
        }
        if settings.benches.is_empty() {
            bail!("no benchmark is named");
        }
        if [settings.megabytes, settings.seconds, settings.rate, settings.transaction_megabytes].contains(&0)
            || settings.repetitions == 0
        {
            bail!("sizes, repetitions and times are at least 1");
        }
        Ok(Some(settings))
    }
}

fn value<T: FromStr>(name: &str, arguments: &mut impl Iterator<Item = String>) -> Result<T> {
    let text = arguments.next().with_context(|| format!("{name} has no value"))?;
    text.parse().ok().with_context(|| format!("{name} {text} is no valid value"))
}
