//! Layers: from compressed bytes to a tree, in one pass.
//!
//! ```text
//!  reader ─► [partial blob] ─► sha256 ─► inflate ─► sha256 (diff id) ─► tar entries ─► index, or tree
//!            └───────────── this thread ──────────┘└───────────── one more thread ─────────────┘
//! ```
//!
//! [`ingest`] is the pipeline and its transaction; [`unpack`] the inflating; [`tar`] reads entries and knows no
//! file system; [`entry`] decides what an entry means in an image (whiteouts, forbidden names); then [`erofs`] writes it into an index of the
//! tar, or [`folder`] makes it real under one descriptor. [`form`] says which.

pub(crate) mod entry;
pub(crate) mod erofs;
mod error;
mod folder;
mod form;
mod gzip;
mod ingest;
mod pipe;
mod record;
pub(crate) mod tar;
mod unpack;
pub(crate) mod verity;

pub(crate) use entry::{join, split};
pub use erofs::Packing;
pub use error::EntryPath;
pub use error::LayerError;
pub(crate) use folder::{Done, Pending, apply_all, attributes, marks};
pub(crate) use form::Form;
pub use form::{Chosen, LayerChoice};
pub use ingest::{Begin, LayerIngest};
pub(crate) use ingest::{make_tree, rebuild};
#[cfg(any(test, fuzzing))]
pub(crate) use unpack::inflate_all;

use std::fmt;
use std::str::FromStr;

use corten_spec::Digest;

/// What a manifest and a config say of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerDesc {
    /// Of the blob as transferred.
    pub digest: Digest,
    /// Of the blob as transferred, in bytes.
    pub size: u64,
    /// Says how it is packed; the bytes must agree.
    pub media_type: String,
    /// Of the tar inside.
    pub diff_id: Digest,
}

/// An unpacked layer. Opaque, but for being a file name: `sha256-HEX` by diff id, or `patch-HEX` for one
/// settled on what lies below it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(Box<str>);

/// A text that is no layer id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no layer id")]
pub struct LayerIdError(String);

impl LayerId {
    pub(crate) fn of_diff(diff_id: &Digest) -> Self {
        Self(format!("{}-{}", diff_id.algorithm().as_str(), diff_id.hex()).into())
    }

    /// Of a layer that is no patch.
    pub(crate) fn diff_id(&self) -> Option<Digest> {
        self.0.replacen('-', ":", 1).parse().ok()
    }

    /// The patch of `layer` on the stack `below`.
    pub(crate) fn patch(layer: &Self, below: &str) -> Self {
        let both = Digest::of(format!("{layer} on {below}").as_bytes());
        Self(format!("patch-{}", both.hex()).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LayerId {
    type Err = LayerIdError;

    fn from_str(s: &str) -> Result<Self, LayerIdError> {
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        match !s.is_empty() && s.len() <= 160 && s.bytes().all(ok) {
            true => Ok(Self(s.into())),
            false => Err(LayerIdError(s.chars().take(40).collect())),
        }
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Bounds on one layer, against layers made to exhaust the host. Disk space is always a bound besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files, folders and links, those that are only implied included.
    pub entries: u64,
    /// Bytes of tar.
    pub unpacked: u64,
    /// Bytes of one PAX header, GNU long name or sparse map.
    pub header: u64,
    /// Bytes remembered of names until the end (implied folders, links into lower layers).
    pub pending: usize,
    /// Bytes of memory for the indexes of all EROFS images that this process writes at once, some 80 an entry. A layer that needs more
    /// is unpacked into folders.
    pub index: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 8_000_000,
            unpacked: 1 << 40,
            header: 1 << 20,
            pending: 32 << 20,
            index: 32 << 20,
        }
    }
}
