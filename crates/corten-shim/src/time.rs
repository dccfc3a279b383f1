//! Wall-clock times as the log, the exit record and the messages write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost_types::Timestamp;

/// RFC 3339 in UTC with nanoseconds: `2026-11-23T14:46:41.000000001Z`. Always 30
/// bytes, so that log lines align.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_nanos()
    )
}

/// Days since 1970-01-01 as a date of the Gregorian calendar. Counts from 1 March of
/// the year 0, where the leap day is the last of its year (Howard Hinnant's method).
fn date(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + u64::from(month <= 2), month, day)
}

/// Reads what [`rfc3339`] has written. `None`: somebody else wrote it.
pub fn from_rfc3339(text: &str) -> Option<SystemTime> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    if text.len() != 30 || !text.is_ascii() || !text.ends_with('Z') {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // Days up to the month, in years that begin with March.
    let (y, m) = (year.checked_sub(u64::from(month <= 2))?, (month + 9) % 12);
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day;
    let days = days.checked_sub(719_469)?;
    let second = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    let nanos = Duration::from_nanos(number(20, 29)?);
    Some(UNIX_EPOCH + Duration::from_secs(days * 86_400 + second) + nanos)
}

pub fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp {
        seconds: since.as_secs() as i64,
        nanos: since.subsec_nanos() as i32,
    }
}

pub fn from_timestamp(timestamp: &Timestamp) -> SystemTime {
    let seconds = u64::try_from(timestamp.seconds).unwrap_or(0);
    let nanos = u32::try_from(timestamp.nanos).unwrap_or(0).min(999_999_999);
    UNIX_EPOCH + Duration::new(seconds.min(1 << 40), nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_we_did_not_write_are_none() {
        for text in [
            "",
            "2026-11-23T14:46:41Z",
            "x026-11-23T14:46:41.000000001Z",
            "1969-12-31T00:00:00.000000000Z",
        ] {
            assert_eq!(from_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn dates_across_leap_years() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000000Z"),
            (1_795_445_201, "2026-11-23T14:46:41.000000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000000Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(time), text);
            assert_eq!(from_rfc3339(text), Some(time));
        }
    }
}
