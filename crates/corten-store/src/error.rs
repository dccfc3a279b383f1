//! What can go wrong in the store, in the words of the store. Where the fault
//! lies in a layer's own bytes, [`LayerError`] says which entry.

use std::io;
use std::path::{Path, PathBuf};

use corten_spec::{Digest, Kind};

use crate::layer::LayerError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {op} {}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// No blocks or no inodes left; whatever the failed attempt had written is gone again.
    #[error("no space left on the filesystem of {}{}", path.display(), wanted(*needed))]
    NoSpace { path: PathBuf, needed: Option<u64> },
    #[error("cannot {op} in the store's database")]
    Database {
        op: &'static str,
        #[source]
        source: rusqlite::Error,
    },
    #[error("{} was written by a newer corten: schema {found}, this one knows {known}", path.display())]
    Newer {
        path: PathBuf,
        found: i64,
        known: i64,
    },
    #[error("store folder {} cannot be used: {why}", path.display())]
    Root { path: PathBuf, why: &'static str },
    #[error("no {what} {name:?} in the store")]
    NotFound { what: &'static str, name: String },
    #[error("{what} {name:?} is in use by {by}")]
    AlreadyExists {
        what: &'static str,
        name: String,
        by: String,
    },
    /// It cannot go while others need it.
    #[error("{what} {name:?} is in use by {}", by.join(", "))]
    InUse {
        what: &'static str,
        name: String,
        by: Vec<String>,
    },
    #[error("{what} {name:?} is ambiguous: {}", candidates.join(", "))]
    Ambiguous {
        what: &'static str,
        name: String,
        candidates: Vec<String>,
    },
    #[error("{what} {text:?} cannot be used: {why}")]
    Invalid {
        what: &'static str,
        text: String,
        why: &'static str,
    },
    /// The bytes are not what their descriptor promised. Nothing of them is kept.
    #[error("{what} of {subject} is {found}, not {expected}")]
    Mismatch {
        what: &'static str,
        subject: Digest,
        expected: String,
        found: String,
    },
    /// The reader given to an ingest failed. The `kept` bytes before that stay for the next try.
    #[error("layer {digest} broke off after {kept} bytes")]
    Source {
        digest: Digest,
        kept: u64,
        #[source]
        source: io::Error,
    },
    /// The layer's bytes are bad. Nothing of them is kept.
    #[error("layer {digest} cannot be unpacked")]
    Layer {
        digest: Digest,
        #[source]
        source: LayerError,
    },
    /// What was to lie in a snapshot's writable part from its beginning.
    #[error("the changes for snapshot {key} cannot be unpacked")]
    Changes {
        key: String,
        #[source]
        source: LayerError,
    },
    /// The kernel would not mount a layer's image.
    #[error("cannot mount layer {layer}")]
    Mount {
        layer: String,
        #[source]
        source: io::Error,
    },
    /// A row is there, and what it speaks of on disk is not, or is damaged.
    #[error("{what} {name} is damaged on disk: {why}")]
    Damaged {
        what: &'static str,
        name: String,
        why: String,
    },
}

fn wanted(needed: Option<u64>) -> String {
    needed.map_or_else(String::new, |n| format!(" for {n} bytes"))
}

impl Error {
    /// What sort of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::AlreadyExists { .. } => Kind::AlreadyExists,
            Self::InUse { .. } => Kind::Busy,
            Self::Ambiguous { .. } => Kind::Conflict,
            Self::Invalid { .. } | Self::Mismatch { .. } => Kind::Invalid,
            Self::Layer { source, .. } | Self::Changes { source, .. } => source.kind(),
            Self::Source { .. } => Kind::Unavailable,
            Self::Newer { .. } | Self::Mount { .. } => Kind::Unsupported,
            Self::Root { .. } => Kind::Invalid,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Kind::Denied
            }
            Self::Database { source, .. } if is_busy(source) => Kind::Busy,
            Self::Io { .. }
            | Self::NoSpace { .. }
            | Self::Database { .. }
            | Self::Damaged { .. } => Kind::Internal,
        }
    }

    /// For `map_err`: an I/O failure with what was tried on which path. A full disk gets its own variant.
    pub(crate) fn io<E: Into<io::Error>>(
        op: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        move |source| {
            let (source, path) = (source.into(), path.as_ref().to_path_buf());
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Self::NoSpace { path, needed: None }
                }
                _ => Self::Io { op, path, source },
            }
        }
    }

    pub(crate) fn db(op: &'static str) -> impl FnOnce(rusqlite::Error) -> Self {
        move |source| Self::Database { op, source }
    }
}

fn is_busy(e: &rusqlite::Error) -> bool {
    matches!(
        e.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    )
}
