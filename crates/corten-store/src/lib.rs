//! Blobs, metadata and snapshots: one transaction domain.
//!
//! A [`Store`] is a folder. It keeps content-addressed blobs, layers made of them (EROFS images or folders),
//! the writable snapshots of containers, and an SQLite database that says who needs what. Several processes use one folder at once.
//!
//! ```text
//!   begin_layer ─► LayerIngest::run ─► LayerId ─┐
//!   put_blob (manifest, config) ────────────────┼─► put_image ─► image() ─► Snapshotter::prepare ─► RootMount
//!   lease() protects it all until the image does ┘
//! ```
//!
//! ```no_run
//! use corten_store::{Begin, ImageRecord, LayerDesc, LayerRef, RootMount, Snapshotter, Store};
//! # use corten_spec::Digest;
//! # fn pull(descs: Vec<LayerDesc>, config: (Digest, Vec<u8>), record: ImageRecord,
//! #     download: impl Fn(&Digest, u64) -> std::io::Empty) -> corten_store::Result<RootMount> {
//! let store = Store::open("/var/lib/corten".as_ref())?;
//! let lease = store.lease("pull busybox")?;
//! store.put_blob(&lease, &config.0, &config.1)?; // and the manifest, and the index
//! let mut layers = Vec::new();
//! for desc in descs {
//!     let layer = match store.begin_layer(&lease, &desc)? {
//!         Begin::Present(id) => id,
//!         // The offset may be the whole size: then there is nothing to ask the registry for.
//!         Begin::Ingest(ingest) => {
//!             let rest = download(&desc.digest, ingest.offset());
//!             ingest.run(rest)?
//!         }
//!     };
//!     let LayerDesc { digest, size, diff_id, .. } = desc;
//!     layers.push(LayerRef { digest, size, diff_id, layer });
//! }
//! store.put_image(ImageRecord { layers, ..record })?;
//! drop(lease);
//!
//! // The container's row goes in first: it owns the snapshot of its id.
//! let image = store.image("busybox")?;
//! let layers: Vec<_> = image.layers.into_iter().map(|l| l.layer).collect();
//! store.snapshotter().prepare("4f3c…", &layers)
//! # }
//! ```
//!
//! What holds at any instant, a `kill -9` included:
//!
//! - Nothing is visible under its final name before its digest, size and diff id
//!   have been checked: work goes on in `ingest/`, and `rename` publishes it.
//! - What is on disk without a row is garbage; [`Store::collect`] removes it. What has a row and is not on disk is
//!   named by [`Store::check`].
//! - Big trees go to `trash/` by rename first, so half a removal is never mistaken for a whole thing.
//!
//! The crate blocks and has no network. It mounts the images of layers, and nothing on top of them: a [`RootMount`] is a
//! recipe for whoever builds the container's mount namespace.
//!
//! ```text
//! ROOT/corten.db            rows (SQLite, WAL)
//! ROOT/blobs/sha256/HEX     whole, checked blobs
//! ROOT/ingest/…             partial blobs (flock held by their writer) and trees being unpacked
//! ROOT/layers/ID/{data,meta,sparse}   one layer as an image, mounted at `fs` while a snapshot needs it; or
//! ROOT/layers/ID/fs         unpacked. Neither is changed once it has this name
//! ROOT/snapshots/KEY/{fs,work}
//! ROOT/trash/…              on its way out
//! ```

#![forbid(unsafe_code)]

mod check;
mod collect;
mod content;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod layer;
mod metadata;
pub mod snapshot;
mod store;

pub use check::{Defect, Finding};
pub use collect::{Occupied, Share};
pub use error::{Error, Result};
pub use layer::{
    Begin, Chosen, LayerChoice, LayerDesc, LayerError, LayerId, LayerIngest, Limits, Packing,
};
pub use metadata::{
    ContainerRow, Containers, ImageRecord, LayerRef, Lease, MountedImage, NetworkRow, Networks,
    PodRow, Pods, Target,
};
pub use snapshot::attach::is_mounted;
pub use snapshot::{RootMount, Snapshotter, Usage};
pub use store::{Options, Store};
