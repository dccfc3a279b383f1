//! Health checks: a command that is run in the container from time to time. What its exit codes say is the [`Report`]'s.
//!
//! The rules and defaults are docker's. One check runs at a time; its output is kept up to a bound and read away beyond
//! that; past its timeout it is killed, with its process group. What it leaves in the container otherwise is
//! the container's, counted with its processes, and ends with it. Who looks reads the [`Report`]
//! that is written after each check; the supervisor is not asked.

mod act;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use corten_spec::oci::runtime::{Process, Spec};

use super::connection::Responder;
use super::say;
use crate::health::{Entry, NO_CODE, OUTPUT_MAX, Report, STARTING, UNHEALTHY};
use crate::proto::corten::{CheckResponse, Health as Asked};
use crate::time::rfc3339;
use crate::ttrpc::status::{Code, Status};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdio::open;

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
