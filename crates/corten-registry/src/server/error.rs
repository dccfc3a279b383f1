//! Why a server cannot run or store. What a client did wrong is an answer to it, no error of ours.

use std::io;
use std::net::SocketAddr;
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
    /// An engine's state: its content would be garbage to a registry.
    #[error("{} is an engine's folder, and no registry's", root.display())]
    Foreign { root: PathBuf },
    /// A certificate, a key or a password file.
    #[error("cannot use {}: {why}", path.display())]
    File { path: PathBuf, why: String },
    /// Passwords would go through the network for all to read.
    #[error("accounts on {address} need TLS, as passwords would travel in the clear")]
    Exposed { address: SocketAddr },
    #[error("the kernel gives no random bytes")]
    Random,
    /// A pull-through cache's upstream is no address.
    #[error("{upstream:?} is no registry's address: {why}")]
    Upstream { upstream: String, why: String },
}

impl ServerError {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Listener(_) => Kind::Unavailable,
            Self::Storage { .. } | Self::Random => Kind::Internal,
            Self::InUse { .. } => Kind::Busy,
            Self::Foreign { .. }
            | Self::File { .. }
            | Self::Exposed { .. }
            | Self::Upstream { .. } => Kind::Invalid,
        }
    }
}
