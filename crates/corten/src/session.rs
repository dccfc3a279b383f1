//! Our stdio and a process in a container, connected: bytes both ways, the terminal's size and
//! mode, signals, and docker's Ctrl-P Ctrl-Q to leave.
//!
//! ```text
//!   thread 1 (main)   container ──► stdout, stderr, until its end
//!   thread 2          stdin ──► container
//!   thread 3          SIGWINCH ──► resize; other signals ──► the process, where there is no terminal
//! ```
//! Two directions in two threads: a container that echoes its input would otherwise wait for us to
//! read while we wait for it to.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use corten_engine::container::Controller;
use corten_shim::attach::{self, Attached, Size};
use corten_sys::signal::{Mask, Receiver};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios};

use crate::failure::Failure;

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;
const SIGWINCH: i32 = 28;
const SIGCHLD: i32 = 17;
const SIGPIPE: i32 = 13;
/// What job control of our own shell sends; passing it on would stop the wrong process.
const JOB_CONTROL: [i32; 4] = [18, 20, 21, 22];

/// How a session ended.
pub struct Ended {
    /// By Ctrl-P Ctrl-Q: the process runs on.
    pub detached: bool,
}

/// A connection that is ready, before its process is started.
pub struct Session {
    streams: Attached,
    signals: Receiver,
    tty: bool,
    stdin: bool,
    exec_id: String,
    raw: Option<RawMode>,
}

impl Session {
    /// Signals are taken from here on, so that a Ctrl-C before the start reaches the process too.
    /// With `tty` our own terminal, if we have one, becomes a wire.
    pub fn new(mut streams: Attached, tty: bool, stdin: bool) -> Result<Self, Failure> {
        let mask = Mask::full();
        mask.install().map_err(io::Error::from)?;
        let signals = Receiver::new(&mask).map_err(io::Error::from)?;
        let mut raw = None;
        if tty {
            if let Some(size) = terminal_size() {
                streams.resize(size)?;
            }
            if stdin && io::stdin().is_terminal() {
                raw = Some(RawMode::enter()?);
            }
        }
        Ok(Self {
            streams,
            signals,
            tty,
            stdin,
            exec_id: String::new(),
            raw,
        })
    }

    /// Signals go to this process instead of the container's init.
    pub fn of_exec(mut self, id: &str) -> Self {
        id.clone_into(&mut self.exec_id);
        self
    }

    /// Carries bytes until the process has ended (or the user left).
    pub fn run(self, control: Controller) -> Result<Ended, Failure> {
        let mut reader = self.streams;
        let writer = Arc::new(Mutex::new(reader.try_clone()?));
        let left = Arc::new(Mutex::new(false));
        if self.stdin {
            let (writer, left) = (writer.clone(), left.clone());
            let stop = reader.try_clone()?;
            let keys = self.raw.is_some();
            std::thread::spawn(move || send_stdin(&writer, keys, || leave(&left, &stop)));
        }
        let (signals, tty, exec_id) = (self.signals, self.tty, self.exec_id);
        std::thread::spawn(move || pass_signals(&signals, &writer, control, &exec_id, tty));
        let received = receive(&mut reader);
        // The terminal is put back before anything more is printed.
        drop(self.raw);
        let detached = *left.lock().unwrap_or_else(PoisonError::into_inner);
        match received {
            Err(e) if !detached => Err(e.into()),
            _ => Ok(Ended { detached }),
        }
    }
}

