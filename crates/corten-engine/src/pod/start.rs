//! Start of a container in a pod, and what is done with one that runs.

use std::fs::{self, DirBuilder};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use corten_shim::client::{Client, CreateOptions, CreateRequest, Stdio};
use corten_shim::proto::task::Status;
use corten_spec::Kind;
use corten_spec::oci::runtime::{LinuxResources, Process};
use corten_store::{RootMount, Snapshotter as _};
use serde_json::Value;

use super::record::Started;
use super::{Pod, PodContainer};
use crate::container::record::Failure;
use crate::container::text;
use crate::error::{Error, Is};
use crate::{Engine, clock, remove_tree};

impl Engine {
    /// Starts a container that was never started. Its record says so, or why it could not be.
    pub fn start_pod_container(
        &self,
        pod: &Pod,
        container: &mut PodContainer,
    ) -> Result<(), Error> {
        let refused = |is| Error::PodState {
            what: "container",
            id: container.id.to_string(),
            action: "started",
            source: Is(is),
        };
        if container.record.started.is_some() || container.record.failure.is_some() {
            return Err(refused("started already"));
        }
        if !pod.is_ready() {
            return Err(refused("in a pod that is not ready"));
        }
        let mut shim = self
            .pod_supervisor(&pod.id, &container.id)?
            .ok_or_else(|| refused("in a pod without a supervisor"))?;
        // On record before it is so: what ran and is not there any more has ended, and was not merely never started.
        container.record.started = Some(Started {
            at: clock::nanoseconds(),
            pid: 0,
        });
        self.save_pod_container(container)?;
        match self.start_in(pod, container, &mut shim) {
            Ok(pid) => {
                container.record.started = Some(Started {
                    at: clock::nanoseconds(),
                    pid,
                });
                self.save_pod_container(container)?;
                if let Some(folder) = &container.record.settings.checkpoint {
                    // Its memory is back where it belongs. What cannot be removed now goes with the container.
                    let _removed = remove_tree(folder);
                }
                Ok(())
            }
            Err(error) => {
                self.fail_start(pod, container, &mut shim, &error)?;
                Err(error)
            }
        }
    }

    /// Takes a start back, and puts on record why. The container is not started again.
    pub(super) fn fail_start(
        &self,
        pod: &Pod,
        container: &mut PodContainer,
        shim: &mut Client,
        why: &Error,
    ) -> Result<(), Error> {
        // The first error is the one to tell; what stays goes with the container, or with the pod.
        let _killed = shim.kill("", 9, true);
        let _deleted = shim.delete("");
        let _freed = self.free_pod_container(pod, container);
        container.record.failure = Some(Failure::of(why));
        self.save_pod_container(container)
    }

    fn start_in(
        &self,
        pod: &Pod,
        container: &PodContainer,
        shim: &mut Client,
    ) -> Result<u32, Error> {
        // Open until the container has it.
        let target = self.target_of(pod, container)?;
        let request = self.pod_create_request(pod, container, target.as_ref())?;
        shim.create(request)?;
        Ok(shim.start("")?)
    }

    /// The process ids of the container whose processes this one shares, by what runs now: the number that the specification was
    /// planned with may be another process's since, one of the host's.
    fn target_of(&self, pod: &Pod, container: &PodContainer) -> Result<Option<OwnedFd>, Error> {
        let Some(target) = &container.record.settings.target else {
            return Ok(None);
        };
        let refused = || Error::PodState {
            what: "container",
            id: container.id.to_string(),
            action: "started",
            source: Is("to share the processes of one that does not run"),
        };
        let shim = self.pod_supervisor(&pod.id, target)?;
        let mut shim = shim.ok_or_else(refused)?;
        let mut first = || match shim.state("") {
            Ok(state) if state.status() == Status::Running && state.pid != 0 => Ok(state.pid),
            Err(e) if e.kind() != Kind::NotFound => Err(e.into()),
            _ => Err(refused()),
        };
        let pid = first()?;
        let path = PathBuf::from(format!("/proc/{pid}/ns/pid"));
        let opened = fs::File::open(&path).map_err(Error::io("open", &path))?;
        // Nobody but its supervisor reaps it: for as long as that says that it runs, the number is nobody else's.
        match first()? == pid {
            true => Ok(Some(opened.into())),
            false => Err(refused()),
        }
    }

