//! The resident part: one thread, one poll, and everything that can happen.
//!
//! ```text
//!         ┌───────────────────────────── poll ◀── deadlines ─────────────────────────────────┐
//!         ▼                                                                                  │
//!   signals ─▶ reap         listener ─▶ connections ─▶ service ─▶ create, exec, delete, …    │
//!   stdio, attach ─▶ Io                                   ├─▶ sandbox   (the pod)            │
//!   loggers ─▶ who waits    foreign ◀──▶ another's shim ◀─┤   own       (the engine's)       │
//!   forwards ─▶ container   publisher ──▶ containerd      └─▶ checkpoint                     │
//!         └──── settle: exits whose output has come, health checks, restarts, what is due ───┘
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
mod delete;
mod exec;
mod foreign;
mod forward;
mod health;
mod hold;
mod loggers;
mod options;
mod own;
mod program;
mod publisher;
mod reap;
mod restart;
mod sandbox;
mod service;
mod settle;
mod store;
mod task;
mod tree;
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
/// The same for one that never had anything: between `start` and Create containerd may have much to mount.
const NEVER_USED: Duration = Duration::from_secs(30);
/// After so long without a request, what was used for requests only is given back.
const CALM: Duration = Duration::from_millis(200);
/// What may delay the end: answers and events that are not sent yet.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long nobody is taken on when no descriptor is left: the connections that wait would keep the loop awake.
const FULL: Duration = Duration::from_millis(100);

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
    /// Whether listeners are left out.
    full: bool,
}

impl<'a> Interest<'a> {
    /// A listener, if anybody can be taken on.
    fn listen(&mut self, fd: BorrowedFd<'a>, token: Token) {
        if !self.full {
            self.add(fd, PollFlags::IN, token);
        }
    }

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
    /// Whether there ever was.
    used: bool,
    /// When the end began.
    ending: Option<Instant>,
    /// Children may be left to reap without another signal.
    reap_again: bool,
    /// When to give memory back: a while after the last burst of work.
    trim: Option<Instant>,
    /// Until when nobody is taken on.
    full: Option<Instant>,
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
        used: false,
        ending: None,
        reap_again: false,
        trim: Some(Instant::now() + CALM),
        full: None,
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
        self.full = self.full.filter(|at| *at > Instant::now());
        let deadline = self.deadline().into_iter();
        let deadline = deadline.chain(self.trim).chain(self.full).min();
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
            full: self.full.is_some(),
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
        to.listen(self.config.listener.as_fd(), Token::Listener);
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
                let task = self.tasks.get_mut(&task);
                let forward = task.and_then(|t| t.forwards.get_mut(index));
                if let Some(Err(error)) = forward.map(|f| f.ready(part, flags, &mut self.scratch)) {
                    self.not_accepted(&error);
                }
            }
        }
    }

    /// Answers what was asked, and then exits. Who comes now shall find no shim rather than this one.
    fn end(&mut self) {
        self.ending = Some(Instant::now());
        self.refuse_waiting();
        self.config.place.vacate();
    }

    fn abandoned_at(&self) -> Option<Instant> {
        let patience = match self.used {
            true => ABANDONED,
            false => NEVER_USED,
        };
        self.empty.map(|since| since + patience)
    }

    /// Ends a shim of containerd's that has been empty for too long. Who is still connected sees it go, and cleans up after it.
    fn leave_if_abandoned(&mut self) {
        if self.config.until_idle || self.ending.is_some() {
            return;
        }
        // A request that waits for its logger is about to make something.
        let empty = self.is_empty() && self.loggers.is_empty();
        self.used |= !empty;
        self.empty = empty.then(|| self.empty.unwrap_or_else(Instant::now));
        if self.abandoned_at().is_some_and(|at| at <= Instant::now()) {
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
        loop {
            match self.config.listener.accept() {
                Ok((socket, _)) => {
                    if crate::stdio::open::unblock(&socket).is_ok() {
                        self.visited = true;
                        let id = self.serial();
                        self.connections.insert(id, Connection::new(socket));
                    }
                }
                Err(error) => return self.not_accepted(&error),
            }
        }
    }

    /// Nobody is there any more, or no descriptor is left for who is.
    fn not_accepted(&mut self, error: &std::io::Error) {
        if !matches!(
            error.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::ConnectionAborted
        ) {
            self.full = Some(Instant::now() + FULL);
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
        let abandoned = self.abandoned_at();
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
