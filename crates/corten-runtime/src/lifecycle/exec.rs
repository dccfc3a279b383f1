//! `exec`: a process more in a running container.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use corten_spec::ContainerId;
use corten_sys::namespace::{self, Namespaces};
use corten_sys::process::Child;
use corten_sys::{capability, keyring, signal, weakened};
use oci_spec::runtime::{Process, Spec};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::agent::{self, Agent};
use super::way::{Way, enter_group};
use crate::error::{Error, failed};
use crate::handshake::{self, Failure, Message, Step};
use crate::init::{self, Parts, guest, inside, program};
use crate::parent::launch::{self, Lent, Route};
use crate::parent::prepare::own_terminal;
use crate::parent::watch;
use crate::plan::process::{self, Plan};
use crate::plan::{c_string, identity};
use crate::request::{Exec, Execed, Stdio};
use crate::state::{Found, Held, Status, refused};

/// Adds a process to a running container. `Ok` once `execve` has succeeded.
pub fn exec(exec: Exec<'_>) -> Result<Execed, Error> {
    add(exec, None)
}

/// As [`exec`]; with a `path` that is executed, whatever the first argument is.
pub(super) fn add(exec: Exec<'_>, path: Option<&Path>) -> Result<Execed, Error> {
    let target = Target::open(exec.state_root, exec.id)?;
    add_to(target, exec, path)
}

/// A container, and the configuration that it was made from.
pub(crate) struct Target {
    found: Found,
    pub spec: Spec,
}

impl Target {
    pub fn open(state_root: &Path, id: &ContainerId) -> Result<Self, Error> {
        let found = Found::open(state_root, id)?;
        let spec = found.folder.read_config()?;
        Ok(Self { found, spec })
    }
}

/// [`exec`] in a container that was looked up to make the process.
pub(crate) fn exec_in(target: Target, exec: Exec<'_>) -> Result<Execed, Error> {
    add_to(target, exec, None)
}

