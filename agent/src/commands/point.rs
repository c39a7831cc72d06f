//! Moments as people write them.

use highwater_binlog::{BinlogPosition, Gtid};
use highwater_catalog::{Micros, RestorePoint};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, Zoned};

use crate::cli::PointArgs;
use crate::exit::{Exit, Failure};

/// The moment that the command line asks for.
pub fn parse_point(args: &PointArgs) -> Result<RestorePoint, Failure> {
    match (&args.to, &args.to_gtid, &args.before_gtid, &args.to_position) {
        (Some(text), ..) if text.trim() == "latest" => Ok(RestorePoint::Latest),
        (Some(text), ..) => parse_time(text).map(RestorePoint::Time),
        (_, Some(text), ..) => parse_gtid(text).map(RestorePoint::AfterGtid),
        (_, _, Some(text), _) => parse_gtid(text).map(RestorePoint::BeforeGtid),
        (_, _, _, Some(text)) => parse_position(text).map(RestorePoint::Position),
        (None, None, None, None) => Err(Failure::new(Exit::Usage, "no point to restore to")
            .hint("give --to TIME, --to latest, --to-gtid, --before-gtid or --to-position")),
    }
}

/// Reads a time: RFC 3339, or `YYYY-MM-DD HH:MM[:SS[.ffffff]]` in the local zone.
///
/// A local time that the clock skips or has twice is refused: which one is meant cannot be known.
pub fn parse_time(text: &str) -> Result<Micros, Failure> {
    parse_time_in(text, &TimeZone::system())
}

fn parse_time_in(text: &str, zone: &TimeZone) -> Result<Micros, Failure> {
    let refuse = |error: String| {
        Failure::new(Exit::Usage, error)
            .hint("write a time as `2026-11-22 14:02:31` (local) or `2026-11-22T14:02:31.5Z`, or `latest`")
    };
    let text = text.trim();
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return micros(timestamp).ok_or_else(|| refuse(format!("`{text}` is before 1970")));
    }
    if let Ok(zoned) = text.parse::<Zoned>() {
        return micros(zoned.timestamp()).ok_or_else(|| refuse(format!("`{text}` is before 1970")));
    }
    let has_time = text.contains(':');
    let local = text.parse::<DateTime>().ok().filter(|_| has_time);
    let local = local.ok_or_else(|| refuse(format!("`{text}` is no time")))?;
    let ambiguous = zone.to_ambiguous_timestamp(local);
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => {}
        AmbiguousOffset::Gap { .. } => {
            return Err(refuse(format!("the clocks were put forward: `{text}` did not exist here")));
        }
        AmbiguousOffset::Fold { before, after } => {
            let error = format!("the clocks were put back: `{text}` was twice here");
            let hint = format!("say which: `{local}{before}` or `{local}{after}`");
            return Err(Failure::new(Exit::Usage, error).hint(hint));
        }
    }
    let timestamp = ambiguous.unambiguous().map_err(|error| refuse(error.to_string()))?;
    micros(timestamp).ok_or_else(|| refuse(format!("`{text}` is before 1970")))
}

fn micros(timestamp: Timestamp) -> Option<Micros> {
    u64::try_from(timestamp.as_microsecond()).ok().map(Micros)
}

/// Reads a GTID.
pub(super) fn parse_gtid(text: &str) -> Result<Gtid, Failure> {
    text.trim().parse().map_err(|_| {
        Failure::new(Exit::Usage, format!("`{text}` is no GTID"))
            .hint("a GTID looks like 3e11fa47-71ca-11e1-9e33-c80aa9429562:4711")
    })
}

/// Reads `FILE:POS`.
pub(super) fn parse_position(text: &str) -> Result<BinlogPosition, Failure> {
    text.trim().parse().map_err(|_| {
        Failure::new(Exit::Usage, format!("`{text}` is no binlog position"))
            .hint("a position looks like binlog.000042:1337")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Result<String, String> {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let micros = parse_time_in(text, &zone).map_err(|failure| failure.error)?;
        let timestamp = Timestamp::from_microsecond(micros.0.try_into().unwrap()).unwrap();
        Ok(timestamp.to_string())
    }

    #[test]
    fn times_are_local_unless_they_say_otherwise() {
        assert_eq!(time("2026-11-22 14:02:31").unwrap(), "2026-11-22T13:02:31Z");
        assert_eq!(time("2026-07-22 14:02").unwrap(), "2026-07-22T12:02:00Z");
        assert_eq!(time("2026-11-22T14:02:31.123456").unwrap(), "2026-11-22T13:02:31.123456Z");
        assert_eq!(time("2026-11-22T14:02:31Z").unwrap(), "2026-11-22T14:02:31Z");
        assert_eq!(time("2026-11-22T14:02:31-05:00").unwrap(), "2026-11-22T19:02:31Z");
        assert_eq!(time("2026-11-22 14:02:31+01").unwrap(), "2026-11-22T13:02:31Z");
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "now", "2026-11-22", "14:02", "2026-13-01 00:00:00", "1969-12-31T23:00:00Z", "latest"] {
            assert!(time(text).is_err(), "{text}");
        }
        assert_eq!(time("yesterday").unwrap_err(), "`yesterday` is no time");
    }

    #[test]
    fn a_time_that_was_twice_or_never_is_refused() {
        assert_eq!(
            time("2026-03-29 02:30:00").unwrap_err(),
            "the clocks were put forward: `2026-03-29 02:30:00` did not exist here"
        );
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let failure = parse_time_in("2026-10-25 02:30:00", &zone).unwrap_err();
        assert_eq!(failure.error, "the clocks were put back: `2026-10-25 02:30:00` was twice here");
        assert_eq!(failure.hint.unwrap(), "say which: `2026-10-25T02:30:00+02` or `2026-10-25T02:30:00+01`");
        assert_eq!(time("2026-10-25T02:30:00+02").unwrap(), "2026-10-25T00:30:00Z");
    }

    #[test]
    fn positions_and_gtids_are_read_or_refused() {
        let position = parse_position("binlog.000042:1337").unwrap();
        assert_eq!((position.binlog.as_str(), position.offset), ("binlog.000042", 1337));
        assert_eq!(parse_position("binlog.000042").unwrap_err().error, "`binlog.000042` is no binlog position");
        assert_eq!(parse_gtid("4711").unwrap_err().error, "`4711` is no GTID");
        assert!(parse_gtid("3e11fa47-71ca-11e1-9e33-c80aa9429562:4711").is_ok());
    }
}
