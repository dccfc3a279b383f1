//! The resident part: one thread, one poll, and everything that can happen.
//!
//! ```text
//!         ┌──────────────────────── poll ◀── deadlines ───────────────────────┐
//!         ▼                                                                     │
//!   signals ─▶ reap        listener ─▶ connections ─▶ service (Task API)        │
//!   stdio, attach ─▶ Io    publisher ─▶ containerd     forwards ─▶ container    │
//!         └──────────────── settle: tell exits whose output is drained ────────┘
//! ```
//!
//! The set of descriptors is built anew for each poll from what each part wants now. A
//! shim has about ten; that costs less than keeping an epoll set in step, and a part cannot forget to
//! take its interest back. SIGCHLD is blocked before the first child exists and read from a
//! signalfd, so no exit can be missed between a fork and its wait.

mod attach;
mod checkpoint;
mod connection;
mod create;
mod exec;
mod foreign;
mod forward;
mod health;
mod loggers;
mod options;
mod publisher;
mod reap;
mod restart;
mod sandbox;
mod service;
mod settle;
mod task;
mod watch;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use corten_sys::signal::{Mask, Receiver};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::Error;
use crate::bootstrap::Place;
use crate::stdio::{Part, SCRATCH};
use connection::Connection;
use publisher::Publisher;
use sandbox::Sandbox;
use task::Task;

pub use create::{EXIT_FILE, STATE_ROOT_FILE};

/// How the shim was started.
#[derive(Debug)]
pub struct Config {
    pub namespace: String,
    /// The bundle, and the working folder.
    pub bundle: PathBuf,
    /// Where the runtime keeps state, unless a container's options say otherwise.
    pub state_root: PathBuf,
    pub listener: UnixListener,
    /// The sockets that options of a container refer to by number.
    pub inherited: Vec<Option<OwnedFd>>,
    /// containerd's ttrpc socket for events; `None`: nobody is told.
    pub publish: Option<PathBuf>,
    /// Exit when nothing is left to supervise and nobody is connected. Under
    /// containerd its Shutdown ends a shim, or its death before it could send one ([`ABANDONED`]).
    pub until_idle: bool,
    /// Whether requests are logged.
    pub debug: bool,
    /// Where clients find the socket.
    pub place: Place,
}

/// Without any connection for so long after the start, nobody will come.
const LONELY: Duration = Duration::from_secs(10);
/// containerd makes a container as soon as its shim listens, and sends Shutdown as soon as the last is deleted. Between two such
/// steps it can be killed; the next one up to 1.6 then keeps a shim with nothing in it, for ever.
const ABANDONED: Duration = Duration::from_secs(10);
/// After so long without a request, what was used for requests only is given back.
const CALM: Duration = Duration::from_millis(200);
/// What may delay the end: answers and events that are not sent yet.
const FAREWELL: Duration = Duration::from_secs(1);

/// A process of a task: 0 is its init.
type Number = u32;

/// Whose descriptor woke the poll.
#[derive(Clone, Copy, Debug)]
enum Token {
    Signals,
    Listener,
    Connection(u32),
    Publisher,
    Oom(u32),
    AttachListener(u32),
    Greeting(u32, u32),
    Io(u32, Number, Part),
    Forward(u32, usize, forward::Part),
    Watch(u32),
    Logger,
    Health(u32),
    Foreign(u32, foreign::Part),
}

/// What is polled for, and on whose behalf.
struct Interest<'a> {
    fds: Vec<PollFd<'a>>,
    tokens: Vec<Token>,
}

impl<'a> Interest<'a> {
    fn add(&mut self, fd: BorrowedFd<'a>, flags: PollFlags, token: Token) {
        self.fds.push(PollFd::from_borrowed_fd(fd, flags));
        self.tokens.push(token);
    }
}

