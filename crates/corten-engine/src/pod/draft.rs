//! A container of a pod in the making: what its image holds is looked at before its specification is decided.
//!
//! ```text
//!   row ─► snapshot ─► look into the root (users, groups) ─► volumes of images ─► specification on disk ─► whole
//! ```
//! A draft that is dropped takes everything with it.

use std::cell::OnceCell;
use std::fs::{self, DirBuilder};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use corten_spec::{ContainerId, Kind};
use corten_store::{ImageRecord, LayerId, RootMount, Snapshotter as _};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::record::{ContainerRecord, VERSION};
use super::{Pod, PodContainer};
use crate::container::random_id;
use crate::error::{Error, Is};
use crate::image::ImageConfig;
use crate::{Engine, clock, rootfs};

/// What is asked of a container before its image was looked at.
#[derive(Debug)]
pub struct ContainerAsk<'a> {
    /// No other container of a pod has it.
    pub name: String,
    pub image: &'a ImageRecord,
}

/// What is asked of a container beside its specification.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Settings {
    /// In CRI's format.
    pub log: Option<PathBuf>,
    /// A folder that the log is in and that containers may write to: from there on no link is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_root: Option<PathBuf>,
    pub tty: bool,
    pub stdin: bool,
    /// Standard input ends with the first client's.
    pub stdin_once: bool,
    /// What asks it to end.
    pub stop_signal: u32,
    /// The container of the same pod whose processes it shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ContainerId>,
    /// The folder of a checkpoint that it goes on from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
}

/// A container in the making.
pub struct Draft<'e> {
    pub(super) engine: &'e Engine,
    pub(super) pod: &'e Pod,
    container: PodContainer,
    image: ImageConfig,
    pub(super) root: OnceCell<OwnedFd>,
    /// Nobody takes it back any more.
    kept: bool,
}

impl Engine {
    /// Begins a container in a pod that is ready. The caller sees to it that a pod has one draft at a time.
    pub fn draft<'e>(&'e self, pod: &'e Pod, ask: &ContainerAsk<'_>) -> Result<Draft<'e>, Error> {
        if !pod.is_ready() {
            return Err(Error::PodState {
                what: "pod",
                id: pod.id.to_string(),
                action: "given another container",
                source: Is("not ready"),
            });
        }
        // Held until the snapshot refers to the layers itself.
        let _lease = self.store.lease("create")?;
        let image = self.image(&ask.image.reference)?;
        let config = ImageConfig::parse(&image.reference, &self.image_config_bytes(&image)?)?;
        let container = PodContainer {
            id: random_id()?,
            pod: pod.id.clone(),
            name: ask.name.clone(),
            created_at: clock::nanoseconds(),
            record: ContainerRecord {
                version: VERSION,
                document: String::new(),
                image: image.reference.clone(),
                image_config: image.config.clone(),
                manifest: image.manifest.clone(),
                layers: image.layers.iter().map(|l| l.layer.to_string()).collect(),
                whole: false,
                settings: Settings::default(),
                volumes: Vec::new(),
                started: None,
                failure: None,
            },
        };
        self.insert_container(pod, &container)?;
        let draft = Draft {
            engine: self,
            pod,
            container,
            image: config,
            root: OnceCell::new(),
            kept: false,
        };
        self.ensure_pod_snapshot(pod, &draft.container)?;
        Ok(draft)
    }

    /// What has the name and is not whole is what an earlier draft could not take back, and is removed first.
    fn insert_container(&self, pod: &Pod, container: &PodContainer) -> Result<(), Error> {
        let (pods, row) = (self.store.pods(), container.row()?);
        let taken = match pods.insert(&row) {
            Err(e) if e.kind() == Kind::AlreadyExists => e,
            done => return Ok(done?),
        };
        let other = pods.named(&container.name, true)?;
        let Some(other) = other.filter(|o| o.pod.as_ref() == Some(&pod.id)) else {
            return Err(taken.into());
        };
        let other = PodContainer::parse(other, pod.id.clone())?;
        if other.record.whole {
            return Err(taken.into());
        }
        self.remove_pod_container(pod, &other)?;
        Ok(pods.insert(&row)?)
    }

    /// The container's root; made here if it is not there yet.
    pub(super) fn ensure_pod_snapshot(
        &self,
        pod: &Pod,
        container: &PodContainer,
    ) -> Result<RootMount, Error> {
        let snapshots = self.store.snapshotter();
        let key = container.id.as_str();
        match snapshots.mounts(key) {
            Err(e) if e.kind() == Kind::NotFound => {}
            found => return Ok(found?),
        }
        let layers: Vec<LayerId> = (container.record.layers.iter())
            .map(|l| l.parse())
            .collect::<Result<_, _>>()
            .map_err(|_| Error::ImageBroken {
                image: container.record.image.clone(),
                reason: "the container's record names a layer by no valid id",
            })?;
        let mount = snapshots.prepare(key, &layers)?;
        if let Some(maps) = &pod.record.maps {
            let upper = mount
                .options
                .iter()
                .find_map(|o| o.strip_prefix("upperdir="));
            let upper = upper.ok_or_else(|| Error::ImageBroken {
                image: container.record.image.clone(),
                reason: "its root has no folder that could be given to the pod's users",
            })?;
            std::os::unix::fs::chown(upper, Some(maps.root.0), Some(maps.root.1))
                .map_err(Error::io("give to the pod's root", upper))?;
        }
        Ok(mount)
    }
}

