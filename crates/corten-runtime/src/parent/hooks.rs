//! Hooks: programs of the host that are told the container's state on their stdin.

use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use corten_sys::namespace::{self, Namespaces};
use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::Error;

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

/// Runs hooks in order; the first failure ends it. With `inside`, the process runs in the namespaces of that
/// process, while its path still is the host's: before the pivot, the host's tree is there.
pub(crate) fn run(
    moment: Moment,
    hooks: &Option<Vec<Hook>>,
    state: &str,
    inside: Option<&rustix::fd::OwnedFd>,
) -> Result<(), Error> {
    hooks
        .iter()
        .flatten()
        .try_for_each(|hook| one(moment, hook, state, inside))
}

fn one(
    moment: Moment,
    hook: &Hook,
    state: &str,
    inside: Option<&rustix::fd::OwnedFd>,
) -> Result<(), Error> {
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
    command.stdin(Stdio::piped());
    let mut child = start(command, inside).map_err(|e| fail(format!("cannot be run: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A hook that does not read its stdin is no error.
        let _ = stdin.write_all(state.as_bytes());
    }
    let status = match hook.timeout() {
        Some(seconds) if seconds > 0 => wait_until(&mut child, seconds),
        _ => child.wait().map(Some),
    };
    match status {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(fail(format!("failed: {status}"))),
        Ok(None) => Err(fail("took longer than its timeout and was killed".into())),
        Err(error) => Err(fail(format!("cannot be waited for: {error}"))),
    }
}

fn start(mut command: Command, inside: Option<&rustix::fd::OwnedFd>) -> std::io::Result<Child> {
    let Some(inside) = inside else {
        return command.spawn();
    };
    // The mount namespace cannot be left again (it takes the root along), so a thread goes there: a
    // thread of its own has its own file-system context, and the process that it starts inherits that.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let enter = || -> Result<(), corten_sys::Errno> {
                namespace::unshare_filesystem()?;
                let kinds = Namespaces::MOUNT
                    .with(Namespaces::NETWORK)
                    .with(Namespaces::UTS);
                namespace::enter(inside, kinds.with(Namespaces::IPC).with(Namespaces::CGROUP))
            };
            enter().map_err(std::io::Error::from)?;
            command.spawn()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the hook's thread died")))
    })
}

fn wait_until(
    child: &mut Child,
    seconds: i64,
) -> std::io::Result<Option<std::process::ExitStatus>> {
    let pid = Pid::from_raw(child.id() as i32).ok_or(std::io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let timeout = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    if poll(&mut fds, Some(&timeout))? == 0 {
        child.kill()?;
        child.wait()?;
        return Ok(None);
    }
    child.wait().map(Some)
}
