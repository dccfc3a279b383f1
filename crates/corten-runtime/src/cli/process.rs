//! What `create`, `run` and `exec` share: documents, stdio, terminals, pid files.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Process;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::de::DeserializeOwned;

use super::Failure;
use crate::Stdio;

/// Larger documents are no configurations.
const SIZE_MAX: u64 = 16 << 20;

/// Reads a JSON document, with warnings about it; `-` is stdin.
pub(super) fn document<T: DeserializeOwned>(path: &Path) -> Result<(T, Vec<String>), Failure> {
    let mut bytes = Vec::with_capacity(16 << 10);
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin()
            .lock()
            .take(SIZE_MAX)
            .read_to_end(&mut bytes),
        false => fs::File::open(path).and_then(|f| f.take(SIZE_MAX).read_to_end(&mut bytes)),
    };
    read.map_err(|source| Failure::File {
        what: "read",
        path: path.into(),
        source,
    })?;
    crate::document::read(&bytes).map_err(|source| Failure::Json {
        path: path.into(),
        source,
    })
}

/// Writes a pid file at once: whoever sees it sees all of it.
pub(super) fn pid_file(path: Option<&str>, pid: u32) -> Result<(), Failure> {
    let Some(path) = path.filter(|p| !p.is_empty()).map(PathBuf::from) else {
        return Ok(());
    };
    let mut temporary = path.clone().into_os_string();
    temporary.push(".new");
    // The folder may be one in which others write too. What an earlier call left behind is in the way.
    let write = || -> std::io::Result<()> {
        if !corten_sys::weakened!("pidfile.follow") {
            match fs::remove_file(&temporary) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let mut options = fs::File::options();
        match corten_sys::weakened!("pidfile.follow") {
            true => options.write(true).create(true).truncate(true),
            // O_EXCL follows no link.
            false => options.write(true).create_new(true),
        };
        options
            .open(&temporary)?
            .write_all(pid.to_string().as_bytes())?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|source| Failure::File {
        what: "write",
        path,
        source,
    })
}

/// Who is at the other end of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Console<'a> {
    /// No terminal.
    None,
    /// Somebody who listens at this socket.
    Socket(&'a str),
    /// We are.
    Own,
}

/// Where a process's stdio leads, from its document and the command line.
pub(super) fn console<'a>(
    process: &Process,
    socket: Option<&'a str>,
    detached: bool,
) -> Result<Console<'a>, Failure> {
    let terminal = process.terminal().unwrap_or(false);
    match (terminal, socket.filter(|s| !s.is_empty()), detached) {
        (false, None, _) => Ok(Console::None),
        (false, Some(_), _) => Err(Failure::Refused(
            "--console-socket is for processes with a terminal, and process.terminal is false",
        )),
        (true, Some(socket), _) => Ok(Console::Socket(socket)),
        (true, None, false) => Ok(Console::Own),
        (true, None, true) => Err(Failure::Refused(
            "a detached process with a terminal needs --console-socket",
        )),
    }
}

pub(super) fn stdio(console: Console<'_>, process: &Process) -> Stdio {
    if console == Console::None {
        return Stdio::Inherit;
    }
    let asked = process
        .console_size()
        .map(|b| (b.height() as u16, b.width() as u16));
    let own = || match console {
        Console::Own => rustix::termios::tcgetwinsize(rustix::stdio::stdin())
            .map_or((0, 0), |size| (size.ws_row, size.ws_col)),
        _ => (0, 0),
    };
    let (rows, cols) = asked.filter(|size| *size != (0, 0)).unwrap_or_else(own);
    Stdio::Terminal { rows, cols }
}

/// Connects before anything is made: a socket that is not there must not cost a container.
pub(super) fn dial(kind: &'static str, path: &str) -> Result<OwnedFd, Failure> {
    let dial = || -> Result<OwnedFd, corten_sys::Errno> {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    dial().map_err(|errno| Failure::File {
        what: match kind {
            "pidfd" => "connect to the pidfd socket",
            _ => "connect to the console socket",
        },
        path: path.into(),
        source: errno.into(),
    })
}

/// Hands the terminal over, named as runc names it.
pub(super) fn hand_over(socket: &OwnedFd, master: &OwnedFd) -> Result<(), Failure> {
    corten_sys::socket::send_fd(socket, b"/dev/ptmx", master.as_fd()).map_err(|source| {
        Failure::Kernel {
            what: "send the terminal to the console socket",
            source,
        }
    })
}
