//! The Sandbox API: a pod without a pause container.
//!
//! ```text
//!            CreateSandbox       StartSandbox            StopSandbox, or its process ends
//!   (none) ───────────────▶ made ───────────▶ SANDBOX_READY ───────────▶ SANDBOX_NOTREADY ── ShutdownSandbox ──▶ exit
//! ```
//! What holds the pod's namespaces is one process of the runtime's that is made like any container's init and never
//! started: without a program, without a capability, with no descriptor and nothing else of ours, in the pod's control group.
//! Containers join by `/proc/PID/ns`. It ends with the shim, and the state that the runtime keeps of it
//! is what `delete` finds after a crash.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::SystemTime;

use corten_runtime::rootfs::{self, Mount};
use corten_runtime::{Create, Created, Options as RuntimeOptions, Rootfs};
use corten_spec::oci::runtime::Spec;
use corten_spec::{ContainerId, Kind};
use corten_sys::namespace::owner_of;
use corten_sys::process::send_signal;
use corten_sys::socket::path_of;
use prost::Message;

use super::connection::Responder;
use super::hold::Pins;
use super::service::{Answer, decode};
use super::settle::waited;
use super::task::Exit;
use super::{Shim, say};
use crate::pod;
use crate::pod_files;
use crate::proto::sandbox::{
    CreateSandboxRequest, Metric, Platform, PlatformResponse, SandboxMetricsResponse,
    SandboxRequest, SandboxStatusRequest, SandboxStatusResponse, StartSandboxResponse,
    StopSandboxRequest,
};
use crate::time::timestamp;
use crate::ttrpc::status::{Code, Status};

/// The pod that this shim holds.
#[derive(Debug)]
pub struct Sandbox {
    pub(super) id: ContainerId,
    /// What its containers are shown lies here.
    pub(super) bundle: PathBuf,
    pub(super) spec: Box<Spec>,
    pub(super) state: State,
    /// Our own engine's ways to it.
    pub(super) pins: Pins,
    waiters: Vec<Responder>,
}

#[derive(Debug)]
pub(super) enum State {
    Made,
    Ready {
        holder: Box<Created>,
        since: SystemTime,
    },
    /// Our own engine's: descriptors hold it, and no process.
    Held {
        since: SystemTime,
    },
    Ended {
        exit: Exit,
        since: Option<SystemTime>,
    },
}

impl Sandbox {
    pub(super) fn new(id: ContainerId, bundle: PathBuf, spec: Spec) -> Self {
        Self {
            id,
            bundle,
            spec: Box::new(spec),
            state: State::Made,
            pins: Pins::default(),
            waiters: Vec::new(),
        }
    }
}

impl Shim {
    /// `None`: the answer comes later.
    pub(super) fn sandbox_call(
        &mut self,
        responder: Responder,
        method: &str,
        payload: &[u8],
    ) -> Option<Answer> {
        Some(match method {
            "CreateSandbox" => decode(payload).and_then(|r| self.create_sandbox(r)),
            "StartSandbox" => self
                .named_sandbox(payload)
                .and_then(|()| self.start_sandbox()),
            "Platform" => self.named_sandbox(payload).map(|()| platform()),
            "StopSandbox" => decode(payload).and_then(|r| self.stop_sandbox(&r)),
            "WaitSandbox" => match self.named_sandbox(payload) {
                Ok(()) => return self.wait_sandbox(responder),
                Err(status) => Err(status),
            },
            "SandboxStatus" => decode(payload).and_then(|r| self.sandbox_status(&r)),
            "PingSandbox" => self.named_sandbox(payload).map(|()| Vec::new()),
            "ShutdownSandbox" => self.shutdown_sandbox(payload),
            "SandboxMetrics" => self
                .named_sandbox(payload)
                .and_then(|()| self.sandbox_metrics()),
            other => {
                let text = format!("method {other} is not served");
                Err(Status::new(Code::Unimplemented, text))
            }
        })
    }

    fn named_sandbox(&mut self, payload: &[u8]) -> Result<(), Status> {
        let request: SandboxRequest = decode(payload)?;
        self.sandbox(&request.sandbox_id).map(drop)
    }

    fn sandbox(&mut self, id: &str) -> Result<&mut Sandbox, Status> {
        let found = self.sandbox.as_mut().filter(|s| s.id.as_str() == id);
        found.ok_or_else(|| Status::of(Kind::NotFound, format!("no sandbox {id} in this shim")))
    }

    /// A shim has one pod at most.
    pub(super) fn no_sandbox(&self) -> Result<(), Status> {
        let Some(other) = &self.sandbox else {
            return Ok(());
        };
        let text = format!("this shim has the sandbox {} already", other.id);
        Err(Status::of(Kind::AlreadyExists, text))
    }

