//! What a stdio URI means, and opening it.
//!
//! | text | meaning |
//! | --- | --- |
//! | empty | `/dev/null` |
//! | `attach:` | clients of `attach.sock` |
//! | a path, `fifo://` | a FIFO (a path may also be a regular file, which is appended to) |
//! | `file://` | a file, made if it is missing, appended to |
//! | `binary://`, `binary-v2://` | a logger program |
//!
//! `ttrpc+unix://…` (streams of containerd 2) is refused; docs/design/0006 says why.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, mknodat, open};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::Sink;
use super::input::Fifo;
use super::logger::{Logger, Started};

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
    #[error("stdio {uri:?} is a stream of containerd's transfer service, which is not spoken here")]
    Stream { uri: String },
    #[error("stdio {uri:?} is a folder")]
    Folder { uri: String },
    #[error("cannot open stdio {uri:?}: {errno}")]
    Open { uri: String, errno: Errno },
}

impl OpenError {
    pub fn kind(&self) -> corten_spec::Kind {
        match self {
            Self::Uri { .. } | Self::Folder { .. } => corten_spec::Kind::Invalid,
            Self::Stream { .. } => corten_spec::Kind::Unsupported,
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
        Some((scheme @ ("binary" | "binary-v2"), rest)) => {
            let logger = Logger::parse(rest, scheme == "binary-v2");
            logger.map(Target::Binary).ok_or_else(bad)
        }
        Some(("ttrpc+unix" | "ttrpc+hvsock", _)) => Err(OpenError::Stream { uri: uri.into() }),
        Some(_) => Err(bad()),
        None if uri.is_empty() => Ok(Target::Null),
        None if uri == "attach:" => Ok(Target::Attach),
        None => absolute(uri).map(Target::Path),
    }
}

/// The loggers that stdout and stderr need. Both may be one, which is then started once.
pub fn loggers(uris: [&str; 2]) -> Result<Vec<Logger>, OpenError> {
    let mut loggers = Vec::new();
    for uri in uris {
        if let Target::Binary(logger) = parse(uri)?
            && !loggers.contains(&logger)
        {
            loggers.push(logger);
        }
    }
    Ok(loggers)
}

/// The sinks of stdout and stderr. The [`loggers`] are those that were started for them.
pub fn sinks(uris: [&str; 2], loggers: Vec<Started>) -> Result<[Option<Sink>; 2], OpenError> {
    let mut loggers: Vec<_> = loggers
        .into_iter()
        .map(|s| (s.logger, s.ends.map(Some)))
        .collect();
    let mut sink = |place: usize| match parse(uris[place])? {
        Target::Null | Target::Attach => Ok(None),
        Target::Path(path) => opened(open_path(&path), uris[place]),
        Target::File(path) => opened(open_file(&path), uris[place]),
        Target::Binary(logger) => {
            let started = loggers.iter_mut().find(|(l, _)| *l == logger);
            let end = started.and_then(|(_, ends)| ends[place].take());
            opened(end.ok_or(Errno::CHILD), uris[place])
        }
    };
    Ok([sink(0)?, sink(1)?])
}

pub fn failed(uri: &str, errno: Errno) -> OpenError {
    let uri = uri.into();
    match errno {
        Errno::ISDIR => OpenError::Folder { uri },
        errno => OpenError::Open { uri, errno },
    }
}

fn opened(fd: Result<OwnedFd, Errno>, uri: &str) -> Result<Option<Sink>, OpenError> {
    fd.map(|fd| Some(Sink::new(fd)))
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
    // What waits to be opened, as a FIFO that nobody reads does, is refused instead.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC;
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
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
        let stream = parse("ttrpc+unix:///run/c.sock?streaming_id=x").unwrap_err();
        assert_eq!(stream.kind(), corten_spec::Kind::Unsupported);
        for (uri, strict) in [("binary:///bin/x", false), ("binary-v2:///bin/x", true)] {
            assert!(matches!(parse(uri).unwrap(), Target::Binary(l) if l.says_ready == strict));
        }
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
