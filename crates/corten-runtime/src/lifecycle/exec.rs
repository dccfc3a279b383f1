//! `exec`: a process more in a running container.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use corten_sys::namespace::{self, Namespaces};
use corten_sys::process::{Child, Clone};
use corten_sys::{capability, keyring, signal};
use oci_spec::runtime::{Process, Spec};
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::way::{Way, enter_group};
use crate::error::{Error, failed};
use crate::handshake::{self, Failure, Message, Step};
use crate::init::{self, Parts, guest, inside, program};
use crate::parent::launch::{self, Lent, Route};
use crate::parent::prepare::own_terminal;
use crate::plan::process::{self, Plan};
use crate::plan::{c_string, identity};
use crate::request::{Exec, Execed, Stdio};
use crate::state::{Found, Status, refused};

/// Adds a process to a running container. `Ok` once `execve` has succeeded.
pub fn exec(exec: Exec<'_>) -> Result<Execed, Error> {
    add(exec, None)
}

/// As [`exec`]; with a `path` that is executed, whatever the first argument is.
pub(super) fn add(exec: Exec<'_>, path: Option<&Path>) -> Result<Execed, Error> {
    let Exec {
        id,
        state_root,
        process,
        stdio,
        options,
    } = exec;
    let found = Found::open(state_root, id)?;
    let Some(init) = &found.init else {
        let status = found.status()?;
        return Err(found.conflict("exec in", status));
    };
    let cgroup = found.cgroup()?;
    match &cgroup {
        Some(cgroup) if cgroup.is_frozen().map_err(refused("read the freezer"))? => {
            return Err(found.conflict("exec in", Status::Paused));
        }
        None if !found.record.cgroup.is_empty() => {
            return Err(found.conflict("exec in", Status::Stopped));
        }
        _ => {}
    }
    let spec = found.folder.read_config()?;
    let held = capability::get().map_err(failed("read the capabilities of", "the runtime"))?;
    let way = Way::find(init.pid, &spec, held.effective)?;
    let capabilities = match way.ids.is_some() {
        true => u64::MAX,
        false => held.permitted,
    };
    let (mut plan, mut warnings) = decide(&spec, process, &stdio, capabilities, &way)?;
    if let Some(path) = path {
        plan.paths = vec![c_string("path", path.as_os_str().as_encoded_bytes())?];
    }
    let size = match stdio {
        Stdio::Terminal { rows, cols } => Some((rows, cols)),
        _ => None,
    };
    let terminal = match size.filter(|_| !way.inside) {
        Some(size) => Some(terminal(init.pid, &plan, &way, size)?),
        None => None,
    };
    let (mut console, slave) = match terminal {
        Some(terminal) => (Some(terminal.master), Some(terminal.slave)),
        None => (None, None),
    };
    let parts = launch::parts(&plan, stdio, slave, options.preserve_fds, capabilities)?;
    let entry = enter_group(
        cgroup.as_ref(),
        (options.rootless, way.nested),
        &mut warnings,
    )?;
    let (ours, theirs) = launch::pair()?;
    let (remote, theirs_too) = match size.filter(|_| way.inside) {
        Some(size) => {
            let (ours, theirs) = launch::pair()?;
            (Some(ours), Some((theirs, size)))
        }
        None => (None, None),
    };
    let copy =
        || rustix::io::fcntl_dupfd_cloexec(&init.pidfd, 3).map_err(failed("copy", "a pidfd"));
    let added = Added {
        plan: &plan,
        parts,
        tasks: entry.v1_tasks,
        init: copy()?,
        kinds: way.kinds,
        user: way.ids.is_some(),
        root: way.root,
        forks: way.forks,
        terminal: theirs_too,
        keyring: launch::keyring_name(id.as_str()).filter(|_| !options.no_new_keyring),
        socket: theirs,
    };
    let route = match way.forks {
        true => Route::default(),
        false => Route::into_pid(copy()?)?,
    };
    let score = plan.oom_score_adj;
    let lent = match score.filter(|_| way.inside) {
        Some(score) => Some(Lent::score(score)?),
        None => None,
    };
    let mut child = route.clone(entry.v2.as_ref(), &ours, move || added.run())?;
    drop(lent);
    if way.forks {
        child = launch::adopt(&child, &ours, launch::program_name(&plan))?;
    }
    let attend = || -> Result<Message, Error> {
        if let Some(resctrl) = &found.record.resctrl {
            resctrl.join(child.pid)?;
        }
        if let Some(score) = score.filter(|_| !way.inside) {
            launch::oom_score(child.pid, score)?;
        }
        heed(&ours, &child)?;
        handshake::receive(&ours)
    };
    match attend() {
        Ok(Message::End) => {
            if let Some(remote) = remote {
                let lost = || failed("receive the terminal of", "the new process");
                let master = corten_sys::socket::receive_fd(&remote).map_err(lost())?;
                console = Some(master.ok_or_else(|| lost()(Errno::PIPE))?);
            }
            Ok(Execed {
                pid: child.pid,
                pidfd: child.pidfd,
                console,
                warnings,
            })
        }
        Ok(message) => Err(launch::reap(&child, message, launch::program_name(&plan))),
        Err(error) => {
            // It must not run without what was asked for.
            let _ = corten_sys::process::send_signal(&child.pidfd, 9);
            let _ = corten_sys::process::wait(&child.pidfd);
            Err(error)
        }
    }
}

