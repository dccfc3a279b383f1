//! Hooks: programs that are told the container's state on their stdin.
//!
//! Those of the runtime's namespaces are children like any other. `createContainer` hooks are the host's programs
//! in the container's namespaces: two steps, since a process is in a pid namespace from its birth or not at all.
//! (`startContainer` hooks are programs of the container: they are added to it like any other process.)

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use corten_sys::exec::Program;
use corten_sys::namespace::{self, Namespaces};
use corten_sys::process::{self, Clone, Exit};
use corten_sys::{capability, signal};
use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::Error;
use crate::error::failed;
use crate::handshake::{self, Failure, Message, Step};
use crate::parent::{launch, watch};
use crate::plan::c_string;

/// When hooks run (runtime.md, "Lifecycle").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Moment {
    fn as_str(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// The error of a hook of this moment.
    pub fn failed(self, hook: &Hook, problem: impl Into<String>) -> Error {
        Error::Hook {
            kind: self.as_str(),
            path: hook.path().clone(),
            problem: problem.into(),
        }
    }
}

/// Namespaces to run hooks in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inside<'a> {
    pub init: &'a OwnedFd,
    pub kinds: Namespaces,
}

/// Runs hooks in order; the first failure ends it.
pub(crate) fn run(
    moment: Moment,
    hooks: &[Hook],
    state: &str,
    inside: Option<Inside<'_>>,
) -> Result<(), Error> {
    hooks
        .iter()
        .try_for_each(|hook| one(moment, hook, state, inside))
}

/// Runs all `poststop` hooks, whatever becomes of each; a failure is a warning (runtime.md, "Lifecycle", 13).
pub(crate) fn run_poststop(hooks: &[Hook], state: &str) -> Vec<String> {
    let failures = hooks
        .iter()
        .filter_map(|hook| one(Moment::Poststop, hook, state, None).err());
    failures.map(|error| error.to_string()).collect()
}

fn one(moment: Moment, hook: &Hook, state: &str, inside: Option<Inside<'_>>) -> Result<(), Error> {
    let (pidfd, stdin) = match inside {
        Some(inside) => start_inside(hook, inside)
            .map_err(|e| moment.failed(hook, format!("cannot be run: {e}")))?,
        None => start(hook).map_err(|e| moment.failed(hook, format!("cannot be run: {e}")))?,
    };
    finish(moment, hook, &pidfd, stdin, state)
}

/// Tells the hook the state, and waits for its end or its timeout.
pub(crate) fn finish(
    moment: Moment,
    hook: &Hook,
    pidfd: &OwnedFd,
    stdin: OwnedFd,
    state: &str,
) -> Result<(), Error> {
    let seconds = hook.timeout().and_then(|s| u64::try_from(s).ok());
    let deadline = seconds.map(|s| Instant::now() + Duration::from_secs(s));
    let ended = attend(pidfd, stdin, state.as_bytes(), deadline);
    let lost = |errno: Errno| moment.failed(hook, format!("cannot be waited for: {errno}"));
    if let Ok(false) | Err(_) = ended {
        // ESRCH: it ended at the last moment.
        let _ = process::send_signal(pidfd, 9);
    }
    let exit = process::wait(pidfd).map_err(lost)?;
    match (ended.map_err(lost)?, exit) {
        (false, _) => Err(moment.failed(hook, "took longer than its timeout and was killed")),
        (true, Exit::Code(0)) => Ok(()),
        (true, exit) => Err(moment.failed(hook, format!("failed: {exit}"))),
    }
}