impl Draft<'_> {
    pub fn id(&self) -> &ContainerId {
        &self.container.id
    }

    pub fn image(&self) -> &ImageConfig {
        &self.image
    }

    /// The image's, with its digest.
    pub fn record(&self) -> &ContainerRecord {
        &self.container.record
    }

    /// The image's `/etc/passwd`; empty where it has none.
    pub fn passwd(&self) -> Result<String, Error> {
        rootfs::read_text(self.root()?.as_fd(), "/etc/passwd")
    }

    /// The image's `/etc/group`; empty where it has none.
    pub fn group(&self) -> Result<String, Error> {
        rootfs::read_text(self.root()?.as_fd(), "/etc/group")
    }

    pub(super) fn root(&self) -> Result<&OwnedFd, Error> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let mount = self.engine.ensure_pod_snapshot(self.pod, &self.container)?;
        let root = corten_runtime::rootfs::assemble(&[super::start::runtime_mount(&mount)])?;
        Ok(self.root.get_or_init(|| root))
    }

    /// Mounts an image for the container to see, read-only. Returns the path of what `sub_path` names in it (empty: all of it).
    pub fn volume(&mut self, image: &ImageRecord, sub_path: &str) -> Result<PathBuf, Error> {
        // On record first: whoever removes the container lets go of it.
        let volumes = &mut self.container.record.volumes;
        if !volumes.contains(&image.manifest) {
            volumes.push(image.manifest.clone());
            self.engine.save_pod_container(&self.container)?;
        }
        let folder = self.engine.mount_volume(image)?;
        inside(&folder, sub_path)
    }

    /// Decides it, with the orchestrator's words to be kept. From here on the container can be started.
    pub fn finish(
        mut self,
        spec: &Value,
        settings: Settings,
        document: String,
    ) -> Result<PodContainer, Error> {
        if let Some(cwd) = spec["process"]["cwd"].as_str()
            && self.pod.record.maps.is_none()
        {
            rootfs::make_folders(self.root()?.as_fd(), cwd)?;
        }
        let folder = self.engine.paths.pod_container(&self.pod.id, self.id());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .map_err(Error::io("make folder", &folder))?;
        let path = folder.join("config.json");
        fs::write(&path, spec.to_string()).map_err(Error::io("write", &path))?;
        self.container.record.settings = settings;
        self.container.record.document = document;
        self.container.record.whole = true;
        self.engine.save_pod_container(&self.container)?;
        self.kept = true;
        Ok(self.container.clone())
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.root.take();
            // Best effort: there is nobody left to tell, and the next start of a server finds what stays.
            let _cleared = self.engine.remove_pod_container(self.pod, &self.container);
        }
    }
}

/// What a path names inside a mounted image, links in it followed inside only.
fn inside(folder: &Path, sub_path: &str) -> Result<PathBuf, Error> {
    if sub_path.is_empty() {
        return Ok(folder.to_owned());
    }
    let parts = Path::new(sub_path).components();
    let leads_out = |c: Component<'_>| !matches!(c, Component::Normal(_) | Component::CurDir);
    let refused = |source| Error::Io {
        doing: "find in the image's volume",
        path: sub_path.into(),
        source,
    };
    if parts.clone().any(leads_out) {
        return Err(refused(std::io::ErrorKind::InvalidInput.into()));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(folder, flags, rustix::fs::Mode::empty());
    let root = root.map_err(|e| refused(e.into()))?;
    let found = rootfs::open(root.as_fd(), sub_path, OFlags::PATH);
    let found = found.map_err(|e| refused(e.into()))?;
    fs::read_link(rootfs::by_fd(found.as_fd())).map_err(refused)
}

impl std::fmt::Debug for Draft<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Draft").field(&self.container.id).finish()
    }
}
