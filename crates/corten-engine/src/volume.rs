//! Named volumes: a folder each. One that is new takes what the image has at its target, as
//! docker's do, before anything is written to it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use corten_store::Usage;

use crate::container::{Container, volumes_of};
use crate::error::Error;
use crate::paths::Paths;
use crate::recovery::names;
use crate::system::DiskUse;
use crate::{make_private, remove_tree, rootfs};

/// Beside `_data` until the image's content has been copied. It outlives a crash in the
/// middle of the copy, which is then done again.
const FRESH: &str = "fresh";

/// Makes the volume if there is none by this name.
pub fn ensure(paths: &Paths, name: &str) -> Result<(), Error> {
    let data = paths.volume(name);
    if data.is_dir() {
        return Ok(());
    }
    let folder = paths.volumes().join(name);
    make_private(&folder)?;
    fs::write(folder.join(FRESH), []).map_err(Error::io("write", folder.join(FRESH)))?;
    match fs::create_dir(&data) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::io("make folder", data)(e))
        }
        _ => Ok(()),
    }
}

/// Copies what the image has at `target` into a new volume.
pub fn fill(paths: &Paths, name: &str, root: BorrowedFd<'_>, target: &str) -> Result<(), Error> {
    let marker = paths.volumes().join(name).join(FRESH);
    if !marker.exists() {
        return Ok(());
    }
    if let Ok(source) = rootfs::open(root, target, OFlags::RDONLY | OFlags::DIRECTORY) {
        let from = rootfs::by_fd(source.as_fd());
        let to = paths.volume(name);
        copy_folder(&from, &to)?;
    }
    fs::remove_file(&marker).map_err(Error::io("remove", marker))
}

/// What volumes occupy; those of no container could go.
pub fn disk_use(paths: &Paths, containers: &[Container]) -> Result<DiskUse, Error> {
    let mut out = DiskUse {
        what: "Volumes",
        total: 0,
        active: 0,
        size: 0,
        reclaimable: 0,
    };
    for name in names(&paths.volumes())? {
        let used = containers.iter().any(|c| volumes_of(c).any(|v| v == name));
        let bytes = Usage::of(&paths.volumes().join(&name))?.bytes;
        out.total += 1;
        out.size += bytes;
        match used {
            true => out.active += 1,
            false => out.reclaimable += bytes,
        }
    }
    Ok(out)
}

pub fn remove(paths: &Paths, name: &str) -> Result<(), Error> {
    remove_tree(&paths.volumes().join(name))
}

/// A name that `-v TARGET` or an image's VOLUME made: nobody typed it, so it goes with its container.
pub fn is_anonymous(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), Error> {
    let meta = fs::metadata(from).map_err(Error::io("read", from))?;
    for entry in fs::read_dir(from).map_err(Error::io("read", from))? {
        let entry = entry.map_err(Error::io("read", from))?;
        let target = to.join(entry.file_name());
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("read", &path))?;
        if kind.is_dir() {
            match fs::create_dir(&target) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::io("make folder", target)(e));
                }
                _ => copy_folder(&path, &target)?,
            }
        } else if kind.is_symlink() {
            let link = fs::read_link(&path).map_err(Error::io("read", &path))?;
            remove_existing(&target)?;
            std::os::unix::fs::symlink(link, &target).map_err(Error::io("make link", &target))?;
            own(&path, &target)?;
        } else if kind.is_file() {
            remove_existing(&target)?;
            fs::copy(&path, &target).map_err(Error::io("copy to", &target))?;
            own(&path, &target)?;
            // chown(2) clears the set-user-id bit.
            let mode = entry
                .metadata()
                .map_err(Error::io("read", &path))?
                .permissions();
            fs::set_permissions(&target, mode).map_err(Error::io("set the mode of", &target))?;
        } else if kind.is_fifo()
            || kind.is_socket()
            || kind.is_char_device()
            || kind.is_block_device()
        {
            // Docker leaves special files behind too: in a volume they would be live.
            continue;
        }
    }
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid()))
        .map_err(Error::io("set the owner of", to))?;
    let mode = fs::Permissions::from_mode(meta.mode() & 0o7777);
    fs::set_permissions(to, mode).map_err(Error::io("set the mode of", to))
}

fn remove_existing(target: &Path) -> Result<(), Error> {
    match fs::remove_file(target) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("replace", target)(e)),
        _ => Ok(()),
    }
}

fn own(from: &Path, to: &Path) -> Result<(), Error> {
    let meta = fs::symlink_metadata(from).map_err(Error::io("read", from))?;
    std::os::unix::fs::lchown(to, Some(meta.uid()), Some(meta.gid()))
        .map_err(Error::io("set the owner of", to))
}
