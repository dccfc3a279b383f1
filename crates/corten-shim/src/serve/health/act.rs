//! Checks are begun, ended and answered, and something is done with a container that has become unhealthy.

use std::os::fd::OwnedFd;
use std::time::{Instant, SystemTime};

use corten_runtime::{Exec, Options as RuntimeOptions, Stdio};
use corten_spec::chain;
use prost::Message;

use super::{Check, OnFailure, SIGKILL, STOP_PATIENCE};
use crate::health::{Entry, NO_CODE, OUTPUT_MAX, UNHEALTHY};
use crate::proto::corten::{CheckRequest, CheckResponse};
use crate::serve::connection::Responder;
use crate::serve::task::{Phase, Task};
use crate::serve::{CALM, Shim, say};
use crate::stdio::open::{self, End};
use crate::time::rfc3339;
use crate::ttrpc::status::{Code, Status};

impl Task {
    pub fn read_check(&mut self, scratch: &mut [u8]) {
        if let Some(health) = &mut self.health {
            health.read(scratch);
        }
    }

    fn is_running(&self) -> bool {
        matches!(self.init.phase, Phase::Running { .. })
    }

    /// Runs the check. One that cannot be run has failed.
    fn start_check(&mut self) {
        let Some(health) = &mut self.health else {
            return;
        };
        let (began, excused) = (SystemTime::now(), health.is_excused());
        health.next = None;
        let started = pipes()
            .map_err(|e| e.to_string())
            .and_then(|(output, stdio)| {
                let execed = corten_runtime::exec(Exec {
                    id: &self.id,
                    state_root: &self.state_root,
                    process: &health.process,
                    stdio,
                    options: RuntimeOptions::default(),
                });
                execed.map(|e| (e, output)).map_err(|e| chain(&e))
            });
        match started {
            Ok((execed, output)) => {
                let timeout = Some(health.timeout).filter(|t| !t.is_zero());
                health.check = Some(Check {
                    pid: execed.pid,
                    pidfd: execed.pidfd,
                    pipe: Some(output),
                    text: Vec::new(),
                    cut: false,
                    began,
                    excused,
                    deadline: timeout.map(|t| Instant::now() + t),
                    late: false,
                });
            }
            Err(text) => {
                let now = rfc3339(SystemTime::now());
                let mut output = text;
                output.truncate(output.floor_char_boundary(OUTPUT_MAX));
                let entry = Entry {
                    start: rfc3339(began),
                    end: now,
                    exit_code: NO_CODE,
                    output,
                };
                health.report.enter(entry, excused, health.retries);
                health.write();
                health.plan_next();
            }
        }
    }

    /// Ends init in an orderly way, or at once.
    fn end_init(&mut self, signal: i32) {
        if let Phase::Running { pidfd, .. } = &self.init.phase
            && let Err(error) = corten_sys::process::send_signal(pidfd, signal)
            && error != rustix::io::Errno::SRCH
        {
            say(format_args!(
                "cannot end the unhealthy {}: {error}",
                self.id
            ));
        }
    }
}

/// Both outputs in one, in the order in which they are written; no input.
fn pipes() -> Result<(OwnedFd, Stdio), rustix::io::Errno> {
    let (ours, stdout) = open::pipe(End::Read, (0, 0))?;
    let stderr = rustix::io::fcntl_dupfd_cloexec(&stdout, 3)?;
    let stdin = open::null()?;
    let stdio = Stdio::Fds {
        stdin,
        stdout,
        stderr,
    };
    Ok((ours, stdio))
}

impl Shim {
    /// Begins the checks that are due and ends those that take too long.
    pub(in crate::serve) fn advance_health(&mut self, serial: u32) {
        let now = Instant::now();
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let running = task.is_running();
        let (paused, Some(health)) = (task.paused, &mut task.health) else {
            return;
        };
        if let Some((was, answer)) = health.expire(paused, &mut self.scratch) {
            self.checked(serial, was, answer);
            return;
        }
        if health.kill_at.is_some_and(|at| at <= now) {
            health.kill_at = None;
            task.end_init(SIGKILL);
            return;
        }
        let due = health.check.is_none() && health.next.is_some_and(|at| at <= now);
        match due && running {
            // What stands still is not asked how it does.
            true if paused => health.plan_next(),
            true => self.check(serial),
            // It has ended and is about to be told: a deadline that has passed would keep the loop awake.
            false if due => health.next = None,
            false => {}
        }
    }

