//! A container and its processes, as the shim remembers them.
//!
//! ```text
//!            start              exits             drained
//!   Added ───────────▶ Running ───────▶ Draining ─────────▶ Exited ── delete
//!   Created ───────────▶                 (output left)       (told)
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use corten_cgroup::OomWatch;
use corten_runtime::Created;
use corten_spec::ContainerId;
use corten_spec::oci::runtime;
use rustix::event::PollFlags;

use super::checkpoint::Restorable;
use super::connection::Responder;
use super::foreign::Foreign;
use super::forward::Forward;
use super::health::Health;
use super::options::Lasting;
use super::watch::Watch;
use super::{Interest, Number, Token};
use crate::attach::Size;
use crate::proto::corten::CreateOptions;
use crate::proto::task::{CreateTaskRequest, ExecProcessRequest, Status};
use crate::stdio::{Client, Drain, Io};

/// How long an exited process's output may be held open by others before the exit is told.
const HELD: Duration = Duration::from_millis(100);
/// How long it is delayed if nobody reads, or by a reader that takes nothing and loses nothing by hearing of the exit.
const BLOCKED: Duration = Duration::from_secs(2);
/// How long by a FIFO's reader that takes nothing: when it hears of the exit, it will read no more.
const STALLED: Duration = Duration::from_secs(10);
/// How long init's exit waits for those of its execs, which the same kill has ended.
pub const COMPANY: Duration = Duration::from_secs(1);
/// When the exit command runs although a client is still connected.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Where a process is in its life.
#[derive(Debug)]
pub enum Phase {
    /// An exec that was asked for and not started.
    Added(Box<runtime::Process>),
    /// Init at its gate.
    Created(Box<Created>),
    /// Init in the files of a checkpoint.
    Restorable(Box<Restorable>),
    Running {
        pid: u32,
        pidfd: OwnedFd,
    },
    /// Another's shim has it. Not our child, unless that shim dies.
    Elsewhere {
        pid: u32,
        started: bool,
    },
    /// Reaped; its output is still on the way.
    Draining {
        exit: Exit,
        since: Instant,
    },
    Exited(Exit),
}

/// How and when a process ended.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    pub pid: u32,
    /// The exit code, or 128 + the signal.
    pub status: u32,
    pub at: SystemTime,
}

/// The stdio that a client asked for, in its own words.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub terminal: bool,
    pub stdin: String,
    pub stdout: String,
    pub stderr: String,
}

/// Init, or a process that Exec added.
#[derive(Debug)]
pub struct Process {
    pub number: Number,
    /// Empty for init.
    pub exec_id: String,
    pub wanted: Wanted,
    pub phase: Phase,
    pub io: Io,
    /// A size that was set before the terminal existed.
    pub size: Option<Size>,
    pub waiters: Vec<Responder>,
    /// Deletes that came between the exit and its telling.
    pub deleters: Vec<Responder>,
}

impl From<&CreateTaskRequest> for Wanted {
    fn from(request: &CreateTaskRequest) -> Self {
        Self {
            terminal: request.terminal,
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        }
    }
}

impl From<&ExecProcessRequest> for Wanted {
    fn from(request: &ExecProcessRequest) -> Self {
        Self {
            terminal: request.terminal,
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
        }
    }
}

impl Process {
    pub fn new(number: Number, exec_id: String, wanted: Wanted, phase: Phase, io: Io) -> Self {
        Self {
            number,
            exec_id,
            wanted,
            phase,
            io,
            size: None,
            waiters: Vec::new(),
            deleters: Vec::new(),
        }
    }

    pub fn pid(&self) -> u32 {
        match &self.phase {
            Phase::Added(_) | Phase::Restorable(_) => 0,
            Phase::Created(created) => created.pid,
            Phase::Running { pid, .. } | Phase::Elsewhere { pid, .. } => *pid,
            Phase::Draining { exit, .. } | Phase::Exited(exit) => exit.pid,
        }
    }

    /// Whether the kernel still has it, at least as a zombie of ours.
    pub fn is_alive(&self) -> bool {
        matches!(
            self.phase,
            Phase::Created(_) | Phase::Running { .. } | Phase::Elsewhere { .. }
        )
    }

    pub fn status(&self) -> Status {
        match &self.phase {
            Phase::Added(_)
            | Phase::Created(_)
            | Phase::Restorable(_)
            | Phase::Elsewhere { started: false, .. } => Status::Created,
            // Its exit is not told yet, and nobody must see it before.
            Phase::Running { .. } | Phase::Elsewhere { .. } | Phase::Draining { .. } => {
                Status::Running
            }
            Phase::Exited(_) => Status::Stopped,
        }
    }

    /// When a draining process's exit is told at the latest, as far as is known now.
    pub fn settle_at(&self, drain: Drain) -> Option<Instant> {
        let Phase::Draining { since, .. } = &self.phase else {
            return None;
        };
        let last = |moved: Option<Instant>| moved.map_or(*since, |at| at.max(*since));
        Some(match drain {
            Drain::Done => *since,
            // Who copies may be slow about it, under load.
            Drain::Held if self.io.by_others => last(self.io.progress) + BLOCKED,
            Drain::Held => *since + HELD,
            Drain::Blocked => last(self.io.progress) + BLOCKED,
            Drain::Slow => last(self.io.taken) + STALLED,
        })
    }

    /// How far a draining process's output has come.
    pub fn drain(&mut self, scratch: &mut [u8]) -> Drain {
        let long = match &self.phase {
            Phase::Draining { .. } => {
                let enough = self.settle_at(Drain::Held);
                enough.is_none_or(|at| at <= Instant::now())
            }
            _ => true,
        };
        self.io.drain(scratch, long)
    }
}

