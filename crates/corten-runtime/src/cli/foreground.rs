//! A process in the foreground: signals are passed on, its terminal is relayed to ours, its status is ours.

use std::os::fd::{AsFd, OwnedFd};

use corten_sys::signal::{Mask, Receiver};
use corten_sys::{Errno, process, pty};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{read, write};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use super::Failure;

const SIGCHLD: i32 = 17;
const SIGURG: i32 = 23;
const SIGWINCH: i32 = 28;

/// All signals, as a descriptor. Caught before the process exists, so that none is lost.
pub(super) struct Signals(Receiver);

impl Signals {
    pub fn catch() -> Result<Self, Failure> {
        let mask = Mask::full();
        mask.install().map_err(failed("block signals"))?;
        Receiver::new(&mask)
            .map(Self)
            .map_err(failed("receive signals"))
    }
}

fn failed(what: &'static str) -> impl Fn(Errno) -> Failure {
    move |source| Failure::Kernel { what, source }
}

/// Our terminal without its line discipline, until dropped.
struct Raw(Termios);

impl Raw {
    /// `None`: stdin is no terminal.
    fn set() -> Option<Self> {
        let old = tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut raw = old.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &raw).ok()?;
        Some(Self(old))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone; there is nothing left to restore then.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Waits until the process has ended; `master` is its terminal, to be relayed.
pub(super) fn follow(
    pidfd: &OwnedFd,
    master: Option<&OwnedFd>,
    signals: &Signals,
) -> Result<u8, Failure> {
    let _raw = master.and_then(|_| Raw::set());
    let mut relay = master.map(Relay::new);
    loop {
        let (mut ended, mut signalled, mut typed, mut printed) = (false, false, false, false);
        {
            let stdin = rustix::stdio::stdin();
            let mut fds = vec![
                PollFd::new(pidfd, PollFlags::IN),
                PollFd::new(&signals.0, PollFlags::IN),
            ];
            if let Some(relay) = &relay {
                fds.push(PollFd::new(relay.master, PollFlags::IN));
                if relay.stdin {
                    fds.push(PollFd::new(&stdin, PollFlags::IN));
                }
            }
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed("wait for the process")(errno)),
            }
            let ready = |index: usize| fds.get(index).is_some_and(|fd| !fd.revents().is_empty());
            ended |= ready(0);
            signalled |= ready(1);
            printed |= ready(2);
            typed |= ready(3);
        }
        if signalled {
            pass_on(pidfd, master, signals)?;
        }
        if let Some(relay) = &mut relay {
            if printed {
                relay.print();
            }
            if typed {
                relay.type_in();
            }
        }
        if ended {
            if let Some(relay) = &mut relay {
                relay.drain();
            }
            let exit = process::wait(pidfd).map_err(failed("wait for the process"))?;
            return Ok(exit.status());
        }
    }
}

fn pass_on(pidfd: &OwnedFd, master: Option<&OwnedFd>, signals: &Signals) -> Result<(), Failure> {
    while let Some(received) = signals.0.next().map_err(failed("receive a signal"))? {
        match received.signal {
            // Ours: a child of ours has changed; the other is for runtimes of Go.
            SIGCHLD | SIGURG => {}
            SIGWINCH if master.is_some() => {
                let size = rustix::termios::tcgetwinsize(rustix::stdio::stdin());
                if let (Ok(size), Some(master)) = (size, master) {
                    let _ = pty::resize(master, size.ws_row, size.ws_col);
                }
            }
            signal => match process::send_signal(pidfd, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(failed("pass a signal on")(errno)),
            },
        }
    }
    Ok(())
}

/// Bytes between our stdio and a terminal's master.
struct Relay<'a> {
    master: &'a OwnedFd,
    stdin: bool,
    open: bool,
}

impl<'a> Relay<'a> {
    fn new(master: &'a OwnedFd) -> Self {
        Self {
            master,
            stdin: true,
            open: true,
        }
    }

    /// `EIO` from a master means that no slave is open any more.
    fn print(&mut self) {
        let mut buffer = [0; 8192];
        match read(self.master, &mut buffer) {
            Ok(len) if len > 0 => write_all(rustix::stdio::stdout(), &buffer[..len]),
            _ => self.open = false,
        }
    }

    fn type_in(&mut self) {
        let mut buffer = [0; 8192];
        match read(rustix::stdio::stdin(), &mut buffer) {
            Ok(len) if len > 0 => write_all(self.master, &buffer[..len]),
            _ => self.stdin = false,
        }
    }

    /// What the process has printed before its end.
    fn drain(&mut self) {
        while self.open {
            let mut fds = [PollFd::new(self.master, PollFlags::IN)];
            let now = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            match poll(&mut fds, Some(&now)) {
                Ok(n) if n > 0 => self.print(),
                _ => return,
            }
        }
    }
}

fn write_all(to: impl AsFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match write(to.as_fd(), bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // Whoever read it has gone.
            Err(_) => return,
        }
    }
}
