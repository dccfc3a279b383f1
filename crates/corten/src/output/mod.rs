//! What a person or a program is shown: tables, JSON, sizes, times.

pub mod progress;
pub mod table;
pub mod template;

use std::io::{self, Write};

use serde::Serialize;

/// Prints a document, indented, as `docker inspect` does.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}

/// Prints one line of data.
pub fn line(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Decimal units, as docker shows image sizes.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match (unit, value < 9.95) {
        (0, _) => format!("{bytes}B"),
        (_, true) => format!("{value:.1}{}", UNITS[unit]),
        (_, false) => format!("{value:.0}{}", UNITS[unit]),
    }
}

/// `5 minutes`, as in docker's columns.
pub fn duration(seconds: i64) -> String {
    let plural = |n: i64, unit: &str| format!("{n} {unit}{}", if n == 1 { "" } else { "s" });
    match seconds {
        i64::MIN..=0 => "less than a second".into(),
        1..=59 => plural(seconds, "second"),
        60..=3599 => plural(seconds / 60, "minute"),
        3600..=172_799 => plural(seconds / 3600, "hour"),
        _ => plural(seconds / 86_400, "day"),
    }
}

/// Seconds since 1970, now.
pub fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(size(0), "0B");
        assert_eq!(size(999), "999B");
        assert_eq!(size(1234), "1.2kB");
        assert_eq!(size(999_999), "1.0MB");
        assert_eq!(size(45_600_000), "46MB");
        assert_eq!(duration(0), "less than a second");
        assert_eq!(duration(1), "1 second");
        assert_eq!(duration(7200), "2 hours");
        assert_eq!(duration(200_000), "2 days");
    }
}
