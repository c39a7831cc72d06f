//! What Linux says about a process.

use std::fs;

use anyhow::{Context, Result};

/// Length of the kernel's unit of CPU time: `USER_HZ` is 100 on every architecture Rust runs on.
const TICK_SECONDS: f64 = 0.01;

/// CPU time of a process so far, user and system, in seconds. With 0, of all our children that have ended.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let (path, first) = match pid {
        // After the name: state, then utime is the 12th, cutime the 14th field.
        0 => ("/proc/self/stat".to_owned(), 13),
        pid => (format!("/proc/{pid}/stat"), 11),
    };
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let (_, fields) = text.rsplit_once(')').with_context(|| format!("{path} has no name"))?;
    let ticks: Vec<u64> =
        fields.split_whitespace().skip(first).take(2).map(str::parse).collect::<Result<_, _>>().context(path)?;
    Ok(ticks.iter().sum::<u64>() as f64 * TICK_SECONDS)
}
