//! What can be wrong with a layer's bytes.

use std::fmt;
use std::io;

use corten_spec::Kind;

/// A path of a tar entry, which need not be UTF-8, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPath(pub Vec<u8>);

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A hostile name may be long; its head and tail tell it.
        match self.0.len() {
            0..=300 => write!(f, "\"{}\"", self.0.escape_ascii()),
            n => write!(
                f,
                "\"{}…{}\" ({n} bytes)",
                self.0[..200].escape_ascii(),
                self.0[n - 60..].escape_ascii()
            ),
        }
    }
}

/// Why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("media type {0:?} is no layer that can be unpacked")]
    MediaType(String),
    #[error("the {packing} stream is truncated")]
    TruncatedStream { packing: &'static str },
    #[error("the {packing} stream is corrupt")]
    Corrupt {
        packing: &'static str,
        #[source]
        source: io::Error,
    },
    /// Whoever feeds the tar reader failed.
    #[error("the tar stream broke at byte {offset}")]
    Read {
        offset: u64,
        #[source]
        source: io::Error,
    },
    #[error("the tar is truncated at byte {offset}")]
    TruncatedTar { offset: u64 },
    #[error("the tar header at byte {offset} is bad: {why}")]
    Header { offset: u64, why: &'static str },
    /// The layer tries to reach outside, or says something that no tree can hold.
    #[error("entry {entry} is refused: {why}")]
    Refused { entry: EntryPath, why: &'static str },
    #[error("it has more than {limit} {what}")]
    Limit { what: &'static str, limit: u64 },
    /// The file system would not have it.
    #[error("cannot {op} for entry {entry}")]
    Write {
        op: &'static str,
        entry: EntryPath,
        #[source]
        source: io::Error,
    },
    /// A file of the store's own, which is none of the layer's.
    #[error("cannot {op} the layer")]
    Store {
        op: &'static str,
        #[source]
        source: io::Error,
    },
    /// As an EROFS image only: folders can hold it.
    #[error("it cannot be kept as an EROFS image: {why}")]
    Form { why: &'static str },
    #[error("entry {entry} needs {needed} bytes, and the file system has {available}")]
    Space {
        entry: EntryPath,
        needed: u64,
        available: u64,
    },
}

impl LayerError {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Write { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Kind::Denied
            }
            Self::Write { .. } | Self::Space { .. } | Self::Store { .. } => Kind::Internal,
            Self::MediaType(_) | Self::Form { .. } => Kind::Unsupported,
            _ => Kind::Invalid,
        }
    }

    pub(crate) fn refused(entry: &[u8], why: &'static str) -> Self {
        Self::Refused {
            entry: EntryPath(entry.to_vec()),
            why,
        }
    }

    /// For `map_err`: the store's own file system would not do this.
    pub(crate) fn store(op: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Store { op, source }
    }

    /// Is the disk full?
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Space { .. } => true,
            Self::Write { source, .. } | Self::Store { source, .. } | Self::Read { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
                )
            }
            _ => false,
        }
    }

    /// How many bytes the entry would have needed, where that is known.
    pub(crate) fn needed(&self) -> Option<u64> {
        match self {
            Self::Space { needed, .. } => Some(*needed),
            _ => None,
        }
    }
}
