//! Reading a container's log, which the supervisor writes in CRI's format: a line is
//! `TIME STREAM P|F TEXT`, where P marks a piece of a longer line, in one file or several (`corten-shim`'s `log` says how they
//! rotate).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use corten_shim::log::follow;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;

use super::record::Container;
use crate::error::{Error, Is};
use crate::{Engine, clock};

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
    /// Nothing before this time, and nothing after that; nanoseconds since 1970.
    pub since: Option<i64>,
    pub until: Option<i64>,
}

impl Engine {
    /// Hands each entry to `sink`, in order, until the log ends; with `follow`, until the container has, for good.
    /// A `sink` that returns false ends it earlier.
    pub fn logs(
        &self,
        container: &Container,
        options: &LogOptions,
        mut sink: impl FnMut(Entry) -> bool,
    ) -> Result<(), Error> {
        if container.record.options.log.none {
            return Err(Error::ContainerState {
                name: container.name.to_string(),
                action: "asked for its output",
                source: Is("without a log: its log driver is none"),
            });
        }
        let path = self.paths.log(&container.id);
        let failed = |e: io::Error| Error::io("read", &path)(e);
        let watch = match options.follow {
            true => Some(watch(&self.paths.container(&container.id)).map_err(failed)?),
            false => None,
        };
        let (since, until) = (options.since.map(stamp), options.until.map(stamp));
        let mut wanted = |entry: Entry| {
            if since.as_ref().is_some_and(|s| entry.time < *s) {
                return true;
            }
            until.as_ref().is_none_or(|u| entry.time <= *u) && sink(entry)
        };
        let mut log = Log::open(&path).map_err(failed)?;
        if let Some(lines) = options.tail {
            log.skip_to_tail(lines).map_err(failed)?;
        }
        loop {
            // Asked before reading: what was written before the end is then surely read.
            let over = options.until.is_some_and(|u| clock::nanoseconds() > u);
            let running = options.follow && !over && self.status(container)?.is_active();
            if !log.drain(&mut wanted).map_err(failed)? || !running {
                return Ok(());
            }
            if let Some(watch) = &watch {
                wait_for_change(watch).map_err(failed)?;
            }
        }
    }
}

/// As the log writes times, which compare as texts.
fn stamp(nanoseconds: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds));
    time.map_or_else(
        |_| String::new(),
        |t| t.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string(),
    )
}

/// The files of a log, from where it is read, and the bytes of a line whose end is not written yet. Files that were opened once are
/// read to their end, wherever rotation moves them.
struct Log {
    path: PathBuf,
    /// The file that is read, then those after it that are known.
    files: VecDeque<BufReader<File>>,
    partial: Vec<u8>,
}

impl Log {
    fn open(path: &Path) -> io::Result<Self> {
        let mut log = Self {
            path: path.into(),
            files: VecDeque::new(),
            partial: Vec::new(),
        };
        // Each from the one before: what is found is without a gap, whatever is rotated meanwhile.
        while let Some(file) = log.find_next()? {
            log.files.push_back(reader(file));
        }
        Ok(log)
    }