/// `false`: the time is over. A hook that does not read its stdin is no error, however much there is to read.
fn attend(
    pidfd: &OwnedFd,
    stdin: OwnedFd,
    mut state: &[u8],
    deadline: Option<Instant>,
) -> Result<bool, Errno> {
    fcntl_setfl(&stdin, fcntl_getfl(&stdin)? | OFlags::NONBLOCK)?;
    let mut stdin = Some(stdin);
    loop {
        if let Some(pipe) = &stdin {
            match rustix::io::write(pipe, state) {
                Ok(written) => state = &state[written..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => state = &[],
            }
        }
        if state.is_empty() {
            stdin = None;
        }
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
        if let Some(pipe) = &stdin {
            fds.push(PollFd::new(pipe, PollFlags::OUT));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(true),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn start(hook: &Hook) -> std::io::Result<(OwnedFd, OwnedFd)> {
    let mut command = Command::new(hook.path());
    let arguments = hook.args().as_deref().unwrap_or_default();
    if let Some((first, rest)) = arguments.split_first() {
        command.arg0(first).args(rest);
    }
    // The specification's environment is all that a hook gets.
    command.env_clear();
    for variable in hook.env().iter().flatten() {
        if let Some((name, value)) = variable.split_once('=') {
            command.env(name, value);
        }
    }
    // A supervisor that reads signals from a descriptor has blocked them all.
    let mut child = corten_sys::spawn::unmask(command.stdin(Stdio::piped())).spawn()?;
    let pid = Pid::from_raw(child.id() as i32).ok_or(std::io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let stdin = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
    Ok((pidfd, stdin.into()))
}

/// A program of the host in the container's namespaces, before the change of root: the host's tree is there.
fn start_inside(hook: &Hook, inside: Inside<'_>) -> Result<(OwnedFd, OwnedFd), Error> {
    const FIELD: &str = "hooks.createContainer";
    let strings = |list: &Option<Vec<String>>| -> Result<Vec<_>, Error> {
        let list = list.iter().flatten();
        list.map(|s| c_string(FIELD, s.as_bytes())).collect()
    };
    let path = c_string(FIELD, hook.path().as_os_str().as_encoded_bytes())?;
    let mut arguments = strings(hook.args())?;
    if arguments.is_empty() {
        arguments.push(path.clone());
    }
    let program = Program::new(vec![path], arguments, strings(hook.env())?, false);
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(failed("make", "a pipe"))?;
    let (ours, theirs) = launch::pair()?;
    // What is copied must not be looked at from inside.
    process::set_undumpable().map_err(failed("protect the process's memory", ""))?;
    let request = Clone {
        without: Some(ours.as_fd()),
        ..Clone::default()
    };
    let first = process::clone(&request, || forerun(inside, &program, &read, &theirs))
        .map_err(failed("start a process", ""))?;
    drop(theirs);
    let child = launch::adopt(&first, &ours, hook.path().as_os_str())?;
    match watch::receive(&ours, child.pid, watch::MAKING)? {
        Message::End => Ok((child.pidfd, write)),
        message => Err(launch::reap(&child, message, hook.path().as_os_str())),
    }
}

/// Goes to the namespaces, where a sibling is born that becomes the hook.
fn forerun(inside: Inside<'_>, program: &Program, stdin: &OwnedFd, socket: &OwnedFd) -> i32 {
    let go = || -> Result<(), Failure<'_>> {
        namespace::enter(inside.init, inside.kinds)
            .map_err(Failure::at(Step::JoinNamespace, b""))?;
        if inside.kinds.contains(Namespaces::USER) {
            let groups = match capability::set_groups(&[]) {
                // The user namespace denies it to everybody (user_namespaces(7), `setgroups`).
                Err(Errno::PERM) => Ok(()),
                other => other,
            };
            groups
                .and_then(|()| capability::set_user(0, 0))
                .map_err(Failure::at(Step::BecomeRoot, b""))?;
        }
        let request = Clone {
            sibling: true,
            ..Clone::default()
        };
        let child = process::clone(&request, || become_hook(program, stdin, socket))
            .map_err(Failure::at(Step::Execute, b""))?;
        handshake::send_forked(socket, child.pid).map_err(Failure::at(Step::Handshake, b""))
    };
    match go() {
        Ok(()) => 0,
        Err(failure) => {
            let _ = handshake::send_failure(socket, &failure);
            1
        }
    }
}

fn become_hook(program: &Program, stdin: &OwnedFd, socket: &OwnedFd) -> i32 {
    let go = || -> Result<(), Errno> {
        // Not before the maker knows us: a child that nobody reaps would keep the pid namespace, and with it the
        // end of init, for ever.
        handshake::wait_go(socket)?;
        signal::reset_ignored();
        signal::Mask::empty().install()?;
        process::install(stdin, 0)?;
        process::cloexec_from(3)?;
        Err(program.execute(&program.paths()[0]))
    };
    if let Err(errno) = go() {
        let _ = handshake::send_failure(socket, &Failure::new(Step::Execute, errno, b""));
    }
    1
}