/// A container.
#[derive(Debug)]
pub struct Task {
    pub id: ContainerId,
    pub bundle: PathBuf,
    pub state_root: PathBuf,
    pub init: Process,
    pub execs: Vec<Process>,
    pub next_number: Number,
    pub paused: bool,
    pub options: Lasting,
    pub oom: Option<OomWatch>,
    /// OOM kills that were told.
    pub oom_kills: u64,
    /// When to look again: v1 wakes us before it counts.
    pub oom_again: Option<Instant>,
    /// Whether the end of init leaves others behind: the PID namespace is not its own.
    pub kill_all: bool,
    pub attach: Option<UnixListener>,
    /// Attached clients whose hello has not come.
    pub greeting: Vec<Client>,
    pub exit_record: Option<PathBuf>,
    pub exit_command: Vec<String>,
    /// When init's exit was told.
    pub told: Option<Instant>,
    /// Whether it is to be started again: then the exit command is not for this exit.
    pub restarting: bool,
    pub forwards: Vec<Forward>,
    /// Whose absence is mended while init runs.
    pub watch: Option<Watch>,
    pub health: Option<Box<Health>>,
    /// When [`Io::drain`] last said what, for the deadline.
    pub drains: Vec<(Number, Drain)>,
    /// Who runs it, if not we.
    pub foreign: Option<Box<Foreign>>,
}

impl Task {
    /// A container with nothing beside it.
    pub fn new(id: ContainerId, bundle: PathBuf, state_root: PathBuf, init: Process) -> Self {
        Self {
            id,
            bundle,
            state_root,
            init,
            execs: Vec::new(),
            next_number: 1,
            paused: false,
            options: Lasting::default(),
            oom: None,
            oom_kills: 0,
            oom_again: None,
            kill_all: false,
            attach: None,
            greeting: Vec::new(),
            exit_record: None,
            exit_command: Vec::new(),
            told: None,
            restarting: false,
            forwards: Vec::new(),
            watch: None,
            health: None,
            drains: Vec::new(),
            foreign: None,
        }
    }

    /// What our engine wants of its supervisor.
    pub fn take_options(&mut self, options: CreateOptions) {
        self.exit_record = Some(options.exit_record)
            .filter(|p| !p.is_empty())
            .map(PathBuf::from);
        self.exit_command = options.exit_command;
    }

    pub fn process(&mut self, number: Number) -> Option<&mut Process> {
        self.processes_mut().find(|p| p.number == number)
    }

    pub fn named(&mut self, exec_id: &str) -> Option<&mut Process> {
        self.processes_mut().find(|p| p.exec_id == exec_id)
    }

    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        std::iter::once(&self.init).chain(&self.execs)
    }

    pub fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        std::iter::once(&mut self.init).chain(&mut self.execs)
    }

    pub fn interest<'a>(&'a self, serial: u32, to: &mut Interest<'a>) {
        if let Some(oom) = &self.oom {
            to.add(oom.as_fd(), oom.interest(), Token::Oom(serial));
        }
        if let Some(listener) = &self.attach {
            to.listen(listener.as_fd(), Token::AttachListener(serial));
        }
        for client in &self.greeting {
            to.add(
                client.as_fd(),
                PollFlags::IN,
                Token::Greeting(serial, client.id),
            );
        }
        for process in self.processes() {
            let number = process.number;
            process.io.interest(|fd, flags, part| {
                to.add(fd, flags, Token::Io(serial, number, part));
            });
        }
        if let Some(fd) = self.watch.as_ref().and_then(Watch::as_fd) {
            to.add(fd, PollFlags::empty(), Token::Watch(serial));
        }
        if let Some(fd) = self.health.as_ref().and_then(|h| h.as_fd()) {
            to.add(fd, PollFlags::IN, Token::Health(serial));
        }
        if let Some(foreign) = &self.foreign {
            foreign.interest(serial, to);
        }
        for (index, forward) in self.forwards.iter().enumerate() {
            forward.interest(|fd, flags, part| {
                let token = Token::Forward(serial, index, part);
                match part {
                    super::forward::Part::Front => to.listen(fd, token),
                    _ => to.add(fd, flags, token),
                }
            });
        }
    }

    /// When this task needs attention without an event.
    pub fn deadline(&self) -> Option<Instant> {
        let draining = self.drains.iter().filter_map(|(number, drain)| {
            let process = self.processes().find(|p| p.number == *number)?;
            let look = process.io.look_again.map(|(at, _)| at);
            process.settle_at(*drain).into_iter().chain(look).min()
        });
        let company = match &self.init.phase {
            // Once: later it is its own output that is waited for.
            Phase::Draining { since, .. } => {
                Some(*since + COMPANY).filter(|at| *at > Instant::now())
            }
            _ => None,
        };
        let command = self
            .told
            .filter(|_| !self.exit_command.is_empty() && !self.restarting)
            .map(|t| t + PATIENCE);
        let lingering = self.processes().filter_map(|p| p.io.lingers_until());
        let forwards = self.forwards.iter().filter_map(Forward::deadline);
        let watch = self.watch.as_ref().and_then(Watch::deadline);
        let health = self.health.as_ref().and_then(|h| h.deadline());
        let foreign = self.foreign.as_ref().and_then(|f| f.deadline());
        draining
            .min()
            .into_iter()
            .chain(company)
            .chain(lingering)
            .chain(command)
            .chain(forwards)
            .chain(watch)
            .chain(health)
            .chain(self.oom_again)
            .chain(foreign)
            .min()
    }
}
