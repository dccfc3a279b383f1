//! Checkpoints of containers in pods: an archive of one that runs ([`Engine::checkpoint_container`]), and a container that goes on
//! from one ([`restore`]).
//!
//! ```text
//!   running ─► folder `dump` ─► paused ─► criu's images, changes of the root ─► runs on ─► archive, without a name ─► named
//! ```
//! The folder is there first and goes last: one that a killed process has left says that its container may be paused, and
//! the next server lets it run on. The container's memory and its files are of one instant.

mod archive;
mod dump;
mod error;
pub mod restore;

use std::fs::{self, DirBuilder, File};
use std::io::{BufWriter, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use corten_shim::log;
use corten_store::Snapshotter as _;

pub use dump::ConfigDump;
pub use error::Error as CheckpointError;
pub use restore::Archived;

use super::end::is_gone;
use super::{Pod, PodContainer};
use crate::container::inspect::rfc3339;
use crate::error::Error;
use crate::image::copy::files::scratch_file;
use crate::image::export::upper;
use crate::image::tar::write::Writer;
use crate::image::tree::{self, Form};
use crate::{Engine, clock, remove_tree};
use archive::{Archive, Place};

/// In a container's folder, while it is being checkpointed.
const DUMP: &str = "dump";

/// What an archive is to say beside what the engine knows.
#[derive(Debug)]
pub struct CheckpointAsk<'a> {
    pub location: &'a Path,
    /// How it stands, in the orchestrator's words (JSON).
    pub status: &'a str,
    pub given_up: &'a GivenUp,
}

/// Whether somebody still waits for a checkpoint. Decided once: it has its name, or nobody wants it any more.
#[derive(Debug, Default)]
pub struct GivenUp(AtomicU8);

const GOING: u8 = 0;
const NAMED: u8 = 1;
const UNWANTED: u8 = 2;

impl GivenUp {
    /// `false`: too late, the archive is there.
    pub fn give_up(&self) -> bool {
        self.settle(UNWANTED)
    }

    fn is_wanted(&self) -> bool {
        self.0.load(Ordering::SeqCst) != UNWANTED
    }

    fn settle(&self, to: u8) -> bool {
        let before = self
            .0
            .compare_exchange(GOING, to, Ordering::SeqCst, Ordering::SeqCst);
        before.is_ok()
    }
}

impl Engine {
    /// Whether an archive could be written there.
    pub fn check_checkpoint_location(location: &Path) -> Result<(), Error> {
        Ok(Place::of(location).map(drop)?)
    }

    /// Writes a container that runs into an archive, and lets it run on. Nobody does the same to it meanwhile. Whatever fails, nothing is
    /// left and the container runs.
    pub fn checkpoint_container(
        &self,
        pod: &Pod,
        container: &PodContainer,
        ask: &CheckpointAsk<'_>,
    ) -> Result<(), Error> {
        let place = Place::of(ask.location)?;
        self.running_in_pod(container, "checkpointed")?;
        if pod.record.maps.is_some() {
            return Err(CheckpointError::Users {
                id: container.id.to_string(),
                what: "a checkpoint",
            }
            .into());
        }
        let folder = self.dump_folder(container);
        remove_tree(&folder)?;
        let parent = self.paths.pod_container(&pod.id, &container.id);
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(Error::io("make folder", &folder))?;
        let done = self
            .dump(container, &folder, ask.given_up)
            .and_then(|changes| self.pack(container, &folder, &changes, ask, &place));
        let removed = remove_tree(&folder);
        fs::File::open(&parent)
            .and_then(|f| f.sync_all())
            .map_err(Error::io("sync", &parent))?;
        done.and(removed)
    }

    fn dump_folder(&self, container: &PodContainer) -> PathBuf {
        let folder = self.paths.pod_container(&container.pod, &container.id);
        folder.join(DUMP)
    }

    /// The processes into the folder, and the changes of the root into a file without a name. The container is paused meanwhile.
    fn dump(
        &self,
        container: &PodContainer,
        folder: &Path,
        given_up: &GivenUp,
    ) -> Result<File, Error> {
        let mut shim = self.running_in_pod(container, "checkpointed")?;
        let done = shim
            .pause()
            .and_then(|()| shim.checkpoint(folder))
            .map_err(Error::from)
            .and_then(|()| wanted(container, given_up))
            .and_then(|()| self.changes(container));
        match shim.resume() {
            Err(e) if !is_gone(&e) => Err(CheckpointError::Paused {
                id: container.id.to_string(),
                source: e,
            }
            .into()),
            _ => done,
        }
    }

