//! `image mount`: an image as a folder on the host, to be looked at and not to be changed.
//!
//! ```text
//!  row `mounted` ─► snapshot ─► folder in RUN/images ─► overlay attached there, read-only
//! ```
//!
//! The row comes first and goes last: whatever a killed process has left has its name. A reboot takes the mount away, and the next
//! `image mount` brings it back.

use std::fs;
use std::path::PathBuf;

use corten_spec::{Kind, Reference};
use corten_store::{ImageRecord, LayerId, MountedImage, Snapshotter as _};
use corten_sys::mount::{self, Attributes, Change, Propagation};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::export::read_only;
use super::volume::is_volume;
use crate::Engine;
use crate::error::Error;
use crate::pod::Maps;

impl Engine {
    /// Mounts an image where nobody writes to it, and returns the folder. One that is mounted stays where it is.
    pub fn mount_image(&self, image: &ImageRecord) -> Result<PathBuf, Error> {
        let layers: Vec<LayerId> = image.layers.iter().map(|l| l.layer.clone()).collect();
        self.mount_row(self.mounted_row(image), &layers, None)
    }

    /// `maps`: who its files belong to instead.
    pub(super) fn mount_row(
        &self,
        row: MountedImage,
        layers: &[LayerId],
        maps: Option<&Maps>,
    ) -> Result<PathBuf, Error> {
        let _lock = self.lock_images()?;
        self.store.add_mounted(&row)?;
        if is_mounted(&row)? {
            return Ok(row.path);
        }
        let snapshotter = self.store.snapshotter();
        let mut recipe = match snapshotter.mounts(&row.key) {
            Err(e) if e.kind() == Kind::NotFound => snapshotter.prepare(&row.key, layers)?,
            other => other?,
        };
        if let Some(maps) = maps {
            recipe.options.extend(maps.words());
        }
        let view = read_only(&recipe)?;
        let quiet = Attributes::READ_ONLY | Attributes::NO_SUID | Attributes::NO_DEV;
        let change = Change {
            attributes: Attributes {
                set: quiet,
                clear: 0,
            },
            propagation: Some(Propagation::Private),
            recursive: false,
        };
        fs::create_dir_all(&row.path).map_err(Error::io("make folder", &row.path))?;
        mount::change(&view, &change)
            .and_then(|()| mount::attach(&view, CWD, row.path.as_path()))
            .map_err(|e| Error::io("mount an image at", &row.path)(e.into()))?;
        Ok(row.path)
    }

    /// Takes the folder of an image away, found by any of its names, or by the one that it was mounted under: the image itself may be
    /// gone. Whoever has a file of it open keeps that. `None`: it is not mounted.
    pub fn unmount_image(&self, name: &str) -> Result<Option<MountedImage>, Error> {
        let key = match self.image(name) {
            Ok(image) => Some(self.mounted_row(&image).key),
            Err(Error::ImageMissing { .. }) => None,
            Err(e) => return Err(e),
        };
        let whole = name.parse::<Reference>().map(|r| r.to_string());
        let whole = whole.unwrap_or_else(|_| name.to_owned());
        let rows = self.store.mounted()?;
        let named = |m: &MountedImage| match &key {
            Some(key) => m.key == *key,
            // Those of pods are not people's to take away.
            None => m.reference == whole && !is_volume(m),
        };
        let Some(row) = rows.into_iter().find(named) else {
            return Ok(None);
        };
        self.forget_mounted(&row)?;
        Ok(Some(row))
    }

    /// Where this image is mounted.
    pub(super) fn mount_of(&self, image: &ImageRecord) -> Result<Option<MountedImage>, Error> {
        let key = self.mounted_row(image).key;
        Ok(self.mounted_images()?.into_iter().find(|m| m.key == key))
    }

    /// The images that are mounted, by reference.
    pub fn mounted_images(&self) -> Result<Vec<MountedImage>, Error> {
        let mut all = self.store.mounted()?;
        // What a reboot has taken away is only a row.
        let mut shown = Vec::new();
        for row in all.drain(..) {
            if is_mounted(&row)? {
                shown.push(row);
            }
        }
        Ok(shown)
    }

    /// Rows without their mount: of a process that was killed, or of an earlier boot.
    pub(crate) fn lost_mounts(&self) -> Result<Vec<MountedImage>, Error> {
        let mut lost = Vec::new();
        for row in self.store.mounted()? {
            if !is_mounted(&row)? {
                lost.push(row);
            }
        }
        Ok(lost)
    }

    pub(crate) fn forget_mounted(&self, row: &MountedImage) -> Result<(), Error> {
        let lock = self.lock_images()?;
        self.forget_locked(row, &lock)
    }

    pub(super) fn forget_locked(&self, row: &MountedImage, _lock: &fs::File) -> Result<(), Error> {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        if is_mounted(row)? {
            match rustix::mount::unmount(&row.path, flags) {
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                Err(e) => return Err(Error::io("unmount", &row.path)(e.into())),
            }
        }
        match fs::remove_dir(&row.path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &row.path)(e));
            }
            _ => {}
        }
        match self.store.snapshotter().remove(&row.key) {
            Err(e) if e.kind() != Kind::NotFound => return Err(e.into()),
            _ => {}
        }
        Ok(self.store.remove_mounted(&row.key)?)
    }

    /// One process at a time mounts or unmounts images: two would attach one of them twice. The lock is the folder's, and ends with the process.
    pub(super) fn lock_images(&self) -> Result<fs::File, Error> {
        let folder = self.paths.run().join("images");
        fs::create_dir_all(&folder).map_err(Error::io("make folder", &folder))?;
        let file = fs::File::open(&folder).map_err(Error::io("open folder", &folder))?;
        file.lock().map_err(Error::io("lock folder", &folder))?;
        Ok(file)
    }

    fn mounted_row(&self, image: &ImageRecord) -> MountedImage {
        let hex = image.manifest.hex();
        let key = format!("image-{hex}");
        MountedImage {
            path: self.paths.run().join("images").join(hex),
            reference: image.reference.clone(),
            key,
        }
    }
}

fn is_mounted(row: &MountedImage) -> Result<bool, Error> {
    Ok(corten_store::is_mounted(&row.path)?)
}