    fn create_sandbox(&mut self, request: CreateSandboxRequest) -> Answer {
        let id: Result<ContainerId, _> = request.sandbox_id.parse();
        let id = id.map_err(|e| Status::of(Kind::Invalid, format!("sandbox_id: {e}")))?;
        self.no_sandbox()?;
        if !request.rootfs.is_empty() {
            let text = "rootfs: a sandbox of this shim runs no program and has no root";
            return Err(Status::of(Kind::Unsupported, text));
        }
        let bundle = self.bundle_of(&request.bundle_path);
        let spec = pod::spec(&pod::Asked {
            id: id.as_str(),
            namespace: &self.config.namespace,
            bundle: &bundle,
            options: request.options.as_ref(),
            network: &request.netns_path,
            annotations: &request.annotations,
        })?;
        pod_files::write(&pod::config(request.options.as_ref())?, &bundle)?;
        self.sandbox = Some(Sandbox::new(id, bundle, spec));
        Ok(Vec::new())
    }

    pub(super) fn start_sandbox(&mut self) -> Answer {
        let (bundle, state_root) = (&self.config.bundle, &self.config.state_root);
        let Some(sandbox) = &mut self.sandbox else {
            return Err(Status::of(Kind::NotFound, "no sandbox"));
        };
        if !matches!(sandbox.state, State::Made) {
            let text = format!("sandbox {} was started before", sandbox.id);
            return Err(Status::of(Kind::Conflict, text));
        }
        // Nobody looks at it; a file system that is attached nowhere else shows nothing of the host.
        let (uid, gid) = pod::root_of(&sandbox.spec);
        let root = rootfs::assemble(&[Mount {
            fstype: "tmpfs".into(),
            source: "tmpfs".into(),
            options: vec![
                "mode=755".into(),
                "size=64k".into(),
                format!("uid={uid}"),
                format!("gid={gid}"),
            ],
        }])?;
        let null = || {
            crate::stdio::open::null()
                .map_err(|e| Status::of(Kind::Internal, format!("cannot open /dev/null: {e}")))
        };
        let owner = owner_of_network(&sandbox.spec)?;
        // A copy: the path is good for this try only.
        let mut spec = sandbox.spec.clone();
        if let Some(owner) = &owner {
            pod::join_users(&mut spec, path_of(owner).into());
        }
        let holder = corten_runtime::create(Create {
            id: &sandbox.id,
            bundle,
            spec: &spec,
            state_root,
            rootfs: Rootfs::Mount(root),
            stdio: corten_runtime::Stdio::Fds {
                stdin: null()?,
                stdout: null()?,
                stderr: null()?,
            },
            options: RuntimeOptions {
                die_with_caller: true,
                no_new_keyring: true,
                parked: true,
                systemd_cgroup: pod::is_systemd(&sandbox.spec),
                ..RuntimeOptions::default()
            },
        })?;
        for warning in &holder.warnings {
            say(format_args!("{}: {warning}", sandbox.id));
        }
        let since = SystemTime::now();
        let answer = StartSandboxResponse {
            pid: holder.pid,
            created_at: Some(timestamp(since)),
            // The spec is for who makes the containers, and they know it.
            spec: None,
        };
        sandbox.state = State::Ready {
            holder: Box::new(holder),
            since,
        };
        Ok(answer.encode_to_vec())
    }

    /// Ends the pod: what containers are left in it, and what holds it.
    fn stop_sandbox(&mut self, request: &StopSandboxRequest) -> Answer {
        // `timeout_secs` is how long that may take. It takes no time.
        self.sandbox(&request.sandbox_id)?;
        for task in self.tasks.values().filter(|t| t.init.is_alive()) {
            let killed = corten_runtime::kill(&task.state_root, &task.id, 9, true);
            if let Err(error) = killed {
                say(format_args!("cannot kill {}: {error}", task.id));
            }
        }
        let Some(sandbox) = &mut self.sandbox else {
            return Ok(Vec::new());
        };
        match &sandbox.state {
            State::Ended { .. } => {}
            State::Made | State::Held { .. } => {
                let exit = Exit {
                    pid: 0,
                    status: 0,
                    at: SystemTime::now(),
                };
                sandbox.state = State::Ended { exit, since: None };
                self.tell_sandbox_waiters(&exit);
            }
            // Its end is reaped, and told to who waits.
            State::Ready { holder, .. } => {
                let _ = send_signal(&holder.pidfd, 9);
            }
        }
        Ok(Vec::new())
    }

    fn wait_sandbox(&mut self, responder: Responder) -> Option<Answer> {
        let sandbox = self.sandbox.as_mut()?;
        match &sandbox.state {
            State::Ended { exit, .. } => Some(Ok(waited(exit))),
            _ => {
                sandbox.waiters.push(responder);
                None
            }
        }
    }

