//! Why a server cannot run or store. What a client did wrong is an answer to it, no error of ours.

use std::io;
use std::path::PathBuf;

use corten_spec::Kind;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    #[error("cannot use the listening socket")]
    Listener(#[source] io::Error),
    #[error("cannot {doing} {}", path.display())]
    Storage {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Another server has the folder.
    #[error("{} is in use by another registry", root.display())]
    InUse { root: PathBuf },
}

impl ServerError {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Listener(_) => Kind::Unavailable,
            Self::Storage { .. } => Kind::Internal,
            Self::InUse { .. } => Kind::Busy,
        }
    }
}
