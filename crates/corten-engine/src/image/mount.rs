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

use corten_spec::{ContainerId, Digest, Kind, Reference};
use corten_store::{ImageRecord, LayerId, MountedImage, Snapshotter as _};
use corten_sys::mount::{self, Attributes, Change, Propagation};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::export::read_only;
use crate::error::Error;
use crate::pod::PodContainer;
use crate::{Engine, Paths};

impl Engine {
    /// Mounts an image where nobody writes to it, and returns the folder. One that is mounted stays where it is.
    pub fn mount_image(&self, image: &ImageRecord) -> Result<PathBuf, Error> {
        let layers: Vec<LayerId> = image.layers.iter().map(|l| l.layer.clone()).collect();
        self.mount_row(self.mounted_row(image), &layers)
    }

    fn mount_row(&self, row: MountedImage, layers: &[LayerId]) -> Result<PathBuf, Error> {
        let _lock = self.lock_images()?;
        self.store.add_mounted(&row)?;
        if is_mounted(&row)? {
            return Ok(row.path);
        }
        let snapshotter = self.store.snapshotter();
        let recipe = match snapshotter.mounts(&row.key) {
            Err(e) if e.kind() == Kind::NotFound => snapshotter.prepare(&row.key, layers)?,
            other => other?,
        };
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

    /// Mounts an image for containers of pods, apart from the mounts that people ask for.
    pub(crate) fn mount_volume(&self, image: &ImageRecord) -> Result<PathBuf, Error> {
        let layers: Vec<LayerId> = image.layers.iter().map(|l| l.layer.clone()).collect();
        self.mount_row(volume_row(&self.paths, image), &layers)
    }

    /// Brings back the volumes that a reboot has taken.
    pub(crate) fn ensure_volumes(&self, container: &PodContainer) -> Result<(), Error> {
        for manifest in &container.record.volumes {
            let key = volume_key(manifest);
            let rows = self.store.mounted()?;
            let row = rows.into_iter().find(|m| m.key == key);
            let row = row.ok_or_else(|| Error::ImageMissing {
                name: manifest.to_string(),
            })?;
            // Its snapshot is there, and says of which layers it is.
            self.mount_row(row, &[])?;
        }
        Ok(())
    }

    /// Lets go of the images that a removed container had mounted, unless another has them.
    pub(crate) fn release_volumes(&self, container: &PodContainer) -> Result<(), Error> {
        if container.record.volumes.is_empty() {
            return Ok(());
        }
        for manifest in &container.record.volumes {
            self.release_volume(manifest, Some(&container.id))?;
        }
        Ok(())
    }

    /// Unless a container other than this one has it.
    pub(crate) fn release_volume(
        &self,
        manifest: &Digest,
        but: Option<&ContainerId>,
    ) -> Result<(), Error> {
        // Whoever is to have it is on record before it asks for the lock.
        let lock = self.lock_images()?;
        let found = self.pods()?;
        let containers = found.containers;
        // What a row that cannot be read has is not known.
        if !found.unread.is_empty() {
            return Ok(());
        }
        let has = |c: &PodContainer| Some(&c.id) != but && c.record.volumes.contains(manifest);
        let key = volume_key(manifest);
        let rows = self.store.mounted()?;
        match rows.into_iter().find(|m| m.key == key) {
            Some(row) if !containers.iter().any(has) => self.forget_locked(&row, &lock),
            _ => Ok(()),
        }
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
            None => m.reference == whole && volume_of(m).is_none(),
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

    fn forget_locked(&self, row: &MountedImage, _lock: &fs::File) -> Result<(), Error> {
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
    fn lock_images(&self) -> Result<fs::File, Error> {
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

const VOLUME: &str = "volume-";

fn volume_key(manifest: &Digest) -> String {
    format!("{VOLUME}{}", manifest.hex())
}

/// The manifest of an image that is mounted for pods.
pub(crate) fn volume_of(row: &MountedImage) -> Option<Digest> {
    let hex = row.key.strip_prefix(VOLUME)?;
    let algorithm = if hex.len() == 128 { "sha512" } else { "sha256" };
    format!("{algorithm}:{hex}").parse().ok()
}

fn volume_row(paths: &Paths, image: &ImageRecord) -> MountedImage {
    let key = volume_key(&image.manifest);
    MountedImage {
        path: paths.run().join("images").join(&key),
        reference: image.reference.clone(),
        key,
    }
}

fn is_mounted(row: &MountedImage) -> Result<bool, Error> {
    Ok(corten_store::is_mounted(&row.path)?)
}
