//! Signals, stopping and waiting.

use std::time::{Duration, Instant};

use corten_shim::client::{Client, Exit, Waiting};
use corten_spec::Kind;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::inspect::rfc3339;
use super::record::{Container, ExitRecord};
use super::status::Status;
use crate::error::{Error, Is};
use crate::image::ImageConfig;
use crate::{Engine, clock};

/// signal(7) for x86 and Arm, by number less one.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// `TERM`, `SIGTERM`, `term` or `15`; real-time signals as `RTMIN+n`, `RTMAX-n` or by number.
pub fn signal(text: &str) -> Option<i32> {
    if let Ok(n) = text.parse::<i32>() {
        return (1..=64).contains(&n).then_some(n);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(i) = SIGNALS.iter().position(|s| *s == name) {
        return Some(i as i32 + 1);
    }
    // glibc keeps 32 and 33 for itself, so the first for programs is 34.
    let number = match name.strip_prefix("RTMIN") {
        Some("") => 34,
        Some(n) => 34 + n.strip_prefix('+')?.parse::<i32>().ok()?,
        None => match name.strip_prefix("RTMAX")? {
            "" => 64,
            n => 64 - n.strip_prefix('-')?.parse::<i32>().ok()?,
        },
    };
    (34..=64).contains(&number).then_some(number)
}

/// What asks a container of this image to end.
pub(super) fn stop_signal_of(image: &ImageConfig) -> i32 {
    let own = image.stop_signal.as_deref();
    own.and_then(signal).unwrap_or(SIGTERM)
}

/// Whether a signal of the user's means that the container is not to be started again. As docker decides it: the image's own stop
/// signal, or any for an image that names none, since nobody knows what ends its program.
pub(super) fn ends_policy(number: i32, stop_signal: Option<&str>) -> bool {
    match stop_signal.and_then(signal) {
        Some(own) => number == SIGKILL || number == own,
        None => true,
    }
}

/// Waits for init's end, at most so long.
pub(crate) fn wait_for(
    shim: &mut Client,
    patience: Duration,
) -> Result<Option<Exit>, corten_shim::Error> {
    let waiting = shim.begin_wait("")?;
    let deadline = Instant::now() + patience;
    loop {
        if let Some(exit) = shim.poll_wait(&waiting)? {
            return Ok(Some(exit));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        // An interrupted poll is one that found nothing.
        let _ready = poll(&mut [PollFd::new(shim, PollFlags::IN)], Some(&timeout));
    }
}

/// A wait for the end of one run, after which its policy may go on.
pub struct RunEnd {
    shim: Client,
    waiting: Waiting,
}

impl RunEnd {
    /// Blocks until then. `None`: the supervisor is gone.
    pub fn status(mut self) -> Option<u32> {
        self.shim.end_wait(self.waiting).ok().map(|e| e.status)
    }
}

impl Engine {
    /// Begins to wait for the end of the run of a container that may be started again. `None`: it has no policy, or no supervisor.
    pub fn run_end(&self, container: &Container) -> Result<Option<RunEnd>, Error> {
        if self.restart_terms(container)?.is_none() {
            return Ok(None);
        }
        let Some(mut shim) = self.supervisor(&container.id)? else {
            return Ok(None);
        };
        let waiting = shim.begin_wait("")?;
        Ok(Some(RunEnd { shim, waiting }))
    }

    /// Sends a signal to the container's init.
    pub fn kill(&self, container: &Container, signal: i32) -> Result<(), Error> {
        let status = self.status(container)?;
        let refused = |status: &Status| Error::ContainerState {
            name: container.name.to_string(),
            action: "signalled",
            source: Is(status.as_str()),
        };
        if !status.is_active() {
            return Err(refused(&status));
        }
        if signal == SIGKILL
            || ends_policy(signal, self.config_of(container)?.stop_signal.as_deref())
        {
            self.mark_stopped(container)?;
        }
        if !status.is_running() {
            // There is no process to signal, and now none will come; or one has come just now.
            return match self.end_restarting(container)? {
                Status::Running { .. } => self.kill(container, signal),
                _ => Ok(()),
            };
        }
        let Some(mut shim) = self.supervisor(&container.id)? else {
            return Err(refused(&Status::Lost));
        };
        match shim.kill("", signal.unsigned_abs(), false) {
            // It has ended by itself just before: what the signal was to say is said.
            Err(e) if e.kind() == Kind::NotFound && self.is_stopped(container) => {
                self.end_restarting(container)?;
                Ok(())
            }
            sent => Ok(sent?),
        }
    }

    /// Asks init to end by the image's stop signal, and makes it after `patience`. A container
    /// that does not run is stopped already.
    pub fn stop(&self, container: &Container, patience: Duration) -> Result<(), Error> {
        let status = self.status(container)?;
        if !status.is_active() {
            // Else the host's next start would bring back one that has lost its supervisor.
            return match self.wants_to_run(container)? {
                true => self.mark_stopped(container),
                false => Ok(()),
            };
        }
        self.mark_stopped(container)?;
        if !status.is_running() && !self.end_restarting(container)?.is_running() {
            return Ok(());
        }
        let Some(mut shim) = self.supervisor(&container.id)? else {
            return Ok(());
        };
        let gone = |e: &corten_shim::Error| {
            matches!(
                e.kind(),
                Kind::NotFound | Kind::Conflict | Kind::Unavailable
            )
        };
        for (signal, patience) in [
            (self.stop_signal(container)?, patience),
            (SIGKILL, Duration::from_secs(10)),
        ] {
            match shim.kill("", signal.unsigned_abs(), signal == SIGKILL) {
                Err(e) if gone(&e) => break,
                sent => sent?,
            }
            match wait_for(&mut shim, patience) {
                Ok(Some(_)) => break,
                Ok(None) if signal == SIGKILL => {
                    return Err(Error::Stuck {
                        name: container.name.to_string(),
                    });
                }
                Ok(None) => {}
                Err(e) if gone(&e) => break,
                Err(e) => return Err(e.into()),
            }
        }
        drop(shim);
        if self.restart_terms(container)?.is_some() {
            // It may have ended by itself just before it was marked.
            self.end_restarting(container)?;
        }
        self.after_exit(container)
    }

    /// A container that waits to be started again, and whose user has ended that: what it holds is given back. Returns what it
    /// is then; it may have been started just before.
    pub(crate) fn end_restarting(&self, container: &Container) -> Result<Status, Error> {
        let (_lock, container) = match self.hold(&container.id) {
            Err(Error::ContainerMissing { .. } | Error::ContainerState { .. }) => {
                return Ok(Status::Created);
            }
            held => held?,
        };
        let status = self.status(&container)?;
        if matches!(status, Status::Restarting(_)) {
            self.release_locked(&container)?;
        }
        Ok(status)
    }

    /// The end of a container in the foreground: waits for it on a connection that there is, gives back
    /// what it held, and removes it where it was started so. One that is to be started again is left to its supervisor. Returns
    /// the exit status.
    pub fn finish(
        &self,
        container: &Container,
        mut shim: Client,
        waiting: Option<Waiting>,
    ) -> Result<u32, Error> {
        let Some(exit) = waiting.and_then(|w| shim.end_wait(w).ok()) else {
            // The supervisor is gone: its record tells, or nobody does.
            drop(shim);
            let exit = self.wait(container);
            self.after_exit(container)?;
            return Ok(exit?.exit_status);
        };
        let (_lock, container) = match self.hold(&container.id) {
            // Another process was faster.
            Err(Error::ContainerMissing { .. } | Error::ContainerState { .. }) => {
                return Ok(exit.status);
            }
            held => held?,
        };
        if self.restart_terms(&container)?.is_some() && self.status(&container)?.is_active() {
            return Ok(exit.status);
        }
        if shim.delete("").is_err() {
            // Another process gave it back already, and may have started it again.
            drop(_lock);
            self.after_exit(&container)?;
            return Ok(exit.status);
        }
        self.release_from(&container, Some(shim))?;
        if container.record.options.auto_remove {
            self.remove_released(&container, true)?;
        }
        Ok(exit.status)
    }

    /// Releases a container that has exited, and removes it where it was started so.
    pub fn after_exit(&self, container: &Container) -> Result<(), Error> {
        match self.exited(container.id.as_str()) {
            // The supervisor's own clean-up ran between our look and our try.
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            done => done,
        }
    }

    fn stop_signal(&self, container: &Container) -> Result<i32, Error> {
        Ok(stop_signal_of(&self.config_of(container)?))
    }

    /// Waits for the container's end and returns its exit status. One that has ended answers at once; one that is started again
    /// has not ended.
    pub fn wait(&self, container: &Container) -> Result<ExitRecord, Error> {
        let told = match self.supervisor(&container.id)? {
            // An error means that the supervisor is gone, and its record tells.
            Some(mut shim) => match self.restart_terms(container)? {
                Some(_) => shim.wait_last().ok(),
                None => shim.wait("").ok(),
            },
            None => None,
        };
        match (self.status(container)?, told) {
            (Status::Exited(exit), _) => Ok(exit),
            // With `--rm` the record may be gone before we read it.
            (_, Some(exit)) => Ok(ExitRecord {
                pid: exit.pid,
                exit_status: exit.status,
                exited_at: rfc3339(clock::nanoseconds_of(exit.at)),
                oom_killed: false,
                restarting: None,
            }),
            (other, None) => Err(Error::ContainerState {
                name: container.name.to_string(),
                action: "waited for",
                source: Is(other.as_str()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ends_policy, signal};

    #[test]
    fn signals_that_end_a_restart_policy() {
        for (number, own, ends) in [
            (9, Some("QUIT"), true),
            (3, Some("QUIT"), true),
            (15, Some("QUIT"), false),
            (1, Some("SIGTERM"), false),
            (1, None, true),
            (15, None, true),
        ] {
            assert_eq!(ends_policy(number, own), ends, "{number} {own:?}");
        }
    }

    #[test]
    fn names_and_numbers() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(signal(text), Some(15), "{text}");
        }
        assert_eq!(signal("SYS"), Some(31));
        assert_eq!(signal("RTMIN+3"), Some(37));
        assert_eq!(signal("SIGRTMAX-1"), Some(63));
        for bad in [
            "0",
            "65",
            "-9",
            "",
            "SIG",
            "RTMIN+99",
            "TERMINATE",
            "RTMIN-",
        ] {
            assert_eq!(signal(bad), None, "{bad}");
        }
    }
}
