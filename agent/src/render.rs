//! How results are shown: stdout is data, as text or JSON.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use highwater_catalog::Micros;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Prints a result. A reader that went away is no failure.
///
/// # Errors
/// Those of stdout.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Says something besides a result, on stderr. Nobody need listen.
pub fn remark(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints a result as JSON.
///
/// # Errors
/// Those of stdout.
pub fn print_json(value: &serde_json::Value) -> io::Result<()> {
    print(&format!("{value:#}\n"))
}

/// A size for people: `64.0 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut unit = 0;
    let mut scaled = count;
    while scaled >= 1024 * 1024 && unit + 1 < UNITS.len() {
        scaled /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", scaled / 1024, scaled % 1024 * 10 / 1024, UNITS[unit])
}

/// A moment for people, in the local zone: `2026-11-22 15:04:12.000250 +01:00`.
#[must_use]
pub fn local_time(micros: Micros) -> String {
    local_time_in(micros, &TimeZone::system())
}

fn local_time_in(micros: Micros, zone: &TimeZone) -> String {
    let timestamp = i64::try_from(micros.0).ok().and_then(|micros| Timestamp::from_microsecond(micros).ok());
    match timestamp {
        Some(timestamp) => timestamp.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S.%6f %:z").to_string(),
        None => micros.to_string(),
    }
}

/// A length of time for people: `42 s`, `5 min`, `3 h 5 min`, `12 d 3 h`.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let two = |big: u64, big_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big} {big_unit}"),
        small => format!("{big} {big_unit} {small} {small_unit}"),
    };
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => two(seconds / 3600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    }
}

/// How long something took, for people: `4.2 s`.
#[must_use]
pub fn seconds(time: std::time::Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A table with aligned columns and a line of headings.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with these headings; those that begin with `>` head a column that is aligned to the right.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        Self { rows: vec![headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect()], right }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                let _ = if *right { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A progress bar over bytes on stderr; hidden when that is no terminal.
#[must_use]
pub fn bytes_bar(total: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), progress_target());
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(what.to_owned())
}

/// A progress bar over things that are counted.
#[must_use]
pub fn count_bar(total: u64, what: &str, things: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), progress_target());
    let template = format!("{{msg}} [{{bar:30}}] {{pos}}/{{len}} {things} {{per_sec}} {{eta}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(what.to_owned())
}

/// Where progress is drawn.
#[must_use]
pub fn progress_target() -> ProgressDrawTarget {
    if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64.0 MiB"),
            (u64::MAX, "16383.9 PiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn lengths_of_time_have_two_units_at_most() {
        let cases =
            [(42, "42 s"), (119, "119 s"), (300, "5 min"), (7200, "2 h"), (11_100, "3 h 5 min"), (172_800, "2 d")];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!(duration(12 * 86_400 + 3 * 3600 + 59), "12 d 3 h");
    }

    #[test]
    fn times_are_local_with_their_offset() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        assert_eq!(local_time_in(Micros(1_700_000_000_000_250), &zone), "2023-11-14 23:13:20.000250 +01:00");
    }

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["name", ">size"]);
        table.row(vec!["a".to_owned(), "1".to_owned()]);
        table.row(vec!["long name".to_owned(), "1000".to_owned()]);
        assert_eq!(table.to_text(), "name       size\na             1\nlong name  1000\n");
    }
}
