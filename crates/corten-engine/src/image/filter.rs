//! `--filter KEY=VALUE` of what lists and prunes images: docker's keys.

use corten_spec::Reference;
use serde_json::Value;

use super::listing::Listed;
use crate::Engine;
use crate::error::Error;
use crate::image::ImageError;

/// All given filters together. Values of one key are alternatives, keys narrow each other; docker's way.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    references: Vec<String>,
    dangling: Option<bool>,
    labels: Vec<Label>,
    /// Older, newer than this image.
    before: Vec<String>,
    since: Vec<String>,
    /// Seconds since 1970.
    until: Option<i64>,
}

#[derive(Clone, Debug)]
struct Label {
    key: String,
    value: Option<String>,
    wanted: bool,
}

impl Filters {
    /// `now` in seconds since 1970, for `until=24h`.
    pub fn parse(texts: &[String], now: i64) -> Result<Self, Error> {
        let mut filters = Self::default();
        for text in texts {
            let wrong = |why: &'static str| {
                let text = text.clone();
                Error::from(ImageError::Filter { text, why })
            };
            let (key, value) = text
                .split_once('=')
                .ok_or_else(|| wrong("a filter is KEY=VALUE"))?;
            // `label!=x`: the key ends with the sign.
            match key {
                "reference" => filters.references.push(value.into()),
                "dangling" => {
                    let value = truth(value).ok_or_else(|| wrong("dangling is true or false"))?;
                    filters.dangling = Some(value);
                }
                "label" => filters.labels.push(Label::parse(value, true)),
                "label!" => filters.labels.push(Label::parse(value, false)),
                "before" => filters.before.push(value.into()),
                "since" => filters.since.push(value.into()),
                "until" => {
                    let at = moment(value, now);
                    let why = "until is a time such as 2026-01-31T12:00:00Z or 2026-01-31, seconds since 1970, or an age such as 24h";
                    filters.until = Some(at.ok_or_else(|| wrong(why))?);
                }
                _ => {
                    return Err(wrong(
                        "the filters are reference, dangling, label, before, since and until",
                    ));
                }
            }
        }
        Ok(filters)
    }

    /// Was a filter given that speaks of images without a tag?
    pub fn asks_for_dangling(&self) -> bool {
        self.dangling.is_some()
    }

    /// Names of other images become moments.
    pub(super) fn settle(&self, engine: &Engine) -> Result<Settled<'_>, Error> {
        let created = |name: &String| -> Result<i64, Error> {
            let record = engine.image(name)?;
            Ok(super::listing::created(&engine.config_of_image(&record)?))
        };
        let before = self.before.iter().map(created);
        let since = self.since.iter().map(created);
        Ok(Settled {
            before: before.collect::<Result<Vec<_>, _>>()?.into_iter().min(),
            since: since.collect::<Result<Vec<_>, _>>()?.into_iter().max(),
            filters: self,
        })
    }
}

pub(super) struct Settled<'a> {
    filters: &'a Filters,
    before: Option<i64>,
    since: Option<i64>,
}

impl Settled<'_> {
    pub fn admits(&self, image: &Listed) -> bool {
        let f = self.filters;
        let named = || {
            f.references
                .iter()
                .any(|p| names(p, &image.record.reference))
        };
        (f.references.is_empty() || named())
            && f.dangling.is_none_or(|d| d == image.is_untagged())
            && f.labels.iter().all(|l| l.admits(&image.config))
            && self.before.is_none_or(|t| image.created < t)
            && self.since.is_none_or(|t| image.created > t)
            && f.until.is_none_or(|t| image.created < t)
    }
}

impl Label {
    fn parse(text: &str, wanted: bool) -> Self {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.into())),
            None => (text, None),
        };
        let key = key.into();
        Self { key, value, wanted }
    }

    fn admits(&self, config: &Value) -> bool {
        let found = config["config"]["Labels"][&self.key].as_str();
        let has = match (&self.value, found) {
            (Some(value), Some(found)) => value == found,
            (None, found) => found.is_some(),
            (Some(_), None) => false,
        };
        has == self.wanted
    }
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// A time stamp, a date, seconds since 1970, or an age such as `36h`, `7d`, `1h30m`.
pub fn moment(text: &str, now: i64) -> Option<i64> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.as_second());
    }
    if let Ok(date) = text.parse::<jiff::civil::DateTime>() {
        let at = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        return Some(at.timestamp().as_second());
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Some(seconds);
    }
    age(text).and_then(|a| now.checked_sub(a))
}

