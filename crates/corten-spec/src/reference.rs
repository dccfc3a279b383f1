//! Image references: `HOST[:PORT]/PATH[:TAG][@DIGEST]`, with Docker's shorthand
//! (`busybox` is `docker.io/library/busybox:latest`). The grammar is that of the
//! distribution project's reference package, which docker, containerd and podman share.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, DigestError};

/// Where an unqualified name lives.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag where neither tag nor digest is named.
pub const DEFAULT_TAG: &str = "latest";

/// A normalised reference: the registry is always there, and a tag or a digest (or both) is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    #[error("image reference is empty")]
    Empty,
    #[error("image reference {0:?} is longer than 512 characters")]
    Long(String),
    #[error("{host:?} in image reference {text:?} is no registry host")]
    Registry { host: String, text: String },
    #[error(
        "{path:?} in image reference {text:?} is no repository name: lower-case letters, digits and . _ - / only"
    )]
    Repository { path: String, text: String },
    #[error(
        "{tag:?} in image reference {text:?} is no tag: [A-Za-z0-9_][A-Za-z0-9_.-]*, at most 128 characters"
    )]
    Tag { tag: String, text: String },
    #[error("image reference {text:?} has a bad digest")]
    Digest {
        text: String,
        #[source]
        source: DigestError,
    },
}

impl Reference {
    /// Builds a reference from checked parts; for servers, which have them apart.
    pub fn new(
        registry: &str,
        repository: &str,
        tag: Option<&str>,
        digest: Option<Digest>,
    ) -> Result<Self, ReferenceError> {
        let mut text = format!("{registry}/{repository}");
        if let Some(t) = tag {
            text.push(':');
            text.push_str(t);
        }
        if let Some(d) = digest {
            text.push('@');
            text.push_str(&d.to_string());
        }
        text.parse()
    }

    /// Host and port, e.g. `docker.io`, `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path without the host, e.g. `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What a manifest is asked for by: the digest where there is one, else the tag.
    pub fn manifest_key(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(d), _) => d.to_string(),
            (None, Some(t)) => t.clone(),
            (None, None) => DEFAULT_TAG.into(),
        }
    }

    /// The same repository by digest.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The same repository by another tag, and no digest; `None` where that is no tag.
    pub fn with_tag(&self, tag: &str) -> Option<Self> {
        is_tag(tag).then(|| Self {
            tag: Some(tag.to_owned()),
            digest: None,
            ..self.clone()
        })
    }

    /// Without the tag where there is a digest, as a reference needs one of the two.
    pub fn untagged(&self) -> Self {
        match self.digest {
            Some(_) => Self {
                tag: None,
                ..self.clone()
            },
            None => self.clone(),
        }
    }

    /// As a person would type it: without `docker.io/library/`. Never shorter than what still means the same: `docker.io/ghcr.io/x`
    /// is not `ghcr.io/x`.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        let shorter = short.strip_prefix("library/").unwrap_or(short);
        let same = |text: &&str| text.parse::<Self>().is_ok_and(|r| r == *self);
        let found = [shorter, short].into_iter().find(same);
        found.unwrap_or(&full).to_owned()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() > 512 {
            return Err(ReferenceError::Long(text.chars().take(40).collect()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, d)) => {
                let d = d.parse().map_err(|source| ReferenceError::Digest {
                    text: text.into(),
                    source,
                })?;
                (rest, Some(d))
            }
            None => (text, None),
        };
        // A colon after the last slash starts a tag; before it, a port.
        let slash = rest.rfind('/').map_or(0, |i| i + 1);
        let (name, tag) = match rest[slash..].find(':') {
            Some(i) => (&rest[..slash + i], Some(&rest[slash + i + 1..])),
            None => (rest, None),
        };
        let (registry, path) = split_registry(name);
        check_registry(registry, text)?;
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        check_repository(&repository, text)?;
        if let Some(t) = tag {
            check_tag(t, text)?;
        }
        let tag = match (tag, &digest) {
            (Some(t), _) => Some(t.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }
}

