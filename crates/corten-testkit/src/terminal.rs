//! A person at a terminal: a program on a pseudo-terminal, what it shows, and
//! what is typed into it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::error::{Error, Result};
use crate::wait;

#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: File,
    screen: Receiver<Vec<u8>>,
    shown: String,
    /// Up to where `expect` has read.
    read: usize,
}

impl Terminal {
    /// Starts `program` in a session of its own, with the terminal as its stdio.
    pub fn start(program: &Command, rows: u16, columns: u16) -> Result<Terminal> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .map_err(|errno| Error::System {
                what: "cannot open a pseudo-terminal",
                source: errno.into(),
            })?;
        let side =
            other_side(&master).map_err(Error::system("cannot open the terminal's other side"))?;
        size(&master, rows, columns)?;
        let clone = |file: &File| {
            file.try_clone()
                .map_err(Error::system("cannot duplicate a terminal"))
        };
        // setsid(1) makes the terminal the controlling one: without it no resize signal arrives.
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(program.get_program())
            .args(program.get_args());
        for (key, value) in program.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(folder) = program.get_current_dir() {
            command.current_dir(folder);
        }
        command
            .stdin(clone(&side)?)
            .stdout(clone(&side)?)
            .stderr(side);
        let child = command.spawn().map_err(|source| Error::Start {
            program: "setsid".to_owned(),
            source,
        })?;
        // `command` holds the other side open: its end would never show otherwise.
        drop(command);
        let master = File::from(master);
        let screen = watch(clone(&master)?);
        Ok(Terminal {
            child,
            master,
            screen,
            shown: String::new(),
            read: 0,
        })
    }

    pub fn send(&mut self, text: &str) -> Result<()> {
        self.master
            .write_all(text.as_bytes())
            .map_err(Error::system("cannot type into the terminal"))
    }

    /// Waits until `text` shows, after what was expected before.
    pub fn expect(&mut self, text: &str, limit: Duration) -> Result<()> {
        let since = Instant::now();
        loop {
            if let Some(at) = self.shown[self.read..].find(text) {
                self.read += at + text.len();
                return Ok(());
            }
            let late = || Error::Late {
                what: format!("`{text}` on the terminal"),
                limit,
                detail: format!("; it shows:\n{}", self.shown),
            };
            let left = limit.checked_sub(since.elapsed()).ok_or_else(late)?;
            match self.screen.recv_timeout(left) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(late());
                }
            }
        }
    }

    /// Another size, as if the window was dragged: the program gets SIGWINCH.
    pub fn resize(&mut self, rows: u16, columns: u16) -> Result<()> {
        size(&self.master, rows, columns)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything shown so far.
    pub fn shown(&mut self) -> &str {
        while let Ok(bytes) = self.screen.try_recv() {
            self.shown.push_str(&String::from_utf8_lossy(&bytes));
        }
        &self.shown
    }

    /// The exit code of the program, once it has ended.
    pub fn wait(&mut self, limit: Duration) -> Result<i32> {
        let child = &mut self.child;
        let status = wait::until("the end of the program on the terminal", limit, || {
            child.try_wait().transpose()
        })
        .and_then(|status| status.map_err(Error::system("cannot wait for a program")));
        let status = status.map_err(|error| match error {
            Error::Late { what, limit, .. } => Error::Late {
                what,
                limit,
                detail: format!("; it shows:\n{}", self.shown()),
            },
            other => other,
        })?;
        Ok(status.code().unwrap_or(-1))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A no-op after `wait`; a test that failed leaves no program behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn other_side(master: &OwnedFd) -> std::io::Result<File> {
    grantpt(master)?;
    unlockpt(master)?;
    let name = ptsname(master, Vec::new())?;
    File::options()
        .read(true)
        .write(true)
        .open(name.to_string_lossy().as_ref())
}

fn size(master: impl std::os::fd::AsFd, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(master, size).map_err(|errno| Error::System {
        what: "cannot size a terminal",
        source: errno.into(),
    })
}

fn watch(mut master: File) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut buffer = [0u8; 4096];
        // EIO is how a terminal's master says that the last program closed it.
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            if send.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receive
}
