//! Hooks: programs of the host that are told the container's state on their stdin.

use std::io::PipeWriter;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};

use corten_sys::capability;
use corten_sys::namespace::{self, Namespaces};
use corten_sys::process::{self, Clone as Request};
use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::launch;
use crate::Error;
use crate::handshake::{self, Failure, Message, Step};
use crate::parent::watch;

/// When hooks run (runtime.md, "Lifecycle").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Prestart,
    CreateRuntime,
    CreateContainer,
    Poststart,
    Poststop,
}

impl Moment {
    fn as_str(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// Where hooks run that belong inside.
#[derive(Clone, Copy)]
pub(crate) struct Inside<'a> {
    pub init: &'a OwnedFd,
    /// The namespaces of init that are to be joined.
    pub kinds: Namespaces,
}

/// Runs hooks in order; the first failure ends it. With `inside`, the process runs in the namespaces of init,
/// while its path still is the host's: before the pivot, the host's tree is there.
pub(crate) fn run(
    moment: Moment,
    hooks: &Option<Vec<Hook>>,
    state: &str,
    inside: Option<Inside<'_>>,
) -> Result<(), Error> {
    hooks
        .iter()
        .flatten()
        .try_for_each(|hook| one(moment, hook, state, inside))
}

fn one(moment: Moment, hook: &Hook, state: &str, inside: Option<Inside<'_>>) -> Result<(), Error> {
    let fail = |problem: String| Error::Hook {
        kind: moment.as_str(),
        path: hook.path().clone(),
        problem,
    };
    if !hook.path().is_absolute() {
        return Err(fail("has a path that is not absolute".into()));
    }
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
    let mut running = match inside {
        Some(inside) => {
            Running::inside(command, inside).map_err(|e| fail(format!("cannot be run: {e}")))?
        }
        None => {
            command.stdin(Stdio::piped());
            let child = command
                .spawn()
                .map_err(|e| fail(format!("cannot be run: {e}")))?;
            Running::Here(child)
        }
    };
    running.feed(state);
    match running.wait(hook.timeout().unwrap_or(0)) {
        Ok(Some(0)) => Ok(()),
        Ok(Some(status)) => Err(fail(format!("failed: exit status {status}"))),
        Ok(None) => Err(fail("took longer than its timeout and was killed".into())),
        Err(error) => Err(fail(format!("cannot be waited for: {error}"))),
    }
}

/// A hook at work.
enum Running {
    Here(Child),
    Inside(process::Child, Option<PipeWriter>),
}

impl Running {
    /// In the namespaces of init. By a process and not a thread: a user namespace is for whole processes.
    fn inside(mut command: Command, inside: Inside<'_>) -> std::io::Result<Self> {
        let (read, write) = std::io::pipe()?;
        command.stdin(read);
        let (ours, theirs) = launch::pair().map_err(std::io::Error::other)?;
        let mut enter = || -> std::io::Result<()> {
            namespace::enter(inside.init, inside.kinds)?;
            if inside.kinds.contains(Namespaces::USER) {
                capability::set_user(0, 0)?;
            }
            Err(command.exec())
        };
        let child = process::clone(&Request::default(), || {
            if let Err(error) = enter() {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                // Nobody else would say why; if our maker is gone, nobody cares.
                let _ = handshake::send_failure(&theirs, &Failure::new(Step::Execute, errno, b""));
            }
            1
        })?;
        drop(theirs);
        match watch::receive(&ours, child.pid, watch::MAKING) {
            // Closed by the exec.
            Ok(Message::End) => Ok(Self::Inside(child, Some(write))),
            Ok(Message::Failed { errno, .. }) => {
                process::wait(&child.pidfd)?;
                Err(std::io::Error::from_raw_os_error(errno))
            }
            _ => Err(Errno::PROTO.into()),
        }
    }

    /// A hook that does not read its stdin is no error. Many read up to its end.
    fn feed(&mut self, state: &str) {
        let _ = match self {
            Self::Here(child) => child
                .stdin
                .take()
                .map(|mut s| s.write_all(state.as_bytes())),
            Self::Inside(_, stdin) => stdin.take().map(|mut s| s.write_all(state.as_bytes())),
        };
    }

    /// The exit status as a shell has it; `None`: it was killed after so many seconds, if there is a limit.
    fn wait(self, seconds: i64) -> std::io::Result<Option<u8>> {
        match self {
            Self::Here(mut child) => {
                let ended = match seconds > 0 {
                    true => wait_until(&mut child, seconds)?,
                    false => Some(child.wait()?),
                };
                Ok(ended.map(|status| {
                    let signal = status.signal().map(|s| 128u8.wrapping_add(s as u8));
                    status.code().map_or(signal.unwrap_or(1), |code| code as u8)
                }))
            }
            Self::Inside(child, _) => {
                if seconds > 0 && !ended_within(&child.pidfd, seconds)? {
                    process::send_signal(&child.pidfd, 9)?;
                    process::wait(&child.pidfd)?;
                    return Ok(None);
                }
                Ok(Some(process::wait(&child.pidfd)?.status()))
            }
        }
    }
}
fn wait_until(child: &mut Child, seconds: i64) -> std::io::Result<Option<ExitStatus>> {
    let pid = Pid::from_raw(child.id() as i32).ok_or(std::io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    if !ended_within(&pidfd, seconds)? {
        child.kill()?;
        child.wait()?;
        return Ok(None);
    }
    child.wait().map(Some)
}

fn ended_within(pidfd: &OwnedFd, seconds: i64) -> std::io::Result<bool> {
    let timeout = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&timeout))? != 0)
}
