//! `start`: opens the gate at which init waits.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use corten_spec::ContainerId;
use oci_spec::runtime::{Hook, ProcessBuilder, Spec};
use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::agent::{self, Agent};
use crate::error::{Error, failed};
use crate::handshake::{self, Message};
use crate::parent::hooks::{self, Moment};
use crate::parent::watch;
use crate::request::{Created, Exec, Options, Stdio};
use crate::state::{Folder, Found, GATE, Record, Status};

/// How a waiting init is let go.
#[derive(Debug)]
pub(crate) struct Gate {
    folder: Folder,
    record: Record,
}

impl Gate {
    pub fn new(folder: Folder, record: Record) -> Self {
        Self { folder, record }
    }

    /// A hook that fails stops the container, and the lifecycle goes on at its end (runtime.md, "Lifecycle", 7
    /// and 9).
    fn open(&self) -> Result<(), Error> {
        self.try_open().map_err(|mut error| {
            if let Error::Hook { problem, .. } = &mut error {
                let root = self.folder.path.parent().unwrap_or(Path::new("/"));
                let left = match super::delete(root, &self.record.id, true) {
                    Ok(warnings) => warnings,
                    Err(left) => vec![left.to_string()],
                };
                for also in left {
                    problem.push_str("; then ");
                    problem.push_str(&also);
                }
            }
            error
        })
    }

    fn try_open(&self) -> Result<(), Error> {
        let conflict = |status: Status| Error::Conflict {
            action: "start",
            id: self.record.id.to_string(),
            status: status.as_str(),
        };
        if self.record.program.is_empty() {
            let problem = "is missing, so there is nothing to start";
            return Err(crate::error::invalid("process", problem));
        }
        // Before the gate, which opens once.
        let mut agent = Agent::dial(self.record.listener.as_ref())?;
        let path = self.folder.gate();
        let folder = self.folder.fd()?;
        let socket = match dial(folder) {
            Ok(socket) => socket,
            // Gone: somebody else has started it. Refused: init has ended.
            Err(Errno::NOENT) => return Err(conflict(Status::Running)),
            Err(Errno::CONNREFUSED) => return Err(conflict(Status::Stopped)),
            Err(errno) => return Err(failed("reach init at", &path)(errno)),
        };
        // From here on it counts as running. If we die before init is told, it ends by itself.
        match rustix::fs::unlinkat(folder, GATE, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(conflict(Status::Running)),
            Err(errno) => return Err(failed("remove", &path)(errno)),
        }
        let spec = match self.record.hooks {
            true => Some(self.folder.read_config()?),
            false => None,
        };
        if let Some(spec) = &spec {
            start_container_hooks(&self.folder, &self.record, spec)?;
        }
        handshake::send_go(&socket).map_err(failed("talk to", "init"))?;
        let pid = self.record.init.map_or(0, |init| init.pid);
        let state = || agent::state(&self.record, "created");
        let heard = agent.receive(&socket, pid, watch::MAKING, state);
        match heard.inspect_err(|_| self.kill())? {
            Message::Failed { step, errno, path } => {
                let program = OsStr::new(&self.record.program);
                return Err(handshake::error(step, errno, path, program));
            }
            Message::End => {}
            Message::Forked { .. } | Message::Mounted | Message::Ready | Message::Listener => {
                return Err(failed("talk to", "init")(Errno::PROTO));
            }
        }
        let hooks = spec.as_ref().and_then(|s| s.hooks().as_ref());
        match hooks.and_then(|h| h.poststart().as_ref()) {
            Some(list) => {
                let document = self.record.document("running", pid);
                hooks::run(Moment::Poststart, list, &document, None)
            }
            None => Ok(()),
        }
    }
}

impl Gate {
    /// Init, which somebody holds up, or which must not go on without what was asked for. If it has ended
    /// there is nothing to kill.
    fn kill(&self) {
        if let Some(Ok(Some(held))) = self.record.init.map(|init| init.hold()) {
            let _ = corten_sys::process::send_signal(&held.pidfd, 9);
        }
    }
}

impl Created {
    /// Opens the gate. `Ok` once `execve` has succeeded.
    pub fn start(&mut self) -> Result<(), Error> {
        self.gate.open()
    }
}

/// [`Created::start`] from another process than the one that created.
pub fn start(state_root: &Path, id: &ContainerId) -> Result<(), Error> {
    let found = Found::open(state_root, id)?;
    if found.record.init.is_none() || found.init.is_none() {
        let status = found.status()?;
        return Err(found.conflict("start", status));
    }
    Gate::new(found.folder, found.record).open()
}

fn dial(folder: &OwnedFd) -> Result<OwnedFd, Errno> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    watch::prepare(&socket)?;
    connect(&socket, &gate_address(folder)?)?;
    Ok(socket)
}

/// The gate by the descriptor of its folder: a path may be longer than the 108 bytes of an address, and may
/// lead elsewhere by now.
pub(super) fn gate_address(folder: &OwnedFd) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(Path::new(&corten_sys::socket::path_of(folder)).join(GATE))
}

/// `startContainer` hooks run inside, with a path of the container: as added processes.
fn start_container_hooks(folder: &Folder, record: &Record, spec: &Spec) -> Result<(), Error> {
    let list = spec
        .hooks()
        .as_ref()
        .and_then(|h| h.start_container().as_ref());
    for hook in list.into_iter().flatten() {
        run_inside(folder, record, spec, hook)?;
    }
    Ok(())
}

fn run_inside(folder: &Folder, record: &Record, spec: &Spec, hook: &Hook) -> Result<(), Error> {
    let fail = |problem: String| Moment::StartContainer.failed(hook, problem);
    let path = hook.path().to_string_lossy().into_owned();
    let arguments = hook.args().clone().filter(|args| !args.is_empty());
    let mut builder = ProcessBuilder::default()
        .args(arguments.unwrap_or_else(|| vec![path]))
        .cwd("/")
        .env(hook.env().clone().unwrap_or_default());
    if let Some(capabilities) = spec
        .process()
        .as_ref()
        .and_then(|p| p.capabilities().clone())
    {
        builder = builder.capabilities(capabilities);
    }
    let mut process = builder.build().map_err(|e| fail(e.to_string()))?;
    process.set_no_new_privileges(Some(false)).set_rlimits(None);
    let pid = match &record.init {
        Some(init) => crate::state::pid_inside(init.pid)?,
        None => 0,
    };
    let document = record.document("created", pid);
    let (read, write) = std::io::pipe().map_err(|e| fail(e.to_string()))?;
    let copy = |fd: rustix::fd::BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    let copies =
        copy(rustix::stdio::stdout()).and_then(|a| Ok((a, copy(rustix::stdio::stderr())?)));
    let (stdout, stderr) = copies.map_err(failed("copy", "stdio"))?;
    let root = folder.path.parent().unwrap_or(Path::new("/"));
    let added = super::exec::add(
        Exec {
            id: &record.id,
            state_root: root,
            process: &process,
            stdio: Stdio::Fds {
                stdin: read.into(),
                stdout,
                stderr,
            },
            options: Options::default(),
        },
        Some(hook.path()),
    )
    .map_err(|e| fail(format!("cannot be run: {e}")))?;
    hooks::finish(
        Moment::StartContainer,
        hook,
        &added.pidfd,
        write.into(),
        &document,
    )
}