    /// A child that has ended, if it is what held the pod.
    pub(super) fn sandbox_exited(&mut self, pid: u32, status: u32) -> bool {
        let Some(sandbox) = &mut self.sandbox else {
            return false;
        };
        let State::Ready { holder, since } = &sandbox.state else {
            return false;
        };
        if holder.pid != pid {
            return false;
        }
        let exit = Exit {
            pid,
            status,
            at: SystemTime::now(),
        };
        sandbox.state = State::Ended {
            exit,
            since: Some(*since),
        };
        self.tell_sandbox_waiters(&exit);
        true
    }

    fn tell_sandbox_waiters(&mut self, exit: &Exit) {
        let waiters = self
            .sandbox
            .as_mut()
            .map(|s| std::mem::take(&mut s.waiters));
        for waiter in waiters.unwrap_or_default() {
            self.respond(waiter, Ok(waited(exit)));
        }
    }

    fn sandbox_status(&mut self, request: &SandboxStatusRequest) -> Answer {
        let containers: Vec<String> = self.tasks.values().map(|t| t.id.to_string()).collect();
        let sandbox = self.sandbox(&request.sandbox_id)?;
        let (state, pid, since, exit) = match &sandbox.state {
            State::Made => ("SANDBOX_NOTREADY", 0, None, None),
            State::Ready { holder, since } => ("SANDBOX_READY", holder.pid, Some(*since), None),
            State::Held { since } => ("SANDBOX_READY", 0, Some(*since), None),
            State::Ended { exit, since } => ("SANDBOX_NOTREADY", exit.pid, *since, Some(exit.at)),
        };
        let mut info = std::collections::BTreeMap::new();
        if request.verbose {
            info.insert("shimPid".into(), std::process::id().to_string());
            info.insert("containers".into(), containers.join(","));
        }
        Ok(SandboxStatusResponse {
            sandbox_id: request.sandbox_id.clone(),
            pid,
            state: state.into(),
            info,
            created_at: since.map(timestamp),
            exited_at: exit.map(timestamp),
            extra: None,
        }
        .encode_to_vec())
    }

    /// Ends the shim, and with it whatever is left of the pod.
    fn shutdown_sandbox(&mut self, payload: &[u8]) -> Answer {
        let request: SandboxRequest = decode(payload)?;
        // Create may have failed: then the shim has nothing, and is to go all the same.
        if self.sandbox.is_some() {
            self.sandbox(&request.sandbox_id)?;
        }
        // Each is forgotten when it has gone: what cannot be removed is looked after until the next try.
        let all: Vec<u32> = self.tasks.keys().copied().collect();
        for serial in all {
            if let Some(task) = self.tasks.get(&serial) {
                remove(&task.state_root, &task.id)?;
            }
            self.remove_task(serial);
        }
        if let Some(sandbox) = &self.sandbox {
            remove(&self.config.state_root, &sandbox.id)?;
        }
        self.sandbox = None;
        self.end();
        Ok(Vec::new())
    }

    fn sandbox_metrics(&mut self) -> Answer {
        let Some(sandbox) = &self.sandbox else {
            return Err(Status::of(Kind::NotFound, "no sandbox"));
        };
        let group = corten_runtime::cgroup(&self.config.state_root, &sandbox.id)?;
        let metrics = Metric {
            timestamp: Some(timestamp(SystemTime::now())),
            id: sandbox.id.to_string(),
            data: Some(crate::metrics::of(&group)?),
        };
        Ok(SandboxMetricsResponse {
            metrics: Some(metrics),
        }
        .encode_to_vec())
    }
}

/// The user namespace that the pod's network belongs to. containerd makes the network within one that has the pod's ids, and
/// only in that one the pod may mount `/sys`. `None`: the pod has no users of its own, or its network is the host's
/// users' like ours.
fn owner_of_network(spec: &Spec) -> Result<Option<OwnedFd>, Status> {
    let Some(network) = pod::network_of_users(spec) else {
        return Ok(None);
    };
    let find = || -> std::io::Result<Option<OwnedFd>> {
        let owner = owner_of(std::fs::File::open(&network)?)?;
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).map(|s| s.st_ino);
        let own = OwnedFd::from(std::fs::File::open("/proc/self/ns/user")?);
        Ok(Some(owner).filter(|owner| inode(owner) != inode(&own)))
    };
    find().map_err(|e| {
        let text = format!(
            "cannot find whose the network {} is: {e}",
            network.display()
        );
        Status::of(Kind::Internal, text)
    })
}

pub(super) fn remove(state_root: &std::path::Path, id: &ContainerId) -> Result<(), Status> {
    match corten_runtime::delete(state_root, id, true) {
        Ok(warnings) => {
            warnings.iter().for_each(|w| say(format_args!("{w}")));
            Ok(())
        }
        Err(error) if error.kind() == Kind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn platform() -> Vec<u8> {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", ""),
        "aarch64" => ("arm64", "v8"),
        other => (other, ""),
    };
    PlatformResponse {
        platform: Some(Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
        }),
    }
    .encode_to_vec()
}
