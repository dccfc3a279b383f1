//! The floor under `run`: what the kernel asks for a container of runc's default specification, by bare
//! system calls and nothing else. `cargo xtask bench oci` measures runtimes beside it.
//!
//! No safety (a link in the root leads it anywhere), no configuration, no state, no errors worth reading:
//! it is a ruler and no runtime.
//!
//! ```text
//! floor ROOTFS CGROUP [--phases]     run /bin/true of ROOTFS in CGROUP, a v2 folder that it makes and removes
//! floor --exec PID CGROUP            run /bin/true beside process PID, in CGROUP
//! ```

#![forbid(unsafe_code)]

mod clock;
mod container;

use std::ffi::CString;
use std::process::ExitCode;

use corten_sys::Errno;
use corten_sys::exec::Program;
use corten_sys::namespace::{self, Namespaces};
use corten_sys::process::{self, Clone, Exit};
use rustix::fs::{CWD, Mode, OFlags, open, unlinkat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use clock::Clock;

fn main() -> ExitCode {
    let mut clock = Clock::start();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["--exec", pid, group] => exec(pid, group),
        [root, group] => run(root, group, &mut clock),
        [root, group, "--phases"] => {
            clock.record();
            run(root, group, &mut clock)
        }
        _ => {
            eprintln!("usage: floor ROOTFS CGROUP [--phases], or floor --exec PID CGROUP");
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(exit) => {
            clock.print();
            ExitCode::from(exit.status())
        }
        Err(errno) => {
            eprintln!("floor: {errno}");
            ExitCode::FAILURE
        }
    }
}

/// All that a container of the default specification does not share with the host, and its cgroups.
fn kinds() -> Namespaces {
    [
        Namespaces::MOUNT,
        Namespaces::UTS,
        Namespaces::IPC,
        Namespaces::PID,
        Namespaces::NETWORK,
        Namespaces::CGROUP,
    ]
    .into_iter()
    .fold(Namespaces::NONE, Namespaces::with)
}

fn program() -> Result<Program, Errno> {
    let word = |text: &str| CString::new(text).map_err(|_| Errno::INVAL);
    let environment = vec![word("PATH=/bin")?, word("TERM=xterm")?];
    Ok(Program::new(
        vec![word("/bin/true")?],
        vec![word("true")?],
        environment,
        false,
    ))
}

fn run(root: &str, group: &str, clock: &mut Clock) -> Result<Exit, Errno> {
    rustix::fs::mkdir(group, Mode::from_raw_mode(0o755))?;
    let folder = open(
        group,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let program = program()?;
    clock.stamp("cgroup");
    let request = Clone {
        namespaces: kinds(),
        cgroup: Some(std::os::fd::AsFd::as_fd(&folder)),
        sibling: false,
        without: None,
    };
    let child = process::clone(&request, || container::enter(root, &program, clock));
    let exit = child.and_then(|child| process::wait(&child.pidfd));
    clock.receive();
    clock.stamp("exec, run, end and reap");
    unlinkat(CWD, group, rustix::fs::AtFlags::REMOVEDIR)?;
    clock.stamp("rmdir");
    exit
}

/// One process more in the namespaces of `pid`.
fn exec(pid: &str, group: &str) -> Result<Exit, Errno> {
    let pid = pid.parse().ok().and_then(Pid::from_raw);
    let target = pidfd_open(pid.ok_or(Errno::INVAL)?, PidfdFlags::empty())?;
    let folder = open(
        group,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let program = program()?;
    namespace::enter(&target, kinds())?;
    let request = Clone {
        namespaces: Namespaces::NONE,
        cgroup: Some(std::os::fd::AsFd::as_fd(&folder)),
        sibling: false,
        without: None,
    };
    let child = process::clone(&request, || {
        let done = container::limit().map(|()| program.execute(c"/bin/true"));
        i32::from(done.is_ok()) + 1
    })?;
    process::wait(&child.pidfd)
}
