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
mod drain;
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
pub use drain::Drain;
pub use input::Input;
pub use output::{Output, Sink};

use output::Spliced;

use crate::attach::Size;
use crate::log::{Log, Stream};

/// One read's worth. The pipes' own capacity is 64 KiB; less keeps the supervisor small.
pub const SCRATCH: usize = 32 << 10;
/// How often a source is read at one wake-up: a burst needs few polls, and others have their turn.
const BURST: usize = 16;
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
    /// Output comes through another's hands (a foreign shim copies it): how much is on its way is known at its end only.
    pub by_others: bool,
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
            // Left out as well: it may have hung up, and is found gone at the next byte.
            if !flags.is_empty() {
                add(client.as_fd(), flags, Part::Client(client.id));
            }
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
        if !matches!(part, Part::Client(_)) {
            self.progress = Some(Instant::now());
        }
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
        // What it sends is no progress of the output: a client that takes nothing must not hold up the exit by talking.
        if client.flush() > 0 {
            self.progress = Some(Instant::now());
        }
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

    /// Adds the source of a stream, with the sinks that were opened for it.
    pub fn add_output(&mut self, stream: Stream, source: OwnedFd, sinks: Vec<Sink>) {
        self.outputs.push(Output::new(stream, source, sinks));
    }
}
