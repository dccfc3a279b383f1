//! What is forgotten, and that everybody who waits for it is answered before.

use std::time::{Instant, SystemTime};

use super::settle::waited;
use super::task::{Exit, Phase, Process};
use super::{Number, Shim};
use crate::ttrpc::status::{Code, Status};

/// Of what was killed by being deleted.
const KILLED: u32 = 128 + 9;

impl Process {
    /// How a process ended that is deleted now. `None`: it runs, or its end is not told yet.
    pub(super) fn last_exit(&self) -> Option<Exit> {
        let never = Exit {
            pid: self.pid(),
            status: 0,
            at: std::time::UNIX_EPOCH,
        };
        match &self.phase {
            Phase::Exited(exit) => Some(*exit),
            Phase::Added(_) | Phase::Restorable(_) => Some(never),
            // Never started: nothing of it is worth keeping.
            Phase::Created(_) => Some(Exit {
                status: KILLED,
                at: SystemTime::now(),
                ..never
            }),
            Phase::Running { .. } | Phase::Elsewhere { .. } | Phase::Draining { .. } => None,
        }
    }
}

impl Shim {
    pub(super) fn remove_exec(&mut self, serial: u32, number: Number) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let id = task.id.as_str().to_owned();
        if let Some(at) = task.execs.iter().position(|e| e.number == number) {
            let exec = task.execs.remove(at);
            self.let_go(&id, exec);
        }
    }

    /// Of a container of which nothing is left.
    pub(super) fn remove_task(&mut self, serial: u32) {
        self.tell_execs(serial);
        self.forget_check(serial);
        let Some(task) = self.tasks.remove(&serial) else {
            return;
        };
        let id = task.id.as_str();
        for responder in task.foreign.iter().flat_map(|f| f.responders()) {
            self.respond(responder, Err(gone(id)));
        }
        for process in task.execs.into_iter().chain([task.init]) {
            self.let_go(id, process);
        }
    }

    /// The ends of execs that were not told: init's did not wait for theirs any longer, or has taken them along.
    fn tell_execs(&mut self, serial: u32) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        // Its group may be gone, and init's exit was told.
        task.oom = None;
        let mut due = Vec::new();
        for exec in &mut task.execs {
            if exec.is_alive() {
                let exit = Exit {
                    pid: exec.pid(),
                    status: KILLED,
                    at: SystemTime::now(),
                };
                let since = Instant::now();
                exec.phase = Phase::Draining { exit, since };
            }
            if matches!(exec.phase, Phase::Draining { .. }) {
                due.push(exec.number);
            }
        }
        for number in due {
            self.tell(serial, number);
        }
    }

    /// Closes its streams, and answers who waits.
    fn let_go(&mut self, id: &str, process: Process) {
        let exit = process.last_exit();
        let exit = exit.map(|e| waited(&e)).ok_or_else(|| gone(id));
        for waiter in process.waiters {
            self.respond(waiter, exit.clone());
        }
        for deleter in process.deleters {
            self.respond(deleter, Err(gone(id)));
        }
        drop(process.io);
        self.loggers.dismiss(id, &process.exec_id);
    }
}

fn gone(id: &str) -> Status {
    Status::new(Code::NotFound, format!("container {id} is gone"))
}
