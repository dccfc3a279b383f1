//! Where everything of one engine lives. Two engines with different folders share nothing
//! but the kernel, and what they share there (bridge, nftables table, cgroup) is named
//! after the folders, so that they do not meet.

use std::path::{Path, PathBuf};

use corten_spec::{ContainerId, Digest};

/// The state folder where no `--root` is given; survives a reboot.
pub const DEFAULT_ROOT: &str = "/var/lib/corten";
/// The run folder where no `--run` is given; empty after a reboot.
pub const DEFAULT_RUN: &str = "/run/corten";
/// Configuration, read only.
pub const DEFAULT_ETC: &str = "/etc/corten";

/// The folders of an engine, and the names derived from them.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
    run: PathBuf,
    etc: PathBuf,
    instance: Option<String>,
}

impl Paths {
    /// `root` and `run` must be absolute.
    pub fn new(root: PathBuf, run: PathBuf, etc: PathBuf) -> Self {
        let instance = (run != Path::new(DEFAULT_RUN))
            .then(|| Digest::of(run.as_os_str().as_encoded_bytes()).hex()[..8].to_owned());
        Self {
            root,
            run,
            etc,
            instance,
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn run(&self) -> &Path {
        &self.run
    }

    pub fn etc(&self) -> &Path {
        &self.etc
    }

    /// Eight hexadecimal digits for an engine outside the default run folder.
    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }

    /// The cgroup below which every container of this engine has its own, relative to each hierarchy.
    pub fn cgroup_parent(&self) -> String {
        match &self.instance {
            None => "/corten".into(),
            Some(i) => format!("/corten-{i}"),
        }
    }

    /// Where systemd has services: the scope of the supervisors of pods, which are to outlive the service that starts them.
    pub fn supervisors_scope(&self) -> String {
        let parent = self.cgroup_parent();
        format!("{}-supervisors.scope", parent.trim_start_matches('/'))
    }

    pub fn cgroup(&self, id: &ContainerId) -> String {
        format!("{}/{id}", self.cgroup_parent())
    }

    /// What outlives a run of the container: log, exit record, hosts file.
    pub fn container(&self, id: &ContainerId) -> PathBuf {
        self.root.join("containers").join(id.as_str())
    }

    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    pub fn log(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("container.log")
    }

    pub fn exit_record(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("exit.json")
    }

    /// There while it is the user who has ended the container.
    pub fn stopped(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("stopped")
    }

    /// What its health checks have said.
    pub fn health(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("health.json")
    }

    /// The config of the image that it was made from.
    pub fn image_config(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("image.json")
    }

    pub fn lock(&self, id: &ContainerId) -> PathBuf {
        self.container(id).join("lock")
    }

    /// The bundle: config.json and the shim's sockets, for one run of the container.
    pub fn bundle(&self, id: &ContainerId) -> PathBuf {
        self.bundles().join(id.as_str())
    }

    pub fn bundles(&self) -> PathBuf {
        self.run.join("containers")
    }

    /// The OCI runtime's own state.
    pub fn runtime_state(&self) -> PathBuf {
        self.run.join("oci")
    }

    /// Address reservations; they mean nothing after a reboot.
    pub fn ipam(&self) -> PathBuf {
        self.run.join("ipam")
    }

    pub fn cni_cache(&self) -> PathBuf {
        self.run.join("cni")
    }

    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// What outlives a reboot of a pod: its containers' specifications.
    pub fn pod(&self, id: &ContainerId) -> PathBuf {
        self.pods().join(id.as_str())
    }

    pub fn pod_container(&self, pod: &ContainerId, id: &ContainerId) -> PathBuf {
        self.pod(pod).join("containers").join(id.as_str())
    }

    pub fn pod_bundles(&self) -> PathBuf {
        self.run.join("pods")
    }

    /// The bundle of a pod's supervisor.
    pub fn pod_bundle(&self, id: &ContainerId) -> PathBuf {
        self.pod_bundles().join(id.as_str())
    }

    /// The bundle of one container in it: `config.json`, `attach.sock`.
    pub fn pod_container_bundle(&self, pod: &ContainerId, id: &ContainerId) -> PathBuf {
        self.pod_bundle(pod).join(id.as_str())
    }

    /// How containers of pods have ended: a file each, named by its id, which is there whole or not at all.
    pub fn pod_exits(&self) -> PathBuf {
        self.root.join("pod-exits")
    }

    pub fn pod_exit(&self, id: &ContainerId) -> PathBuf {
        self.pod_exits().join(id.as_str())
    }

    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    pub fn volume(&self, name: &str) -> PathBuf {
        self.volumes().join(name).join("_data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_run_folder_has_an_instance() {
        let at = |run: &str| Paths::new("/r".into(), run.into(), "/e".into());
        assert_eq!(at(DEFAULT_RUN).instance(), None);
        assert_eq!(at(DEFAULT_RUN).cgroup_parent(), "/corten");
        assert_ne!(at("/tmp/a").instance(), at("/tmp/b").instance());
        assert!(at("/tmp/a").cgroup_parent().starts_with("/corten-"));
    }
}
