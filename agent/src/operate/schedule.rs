//! When full dumps are due.

use std::str::FromStr;

use croner::Cron;
use croner::parser::CronParser;
use jiff::Zoned;

/// A schedule that croner can evaluate: five cron fields, in the time zone of the times it is asked about.
#[derive(Debug, Clone)]
pub struct Schedule(Cron);

/// A text that is no schedule.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is no cron text: {reason}")]
pub struct ScheduleError {
    text: String,
    reason: String,
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let error = |reason: String| ScheduleError { text: text.to_owned(), reason };
        let fields = text.split_whitespace().count();
        if fields != 5 && !text.trim().starts_with('@') {
            return Err(error(format!("it has {fields} fields instead of 5 (minute hour day month weekday)")));
        }
        let parsed = CronParser::new().parse(text).map_err(|e| error(e.to_string()))?;
        Ok(Self(parsed))
    }
}

impl Schedule {
    /// The first due time after `now`; absent when there is none (31 February).
    #[must_use]
    pub fn next_after(&self, now: &Zoned) -> Option<Zoned> {
        self.0.find_next_occurrence(now, false).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, now: &str) -> String {
        let schedule: Schedule = schedule.parse().unwrap();
        schedule.next_after(&now.parse().unwrap()).unwrap().to_string()
    }

    #[test]
    fn due_times_are_local() {
        let now = "2026-11-22T15:00:00+01:00[Europe/Berlin]";
        assert_eq!(next("30 2 * * *", now), "2026-11-23T02:30:00+01:00[Europe/Berlin]");
        assert_eq!(next("0 3 * * 0", now), "2026-11-29T03:00:00+01:00[Europe/Berlin]");
        assert_eq!(next("0 15 * * *", now), "2026-11-23T15:00:00+01:00[Europe/Berlin]", "strictly after");
    }

    #[test]
    fn a_time_that_the_clock_skips_or_repeats_is_due_once() {
        // 02:30 does not exist on 2026-03-29 in Berlin, and exists twice on 2026-10-25.
        let spring = next("30 2 * * *", "2026-03-29T00:00:00+01:00[Europe/Berlin]");
        assert!(spring.starts_with("2026-03-29T03:") || spring.starts_with("2026-03-30T02:30"), "{spring}");
        let first = next("30 2 * * *", "2026-10-25T00:00:00+02:00[Europe/Berlin]");
        assert_eq!(first, "2026-10-25T02:30:00+02:00[Europe/Berlin]");
        assert_eq!(next("30 2 * * *", &first), "2026-10-26T02:30:00+01:00[Europe/Berlin]");
    }

    #[test]
    fn wrong_texts_are_refused_with_a_reason() {
        let message = |text: &str| text.parse::<Schedule>().unwrap_err().to_string();
        assert_eq!(
            message("often"),
            "`often` is no cron text: it has 1 fields instead of 5 (minute hour day month weekday)"
        );
        assert!(message("61 2 * * *").starts_with("`61 2 * * *` is no cron text: "));
    }

    #[test]
    fn a_day_that_never_comes_is_never_due() {
        let schedule: Schedule = "0 0 31 2 *".parse().unwrap();
        assert!(schedule.next_after(&"2026-11-22T15:00:00+00:00[UTC]".parse().unwrap()).is_none());
    }
}
