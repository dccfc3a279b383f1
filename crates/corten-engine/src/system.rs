//! What this engine and this host are.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use corten_cgroup::Layout;
use corten_spec::Kind;
use corten_store::{Occupied, Share, Snapshotter as _};
use serde_json::{Value, json};

use crate::Engine;
use crate::container::Container;
use crate::error::Error;
use crate::volume;

/// Facts for `system info`.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    pub version: &'static str,
    pub root: String,
    pub run: String,
    pub snapshotter: &'static str,
    /// How layers are kept, and why so.
    pub layers: String,
    pub cgroup: &'static str,
    pub containers: usize,
    pub running: usize,
    pub images: usize,
    pub kernel: String,
    pub architecture: &'static str,
    pub cpus: usize,
    /// Bytes.
    pub memory: u64,
    pub bridge: String,
    pub subnets: Vec<String>,
}

/// One line of `system df`. Sizes in bytes of disk.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskUse {
    #[serde(rename = "Type")]
    pub what: &'static str,
    pub total: u64,
    /// How many of them something needs.
    pub active: u64,
    pub size: u64,
    /// What removing all that is not active would free; for the last line, what `system prune` would.
    pub reclaimable: u64,
}

impl Engine {
    /// What lies on the disk, and what of it could go.
    pub fn disk_use(&self) -> Result<Vec<DiskUse>, Error> {
        let occupied = self.store.occupied()?;
        let containers = self.containers()?;
        let garbage = [
            occupied.blobs,
            occupied.layers,
            occupied.snapshots,
            occupied.rests,
        ];
        let garbage: u64 = garbage.iter().map(|s| s.reclaimable).sum();
        Ok(vec![
            self.images_use(&occupied, &containers, garbage)?,
            self.containers_use(&occupied, &containers)?,
            volume::disk_use(&self.paths, &containers)?,
            DiskUse {
                what: "Garbage",
                total: occupied.rests.count,
                active: 0,
                size: garbage,
                reclaimable: garbage,
            },
        ])
    }

    fn images_use(
        &self,
        occupied: &Occupied,
        containers: &[Container],
        garbage: u64,
    ) -> Result<DiskUse, Error> {
        let images = self.images()?;
        let used = |reference: &str| containers.iter().any(|c| c.image == reference);
        let unused: Vec<String> = images
            .iter()
            .filter(|i| !used(&i.reference))
            .map(|i| i.reference.clone())
            .collect();
        let needed = |share: &Share| share.bytes - share.reclaimable.min(share.bytes);
        Ok(DiskUse {
            what: "Images",
            total: images.len() as u64,
            active: (images.len() - unused.len()) as u64,
            size: needed(&occupied.layers) + needed(&occupied.blobs),
            reclaimable: self.store.freed_without(&unused)?.saturating_sub(garbage),
        })
    }

    fn containers_use(
        &self,
        occupied: &Occupied,
        containers: &[Container],
    ) -> Result<DiskUse, Error> {
        let (mut running, mut stopped) = (0, 0);
        for container in containers {
            let bytes = match self.store.snapshotter().usage(container.id.as_str()) {
                Ok(usage) => usage.bytes,
                // One that is being made, or removed.
                Err(e) if e.kind() == Kind::NotFound => 0,
                Err(e) => return Err(e.into()),
            };
            match self.status(container)?.is_active() {
                true => running += 1,
                false => stopped += bytes,
            }
        }
        let all = occupied.snapshots;
        Ok(DiskUse {
            what: "Containers",
            total: containers.len() as u64,
            active: running,
            size: all.bytes - all.reclaimable.min(all.bytes),
            reclaimable: stopped,
        })
    }

    pub fn info(&self) -> Result<Info, Error> {
        let containers = self.containers()?;
        let mut running = 0;
        for container in &containers {
            running += usize::from(self.status(container)?.is_running());
        }
        Ok(Info {
            version: env!("CARGO_PKG_VERSION"),
            root: self.paths.root().display().to_string(),
            run: self.paths.run().display().to_string(),
            snapshotter: self.store.snapshotter().name(),
            layers: self.store.layers().to_string(),
            cgroup: match Layout::probe()? {
                Layout::V1 { .. } => "v1",
                Layout::V2 { .. } => "v2",
                Layout::Hybrid { .. } => "hybrid",
            },
            containers: containers.len(),
            running,
            images: self.store.images()?.len(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            architecture: std::env::consts::ARCH,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: rustix::system::sysinfo().totalram,
            bridge: self.config.network.bridge.clone(),
            subnets: self
                .config
                .network
                .subnets
                .iter()
                .map(ToString::to_string)
                .collect(),
        })
    }
}

/// The device nodes of the host's /dev, in the runtime spec's form, for a privileged container.
/// Terminals, shared memory and queues are left out: the container has its own.
pub(crate) fn host_devices() -> Result<Vec<Value>, Error> {
    let mut found = Vec::new();
    collect_devices(Path::new("/dev"), &mut found)?;
    Ok(found)
}

fn collect_devices(folder: &Path, found: &mut Vec<Value>) -> Result<(), Error> {
    const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", "console", "ptmx", "hugepages"];
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let name = entry.file_name();
        if OWN.iter().any(|o| name == *o) {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(Error::io("read", &path))?;
        if kind.is_dir() {
            collect_devices(&path, found)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            let meta = match entry.metadata() {
                // Unplugged just now.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                meta => meta.map_err(Error::io("read", &path))?,
            };
            let rdev = meta.rdev();
            found.push(json!({
                "path": path,
                "type": if kind.is_char_device() { "c" } else { "b" },
                "major": rustix::fs::major(rdev),
                "minor": rustix::fs::minor(rdev),
                "fileMode": meta.mode() & 0o7777,
                "uid": meta.uid(),
                "gid": meta.gid(),
            }));
        }
    }
    Ok(())
}

/// Major and minor; one that says nothing of the kind is held to be the oldest.
pub(crate) fn kernel_version() -> (u32, u32) {
    let release = rustix::system::uname();
    crate::container::version(&release.release().to_string_lossy()).unwrap_or_default()
}

/// Does the kernel count swap per cgroup? (v1 needs `swapaccount=1` at boot.)
pub fn swap_accounting() -> bool {
    let v1 = Path::new("/sys/fs/cgroup/memory");
    match v1.exists() {
        true => v1.join("memory.memsw.limit_in_bytes").exists(),
        // On v2 the root group has no limit files; each child has them if swap is built in.
        false => Path::new("/proc/swaps").exists(),
    }
}
