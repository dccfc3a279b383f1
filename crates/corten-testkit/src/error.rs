//! Why a sandbox, a fixture or a peer could not be had.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {verb} {}", path.display())]
    Path {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{command} ended with {status}:\n{stderr}")]
    Tool {
        command: String,
        status: ExitStatus,
        stderr: String,
    },
    #[error("{what} did not happen within {limit:?}{detail}")]
    Late {
        what: String,
        limit: Duration,
        detail: String,
    },
    #[error("{what}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{what} is not as expected: {found}")]
    Unexpected { what: &'static str, found: String },
}

impl Error {
    pub(crate) fn path(
        verb: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Path { verb, path, source }
    }

    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::System { what, source }
    }
}
