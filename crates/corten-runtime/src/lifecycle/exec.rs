//! `exec`: a process more in a running container.

use std::os::fd::OwnedFd;
use std::path::Path;

use corten_sys::namespace::{self, Namespaces};
use corten_sys::process::Child;
use corten_sys::{capability, keyring, signal, weakened};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{Error, failed};
use crate::handshake::{self, Failure, Message, Step};
use crate::init::{Parts, identity, program};
use crate::parent::launch::{self, Route};
use crate::parent::prepare::own_terminal;
use crate::parent::watch;
use crate::plan::namespaces::{Map, kind};
use crate::plan::process::{self, Plan};
use crate::request::{Exec, Execed, Stdio};
use crate::state::{Found, Held, Status, refused};

/// Adds a process to a running container. `Ok` once `execve` has succeeded.
pub fn exec(exec: Exec<'_>) -> Result<Execed, Error> {
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
    let cgroup = found
        .cgroup()?
        .ok_or_else(|| found.conflict("exec in", Status::Stopped))?;
    if cgroup.is_frozen().map_err(refused("read the freezer"))? {
        return Err(found.conflict("exec in", Status::Paused));
    }
    let spec = found.folder.read_config()?;
    let kinds = joined(&spec);
    let held = capability::get().map_err(failed("read the capabilities of", "the runtime"))?;
    let capabilities = match kinds.contains(Namespaces::USER) {
        true => u64::MAX,
        false => held.permitted,
    };
    let (plan, warnings) = decide(&spec, process, &stdio, capabilities)?;
    super::create::check_labels(&plan)?;
    let terminal = match stdio {
        Stdio::Terminal { rows, cols } => Some(terminal(init, &spec, &plan, (rows, cols))?),
        _ => None,
    };
    let (console, slave) = match terminal {
        Some(terminal) => (Some(terminal.master), Some(terminal.slave)),
        None => (None, None),
    };
    let forks = can_fork(&plan);
    let asked = launch::Asked {
        stdio,
        terminal: slave,
        preserve_fds: options.preserve_fds,
        capabilities,
        forks,
    };
    let parts = launch::parts(&plan, asked)?;
    let entry = cgroup.entry().map_err(refused("enter the control group"))?;
    let (ours, theirs) = launch::pair()?;
    let copy =
        || rustix::io::fcntl_dupfd_cloexec(&init.pidfd, 3).map_err(failed("copy", "a pidfd"));
    let added = Added {
        plan: &plan,
        parts,
        tasks: entry.v1_tasks,
        init: copy()?,
        kinds,
        keyring: launch::keyring_name(id.as_str()).filter(|_| !options.no_new_keyring),
        socket: theirs,
    };
    let route = match forks {
        true => Route::default(),
        false => Route::into_pid(copy()?)?,
    };
    let mut child = route.clone(entry.v2.as_ref(), &ours, move || added.run())?;
    match attend(&mut child, &ours, forks) {
        Ok(Message::End) => Ok(Execed {
            pid: child.pid,
            pidfd: child.pidfd,
            console,
            warnings,
        }),
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
    if weakened!("trampoline.none") {
        return false;
    }
    !scheduled && !filtered && !weakened!("exec.early")
}

/// Until the program runs, or does not. `child` becomes the process that goes on.
fn attend(child: &mut Child, socket: &OwnedFd, forks: bool) -> Result<Message, Error> {
    let pid = match watch::receive(socket, child.pid, watch::ENTERING)? {
        Message::Forked { pid } if forks => pid,
        // It ended without a word: nothing was executed.
        Message::End if forks => return Ok(Message::Ready),
        other => return Ok(other),
    };
    let first = std::mem::replace(child, launch::sibling(pid)?);
    let message = watch::receive(socket, child.pid, watch::ENTERING);
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
) -> Result<(Plan, Vec<String>), Error> {
    let mut own = process.clone();
    let container = spec.process().as_ref();
    if own.capabilities().is_none() {
        own.set_capabilities(container.and_then(|p| p.capabilities().clone()));
    }
    let linux = spec.linux().as_ref();
    let mut warnings = Vec::new();
    let plan = process::plan(
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
    Ok((plan, warnings))
}

/// The namespaces to follow init into. Its user and time namespaces only if they differ from ours: joining
/// one's own user namespace is an error.
fn joined(spec: &Spec) -> Namespaces {
    let always = [
        Namespaces::MOUNT,
        Namespaces::UTS,
        Namespaces::IPC,
        Namespaces::NETWORK,
        Namespaces::CGROUP,
    ];
    let mut kinds = always.into_iter().fold(Namespaces::NONE, Namespaces::with);
    let listed = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    for namespace in listed.into_iter().flatten() {
        if matches!(
            namespace.typ(),
            LinuxNamespaceType::User | LinuxNamespaceType::Time
        ) {
            kinds = kinds.with(kind(namespace.typ()));
        }
    }
    kinds
}

/// A terminal of the container's devpts, opened from here through init's root.
fn terminal(
    init: &Held,
    spec: &Spec,
    plan: &Plan,
    (rows, cols): (u16, u16),
) -> Result<corten_sys::pty::Terminal, Error> {
    let at = || failed("open a terminal in", "/dev/pts");
    let root = Path::new("/proc").join(init.pid.to_string()).join("root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, &root, flags, Mode::empty()).map_err(at())?;
    // It still is who we hold, so it was the one whose root that is.
    corten_sys::process::send_signal(&init.pidfd, 0).map_err(at())?;
    let terminal = corten_sys::pty::open_in_root(&root).map_err(at())?;
    let mappings = spec.linux().as_ref().and_then(|l| l.uid_mappings().clone());
    let uid = match mappings {
        Some(mappings) if !mappings.is_empty() => {
            Map::new("linux.uidMappings", &Some(mappings))?.host(plan.uid)
        }
        _ => Some(plan.uid),
    };
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
    keyring: Option<std::ffi::CString>,
    socket: OwnedFd,
}

impl<'a> Added<'a> {
    fn run(mut self) -> i32 {
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

    fn set_up(&mut self) -> Result<(), Failure<'a>> {
        signal::reset_ignored();
        signal::Mask::empty()
            .install()
            .map_err(Failure::at(Step::Session, b""))?;
        if let (Some(cpus), _) = &self.plan.affinity {
            let at = Failure::at(Step::Affinity, b"");
            corten_sys::schedule::set_affinity(cpus).map_err(at)?;
        }
        if let Some(score) = self.plan.oom_score_adj {
            // By ourselves: after the fork it would be too late.
            launch::oom_score("self", score).map_err(Failure::at(Step::OomScore, b""))?;
        }
        for tasks in self.tasks.drain(..) {
            rustix::io::write(&tasks, b"0").map_err(Failure::at(Step::EnterCgroup, b""))?;
        }
        let kinds = match self.parts.forks {
            // For the children, as always with this one (pid_namespaces(7)).
            true => self.kinds.with(Namespaces::PID),
            false => self.kinds,
        };
        namespace::enter(&self.init, kinds).map_err(Failure::at(Step::JoinNamespace, b""))?;
        if self.kinds.contains(Namespaces::USER) {
            let at = Failure::at(Step::BecomeRoot, b"");
            capability::set_identity(0, 0, &[]).map_err(at)?;
        }
        if let Some(name) = &self.keyring {
            keyring::new_session(name).map_err(Failure::at(Step::Keyring, b""))?;
        }
        if !self.parts.forks {
            rustix::process::setsid().map_err(Failure::at(Step::Session, b""))?;
        }
        identity::apply(self.plan, &mut self.parts)?;
        program::find(self.plan, &mut self.parts)
    }
}