/// The process's output to ours, until its end.
fn receive(reader: &mut Attached) -> io::Result<()> {
    let (mut out, mut err) = (Sink::new(io::stdout()), Sink::new(io::stderr()));
    while let Some(frame) = reader.read_frame()? {
        match frame.kind {
            attach::STDOUT => out.write(&frame.payload)?,
            attach::STDERR => err.write(&frame.payload)?,
            attach::ERROR => {
                return Err(io::Error::other(
                    String::from_utf8_lossy(&frame.payload).into_owned(),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// One of our outputs. When its reader goes away the container runs on, and is drained: docker's
/// behaviour for `docker run … | head`.
struct Sink<W> {
    to: Option<W>,
}

impl<W: Write + AsFd> Sink<W> {
    fn new(to: W) -> Self {
        Self { to: Some(to) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(to) = &mut self.to else {
            return Ok(());
        };
        match write_all(to.as_fd(), bytes) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.to = None;
                Ok(())
            }
            done => done,
        }
    }
}

/// Past std's buffers, which would hold a prompt back; waits where the descriptor does not block.
fn write_all(fd: std::os::fd::BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], None)?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Our input to the process, until its end, or until the keys to leave.
fn send_stdin(writer: &Mutex<Attached>, keys: bool, leave: impl FnOnce()) {
    let mut buffer = vec![0u8; 64 << 10];
    let mut escape = false;
    let mut stdin = io::stdin().lock();
    loop {
        let n = match stdin.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let mut bytes = buffer[..n].to_vec();
        if keys {
            match detach_keys(&mut bytes, &mut escape) {
                true => return leave(),
                false if bytes.is_empty() => continue,
                false => {}
            }
        }
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        // The process is gone: the reading side tells.
        if writer.stdin(&bytes).is_err() {
            return;
        }
    }
    let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
    let _gone = writer.end_stdin();
}

/// Takes the keys to leave out of `bytes`: true when both have come. A Ctrl-P that is followed by something else
/// is passed on, late.
fn detach_keys(bytes: &mut Vec<u8>, escape: &mut bool) -> bool {
    let mut out = Vec::with_capacity(bytes.len() + 1);
    for &b in bytes.iter() {
        match (*escape, b) {
            (true, CTRL_Q) => return true,
            (true, _) => {
                out.push(CTRL_P);
                *escape = b == CTRL_P;
                if !*escape {
                    out.push(b);
                }
            }
            (false, CTRL_P) => *escape = true,
            (false, b) => out.push(b),
        }
    }
    *bytes = out;
    false
}

/// Ends the reading side.
fn leave(left: &Mutex<bool>, stop: &Attached) {
    *left.lock().unwrap_or_else(PoisonError::into_inner) = true;
    let _ended = rustix::net::shutdown(stop, rustix::net::Shutdown::Both);
}

/// Signals to the process; with a terminal, keys make them there, and only the size is ours to tell.
fn pass_signals(
    signals: &Receiver,
    writer: &Mutex<Attached>,
    control: Controller,
    exec_id: &str,
    tty: bool,
) {
    loop {
        if poll(&mut [PollFd::new(signals, PollFlags::IN)], None).is_err() {
            return;
        }
        while let Ok(Some(received)) = signals.next() {
            match received.signal {
                SIGWINCH if tty => {
                    if let Some(size) = terminal_size() {
                        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                        let _gone = writer.resize(size);
                    }
                }
                SIGWINCH | SIGCHLD | SIGPIPE => {}
                n if JOB_CONTROL.contains(&n) => {}
                // It may have ended just now.
                n => {
                    let _sent = control.signal(exec_id, n);
                }
            }
        }
    }
}

fn terminal_size() -> Option<Size> {
    let of = |fd: std::os::fd::BorrowedFd<'_>| rustix::termios::tcgetwinsize(fd).ok();
    let size = of(io::stdout().as_fd()).or_else(|| of(io::stdin().as_fd()))?;
    Some(Size {
        rows: size.ws_row,
        cols: size.ws_col,
    })
}

/// Our terminal, passing every key on; as it was again when dropped.
struct RawMode {
    before: Termios,
}

impl RawMode {
    fn enter() -> io::Result<Self> {
        let before = rustix::termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may have gone.
        let _restored =
            rustix::termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::detach_keys;

    fn typed(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let (mut out, mut escape) = (vec![], false);
        for piece in pieces {
            let mut bytes = piece.to_vec();
            if detach_keys(&mut bytes, &mut escape) {
                return (out, true);
            }
            out.extend(bytes);
        }
        (out, false)
    }

    #[test]
    fn the_keys_to_leave() {
        assert_eq!(typed(&[b"ab", b"\x10\x11"]), (b"ab".to_vec(), true));
        assert_eq!(typed(&[b"\x10", b"\x11"]), (vec![], true));
        assert_eq!(typed(&[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
        assert!(typed(&[b"\x10\x10\x11"]).1);
        assert_eq!(typed(&[b"\x11"]), (b"\x11".to_vec(), false));
    }
}