    /// The file after the last that is known. A container that has written nothing may have none yet.
    fn find_next(&self) -> io::Result<Option<File>> {
        if let Some(last) = self.files.back() {
            return follow::successor(&self.path, last.get_ref());
        }
        // The oldest may go as it is looked for.
        for _ in 0..100 {
            let Some(oldest) = follow::files(&self.path).into_iter().next() else {
                return Ok(None);
            };
            match File::open(oldest) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                opened => return opened.map(Some),
            }
        }
        Ok(None)
    }

    fn drain(&mut self, sink: &mut impl FnMut(Entry) -> bool) -> io::Result<bool> {
        loop {
            if !self.drain_file(sink)? {
                return Ok(false);
            }
            if self.files.len() < 2 {
                match self.find_next()? {
                    Some(next) => self.files.push_back(reader(next)),
                    None => return Ok(true),
                }
            }
            if self.files.len() < 2 {
                // The first file of all.
                continue;
            }
            // Nothing is written any more to a file that has a successor: the rest of it, then.
            if !self.drain_file(sink)? {
                return Ok(false);
            }
            self.partial.clear();
            self.files.pop_front();
        }
    }

    fn drain_file(&mut self, sink: &mut impl FnMut(Entry) -> bool) -> io::Result<bool> {
        let Some(file) = self.files.front_mut() else {
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

    /// Moves to where the last so many lines start. What stands after the last line's end is a line, too.
    fn skip_to_tail(&mut self, lines: usize) -> io::Result<()> {
        let mut wanted = lines.saturating_add(1);
        for at in (0..self.files.len()).rev() {
            let newest = at + 1 == self.files.len();
            let file = &mut self.files[at];
            let ends = line_ends(file, wanted, newest)?;
            if ends.len() < wanted {
                wanted -= ends.len();
                continue;
            }
            file.seek(SeekFrom::Start(ends[ends.len() - wanted]))?;
            self.files.drain(..at);
            return self.rewind_others();
        }
        self.files.iter_mut().try_for_each(|f| f.rewind())
    }

    /// All but the first are read from their beginning.
    fn rewind_others(&mut self) -> io::Result<()> {
        self.files.iter_mut().skip(1).try_for_each(|f| f.rewind())
    }
}

fn reader(file: File) -> BufReader<File> {
    BufReader::with_capacity(64 << 10, file)
}

/// Where the last so many lines of a file end, in one pass forward: lines are few bytes or many. With `newest`, pieces without an
/// end are a line that ends with the file.
fn line_ends(file: &mut BufReader<File>, most: usize, newest: bool) -> io::Result<VecDeque<u64>> {
    file.rewind()?;
    let all = file.get_ref().metadata()?.len();
    let mut ends = VecDeque::new();
    let (mut at, mut line) = (0u64, Vec::new());
    while at < all {
        line.clear();
        let n = io::Read::take(&mut *file, MAX_LINE).read_until(b'\n', &mut line)?;
        if n == 0 {
            break;
        }
        at += n as u64;
        let open = parse(line.strip_suffix(b"\n").unwrap_or(&line)).is_some_and(|e| !e.whole);
        if !open || (newest && at >= all) {
            ends.push_back(at);
            if ends.len() > most {
                ends.pop_front();
            }
        }
    }
    Ok(ends)
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

    /// A log of these files, oldest first.
    fn log_of(texts: &[&str]) -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for (age, text) in texts.iter().rev().enumerate() {
            let name = match age {
                0 => "log".to_string(),
                n => format!("log.{n}"),
            };
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let log = Log::open(&path).unwrap();
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
    fn the_tail_counts_whole_lines_over_files() {
        let parts = [
            "t stdout F a\nt stdout P b1\n",
            "t stdout F b2\n",
            "t stdout F c\n",
        ];
        let whole = parts.concat();
        for files in [&parts[..], &[whole.as_str()]] {
            for (n, want) in [
                (0, vec![]),
                (1, vec!["c"]),
                (2, vec!["b1", "b2", "c"]),
                (3, vec!["a", "b1", "b2", "c"]),
                (9, vec!["a", "b1", "b2", "c"]),
            ] {
                let (_dir, mut log) = log_of(files);
                log.skip_to_tail(n).unwrap();
                assert_eq!(texts(&mut log), want, "{n}");
            }
        }
        let (_dir, mut log) = log_of(&["t stdout F a\n", "t stdout F b\nt stdout P no end\n"]);
        log.skip_to_tail(1).unwrap();
        assert_eq!(texts(&mut log), ["no end"]);
    }

    #[test]
    fn half_a_line_waits_for_its_end() {
        let (dir, mut log) = log_of(&["t stdout F a\nt stdout F b"]);
        assert_eq!(texts(&mut log), ["a"]);
        use std::io::Write as _;
        let mut f = std::fs::OpenOptions::new()
            .append(true)
            .open(dir.path().join("log"))
            .unwrap();
        f.write_all(b"c\n").unwrap();
        assert_eq!(texts(&mut log), ["bc"]);
    }

    #[test]
    fn a_reader_that_is_slow_misses_nothing_that_is_rotated_meanwhile() {
        use std::fs::rename;
        use std::io::Write as _;
        let (dir, mut log) = log_of(&["t stdout F 1\n", "t stdout F 2\n"]);
        let at = |name: &str| dir.path().join(name);
        let mut seen = texts(&mut log);
        for n in 3..20 {
            // Twice between two reads: the file that is read has gone two places up, or away.
            let mut current = std::fs::OpenOptions::new()
                .append(true)
                .open(at("log"))
                .unwrap();
            writeln!(current, "t stdout F {n}a").unwrap();
            for text in [format!("t stdout F {n}b\n"), String::new()] {
                rename(at("log.1"), at("log.2")).unwrap();
                rename(at("log"), at("log.1")).unwrap();
                std::fs::write(at("log"), text).unwrap();
            }
            seen.extend(texts(&mut log));
        }
        let mut want = vec!["1".to_string(), "2".into()];
        want.extend((3..20).flat_map(|n| [format!("{n}a"), format!("{n}b")]));
        assert_eq!(seen, want);
    }

    #[test]
    fn times_compare_as_the_log_writes_them() {
        assert_eq!(
            stamp(1_795_445_201_000_000_001),
            "2026-11-23T14:46:41.000000001Z"
        );
        assert_eq!(stamp(0), "1970-01-01T00:00:00.000000000Z");
    }
}
