//! The socket that kubelet connects to: given by systemd, or made here in place of what a killed daemon has left.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

/// Where descriptors begin that systemd passes on (`SD_LISTEN_FDS_START`).
const FIRST_GIVEN: i32 = 3;
/// Owner and group, who are root unless somebody says otherwise.
const MASK: Mode = Mode::from_raw_mode(0o117);

/// A socket that is listened on.
#[derive(Debug)]
pub struct Listening {
    pub listener: UnixListener,
    /// Ours to remove at the end: path, device, inode.
    made: Option<(PathBuf, u64, u64)>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("cannot listen on {path:?}")]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("somebody listens on {path:?} already")]
    Taken { path: PathBuf },
    #[error("{path:?} is there, and no socket")]
    NoSocket { path: PathBuf },
    #[error("{count} sockets are given by whoever started this, and one is served")]
    Count { count: i32 },
    #[error("what was given as a socket (descriptor {FIRST_GIVEN}) cannot be served")]
    Given {
        #[source]
        source: io::Error,
    },
}

impl Listening {
    /// The socket that systemd holds for us, else one at `path`.
    pub fn open(path: &Path) -> Result<Self, SocketError> {
        match given(|name| std::env::var(name).ok())? {
            Some(listener) => Ok(Self {
                listener,
                made: None,
            }),
            None => Self::bind(path),
        }
    }

    pub fn is_given(&self) -> bool {
        self.made.is_none()
    }

    /// Whoever holds the daemon's lock is the only one of us here: a socket that nobody answers on is left over.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Listen {
            path: path.to_owned(),
            source,
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        make_way(path)?;
        let before = rustix::process::umask(MASK);
        let bound = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = bound.map_err(failed)?;
        let stat = fs::symlink_metadata(path).map_err(failed)?;
        Ok(Self {
            listener,
            made: Some((path.to_owned(), stat.dev(), stat.ino())),
        })
    }

    /// Takes the name away, if it is still ours.
    pub fn remove(made: &Self) -> io::Result<()> {
        let Some((path, device, inode)) = &made.made else {
            return Ok(());
        };
        match fs::symlink_metadata(path) {
            Ok(stat) if (stat.dev(), stat.ino()) == (*device, *inode) => fs::remove_file(path),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }
}

fn make_way(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Listen {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(stat) if !stat.file_type().is_socket() => {
            return Err(SocketError::NoSocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed(e)),
        Ok(_) => Err(SocketError::Taken {
            path: path.to_owned(),
        }),
    }
}

/// sd_listen_fds(3): `LISTEN_PID` names us, and `LISTEN_FDS` how many.
fn given(variable: impl Fn(&str) -> Option<String>) -> Result<Option<UnixListener>, SocketError> {
    let number = |name| variable(name).and_then(|v| v.parse::<i32>().ok());
    let ours = number("LISTEN_PID") == i32::try_from(std::process::id()).ok();
    let Some(count) = number("LISTEN_FDS").filter(|n| ours && *n > 0) else {
        return Ok(None);
    };
    if count != 1 {
        return Err(SocketError::Count { count });
    }
    let taken = corten_sys::inherited::take(FIRST_GIVEN).map_err(io::Error::from);
    let listener = taken.and_then(listener);
    listener
        .map(Some)
        .map_err(|source| SocketError::Given { source })
}

/// A stream socket of the Unix kind that is listened on.
fn listener(fd: OwnedFd) -> io::Result<UnixListener> {
    use rustix::net::{AddressFamily, SocketType, sockopt};
    let fits = sockopt::socket_domain(&fd)? == AddressFamily::UNIX
        && sockopt::socket_type(&fd)? == SocketType::STREAM
        && sockopt::socket_acceptconn(&fd)?;
    match fits {
        true => Ok(fd.into()),
        false => Err(io::Error::other("it is no listening Unix stream socket")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_daemon_left_is_replaced_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("corten-socket-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s");
        let first = Listening::bind(&path).unwrap();
        assert!(matches!(
            Listening::bind(&path),
            Err(SocketError::Taken { .. })
        ));
        drop(first.listener);
        let second = Listening::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        Listening::remove(&second).unwrap();
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Listening::bind(&path),
            Err(SocketError::NoSocket { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        // Another's name by now.
        Listening::remove(&second).unwrap();
        assert!(path.exists());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn descriptors_are_for_the_process_that_they_are_for() {
        let said = |pid: u32, count: &str| {
            let count = count.to_owned();
            given(move |name| {
                Some(if name == "LISTEN_PID" {
                    pid.to_string()
                } else {
                    count.clone()
                })
            })
        };
        let own = std::process::id();
        assert!(said(own + 1, "1").unwrap().is_none());
        assert!(said(own, "0").unwrap().is_none());
        assert!(matches!(
            said(own, "2"),
            Err(SocketError::Count { count: 2 })
        ));
    }
}