/// How long a process may take from its clone to its program. A cold disk needs a fraction of it.
const ENTRY: Duration = Duration::from_secs(5);
/// How often to look whether it was stopped.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 10_000_000,
};

/// Waits until the new process has something to say. It is in the container's pid namespace already, where root
/// can stop it, or take hold of its socket (pidfd_getfd(2)); neither may hold us up.
fn heed(socket: &OwnedFd, child: &Child) -> Result<(), Error> {
    let deadline = Instant::now() + ENTRY;
    loop {
        let ready = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&LOOK));
        match ready {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(errno) => return Err(failed("wait for", "the new process")(errno)),
        }
        let stopped = waitid(
            WaitId::PidFd(child.pidfd.as_fd()),
            WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
        );
        if matches!(stopped, Ok(Some(_))) {
            return Err(Error::Died {
                status: "stopped by a process of the container".into(),
            });
        }
        if Instant::now() > deadline {
            return Err(Error::Died {
                status: format!("no word from it for {ENTRY:?}"),
            });
        }
    }
}

/// A process without a capability section of its own has the container's.
fn decide(
    spec: &Spec,
    process: &Process,
    stdio: &Stdio,
    capabilities: u64,
    way: &Way,
) -> Result<(Plan, Vec<String>), Error> {
    identity::check_user(process.user(), way.ids.as_ref(), way.groups_denied)?;
    let mut own = process.clone();
    let container = spec.process().as_ref();
    if own.capabilities().is_none() {
        own.set_capabilities(container.and_then(|p| p.capabilities().clone()));
    }
    // The container's own is for nobody else (config.md, `execCPUAffinity`).
    if own.exec_cpu_affinity().is_none() {
        own.set_exec_cpu_affinity(container.and_then(|p| p.exec_cpu_affinity().clone()));
    }
    let linux = spec.linux().as_ref();
    let mut warnings = Vec::new();
    let mut plan = process::plan(
        &own,
        &process::Facts {
            capabilities,
            terminal: matches!(stdio, Stdio::Terminal { .. }),
            seccomp: linux.and_then(|l| l.seccomp().as_ref()),
            personality: linux.and_then(|l| l.personality().as_ref()),
            memory_policy: linux.and_then(|l| l.memory_policy().as_ref()),
        },
        &mut warnings,
    )?;
    // With root in a user namespace as with any: a group that cannot be dropped there was never a wall.
    let nested = way.ids.is_some() || way.nested;
    plan.group_rule = identity::group_rule(spec.annotations(), nested);
    Ok((plan, warnings))
}

