//! Logger programs, from their start to their end.
//!
//! ```text
//!   Create, Start of an exec ─▶ Waiting ── all ready ─▶ served as if it had just come
//!                                  └── one never is, or 10 s ─▶ refused, the loggers killed
//!   Delete ─▶ end of file ── 10 s ─▶ SIGTERM
//! ```
//!
//! A request waits, the loop does not: the other containers of a pod go on meanwhile.

use std::time::{Duration, Instant};

use corten_spec::Kind;
use rustix::event::PollFlags;
use rustix::process::{Pid, Signal, kill_process};

use super::connection::Responder;
use super::task::Phase;
use super::{Interest, Shim, Token, say};
use crate::proto::task::{CreateTaskRequest, ExecProcessRequest, ProcessRequest};
use crate::proto::ttrpc::Request;
use crate::stdio::logger::{Readiness, Started};
use crate::stdio::open;
use crate::ttrpc::status::{Code, Status};

/// How long a logger may take to be ready.
const READY: Duration = Duration::from_secs(10);
/// How long it may take to end after its streams have.
const ENDING: Duration = Duration::from_secs(10);

/// Whose loggers they are: a container and an exec's id, or none.
type Owner = (String, String);

/// All loggers of a shim.
#[derive(Debug, Default)]
pub struct Loggers {
    /// Requests that wait for theirs.
    waiting: Vec<Waiting>,
    /// For the request that is served now.
    pub ready: Vec<Started>,
    running: Vec<Running>,
}

#[derive(Debug)]
struct Waiting {
    owner: Owner,
    responder: Responder,
    request: Request,
    loggers: Vec<Started>,
    until: Instant,
}

/// A child that is not reaped yet, so its number is its own.
#[derive(Debug)]
struct Running {
    pid: u32,
    owner: Owner,
    /// When its time is over.
    until: Option<Instant>,
}

impl Loggers {
    pub fn interest<'a>(&'a self, to: &mut Interest<'a>) {
        for waiting in &self.waiting {
            for fd in waiting.loggers.iter().filter_map(Started::awaited) {
                to.add(fd, PollFlags::IN, Token::Logger);
            }
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.iter().map(|w| w.until);
        waiting
            .chain(self.running.iter().filter_map(|r| r.until))
            .min()
    }

    /// Whether all have ended: a shim waits a little for those that it leaves behind.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// A child was reaped. Whether it was a logger whose streams are still open, and whose.
    pub fn reaped(&mut self, pid: u32) -> Option<String> {
        let at = self.running.iter().position(|r| r.pid == pid)?;
        let logger = self.running.swap_remove(at);
        let of = format!("{} {}", logger.owner.0, logger.owner.1);
        logger.until.is_none().then(|| of.trim_end().into())
    }

    /// Its streams are closed now: it may say its last words.
    pub fn dismiss(&mut self, id: &str, exec_id: &str) {
        let owned = |r: &&mut Running| {
            // With a container its execs are gone too.
            r.owner.0 == id && (exec_id.is_empty() || r.owner.1 == exec_id)
        };
        for logger in self.running.iter_mut().filter(owned) {
            logger.until = Some(Instant::now() + ENDING);
        }
    }

    /// Ends those whose time is over.
    pub fn expire(&mut self, all: bool) {
        let over = |r: &Running| all || r.until.is_some_and(|u| u <= Instant::now());
        for logger in self.running.extract_if(.., |r| over(r)) {
            signal(logger.pid, Signal::TERM);
        }
    }
}

/// To a child that was not reaped: the worst is that it has ended already.
fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = kill_process(pid, signal);
    }
}

impl Shim {
    /// Starts the loggers that a request needs. `true`: it waits for them.
    pub(super) fn await_loggers(
        &mut self,
        responder: Responder,
        request: &Request,
    ) -> Result<bool, Status> {
        let Some((owner, uris)) = self.wants(request) else {
            return Ok(false);
        };
        let refuse = |e: open::OpenError| Status::of(e.kind(), e.to_string());
        let wanted = open::loggers([&uris[0], &uris[1]]).map_err(refuse)?;
        if wanted.is_empty() {
            return Ok(false);
        }
        if self.loggers.waiting.iter().any(|w| w.owner == owner) {
            let text = format!("{} {} is being started", owner.0, owner.1);
            return Err(Status::new(Code::AlreadyExists, text));
        }
        let mut waiting = Waiting {
            responder,
            request: request.clone(),
            loggers: Vec::new(),
            until: Instant::now() + READY,
            owner,
        };
        for logger in &wanted {
            match logger.start(&waiting.owner.0, &self.config.namespace) {
                Ok(started) => {
                    self.loggers.running.push(Running {
                        pid: started.pid,
                        owner: waiting.owner.clone(),
                        until: None,
                    });
                    waiting.loggers.push(started);
                }
                Err(errno) => {
                    self.refuse_loggers(waiting);
                    return Err(refuse(open::failed(&logger.path.to_string_lossy(), errno)));
                }
            }
        }
        self.loggers.waiting.push(waiting);
        Ok(true)
    }