/// The first component is a host if it has a dot or a colon, is `localhost`, or has
/// a capital letter; otherwise the name lives on the default registry.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            match first {
                "index.docker.io" => (DEFAULT_REGISTRY, rest),
                _ => (first, rest),
            }
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn check_registry(host: &str, text: &str) -> Result<(), ReferenceError> {
    let bad = || ReferenceError::Registry {
        host: host.into(),
        text: text.into(),
    };
    let (name, port) = match host.strip_prefix('[') {
        Some(v6) => {
            let (addr, after) = v6.split_once(']').ok_or_else(bad)?;
            if addr.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(bad());
            }
            match after {
                "" => return Ok(()),
                _ => ("v6", after.strip_prefix(':').ok_or_else(bad)?),
            }
        }
        None => match host.split_once(':') {
            Some((n, p)) => (n, p),
            None => (host, "1"),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if !name.split('.').all(label) || port.parse::<u16>().map_or(true, |p| p == 0) {
        return Err(bad());
    }
    Ok(())
}

/// Is this a repository name? `[a-z0-9]+((.|_|__|-+)[a-z0-9]+)*(/…)*`, at most 255 characters.
pub fn is_repository(path: &str) -> bool {
    path.len() <= 255 && path.split('/').all(is_component)
}

/// Is this a tag? `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`
pub fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    match tag.as_bytes() {
        [first, rest @ ..] => {
            word(*first)
                && rest.len() < 128
                && rest.iter().all(|&b| word(b) || b == b'.' || b == b'-')
        }
        [] => false,
    }
}

fn is_component(c: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = c.as_bytes();
    if bytes.is_empty() || !alnum(bytes[0]) || !alnum(bytes[bytes.len() - 1]) {
        return false;
    }
    let mut separator = String::new();
    for &b in bytes {
        if alnum(b) {
            if !(separator.is_empty()
                || matches!(separator.as_str(), "." | "_" | "__")
                || separator.bytes().all(|s| s == b'-'))
            {
                return false;
            }
            separator.clear();
        } else if b"._-".contains(&b) {
            separator.push(b as char);
        } else {
            return false;
        }
    }
    true
}

fn check_repository(path: &str, text: &str) -> Result<(), ReferenceError> {
    match is_repository(path) {
        true => Ok(()),
        false => Err(ReferenceError::Repository {
            path: path.into(),
            text: text.into(),
        }),
    }
}

fn check_tag(tag: &str, text: &str) -> Result<(), ReferenceError> {
    match is_tag(tag) {
        true => Ok(()),
        false => Err(ReferenceError::Tag {
            tag: tag.into(),
            text: text.into(),
        }),
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(t) = &self.tag {
            write!(f, ":{t}")?;
        }
        if let Some(d) = &self.digest {
            write!(f, "@{d}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(s: &str) -> String {
        s.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn shorthand_is_expanded() {
        assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("me/app:1"), "docker.io/me/app:1");
        assert_eq!(full("localhost/app"), "localhost/app:latest");
        assert_eq!(full("127.0.0.1:5000/a/b:x"), "127.0.0.1:5000/a/b:x");
        assert_eq!(full("[::1]:5000/a"), "[::1]:5000/a:latest");
        assert_eq!(full("ghcr.io/o/i"), "ghcr.io/o/i:latest");
    }

    #[test]
    fn a_digest_needs_no_tag() {
        let d = Digest::of(b"x");
        let r: Reference = format!("busybox@{d}").parse().unwrap();
        assert_eq!(r.tag(), None);
        assert_eq!(r.manifest_key(), d.to_string());
    }

    #[test]
    fn familiar_is_what_was_typed() {
        let r: Reference = "busybox:1.36".parse().unwrap();
        assert_eq!(r.familiar(), "busybox:1.36");
        for (text, familiar) in [
            ("docker.io/a/b:t", "a/b:t"),
            ("docker.io/ghcr.io/a:t", "docker.io/ghcr.io/a:t"),
            ("docker.io/localhost/a:t", "docker.io/localhost/a:t"),
            ("docker.io/library/localhost/a:t", "library/localhost/a:t"),
            ("ghcr.io/library/a:t", "ghcr.io/library/a:t"),
        ] {
            let r: Reference = text.parse().unwrap();
            assert_eq!(r.familiar(), familiar);
        }
    }

    #[test]
    fn nonsense_is_refused_by_part() {
        use ReferenceError as E;
        let err = |s: &str| s.parse::<Reference>().unwrap_err();
        assert_eq!(err(""), E::Empty);
        assert!(matches!(err("UPPER"), E::Repository { .. }));
        assert!(matches!(err("a:b:c"), E::Tag { .. }));
        assert!(matches!(err("host:0/x"), E::Registry { .. }));
        assert!(matches!(err("host:99999/x"), E::Registry { .. }));
        assert!(matches!(err("a/../b"), E::Repository { .. }));
        assert!(matches!(err("a@sha256:0"), E::Digest { .. }));
        assert!(matches!(err("a_.b"), E::Repository { .. }));
        assert!(matches!(err("[::g]/x"), E::Registry { .. }));
    }
}
