//! Pods of our own engine: held by descriptors, so that a pod costs no process.
//!
//! ```text
//!   shared PIDs ────────────── holder (sandbox.rs): it is process 1, and stays
//!   users of its own ───────── holder makes them, its namespaces are opened, it goes
//!   neither ────────────────── a thread makes them, they are opened, it goes
//! ```
//! Containers find them as `/proc/SHIM/fd/N`, paths that mean the same for as long as the shim lives: no process id is
//! looked at twice. With the shim they end.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use corten_spec::oci::runtime::{LinuxNamespaceType, Spec};
use corten_spec::{ContainerId, Kind};
use corten_sys::namespace::{Namespaces, enter, loopback_up, set_hostname, unshare};
use prost::Message;

use super::Shim;
use super::sandbox::{Sandbox, State, remove};
use super::service::Answer;
use super::store::Store;
use crate::pod;
use crate::proto::corten::{HoldPodRequest, HoldPodResponse};
use crate::ttrpc::status::Status;

/// What holds a pod.
#[derive(Debug, Default)]
pub struct Pins {
    /// Of the process that holds it; 0: there is none.
    pid: u32,
    namespaces: Vec<(&'static str, OwnedFd)>,
    /// Memory that the pod's containers share.
    shm: Option<Store>,
    /// What they share of `/etc`.
    files: Option<Store>,
}

pub(super) fn path(fd: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd())
}

/// By the runtime specification's words, and their names in `/proc/PID/ns`.
const KINDS: [(LinuxNamespaceType, &str, &str, Namespaces); 5] = [
    (
        LinuxNamespaceType::Network,
        "network",
        "net",
        Namespaces::NETWORK,
    ),
    (LinuxNamespaceType::Ipc, "ipc", "ipc", Namespaces::IPC),
    (LinuxNamespaceType::Uts, "uts", "uts", Namespaces::UTS),
    (LinuxNamespaceType::User, "user", "user", Namespaces::USER),
    (LinuxNamespaceType::Pid, "pid", "pid", Namespaces::PID),
];

impl Shim {
    pub(super) fn hold_pod(&mut self, request: &HoldPodRequest) -> Answer {
        let id: Result<ContainerId, _> = request.id.parse();
        let id = id.map_err(|e| Status::of(Kind::Invalid, format!("id: {e}")))?;
        match &self.sandbox {
            // Asked again by somebody who has missed the answer.
            Some(held) if held.id == id && held.pins.any() => {
                return Ok(held.pins.answer().encode_to_vec());
            }
            _ => self.no_sandbox()?,
        }
        let bundle = self.config.bundle.clone();
        let spec = pod::spec(&pod::Asked {
            id: id.as_str(),
            namespace: &self.config.namespace,
            bundle: &bundle,
            options: None,
            network: "",
            annotations: &BTreeMap::new(),
        })?;
        let shm = match request.shm_size {
            0 => None,
            size => Some(Store::shared_memory(size, pod::root_of(&spec), &bundle)?),
        };
        let files = match request.files.is_empty() {
            true => None,
            false => Some(Store::of_files(
                &request.files,
                pod::root_of(&spec),
                &bundle,
            )?),
        };
        self.sandbox = Some(Sandbox::new(id, bundle, spec));
        match self.hold(shm, files) {
            Ok(answer) => Ok(answer.encode_to_vec()),
            Err(status) => {
                // Whatever was made of it went with the failure.
                self.sandbox = None;
                Err(status)
            }
        }
    }

