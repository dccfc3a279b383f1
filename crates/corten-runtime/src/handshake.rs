//! What init and its maker tell each other, over a pair of sockets and later over the gate.
//!
//! ```text
//!   maker                                 init
//!     │ ◀── Mounted ────────────────────── │  only where init makes its user namespace itself
//!     │ ─── go ──────────────────────────▶ │  only with a new user namespace: its ids are mapped
//!     │ ─── mounts (shipment) ───────────▶ │  meanwhile init has made those of its own namespaces
//!     │ ◀── Mounted ────────────────────── │  only where hooks wait for the mounts
//!     │ ─── go ──────────────────────────▶ │
//!     │ ◀── Ready ───────────────────────── │  all set up; the program was found
//!     │ ─── go ──────────────────────────▶ │  only without a gate: `run`
//!     │                                     │  (maker may be gone now)
//!   starter ── connects, go ─────────────▶ │  the gate
//!     │ ◀── Failed{step, errno, path} ───── │  or the end of the stream: execve succeeded
//! ```
//! A report is 16 bytes and a path: kind and step as one u64, errno u32, length of the path u32. The
//! trampoline sends the same 16 bytes.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use corten_sys::mount::{Log, Refused};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::Error;

/// What the maker or starter answers.
pub(crate) const GO: u8 = b'g';

const HEADER: usize = 16;
/// Longer paths are cut.
const PATH_MAX: usize = 1024;

macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident = $text:literal,)*) => {
        /// What init was doing. The text completes "cannot …".
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub(crate) enum Step { $($(#[$doc])* $step,)* }

        impl Step {
            const ALL: &'static [Self] = &[$(Self::$step,)*];

            /// The step that is told in these words.
            pub fn named(text: &str) -> Self {
                let named = Self::ALL.iter().find(|step| step.as_str() == text);
                *named.unwrap_or(&Self::Prepare)
            }

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$step => $text,)* }
            }
        }
    };
}

steps! {
    EnterCgroup = "enter the control group",
    JoinNamespace = "join the namespace",
    NewNamespace = "make the namespace",
    BecomeRoot = "become the user namespace's root",
    Keyring = "make a session keyring",
    Session = "start a session",
    Propagation = "detach from the host's mounts",
    AttachRoot = "attach the root",
    OpenRoot = "open the root",
    /// In a mount namespace of somebody else's.
    ChangeRoot = "change the root to",
    TimeOffsets = "set the clocks of the time namespace",
    /// What the maker does where it has the rights.
    Bind = "bind",
    Owner = "set the owner of",
    OpenTerminal = "open a terminal in",
    Prepare = "prepare",
    Target = "make the mount point",
    Mount = "mount",
    Attach = "attach the mount on",
    MountAttributes = "set the mount's attributes on",
    CopyUp = "copy into the tmpfs",
    Device = "make the device",
    DeviceLink = "make the link",
    Console = "bind the terminal on",
    Handshake = "talk to the runtime",
    Pivot = "change the root",
    DetachHost = "detach the host's root",
    RootPropagation = "set the root's propagation",
    Sysctl = "set the sysctl",
    ReadOnlyRoot = "make the root read-only",
    ReadOnlyPath = "make read-only",
    Mask = "mask",
    NullDevice = "verify the null device",
    Loopback = "set the loopback link up",
    Hostname = "set the host name",
    Domainname = "set the domain name",
    Label = "set the security label",
    Cwd = "change to the working directory",
    CwdOutside = "stay inside the root with the working directory",
    Limit = "set",
    Scheduler = "set the scheduler",
    IoPriority = "set the I/O priority",
    MemoryPolicy = "set the memory policy",
    Affinity = "set the CPU affinity",
    Personality = "set the personality",
    Stdio = "set up stdio",
    Terminal = "take the terminal",
    Bounding = "limit the bounding set of capabilities",
    Groups = "set the supplementary groups",
    Identity = "become the user",
    Capabilities = "set the capabilities",
    NoNewPrivileges = "give up new privileges",
    Home = "look up the home folder",
    Find = "execute",
    Gate = "wait for the start",
    Descriptors = "close inherited descriptors",
    Seccomp = "install the seccomp filter",
    Trampoline = "enter the trampoline",
    Execute = "execute it",
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    Mounted = 1,
    Ready = 2,
    Failed = 3,
    Forked = 4,
}