struct Shim {
    config: Config,
    signals: Receiver,
    connections: BTreeMap<u32, Connection>,
    tasks: BTreeMap<u32, Task>,
    /// By container, which has no task while it waits.
    restarts: BTreeMap<String, restart::Restart>,
    sandbox: Option<Sandbox>,
    publisher: Publisher,
    loggers: loggers::Loggers,
    scratch: Box<[u8]>,
    /// The next number for a connection, task or attached client.
    serial: u32,
    started: Instant,
    /// Whether a connection ever came.
    visited: bool,
    /// Since when there is nothing to supervise.
    empty: Option<Instant>,
    /// When the end began.
    ending: Option<Instant>,
    /// Children may be left to reap without another signal.
    reap_again: bool,
    /// When to give memory back: a while after the last burst of work.
    trim: Option<Instant>,
}

/// Serves until the end.
pub fn run(config: Config) -> Result<(), Error> {
    let kernel = |step| move |source: Errno| Error::Kernel { step, source };
    // A shim is ended by its engine, not by signals: what stops the machine stops containers first.
    let mask = Mask::full();
    mask.install().map_err(kernel("block signals"))?;
    let signals = Receiver::new(&mask).map_err(kernel("open a signalfd"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(kernel("become a subreaper"))?;
    crate::stdio::open::unblock(&config.listener).map_err(kernel("unblock the socket"))?;
    let publisher = Publisher::new(config.publish.clone(), config.namespace.clone());
    let mut shim = Shim {
        config,
        signals,
        connections: BTreeMap::new(),
        tasks: BTreeMap::new(),
        restarts: BTreeMap::new(),
        sandbox: None,
        publisher,
        loggers: Default::default(),
        scratch: vec![0; SCRATCH].into(),
        serial: 1,
        started: Instant::now(),
        visited: false,
        empty: None,
        ending: None,
        reap_again: false,
        trim: Some(Instant::now() + CALM),
    };
    while !shim.is_done() {
        shim.turn()?;
    }
    shim.loggers.expire(true);
    shim.config.place.vacate();
    Ok(())
}

impl Shim {
    /// One round: wait, act on what is ready, tell what has become true.
    fn turn(&mut self) -> Result<(), Error> {
        let ready = self.wait()?;
        for (token, flags) in ready {
            self.act(token, flags);
        }
        if self.reap_again {
            self.reap();
        }
        self.advance_loggers();
        self.settle();
        self.publisher.advance();
        self.connections.retain(|_, c| !c.is_gone());
        self.leave_if_abandoned();
        Ok(())
    }

    fn wait(&mut self) -> Result<Vec<(Token, PollFlags)>, Error> {
        let deadline = self.deadline().into_iter().chain(self.trim).min();
        if self.trim.is_some_and(|at| at <= Instant::now()) {
            self.trim = None;
            corten_sys::memory::trim();
        }
        let timeout = deadline.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            // Rounded up: a poll that wakes before its deadline would spin until it.
            let left = left + Duration::from_micros(100);
            Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        let mut interest = Interest {
            fds: Vec::with_capacity(16),
            tokens: Vec::with_capacity(16),
        };
        self.interest(&mut interest);
        match poll(&mut interest.fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(source) => {
                return Err(Error::Kernel {
                    step: "poll",
                    source,
                });
            }
        }
        let ready = interest.fds.iter().zip(&interest.tokens);
        Ok(ready
            .map(|(fd, token)| (*token, fd.revents()))
            .filter(|(_, flags)| !flags.is_empty())
            .collect())
    }

    fn interest<'a>(&'a self, to: &mut Interest<'a>) {
        to.add(self.signals.as_fd(), PollFlags::IN, Token::Signals);
        to.add(self.config.listener.as_fd(), PollFlags::IN, Token::Listener);
        for (id, connection) in &self.connections {
            to.add(
                connection.as_fd(),
                connection.interest(),
                Token::Connection(*id),
            );
        }
        if let Some((fd, flags)) = self.publisher.interest() {
            to.add(fd, flags, Token::Publisher);
        }
        for (serial, task) in &self.tasks {
            task.interest(*serial, to);
        }
        self.loggers.interest(to);
    }

    fn act(&mut self, token: Token, flags: PollFlags) {
        match token {
            Token::Signals => self.reap(),
            Token::Listener => self.accept(),
            Token::Connection(id) => self.serve_connection(id),
            Token::Publisher => self.publisher.ready(),
            Token::Oom(task) => self.oom(task),
            Token::AttachListener(task) => self.accept_attach(task),
            Token::Greeting(task, client) => self.greet(task, client),
            Token::Io(task, number, part) => {
                if let Some(process) = self.tasks.get_mut(&task).and_then(|t| t.process(number)) {
                    process.io.ready(part, &mut self.scratch);
                }
            }
            Token::Health(task) => {
                if let Some(task) = self.tasks.get_mut(&task) {
                    task.read_check(&mut self.scratch);
                }
            }
            Token::Watch(task) => {
                let task = self.tasks.get_mut(&task);
                if let Some(watch) = task.and_then(|t| t.watch.as_mut()) {
                    watch.lost();
                }
            }
            // All are looked at in each turn.
            Token::Logger => {}
            Token::Foreign(task, part) => self.foreign_ready(task, part),
            Token::Forward(task, index, part) => {
                if let Some(task) = self.tasks.get_mut(&task) {
                    task.forward_ready(index, part, flags, &mut self.scratch);
                }
            }
        }
    }

    /// Answers what was asked, and then exits. Who comes now shall find no shim rather than this one.
    fn end(&mut self) {
        self.ending = Some(Instant::now());
        self.config.place.vacate();
    }

    /// Ends a shim of containerd's that has been empty for too long. Who is still connected sees it go, and cleans up after it.
    fn leave_if_abandoned(&mut self) {
        if self.config.until_idle || self.ending.is_some() {
            return;
        }
        // A request that waits for its logger is about to make something.
        let empty = self.is_empty() && self.loggers.is_empty();
        self.empty = empty.then(|| self.empty.unwrap_or_else(Instant::now));
        if self.empty.is_some_and(|since| since.elapsed() >= ABANDONED) {
            say(format_args!(
                "nothing to supervise, and no end was asked for"
            ));
            self.end();
        }
    }

    fn serial(&mut self) -> u32 {
        let serial = self.serial;
        // Four thousand million connections in one container's life would have to be open to clash.
        self.serial = self.serial.wrapping_add(1);
        serial
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.config.listener.accept() {
            if crate::stdio::open::unblock(&socket).is_ok() {
                self.visited = true;
                let id = self.serial();
                self.connections.insert(id, Connection::new(socket));
            }
        }
    }

    /// The next moment at which something must be done although nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let tasks = self.tasks.values().filter_map(Task::deadline).min();
        let restarts = self.restarts.values();
        let restarts = restarts.filter_map(restart::Restart::deadline).min();
        let idle = self.config.until_idle && !self.is_visited() && self.is_empty();
        let lonely = (idle && !self.visited).then(|| self.started + LONELY);
        let ending = self.ending.map(|at| at + FAREWELL);
        let abandoned = self.empty.map(|at| at + ABANDONED);
        let again = self.reap_again.then(Instant::now);
        let loggers = self.loggers.deadline();
        [
            tasks,
            restarts,
            lonely,
            ending,
            abandoned.filter(|_| self.ending.is_none()),
            again,
            self.publisher.deadline(),
            loggers,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether there is nothing to supervise.
    fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.sandbox.is_none()
    }

    /// Whether somebody is connected who may care for a container.
    fn is_visited(&self) -> bool {
        self.connections.values().any(|c| !c.only_tells)
    }

    fn is_done(&self) -> bool {
        if let Some(since) = self.ending {
            let sent = self.connections.values().all(|c| !c.is_behind());
            let done = sent && self.publisher.is_empty() && self.loggers.is_empty();
            return done || since.elapsed() >= FAREWELL;
        }
        self.config.until_idle
            && self.is_empty()
            && !self.restarts.values().any(restart::Restart::is_pending)
            && !self.is_visited()
            && self.loggers.is_empty()
            && (self.visited || self.started.elapsed() >= LONELY)
    }
}

/// A line for whoever reads the shim's log, in the form of containerd's own. There is nobody to tell if that fails.
fn say(text: std::fmt::Arguments<'_>) {
    line("warning", text);
}

fn line(level: &str, text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let time = crate::time::rfc3339(std::time::SystemTime::now());
    let line = format!("time=\"{time}\" level={level} msg={:?}\n", text.to_string());
    let _ = std::io::stderr().write_all(line.as_bytes());
}
