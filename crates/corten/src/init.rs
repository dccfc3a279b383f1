//! The init of `--init`: it starts the command, passes signals on, reaps whatever is left to
//! it, and ends as the command ended. It runs as pid 1 in the container, from a read-only bind
//! mount of this executable.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode};

use corten_sys::signal::{Mask, Receiver};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::failure::{NO_PROGRAM, NOT_EXECUTABLE, OURS};

/// Docker's name for it, under which it is mounted.
pub const NAME: &str = "docker-init";

/// `docker-init [--] COMMAND [ARG…]`
pub fn main(mut args: Vec<OsString>) -> ExitCode {
    if args.first().is_some_and(|a| a == "--") {
        args.remove(0);
    }
    let Some((program, rest)) = args.split_first() else {
        eprintln!("error: init was given no command");
        return ExitCode::from(OURS);
    };
    let mask = Mask::full();
    let taken = mask
        .install()
        .and_then(|before| Ok((before, Receiver::new(&mask)?)));
    let (before, signals) = match taken {
        Ok(s) => s,
        Err(e) => {
            eprintln!("error: init cannot take signals\ncaused by: {e}");
            return ExitCode::from(OURS);
        }
    };
    // A child inherits the mask. What arrives in this moment is lost, as it is for a pid 1 without handlers.
    let spawned = before.install().and_then(|_| {
        // Naming a group makes the standard library fork instead of calling posix_spawn(3), which would leave the
        // signals 32 and 33 ignored in the child. The group is the one that it has anyway.
        let gid = rustix::process::getegid().as_raw();
        let spawned = Command::new(program)
            .args(rest)
            .process_group(0)
            .gid(gid)
            .spawn();
        mask.install().map(|_| spawned)
    });
    let child = match spawned.map_err(std::io::Error::from).and_then(|s| s) {
        Ok(c) => c.id(),
        Err(e) => {
            eprintln!("error: cannot execute {program:?}\ncaused by: {e}");
            return ExitCode::from(match e.kind() {
                std::io::ErrorKind::NotFound => NO_PROGRAM,
                _ => NOT_EXECUTABLE,
            });
        }
    };
    let child = Pid::from_raw(child as i32);
    if let Some(pid) = child {
        give_terminal(pid);
    }
    supervise(&signals, child)
}

/// With a terminal, the command's process group is the one that reads it and gets its Ctrl-C.
fn give_terminal(child: Pid) {
    if rustix::termios::tcsetpgrp(std::io::stdin(), child).is_ok() {
        // It may have read before this, and been stopped for it.
        let _sent = rustix::process::kill_process(child, Signal::CONT);
    }
}

fn supervise(signals: &Receiver, child: Option<Pid>) -> ExitCode {
    loop {
        match poll(&mut [PollFd::new(signals, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return ExitCode::from(OURS),
        }
        while let Ok(Some(received)) = signals.next() {
            let signal = Signal::from_named_raw(received.signal);
            if let (Some(pid), Some(signal)) = (child, signal.filter(|s| *s != Signal::CHILD)) {
                // It may have ended in between; that is seen below.
                let _sent = rustix::process::kill_process(pid, signal);
            }
        }
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if Some(pid) == child {
                let status = std::process::ExitStatus::from_raw(status.as_raw());
                let code = status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
                return ExitCode::from(code as u8);
            }
        }
    }
}
