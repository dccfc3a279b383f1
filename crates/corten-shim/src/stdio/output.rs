//! One stream from a process, and where it goes.
//!
//! What a process wrote has *arrived* once those who were to get it have taken it. For a FIFO that is not the `write` but the
//! read at its other end: clients of containerd close their end as soon as they hear of the exit. For a
//! logger the pipe is enough, since nobody ends it early.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use crate::log::Stream;

/// What `splice` moves at once at most: more than a pipe holds, unless somebody has enlarged it.
pub(super) const SPLICE: usize = 1 << 20;

/// A stream of a process.
#[derive(Debug)]
pub struct Output {
    pub stream: Stream,
    /// Where it comes from, without blocking; `None` after its end.
    pub source: Option<OwnedFd>,
    pub sinks: Vec<Sink>,
    /// Bytes taken from the source.
    pub read: u64,
    /// How much there was when the process had exited: what comes later is another's.
    pub goal: Option<u64>,
    /// Bytes that went nowhere.
    pub lost: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fifo,
    Pipe,
    File,
}

/// A descriptor that takes everything: a FIFO, a file, a logger's pipe.
#[derive(Debug)]
pub struct Sink {
    fd: OwnedFd,
    kind: Kind,
    behind: Vec<u8>,
    /// `splice` found no room; the bytes are still in the source.
    full: bool,
    /// What the FIFO held when last looked at.
    unread: u64,
    /// How many bytes of the output its reader has taken, when last looked at.
    taken: u64,
    /// Whether that is not yet all that the process wrote.
    pub pending: bool,
    /// Whether a FIFO had a reader beside us, when last looked at.
    is_read: bool,
    /// Whether it ever had.
    was_read: bool,
    failed: Option<Errno>,
    /// Bytes for a file on a full disk.
    lost: u64,
}

/// Who is to take what a sink still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// All was taken.
    Unneeded,
    Alive,
    /// Nobody has the other end open.
    Missing,
}

impl Sink {
    pub fn new(fd: OwnedFd) -> Self {
        let is_pipe = rustix::fs::fstat(&fd)
            .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Fifo);
        let reads = rustix::fs::fcntl_getfl(&fd).is_ok_and(|f| f.contains(OFlags::RDWR));
        let kind = match (is_pipe, reads) {
            (true, true) => Kind::Fifo,
            (true, false) => Kind::Pipe,
            _ => Kind::File,
        };
        Self {
            fd,
            kind,
            behind: Vec::new(),
            full: false,
            unread: 0,
            taken: 0,
            pending: false,
            is_read: true,
            was_read: false,
            failed: None,
            lost: 0,
        }
    }

    /// Whether it must take something before its source is read again.
    pub fn is_behind(&self) -> bool {
        self.full || !self.behind.is_empty()
    }

    /// Whether its reader is a client that goes away when it hears of the exit.
    pub fn is_read_elsewhere(&self) -> bool {
        self.kind == Kind::Fifo
    }

    fn send(&mut self, bytes: &[u8]) {
        match write_some(self.fd.as_fd(), bytes) {
            Ok(n) if n == bytes.len() => {}
            Ok(n) => self.behind.extend_from_slice(&bytes[n..]),
            Err(errno) => self.fail(errno, bytes.len()),
        }
    }

    /// A file may have room again later. Another reader is gone for good (a FIFO of ours always has
    /// one): the container goes on.
    fn fail(&mut self, errno: Errno, bytes: usize) {
        self.failed = Some(errno);
        self.lost += bytes as u64;
        self.behind = Vec::new();
    }

    fn flush(&mut self) {
        self.full = false;
        match write_some(self.fd.as_fd(), &self.behind) {
            Ok(n) if n == self.behind.len() => self.behind = Vec::new(),
            Ok(n) => drop(self.behind.drain(..n)),
            Err(errno) => self.fail(errno, self.behind.len()),
        }
    }

    /// How many bytes a FIFO's reader has not taken, with those that are here.
    fn look(&mut self) -> u64 {
        self.unread = match self.kind {
            Kind::Fifo => rustix::io::ioctl_fionread(&self.fd).unwrap_or(0),
            Kind::Pipe | Kind::File => 0,
        };
        self.unread + self.behind.len() as u64
    }

    /// Who takes what is left. For FIFOs as [`look_for_readers`] has last seen it.
    pub fn reader(&mut self) -> Reader {
        let left = self.look();
        match self.kind {
            _ if left == 0 && !self.full => Reader::Unneeded,
            Kind::Fifo if !self.is_read => Reader::Missing,
            Kind::Pipe | Kind::File if has_hung_up(self.fd.as_fd()) => Reader::Missing,
            _ => Reader::Alive,
        }
    }

    /// Opens it anew. What a FIFO holds stays in it as long as either end is open.
    fn reopen(&mut self, flags: OFlags) -> Result<(), Errno> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
        self.fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(())
    }

    /// Nothing more will come: whether its reader can be shown the end. A FIFO that holds something and has
    /// no reader keeps it for the next; one that has never had a reader waits for the first, who may still be on
    /// the way to opening it, and would then wait for a writer for ever.
    pub fn can_end(&mut self) -> bool {
        let left = self.look();
        !self.is_behind() && (!self.awaits_reader() || (self.was_read && left == 0))
    }

    /// Whether it is a FIFO without a reader, when last looked at.
    pub fn awaits_reader(&self) -> bool {
        self.kind == Kind::Fifo && !self.is_read
    }

    /// Bytes that nobody will get if it is closed now.
    pub fn leftover(&mut self) -> u64 {
        match (self.reader(), self.kind) {
            (Reader::Unneeded, _) => 0,
            (Reader::Missing, Kind::Fifo) => self.behind.len() as u64 + self.unread,
            _ => self.behind.len() as u64,
        }
    }
}

