//! From the exit to the end of the output: how far it has come, and what is let go then.

use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::output::{Output, Reader, Sink, look_for_readers};
use super::{Client, Io, SCRATCH};

/// How soon a FIFO whose reader must still read is looked at again, at first and at the most: the kernel
/// tells nobody that a pipe is empty.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(20)];
/// After so long at most, where an exited process's FIFO has had no reader yet: as good as never, as it takes twice as
/// long each time.
const LINGER: Duration = Duration::from_secs(86_400);

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
            // A terminal does not say how much is on its way, nor does who copies.
            let says = self.console.is_none() && !self.by_others;
            let there = output.source.as_ref().filter(|_| says);
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

    pub(super) fn end_what_can(&mut self) {
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
}