    /// What the container has changed of its image, as a layer's tar.
    fn changes(&self, container: &PodContainer) -> Result<File, Error> {
        let mount = self.store.snapshotter().mounts(container.id.as_str())?;
        let upper = upper(&mount).ok_or_else(|| Error::ImageBroken {
            image: container.record.image.clone(),
            reason: "its containers have no writable part of their own",
        })?;
        let root = OwnedFd::from(File::open(&upper).map_err(Error::io("open", &upper))?);
        let scratch = scratch_file(self.paths.root())?;
        let mut writer = Writer::new(BufWriter::with_capacity(128 << 10, &scratch));
        tree::write(&root, Form::Layer, &mut writer)?;
        writer
            .finish()
            .and_then(|mut out| out.flush())
            .map_err(Error::io("write", archive::CHANGES))?;
        Ok(scratch)
    }

    fn pack(
        &self,
        container: &PodContainer,
        folder: &Path,
        changes: &File,
        ask: &CheckpointAsk<'_>,
        place: &Place,
    ) -> Result<(), Error> {
        wanted(container, ask.given_up)?;
        let written = Error::io("write", ask.location);
        let spec = self.pod_spec_path(container);
        let work = self
            .paths
            .pod_container_bundle(&container.pod, &container.id)
            .join("work");
        let config = self.config_dump(container);
        let config = serde_json::to_vec_pretty(&config).map_err(|source| Error::Document {
            path: archive::CONFIG.into(),
            source,
        })?;
        let file = place.begin()?;
        let write = || -> std::io::Result<()> {
            let out = BufWriter::with_capacity(128 << 10, &file);
            let mut tar = Archive::new(out, clock::now().0);
            tar.document(archive::CONFIG, &config)?;
            tar.file_at(archive::SPEC, &spec)?;
            tar.document(archive::STATUS, ask.status.as_bytes())?;
            tar.images(folder)?;
            let mut from = changes;
            from.rewind()?;
            tar.file(archive::CHANGES.as_bytes(), changes)?;
            let settings = &container.record.settings;
            if let Some(log) = &settings.log
                && let Some(log) = log::Place::new(log, settings.log_root.as_deref()).read()?
            {
                tar.file(archive::LOG.as_bytes(), &log)?;
            }
            tar.file_at(archive::DUMP_LOG, &work.join("dump.log"))?;
            tar.finish()?.flush()?;
            file.sync_all()
        };
        write().map_err(written)?;
        if !ask.given_up.settle(NAMED) {
            return wanted(container, ask.given_up);
        }
        place.commit(&file)
    }

    fn config_dump(&self, container: &PodContainer) -> ConfigDump {
        let record = &container.record;
        ConfigDump {
            id: container.id.to_string(),
            name: container.name.clone(),
            rootfs_image: record.image.clone(),
            rootfs_image_ref: record.image_config.to_string(),
            rootfs_image_name: record.image.clone(),
            runtime: "corten".into(),
            created_time: rfc3339(container.created_at),
            checkpointed_time: rfc3339(clock::nanoseconds()),
            restored_time: dump::no_time(),
            restored: false,
        }
    }

    /// What a checkpoint that was killed in its middle has left: lets the container run on, and removes the images. `true`: there was
    /// something.
    pub(super) fn clear_checkpoint(&self, container: &PodContainer) -> Result<bool, Error> {
        let folder = self.dump_folder(container);
        if !folder.exists() {
            return Ok(false);
        }
        if let Ok(mut shim) = self.running_in_pod(container, "let run on") {
            match shim.resume() {
                Err(e) if !is_gone(&e) => return Err(e.into()),
                _ => {}
            }
        }
        remove_tree(&folder).map(|()| true)
    }
}

fn wanted(container: &PodContainer, given_up: &GivenUp) -> Result<(), Error> {
    match given_up.is_wanted() {
        true => Ok(()),
        false => Err(CheckpointError::GivenUp {
            id: container.id.to_string(),
        }
        .into()),
    }
}

/// Bytes that say they are a `config.dump`.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(dump) = ConfigDump::parse(bytes) {
        let base = dump.base();
        assert!(base.names.iter().all(|name| !name.is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_decided_once() {
        let one = GivenUp::default();
        assert!(one.is_wanted() && one.settle(NAMED));
        assert!(!one.give_up() && one.is_wanted());
        let other = GivenUp::default();
        assert!(other.give_up() && !other.settle(NAMED) && !other.is_wanted());
    }
}
