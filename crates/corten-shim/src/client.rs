//! Starting a shim and speaking to it. Everything here blocks but what says otherwise.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use corten_spec::ContainerId;
use corten_spec::oci::runtime;
use corten_sys::spawn::{Program, spawn as start_program};
use prost::Message;
use prost_types::Any;
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::Error;
use crate::listen;
use crate::proto::corten::{
    CheckRequest, ForwardRequest, HoldPodRequest, InheritRequest, InheritResponse,
    ReopenLogRequest, SetRestartRequest, SmallFile, WatchRequest,
};
pub use crate::proto::corten::{
    CheckResponse, CreateOptions, ForeignShim, Health, HoldPodResponse, LoopbackForward, Restart,
};
use crate::proto::sandbox::{SandboxRequest, SandboxStatusRequest, SandboxStatusResponse};
use crate::proto::task;
use crate::ttrpc::frame::{Decoder, Event};
use crate::ttrpc::status::{Code, Status};
use crate::ttrpc::{self};
use crate::{OWN_SERVICE, SANDBOX_SERVICE};

/// The socket's name in the bundle.
pub const SOCKET: &str = "shim.sock";
/// The shim's process id, in the bundle.
pub const PID_FILE: &str = "shim.pid";
/// What the shim is called in `argv[0]`.
pub const NAME: &str = "containerd-shim-corten-v2";

const SERVICE: &str = "containerd.task.v3.Task";

/// A shim to be started for one container.
#[derive(Debug)]
pub struct SpawnRequest<'a> {
    /// The binary; [`Self::own_exe`] is this very program.
    pub exe: &'a Path,
    /// Has `config.json`; gets `shim.sock`, `shim.pid` and, if asked for, `attach.sock`.
    pub bundle: &'a Path,
    pub id: &'a ContainerId,
    pub namespace: &'a str,
    pub state_root: &'a Path,
    /// Sockets for [`LoopbackForward`], which refers to them by their place here.
    pub inherit: Vec<OwnedFd>,
    /// Where the shim's own complaints go; `None`: nowhere.
    pub log: Option<OwnedFd>,
}

impl SpawnRequest<'_> {
    pub fn own_exe() -> &'static Path {
        Path::new("/proc/self/exe")
    }
}

/// Starts a shim. Returns as soon as it was started: requests wait in its socket until it reads.
pub fn spawn(request: &SpawnRequest<'_>) -> Result<Client, Error> {
    let path = request.bundle.join(SOCKET);
    let socket = |source| Error::Socket {
        path: path.clone(),
        source,
    };
    let listener = listen::bind_in(request.bundle, SOCKET).map_err(socket)?;
    // Waits in the queue before there is anybody to accept: the shim ends when its last visitor goes, and a visitor who
    // only looked in (`ps`) must not be the last one before us.
    let mut client = connect(request.bundle, request.id)?;
    let count = request.inherit.len().to_string();
    let arguments: [&OsStr; 13] = [
        NAME.as_ref(),
        "-namespace".as_ref(),
        request.namespace.as_ref(),
        "-id".as_ref(),
        request.id.as_str().as_ref(),
        "-bundle".as_ref(),
        request.bundle.as_os_str(),
        "-state-root".as_ref(),
        request.state_root.as_os_str(),
        "-inherit".as_ref(),
        count.as_ref(),
        "-until-idle".as_ref(),
        "serve".as_ref(),
    ];
    let mut descriptors = vec![listener.as_fd()];
    descriptors.extend(request.inherit.iter().map(AsFd::as_fd));
    let started = start_program(&Program {
        path: request.exe,
        arguments: &arguments,
        environment: &[],
        stdio: [None, None, request.log.as_ref().map(AsFd::as_fd)],
        descriptors: &descriptors,
        session: true,
    });
    let pid = started.map_err(|errno| Error::Spawn {
        path: request.exe.into(),
        source: errno.into(),
    })?;
    let pid_file = request.bundle.join(PID_FILE);
    std::fs::write(&pid_file, pid.to_string()).map_err(|source| Error::File {
        step: "write",
        path: pid_file,
        source,
    })?;
    client.child = Some(pid);
    Ok(client)
}

