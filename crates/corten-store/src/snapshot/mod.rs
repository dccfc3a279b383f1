//! Snapshots: a stack of layers with a writable one on top, as a recipe for a mount.
//!
//! [`Snapshotter`] is the contract; [`overlay`] keeps it, over folders and mounted images; [`conformance`] holds any implementation to
//! it. [`settle`] lets a layer that was unpacked alone learn from the layers below what it could not know.

pub(crate) mod attach;
pub mod conformance;
mod copy;
mod fill;
mod merged;
mod overlay;
mod patch;
pub(crate) mod settle;

pub use overlay::Overlay;

use std::path::Path;

use crate::collect::usage;
use crate::error::{Error, Result};
use crate::layer::LayerId;

/// How to mount a container's root, in the manner of containerd's `Mount`: what `fsconfig` takes after `fsopen(fstype)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootMount {
    pub fstype: String,
    pub source: String,
    /// `key=value` or `flag`, one option each. The value of `lowerdir` is as overlay's own text form has
    /// it: top first, `:` between. It may well be longer than the 4096 bytes that mount(2) takes.
    pub options: Vec<String>,
}

/// What a snapshot's writable part occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In bytes of disk blocks.
    pub bytes: u64,
    pub inodes: u64,
}

impl Usage {
    /// What a folder occupies, without what is mounted in it.
    pub fn of(folder: &Path) -> Result<Self> {
        usage::of(folder)
    }
}

/// Makes writable snapshots of layers.
///
/// # Contract
///
/// - A key is 1 to 200 characters of `[A-Za-z0-9_.-]`, not starting with a dot; any other is [`Error::Invalid`].
/// - `prepare` makes a snapshot whose mount shows the layers merged, bottom first in `layers`: the upper of two wins,
///   folders merge, a whiteout hides, an opaque folder hides everything below in it. A folder that a layer implies but never
///   names looks as the layers below left it. The root folder looks as the topmost layer that names it says; with none, it is 0755 root:root.
///   No layers at all is an empty root. A layer may be repeated.
/// - It mounts nothing and leaves the layers as they are. Two snapshots of the same layers share nothing writable.
/// - A key in use is [`Error::AlreadyExists`]; a layer that is not in the store is [`Error::NotFound`], and nothing is left of the attempt.
/// - `mounts` gives the same recipe again, at any later time and in any process.
/// - `remove` forgets the snapshot and everything written to it, at once, and may leave the bytes in the trash: on a disk with
///   `discard` and no journal a single rmdir takes milliseconds. [`Store::empty_trash`](crate::Store::empty_trash) frees them when nobody waits.
///   Removing one that is not there is [`Error::NotFound`]; after a kill in the middle of a removal, removing again works.
///   Whoever mounted it has unmounted it first, or accepts that the mount shows ruins.
/// - While a snapshot exists, its layers do.
/// - Who prepares owns: a snapshot whose key is no container's id, and that no living lease holds, is garbage.
pub trait Snapshotter {
    /// Short and stable; stored with each snapshot.
    fn name(&self) -> &'static str;
    /// A new writable snapshot.
    fn prepare(&self, key: &str, layers: &[LayerId]) -> Result<RootMount>;
    /// The recipe of an existing one.
    fn mounts(&self, key: &str) -> Result<RootMount>;
    /// Removes it.
    fn remove(&self, key: &str) -> Result<()>;
    /// What its writable part occupies now.
    fn usage(&self, key: &str) -> Result<Usage>;
    /// All keys, sorted.
    fn list(&self) -> Result<Vec<String>>;
}

pub(crate) fn check_key(key: &str) -> Result<()> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    match !key.is_empty() && key.len() <= 200 && !key.starts_with('.') && key.bytes().all(ok) {
        true => Ok(()),
        false => Err(Error::Invalid {
            what: "snapshot key",
            text: key.chars().take(60).collect(),
            why: "a key is 1 to 200 characters of [A-Za-z0-9_.-], not starting with a dot",
        }),
    }
}
