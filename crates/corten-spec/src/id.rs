//! Ids of containers and the names that users give them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

/// Why a text is no id or name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    #[error("{what} {text:?} is empty or longer than {max} characters")]
    Length {
        what: &'static str,
        text: String,
        max: usize,
    },
    #[error(
        "{what} {text:?} may hold only [a-zA-Z0-9_.+-], not start with a separator, and not be . or .."
    )]
    Character { what: &'static str, text: String },
}

/// What a container is called in paths, cgroups and sockets: the id that the OCI
/// runtime gets. Ours are 64 hexadecimal digits, other engines' are what they like, so this
/// holds whatever runc accepts (`[A-Za-z0-9_+.-]`, 1 to 1024 characters, not `.` or `..`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ContainerId(Box<str>);

impl ContainerId {
    /// 64 lower-case hexadecimal digits from 32 random bytes.
    pub fn from_random(bytes: &[u8; 32]) -> Self {
        use std::fmt::Write as _;
        let mut s = String::with_capacity(64);
        for b in bytes {
            let _ = write!(s, "{b:02x}");
        }
        Self(s.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve characters, as people are shown.
    pub fn short(&self) -> &str {
        &self.0[..self.0.len().min(12)]
    }
}

impl FromStr for ContainerId {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, IdError> {
        check("container id", s, 1024, |b| {
            b.is_ascii_alphanumeric() || b"_+.-".contains(&b)
        })?;
        Ok(Self(s.into()))
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ContainerId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A name that a user gives to a container, volume or network: Docker's
/// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, at most 128 characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Name(Box<str>);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = IdError;

    fn from_str(s: &str) -> Result<Self, IdError> {
        check("name", s, 128, |b| {
            b.is_ascii_alphanumeric() || b"_.-".contains(&b)
        })?;
        if !s.as_bytes()[0].is_ascii_alphanumeric() {
            return Err(IdError::Character {
                what: "name",
                text: s.into(),
            });
        }
        Ok(Self(s.into()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

fn check(what: &'static str, s: &str, max: usize, ok: impl Fn(u8) -> bool) -> Result<(), IdError> {
    #[cfg(feature = "weaken")]
    if std::env::var("CORTEN_WEAKEN").is_ok_and(|walls| walls.contains("ids.unchecked")) {
        return Ok(());
    }
    if s.is_empty() || s.len() > max {
        return Err(IdError::Length {
            what,
            text: s.chars().take(40).collect(),
            max,
        });
    }
    if s == "." || s == ".." || !s.bytes().all(ok) {
        return Err(IdError::Character {
            what,
            text: s.into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_walk() {
        for bad in ["", ".", "..", "a/b", "a\0", "a b", "é"] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad:?}");
        }
        assert!("a+b_c.d-e".parse::<ContainerId>().is_ok());
    }

    #[test]
    fn names_start_with_a_letter_or_digit() {
        assert!("-web".parse::<Name>().is_err());
        assert!("web-1.a_b".parse::<Name>().is_ok());
        assert!("web+1".parse::<Name>().is_err());
    }
}
