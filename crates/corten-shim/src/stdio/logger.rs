//! `binary://` loggers: a program of the caller's choice that reads the output.
//!
//! containerd's contract: descriptors 3 and 4 are the reading ends of stdout and
//! stderr; 5 is closed by the logger when it is ready; `CONTAINER_ID` and `CONTAINER_NAMESPACE` are set;
//! the URI's query becomes the arguments, each name followed by its value if it has one.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use corten_sys::spawn::{Program, spawn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// How long a logger may take to be ready. The loop stands still meanwhile, as
/// nothing of this process may run before its logger does.
const READY_SECONDS: i64 = 10;

/// A program and its arguments, from the URI.
#[derive(Debug, PartialEq, Eq)]
pub struct Logger {
    pub path: PathBuf,
    pub arguments: Vec<String>,
}

impl Logger {
    /// Parses what follows `binary://`.
    pub fn parse(rest: &str) -> Option<Self> {
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
        Some(Self { path, arguments })
    }

    /// Starts it and returns the writing ends for stdout and stderr.
    pub fn start(&self, id: &str, namespace: &str) -> Result<[OwnedFd; 2], Errno> {
        let (out_read, out_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err_read, err_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let (ready_read, ready_write) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut arguments = vec![OsString::from(&self.path)];
        arguments.extend(self.arguments.iter().map(OsString::from));
        let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        spawn(&Program {
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
        drop(ready_write);
        let limit = Timespec {
            tv_sec: READY_SECONDS,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&ready_read, PollFlags::IN)];
        if poll(&mut fds, Some(&limit))? == 0 {
            return Err(Errno::TIMEDOUT);
        }
        Ok([out_write, err_write])
    }
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
        let logger = Logger::parse("/bin/log%20ger?id=a%26b&verbose&x=1+2").unwrap();
        assert_eq!(logger.path, PathBuf::from("/bin/log ger"));
        assert_eq!(logger.arguments, ["id", "a&b", "verbose", "x", "1 2"]);
        for bad in ["", "relative", "/x?%", "/x?%zz=1", "/x%00"] {
            assert_eq!(Logger::parse(bad), None, "{bad}");
        }
    }
}
