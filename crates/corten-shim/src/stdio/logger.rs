//! `binary://` loggers: a program of the caller's choice that reads the output.
//!
//! containerd's contract: descriptors 3 and 4 are the reading ends of stdout and
//! stderr; 5 is closed by the logger when it is ready; `CONTAINER_ID` and `CONTAINER_NAMESPACE` are set;
//! the URI's query becomes the arguments, each name followed by its value if it has one. With `binary-v2://` (containerd 2.2)
//! a byte is written to 5 before.
//!
//! Nothing of a process runs before its logger is ready. A logger that ends is not started again: what it has said of the
//! past it alone knows. The container goes on without.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use corten_sys::spawn::{Program, spawn};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// A program and its arguments, from the URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logger {
    pub path: PathBuf,
    pub arguments: Vec<String>,
    /// Whether it must say that it is ready, not only close the descriptor.
    pub says_ready: bool,
}

/// A logger that runs.
#[derive(Debug)]
pub struct Started {
    pub logger: Logger,
    pub pid: u32,
    /// The writing ends of stdout and stderr.
    pub ends: [OwnedFd; 2],
    /// Gives a byte or its end when the logger is ready, does not block; then `None`.
    ready: Option<OwnedFd>,
}

/// What a logger says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    NotYet,
    Ready,
    /// It has ended, or closed the descriptor without the byte that its URI promises.
    Never,
}

impl Logger {
    /// Parses what follows `binary://` or `binary-v2://`.
    pub fn parse(rest: &str, says_ready: bool) -> Option<Self> {
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = PathBuf::from(unescape(path)?);
        if !path.is_absolute() {
            return None;
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((unescape(name)?, unescape(value)?));
        }
        let arguments = pairs.into_iter().flat_map(|(n, v)| [n, v]);
        let arguments = arguments.filter(|a| !a.is_empty()).collect();
        Some(Self {
            path,
            arguments,
            says_ready,
        })
    }

    /// Starts it. What it serves must wait until it is [ready](Started::readiness).
    pub fn start(&self, id: &str, namespace: &str) -> Result<Started, Errno> {
        let (out_read, out_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err_read, err_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (ready, ready_write) = pipe_with(PipeFlags::CLOEXEC)?;
        for ours in [&out_write, &err_write, &ready] {
            super::open::unblock(ours)?;
        }
        let mut arguments = vec![OsString::from(&self.path)];
        arguments.extend(self.arguments.iter().map(OsString::from));
        let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        let pid = spawn(&Program {
            path: &self.path,
            arguments: &arguments,
            environment: &[
                ("CONTAINER_ID", OsStr::new(id)),
                ("CONTAINER_NAMESPACE", OsStr::new(namespace)),
            ],
            stdio: [None, None, None],
            descriptors: &[out_read.as_fd(), err_read.as_fd(), ready_write.as_fd()],
            session: false,
        })?;
        Ok(Started {
            logger: self.clone(),
            pid,
            ends: [out_write, err_write],
            ready: Some(ready),
        })
    }
}

impl Started {
    pub fn readiness(&mut self) -> Readiness {
        let Some(ready) = &self.ready else {
            return Readiness::Ready;
        };
        match rustix::io::read(ready, &mut [0; 1]) {
            Err(Errno::AGAIN | Errno::INTR) => return Readiness::NotYet,
            Ok(1) => {}
            Ok(_) if !self.logger.says_ready && !is_ending(self.pid) => {}
            _ => return Readiness::Never,
        }
        self.ready = None;
        Readiness::Ready
    }

    /// What to poll until it is ready.
    pub fn awaited(&self) -> Option<BorrowedFd<'_>> {
        self.ready.as_ref().map(AsFd::as_fd)
    }
}

/// Whether a child closed its descriptors by ending: the kernel marks it (PF_EXITING, the 9th field of proc_pid_stat(5))
/// before it closes them.
fn is_ending(pid: u32) -> bool {
    const PF_EXITING: u64 = 4;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    // The name before it may hold anything, parentheses included.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let flags = rest.split_whitespace().nth(6).and_then(|f| f.parse().ok());
    flags.is_none_or(|f: u64| f & PF_EXITING != 0)
}

/// `%2F` and `+` of a URL.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |b: Option<u8>| char::from(b?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok().filter(|s| !s.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_becomes_arguments() {
        let logger = Logger::parse("/bin/log%20ger?id=a%26b&verbose&x=1+2", false).unwrap();
        assert_eq!(logger.path, PathBuf::from("/bin/log ger"));
        assert_eq!(logger.arguments, ["id", "a&b", "verbose", "x", "1 2"]);
        for bad in ["", "relative", "/x?%", "/x?%zz=1", "/x%00"] {
            assert_eq!(Logger::parse(bad, true), None, "{bad}");
        }
    }
}
