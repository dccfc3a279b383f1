//! A container that another's shim runs.
//!
//! ```text
//!   engine ── Task API ──▶ this shim ── Task API ──▶ foreign shim ── its runtime ── container
//!      attach, log, exit record │ ◀── events (OOM) ──────┘                              │
//!                               └──────────────── stdio: FIFOs ◀────────────────────────┘
//! ```
//!
//! Towards its own clients nothing differs: stdio, log, attach, exit record, and everything that an engine
//! relies on, stay here. Calls about the container's processes are passed on, and nothing ever waits for an
//! answer: each is remembered with what follows from it.

mod answers;
mod calls;
mod launch;

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use rustix::event::PollFlags;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use super::connection::{Connection, Responder};
use super::task::{Exit, Phase, Task};
use super::{Interest, Number, Shim, Token, say};
use crate::foreign::{Order, PATIENCE, clear, folder};
use crate::ttrpc::status::{Code, Status};
use launch::Launch;

/// After `delete` nothing of a container is left: what was not seen to end is taken for killed then.
const KILLED: u32 = 128 + 9;
/// Of the log of a shim, so much is kept for messages about its failures.
const LOG_TAIL: usize = 2048;

/// Which descriptor of a foreign shim is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Socket,
    Answer,
    Complaint,
    Log,
}

/// The shim of one container.
#[derive(Debug)]
pub struct Foreign {
    pub folder: PathBuf,
    pub order: Order,
    /// Where it finds us: through a descriptor of our bundle, since an address has but 108 bytes.
    events: String,
    _bundle: OwnedFd,
    log: Option<OwnedFd>,
    log_tail: Vec<u8>,
    stage: Stage,
    /// The ends of stdio that are the process's, until it has opened its own.
    held: BTreeMap<Number, corten_runtime::Stdio>,
}

#[derive(Debug)]
enum Stage {
    Launching(Box<Launch>),
    Live(Box<Live>),
    /// It died, and its `delete` runs.
    Cleaning {
        child: Option<u32>,
        until: Instant,
    },
    Gone,
}

#[derive(Debug)]
struct Live {
    connection: Connection,
    service: &'static str,
    stream: u32,
    pending: BTreeMap<u32, Pending>,
}

/// A call on its way, and what its answer is for.
#[derive(Debug)]
struct Pending {
    method: &'static str,
    then: answers::Then,
}

impl Foreign {
    /// Lays out its bundle. Nothing is started yet, and the order is on disk.
    fn lay_out(bundle: &Path, order: Order) -> Result<Self, std::io::Error> {
        let folder = folder(bundle, &order.id);
        // Of the run before; its order is gone, or it would still have to be given back.
        clear(&folder)?;
        std::fs::create_dir_all(&folder)?;
        order.write(&folder)?;
        std::fs::create_dir(folder.join("rootfs"))?;
        std::fs::copy(bundle.join("config.json"), folder.join("config.json"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held = rustix::fs::open(bundle, flags, Mode::empty())?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&held);
        let events = format!(
            "/proc/{}/fd/{number}/{}",
            std::process::id(),
            crate::client::SOCKET
        );
        // A shim wants to open it for writing, and would wait for somebody who reads.
        let path = folder.join("log");
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let log = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self {
            folder,
            order,
            events,
            _bundle: held,
            log: Some(log),
            log_tail: Vec::new(),
            stage: Stage::Gone,
            held: BTreeMap::new(),
        })
    }

