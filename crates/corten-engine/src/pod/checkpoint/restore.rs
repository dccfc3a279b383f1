//! A container that goes on from a checkpoint: an archive of the host, or an image that holds one.
//!
//! ```text
//!   archive ─► config.dump ─► image below, which must be here ─► draft ─► changes into the snapshot, criu's images into its folder
//! ```
//! Whoever wrote an archive decides what runs in the container: criu gives processes back the users, capabilities and filters that the
//! images say. So one from the host must be root's, and one from a registry is the caller's to allow. What is unpacked
//! stays inside in any case.

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use corten_store::ImageRecord;
use rustix::fs::{Mode, OFlags};
use serde_json::Value;

use super::archive;
use super::dump::{self, ConfigDump};
use super::error::Error as CheckpointError;
use crate::Engine;
use crate::error::Error;
use crate::image::copy::files::{Files, Section, unpack as inflate};
use crate::pod::Draft;

/// By these an image says that it holds a checkpoint: CRI-O's word, and criu's own, which followed.
const ANNOTATIONS: [&str; 2] = [
    "io.kubernetes.cri-o.annotations.checkpoint.name",
    "org.criu.checkpoint.container.name",
];
/// Bytes of an archive; the store has the same bound for a layer.
const ARCHIVE_MAX: u64 = 1 << 40;
/// Files of criu's: a few for each process, and each namespace.
const IMAGES_MAX: usize = 50_000;
/// Bytes of a name of one.
const NAME_MAX: usize = 255;
/// Without it there is nothing to restore.
const INVENTORY: &str = "inventory.img";

/// A checkpoint's archive, looked into.
pub struct Archived {
    label: String,
    files: Files,
    pub config: ConfigDump,
}

impl Engine {
    /// Opens an archive of the host, plain or packed.
    pub fn open_checkpoint(&self, path: &Path) -> Result<Archived, Error> {
        let label = path.display().to_string();
        let refused = |why: &str| CheckpointError::Archive {
            archive: label.clone(),
            why: why.into(),
        };
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::options()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .map_err(Error::io("open", path))?;
        let meta = file.metadata().map_err(Error::io("read", path))?;
        if !meta.is_file() {
            return Err(refused("it is no plain file").into());
        }
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return Err(refused("others than root may write to it").into());
        }
        self.admit_archive(&label)?;
        self.look_into(file, label)
    }

    /// Whether an image says that it holds a checkpoint.
    pub fn holds_checkpoint(&self, image: &ImageRecord) -> Result<bool, Error> {
        let manifest = self.image_manifest_bytes(image)?;
        let config = self.image_config_bytes(image)?;
        Ok(says_so(&manifest, "/annotations") || says_so(&config, "/config/Labels"))
    }

    /// Opens the archive that an image holds as its one layer.
    pub fn open_checkpoint_image(&self, image: &ImageRecord) -> Result<Archived, Error> {
        let label = format!("image {}", image.reference);
        let [layer] = image.layers.as_slice() else {
            let why = format!("it has {} layers, not one", image.layers.len());
            return Err(CheckpointError::Archive {
                archive: label,
                why,
            }
            .into());
        };
        let path = self.store.blob_path(&layer.digest);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        self.look_into(file, label)
    }

    fn look_into(&self, file: File, label: String) -> Result<Archived, Error> {
        let files = Files::bounded(file, &label, self.paths.root(), ARCHIVE_MAX)?;
        let refused = |why: String| CheckpointError::Archive {
            archive: label.clone(),
            why,
        };
        let bytes = files.bytes(archive::CONFIG, dump::MAX)?;
        let bytes = bytes.ok_or_else(|| refused(format!("it has no {}", archive::CONFIG)))?;
        let config = ConfigDump::parse(&bytes).map_err(|source| CheckpointError::Config {
            archive: label.clone(),
            source,
        })?;
        let images = files.below(archive::IMAGES);
        if !images.iter().any(|(name, _)| name == INVENTORY) {
            let why = format!("it has no {}/{INVENTORY}", archive::IMAGES);
            return Err(refused(why).into());
        }
        if images.len() > IMAGES_MAX {
            return Err(refused(format!("it has more than {IMAGES_MAX} images of criu's")).into());
        }
        Ok(Archived {
            label,
            files,
            config,
        })
    }

    /// The image that the container was made of, as it was: its changes would be nonsense on another.
    pub fn checkpoint_base(&self, archived: &Archived) -> Result<ImageRecord, Error> {
        let base = archived.config.base();
        let missing = || CheckpointError::Base {
            archive: archived.label.clone(),
            name: base.names.join(" ("),
        };
        for name in &base.names {
            let Ok(image) = self.image(name) else {
                continue;
            };
            let own = [&image.config, &image.manifest, &image.target.digest];
            let fits = |hex: &str| own.iter().any(|d| d.hex() == hex);
            if base.hex.is_none_or(fits) {
                return Ok(image);
            }
        }
        match base.names.is_empty() {
            true => Err(CheckpointError::Archive {
                archive: archived.label.clone(),
                why: format!("its {} names no image", archive::CONFIG),
            }
            .into()),
            false => Err(missing().into()),
        }
    }
}

impl Draft<'_> {
    /// Puts a checkpoint into a draft into which nobody has looked yet. Returns the folder for
    /// [`Settings::checkpoint`](super::super::Settings::checkpoint).
    pub fn restore(&mut self, archived: &Archived) -> Result<PathBuf, Error> {
        if self.pod.record.maps.is_some() {
            return Err(CheckpointError::Users {
                id: self.id().to_string(),
                what: "a restore",
            }
            .into());
        }
        // An overlay whose writable part changes under it shows anything.
        self.root.take();
        if let Some(changes) = archived.files.section(archive::CHANGES)? {
            let changes = inflate(changes);
            let changes = changes.map_err(Error::io("read", archive::CHANGES))?;
            self.engine
                .store
                .snapshotter()
                .fill(self.id().as_str(), changes)?;
        }
        let parent = self.engine.paths.pod_container(&self.pod.id, self.id());
        let folder = parent.join(archive::IMAGES);
        for path in [&parent, &folder] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(Error::io("make folder", path))?;
        }
        for (name, content) in archived.files.below(archive::IMAGES) {
            unpack(&folder, &name, content).map_err(Error::io("write", folder.join(&name)))?;
        }
        Ok(folder)
    }
}

/// One file, whose name is no path.
fn unpack(folder: &Path, name: &str, mut content: Section) -> io::Result<()> {
    if name.is_empty() || name.len() > NAME_MAX || name.contains(['/', '\0']) || name == ".." {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty())?;
    room_for(&folder, content.size())?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o600))?;
    let mut file = File::from(file);
    let size = content.size();
    let copied = io::copy(&mut (&mut content).take(size), &mut file)?;
    match copied == size {
        true => Ok(()),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// A big file fails before it has filled the disk.
fn room_for(folder: &std::os::fd::OwnedFd, size: u64) -> io::Result<()> {
    let fs = rustix::fs::fstatvfs(folder)?;
    match size > fs.f_bavail.saturating_mul(fs.f_frsize) {
        true => Err(io::ErrorKind::StorageFull.into()),
        false => Ok(()),
    }
}

fn says_so(document: &[u8], place: &str) -> bool {
    let Ok(document) = serde_json::from_slice::<Value>(document) else {
        return false;
    };
    let found = document.pointer(place);
    found.is_some_and(|all| ANNOTATIONS.iter().any(|a| all.get(a).is_some()))
}

impl std::fmt::Debug for Archived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Archived").field(&self.label).finish()
    }
}

#[cfg(test)]
mod tests;