/// Finds out which FIFOs have readers. Our own descriptors read too, and two may be of one FIFO; for a moment they
/// do not, and the kernel says whether anybody else does.
pub fn look_for_readers(outputs: &mut [Output]) {
    let sinks = outputs.iter_mut().flat_map(|o| &mut o.sinks);
    let mut fifos: Vec<&mut Sink> = sinks.filter(|s| s.kind == Kind::Fifo).collect();
    // What cannot be found out counts as alive: that is bounded as well.
    let closed = fifos.iter_mut().all(|f| f.reopen(OFlags::WRONLY).is_ok());
    for fifo in &mut fifos {
        fifo.is_read = !(closed && has_hung_up(fifo.fd.as_fd()));
        fifo.was_read |= fifo.is_read;
    }
    for fifo in fifos {
        // Without it a reader's end would be the container's: nothing more can be sent.
        if let Err(errno) = fifo.reopen(OFlags::RDWR) {
            fifo.failed = Some(errno);
        }
    }
}

/// Whether the other end of a pipe is closed.
fn has_hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(poll(&mut fds, Some(&now)), Ok(n) if n > 0)
        && fds[0].revents().contains(PollFlags::ERR)
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What moving bytes without looking at them came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spliced {
    Moved,
    /// Nothing moves now: the source is empty or the sink full.
    Stuck,
    End,
    /// These two are not to be spliced: read and write.
    Unable,
}

/// What came of looking at the readers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looked {
    /// Somebody has not taken everything.
    pub pending: bool,
    /// Somebody who had not has taken some.
    pub moved: bool,
}

impl Output {
    pub fn new(stream: Stream, source: OwnedFd, sinks: Vec<Sink>) -> Self {
        Self {
            stream,
            source: Some(source),
            sinks,
            read: 0,
            goal: None,
            lost: 0,
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.sinks.iter_mut().for_each(|s| s.send(bytes));
    }

    /// Moves pages from pipe to pipe: nobody else wants to see them.
    pub fn splice(&mut self) -> Spliced {
        let (Some(source), [sink]) = (&self.source, &mut self.sinks[..]) else {
            return Spliced::Unable;
        };
        if sink.kind == Kind::File || !sink.behind.is_empty() {
            return Spliced::Unable;
        }
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        match splice(source, None, &sink.fd, None, SPLICE, flags) {
            Ok(0) => Spliced::End,
            Ok(n) => {
                self.read += n as u64;
                Spliced::Moved
            }
            Err(Errno::AGAIN) => {
                // If there was something to move, it is the sink that has no room.
                sink.full = rustix::io::ioctl_fionread(source).is_ok_and(|n| n > 0);
                Spliced::Stuck
            }
            Err(Errno::INTR) => Spliced::Stuck,
            Err(Errno::PIPE) => {
                sink.failed = Some(Errno::PIPE);
                Spliced::Unable
            }
            Err(_) => Spliced::Unable,
        }
    }

    pub fn flush(&mut self, sink: usize) {
        if let Some(sink) = self.sinks.get_mut(sink) {
            sink.flush();
        }
    }

    /// Lets go of readers that are gone. Why the first of all failed.
    pub fn drop_failed(&mut self) -> Option<Errno> {
        let mut why = None;
        for sink in &mut self.sinks {
            why = why.or(sink.failed);
            self.lost += std::mem::take(&mut sink.lost);
            if sink.kind == Kind::File {
                sink.failed = None;
            }
        }
        // Positions are only asked for again at the next poll.
        self.sinks.retain(|s| s.failed.is_none());
        why
    }

    /// Looks at what the sinks' readers have taken.
    pub fn look(&mut self) -> Looked {
        let mut looked = Looked::default();
        // Of an output that goes on, only what came before its goal counts.
        let goal = self.goal.filter(|_| self.source.is_some());
        for sink in &mut self.sinks {
            let taken = self.read.saturating_sub(sink.look());
            looked.moved |= sink.pending && taken > sink.taken;
            // Two streams may share a FIFO: what the other adds is no step back.
            sink.taken = sink.taken.max(taken);
            sink.pending = sink.taken < goal.unwrap_or(self.read);
            looked.pending |= sink.pending;
        }
        looked
    }

    /// Whether everything that the exited process wrote has been read.
    pub fn has_read(&self) -> bool {
        self.source.is_none() || self.goal.is_some_and(|g| self.read >= g)
    }
}

/// Writes until the other side takes no more.
pub(super) fn write_some(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::write(fd, &bytes[done..]) {
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            // Told the next time.
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}