/// A terminal of the container's devpts, opened from here through init's root.
fn terminal(
    pid: u32,
    plan: &Plan,
    way: &Way,
    (rows, cols): (u16, u16),
) -> Result<corten_sys::pty::Terminal, Error> {
    let at = || failed("open a terminal in", "/dev/pts");
    let root = Path::new("/proc").join(pid.to_string()).join("root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, &root, flags, Mode::empty()).map_err(at())?;
    let terminal = corten_sys::pty::open_in_root(&root).map_err(at())?;
    let ids = way.ids.as_ref();
    let uid = ids.map_or(Some(plan.uid), |ids| ids.uid.host(plan.uid));
    own_terminal(&terminal, uid)?;
    if (rows, cols) != (0, 0) {
        corten_sys::pty::resize(&terminal.master, rows, cols).map_err(at())?;
    }
    Ok(terminal)
}

/// The added process, before its `execve`.
struct Added<'a> {
    plan: &'a Plan,
    parts: Parts,
    tasks: Vec<OwnedFd>,
    init: OwnedFd,
    kinds: Namespaces,
    /// A user namespace is among them.
    user: bool,
    root: Option<OwnedFd>,
    /// The pid namespace is joined here, so only a process more is in it.
    forks: bool,
    /// Where the master of a terminal goes that is opened here, and its size.
    terminal: Option<(OwnedFd, (u16, u16))>,
    keyring: Option<std::ffi::CString>,
    socket: OwnedFd,
}

impl<'a> Added<'a> {
    fn run(mut self) -> i32 {
        if let Err(failure) = self.enter() {
            // The maker has no other way to learn of it; if it is gone, nobody cares.
            let _ = handshake::send_failure(&self.socket, &failure);
            return 1;
        }
        match self.forks {
            true => self.fork(),
            false => self.go_on(),
        }
    }

    /// Hands over to a sibling, which like us is the maker's child.
    fn fork(self) -> i32 {
        let request = Clone {
            sibling: true,
            ..Clone::default()
        };
        let told = rustix::io::fcntl_dupfd_cloexec(&self.socket, 3).and_then(|socket| {
            let child = corten_sys::process::clone(&request, move || self.go_on())?;
            handshake::send_forked(&socket, child.pid)
        });
        i32::from(told.is_err())
    }

    fn go_on(mut self) -> i32 {
        let failure = match self.set_up() {
            Ok(()) => {
                let Self {
                    plan,
                    parts,
                    socket,
                    ..
                } = self;
                let failure = program::execute(plan, parts, &socket);
                let _ = handshake::send_failure(&socket, &failure);
                return 1;
            }
            Err(failure) => failure,
        };
        // The maker has no other way to learn of it; if it is gone, nobody cares.
        let _ = handshake::send_failure(&self.socket, &failure);
        1
    }

    /// Control groups and namespaces.
    fn enter(&mut self) -> Result<(), Failure<'a>> {
        signal::reset_ignored();
        signal::Mask::empty()
            .install()
            .map_err(Failure::at(Step::Session, b""))?;
        if let (Some(cpus), _) = &self.plan.affinity {
            let at = Failure::at(Step::Affinity, b"");
            corten_sys::schedule::set_affinity(cpus).map_err(at)?;
        }
        for tasks in self.tasks.drain(..) {
            rustix::io::write(&tasks, b"0").map_err(Failure::at(Step::EnterCgroup, b""))?;
        }
        namespace::enter(&self.init, self.kinds).map_err(Failure::at(Step::JoinNamespace, b""))?;
        if let Some(root) = &self.root {
            guest::change_root(root)?;
        }
        match self.user {
            true => init::identity::become_root(self.plan.group_rule),
            false => Ok(()),
        }
    }

    fn set_up(&mut self) -> Result<(), Failure<'a>> {
        if let Some(name) = &self.keyring {
            keyring::new_session(name).map_err(Failure::at(Step::Keyring, b""))?;
        }
        rustix::process::setsid().map_err(Failure::at(Step::Session, b""))?;
        if let Some((console, size)) = self.terminal.take() {
            self.parts.terminal = Some(inside::terminal(&console, size, self.plan.uid)?);
        }
        init::identity::apply(self.plan, &mut self.parts)?;
        program::find(self.plan, &mut self.parts)
    }
}
