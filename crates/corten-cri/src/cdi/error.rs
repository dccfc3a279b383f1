//! What is wrong with a device's name, with a file, or with all of them together.

use std::path::PathBuf;

use corten_spec::Kind;

/// Why a device cannot be given to a container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{text:?} is no name of a device: {problem}")]
    Name { text: String, problem: &'static str },
    #[error("there is no device {name:?}{}", beside(.unread))]
    Missing {
        name: String,
        /// Files that could not be read, any of which may describe it.
        unread: Vec<PathBuf>,
    },
    #[error("device {name:?} is described twice, in {first:?} and in {second:?}")]
    Conflict {
        name: String,
        first: PathBuf,
        second: PathBuf,
    },
}

impl Error {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Name { .. } => Kind::Invalid,
            Self::Missing { .. } => Kind::NotFound,
            Self::Conflict { .. } => Kind::Conflict,
        }
    }
}

fn beside(files: &[PathBuf]) -> String {
    match files {
        [] => String::new(),
        files => format!(" in the files that could be read; not so {files:?}"),
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("cannot be read")]
    Io(#[from] std::io::Error),
    #[error("is larger than {max} bytes")]
    Size { max: u64 },
    #[error("is no JSON that describes devices")]
    Json(#[from] serde_json::Error),
    #[error("is no YAML that describes devices: line {line}: {problem}")]
    Yaml { line: usize, problem: String },
    #[error("{field} {problem}")]
    Invalid { field: String, problem: String },
}
