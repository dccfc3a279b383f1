//! What a stdio URI means, and opening it.
//!
//! | text | meaning |
//! | --- | --- |
//! | empty | `/dev/null` |
//! | `attach:` | clients of `attach.sock` |
//! | a path, `fifo://` | a FIFO (a path may also be a regular file, which is appended to) |
//! | `file://` | a file, made if it is missing, appended to |
//! | `binary://` | a logger program |

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, mknodat, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::Sink;
use super::input::Fifo;
use super::logger::Logger;

/// A URI, understood.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    Null,
    Attach,
    Path(PathBuf),
    File(PathBuf),
    Binary(Logger),
}

/// A URI that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("stdio {uri:?} is not understood")]
    Uri { uri: String },
    #[error("cannot open stdio {uri:?}: {errno}")]
    Open { uri: String, errno: Errno },
}

impl OpenError {
    pub fn kind(&self) -> corten_spec::Kind {
        match self {
            Self::Uri { .. } => corten_spec::Kind::Invalid,
            Self::Open {
                errno: Errno::NOENT,
                ..
            } => corten_spec::Kind::NotFound,
            Self::Open { .. } => corten_spec::Kind::Internal,
        }
    }
}

/// Parses a URI as containerd or our engine gives it.
pub fn parse(uri: &str) -> Result<Target, OpenError> {
    let bad = || OpenError::Uri { uri: uri.into() };
    let absolute = |path: &str| match path.starts_with('/') && !path.contains('\0') {
        true => Ok(PathBuf::from(path)),
        false => Err(bad()),
    };
    match uri.split_once("://") {
        Some(("fifo", path)) => absolute(path).map(Target::Path),
        Some(("file", path)) => absolute(path).map(Target::File),
        Some(("binary", rest)) => Logger::parse(rest).map(Target::Binary).ok_or_else(bad),
        Some(_) => Err(bad()),
        None if uri.is_empty() => Ok(Target::Null),
        None if uri == "attach:" => Ok(Target::Attach),
        None => absolute(uri).map(Target::Path),
    }
}

/// The sinks of stdout and stderr. Both may be one logger, which is then started once.
pub fn sinks(uris: [&str; 2], id: &str, namespace: &str) -> Result<[Option<Sink>; 2], OpenError> {
    let targets = [parse(uris[0])?, parse(uris[1])?];
    if let Target::Binary(logger) = &targets[0] {
        let started = logger.start(id, namespace);
        let [out, err] = started.map_err(|errno| failed(uris[0], errno))?;
        let err = match targets[1] == targets[0] {
            true => Some(pipe_sink(err, uris[1])?),
            false => sink(&targets[1], uris[1], id, namespace)?,
        };
        return Ok([Some(pipe_sink(out, uris[0])?), err]);
    }
    Ok([
        sink(&targets[0], uris[0], id, namespace)?,
        sink(&targets[1], uris[1], id, namespace)?,
    ])
}

fn failed(uri: &str, errno: Errno) -> OpenError {
    OpenError::Open {
        uri: uri.into(),
        errno,
    }
}

fn pipe_sink(fd: OwnedFd, uri: &str) -> Result<Sink, OpenError> {
    unblock(&fd).map_err(|errno| failed(uri, errno))?;
    Ok(Sink::new(fd))
}

fn sink(target: &Target, uri: &str, id: &str, namespace: &str) -> Result<Option<Sink>, OpenError> {
    let opened = match target {
        Target::Null | Target::Attach => return Ok(None),
        Target::Path(path) => open_path(path),
        Target::File(path) => open_file(path),
        Target::Binary(logger) => {
            let started = logger.start(id, namespace);
            // Its stdout is unused here: this stream alone goes to the second descriptor.
            return started
                .map_err(|errno| failed(uri, errno))
                .and_then(|[_, err]| pipe_sink(err, uri).map(Some));
        }
    };
    opened
        .map(|fd| Some(Sink::new(fd)))
        .map_err(|errno| failed(uri, errno))
}

/// A FIFO is opened for reading too: then a reader that dies neither ends our output (EPIPE)
/// nor loses it, as the next reader finds what the FIFO holds.
fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    let both = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::APPEND;
    let fd = open(path, both, Mode::empty())?;
    let kind = FileType::from_raw_mode(fstat(&fd)?.st_mode);
    match kind {
        FileType::Fifo | FileType::RegularFile | FileType::CharacterDevice => Ok(fd),
        _ => Err(Errno::OPNOTSUPP),
    }
}

fn open_file(path: &Path) -> Result<OwnedFd, Errno> {
    if let Some(parent) = path.parent() {
        let made = std::fs::create_dir_all(parent);
        made.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    open(path, flags, Mode::from_raw_mode(0o644))
}

/// Opens the FIFO that standard input comes from.
pub fn input_fifo(uri: &str) -> Result<Option<Fifo>, OpenError> {
    match parse(uri)? {
        Target::Null | Target::Attach => Ok(None),
        Target::Path(path) | Target::File(path) => Fifo::open(path)
            .map(Some)
            .map_err(|errno| failed(uri, errno)),
        Target::Binary(_) => Err(OpenError::Uri { uri: uri.into() }),
    }
}

/// `/dev/null` for a process that nobody listens to.
pub fn null() -> Result<OwnedFd, Errno> {
    open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// A pipe of which our end does not block and the process's does.
pub fn pipe(ours: End, owner: (u32, u32)) -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // So that a process of that user can open /proc/self/fd/N again.
    if owner != (0, 0) {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(owner.0),
            rustix::fs::Gid::from_raw(owner.1),
        );
        rustix::fs::fchown(&read, Some(uid), Some(gid))?;
        rustix::fs::fchown(&write, Some(uid), Some(gid))?;
    }
    let (mine, theirs) = match ours {
        End::Read => (read, write),
        End::Write => (write, read),
    };
    unblock(&mine)?;
    Ok((mine, theirs))
}

/// A pipe with a name, of which no end blocks in being opened: one is kept for whoever opens it by its name.
pub fn fifo(path: &Path, ours: End) -> Result<(OwnedFd, OwnedFd), Errno> {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    let end = |flags| {
        open(
            path,
            flags | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    // For writing alone it opens only while somebody reads.
    let read = end(OFlags::RDONLY)?;
    let write = end(OFlags::WRONLY)?;
    Ok(match ours {
        End::Read => (read, write),
        End::Write => (write, read),
    })
}

/// Which end of a pipe stays here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Read,
    Write,
}

/// Makes reads and writes return instead of waiting.
pub fn unblock(fd: impl AsFd) -> Result<(), Errno> {
    let flags = fcntl_getfl(&fd)?;
    fcntl_setfl(&fd, flags | OFlags::NONBLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        assert_eq!(parse("").unwrap(), Target::Null);
        assert_eq!(parse("attach:").unwrap(), Target::Attach);
        assert_eq!(parse("/run/x").unwrap(), Target::Path("/run/x".into()));
        assert_eq!(
            parse("fifo:///run/x").unwrap(),
            Target::Path("/run/x".into())
        );
        assert_eq!(
            parse("file:///var/log/x").unwrap(),
            Target::File("/var/log/x".into())
        );
        for bad in [
            "relative",
            "http://x",
            "file://relative",
            "binary://relative",
            "fifo://",
        ] {
            assert!(matches!(parse(bad), Err(OpenError::Uri { .. })), "{bad}");
        }
    }
}