fn age(text: &str) -> Option<i64> {
    let mut total = 0i64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let n: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = match rest.as_bytes().first()? {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        rest = &rest[1..];
        total = total.checked_add(n.checked_mul(unit)?)?;
    }
    (!text.is_empty()).then_some(total)
}

/// Does the pattern fit the name, with or without its tag and registry, as docker's `reference` filter has it?
fn names(pattern: &str, reference: &str) -> bool {
    let Ok(reference) = reference.parse::<Reference>() else {
        return false;
    };
    let full = reference.to_string();
    let mut forms = vec![full.clone(), reference.familiar()];
    forms.extend([full, reference.familiar()].map(|f| super::listing::bare(&f).to_owned()));
    // A pattern with a registry's port has a colon before its last slash.
    forms.iter().any(|f| glob(pattern.as_bytes(), f.as_bytes()))
}

/// `*` and `?` within one component of a path, `[a-z]`, `\` before a character that means itself.
pub(super) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and how much it took: one way back is enough, as stars stop at slashes only.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(_) => one(&pattern[p..], text[t]),
            None => None,
        };
        match (step, star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((at, taken))) if text[taken] != b'/' => {
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
            _ => return false,
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

/// How long the pattern's first item is, if it fits the byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => (byte != b'/').then_some(1),
        [b'\\', c, ..] => (*c == byte).then_some(2),
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|&b| b == b']').filter(|&i| i > 0)?;
            let (negated, set) = match &rest[..end] {
                [b'^' | b'!', set @ ..] => (true, set),
                set => (false, set),
            };
            let mut fits = false;
            let mut i = 0;
            while i < set.len() {
                match set[i..] {
                    [from, b'-', to, ..] => {
                        fits |= (from..=to).contains(&byte);
                        i += 3;
                    }
                    _ => {
                        fits |= set[i] == byte;
                        i += 1;
                    }
                }
            }
            (fits != negated && byte != b'/').then_some(end + 2)
        }
        [c, ..] => (*c == byte).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let fits = |p: &str, t: &str| glob(p.as_bytes(), t.as_bytes());
        for (pattern, text) in [
            ("busybox", "busybox"),
            ("busy*", "busybox"),
            ("*box", "busybox"),
            ("b*b*x", "busybox"),
            ("*/busybox", "library/busybox"),
            ("b?sybox", "busybox"),
            ("[a-c]usy[!z]ox", "busybox"),
            ("a\\*", "a*"),
            ("**", "x"),
            ("", ""),
        ] {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("*", "library/busybox"),
            ("busy", "busybox"),
            ("?", "/"),
            ("[", "["),
            ("a*b", "a/b"),
            ("", "x"),
        ] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
        assert!(!fits(&"*a".repeat(2000), &"a".repeat(1999)), "and it ends");
    }

    #[test]
    fn names_in_all_their_forms() {
        for pattern in [
            "busybox",
            "busybox:1.*",
            "docker.io/library/busybox",
            "b*:1.36",
        ] {
            assert!(
                names(pattern, "docker.io/library/busybox:1.36"),
                "{pattern}"
            );
        }
        assert!(names("127.0.0.1:5000/*", "127.0.0.1:5000/a:b"));
        assert!(!names("busybox:2", "docker.io/library/busybox:1.36"));
    }

    #[test]
    fn moments() {
        let now = 1_000_000;
        assert_eq!(moment("24h", now), Some(now - 86_400));
        assert_eq!(moment("1h30m", now), Some(now - 5400));
        assert_eq!(moment("12345", now), Some(12345));
        assert_eq!(moment("1970-01-02T00:00:00Z", now), Some(86_400));
        assert_eq!(moment("1970-01-02T00:00:01", now), Some(86_401));
        assert_eq!(moment("1970-01-02", now), Some(86_400));
        for bad in ["", "h", "10x", "99999999999999999w", "yesterday"] {
            assert_eq!(moment(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn a_filter_that_is_none_is_named() {
        for bad in ["dangling", "dangling=maybe", "size=3", "until=never"] {
            let e = Filters::parse(&[bad.into()], 0).unwrap_err();
            assert!(e.to_string().contains(bad), "{e}");
        }
    }
}
