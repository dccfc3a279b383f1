//! Time as the records keep it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970, until the year 2262.
pub fn nanoseconds() -> i64 {
    let (seconds, rest) = now();
    seconds * 1_000_000_000 + i64::from(rest)
}

pub fn nanoseconds_of(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() as i64 * 1_000_000_000 + i64::from(since.subsec_nanos())
}

/// Seconds and nanoseconds since 1970.
pub fn now() -> (i64, u32) {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    (since.as_secs() as i64, since.subsec_nanos())
}
