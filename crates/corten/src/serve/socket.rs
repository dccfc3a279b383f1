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

/// `sun_path` of unix(7), but for the zero at its end.
const LONGEST: usize = 107;

/// A socket that is listened on. One that was made goes with it.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
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
    #[error("{path:?} is a folder")]
    Folder { path: PathBuf },
    #[error("the folder of socket {path:?} is not there")]
    NoFolder { path: PathBuf },
    #[error("{path:?} has {length} bytes, and the path of a socket at most {LONGEST}")]
    Long { path: PathBuf, length: usize },
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
        let length = path.as_os_str().len();
        if length > LONGEST {
            let path = path.to_owned();
            return Err(SocketError::Long { path, length });
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

    /// For the reactor of the runtime around.
    pub fn accepting(&self) -> io::Result<tokio::net::UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    }
}

impl Drop for Listening {
    /// Takes the name away, if it is still ours.
    fn drop(&mut self) {
        let Some((path, device, inode)) = &self.made else {
            return;
        };
        let ours = |stat: &fs::Metadata| (stat.dev(), stat.ino()) == (*device, *inode);
        if fs::symlink_metadata(path).is_ok_and(|stat| ours(&stat))
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, socket = %path.display(), "cannot remove the socket");
        }
    }
}

fn make_way(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Listen {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            // Who misspells a folder is told, and gets none.
            return match path.parent().is_none_or(Path::is_dir) {
                true => Ok(()),
                false => Err(SocketError::NoFolder {
                    path: path.to_owned(),
                }),
            };
        }
        Err(e) => return Err(failed(e)),
        Ok(stat) if stat.is_dir() => {
            return Err(SocketError::Folder {
                path: path.to_owned(),
            });
        }
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
        drop(UnixListener::bind(&path).unwrap());
        let made = Listening::bind(&path).unwrap();
        assert!(matches!(
            Listening::bind(&path),
            Err(SocketError::Taken { .. })
        ));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        drop(made);
        assert!(!path.exists());
        let made = Listening::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Listening::bind(&path),
            Err(SocketError::NoSocket { .. })
        ));
        // Another's name by now.
        drop(made);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
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
