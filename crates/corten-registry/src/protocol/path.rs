//! The paths below `/v2/`: built by the client, taken apart by the server.

use corten_spec::reference::{is_repository, is_tag};
use corten_spec::{Digest, DigestError};

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Tag(String),
    Digest(Digest),
}

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Version,
    Catalog,
    Tags {
        name: String,
    },
    Manifest {
        name: String,
        key: Key,
    },
    Blob {
        name: String,
        digest: Digest,
    },
    Uploads {
        name: String,
    },
    Upload {
        name: String,
        id: String,
    },
    Referrers {
        name: String,
        digest: Digest,
    },
    /// Of the API before this one, which docker still searches by: whether anybody is there, and the search.
    OldPing,
    Search,
}

/// Why a path names nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("no such endpoint")]
    Unknown,
    #[error("{0:?} is no repository name")]
    Name(String),
    #[error("{0:?} is no tag")]
    Tag(String),
    #[error(transparent)]
    Digest(#[from] DigestError),
}

pub fn manifest(name: &str, key: &str) -> String {
    format!("/{name}/manifests/{key}")
}

pub fn blob(name: &str, digest: &Digest) -> String {
    format!("/{name}/blobs/{digest}")
}

pub fn uploads(name: &str) -> String {
    format!("/{name}/blobs/uploads/")
}

pub fn tags(name: &str) -> String {
    format!("/{name}/tags/list")
}

pub fn referrers(name: &str, digest: &Digest) -> String {
    format!("/{name}/referrers/{digest}")
}

/// The tag that stands for the referrers of a manifest on registries without that API ("Referrers Tag Schema").
pub fn referrers_tag(digest: &Digest) -> String {
    let hex = digest.hex();
    let hex = hex.get(..64).unwrap_or(hex);
    format!("{}-{hex}", digest.algorithm().as_str())
}

/// Takes a request's path apart. Escapes must be decoded already.
pub fn parse(path: &str) -> Result<Route, PathError> {
    match path {
        "/v1/_ping" => return Ok(Route::OldPing),
        "/v1/search" => return Ok(Route::Search),
        _ => {}
    }
    let rest = match path.strip_prefix("/v2") {
        Some("" | "/") => return Ok(Route::Version),
        Some(rest) => rest.strip_prefix('/').ok_or(PathError::Unknown)?,
        None => return Err(PathError::Unknown),
    };
    if rest == "_catalog" {
        return Ok(Route::Catalog);
    }
    // A repository may itself be called "blobs" or "tags": the words count from the end.
    let (head, last) = rest.rsplit_once('/').ok_or(PathError::Unknown)?;
    let (name, word) = head.rsplit_once('/').ok_or(PathError::Unknown)?;
    match (word, last) {
        ("tags", "list") => Ok(Route::Tags {
            name: repository(name)?,
        }),
        ("blobs", "uploads") => Ok(Route::Uploads {
            name: repository(name)?,
        }),
        ("blobs", digest) => Ok(Route::Blob {
            name: repository(name)?,
            digest: digest.parse()?,
        }),
        ("manifests", key) => Ok(Route::Manifest {
            name: repository(name)?,
            key: parse_key(key)?,
        }),
        ("referrers", digest) => Ok(Route::Referrers {
            name: repository(name)?,
            digest: digest.parse()?,
        }),
        ("uploads", id) => {
            let name = name.strip_suffix("/blobs").ok_or(PathError::Unknown)?;
            let name = repository(name)?;
            match id {
                "" => Ok(Route::Uploads { name }),
                id => Ok(Route::Upload {
                    name,
                    id: id.into(),
                }),
            }
        }
        _ => Err(PathError::Unknown),
    }
}

fn repository(name: &str) -> Result<String, PathError> {
    match is_repository(name) {
        true => Ok(name.into()),
        false => Err(PathError::Name(name.into())),
    }
}

fn parse_key(key: &str) -> Result<Key, PathError> {
    if key.contains(':') {
        return Ok(Key::Digest(key.parse()?));
    }
    match is_tag(key) {
        true => Ok(Key::Tag(key.into())),
        false => Err(PathError::Tag(key.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint() {
        let d = Digest::of(b"x");
        let name = || "a/b".to_owned();
        assert_eq!(parse("/v2/"), Ok(Route::Version));
        assert_eq!(parse("/v2"), Ok(Route::Version));
        assert_eq!(parse("/v2/_catalog"), Ok(Route::Catalog));
        assert_eq!(parse("/v1/search"), Ok(Route::Search));
        assert_eq!(parse("/v2/a/b/tags/list"), Ok(Route::Tags { name: name() }));
        let path = format!("/v2{}", blob("a/b", &d));
        let want = Route::Blob {
            name: name(),
            digest: d.clone(),
        };
        assert_eq!(parse(&path), Ok(want));
        let path = format!("/v2{}", manifest("a/b", "latest"));
        let want = Route::Manifest {
            name: name(),
            key: Key::Tag("latest".into()),
        };
        assert_eq!(parse(&path), Ok(want));
        for path in ["/v2/a/b/blobs/uploads/", "/v2/a/b/blobs/uploads"] {
            assert_eq!(parse(path), Ok(Route::Uploads { name: name() }));
        }
        let want = Route::Upload {
            name: name(),
            id: "7".into(),
        };
        assert_eq!(parse("/v2/a/b/blobs/uploads/7"), Ok(want));
        let want = Route::Tags {
            name: "x/blobs".into(),
        };
        assert_eq!(parse("/v2/x/blobs/tags/list"), Ok(want));
    }

    #[test]
    fn nothing_walks_out() {
        assert!(matches!(
            parse("/v2/../x/tags/list"),
            Err(PathError::Name(_))
        ));
        assert!(matches!(
            parse("/v2/a/manifests/.."),
            Err(PathError::Tag(_))
        ));
        assert!(matches!(
            parse("/v2/a/blobs/sha256:../x"),
            Err(PathError::Unknown)
        ));
        assert!(matches!(
            parse("/v2/a/blobs/sha256:0"),
            Err(PathError::Digest(_))
        ));
        assert_eq!(parse("/v2x/"), Err(PathError::Unknown));
        assert_eq!(parse("/v1/"), Err(PathError::Unknown));
    }

    proptest::proptest! {
        #[test]
        fn any_path_is_a_route_or_an_error(s in "/v2/[a-z0-9/_.:-]{0,80}") {
            if let Ok(Route::Tags { name } | Route::Uploads { name }) = parse(&s) {
                proptest::prop_assert!(is_repository(&name));
            }
        }
    }
}
