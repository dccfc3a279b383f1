//! Health checks: a command that is run in the container from time to time. What its exit codes say is the [`Report`]'s.
//!
//! The rules and defaults are docker's. One check runs at a time; its output is kept up to a bound and read away beyond
//! that; past its timeout it is killed, with its process group. What it leaves in the container otherwise is
//! the container's, counted with its processes, and ends with it. Who looks reads the [`Report`]
//! that is written after each check; the supervisor is not asked.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use corten_runtime::{Exec, Options as RuntimeOptions, Stdio};
use corten_spec::oci::runtime::{Process, Spec};
use prost::Message;

use super::connection::Responder;
use super::task::{Phase, Task};
use super::{CALM, Shim, say};
use crate::health::{Entry, NO_CODE, OUTPUT_MAX, Report, STARTING, UNHEALTHY};
use crate::proto::corten::{CheckRequest, CheckResponse, Health as Asked};
use crate::stdio::open::{self, End};
use crate::time::rfc3339;
use crate::ttrpc::status::{Code, Status, chain};

/// After the stop signal, before SIGKILL.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;

/// What is done with a container that has become unhealthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnFailure {
    None,
    Kill,
    Restart,
    Stop,
}

/// A check that runs.
#[derive(Debug)]
struct Check {
    pid: u32,
    pidfd: OwnedFd,
    pipe: Option<OwnedFd>,
    text: Vec<u8>,
    cut: bool,
    began: SystemTime,
    excused: bool,
    deadline: Option<Instant>,
    late: bool,
}

/// A container's checks.
#[derive(Debug)]
pub struct Health {
    process: Process,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
    on_failure: OnFailure,
    stop_signal: i32,
    record: PathBuf,
    report: Report,
    began: Instant,
    next: Option<Instant>,
    check: Option<Check>,
    /// Who asked for one, and waits.
    asked: Vec<Responder>,
    /// When the stop that an unhealthy state has led to becomes a kill.
    kill_at: Option<Instant>,
}

impl Health {
    /// The command runs as init does: same user, environment, folder and confinement.
    pub fn new(asked: Asked, spec: &Spec) -> Result<Self, Status> {
        let bad = |text: &str| Status::new(Code::InvalidArgument, format!("health check: {text}"));
        let process = spec.process().clone();
        let mut process = process.ok_or_else(|| bad("the container has no process"))?;
        if asked.command.is_empty() || asked.record.is_empty() {
            return Err(bad("no command, or no place for the outcome"));
        }
        process.set_args(Some(asked.command));
        process.set_terminal(Some(false)).set_console_size(None);
        let on_failure = match asked.on_failure.as_str() {
            "" | "none" => OnFailure::None,
            "kill" => OnFailure::Kill,
            "restart" => OnFailure::Restart,
            "stop" => OnFailure::Stop,
            other => return Err(bad(&format!("{other:?} is nothing to do on failure"))),
        };
        Ok(Self {
            process,
            interval: Duration::from_nanos(asked.interval),
            timeout: Duration::from_nanos(asked.timeout),
            start_period: Duration::from_nanos(asked.start_period),
            start_interval: Duration::from_nanos(asked.start_interval),
            retries: asked.retries.max(1),
            on_failure,
            stop_signal: i32::try_from(asked.stop_signal).unwrap_or(SIGKILL).max(1),
            record: asked.record.into(),
            report: Report::default(),
            began: Instant::now(),
            next: None,
            check: None,
            asked: Vec::new(),
            kill_at: None,
        })
    }

    /// Init runs.
    pub fn begin(&mut self) {
        self.began = Instant::now();
        self.plan_next();
        self.write();
    }

    fn is_excused(&self) -> bool {
        self.report.status == STARTING && self.began.elapsed() < self.start_period
    }

