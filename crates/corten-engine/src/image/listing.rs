//! What `images` shows: the rows of the store with what their configs say.

use corten_spec::Reference;
use corten_store::ImageRecord;
use serde_json::Value;

use super::filter::Filters;
use crate::Engine;
use crate::error::Error;

/// Where images live that nobody has named; no registry can have this name (RFC 6761 §6.4).
pub const NAMELESS: &str = "untagged.invalid/image";

/// A name and the image behind it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub record: ImageRecord,
    pub config: Value,
    /// As the image says, in seconds since 1970; zero if it does not.
    pub created: i64,
    /// What it occupies unpacked, in bytes; layers that others share count in full.
    pub unpacked: u64,
    /// Containers made from it.
    pub containers: usize,
}

impl Listed {
    pub fn is_untagged(&self) -> bool {
        is_untagged(&self.record.reference)
    }

    /// Repository and tag, each as people say it, or `<none>`.
    pub fn names(&self) -> (String, String) {
        names(&self.record.reference)
    }
}

impl Engine {
    /// The images that the filters admit, the youngest first.
    pub fn list_images(&self, filters: &Filters) -> Result<Vec<Listed>, Error> {
        let filters = filters.settle(self)?;
        let containers = self.containers()?;
        let mut found = Vec::new();
        for record in self.store.images()? {
            // It may be damaged; the list is not to fail for that, and inspect tells.
            let config = self.config_of_image(&record).unwrap_or_default();
            let users = containers.iter();
            let users = users.filter(|c| c.record.image_config == record.config);
            let listed = Listed {
                created: created(&config),
                unpacked: self.store.layer_sizes(&record)?.iter().sum(),
                containers: users.count(),
                config,
                record,
            };
            if filters.admits(&listed) {
                found.push(listed);
            }
        }
        found.sort_by(|a, b| {
            let key = |l: &Listed| (std::cmp::Reverse(l.created), l.record.reference.clone());
            key(a).cmp(&key(b))
        });
        Ok(found)
    }

    /// What each layer occupies as it is kept here, in bytes, bottom first.
    pub fn layer_sizes(&self, record: &ImageRecord) -> Result<Vec<u64>, Error> {
        Ok(self.store.layer_sizes(record)?)
    }

    /// The config document as it is, digest checked.
    pub fn config_of_image(&self, record: &ImageRecord) -> Result<Value, Error> {
        let bytes = self.image_config_bytes(record)?;
        parse(&record.reference, "config", &bytes)
    }

    /// The names of an image (all rows with its id): with a tag, and by digest as `REPOSITORY@DIGEST` of what was pulled.
    pub fn names_of(&self, record: &ImageRecord) -> Result<Names, Error> {
        let mut names = Names::default();
        for row in self.store.images()? {
            if row.config != record.config {
                continue;
            }
            let Ok(reference) = row.reference.parse::<Reference>() else {
                continue;
            };
            if !is_untagged(&row.reference) {
                names.tags.push(reference.familiar());
            }
            let (repository, _) = self::names(&row.reference);
            let by_digest = format!("{repository}@{}", row.target.digest);
            if repository != NONE && !names.digests.contains(&by_digest) {
                names.digests.push(by_digest);
            }
        }
        Ok(names)
    }
}

/// What an image is called.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub tags: Vec<String>,
    pub digests: Vec<String>,
}

pub const NONE: &str = "<none>";

pub(super) fn is_untagged(reference: &str) -> bool {
    let parsed = reference.parse::<Reference>();
    parsed.is_ok_and(|r| r.tag().is_none())
}

/// Has nobody named it?
pub(super) fn is_nameless(reference: &str) -> bool {
    bare(reference) == NAMELESS
}

/// Repository and tag as people say them.
pub fn names(reference: &str) -> (String, String) {
    let Ok(parsed) = reference.parse::<Reference>() else {
        return (reference.to_owned(), NONE.into());
    };
    let familiar = parsed.familiar();
    let repository = match bare(&familiar) {
        NAMELESS => NONE,
        named => named,
    };
    let tag = parsed.tag().unwrap_or(NONE);
    (repository.to_owned(), tag.to_owned())
}

/// Without tag and digest.
pub(super) fn bare(reference: &str) -> &str {
    let bare = reference.split('@').next().unwrap_or_default();
    let slash = bare.rfind('/').map_or(0, |i| i + 1);
    match bare[slash..].find(':') {
        Some(colon) => &bare[..slash + colon],
        None => bare,
    }
}

/// Seconds since 1970 from a config's `created`.
pub(super) fn created(config: &Value) -> i64 {
    timestamp(&config["created"])
}

pub(super) fn timestamp(value: &Value) -> i64 {
    let text = value.as_str().unwrap_or_default();
    text.parse::<jiff::Timestamp>().map_or(0, |t| t.as_second())
}

pub(super) fn parse(image: &str, what: &'static str, bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::ImageDocument {
        what,
        image: image.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_people_say_them() {
        let pair = |s: &str| {
            let (a, b) = names(s);
            format!("{a} {b}")
        };
        assert_eq!(pair("docker.io/library/busybox:1"), "busybox 1");
        assert_eq!(
            pair("localhost:5000/a/b:latest"),
            "localhost:5000/a/b latest"
        );
        let digest = corten_spec::Digest::of(b"");
        assert_eq!(pair(&format!("docker.io/library/b@{digest}")), "b <none>");
        assert_eq!(pair(&format!("{NAMELESS}@{digest}")), "<none> <none>");
    }
}