    fn pod_create_request(
        &self,
        pod: &Pod,
        container: &PodContainer,
        target: Option<&OwnedFd>,
    ) -> Result<CreateRequest, Error> {
        let foreign = self.foreign_runtime(pod.record.runtime.as_deref())?;
        let mount = self.ensure_pod_snapshot(pod, container)?;
        self.ensure_volumes(container)?;
        let bundle = self.paths.pod_container_bundle(&pod.id, &container.id);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&bundle)
            .map_err(Error::io("make folder", &bundle))?;
        let mut spec = self.pod_spec(container)?;
        if let Some(target) = target {
            share_processes(&mut spec, target);
        }
        let config = bundle.join("config.json");
        fs::write(&config, spec.to_string()).map_err(Error::io("write", &config))?;
        let shares = foreign.is_some() && shares_mounts(&spec);
        let systemd_cgroup = in_scope(&spec);
        let mut root = runtime_mount(&mount);
        if let Some(maps) = &pod.record.maps {
            root.options.push(format!("uidmap={}", maps.uid));
            root.options.push(format!("gidmap={}", maps.gid));
        }
        let settings = &container.record.settings;
        let mut stdio = Stdio::attach(settings.tty);
        if !settings.stdin {
            stdio.stdin.clear();
        }
        Ok(CreateRequest {
            bundle,
            rootfs: vec![root],
            stdio,
            checkpoint: settings.checkpoint.clone().unwrap_or_default(),
            options: CreateOptions {
                log_path: settings.log.as_deref().map(text).unwrap_or_default(),
                log_root: settings.log_root.as_deref().map(text).unwrap_or_default(),
                exit_record: text(&self.paths.pod_exit(&container.id)),
                attach: true,
                open_stdin: settings.stdin,
                stdin_once: settings.stdin_once,
                foreign: foreign.as_ref().map(|f| f.order(shares, systemd_cgroup)),
                systemd_cgroup,
                ..CreateOptions::default()
            },
        })
    }

    /// The specification that the container was planned with.
    pub fn pod_spec_path(&self, container: &PodContainer) -> PathBuf {
        let folder = self.paths.pod_container(&container.pod, &container.id);
        folder.join("config.json")
    }

    /// The specification that the container was planned with.
    pub fn pod_spec(&self, container: &PodContainer) -> Result<Value, Error> {
        let path = self.pod_spec_path(container);
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Document { path, source })
    }

    /// Replaces it: for limits that have changed, which a start in between has to know.
    pub fn replace_pod_spec(&self, container: &PodContainer, spec: &Value) -> Result<(), Error> {
        let path = self.pod_spec_path(container);
        let new = path.with_extension("new");
        fs::write(&new, spec.to_string()).map_err(Error::io("write", &new))?;
        fs::rename(&new, &path).map_err(Error::io("rename", &new))
    }

    /// Announces a process in a container that runs, to be attached to ([`crate::Paths::pod_container_bundle`]) and then started
    /// by its supervisor, which is returned.
    pub fn exec_in_pod(
        &self,
        container: &PodContainer,
        exec_id: &str,
        process: &Value,
        stdin: bool,
    ) -> Result<Client, Error> {
        let process: Process =
            serde_json::from_value(process.clone()).map_err(|source| Error::Document {
                path: "a process to be executed".into(),
                source,
            })?;
        let mut shim = self.running_in_pod(container, "entered")?;
        let mut stdio = Stdio::attach(process.terminal().unwrap_or_default());
        if !stdin {
            stdio.stdin.clear();
        }
        shim.exec(exec_id, stdio, &process)?;
        Ok(shim)
    }

    /// Other limits for a container that runs.
    pub fn limit_in_pod(
        &self,
        container: &PodContainer,
        resources: &LinuxResources,
    ) -> Result<(), Error> {
        Ok(self
            .running_in_pod(container, "given other limits")?
            .update(resources)?)
    }

    /// After its log's file was renamed: records go to a new file of its name.
    pub fn reopen_pod_log(&self, container: &PodContainer) -> Result<(), Error> {
        Ok(self
            .running_in_pod(container, "given another log")?
            .reopen_log()?)
    }

    /// The control group of a container that runs.
    pub fn pod_cgroup(&self, container: &PodContainer) -> Result<corten_cgroup::Cgroup, Error> {
        let state = self.paths.runtime_state();
        Ok(corten_runtime::cgroup(&state, &container.id)?)
    }

    /// What a container has written: bytes of disk, and inodes.
    pub fn pod_layer_usage(&self, container: &PodContainer) -> Result<(u64, u64), Error> {
        let usage = self.store.snapshotter().usage(container.id.as_str())?;
        Ok((usage.bytes, usage.inodes))
    }

    /// The supervisor of a container that was started, and has not ended as far as is known.
    pub(super) fn running_in_pod(
        &self,
        container: &PodContainer,
        action: &'static str,
    ) -> Result<Client, Error> {
        let refused = |is| Error::PodState {
            what: "container",
            id: container.id.to_string(),
            action,
            source: Is(is),
        };
        if container.record.started.is_none() {
            return Err(refused("not started"));
        }
        if self.paths.pod_exit(&container.id).exists() {
            return Err(refused("exited"));
        }
        let shim = self.pod_supervisor(&container.pod, &container.id)?;
        shim.ok_or_else(|| refused("without a supervisor"))
    }
}

/// Puts a namespace that we have open in the place of the planned one.
fn share_processes(spec: &mut Value, target: &OwnedFd) {
    let path = format!("/proc/{}/fd/{}", std::process::id(), target.as_raw_fd());
    let all = spec["linux"]["namespaces"].as_array_mut();
    for namespace in all.into_iter().flatten() {
        if namespace["type"] == "pid" {
            namespace["path"] = path.clone().into();
        }
    }
}

/// Whether the control group is a scope of systemd's, `SLICE:PREFIX:NAME`.
fn in_scope(spec: &Value) -> bool {
    let path = spec["linux"]["cgroupsPath"].as_str().unwrap_or_default();
    !path.starts_with('/') && path.split(':').count() == 3
}

/// Whether mounts of the container are to be seen on the host.
fn shares_mounts(spec: &Value) -> bool {
    let mounts = spec["mounts"].as_array().into_iter().flatten();
    let mut options = mounts.flat_map(|m| m["options"].as_array().into_iter().flatten());
    options.any(|o| o.as_str().is_some_and(|o| o.ends_with("shared")))
}

/// The store's recipe in the runtime's words.
pub(super) fn runtime_mount(mount: &RootMount) -> corten_runtime::rootfs::Mount {
    corten_runtime::rootfs::Mount {
        fstype: mount.fstype.clone(),
        source: mount.source.clone(),
        options: mount.options.clone(),
    }
}
