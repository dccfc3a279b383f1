//! Reading a container's log, which the supervisor writes in CRI's format: a line is
//! `TIME STREAM P|F TEXT`, where P marks a piece of a longer line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::record::Container;
use crate::Engine;
use crate::error::Error;

/// The supervisor bounds its lines at 16 KiB; more is not its writing.
const MAX_LINE: u64 = 1 << 20;
/// How long a follower sleeps at most before it looks whether the container still runs.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    pub stream: Stream,
    /// Without the newline, which `whole` stands for.
    pub text: Vec<u8>,
    /// Does a line end here?
    pub whole: bool,
}

/// Parses one line of the file, without its newline.
pub fn parse(line: &[u8]) -> Option<Entry> {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let whole = match fields.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Entry {
        time: time.into(),
        stream,
        text: fields.next().unwrap_or_default().to_vec(),
        whole,
    })
}

/// What part of a log is wanted.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    pub follow: bool,
    /// Only so many lines from the end.
    pub tail: Option<usize>,
}

impl Engine {
    /// Hands each entry to `sink`, in order, until the log ends; with `follow`, until the container has.
    /// A `sink` that returns false ends it earlier.
    pub fn logs(
        &self,
        container: &Container,
        options: &LogOptions,
        mut sink: impl FnMut(Entry) -> bool,
    ) -> Result<(), Error> {
        let path = self.paths.log(&container.id);
        let failed = |e: io::Error| Error::io("read", &path)(e);
        let watch = match options.follow {
            true => Some(watch(&self.paths.container(&container.id)).map_err(failed)?),
            false => None,
        };
        let mut log = Log::default();
        log.open(&path).map_err(failed)?;
        if let Some(lines) = options.tail {
            log.skip_to_tail(lines).map_err(failed)?;
        }
        loop {
            // Asked before reading: what was written before the end is then surely read.
            let running = options.follow && self.status(container)?.is_active();
            log.open(&path).map_err(failed)?;
            if !log.drain(&mut sink).map_err(failed)? || !running {
                return Ok(());
            }
            if let Some(watch) = &watch {
                wait_for_change(watch).map_err(failed)?;
            }
        }
    }
}

/// The file, and the bytes of a line whose end is not written yet.
#[derive(Default)]
struct Log {
    file: Option<BufReader<File>>,
    partial: Vec<u8>,
}

impl Log {
    /// A container that has written nothing may have no file yet.
    fn open(&mut self, path: &Path) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        match File::open(path) {
            Ok(f) => self.file = Some(BufReader::with_capacity(64 << 10, f)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn drain(&mut self, sink: &mut impl FnMut(Entry) -> bool) -> io::Result<bool> {
        let Some(file) = &mut self.file else {
            return Ok(true);
        };
        loop {
            let bounded = MAX_LINE.saturating_sub(self.partial.len() as u64);
            let n = io::Read::take(&mut *file, bounded).read_until(b'\n', &mut self.partial)?;
            let ended = self.partial.last() == Some(&b'\n');
            if n == 0 || (!ended && (self.partial.len() as u64) < MAX_LINE) {
                return Ok(true);
            }
            if ended {
                self.partial.pop();
            }
            let entry = parse(&self.partial);
            self.partial.clear();
            // A line that is not ours is passed over: the rest may still be.
            if let Some(entry) = entry
                && !sink(entry)
            {
                return Ok(false);
            }
        }
    }

    /// Moves to where the last `lines` whole lines start, reading backwards in blocks.
    fn skip_to_tail(&mut self, lines: usize) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let all = file.get_ref().metadata()?.len();
        // Whole lines are few bytes or many, so count forward: one pass, no memory but the offsets.
        let mut starts = std::collections::VecDeque::from([0u64]);
        let (mut at, mut line) = (0u64, Vec::new());
        while at < all {
            line.clear();
            let n = io::Read::take(&mut *file, MAX_LINE).read_until(b'\n', &mut line)?;
            if n == 0 {
                break;
            }
            at += n as u64;
            if parse(line.strip_suffix(b"\n").unwrap_or(&line)).is_none_or(|e| e.whole) {
                starts.push_back(at);
                if starts.len() > lines.saturating_add(1) {
                    starts.pop_front();
                }
            }
        }
        let start = match lines {
            0 => at,
            _ => starts.front().copied().unwrap_or(0),
        };
        file.seek(SeekFrom::Start(start))?;
        Ok(())
    }
}

/// Watches the container's folder: its log grows there, and the exit record appears there.
pub(super) fn watch(folder: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let events = inotify::WatchFlags::MODIFY
        | inotify::WatchFlags::CREATE
        | inotify::WatchFlags::MOVED_TO
        | inotify::WatchFlags::DELETE_SELF;
    inotify::add_watch(&fd, folder, events)?;
    Ok(fd)
}

pub(super) fn wait_for_change(watch: &std::os::fd::OwnedFd) -> io::Result<()> {
    let timeout = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(watch, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    let mut buffer = [0u8; 4096];
    while matches!(rustix::io::read(watch, &mut buffer), Ok(n) if n > 0) {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_format() {
        let e = parse(b"2026-01-02T03:04:05.000000006Z stdout F hello  you").unwrap();
        assert_eq!(
            (e.stream, e.whole, e.text.as_slice()),
            (Stream::Stdout, true, &b"hello  you"[..])
        );
        assert_eq!(parse(b"t stderr P ").unwrap().text, b"");
        assert!(parse(b"t stderr F").unwrap().text.is_empty());
        for bad in [
            &b""[..],
            b"t",
            b"t both F x",
            b"t stdout X x",
            b"\xff stdout F x",
        ] {
            assert_eq!(parse(bad), None);
        }
    }

    fn log_of(text: &str) -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, text).unwrap();
        let mut log = Log::default();
        log.open(&path).unwrap();
        (dir, log)
    }

    fn texts(log: &mut Log) -> Vec<String> {
        let mut out = vec![];
        log.drain(&mut |e| {
            out.push(String::from_utf8(e.text).unwrap());
            true
        })
        .unwrap();
        out
    }

    #[test]
    fn the_tail_counts_whole_lines() {
        let text = "t stdout F a\nt stdout P b1\nt stdout F b2\nt stdout F c\n";
        for (n, want) in [
            (0, vec![]),
            (1, vec!["c"]),
            (2, vec!["b1", "b2", "c"]),
            (9, vec!["a", "b1", "b2", "c"]),
        ] {
            let (_dir, mut log) = log_of(text);
            log.skip_to_tail(n).unwrap();
            assert_eq!(texts(&mut log), want, "{n}");
        }
    }

    #[test]
    fn half_a_line_waits_for_its_end() {
        let (dir, mut log) = log_of("t stdout F a\nt stdout F b");
        assert_eq!(texts(&mut log), ["a"]);
        use std::io::Write as _;
        let mut f = std::fs::OpenOptions::new()
            .append(true)
            .open(dir.path().join("log"))
            .unwrap();
        f.write_all(b"c\n").unwrap();
        assert_eq!(texts(&mut log), ["bc"]);
    }
}
