//! What callers of this crate see fail.

use std::io;
use std::path::PathBuf;

use corten_spec::Kind;

use crate::proto::corten::Failure;
use crate::ttrpc::status::Status;

/// A failure at the client's side of a shim, or of starting one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot prepare the shim's socket {}", path.display())]
    Socket { path: PathBuf, source: io::Error },
    #[error("cannot start the shim {}", path.display())]
    Spawn { path: PathBuf, source: io::Error },
    #[error("cannot reach the shim at {}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the shim broke off during {method}")]
    Broken {
        method: &'static str,
        source: io::Error,
    },
    /// The shim answered with a failure; its data is in `status.failure`.
    #[error("{}", status.message)]
    Call {
        method: &'static str,
        status: Box<Status>,
    },
    #[error("the shim refuses to attach: {message}")]
    Refused { message: String },
    #[error("bad answer of the shim to {method}")]
    Answer {
        method: &'static str,
        source: prost::DecodeError,
    },
    #[error("a message to the shim is too long")]
    TooLong(#[from] crate::ttrpc::frame::Oversized),
    #[error("bad shim command line: {problem}")]
    Usage { problem: String },
    #[error("cannot {step} {}", path.display())]
    File {
        step: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot {step}")]
    Kernel {
        step: &'static str,
        source: rustix::io::Errno,
    },
    /// Another's shim, run by us.
    #[error("{} {action} failed: {reason}", binary.display())]
    Foreign {
        binary: PathBuf,
        action: &'static str,
        reason: String,
    },
    #[error("cannot remove the container {id}")]
    Cleanup {
        id: String,
        source: Box<corten_runtime::Error>,
    },
}

impl Error {
    /// The sort of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Kind::NotFound
            }
            Self::Connect { .. } | Self::Broken { .. } | Self::Answer { .. } => Kind::Unavailable,
            Self::Call { status, .. } => status.kind(),
            Self::Refused { .. } => Kind::Conflict,
            Self::TooLong(_) | Self::Usage { .. } => Kind::Invalid,
            Self::Cleanup { source, .. } => source.kind(),
            Self::Socket { .. }
            | Self::Spawn { .. }
            | Self::File { .. }
            | Self::Kernel { .. }
            | Self::Foreign { .. } => Kind::Internal,
        }
    }

    /// What failed in the container's set-up, as data: step, errno, path, exit code.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Call { status, .. } => status.failure.as_deref(),
            _ => None,
        }
    }
}
