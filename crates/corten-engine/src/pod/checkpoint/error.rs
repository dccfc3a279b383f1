//! Why a container of a pod could not be checkpointed, or go on from a checkpoint.

use std::path::PathBuf;

use corten_spec::Kind;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no checkpoint can be written to {path:?}: {why}")]
    Location { path: PathBuf, why: &'static str },
    #[error("checkpoint {archive} cannot be used: {why}")]
    Archive { archive: String, why: String },
    #[error("config.dump of checkpoint {archive} cannot be read")]
    Config {
        archive: String,
        #[source]
        source: serde_json::Error,
    },
    /// The image that its container was made of.
    #[error("image {name:?}, of which checkpoint {archive} was made, is not here")]
    Base { archive: String, name: String },
    #[error("container {id}: {what} in a pod with users of its own is not supported")]
    Users { id: String, what: &'static str },
    #[error("the checkpoint of container {id} was given up")]
    GivenUp { id: String },
    #[error("container {id} was checkpointed, but cannot be let run on")]
    Paused {
        id: String,
        #[source]
        source: corten_shim::Error,
    },
}

impl Error {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Location { .. } | Self::Archive { .. } | Self::Config { .. } => Kind::Invalid,
            Self::Base { .. } => Kind::NotFound,
            Self::Users { .. } => Kind::Unsupported,
            Self::GivenUp { .. } => Kind::Unavailable,
            Self::Paused { source, .. } => source.kind(),
        }
    }
}