/// Connects to the shim of a bundle.
pub fn connect(bundle: &Path, id: &ContainerId) -> Result<Client, Error> {
    let socket = connect_in(bundle, SOCKET).map_err(|source| Error::Connect {
        path: bundle.join(SOCKET),
        source,
    })?;
    Ok(Client::new(socket, id.as_str()))
}

/// Connects to a socket by its folder and name: the path may exceed the 108 bytes of an address.
pub(crate) fn connect_in(folder: &Path, name: &str) -> io::Result<UnixStream> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = open(folder, flags, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

impl ForeignShim {
    pub fn new(binary: &Path, options: Option<crate::foreign::Options>, host_mounts: bool) -> Self {
        Self {
            binary: binary.display().to_string(),
            options: options.map(crate::foreign::Options::encode),
            host_mounts,
        }
    }
}

/// What Create needs beside the bundle's `config.json`.
#[derive(Debug, Default)]
pub struct CreateRequest {
    pub bundle: PathBuf,
    /// The root's mounts; empty: the folder that the spec names.
    pub rootfs: Vec<corten_runtime::rootfs::Mount>,
    pub stdio: Stdio,
    /// The folder of a checkpoint that it goes on from; empty: it begins.
    pub checkpoint: PathBuf,
    pub options: CreateOptions,
}

/// Stdio as URIs; see the shim's `stdio` module. Empty is `/dev/null`, [`ATTACH`] is `attach.sock`.
#[derive(Clone, Debug, Default)]
pub struct Stdio {
    pub terminal: bool,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

/// The URI of `attach.sock`.
pub const ATTACH: &str = "attach:";

impl Stdio {
    /// All through `attach.sock`.
    pub fn attach(terminal: bool) -> Self {
        Self {
            terminal,
            stdin: ATTACH.into(),
            stdout: ATTACH.into(),
            stderr: ATTACH.into(),
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    pub pid: u32,
    /// The exit code, or 128 + the signal.
    pub status: u32,
    pub at: SystemTime,
}

/// A Wait that was sent and is not answered.
#[derive(Debug)]
pub struct Waiting {
    stream: u32,
}

/// A connection to a shim, about one of its containers.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    decoder: Decoder,
    stream: u32,
    answers: BTreeMap<u32, Result<Vec<u8>, Status>>,
    id: String,
    service: &'static str,
    /// The shim, if it is our child.
    child: Option<u32>,
}

impl Client {
    pub(crate) fn new(socket: UnixStream, id: &str) -> Self {
        Self::with_service(socket, id, SERVICE)
    }

    /// To a shim of containerd's contract, whoever made it, that speaks this version of the Task API.
    pub fn of_version(socket: UnixStream, id: &str, version: u32) -> Self {
        Self::with_service(socket, id, crate::foreign::service(version))
    }

    fn with_service(socket: UnixStream, id: &str, service: &'static str) -> Self {
        Self {
            socket,
            service,
            decoder: Decoder::default(),
            stream: 1,
            answers: BTreeMap::new(),
            id: id.into(),
            child: None,
        }
    }

    /// From now on no answer is waited for longer than this: a supervisor that hangs must not keep its caller for ever. What
    /// polls ([`poll_wait`](Self::poll_wait)) is not concerned.
    pub fn limit(&self, patience: std::time::Duration) -> Result<(), Error> {
        let set = self.socket.set_read_timeout(Some(patience));
        set.map_err(|source| Error::Broken {
            method: "a call",
            source,
        })
    }

    /// The shim's process id, if this client has started it and not yet reaped it.
    pub fn child(&self) -> Option<u32> {
        self.child
    }

    /// A path to a descriptor that a shim which we have started inherited, by its place in
    /// [`SpawnRequest::inherit`]. It is there for as long as the shim is.
    pub fn inherited(&self, place: usize) -> PathBuf {
        // Its listening socket comes first.
        let number = 3 + 1 + place;
        format!("/proc/{}/fd/{number}", self.child.unwrap_or_default()).into()
    }

    /// Makes the container; its init waits. Returns init's process id.
    pub fn create(&mut self, request: CreateRequest) -> Result<u32, Error> {
        let rootfs = request.rootfs.into_iter().map(|m| task::Mount {
            r#type: m.fstype,
            source: m.source,
            target: String::new(),
            options: m.options,
        });
        let message = task::CreateTaskRequest {
            id: self.id.clone(),
            bundle: request.bundle.display().to_string(),
            rootfs: rootfs.collect(),
            terminal: request.stdio.terminal,
            stdin: request.stdio.stdin,
            stdout: request.stdio.stdout,
            stderr: request.stdio.stderr,
            checkpoint: request.checkpoint.display().to_string(),
            parent_checkpoint: String::new(),
            options: Some(Any {
                type_url: "corten.shim.v1.CreateOptions".into(),
                value: request.options.encode_to_vec(),
            }),
        };
        let answer: task::CreateTaskResponse = self.call("Create", &message)?;
        Ok(answer.pid)
    }

    /// Carries what reaches the inherited sockets to the container; once its addresses are known.
    pub fn forward(&mut self, forwards: Vec<LoopbackForward>) -> Result<(), Error> {
        let message = ForwardRequest {
            id: self.id.clone(),
            forwards,
        };
        let stream = self.send_to(OWN_SERVICE, "Forward", &message)?;
        self.finish("Forward", stream).map(drop)
    }

    /// Puts what is at a path in the place of a descriptor that the shim inherited. Returns where it is found for as long as
    /// the shim lives.
    pub fn inherit(&mut self, place: usize, path: &Path) -> Result<PathBuf, Error> {
        let message = InheritRequest {
            place: place as u32,
            path: path.to_string_lossy().into_owned(),
        };
        let stream = self.send_to(OWN_SERVICE, "Inherit", &message)?;
        let bytes = self.finish("Inherit", stream)?;
        let answer = InheritResponse::decode(bytes.as_slice());
        let answer = answer.map_err(|source| Error::Answer {
            method: "Inherit",
            source,
        })?;
        Ok(answer.path.into())
    }

    /// Makes the namespaces of a pod, whose id this client has, by the `config.json` of the shim's bundle.
    pub fn hold_pod(
        &mut self,
        shm_size: u64,
        files: &[(&str, String)],
    ) -> Result<HoldPodResponse, Error> {
        let files = files.iter().map(|(name, text)| SmallFile {
            name: (*name).into(),
            text: text.clone(),
        });
        let message = HoldPodRequest {
            id: self.id.clone(),
            shm_size,
            files: files.collect(),
        };
        let stream = self.send_to(OWN_SERVICE, "HoldPod", &message)?;
        let bytes = self.finish("HoldPod", stream)?;
        HoldPodResponse::decode(bytes.as_slice()).map_err(|source| Error::Answer {
            method: "HoldPod",
            source,
        })
    }

    /// Whether the shim holds this pod, and what holds it with the shim lives.
    pub fn holds_pod(&mut self) -> Result<bool, Error> {
        let message = SandboxStatusRequest {
            sandbox_id: self.id.clone(),
            verbose: false,
        };
        let method = "SandboxStatus";
        let stream = self.send_to(SANDBOX_SERVICE, method, &message)?;
        let bytes = self.finish(method, stream)?;
        let status = SandboxStatusResponse::decode(bytes.as_slice());
        let status = status.map_err(|source| Error::Answer { method, source })?;
        Ok(status.state == "SANDBOX_READY")
    }

    /// Ends the pod that the shim holds: its containers, its namespaces, and the shim. Waits for its end if it is our child.
    pub fn end_pod(mut self) -> Result<(), Error> {
        let message = SandboxRequest {
            sandbox_id: self.id.clone(),
        };
        let stream = self.send_to(SANDBOX_SERVICE, "ShutdownSandbox", &message)?;
        self.finish("ShutdownSandbox", stream)?;
        self.reap();
        Ok(())
    }

    /// While the container runs, `command` is run whenever nobody answers at `socket`. An empty socket ends that.
    pub fn watch(&mut self, socket: &Path, command: Vec<String>) -> Result<(), Error> {
        let message = WatchRequest {
            id: self.id.clone(),
            socket: socket.to_string_lossy().into_owned(),
            command,
        };
        let stream = self.send_to(OWN_SERVICE, "Watch", &message)?;
        self.finish("Watch", stream).map(drop)
    }

    /// When the container is to be started again, from now on.
    pub fn set_restart(&mut self, restart: Restart) -> Result<(), Error> {
        let message = SetRestartRequest {
            id: self.id.clone(),
            restart: Some(restart),
        };
        let stream = self.send_to(OWN_SERVICE, "SetRestart", &message)?;
        self.finish("SetRestart", stream).map(drop)
    }

    /// Runs the container's health check now, or waits for the one that runs.
    pub fn check(&mut self) -> Result<CheckResponse, Error> {
        let message = CheckRequest {
            id: self.id.clone(),
        };
        let stream = self.send_to(OWN_SERVICE, "Check", &message)?;
        let bytes = self.finish("Check", stream)?;
        CheckResponse::decode(bytes.as_slice()).map_err(|source| Error::Answer {
            method: "Check",
            source,
        })
    }

    /// Waits until the container has ended for good: not only to be started again.
    pub fn wait_last(&mut self) -> Result<Exit, Error> {
        let message = self.process("");
        let stream = self.send_to(OWN_SERVICE, "WaitLast", &message)?;
        let bytes = self.finish("WaitLast", stream)?;
        exit_of(&bytes)
    }

    /// After the log's file was renamed: records go to a new file of its name from now on.
    pub fn reopen_log(&mut self) -> Result<(), Error> {
        let message = ReopenLogRequest {
            id: self.id.clone(),
        };
        let stream = self.send_to(OWN_SERVICE, "ReopenLog", &message)?;
        self.finish("ReopenLog", stream).map(drop)
    }

    /// Starts init (`""`) or an added process. `Ok` once its program runs.
    pub fn start(&mut self, exec_id: &str) -> Result<u32, Error> {
        let message = self.process(exec_id);
        let answer: task::StartResponse = self.call("Start", &message)?;
        Ok(answer.pid)
    }

    /// Adds a process, to be attached to if need be and then started.
    pub fn exec(
        &mut self,
        exec_id: &str,
        stdio: Stdio,
        process: &runtime::Process,
    ) -> Result<(), Error> {
        let json = serde_json::to_vec(process).map_err(|e| Error::Broken {
            method: "Exec",
            source: e.into(),
        })?;
        let message = task::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            terminal: stdio.terminal,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                value: json,
            }),
        };
        self.call::<()>("Exec", &message)
    }

    pub fn kill(&mut self, exec_id: &str, signal: u32, all: bool) -> Result<(), Error> {
        let message = task::KillRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            signal,
            all,
        };
        self.call::<()>("Kill", &message)
    }

    /// Waits until the process has exited and its output has been passed on.
    pub fn wait(&mut self, exec_id: &str) -> Result<Exit, Error> {
        let waiting = self.begin_wait(exec_id)?;
        self.end_wait(waiting)
    }

    /// Waits for the answer to a Wait that was sent.
    pub fn end_wait(&mut self, waiting: Waiting) -> Result<Exit, Error> {
        let bytes = self.finish("Wait", waiting.stream)?;
        exit_of(&bytes)
    }

    /// Sends a Wait without waiting. Poll the client ([`AsFd`]) for reading, then ask [`poll_wait`](Self::poll_wait).
    pub fn begin_wait(&mut self, exec_id: &str) -> Result<Waiting, Error> {
        let message = self.process(exec_id);
        let stream = self.send("Wait", &message)?;
        Ok(Waiting { stream })
    }

    /// The exit, if the answer is here. Never blocks.
    pub fn poll_wait(&mut self, waiting: &Waiting) -> Result<Option<Exit>, Error> {
        while !self.answers.contains_key(&waiting.stream) {
            if !self.receive("Wait", RecvFlags::DONTWAIT)? {
                return Ok(None);
            }
        }
        match self.answers.remove(&waiting.stream) {
            Some(Ok(bytes)) => exit_of(&bytes).map(Some),
            Some(Err(status)) => Err(refused("Wait", status)),
            None => Ok(None),
        }
    }

    pub fn state(&mut self, exec_id: &str) -> Result<task::StateResponse, Error> {
        let message = self.process(exec_id);
        self.call("State", &message)
    }

    /// All processes of the container, by host process id.
    pub fn pids(&mut self) -> Result<Vec<u32>, Error> {
        let answer: task::PidsResponse = self.call("Pids", &self.container())?;
        Ok(answer.processes.iter().map(|p| p.pid).collect())
    }

    /// Forgets an exited process; with `""` the container, its cgroup and its runtime state.
    pub fn delete(&mut self, exec_id: &str) -> Result<Exit, Error> {
        let message = task::DeleteRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
        };
        let answer: task::DeleteResponse = self.call("Delete", &message)?;
        Ok(Exit {
            pid: answer.pid,
            status: answer.exit_status,
            at: time_of(answer.exited_at.as_ref()),
        })
    }

    pub fn resize(&mut self, exec_id: &str, rows: u16, cols: u16) -> Result<(), Error> {
        let message = task::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            width: cols.into(),
            height: rows.into(),
        };
        self.call::<()>("ResizePty", &message)
    }

    /// Ends standard input, after what was already written to it.
    pub fn close_io(&mut self, exec_id: &str) -> Result<(), Error> {
        let message = task::CloseIoRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            stdin: true,
        };
        self.call::<()>("CloseIO", &message)
    }

    /// containerd's metrics, of the cgroup version that the host has.
    pub fn stats(&mut self) -> Result<Option<Any>, Error> {
        let answer: task::StatsResponse = self.call("Stats", &self.container())?;
        Ok(answer.stats)
    }

    pub fn update(&mut self, resources: &runtime::LinuxResources) -> Result<(), Error> {
        let json = serde_json::to_vec(resources).map_err(|e| Error::Broken {
            method: "Update",
            source: e.into(),
        })?;
        let message = task::UpdateTaskRequest {
            id: self.id.clone(),
            resources: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
                value: json,
            }),
            annotations: BTreeMap::new(),
        };
        self.call::<()>("Update", &message)
    }

    /// Writes the container's processes into files of a folder, and lets them run on.
    pub fn checkpoint(&mut self, images: &Path) -> Result<(), Error> {
        let message = task::CheckpointTaskRequest {
            id: self.id.clone(),
            path: images.display().to_string(),
            options: None,
        };
        self.call::<()>("Checkpoint", &message)
    }

    pub fn pause(&mut self) -> Result<(), Error> {
        self.call::<()>("Pause", &self.container())
    }

    pub fn resume(&mut self) -> Result<(), Error> {
        self.call::<()>("Resume", &self.container())
    }

    /// The shim's process id and the container's.
    pub fn connect_info(&mut self) -> Result<(u32, u32), Error> {
        let answer: task::ConnectResponse = self.call("Connect", &self.container())?;
        Ok((answer.shim_pid, answer.task_pid))
    }

    /// Ends the shim, once its containers are deleted. Waits for its end, and reaps it if it is our child.
    pub fn shutdown(mut self) -> Result<(), Error> {
        let message = task::ShutdownRequest {
            id: self.id.clone(),
            now: false,
        };
        self.call::<()>("Shutdown", &message)?;
        self.reap();
        Ok(())
    }

    /// Waits for the shim's end, if it is our child: its answer may be followed by a second for events that are still on their way.
    fn reap(&self) {
        let child = (self.child).and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        let Some(child) = child else {
            return;
        };
        let options = rustix::process::WaitOptions::empty();
        while let Err(Errno::INTR) = rustix::process::waitpid(Some(child), options) {}
    }

    fn container(&self) -> task::ContainerRequest {
        task::ContainerRequest {
            id: self.id.clone(),
        }
    }

    fn process(&self, exec_id: &str) -> task::ProcessRequest {
        task::ProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
        }
    }

    fn call<R: Message + Default>(
        &mut self,
        method: &'static str,
        message: &impl Message,
    ) -> Result<R, Error> {
        let stream = self.send(method, message)?;
        let bytes = self.finish(method, stream)?;
        R::decode(bytes.as_slice()).map_err(|source| Error::Answer { method, source })
    }

    fn send(&mut self, method: &'static str, message: &impl Message) -> Result<u32, Error> {
        self.send_to(self.service, method, message)
    }

    fn send_to(
        &mut self,
        service: &str,
        method: &'static str,
        message: &impl Message,
    ) -> Result<u32, Error> {
        let stream = self.stream;
        self.stream += 2;
        let frame = ttrpc::request(stream, service, method, message.encode_to_vec())?;
        let sent = self.socket.write_all(&frame);
        sent.map_err(|source| Error::Broken { method, source })?;
        Ok(stream)
    }

    fn finish(&mut self, method: &'static str, stream: u32) -> Result<Vec<u8>, Error> {
        loop {
            match self.answers.remove(&stream) {
                Some(Ok(bytes)) => return Ok(bytes),
                Some(Err(status)) => return Err(refused(method, status)),
                None if self.receive(method, RecvFlags::empty())? => {}
                // The socket has a timeout.
                None => {
                    let source = io::ErrorKind::TimedOut.into();
                    return Err(Error::Broken { method, source });
                }
            }
        }
    }

    /// Reads once. `false`: nothing is there and the flags say not to wait.
    fn receive(&mut self, method: &'static str, flags: RecvFlags) -> Result<bool, Error> {
        let mut bytes = [0; 4096];
        let broken = |source| Error::Broken { method, source };
        let n = match rustix::net::recv(&self.socket, &mut bytes, flags) {
            Ok((0, _)) => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Ok((n, _)) => n,
            Err(Errno::INTR) => return Ok(true),
            Err(Errno::AGAIN) if flags.contains(RecvFlags::DONTWAIT) => return Ok(false),
            // The socket has a time limit.
            Err(Errno::AGAIN) => return Err(broken(io::ErrorKind::TimedOut.into())),
            Err(errno) => return Err(broken(errno.into())),
        };
        let answers = &mut self.answers;
        self.decoder.feed(&bytes[..n], |event| match event {
            Event::Frame(frame) => {
                answers.insert(frame.header.stream, ttrpc::answer(&frame));
            }
            Event::Oversized(header) => {
                let status = Status::new(Code::ResourceExhausted, "the answer is too long");
                answers.insert(header.stream, Err(status));
            }
        });
        Ok(true)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn refused(method: &'static str, status: Status) -> Error {
    Error::Call {
        method,
        status: Box::new(status),
    }
}

fn time_of(timestamp: Option<&prost_types::Timestamp>) -> SystemTime {
    timestamp.map_or(SystemTime::UNIX_EPOCH, crate::time::from_timestamp)
}

fn exit_of(bytes: &[u8]) -> Result<Exit, Error> {
    let method = "Wait";
    let answer = task::WaitResponse::decode(bytes);
    let answer = answer.map_err(|source| Error::Answer { method, source })?;
    Ok(Exit {
        pid: 0,
        status: answer.exit_status,
        at: time_of(answer.exited_at.as_ref()),
    })
}