    fn plan_next(&mut self) {
        let pause = match self.is_excused() && !self.start_interval.is_zero() {
            true => self.start_interval,
            false => self.interval,
        };
        let never = self.interval.is_zero();
        self.next = (!never).then(|| Instant::now() + pause);
    }

    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        let output = self.check.as_ref().and_then(|c| c.pipe.as_ref());
        output.map(AsFd::as_fd)
    }

    pub fn deadline(&self) -> Option<Instant> {
        let due = match &self.check {
            Some(check) => check.deadline,
            None => self.next,
        };
        due.into_iter().chain(self.kill_at).min()
    }

    fn write(&self) {
        if let Err(error) = self.report.write(&self.record) {
            let path = self.record.display();
            say(format_args!("cannot write {path}: {error}"));
        }
    }

    /// Takes what a check has written; beyond the bound it is read and forgotten, so that the check can go on.
    fn read(&mut self, scratch: &mut [u8]) {
        let Some(check) = &mut self.check else { return };
        let Some(pipe) = &check.pipe else { return };
        match rustix::io::read(pipe, &mut *scratch) {
            Ok(n @ 1..) => check.keep(&scratch[..n]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Ok(_) | Err(_) => check.pipe = None,
        }
    }

    /// Ends a check that has run for too long, and its process group, if it leads one. It has failed now: its end may be
    /// long in coming, if it waits in the kernel.
    fn expire(&mut self, paused: bool, scratch: &mut [u8]) -> Option<(bool, CheckResponse)> {
        let now = Instant::now();
        let check = self.check.as_mut()?;
        if check.deadline.is_none_or(|at| at > now) {
            return None;
        }
        if paused {
            check.deadline = Some(now + self.timeout);
            return None;
        }
        check.deadline = None;
        check.late = true;
        check.kill();
        self.read_rest(scratch);
        Some(self.enter(NO_CODE))
    }

    /// The check has ended: its outcome is entered, and told to who asked.
    fn end(&mut self, status: u32, scratch: &mut [u8]) -> Option<(bool, CheckResponse)> {
        self.read_rest(scratch);
        let late = self.check.as_ref()?.late;
        let code = i32::try_from(status).unwrap_or(NO_CODE);
        let told = (!late).then(|| self.enter(code));
        self.check = None;
        self.plan_next();
        told
    }

    /// What the check wrote last; not what a child of it will write: a bounded number of reads.
    fn read_rest(&mut self, scratch: &mut [u8]) {
        for _ in 0..4 {
            self.read(scratch);
        }
    }

    /// Enters the outcome of the check. Returns whether the container was unhealthy before, and the answer to who asked.
    fn enter(&mut self, exit_code: i32) -> (bool, CheckResponse) {
        let was = self.report.status == UNHEALTHY;
        if let Some(check) = &self.check {
            let entry = Entry {
                start: rfc3339(check.began),
                end: rfc3339(SystemTime::now()),
                exit_code,
                output: check.output(self.timeout),
            };
            self.report.enter(entry, check.excused, self.retries);
            self.write();
        }
        (was, self.answer(exit_code))
    }

    fn answer(&self, exit_code: i32) -> CheckResponse {
        CheckResponse {
            exit_code,
            status: self.report.status.clone(),
        }
    }
}

impl Check {
    /// What it has written, as the report has it.
    fn output(&self, timeout: Duration) -> String {
        let mut output = String::from_utf8_lossy(&self.text).into_owned();
        if self.cut {
            output.push_str("...");
        }
        match self.late {
            true => format!("Health check exceeded timeout ({timeout:?}): {output}"),
            false => output,
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = OUTPUT_MAX - self.text.len();
        self.cut |= bytes.len() > room;
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn kill(&self) {
        // Not yet reaped, so both mean it: the number is still its own. It leads a group where it has made itself one.
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid as i32) {
            let _none = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        let _gone = corten_sys::process::send_signal(&self.pidfd, SIGKILL);
    }
}

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
    pub(super) fn advance_health(&mut self, serial: u32) {
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
    pub(super) fn check_ended(&mut self, pid: u32, status: u32) -> bool {
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
    pub(super) fn check_now(
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
    pub(super) fn forget_check(&mut self, serial: u32) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_kept_up_to_its_bound() {
        let (pidfd, text) = (open::null().unwrap(), Vec::new());
        let mut check = Check {
            pid: 0,
            pidfd,
            pipe: None,
            text,
            cut: false,
            began: SystemTime::now(),
            excused: false,
            deadline: None,
            late: false,
        };
        check.keep(&[b'x'; OUTPUT_MAX]);
        assert!(!check.cut);
        check.keep(b"y");
        assert_eq!((check.text.len(), check.cut), (OUTPUT_MAX, true));
    }
}