    pub fn interest<'a>(&'a self, serial: u32, to: &mut Interest<'a>) {
        let mut add = |fd, flags, part| to.add(fd, flags, Token::Foreign(serial, part));
        if let Some(log) = &self.log {
            add(log.as_fd(), PollFlags::IN, Part::Log);
        }
        match &self.stage {
            Stage::Launching(launch) => {
                if let Some(fd) = launch.answer() {
                    add(fd, PollFlags::IN, Part::Answer);
                }
                if let Some(fd) = launch.complaint() {
                    add(fd, PollFlags::IN, Part::Complaint);
                }
            }
            Stage::Live(live) => add(
                live.connection.as_fd(),
                live.connection.interest(),
                Part::Socket,
            ),
            Stage::Cleaning { .. } | Stage::Gone => {}
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Launching(launch) => Some(launch.until),
            Stage::Cleaning { until, .. } => Some(*until),
            Stage::Live(_) | Stage::Gone => None,
        }
    }

    /// Its log is read so that it can be written; the end of it explains failures.
    fn read_log(&mut self, scratch: &mut [u8]) {
        let Some(log) = &self.log else { return };
        match rustix::io::read(log, &mut *scratch) {
            Ok(0) => self.log = None,
            Ok(n) => {
                self.log_tail.extend_from_slice(&scratch[..n]);
                let surplus = self.log_tail.len().saturating_sub(LOG_TAIL);
                self.log_tail.drain(..surplus);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.log = None,
        }
    }

    /// For messages.
    fn name(&self) -> String {
        self.order.binary.display().to_string()
    }

    /// Unlinks the FIFOs of a process: whoever needed them has them open.
    fn forget_fifos(&mut self, number: Number) {
        self.held.remove(&number);
        for stream in ["stdin", "stdout", "stderr"] {
            // Not all of them were made.
            let _gone = std::fs::remove_file(self.folder.join(fifo_prefix(number) + stream));
        }
    }
}

/// In front of a FIFO's name.
fn fifo_prefix(number: Number) -> String {
    match number {
        0 => String::new(),
        exec => format!("{exec}-"),
    }
}

impl Shim {
    pub(super) fn foreign_ready(&mut self, serial: u32, part: Part) {
        let Some(foreign) = self.tasks.get_mut(&serial).and_then(|t| t.foreign.as_mut()) else {
            return;
        };
        match part {
            Part::Log => foreign.read_log(&mut self.scratch),
            Part::Answer | Part::Complaint => {
                if let Stage::Launching(launch) = &mut foreign.stage {
                    launch.read(part, &mut self.scratch);
                    self.advance_launch(serial);
                }
            }
            Part::Socket => self.foreign_answers(serial),
        }
    }

    /// Does what has become due.
    pub(super) fn advance_foreign(&mut self, serial: u32) {
        let Some(foreign) = self.tasks.get_mut(&serial).and_then(|t| t.foreign.as_mut()) else {
            return;
        };
        let now = Instant::now();
        match &foreign.stage {
            Stage::Launching(launch) if launch.until <= now => self.advance_launch(serial),
            Stage::Cleaning { until, .. } if *until <= now => self.cleaned(serial),
            _ => self.pass_on_io(serial),
        }
    }

    /// A child of ours has ended that is no process of a container. Whether it was a foreign shim's.
    pub(super) fn foreign_child(&mut self, pid: u32, code: u32) -> bool {
        let found = self.tasks.iter().find_map(|(serial, task)| {
            let foreign = task.foreign.as_ref()?;
            match &foreign.stage {
                Stage::Launching(launch) if launch.child == pid => Some((*serial, false)),
                Stage::Cleaning { child, .. } if *child == Some(pid) => Some((*serial, true)),
                _ => None,
            }
        });
        let Some((serial, cleaning)) = found else {
            return false;
        };
        match cleaning {
            true => self.cleaned(serial),
            false => {
                let task = self.tasks.get_mut(&serial);
                let foreign = task.and_then(|t| t.foreign.as_mut());
                if let Some(Stage::Launching(launch)) = foreign.map(|f| &mut f.stage) {
                    launch.ended(code);
                }
                self.advance_launch(serial);
            }
        }
        true
    }

    /// The shim has hung up. Its container cannot be cared for any more: as containerd would, it is removed.
    fn foreign_lost(&mut self, serial: u32) {
        let Some(foreign) = self.tasks.get_mut(&serial).and_then(|t| t.foreign.as_mut()) else {
            return;
        };
        let gone = Stage::Cleaning {
            child: None,
            until: Instant::now() + PATIENCE,
        };
        let Stage::Live(live) = std::mem::replace(&mut foreign.stage, gone) else {
            return;
        };
        let name = foreign.name();
        let told = |p: &Pending| matches!(p.then, answers::Then::ShutDown(..));
        if live.pending.values().any(told) {
            // It was told to end, and its end is the answer.
            foreign.stage = Stage::Gone;
            return self.abandon(serial, &name, *live);
        }
        say(format_args!("{name} is gone: removing its container"));
        let mut command = foreign
            .order
            .command(&foreign.folder, &foreign.events, "delete");
        let null = std::process::Stdio::null;
        command.stdin(null()).stdout(null()).stderr(null());
        match command.spawn() {
            Ok(started) => {
                if let Stage::Cleaning { child, .. } = &mut foreign.stage {
                    *child = Some(started.id());
                }
            }
            Err(error) => {
                say(format_args!("cannot run {name} delete: {error}"));
                foreign.stage = Stage::Gone;
            }
        }
        self.abandon(serial, &name, *live);
        if matches!(self.foreign_of(serial).map(|f| &f.stage), Some(Stage::Gone)) {
            self.all_killed(serial);
        }
    }

