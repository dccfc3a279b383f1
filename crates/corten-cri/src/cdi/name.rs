//! `vendor.com/class=device`.

use std::fmt;
use std::str::FromStr;

use super::error::Error;

/// A device's full name, checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// `vendor.com/class`
    pub kind: String,
    pub device: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.kind, self.device)
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |problem| Error::Name {
            text: text.into(),
            problem,
        };
        let (kind, device) = text
            .split_once('=')
            .ok_or_else(|| refuse("it looks like vendor.com/class=device"))?;
        check_kind(kind).map_err(refuse)?;
        check_device(device).map_err(refuse)?;
        Ok(Self {
            kind: kind.into(),
            device: device.into(),
        })
    }
}

pub(super) fn check_kind(kind: &str) -> Result<(), &'static str> {
    let Some((vendor, class)) = kind.split_once('/') else {
        return Err("a kind looks like vendor.com/class");
    };
    for part in [vendor, class] {
        if !part.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err("vendor and class start with a letter");
        }
        check(part, "_-.")?;
    }
    Ok(())
}

pub(super) fn check_device(device: &str) -> Result<(), &'static str> {
    check(device, "_-.:")
}

/// Letters and digits, and inside `others`.
fn check(part: &str, others: &str) -> Result<(), &'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric();
    if !part.starts_with(plain) || !part.ends_with(plain) {
        return Err("each part starts and ends with a letter or digit");
    }
    match part.chars().all(|c| plain(c) || others.contains(c)) {
        true => Ok(()),
        false => Err("it holds a character that no name holds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        for good in [
            "nvidia.com/gpu=0",
            "v/c=d",
            "vendor.com/net-dev_x.y=a:b-1",
            "a/b=all",
        ] {
            let name: Name = good.parse().unwrap();
            assert_eq!(name.to_string(), good);
        }
        for bad in [
            "", "a", "a/b", "a/b=", "a=b", "/b=c", "a/=c", "1a/b=c", "a/1b=c", "a/b=c-", "a/b=-c",
            "a/b=c d", "a_/b=c", "a/b/c=d", "a/b=c=d", "ä/b=c",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}
