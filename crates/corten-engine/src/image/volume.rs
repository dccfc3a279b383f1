//! Images as volumes of pods: mounted once for all containers that have them, apart from the mounts that people ask for.
//!
//! An overlay maps no ids. A pod with users of its own therefore has a mount to itself, whose layers are mapped as those of its
//! containers' roots are.

use std::path::PathBuf;

use corten_spec::{ContainerId, Digest};
use corten_store::{ImageRecord, LayerId, MountedImage};

use crate::error::Error;
use crate::pod::{Pod, PodContainer};
use crate::{Engine, Paths};

/// What a volume is known by, in the table of mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Volume {
    manifest: Digest,
    /// The pod that has it to itself.
    pod: Option<ContainerId>,
}

const KEY: &str = "volume-";

impl Volume {
    fn of(manifest: &Digest, pod: &Pod) -> Self {
        Self {
            manifest: manifest.clone(),
            pod: pod.record.maps.as_ref().map(|_| pod.id.clone()),
        }
    }

    fn key(&self) -> String {
        let hex = self.manifest.hex();
        match &self.pod {
            None => format!("{KEY}{hex}"),
            Some(pod) => format!("{KEY}{hex}-{pod}"),
        }
    }

    /// `None`: it is a mount that somebody has asked for.
    fn parse(key: &str) -> Option<Self> {
        let rest = key.strip_prefix(KEY)?;
        let (hex, pod) = match rest.split_once('-') {
            None => (rest, None),
            Some((hex, pod)) => (hex, Some(pod.parse().ok()?)),
        };
        let algorithm = if hex.len() == 128 { "sha512" } else { "sha256" };
        let manifest = format!("{algorithm}:{hex}").parse().ok()?;
        Some(Self { manifest, pod })
    }

    fn is_of(&self, container: &PodContainer) -> bool {
        container.record.volumes.contains(&self.manifest)
            && self.pod.as_ref().is_none_or(|pod| *pod == container.pod)
    }

    fn row(&self, paths: &Paths, reference: String) -> MountedImage {
        let key = self.key();
        MountedImage {
            path: paths.run().join("images").join(&key),
            reference,
            key,
        }
    }
}

/// Whether this is mounted for pods.
pub(super) fn is_volume(row: &MountedImage) -> bool {
    Volume::parse(&row.key).is_some()
}

impl Engine {
    /// Mounts an image for a pod's containers.
    pub(crate) fn mount_volume(&self, pod: &Pod, image: &ImageRecord) -> Result<PathBuf, Error> {
        let layers: Vec<LayerId> = image.layers.iter().map(|l| l.layer.clone()).collect();
        let volume = Volume::of(&image.manifest, pod);
        let row = volume.row(&self.paths, image.reference.clone());
        self.mount_row(row, &layers, pod.record.maps.as_ref())
    }

    /// Brings back the volumes that a reboot has taken.
    pub(crate) fn ensure_volumes(&self, pod: &Pod, container: &PodContainer) -> Result<(), Error> {
        for manifest in &container.record.volumes {
            let key = Volume::of(manifest, pod).key();
            let rows = self.store.mounted()?;
            let row = rows.into_iter().find(|m| m.key == key);
            let row = row.ok_or_else(|| Error::ImageMissing {
                name: manifest.to_string(),
            })?;
            // Its snapshot is there, and says of which layers it is.
            self.mount_row(row, &[], pod.record.maps.as_ref())?;
        }
        Ok(())
    }

    /// Lets go of the images that a removed container had mounted, unless another has them.
    pub(crate) fn release_volumes(&self, container: &PodContainer) -> Result<(), Error> {
        for manifest in &container.record.volumes {
            for pod in [None, Some(container.pod.clone())] {
                let manifest = manifest.clone();
                self.release_volume(&Volume { manifest, pod }, Some(&container.id))?;
            }
        }
        Ok(())
    }

    /// Images that a container had mounted which was removed by half.
    pub(crate) fn sweep_volumes(&self) -> Result<(), Error> {
        for row in self.store.mounted()? {
            if let Some(volume) = Volume::parse(&row.key) {
                self.release_volume(&volume, None)?;
            }
        }
        Ok(())
    }

    /// Unless a container other than this one has it.
    fn release_volume(&self, volume: &Volume, but: Option<&ContainerId>) -> Result<(), Error> {
        // Whoever is to have it is on record before it asks for the lock.
        let lock = self.lock_images()?;
        let found = self.pods()?;
        // What a row that cannot be read has is not known.
        if !found.unread.is_empty() {
            return Ok(());
        }
        let has = |c: &PodContainer| Some(&c.id) != but && volume.is_of(c);
        let key = volume.key();
        let rows = self.store.mounted()?;
        match rows.into_iter().find(|m| m.key == key) {
            Some(row) if !found.containers.iter().any(has) => self.forget_locked(&row, &lock),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_whose_volume_it_is() {
        let manifest: Digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let pod: ContainerId = "0123abcd".parse().unwrap();
        for pod in [None, Some(pod)] {
            let manifest = manifest.clone();
            let volume = Volume { manifest, pod };
            assert_eq!(Volume::parse(&volume.key()), Some(volume));
        }
        let image = format!("image-{}", "a".repeat(64));
        for other in [image.as_str(), "volume-", "volume-abc", "volume-abc-def"] {
            assert_eq!(Volume::parse(other), None, "{other}");
        }
    }
}