    /// Who needs which stdout and stderr for this request. What is wrong with it is told when it is served.
    fn wants(&self, request: &Request) -> Option<(Owner, [String; 2])> {
        use prost::Message;
        let payload = request.payload.as_slice();
        match request.method.as_str() {
            "Create" => {
                let r = CreateTaskRequest::decode(payload).ok()?;
                let is_new = self.tasks.values().all(|t| t.id.as_str() != r.id);
                is_new.then(|| ((r.id, String::new()), [r.stdout, r.stderr]))
            }
            "Start" => {
                let r = ProcessRequest::decode(payload).ok()?;
                let task = self.tasks.values().find(|t| t.id.as_str() == r.id)?;
                if task.is_foreign() {
                    return None; // its stdio was made by Exec
                }
                let exec = task.execs.iter().find(|e| e.exec_id == r.exec_id)?;
                let wanted = exec.wanted.clone();
                matches!(exec.phase, Phase::Added(_))
                    .then(|| ((r.id, r.exec_id), [wanted.stdout, wanted.stderr]))
            }
            "Exec" => {
                let r = ExecProcessRequest::decode(payload).ok()?;
                let task = self.tasks.values().find(|t| t.id.as_str() == r.id)?;
                let is_new = task.execs.iter().all(|e| e.exec_id != r.exec_id);
                let needs = ((r.id, r.exec_id), [r.stdout, r.stderr]);
                (task.is_foreign() && is_new).then_some(needs)
            }
            _ => None,
        }
    }

    /// Serves the requests whose loggers are ready, and refuses those that wait in vain.
    pub(super) fn advance_loggers(&mut self) {
        let mut at = 0;
        while let Some(waiting) = self.loggers.waiting.get_mut(at) {
            let states = waiting.loggers.iter_mut().map(|l| (l.readiness(), l));
            let unready = states
                .filter(|(state, _)| *state != Readiness::Ready)
                .map(|(state, l)| (state, l.logger.path.display().to_string()))
                // One that never will be outweighs one that is not yet.
                .max_by_key(|(state, _)| *state == Readiness::Never);
            let late = waiting.until <= Instant::now();
            let Some((state, path)) = unready else {
                let waiting = self.loggers.waiting.remove(at);
                self.resume(waiting);
                continue;
            };
            let why = match state {
                Readiness::Never => "ended before it was ready",
                _ if late => "was not ready after 10 seconds",
                _ => {
                    at += 1;
                    continue;
                }
            };
            let waiting = self.loggers.waiting.remove(at);
            let responder = waiting.responder;
            self.refuse_loggers(waiting);
            let status = Status::of(Kind::Unavailable, format!("the logger {path} {why}"));
            self.respond(responder, Err(status));
        }
        self.loggers.expire(false);
    }

    fn resume(&mut self, waiting: Waiting) {
        self.loggers.ready = waiting.loggers;
        let answer = self.serve_call(waiting.responder, &waiting.request);
        let refused = matches!(answer, Some(Err(_)));
        // Not taken: nothing has come of the request.
        self.loggers.ready.clear();
        if refused {
            self.loggers.dismiss(&waiting.owner.0, &waiting.owner.1);
        }
        if let Some(answer) = answer {
            self.respond(waiting.responder, answer);
        }
    }

    /// Nobody is served any more.
    pub(super) fn refuse_waiting(&mut self) {
        for waiting in std::mem::take(&mut self.loggers.waiting) {
            let responder = waiting.responder;
            self.refuse_loggers(waiting);
            let status = Status::of(Kind::Unavailable, "the shim is told to end");
            self.respond(responder, Err(status));
        }
    }

    fn refuse_loggers(&mut self, waiting: Waiting) {
        let owner = waiting.owner;
        for logger in self.loggers.running.iter_mut().filter(|r| r.owner == owner) {
            signal(logger.pid, Signal::KILL);
            logger.until = Some(Instant::now() + ENDING);
        }
    }

    /// A logger has ended; whether anybody misses it.
    pub(super) fn logger_ended(&mut self, pid: u32, status: u32) {
        if let Some(of) = self.loggers.reaped(pid) {
            say(format_args!("the logger of {of} has ended with {status}"));
        }
    }
}