fn add_to(target: Target, exec: Exec<'_>, path: Option<&Path>) -> Result<Execed, Error> {
    let Target { found, spec } = target;
    let Exec {
        id,
        state_root: _,
        process,
        stdio,
        options,
    } = exec;
    let Some(init) = &found.init else {
        let status = found.status()?;
        return Err(found.conflict("exec in", status));
    };
    let cgroup = found.cgroup()?;
    let frozen = match &cgroup {
        Some(cgroup) => (cgroup.is_frozen_beside(init.pid)).map_err(refused("read the freezer"))?,
        None if !found.record.cgroup.is_empty() => {
            return Err(found.conflict("exec in", Status::Stopped));
        }
        None => false,
    };
    if frozen && !options.ignore_paused {
        return Err(found.conflict("exec in", Status::Paused));
    }
    let held = capability::get().map_err(failed("read the capabilities of", "the runtime"))?;
    let way = Way::find(init.pid, &spec, held.effective)?;
    let capabilities = match way.ids.is_some() {
        true => u64::MAX,
        false => held.permitted,
    };
    let (mut plan, mut warnings) = decide(&spec, process, &stdio, capabilities, &way)?;
    super::create::check_labels(&plan, None)?;
    if let Some(path) = path {
        plan.paths = vec![c_string("path", path.as_os_str().as_encoded_bytes())?];
    }
    let size = match stdio {
        Stdio::Terminal { rows, cols } => Some((rows, cols)),
        _ => None,
    };
    let terminal = match size.filter(|_| !way.inside) {
        Some(size) => Some(terminal(init, &plan, &way, size)?),
        None => None,
    };
    let (mut console, slave) = match terminal {
        Some(terminal) => (Some(terminal.master), Some(terminal.slave)),
        None => (None, None),
    };
    // A group of resctrl is joined from outside, by number.
    let late = !way.forks && found.record.resctrl.is_none() && can_fork(&plan);
    let asked = launch::Asked {
        stdio,
        terminal: slave,
        preserve_fds: options.preserve_fds,
        capabilities,
        forks: late,
    };
    let parts = launch::parts(&plan, asked)?;
    let entry = enter_group(
        cgroup.as_ref(),
        (init.pid, &options.below),
        (options.rootless, way.nested),
        &mut warnings,
    )?;
    let mut agent = Agent::dial(plan.listener.as_ref())?;
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
    let route = match way.forks || late {
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
    let patience = match frozen {
        // It says nothing until somebody resumes the container.
        true => Duration::MAX,
        false => watch::ENTERING,
    };
    let state = || agent::state(&found.record, "running");
    let mut hear = |pid| agent.receive(&ours, pid, patience, state);
    let mut follow = || -> Result<Message, Error> {
        if let Some(resctrl) = &found.record.resctrl {
            resctrl.join(child.pid)?;
        }
        if let Some(score) = score.filter(|_| !way.inside && !late) {
            launch::oom_score(&child.pid.to_string(), score)
                .map_err(failed("set the OOM score of", "the new process"))?;
        }
        attend(&mut child, late, &mut hear)
    };
    match follow() {
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

/// Whether the way in may end with a fork, so that the process is in the container's pid namespace only when
/// nothing of the host is left in it. Where it may not, the process is born in there: not dumpable,
/// so that only who may trace all that root has (CAP_SYS_PTRACE, and no user namespace) sees what it holds.
fn can_fork(plan: &Plan) -> bool {
    // sched(7): not inherited by a child, or no child allowed at all.
    const RESET_ON_FORK: u64 = 1;
    const SCHED_DEADLINE: u32 = 6;
    let scheduled = plan
        .scheduler
        .is_some_and(|s| s.flags & RESET_ON_FORK != 0 || s.policy == SCHED_DEADLINE);
    // The trampoline runs under a filter that is installed before it.
    let calls = ["clone", "setsid", "ioctl", "write", "exit_group"];
    let filtered = plan.filter.as_ref().is_some_and(|filter| {
        !plan.no_new_privileges && calls.iter().any(|call| !filter.lets_pass(call))
    });
    // The agent is told of the process that the filter is of.
    let listens = plan.listener.is_some() && !plan.no_new_privileges;
    if weakened!("trampoline.none") {
        return false;
    }
    !scheduled && !filtered && !listens && !weakened!("exec.early")
}

/// Until the program runs, or does not. `child` becomes the process that goes on. `hear` gives the next message
/// of a process.
fn attend(
    child: &mut Child,
    forks: bool,
    hear: &mut impl FnMut(u32) -> Result<Message, Error>,
) -> Result<Message, Error> {
    let pid = match hear(child.pid)? {
        Message::Forked { pid } if forks => pid,
        // It ended without a word: nothing was executed.
        Message::End if forks => return Ok(Message::Ready),
        other => return Ok(other),
    };
    let first = std::mem::replace(child, launch::sibling(pid)?);
    let message = hear(child.pid);
    // It has ended meanwhile.
    corten_sys::process::wait(&first.pidfd).map_err(failed("wait for", "the first process"))?;
    message
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
    init: &Held,
    plan: &Plan,
    way: &Way,
    (rows, cols): (u16, u16),
) -> Result<corten_sys::pty::Terminal, Error> {
    let at = || failed("open a terminal in", "/dev/pts");
    let root = Path::new("/proc").join(init.pid.to_string()).join("root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, &root, flags, Mode::empty()).map_err(at())?;
    // It still is who we hold, so it was the one whose root that is.
    corten_sys::process::send_signal(&init.pidfd, 0).map_err(at())?;
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
        match rustix::io::fcntl_dupfd_cloexec(&self.socket, 3) {
            Ok(socket) => init::hand_over(&socket, || self.go_on()),
            Err(_) => 1,
        }
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
        let late = self.parts.forks;
        if let Some(score) = self.plan.oom_score_adj.filter(|_| late) {
            // By ourselves: after the fork it would be too late.
            launch::oom_score("self", score).map_err(Failure::at(Step::OomScore, b""))?;
        }
        for tasks in self.tasks.drain(..) {
            rustix::io::write(&tasks, b"0").map_err(Failure::at(Step::EnterCgroup, b""))?;
        }
        let kinds = match late {
            // For the children, as always with this one (pid_namespaces(7)).
            true => self.kinds.with(Namespaces::PID),
            false => self.kinds,
        };
        namespace::enter(&self.init, kinds).map_err(Failure::at(Step::JoinNamespace, b""))?;
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
        if !self.parts.forks {
            rustix::process::setsid().map_err(Failure::at(Step::Session, b""))?;
        }
        if let Some((console, size)) = self.terminal.take() {
            self.parts.terminal = Some(inside::terminal(&console, size, self.plan.uid)?);
        }
        init::identity::apply(self.plan, &mut self.parts)?;
        program::find(self.plan, &mut self.parts)
    }
}
