//! Starting a shim and speaking to it. Everything here blocks but what says otherwise.

mod own;
mod spawn;
mod tasks;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use corten_spec::ContainerId;
use prost::Message;
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::Error;
pub use crate::proto::corten::{
    CheckResponse, CreateOptions, ForeignShim, Health, HoldPodResponse, LoopbackForward, Restart,
};
use crate::proto::task;
use crate::ttrpc::frame::{Decoder, Event};
use crate::ttrpc::status::{Code, Status};
use crate::ttrpc::{self};

pub use self::spawn::{SpawnRequest, spawn};

/// The socket's name in the bundle.
pub const SOCKET: &str = "shim.sock";
/// The shim's process id, in the bundle.
pub const PID_FILE: &str = "shim.pid";
/// What the shim is called in `argv[0]`.
pub const NAME: &str = "containerd-shim-corten-v2";

const SERVICE: &str = "containerd.task.v3.Task";

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
        self.ask(self.service, method, message)
    }

    /// A call of another service than the Task API.
    fn ask<R: Message + Default>(
        &mut self,
        service: &str,
        method: &'static str,
        message: &impl Message,
    ) -> Result<R, Error> {
        let stream = self.send_to(service, method, message)?;
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
