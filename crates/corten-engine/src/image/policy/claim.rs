//! What a signature says: which manifest, under which name. Both cosign's and simple signing's payload have this shape.

use corten_spec::{Digest, Reference};
use serde::Deserialize;

/// How much of the signed name must be that of what is pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// The repository; and the tag, where both have one.
    #[default]
    Name,
    /// The repository only.
    Repository,
    /// None of it: who has signed these bytes has signed them everywhere.
    Digest,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub digest: &'a Digest,
    /// As it would have been named when it was signed.
    pub reference: &'a Reference,
    pub identity: Identity,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Name,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Name {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

impl Expected<'_> {
    /// Reads a payload that was signed by a key that is trusted.
    pub fn check(&self, payload: &[u8], kinds: &[&str]) -> Result<(), String> {
        let payload: Payload = serde_json::from_slice(payload)
            .map_err(|e| format!("what is signed is no claim on an image ({e})"))?;
        let critical = payload.critical;
        if !kinds.contains(&critical.kind.as_str()) {
            return Err(format!("what is signed is a {:?}", critical.kind));
        }
        if critical.image.digest != self.digest.to_string() {
            return Err(format!("it is on another image, {}", critical.image.digest));
        }
        self.check_name(&critical.identity.reference)
    }

    /// `signed` as it stands in the signature; empty where that has no name.
    pub fn check_name(&self, signed: &str) -> Result<(), String> {
        if self.identity == Identity::Digest {
            return Ok(());
        }
        if signed.is_empty() {
            return Err("it names no repository (identity = \"digest\" would accept that)".into());
        }
        let other = || Err(format!("it is for another name, {signed}"));
        let Ok(named) = signed.parse::<Reference>() else {
            return other();
        };
        let wanted = self.reference;
        if named.registry() != wanted.registry() || named.repository() != wanted.repository() {
            return other();
        }
        // A name without a tag reads back with the default one, which it does not say.
        let slash = signed.rfind('/').unwrap_or(0);
        let says_tag = signed[slash..]
            .split('@')
            .next()
            .is_some_and(|n| n.contains(':'));
        match (self.identity, says_tag, wanted.tag()) {
            (Identity::Name, true, Some(tag)) if named.tag() != Some(tag) => other(),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "atomic container signature";

    fn payload(name: &str, digest: &Digest) -> String {
        serde_json::json!({"critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": digest},
            "type": KIND,
        }, "optional": {"creator": "test"}})
        .to_string()
    }

    #[test]
    fn digest_kind_and_name_must_be_right() {
        let (right, wrong) = (Digest::of(b"right"), Digest::of(b"wrong"));
        let pulled: Reference = "a.b/team/app:1".parse().unwrap();
        let check = |name: &str, digest: &Digest, identity| {
            let expected = Expected {
                digest: &right,
                reference: &pulled,
                identity,
            };
            expected.check(payload(name, digest).as_bytes(), &[KIND])
        };
        for name in ["a.b/team/app:1", "a.b/team/app"] {
            assert_eq!(check(name, &right, Identity::Name), Ok(()), "{name}");
        }
        assert!(
            check("a.b/team/app:1", &wrong, Identity::Digest)
                .unwrap_err()
                .contains("another image")
        );
        for name in [
            "a.b/team/app:2",
            "a.b/team/other:1",
            "c.d/team/app:1",
            "app",
            "../x",
            "",
        ] {
            assert!(check(name, &right, Identity::Name).is_err(), "{name}");
        }
        assert_eq!(
            check("a.b/team/app:2", &right, Identity::Repository),
            Ok(())
        );
        assert!(check("a.b/team/other:1", &right, Identity::Repository).is_err());
        assert_eq!(check("", &right, Identity::Digest), Ok(()));
        let expected = Expected {
            digest: &right,
            reference: &pulled,
            identity: Identity::Digest,
        };
        assert!(
            expected
                .check(payload("x", &right).as_bytes(), &["other"])
                .is_err()
        );
        assert!(expected.check(b"{}", &[KIND]).is_err());
    }
}
