//! A process's stdio: from its pipes or terminal to everyone who listens, and back.
//!
//! ```text
//!   stdout, stderr ─▶ Output ─┬─▶ log                   FIFO ──┐
//!   (pipe or pty)             ├─▶ FIFO, file, logger           ├──▶ Input ─▶ stdin
//!                             └─▶ attached clients ────────────┘         (pipe or pty)
//! ```
//!
//! Nothing here waits: [`Io::interest`] says what to poll for, [`Io::ready`] moves what
//! can move. Back-pressure is one rule: what could not be passed on is kept, and nothing more
//! is read from where it came before it has gone.

mod client;
mod input;
pub mod logger;
pub mod open;
mod output;
pub mod prepare;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;

pub use client::Client;
pub use input::Input;
pub use output::{Output, Sink};

use output::{Reader, Spliced, look_for_readers};

use crate::attach::Size;
use crate::log::{Log, Stream};

/// One read's worth. The pipes' own capacity is 64 KiB; less keeps the supervisor small.
pub const SCRATCH: usize = 32 << 10;
/// How often a source is read at one wake-up: a burst needs few polls, and others have their turn.
const BURST: usize = 16;
/// How soon a FIFO whose reader must still read is looked at again, at first and at the most: the kernel
/// tells nobody that a pipe is empty.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(20)];
/// After so long at most, where an exited process's FIFO has had no reader yet: as good as never, as it takes twice as long each time.
const LINGER: Duration = Duration::from_secs(86_400);

/// Which descriptor of an [`Io`] is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Source(usize),
    Sink(usize, usize),
    Fifo,
    InputSink,
    Client(u32),
}

/// Everything that is connected to one process.
#[derive(Debug, Default)]
pub struct Io {
    pub outputs: Vec<Output>,
    pub input: Option<Input>,
    pub log: Option<Log>,
    pub clients: Vec<Client>,
    /// The terminal's master, for its size.
    pub console: Option<OwnedFd>,
    /// The size that a client asked for before there was a terminal.
    pub early_size: Option<Size>,
    /// Output goes to attached clients only: before the first has come it waits.
    pub awaits_client: bool,
    /// When something last moved.
    pub progress: Option<Instant>,
    /// The first failure to write the log; the container does not suffer for it.
    pub log_failure: Option<std::io::Error>,
    /// The first failure of a sink, which was then let go.
    pub sink_failure: Option<Errno>,
    /// When a FIFO's reader last took something of an exited process.
    pub taken: Option<Instant>,
    /// When to look again whether a reader has read, and after how long the last time.
    pub look_again: Option<(Instant, Duration)>,
    /// Whether the exit was told: what is left goes out, and ends are closed as soon as they can be.
    told: bool,
}

/// How far the output of an exited process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Everybody has taken what the process wrote.
    Done,
    /// So far so good, but another process holds the pipe open.
    Held,
    /// A FIFO's reader, which will go when it hears of the exit, has not taken everything yet.
    Slow,
    /// Somebody else has not, or there is nobody.
    Blocked,
}

