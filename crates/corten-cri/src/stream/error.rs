//! What can go wrong before a client connects. Later failures are told to the client.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a session was not prepared, or the server not started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} is missing")]
    Missing { what: &'static str },
    #[error("a terminal has no standard error of its own")]
    TtyStderr,
    #[error("none of stdin, stdout and stderr is asked for")]
    NoStream,
    #[error("{ports} ports are more than the {most} that one connection forwards")]
    TooManyPorts { ports: usize, most: usize },
    #[error("{most} sessions wait for their clients already")]
    TooMany { most: usize },
    #[error("the kernel gives no random bytes")]
    Random,
    #[error("no address to listen on is given")]
    NoAddress,
    #[error("{address} is every address: clients must be told which name or address to use")]
    NoHost { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is of no use for TLS: {why}")]
    Certificate { path: PathBuf, why: String },
}

/// The kind of an [`Error`], for the caller's own statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    Invalid,
    Exhausted,
    Internal,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. }
            | Self::TtyStderr
            | Self::NoStream
            | Self::TooManyPorts { .. }
            | Self::NoAddress
            | Self::NoHost { .. }
            | Self::Certificate { .. } => ErrorKind::Invalid,
            Self::TooMany { .. } => ErrorKind::Exhausted,
            Self::Random | Self::Listen { .. } | Self::Read { .. } => ErrorKind::Internal,
        }
    }
}
