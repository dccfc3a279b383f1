//! Restart policies: a container that has ended is started again, after a while, by the engine's command.
//!
//! ```text
//!           exit, to be restarted        deadline            the command has started it
//!   Up ────────────────────────▶ Waiting ────────▶ Trying ──────────────────────────────▶ Up
//!    │                              ▲  │              │
//!    │ exit, not to be restarted    │  │ stopped      ├── it failed or was killed: wait longer
//!    ▼                              └──┼──────────────┘
//!   Over ◀─────────────────────────────┴── nothing more to try
//! ```
//!
//! The supervisor stays through it, with the sockets of published ports, and is the only process that lives while a
//! container waits; it wakes at the deadline and not before. Making a container is the engine's work: its command gives back
//! what the old run held, creates the container in this same supervisor and starts it. If that command
//! is killed at any point, its end is seen here, and another one begins where it was.
//!
//! That the user has stopped the container is a file (`Terms::stopped`): it is there before the signal is sent, is
//! looked at when the container has ended, and survives the host's going down.

mod policy;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::connection::Responder;
use super::settle::waited;
use super::task::{Exit, Phase as TaskPhase, Task};
use super::{Shim, say};
use crate::ExitRecord;
use crate::record::Restarting;
use crate::ttrpc::status::{Code, Status};
pub use policy::Terms;
use policy::{Ended, Policy, decide};

#[derive(Debug)]
enum Phase {
    /// The task is there, or is being made for the first time.
    Up {
        since: Instant,
    },
    Waiting {
        at: Instant,
    },
    /// The command runs.
    Trying {
        pid: u32,
    },
    Over,
}

/// See above.
#[derive(Debug)]
pub struct Restart {
    terms: Terms,
    record: Option<PathBuf>,
    exit_command: Vec<String>,
    count: u32,
    delay: Duration,
    phase: Phase,
    /// The next exit is followed by a start, whatever the policy says.
    forced: bool,
    /// The start to come is such a one.
    owed: bool,
    /// Who waits for the end waits for the last one.
    waiters: Vec<Responder>,
    last: Option<(Exit, bool)>,
}

impl Restart {
    pub fn new(terms: Terms, record: Option<PathBuf>, exit_command: Vec<String>) -> Self {
        Self {
            terms,
            record,
            exit_command,
            count: 0,
            delay: Duration::ZERO,
            phase: Phase::Up {
                since: Instant::now(),
            },
            forced: false,
            owed: false,
            waiters: Vec::new(),
            last: None,
        }
    }

    /// Whether the supervisor has to stay although it supervises nothing.
    pub fn is_pending(&self) -> bool {
        matches!(self.phase, Phase::Waiting { .. } | Phase::Trying { .. })
    }

    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Waiting { at } => Some(at),
            _ => None,
        }
    }

    /// The next exit is to be followed by a start.
    pub fn force(&mut self) {
        self.forced = true;
    }

    /// As if the user had stopped it.
    pub fn mark_stopped(&self) {
        let path = &self.terms.stopped;
        if let Err(error) = std::fs::write(path, "") {
            say(format_args!("cannot write {}: {error}", path.display()));
        }
    }

    /// Other terms from now on; what was counted stays.
    fn renew(&mut self, terms: Terms) {
        self.terms = terms;
    }

    /// Init's program runs. What the record says of the run before is over.
    pub fn started(&mut self) {
        match (&self.phase, &self.record) {
            // It is replaced at the next exit at the latest.
            (Phase::Trying { .. }, Some(record)) => drop(std::fs::remove_file(record)),
            (Phase::Waiting { .. } | Phase::Over, _) => return,
            _ => {}
        }
        self.phase = Phase::Up {
            since: Instant::now(),
        };
    }

    /// Init has exited: is it started again, and when?
    pub fn exited(&mut self, exit: Exit, oom: bool) -> Option<Restarting> {
        self.last = Some((exit, oom));
        let since = match self.phase {
            Phase::Up { since } => since,
            // Its start has failed; the command that was to start it ends, too, and then it is decided.
            Phase::Trying { .. } => return Some(self.restarting()),
            Phase::Waiting { .. } | Phase::Over => return None,
        };
        let ended = Ended {
            status: exit.status,
            ran: since.elapsed(),
            stopped: self.terms.stopped.exists(),
            forced: std::mem::take(&mut self.forced),
        };
        self.schedule(ended)
    }

    fn schedule(&mut self, ended: Ended) -> Option<Restarting> {
        let Some(delay) = decide(self.terms.policy, self.count, self.delay, ended) else {
            self.phase = Phase::Over;
            return None;
        };
        self.count += 1;
        self.delay = delay;
        self.owed = ended.forced;
        self.phase = Phase::Waiting {
            at: Instant::now() + delay,
        };
        Some(self.restarting())
    }

    fn restarting(&self) -> Restarting {
        Restarting {
            count: self.count,
            delay_ms: self.delay.as_millis() as u64,
        }
    }

    /// The user has ended the container, or its policy, while it waited.
    fn is_revoked(&self) -> bool {
        (self.terms.policy == Policy::No && !self.owed) || self.terms.stopped.exists()
    }

    fn is_trying(&self, pid: u32) -> bool {
        matches!(self.phase, Phase::Trying { pid: own } if own == pid)
    }

    /// Runs the command, which is to end in [`Self::started`].
    fn attempt(&mut self) -> std::io::Result<()> {
        let pid = super::program::start(&self.terms.command)?;
        self.phase = Phase::Trying { pid };
        Ok(())
    }

    fn write(&self, restarting: Option<Restarting>) {
        let (Some((exit, oom)), Some(path)) = (self.last, &self.record) else {
            return;
        };
        let record = ExitRecord {
            restarting,
            ..ExitRecord::new(exit.pid, exit.status, exit.at, oom)
        };
        if let Err(error) = record.write(path) {
            say(format_args!("cannot write {}: {error}", path.display()));
        }
    }
}

