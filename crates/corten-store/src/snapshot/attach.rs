//! Images of layers, mounted for the snapshots that need them.
//!
//! The page cache belongs to a mounted file system, so each image is mounted once, at `layers/ID/fs`, and all containers'
//! overlays have that as a lower folder: what one has read, the next one finds in memory. The host sees these mounts.
//! Each lies in its layer's folder, so it has an owner for as long as it is there; it is used by the rows of snapshots, and goes with the
//! last of them. Mounts are made and taken away inside the transactions that change those rows.
//!
//! A mount that no snapshot uses is what a kill left, and [`Store::collect`](crate::Store::collect) takes it away.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rusqlite::{Transaction, params};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::error::{Error, Result};
use crate::layer::{Form, LayerId, erofs, verity};
use crate::metadata::layer::LayerRow;
use crate::store::{Store, open_folder};

/// The root of a layer's tree, whether or not it is mounted.
pub(crate) fn open(store: &Store, row: &LayerRow) -> Result<OwnedFd> {
    let path = store.layer_tree(&row.id);
    if row.form == Form::Folders || is_mounted(&path)? {
        return open_folder(&path).map_err(Error::io("open folder", &path));
    }
    let mount = mount(store, row)?;
    // The mount lives as long as what was opened in it.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&mount, ".", flags, Mode::empty()).map_err(Error::io("open folder", &path))
}

/// Mounts those images of a stack that are not mounted. Inside the transaction that says who needs them, or after it. If one fails, those
/// before it go again.
pub(crate) fn attach(store: &Store, stack: &[LayerRow]) -> Result<()> {
    let mut made = Vec::new();
    for row in stack.iter().filter(|r| r.form != Form::Folders) {
        let path = store.layer_tree(&row.id);
        let outcome = match is_mounted(&path) {
            Ok(true) => continue,
            Ok(false) => mount(store, row).and_then(|mount| {
                corten_sys::mount::attach(mount.as_fd(), CWD, path.as_path())
                    .map_err(Error::io("mount a layer at", &path))
            }),
            Err(e) => Err(e),
        };
        match outcome {
            Ok(()) => made.push(store.layer_path(&row.id)),
            Err(e) => {
                for path in made {
                    // The first failure is the one to tell; a collection finds what this leaves.
                    let _ = detach(&path);
                }
                return Err(e);
            }
        }
    }
    Ok(())
}

/// Is every image of the stack mounted?
pub(crate) fn is_attached(store: &Store, stack: &[LayerRow]) -> Result<bool> {
    for row in stack.iter().filter(|r| r.form != Form::Folders) {
        if !is_mounted(&store.layer_tree(&row.id))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn mount(store: &Store, row: &LayerRow) -> Result<OwnedFd> {
    if let Some(measures) = &row.verity {
        verity::check(store, &row.id, measures)?;
    }
    erofs::mount(&store.layer_path(&row.id)).map_err(|source| Error::Mount {
        layer: row.id.to_string(),
        source,
    })
}

/// Unmounts the image of a layer's folder, if it is mounted; says whether it was. Overlays on it keep what they have.
pub(crate) fn detach(layer: &Path) -> Result<bool> {
    let path = layer.join("fs");
    if !is_mounted(&path)? {
        return Ok(false);
    }
    let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
    match rustix::mount::unmount(&path, flags) {
        Ok(()) => Ok(true),
        // Another process was faster.
        Err(Errno::INVAL | Errno::NOENT) => Ok(false),
        Err(e) => Err(Error::io("unmount", &path)(e)),
    }
}

/// Unmounts those of `layers` that no snapshot needs, inside the transaction that removed one.
pub(crate) fn release<'a>(
    store: &Store,
    t: &Transaction<'_>,
    layers: impl IntoIterator<Item = &'a LayerId>,
) -> Result<()> {
    for layer in layers {
        if !is_used(t, layer.as_str()).map_err(Error::db("look up the users of a layer"))? {
            detach(&store.layer_path(layer))?;
        }
    }
    Ok(())
}

/// Does a snapshot have this layer, or a patch on it?
pub(crate) fn is_used(t: &Transaction<'_>, layer: &str) -> rusqlite::Result<bool> {
    t.prepare(
        "SELECT EXISTS (SELECT 1 FROM snapshot_layer WHERE layer = ?1)
             OR EXISTS (SELECT 1 FROM layer l JOIN snapshot_layer s ON s.layer = l.id WHERE l.base = ?1)",
    )?
    .query_row(params![layer], |r| r.get(0))
}

/// Is something mounted right here? No path at all is nothing.
pub fn is_mounted(path: &Path) -> Result<bool> {
    match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()) {
        Ok(s) => Ok(s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(e) => Err(Error::io("look at", path)(io::Error::from(e))),
    }
}
