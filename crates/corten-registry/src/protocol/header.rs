//! The headers that need parsing: ranges in their three dialects, and `Retry-After`.

use std::time::{Duration, SystemTime};

pub const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";
pub const DOCKER_UPLOAD_UUID: &str = "docker-upload-uuid";
pub const API_VERSION: &str = "docker-distribution-api-version";
pub const OCI_SUBJECT: &str = "oci-subject";
pub const OCI_FILTERS: &str = "oci-filters-applied";
pub const OCI_TAG: &str = "oci-tag";
pub const OCI_CHUNK_MIN: &str = "oci-chunk-min-length";

/// A span of bytes, `start` included and `end` not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u64,
    pub end: u64,
}

/// What a `Range` request header asks of a body of known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// No range, or one that may be ignored (RFC 9110 §14.2: other units, several ranges, bad syntax).
    All,
    Part(Span),
    /// Nothing of it exists: 416.
    Unsatisfiable,
}

/// Reads `bytes=A-B`, `bytes=A-` or `bytes=-N` against a body of `size` bytes.
pub fn range(value: Option<&str>, size: u64) -> Wanted {
    let Some(set) = value.and_then(|v| v.trim().strip_prefix("bytes=")) else {
        return Wanted::All;
    };
    let Some((first, last)) = set.split_once('-') else {
        return Wanted::All;
    };
    let span = match (number(first), number(last)) {
        (None, Some(n)) if first.trim().is_empty() => {
            let start = size.saturating_sub(n);
            Span { start, end: size }
        }
        (Some(start), None) if last.trim().is_empty() => Span { start, end: size },
        (Some(start), Some(last)) if start <= last => Span {
            start,
            end: last.saturating_add(1).min(size),
        },
        _ => return Wanted::All,
    };
    match span.start < span.end {
        true => Wanted::Part(span),
        false => Wanted::Unsatisfiable,
    }
}

/// Reads an answer's `Content-Range: bytes A-B/TOTAL`; the total may be `*`.
pub fn content_range(value: &str) -> Option<(Span, Option<u64>)> {
    let (span, total) = value.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let span = upload_range(span)?;
    match total.trim() {
        "*" => Some((span, None)),
        total => {
            let total = number(total)?;
            (span.end <= total).then_some((span, Some(total)))
        }
    }
}

/// Reads an upload's `Content-Range: A-B`, which by the specification has no unit; some
/// clients put one there all the same.
pub fn upload_range(value: &str) -> Option<Span> {
    let value = value.trim();
    let value = value.strip_prefix("bytes").unwrap_or(value);
    let value = value.trim_start_matches([' ', '=']);
    let (first, last) = value.split('/').next()?.split_once('-')?;
    let (start, last) = (number(first)?, number(last)?);
    let end = last.checked_add(1)?;
    (start < end).then_some(Span { start, end })
}

/// Digits only: `u64::from_str` would take a sign.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Reads `Retry-After`: seconds, or an HTTP date (of which only the IMF form is still written).
pub fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Some(seconds) = number(value) {
        return Some(Duration::from_secs(seconds));
    }
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(imf_date(value)?);
    Some(at.duration_since(now).unwrap_or_default())
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since 1970.
fn imf_date(value: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = value.trim().split(' ');
    words.next()?.strip_suffix(',')?;
    let day = number(words.next()?)?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|m| *m == name)? as u64 + 1;
    let year = number(words.next()?)?;
    let clock = words.next()?;
    let mut clock = clock.split(':').map(number);
    let (h, m, s) = (clock.next()??, clock.next()??, clock.next()??);
    let sane =
        (1970..=9999).contains(&year) && (1..=31).contains(&day) && h < 24 && m < 60 && s < 61;
    if !sane || words.next() != Some("GMT") {
        return None;
    }
    // Days since the epoch with the year starting in March, so that leap days come last.
    let (y, m_shifted) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m_shifted * 153 + 2) / 5 + day - 1;
    let since_1970 = days.checked_sub(719_468)?;
    Some(since_1970 * 86_400 + h * 3600 + m * 60 + s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges() {
        let part = |start, end| Wanted::Part(Span { start, end });
        assert_eq!(range(None, 10), Wanted::All);
        assert_eq!(range(Some("bytes=0-0"), 10), part(0, 1));
        assert_eq!(range(Some("bytes=3-"), 10), part(3, 10));
        assert_eq!(range(Some("bytes=-3"), 10), part(7, 10));
        assert_eq!(range(Some("bytes=-30"), 10), part(0, 10));
        assert_eq!(range(Some("bytes=3-99"), 10), part(3, 10));
        assert_eq!(range(Some("bytes=10-"), 10), Wanted::Unsatisfiable);
        assert_eq!(range(Some("bytes=-0"), 10), Wanted::Unsatisfiable);
        for ignored in [
            "bytes=5-3",
            "bytes=a-b",
            "lines=1-2",
            "bytes=0-1,3-4",
            "bytes=--1",
            "bytes=+1-2",
        ] {
            assert_eq!(range(Some(ignored), 10), Wanted::All, "{ignored}");
        }
    }

    #[test]
    fn content_ranges() {
        let span = Span { start: 5, end: 10 };
        assert_eq!(content_range("bytes 5-9/20"), Some((span, Some(20))));
        assert_eq!(content_range("bytes 5-9/*"), Some((span, None)));
        assert_eq!(content_range("bytes 5-9/9"), None);
        assert_eq!(upload_range("5-9"), Some(span));
        assert_eq!(upload_range("bytes 5-9/20"), Some(span));
        assert_eq!(upload_range("9-5"), None);
        assert_eq!(upload_range("0-18446744073709551615"), None);
    }

    #[test]
    fn dates_and_seconds() {
        let epoch = SystemTime::UNIX_EPOCH;
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(retry_after("120", epoch), seconds(120));
        assert_eq!(
            retry_after("Sun, 06 Nov 1994 08:49:37 GMT", epoch),
            seconds(784_111_777)
        );
        assert_eq!(
            retry_after("Thu, 29 Feb 2024 00:00:00 GMT", epoch),
            seconds(1_709_164_800)
        );
        assert_eq!(
            retry_after("Thu, 01 Jan 1970 00:00:00 GMT", SystemTime::now()),
            seconds(0)
        );
        assert_eq!(retry_after("soon", epoch), None);
    }

    proptest! {
        #[test]
        fn a_part_lies_inside(text in "(bytes=)?[0-9,a-z +-]{0,30}", size in 0u64..1000) {
            if let Wanted::Part(s) = range(Some(&text), size) {
                prop_assert!(s.start < s.end && s.end <= size);
            }
        }

        #[test]
        fn what_is_written_is_read(start in 0u64..1 << 40, len in 1u64..1 << 40, more in 0u64..100) {
            let span = Span { start, end: start + len };
            let total = span.end + more;
            let text = format!("bytes {}-{}/{total}", span.start, span.end - 1);
            prop_assert_eq!(content_range(&text), Some((span, Some(total))));
        }

        #[test]
        fn any_header_is_survived(text in "\\PC{0,60}") {
            let _ = (content_range(&text), upload_range(&text), retry_after(&text, SystemTime::now()));
        }
    }
}