    fn check(&mut self, serial: u32) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let was = is_unhealthy(task);
        task.start_check();
        self.trim = Some(Instant::now() + CALM);
        if task.health.as_ref().is_some_and(|h| h.check.is_none()) {
            // It could not be run.
            let answer = task.health.as_ref().map(|h| h.answer(NO_CODE));
            self.checked(serial, was, answer.unwrap_or_default());
        }
    }

    /// A child has ended: was it a check?
    pub(in crate::serve) fn check_ended(&mut self, pid: u32, status: u32) -> bool {
        let own = |t: &Task| {
            let check = t.health.as_ref().and_then(|h| h.check.as_ref());
            check.is_some_and(|c| c.pid == pid)
        };
        let Some(serial) = self.tasks.iter().find(|(_, t)| own(t)).map(|(s, _)| *s) else {
            return false;
        };
        let health = self.tasks.get_mut(&serial).and_then(|t| t.health.as_mut());
        if let Some((was, answer)) = health.and_then(|h| h.end(status, &mut self.scratch)) {
            self.checked(serial, was, answer);
        }
        true
    }

    /// Tells who asked, and does what is to be done with a container that has become unhealthy.
    fn checked(&mut self, serial: u32, was_unhealthy: bool, answer: CheckResponse) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let asked = task.health.as_mut().map(|h| std::mem::take(&mut h.asked));
        if !was_unhealthy && is_unhealthy(task) && task.is_running() {
            self.unhealthy(serial);
        }
        for responder in asked.unwrap_or_default() {
            self.respond(responder, Ok(answer.encode_to_vec()));
        }
    }

    fn unhealthy(&mut self, serial: u32) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let Some(health) = &mut task.health else {
            return;
        };
        let (what, signal) = (health.on_failure, health.stop_signal);
        if matches!(what, OnFailure::Stop | OnFailure::Restart) {
            health.kill_at = Some(Instant::now() + STOP_PATIENCE);
        }
        let id = task.id.as_str().to_string();
        match what {
            OnFailure::None => {}
            OnFailure::Kill => task.end_init(SIGKILL),
            OnFailure::Stop => {
                if let Some(restart) = self.restarts.get(&id) {
                    restart.mark_stopped();
                }
                task.end_init(signal);
            }
            OnFailure::Restart => {
                task.end_init(signal);
                if let Some(restart) = self.restarts.get_mut(&id) {
                    restart.force();
                }
            }
        }
    }

    /// Method Check.
    pub(in crate::serve) fn check_now(
        &mut self,
        responder: Responder,
        request: Result<CheckRequest, Status>,
    ) -> Option<Result<Vec<u8>, Status>> {
        let serial = match request.and_then(|r| self.find(&r.id)) {
            Ok(serial) => serial,
            Err(status) => return Some(Err(status)),
        };
        let task = self.tasks.get_mut(&serial)?;
        let refused = |text: &str| Some(Err(Status::new(Code::FailedPrecondition, text)));
        if task.paused || !task.is_running() {
            return refused("the container does not run");
        }
        let Some(health) = &mut task.health else {
            return refused("the container has no health check");
        };
        if health.check.as_ref().is_some_and(|c| c.late) {
            return refused("the check before it does not end, even by SIGKILL");
        }
        health.asked.push(responder);
        if health.check.is_none() {
            self.check(serial);
        }
        None
    }

    /// Init has ended, and with it whatever was checked.
    pub(in crate::serve) fn forget_check(&mut self, serial: u32) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let Some(health) = task.health.take() else {
            return;
        };
        if let Some(check) = &health.check {
            check.kill();
        }
        let text = "the container has ended";
        for responder in health.asked {
            self.respond(responder, Err(Status::new(Code::FailedPrecondition, text)));
        }
    }
}

fn is_unhealthy(task: &Task) -> bool {
    let health = task.health.as_ref();
    health.is_some_and(|h| h.report.status == UNHEALTHY)
}