impl Io {
    /// Calls `add` for each descriptor that matters now.
    pub fn interest<'a>(&'a self, mut add: impl FnMut(BorrowedFd<'a>, PollFlags, Part)) {
        for (i, output) in self.outputs.iter().enumerate() {
            for (j, sink) in output.sinks.iter().enumerate() {
                if sink.is_behind() {
                    add(sink.as_fd(), PollFlags::OUT, Part::Sink(i, j));
                }
            }
            // A blocked source is left out whole: its hang-up would wake the poll without end.
            if let Some(source) = &output.source
                && !self.is_blocked(i)
            {
                add(source.as_fd(), PollFlags::IN, Part::Source(i));
            }
        }
        let mut input_behind = false;
        if let Some(input) = &self.input {
            input_behind = input.is_behind();
            match input_behind {
                true => input.sink.iter().for_each(|s| {
                    add(s.as_fd(), PollFlags::OUT, Part::InputSink);
                }),
                false => input.fifo().into_iter().for_each(|f| {
                    add(f, PollFlags::IN, Part::Fifo);
                }),
            }
        }
        for client in &self.clients {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::OUT, client.is_behind());
            let wait = client.hello.stdin && input_behind;
            flags.set(PollFlags::IN, !client.read_closed && !wait);
            add(client.as_fd(), flags, Part::Client(client.id));
        }
    }

    fn is_blocked(&self, output: usize) -> bool {
        let output = &self.outputs[output];
        let behind = |c: &Client| c.wants(output.stream) && c.is_behind();
        output.sinks.iter().any(Sink::is_behind)
            || self.clients.iter().any(behind)
            || (self.awaits_client && self.clients.is_empty())
    }

    /// Moves what can move at one descriptor.
    pub fn ready(&mut self, part: Part, scratch: &mut [u8]) {
        self.progress = Some(Instant::now());
        match part {
            Part::Source(i) => self.read_burst(i, scratch),
            Part::Sink(i, j) => {
                if let Some(output) = self.outputs.get_mut(i) {
                    output.flush(j);
                }
            }
            Part::Fifo => {
                if let Some(input) = &mut self.input {
                    input.read_fifo(scratch);
                }
            }
            Part::InputSink => {
                if let Some(input) = &mut self.input {
                    input.flush(scratch);
                }
            }
            Part::Client(id) => self.serve_client(id, scratch),
        }
        self.drop_failed_sinks();
        if self.told {
            self.end_what_can();
        }
    }

    fn drop_failed_sinks(&mut self) {
        for output in &mut self.outputs {
            let why = output.drop_failed();
            self.sink_failure = self.sink_failure.or(why);
        }
    }

    fn read_burst(&mut self, i: usize, scratch: &mut [u8]) {
        for _ in 0..BURST {
            if !self.read_source(i, scratch) || self.is_blocked(i) {
                return;
            }
        }
    }

    /// Moves what is there once. Whether more may be there.
    fn read_source(&mut self, i: usize, scratch: &mut [u8]) -> bool {
        let alone = self.log.is_none() && self.clients.is_empty() && self.console.is_none();
        let Some(output) = self.outputs.get_mut(i) else {
            return false;
        };
        if alone {
            match output.splice() {
                Spliced::Moved => return true,
                Spliced::Stuck => return false,
                Spliced::End => {
                    output.source = None;
                    return false;
                }
                Spliced::Unable => {}
            }
        }
        let Some(source) = &output.source else {
            return false;
        };
        match rustix::io::read(source, &mut *scratch) {
            Ok(n) if n > 0 => {
                output.read += n as u64;
                self.deliver(i, &scratch[..n]);
                return n == scratch.len();
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EIO: the last process on the terminal has closed it.
            Ok(_) | Err(_) => output.source = None,
        }
        false
    }

    fn deliver(&mut self, i: usize, bytes: &[u8]) {
        let output = &mut self.outputs[i];
        let stream = output.stream;
        if let Some(log) = &mut self.log
            && let Err(error) = log.write(stream, bytes)
        {
            self.log_failure.get_or_insert(error);
        }
        output.send(bytes);
        for client in self.clients.iter_mut().filter(|c| c.wants(stream)) {
            client.send_output(stream, bytes);
        }
        self.drop_gone_clients();
    }

    fn serve_client(&mut self, id: u32, scratch: &mut [u8]) {
        let Some(client) = self.clients.iter_mut().find(|c| c.id == id) else {
            return;
        };
        client.flush();
        let behind = self.input.as_ref().is_some_and(Input::is_behind);
        let must_wait = client.hello.stdin && behind;
        if !client.read_closed && !must_wait {
            client.receive(scratch);
            self.take_frames(id, scratch);
        }
        self.drop_gone_clients();
    }

    /// Acts on what a client has sent. Called for a new client too: bytes may have come with its hello.
    pub fn take_frames(&mut self, id: u32, scratch: &mut [u8]) {
        let Some(client) = self.clients.iter_mut().find(|c| c.id == id) else {
            return;
        };
        while let Some(action) = client.next_action() {
            match (action, &mut self.input) {
                (client::Action::Stdin(bytes), Some(input)) => input.push(&bytes),
                (client::Action::StdinEnd, Some(input)) if input.once => input.close(scratch),
                (client::Action::Resize(size), _) => {
                    match &self.console {
                        // A terminal that is gone has no size: nothing to report to anybody.
                        Some(console) => {
                            let _ = corten_sys::pty::resize(console, size.rows, size.cols);
                        }
                        None => self.early_size = Some(size),
                    }
                }
                _ => {}
            }
        }
    }

    fn drop_gone_clients(&mut self) {
        let once = |c: &Client| c.hello.stdin && c.is_gone();
        if self.clients.iter().any(once)
            && let Some(input) = &mut self.input
            && input.once
        {
            input.close(&mut [0; 512]);
        }
        self.clients.retain(|c| !c.is_gone());
    }

    /// Adds a client whose hello was taken.
    pub fn add_client(&mut self, client: Client, scratch: &mut [u8]) {
        let id = client.id;
        self.awaits_client = false;
        self.clients.push(client);
        self.take_frames(id, scratch);
        self.drop_gone_clients();
    }

    pub fn resize(&self, size: Size) -> Result<(), Errno> {
        match &self.console {
            Some(console) => corten_sys::pty::resize(console, size.rows, size.cols),
            None => Err(Errno::NOTTY),
        }
    }

    /// How far the output has come. Reads what is in the pipes first, as far as it can be passed on.
    /// `long`: others have held the pipes open for long enough, and are not waited for.
    pub fn drain(&mut self, scratch: &mut [u8], long: bool) -> Drain {
        let (mut slow, mut blocked, mut held, mut all_read) = (false, false, false, true);
        for i in 0..self.outputs.len() {
            self.pull(i, scratch, long);
        }
        let looked: Vec<_> = self.outputs.iter_mut().map(Output::look).collect();
        if looked.iter().any(|l| l.pending) {
            look_for_readers(&mut self.outputs);
        }
        if looked.iter().any(|l| l.moved) {
            self.taken = Some(Instant::now());
        }
        for output in &mut self.outputs {
            held |= output.source.is_some();
            all_read &= output.has_read();
            for sink in output.sinks.iter_mut().filter(|s| s.pending) {
                match sink.reader() {
                    Reader::Alive if sink.is_read_elsewhere() => slow = true,
                    Reader::Alive | Reader::Missing => blocked |= sink.is_behind(),
                    Reader::Unneeded => {}
                }
            }
        }
        self.drop_failed_sinks();
        self.clients.iter_mut().for_each(|c| c.mark(all_read));
        blocked |= self.clients.iter().any(Client::owes) || (held && self.awaits_client);
        self.look_again(slow, LOOK_AGAIN[1]);
        match () {
            () if slow => Drain::Slow,
            () if blocked => Drain::Blocked,
            () if held && !(long && all_read) => Drain::Held,
            () => Drain::Done,
        }
    }

    /// Sets when to look at FIFOs' readers, if there is one to wait for: after twice as long as the last time.
    fn look_again(&mut self, needed: bool, most: Duration) {
        let now = Instant::now();
        self.look_again = match self.look_again {
            _ if !needed => None,
            Some(set) if set.0 > now => Some(set),
            Some((_, after)) => Some((now + most.min(after * 2), most.min(after * 2))),
            None => Some((now + LOOK_AGAIN[0], LOOK_AGAIN[0])),
        };
    }

    /// When a reader is looked for that was not there when the exit was told.
    pub fn lingers_until(&self) -> Option<Instant> {
        self.look_again.filter(|_| self.told).map(|(at, _)| at)
    }

    /// Looks for it, if it is time.
    pub fn linger(&mut self) {
        if self.lingers_until().is_some_and(|at| at <= Instant::now()) {
            self.end_what_can();
        }
    }

    /// Reads a source until it is empty, has ended or cannot be passed on. Notes at the first time how much
    /// there is: the process has exited, and what follows is not its own.
    fn pull(&mut self, i: usize, scratch: &mut [u8], long: bool) {
        let output = &mut self.outputs[i];
        if output.goal.is_none() {
            // A terminal does not say how much is on its way.
            let there = output.source.as_ref().filter(|_| self.console.is_none());
            let there = there.map(|s| rustix::io::ioctl_fionread(s).unwrap_or(0));
            output.goal = Some(there.map_or(u64::MAX, |n| output.read + n));
        }
        // A pipe holds 64 KiB, or up to 1 MiB if its holder asked for it.
        for _ in 0..(1 << 20) / SCRATCH {
            if self.outputs[i].source.is_none() || self.is_blocked(i) || !self.has_input(i) {
                break;
            }
            self.progress = Some(Instant::now());
            self.read_source(i, scratch);
        }
        // Nobody stands in the way, and yet it has not ended: what comes now is others'.
        if long && !self.is_blocked(i) {
            let output = &mut self.outputs[i];
            output.goal = output.goal.map(|g| g.min(output.read));
        }
    }

    fn has_input(&self, i: usize) -> bool {
        let Some(source) = &self.outputs[i].source else {
            return false;
        };
        let mut fds = [rustix::event::PollFd::new(source, PollFlags::IN)];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(n) if n > 0)
    }

    /// The process has exited and its exit is about to be told: no more input, the log's
    /// last line, and the end to everybody who has taken everything. The others keep their place until [`close`](Self::close).
    pub fn finish(&mut self) {
        self.input = None;
        if let Some(log) = &mut self.log
            && let Err(error) = log.finish()
        {
            self.log_failure.get_or_insert(error);
        }
        self.awaits_client = false;
        self.look_again = None;
        self.told = true;
        self.end_what_can();
    }

    fn end_what_can(&mut self) {
        self.clients.retain(Client::is_behind);
        look_for_readers(&mut self.outputs);
        for output in self.outputs.iter_mut().filter(|o| o.source.is_none()) {
            output.sinks.retain_mut(|s| !s.can_end());
        }
        let ended = self.outputs.iter().filter(|o| o.source.is_none());
        let awaited = ended.flat_map(|o| &o.sinks).any(Sink::awaits_reader);
        self.look_again(awaited, LINGER);
    }

    /// Bytes that are lost if everything is let go now, or were before.
    pub fn leftover(&mut self) -> u64 {
        look_for_readers(&mut self.outputs);
        let outputs = self.outputs.iter_mut();
        outputs
            .map(|o| o.lost + o.sinks.iter_mut().map(Sink::leftover).sum::<u64>())
            .sum()
    }

    /// Lets go of everything. What a reader has not taken by now it never will.
    pub fn close(&mut self) {
        *self = Self {
            log_failure: self.log_failure.take(),
            ..Self::default()
        };
    }

    /// Adds the source of a stream, with the sinks that were opened for it.
    pub fn add_output(&mut self, stream: Stream, source: OwnedFd, sinks: Vec<Sink>) {
        self.outputs.push(Output::new(stream, source, sinks));
    }
}