/// A failure in init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure<'a> {
    pub step: Step,
    pub errno: Errno,
    pub path: &'a [u8],
    /// What a file system said about its refusal.
    pub log: Log,
}

impl<'a> Failure<'a> {
    pub fn new(step: Step, errno: Errno, path: &'a [u8]) -> Self {
        let log = Log::default();
        Self {
            step,
            errno,
            path,
            log,
        }
    }

    /// For `map_err` on a new file system.
    pub fn refused(path: &'a [u8]) -> impl FnOnce(Refused) -> Self {
        move |refused| Self {
            step: Step::Mount,
            errno: refused.errno,
            path,
            log: refused.log,
        }
    }

    /// For `map_err`.
    pub fn at(step: Step, path: &'a [u8]) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::new(step, errno, path)
    }
}

/// The first word of a failure report.
pub(crate) fn tag(step: Step) -> u64 {
    tag_of(Kind::Failed, step as u32)
}

fn tag_of(kind: Kind, step: u32) -> u64 {
    u64::from(kind as u32) << 32 | u64::from(step)
}

/// What was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The process that goes on is this one; who tells it ends.
    Forked {
        pid: u32,
    },
    Mounted,
    Ready,
    Failed {
        step: Step,
        errno: i32,
        path: PathBuf,
    },
    /// The other side has closed: it died, or `execve` succeeded.
    End,
}

/// Init's forerunner: who goes on.
pub(crate) fn send_forked(socket: impl AsFd, pid: u32) -> Result<(), Errno> {
    send_header(socket, tag_of(Kind::Forked, 0), pid, &[])
}

/// Init: all is mounted.
pub(crate) fn send_mounted(socket: impl AsFd) -> Result<(), Errno> {
    send_header(socket, tag_of(Kind::Mounted, 0), 0, &[])
}

/// Init: all is set up.
pub(crate) fn send_ready(socket: impl AsFd) -> Result<(), Errno> {
    send_header(socket, tag_of(Kind::Ready, 0), 0, &[])
}

/// Init: it failed.
pub(crate) fn send_failure(socket: impl AsFd, failure: &Failure<'_>) -> Result<(), Errno> {
    let errno = failure.errno.raw_os_error() as u32;
    let log = failure.log.as_bytes();
    let parts: &[&[u8]] = match log.is_empty() {
        true => &[failure.path],
        false => &[failure.path, b" (", log, b")"],
    };
    send_header(socket, tag(failure.step), errno, parts)
}