impl Shim {
    /// Enters or renews what Create, or an update, says of a container's restarts.
    pub(super) fn set_restart(
        &mut self,
        id: &str,
        terms: Terms,
        record: Option<PathBuf>,
        exit_command: Vec<String>,
    ) {
        match self.restarts.get_mut(id) {
            Some(restart) => restart.renew(terms),
            None => {
                let restart = Restart::new(terms, record, exit_command);
                self.restarts.insert(id.into(), restart);
            }
        }
    }

    /// Another's shim has started the container, which may have ended before we heard of it.
    pub(super) fn foreign_restarted(&mut self, serial: u32) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let Some(restart) = self.restarts.get_mut(task.id.as_str()) else {
            return;
        };
        restart.started();
        if !task.init.is_alive()
            && let Some((exit, oom)) = restart.last
            && let Phase::Up { .. } = restart.phase
        {
            let restarting = restart.exited(exit, oom);
            restart.write(restarting);
            task.restarting = restarting.is_some();
        }
    }

    /// Method SetRestart: other terms for a container that is there.
    pub(super) fn update_restart(
        &mut self,
        request: crate::proto::corten::SetRestartRequest,
    ) -> Result<Vec<u8>, Status> {
        let asked = request.restart.unwrap_or_default();
        let terms = Terms::try_from(asked)?;
        if let Some(restart) = self.restarts.get_mut(&request.id) {
            restart.renew(terms);
            return Ok(Vec::new());
        }
        let task = self.task(&request.id)?;
        let (record, command) = (task.exit_record.clone(), task.exit_command.clone());
        self.set_restart(&request.id, terms, record, command);
        Ok(Vec::new())
    }

    /// Runs the commands that are due.
    pub(super) fn advance_restarts(&mut self) {
        let now = Instant::now();
        let due = |r: &Restart| r.deadline().is_some_and(|at| at <= now);
        let due: Vec<String> = self
            .restarts
            .iter()
            .filter(|(_, r)| due(r))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let Some(restart) = self.restarts.get_mut(&id) else {
                continue;
            };
            if restart.is_revoked() {
                self.stay_down(&id);
            } else if let Err(error) = restart.attempt() {
                say(format_args!("cannot run the restart of {id}: {error}"));
                self.failed_restart(&id);
            }
        }
    }

    /// A child has ended: was it a restart's command? Its job is done when it has got as far as Start.
    pub(super) fn restart_ended(&mut self, pid: u32, status: u32) -> bool {
        let mut own = self.restarts.iter().filter(|(_, r)| r.is_trying(pid));
        let Some(id) = own.next().map(|(id, _)| id.clone()) else {
            return false;
        };
        match status {
            // There was nothing to restart any more.
            0 => self.stay_down(&id),
            _ => self.failed_restart(&id),
        }
        true
    }

    /// It is tried again, later: what kept it from starting may pass. Such a try counts.
    fn failed_restart(&mut self, id: &str) {
        self.drop_half_made(id);
        let Some(restart) = self.restarts.get_mut(id) else {
            return;
        };
        let ended = Ended {
            status: restart.last.map_or(1, |(exit, _)| exit.status),
            ran: Duration::ZERO,
            stopped: restart.terms.stopped.exists(),
            forced: restart.owed,
        };
        match restart.schedule(ended) {
            Some(restarting) => restart.write(Some(restarting)),
            None => self.stay_down(id),
        }
    }

    /// The container stays down: who waited learns of its last end, and the engine gives back what it held.
    fn stay_down(&mut self, id: &str) {
        self.drop_half_made(id);
        let Some(restart) = self.restarts.get_mut(id) else {
            return;
        };
        restart.phase = Phase::Over;
        restart.write(None);
        let command = std::mem::take(&mut restart.exit_command);
        if let Some(task) = self.tasks.values_mut().find(|t| t.id.as_str() == id) {
            task.restarting = false;
        }
        self.tell_last(id);
        // With a task it is run as after any exit.
        if !self.tasks.values().any(|t| t.id.as_str() == id) {
            super::settle::run_command(&command);
        }
    }

    /// An init that waits to be started by a command that has ended.
    fn drop_half_made(&mut self, id: &str) {
        let half = |task: &Task| match task.init.phase {
            TaskPhase::Created(_) => true,
            TaskPhase::Elsewhere { started, .. } => !started,
            _ => false,
        };
        let mut tasks = self.tasks.iter();
        let found = tasks.find(|(_, t)| t.id.as_str() == id && half(t));
        let Some((serial, foreign)) = found.map(|(serial, t)| (*serial, t.is_foreign())) else {
            return;
        };
        if foreign {
            // Its order stays on disk: whoever tries next, or releases the container, gives it back by that.
            self.break_off(serial);
        } else if let Err(status) = self.delete(serial, "") {
            say(format_args!("cannot undo the creation of {id}: {status:?}"));
        }
    }

    fn take_waiters(&mut self, id: &str) -> (Vec<Responder>, Result<Vec<u8>, Status>) {
        let gone = || Status::new(Code::NotFound, format!("no container {id} in this shim"));
        let Some(restart) = self.restarts.get_mut(id) else {
            return (Vec::new(), Err(gone()));
        };
        let exit = restart.last.map(|(exit, _)| waited(&exit));
        (std::mem::take(&mut restart.waiters), exit.ok_or_else(gone))
    }

    /// Method WaitLast: answered when the container has ended for good.
    pub(super) fn wait_for_last(
        &mut self,
        responder: Responder,
        request: Result<crate::proto::task::ProcessRequest, Status>,
    ) -> Option<Result<Vec<u8>, Status>> {
        let id = match request {
            Ok(request) => request.id,
            Err(status) => return Some(Err(status)),
        };
        match self.restarts.get_mut(&id) {
            Some(restart) if !matches!(restart.phase, Phase::Over) => {
                restart.waiters.push(responder);
                None
            }
            _ => self.wait_for(responder, &id, ""),
        }
    }

    /// Tells the end for good to who waits for that.
    pub(super) fn tell_last(&mut self, id: &str) {
        let (waiters, exit) = self.take_waiters(id);
        for waiter in waiters {
            self.respond(waiter, exit.clone());
        }
    }

    /// The supervisor is sent home: no restart any more.
    pub(super) fn end_restarts(&mut self) {
        let ids: Vec<String> = self.restarts.keys().cloned().collect();
        for id in ids {
            self.tell_last(&id);
            self.restarts.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_container_stays_down() {
        let dir = tempfile::tempdir().unwrap();
        let stopped = dir.path().join("stopped");
        let terms = Terms {
            policy: Policy::Always,
            command: vec!["/bin/false".into()],
            stopped: stopped.clone(),
        };
        let exit = Exit {
            pid: 7,
            status: 1,
            at: std::time::SystemTime::now(),
        };
        let mut restart = Restart::new(terms, None, vec![]);
        assert_eq!(restart.exited(exit, false).map(|r| r.count), Some(1));
        assert!(restart.is_pending() && restart.deadline().is_some());
        restart.phase = Phase::Trying { pid: 8 };
        // The start failed: who waits goes on waiting.
        assert_eq!(restart.exited(exit, false).map(|r| r.count), Some(1));
        assert!(restart.is_trying(8) && restart.deadline().is_none());
        restart.started();
        assert!(!restart.is_pending());
        std::fs::write(&stopped, "").unwrap();
        assert_eq!(restart.exited(exit, false), None);
        assert!(!restart.is_pending() && restart.deadline().is_none());
    }
}
