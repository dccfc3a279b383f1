//! What can be wrong with images as people handle them: names, filters, archives, documents.

use std::path::PathBuf;

use corten_spec::{Digest, Kind};

/// Why something could not be done with an image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("filter {text:?} cannot be used: {why}")]
    Filter { text: String, why: &'static str },
    #[error("image {name} is mounted at {path:?}")]
    Mounted { name: String, path: PathBuf },
    #[error("{name:?} names a digest, and a tag cannot be pointed at one by name")]
    TagWithDigest { name: String },
    #[error("image {image:?} is not here for {wanted}, only for {}", .here.join(", "))]
    Platform {
        image: String,
        wanted: String,
        here: Vec<String>,
    },
    #[error("{path:?} exists, and is not overwritten")]
    Exists { path: PathBuf },
    #[error("archive {archive} cannot be used: {why}")]
    Archive { archive: String, why: String },
    #[error("member {member:?} of archive {archive} is {found}, not {expected}")]
    Member {
        archive: String,
        member: String,
        expected: Digest,
        found: Digest,
    },
    #[error("change {text:?} cannot be used: {why}")]
    Change { text: String, why: &'static str },
    #[error("manifest list {name:?} cannot be used: {why}")]
    List { name: String, why: String },
    #[error("{what} cannot be read")]
    Document {
        what: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{text:?} names no place for images: {why}")]
    Place { text: String, why: String },
}

impl Error {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Platform { .. } => Kind::NotFound,
            Self::Exists { .. } => Kind::AlreadyExists,
            Self::Mounted { .. } => Kind::Conflict,
            Self::Filter { .. }
            | Self::TagWithDigest { .. }
            | Self::Archive { .. }
            | Self::Member { .. }
            | Self::Change { .. }
            | Self::List { .. }
            | Self::Document { .. }
            | Self::Place { .. } => Kind::Invalid,
        }
    }
}
