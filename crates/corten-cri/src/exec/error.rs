//! Why a process did not run to its end, or a port was not reached.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::stream::Failure;

/// A failure on the way to a process or a port.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start the process")]
    Start { source: corten_shim::Error },
    #[error("cannot attach to {}", bundle.display())]
    Attach {
        bundle: PathBuf,
        source: corten_shim::Error,
    },
    #[error("the process's streams broke off")]
    Streams { source: io::Error },
    #[error("nobody knows how the process ended")]
    Lost { source: corten_shim::Error },
    #[error("the process had not ended after {limit:?} and was killed")]
    Late { limit: Duration },
    #[error("cannot enter the pod's network")]
    Namespace { source: corten_net::Error },
    #[error("nobody answers at port {port}")]
    Port { port: u16, source: io::Error },
    #[error("the work ended without a result")]
    Unfinished,
}

impl From<Error> for Failure {
    /// With all of its causes.
    fn from(error: Error) -> Self {
        Self::new(corten_spec::chain(&error))
    }
}