    /// Concludes what will not be answered any more.
    fn abandon(&mut self, serial: u32, name: &str, live: Live) {
        for (_, pending) in live.pending {
            let text = format!("{name} broke off during {}", pending.method);
            self.conclude(
                serial,
                pending.then,
                Err(Status::new(Code::Unavailable, text)),
            );
        }
    }

    fn foreign_of(&mut self, serial: u32) -> Option<&mut Foreign> {
        self.tasks.get_mut(&serial)?.foreign.as_deref_mut()
    }

    /// `delete` has run, or took too long.
    fn cleaned(&mut self, serial: u32) {
        let Some(foreign) = self.foreign_of(serial) else {
            return;
        };
        foreign.stage = Stage::Gone;
        self.all_killed(serial);
    }

    /// Whose end was not seen has ended.
    fn all_killed(&mut self, serial: u32) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        for process in task.processes_mut().filter(|p| p.is_alive()) {
            process.phase = Phase::Draining {
                exit: Exit {
                    pid: process.pid(),
                    status: KILLED,
                    at: SystemTime::now(),
                },
                since: Instant::now(),
            };
        }
    }

    /// containerd's way of telling: an OOM kill is told by an event alone.
    pub(super) fn foreign_event(
        &mut self,
        from: Responder,
        payload: &[u8],
    ) -> super::service::Answer {
        use crate::proto::events::{ForwardRequest, TaskNamed};
        use prost::Message;
        let bad =
            |e: prost::DecodeError| Status::new(Code::InvalidArgument, format!("bad event: {e}"));
        if let Some(connection) = self.connections.get_mut(&from.connection) {
            // Who only tells is nobody who cares for a container.
            connection.only_tells = true;
        }
        let request = ForwardRequest::decode(payload).map_err(bad)?;
        let envelope = request.envelope.unwrap_or_default();
        if envelope.topic != "/tasks/oom" {
            return Ok(Vec::new());
        }
        let event = envelope.event.unwrap_or_default();
        let named = TaskNamed::decode(event.value.as_slice()).map_err(bad)?;
        let task = self.task(&named.container_id)?;
        if task.foreign.is_some() {
            task.oom_kills += 1;
        }
        Ok(Vec::new())
    }
}

impl Foreign {
    /// Whether such a call is on its way.
    fn awaits(&self, method: &str) -> bool {
        match &self.stage {
            Stage::Live(live) => live.pending.values().any(|p| p.method == method),
            _ => false,
        }
    }

    /// Who waits for an answer.
    pub fn responders(&self) -> Vec<Responder> {
        let Stage::Live(live) = &self.stage else {
            return Vec::new();
        };
        let pending = live.pending.values();
        pending.filter_map(|p| p.then.responder()).collect()
    }
}

impl Task {
    /// Whether another's shim runs it.
    pub fn is_foreign(&self) -> bool {
        self.foreign.is_some()
    }
}

/// Reads once, and keeps no more than `bound`. The end, or a failure, closes it.
fn read_some(from: &mut Option<impl Read>, to: &mut Vec<u8>, scratch: &mut [u8], bound: usize) {
    use std::io::ErrorKind::{Interrupted, WouldBlock};
    let Some(open) = from else { return };
    match open.read(scratch) {
        Ok(n) if n > 0 => {
            let room = bound.saturating_sub(to.len()).min(n);
            to.extend_from_slice(&scratch[..room]);
        }
        Err(e) if matches!(e.kind(), WouldBlock | Interrupted) => {}
        _ => *from = None,
    }
}

/// When a start that hangs is given up.
fn soon() -> Instant {
    Instant::now() + PATIENCE
}
