//! One criu process: found, started, spoken with, and reaped.

use std::ffi::OsStr;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use corten_sys::process;
use corten_sys::spawn::{Program, spawn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::message::{self, Kind, Options, Response};
use super::wire::Writer;
use crate::error::{Error, failed, unsupported};

/// criu's own limit for a message is ten pages.
const MESSAGE_MAX: usize = 64 << 10;
/// The first version with everything that is asked of it here: labels of Linux security modules at restore came last.
const OLDEST: (u32, u32) = (3, 16);
/// For a criu that has lost its client: it must let go of what it holds.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// Where criu is; a container engine's PATH decides, as for any program.
/// A caller who says where says it finally.
pub(crate) fn find(what: &'static str, given: Option<&Path>) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let executable = |file: &PathBuf| {
        file.metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if let Some(given) = given {
        let found = Some(given.to_path_buf()).filter(executable);
        return found.ok_or_else(|| {
            unsupported(format!(
                "{what} without criu, which is not at {},",
                given.display()
            ))
        });
    }
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("criu"))
        .find(executable)
        .ok_or_else(|| unsupported(format!("{what} without criu, which is not on the PATH,")))
}

/// What a process is started with.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub executable: &'a Path,
    /// Standard input, output and error; `None` is `/dev/null`.
    pub stdio: [Option<BorrowedFd<'a>>; 3],
    /// These become descriptors 4, 5, 6, …
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Away from the caller's terminal, whose signals would hit it in mid-work.
    pub session: bool,
}

/// A criu that waits for requests.
#[derive(Debug)]
pub(crate) struct Criu {
    socket: Option<OwnedFd>,
    pub pid: u32,
    pidfd: OwnedFd,
    reaped: bool,
}

/// A message, and a descriptor that came with it.
#[derive(Debug)]
pub(crate) struct Heard {
    pub response: Response,
    pub descriptor: Option<OwnedFd>,
}

impl Criu {
    pub fn start(job: &Job<'_>) -> Result<Self, Error> {
        let (ours, theirs) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed("make a pair of sockets", ""))?;
        // Nothing of the caller's but what is named.
        process::cloexec_from(3).map_err(failed("close", "the caller's descriptors"))?;
        let descriptors: Vec<BorrowedFd<'_>> = std::iter::once(theirs.as_fd())
            .chain(job.descriptors.iter().copied())
            .collect();
        let pid = spawn(&Program {
            path: job.executable,
            arguments: &["criu", "swrk", "3"].map(OsStr::new),
            environment: &[],
            stdio: job.stdio,
            descriptors: &descriptors,
            session: job.session,
        })
        .map_err(failed("execute", job.executable))?;
        let pidfd = Pid::from_raw(pid as i32)
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(failed("open a pidfd of", "criu"))?;
        Ok(Self {
            socket: Some(ours),
            pid,
            pidfd,
            reaped: false,
        })
    }

    fn socket(&self) -> Result<&OwnedFd, Error> {
        self.socket.as_ref().ok_or_else(|| lost(Errno::NOTCONN))
    }

    fn send(&self, message: &Writer) -> Result<(), Error> {
        let io = [IoSlice::new(message.as_bytes())];
        let mut none = SendAncillaryBuffer::default();
        loop {
            match sendmsg(self.socket()?, &io, &mut none, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(lost(errno)),
            }
        }
    }

    /// Refuses a criu that is too old.
    pub fn check_version(&self) -> Result<(), Error> {
        self.send(&message::ask_version())?;
        let response = self.expect(Kind::Version)?;
        match response.version {
            Some((major, minor, _)) if (major, minor) >= OLDEST => Ok(()),
            Some((major, minor, _)) => Err(unsupported(format!(
                "criu {major}.{minor} (older than {}.{})",
                OLDEST.0, OLDEST.1
            ))),
            None => Err(lost(Errno::PROTO)),
        }
    }

    /// Refuses a kernel, or a criu, that cannot do what is asked for.
    pub fn check_features(&self, track_memory: bool, lazy_pages: bool) -> Result<(), Error> {
        if !track_memory && !lazy_pages {
            return Ok(());
        }
        self.send(&message::ask_features())?;
        let response = self.expect(Kind::FeatureCheck)?;
        let refused = [
            (
                track_memory && !response.tracks_memory,
                "pre-dump (this kernel does not track changes of memory)",
            ),
            (
                lazy_pages && !response.lazy_pages,
                "lazy-pages (this kernel's userfaultfd does not suffice)",
            ),
        ];
        match refused.into_iter().find(|(refused, _)| *refused) {
            Some((_, what)) => Err(unsupported(what)),
            None => Ok(()),
        }
    }

    fn expect(&self, kind: Kind) -> Result<Response, Error> {
        let response = self.hear()?.response;
        match response.success && response.kind == Some(kind) {
            true => Ok(response),
            false => Err(lost(Errno::PROTO)),
        }
    }

    pub fn request(&self, kind: Kind, options: &Options) -> Result<(), Error> {
        self.send(&message::request(kind, options))
    }

    /// Lets a notifying criu go on, or not.
    pub fn acknowledge(&self, success: bool) -> Result<(), Error> {
        self.send(&message::acknowledge(success))
    }

    /// The next message. [`Error::Criu`] once criu has ended without one.
    pub fn hear(&self) -> Result<Heard, Error> {
        let socket = self.socket()?;
        loop {
            let mut fds = [
                PollFd::new(socket, PollFlags::IN),
                PollFd::new(&self.pidfd, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed("wait for", "criu")(errno)),
            }
            // Its last words come before its end.
            if fds[0].revents().contains(PollFlags::IN) {
                return self.receive(socket);
            }
            if !fds[1].revents().is_empty() || !fds[0].revents().is_empty() {
                return Err(self.died());
            }
        }
    }

    fn receive(&self, socket: &OwnedFd) -> Result<Heard, Error> {
        let mut bytes = vec![0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut io = [IoSliceMut::new(&mut bytes)];
            match recvmsg(socket, &mut io, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(lost(errno)),
            }
        };
        if received.bytes == 0 {
            return Err(self.died());
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(lost(Errno::MSGSIZE));
        }
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let response = Response::read(&bytes[..received.bytes]).map_err(|_| lost(Errno::BADMSG))?;
        Ok(Heard {
            response,
            descriptor,
        })
    }

    fn died(&self) -> Error {
        Error::Criu {
            action: "serve",
            errno: 0,
            problem: "it has gone without an answer".into(),
            log: PathBuf::new(),
            lines: Vec::new(),
        }
    }

    /// Says good-bye and waits for the end. One that does not end in time is killed.
    pub fn end(&mut self) -> Result<process::Exit, Error> {
        self.socket = None;
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        if let Ok(0) = poll(&mut fds, Some(&PATIENCE)) {
            process::send_signal(&self.pidfd, 9).map_err(failed("kill", "criu"))?;
        }
        self.reaped = true;
        process::wait(&self.pidfd).map_err(failed("wait for", "criu"))
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        if !self.reaped {
            // On the way out of a failure, which is what will be told.
            let _ = self.end();
        }
    }
}

fn lost(errno: Errno) -> Error {
    failed("talk to", "criu")(errno)
}