fn send_header(socket: impl AsFd, tag: u64, errno: u32, path: &[&[u8]]) -> Result<(), Errno> {
    let mut message = [0u8; HEADER + PATH_MAX];
    let mut end = HEADER;
    for part in path {
        let part = &part[..part.len().min(message.len() - end)];
        message[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    message[..8].copy_from_slice(&tag.to_ne_bytes());
    message[8..12].copy_from_slice(&errno.to_ne_bytes());
    message[12..16].copy_from_slice(&((end - HEADER) as u32).to_ne_bytes());
    retry(|| send(socket.as_fd(), &message[..end], SendFlags::NOSIGNAL)).map(drop)
}

/// Either side: go on.
pub(crate) fn send_go(socket: impl AsFd) -> Result<(), Errno> {
    retry(|| send(socket.as_fd(), &[GO], SendFlags::NOSIGNAL)).map(drop)
}

/// Init: waits for the other side's go; its end is `ECONNRESET`.
pub(crate) fn wait_go(socket: impl AsFd) -> Result<(), Errno> {
    let mut byte = [0u8; 1];
    match retry(|| recv(socket.as_fd(), &mut byte, RecvFlags::empty()))? {
        (1, _) if byte[0] == GO => Ok(()),
        _ => Err(Errno::CONNRESET),
    }
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Maker or starter: the next message. Both sockets keep the boundaries of messages.
pub(crate) fn receive(socket: impl AsFd) -> Result<Message, Error> {
    let mut buffer = [0u8; HEADER + PATH_MAX];
    let (mut len, mut reset) = (0, false);
    while len < HEADER {
        let read = retry(|| recv(socket.as_fd(), &mut buffer[len..], RecvFlags::empty()));
        match read {
            // It ended with something of ours unread. The kernel says so once, before it hands out what
            // the other side had sent: the reason, perhaps.
            Err(Errno::CONNRESET) if !reset => reset = true,
            Ok((0, _)) | Err(Errno::CONNRESET) => break,
            Ok((read, _)) => len += read,
            Err(errno) => return Err(crate::error::failed("hear from init", "")(errno)),
        }
    }
    Ok(parse(&buffer[..len]))
}

fn parse(bytes: &[u8]) -> Message {
    let Some((header, path)) = bytes.split_at_checked(HEADER) else {
        return Message::End;
    };
    let word = |at: usize| {
        u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    // The tag is one u64 in native order: on the little-endian machines that we build for, the step comes first.
    let tag = u64::from(word(0)) | u64::from(word(4)) << 32;
    let (kind, step) = ((tag >> 32) as u32, tag as u32);
    if kind == Kind::Mounted as u32 {
        return Message::Mounted;
    }
    if kind == Kind::Ready as u32 {
        return Message::Ready;
    }
    if kind == Kind::Forked as u32 {
        return Message::Forked { pid: word(8) };
    }
    let step = Step::ALL
        .get(step as usize)
        .copied()
        .unwrap_or(Step::Handshake);
    let len = (word(12) as usize).min(path.len());
    Message::Failed {
        step,
        errno: word(8) as i32,
        path: Path::new(OsStr::from_bytes(&path[..len])).into(),
    }
}

/// A failure as the library's error. `program` is what the process was to execute: the trampoline does not
/// say.
pub(crate) fn error(step: Step, errno: i32, path: PathBuf, program: &OsStr) -> Error {
    let program = PathBuf::from(program);
    match (step, Errno::from_raw_os_error(errno)) {
        (Step::Find | Step::Execute, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
            Error::ExecutableNotFound {
                path: program,
                errno,
            }
        }
        (
            Step::Find | Step::Execute,
            Errno::ACCESS
            | Errno::PERM
            | Errno::NOEXEC
            | Errno::ISDIR
            | Errno::INVAL
            | Errno::TXTBSY
            | Errno::LIBBAD,
        ) => Error::ExecutableDenied {
            path: program,
            errno,
        },
        (Step::Find | Step::Execute, _) => Error::Step {
            step: step.as_str(),
            path: program,
            errno,
        },
        _ => Error::Step {
            step: step.as_str(),
            path,
            errno,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_travels_whole() {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        send_failure(&theirs, &Failure::new(Step::Mount, Errno::PERM, b"proc")).unwrap();
        let message = receive(&ours).unwrap();
        let expected = Message::Failed {
            step: Step::Mount,
            errno: 1,
            path: "proc".into(),
        };
        assert_eq!(message, expected);
        drop(theirs);
        assert_eq!(receive(&ours).unwrap(), Message::End);
    }

    #[test]
    fn what_is_no_report_is_no_panic() {
        assert_eq!(parse(b"short"), Message::End);
        assert!(matches!(parse(&[0xff; 40]), Message::Failed { .. }));
    }
}
