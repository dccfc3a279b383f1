//! Why a configuration cannot become a container: by the field's name, before anything is made.

use std::io;
use std::path::PathBuf;

use corten_spec::Kind;

use crate::cdi;

/// A refusal. `field` is the field of the request, as the interface writes it.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The request contradicts itself or the interface.
    #[error("{field} {problem}")]
    Invalid { field: String, problem: String },
    /// This host, or how it is set up, cannot.
    #[error("{field} {problem}")]
    Unsupported { field: String, problem: String },
    /// What the request names is not there.
    #[error("{field} {problem}")]
    Missing { field: String, problem: String },
    /// What the request names cannot be looked at.
    #[error("{field} names {path:?}, which cannot be read")]
    Unreadable {
        field: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A step that the plan asks for failed.
    #[error("cannot {action} {path:?}")]
    Failed {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The engine refuses what a file or the image says.
    #[error("{field} is refused")]
    Engine {
        field: String,
        #[source]
        source: Box<corten_engine::Error>,
    },
    #[error(transparent)]
    Cdi(#[from] cdi::Error),
}

impl Refused {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Invalid { .. } => Kind::Invalid,
            Self::Unsupported { .. } => Kind::Unsupported,
            Self::Missing { .. } => Kind::NotFound,
            Self::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Kind::NotFound
            }
            Self::Unreadable { .. } | Self::Failed { .. } => Kind::Internal,
            Self::Engine { source, .. } => source.kind(),
            Self::Cdi(error) => error.kind(),
        }
    }

    pub(super) fn engine(field: &str) -> impl FnOnce(corten_engine::Error) -> Self {
        let field = field.to_owned();
        move |source| Self::Engine {
            field,
            source: Box::new(source),
        }
    }
}

pub(super) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Refused {
    Refused::Invalid {
        field: field.into(),
        problem: problem.into(),
    }
}

pub(super) fn unsupported(field: impl Into<String>, problem: impl Into<String>) -> Refused {
    Refused::Unsupported {
        field: field.into(),
        problem: problem.into(),
    }
}

pub(super) fn missing(field: impl Into<String>, problem: impl Into<String>) -> Refused {
    Refused::Missing {
        field: field.into(),
        problem: problem.into(),
    }
}