    fn hold(
        &mut self,
        shm: Option<Store>,
        files: Option<Store>,
    ) -> Result<HoldPodResponse, Status> {
        let Some(sandbox) = &mut self.sandbox else {
            return Err(Status::of(Kind::NotFound, "no sandbox"));
        };
        let makes = |kind| makes(&sandbox.spec, kind);
        let shares_pids = makes(LinuxNamespaceType::Pid);
        let by_holder = shares_pids || makes(LinuxNamespaceType::User);
        let pins = match by_holder {
            true => self.held_by_process(shares_pids)?,
            false => {
                let namespaces = made(&sandbox.spec)?;
                sandbox.state = State::Held {
                    since: SystemTime::now(),
                };
                Pins {
                    namespaces,
                    ..Pins::default()
                }
            }
        };
        let pins = Pins { shm, files, ..pins };
        let answer = pins.answer();
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.pins = pins;
        }
        Ok(answer)
    }

    /// What the holder itself could not set: it has no `/proc`.
    fn take_settings(&mut self) -> Result<Vec<(PathBuf, String)>, Status> {
        let linux = self
            .sandbox
            .as_mut()
            .and_then(|s| s.spec.linux_mut().as_mut());
        let Some(linux) = linux else {
            return Ok(Vec::new());
        };
        let settings = corten_runtime::sysctls(linux)?;
        if let Some((file, _)) = settings.iter().find(|(f, _)| f.starts_with("sys/user")) {
            let text = format!("sysctl: {} is not set for a whole pod", file.display());
            return Err(Status::of(Kind::Unsupported, text));
        }
        linux.set_sysctl(None);
        Ok(settings)
    }

    /// The holder stays only where it is the first process of a PID namespace.
    fn held_by_process(&mut self, stays: bool) -> Result<Pins, Status> {
        let settings = self.take_settings()?;
        self.start_sandbox()?;
        let Some(sandbox) = &mut self.sandbox else {
            return Err(Status::of(Kind::NotFound, "no sandbox"));
        };
        let State::Ready { holder, since } = &sandbox.state else {
            return Err(Status::of(Kind::Internal, "a sandbox that is not ready"));
        };
        let pins = Pins {
            pid: if stays { holder.pid } else { 0 },
            namespaces: opened(&sandbox.spec, &format!("/proc/{}/ns", holder.pid))?,
            ..Pins::default()
        };
        if !settings.is_empty() {
            apart(|| {
                for (kind, fd) in &pins.namespaces {
                    // The only two that have settings; and a process of several threads cannot join users.
                    if matches!(*kind, "network" | "ipc") {
                        enter(fd, Namespaces::NONE).map_err(|e| failed("join", e.into()))?;
                    }
                }
                write(&settings)
            })?;
        }
        if !stays {
            // Not before its namespaces are ours: they would end with it.
            let since = *since;
            remove(&self.config.state_root, &sandbox.id)?;
            sandbox.state = State::Held { since };
        }
        Ok(pins)
    }
}

impl Pins {
    fn any(&self) -> bool {
        self.pid != 0 || self.shm.is_some() || self.files.is_some() || !self.namespaces.is_empty()
    }

    fn answer(&self) -> HoldPodResponse {
        let namespaces = self.namespaces.iter();
        HoldPodResponse {
            pid: self.pid,
            namespaces: namespaces
                .map(|(kind, fd)| (kind.to_string(), path(fd)))
                .collect(),
            shm: self.shm.as_ref().map(Store::path).unwrap_or_default(),
            files: self.files.as_ref().map(Store::path).unwrap_or_default(),
        }
    }
}

/// Whether there is to be a new one of this kind.
fn makes(spec: &Spec, kind: LinuxNamespaceType) -> bool {
    let all = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    all.is_some_and(|all| all.iter().any(|n| n.typ() == kind && n.path().is_none()))
}

/// Those that the specification asks for, out of a folder as `/proc/PID/ns` is one.
fn opened(spec: &Spec, folder: &str) -> Result<Vec<(&'static str, OwnedFd)>, Status> {
    let mut all = Vec::new();
    for (kind, word, name, _) in KINDS {
        if makes(spec, kind) {
            let path = Path::new(folder).join(name);
            let file = File::open(&path).map_err(|e| internal("open", &path, &e))?;
            all.push((word, file.into()));
        }
    }
    Ok(all)
}

/// Made by a thread that leaves ours and ends: its namespaces stay for as long as they are open.
fn made(spec: &Spec) -> Result<Vec<(&'static str, OwnedFd)>, Status> {
    let linux = spec.linux().as_ref();
    let settings = linux.map(corten_runtime::sysctls).transpose()?;
    let settings = settings.unwrap_or_default();
    apart(|| {
        let mut kinds = Namespaces::NONE;
        for (kind, _, _, bits) in KINDS {
            if makes(spec, kind) {
                kinds = kinds.with(bits);
            }
        }
        unshare(kinds).map_err(|e| failed("make the namespaces", e.into()))?;
        if kinds.contains(Namespaces::NETWORK) {
            loopback_up().map_err(|e| failed("bring up the loopback", e.into()))?;
        }
        if let Some(name) = spec.hostname() {
            set_hostname(name.as_bytes()).map_err(|e| failed("set the host name", e.into()))?;
        }
        write(&settings)?;
        opened(spec, "/proc/thread-self/ns")
    })
}

/// Does this on a thread that may leave our namespaces, and ends.
fn apart<T: Send>(work: impl FnOnce() -> Result<T, Status> + Send) -> Result<T, Status> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(64 << 10);
        let thread = thread.spawn_scoped(scope, work);
        let thread = thread
            .map_err(|e| Status::of(Kind::Internal, format!("cannot start a thread: {e}")))?;
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Of the namespaces that the calling thread is in.
fn write(settings: &[(PathBuf, String)]) -> Result<(), Status> {
    for (file, value) in settings {
        let path = Path::new("/proc").join(file);
        std::fs::write(&path, value).map_err(|e| internal("write", &path, &e))?;
    }
    Ok(())
}

fn failed(step: &str, error: std::io::Error) -> Status {
    Status::of(Kind::Internal, format!("cannot {step} of the pod: {error}"))
}

pub(super) fn internal(step: &str, path: &Path, error: &std::io::Error) -> Status {
    Status::of(
        Kind::Internal,
        format!("cannot {step} {}: {error}", path.display()),
    )
}
