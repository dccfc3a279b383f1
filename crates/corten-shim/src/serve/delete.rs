//! Delete: a process is forgotten, and with init the container. Everybody who waits for it is answered before.

use std::time::{Instant, SystemTime};

use corten_spec::Kind;
use prost::Message;

use super::connection::Responder;
use super::service::{Answer, decode};
use super::settle::waited;
use super::task::{Exit, Phase, Process, Task};
use super::{Number, Shim, say};
use crate::proto::events::TaskDelete;
use crate::proto::task::{DeleteRequest, DeleteResponse};
use crate::time::timestamp;
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
    pub(super) fn delete_or_wait(
        &mut self,
        responder: Responder,
        payload: &[u8],
    ) -> Option<Answer> {
        let request: DeleteRequest = match decode(payload) {
            Ok(request) => request,
            Err(status) => return Some(Err(status)),
        };
        let serial = match self.find(&request.id) {
            Ok(serial) => serial,
            Err(status) => return Some(Err(status)),
        };
        match self.process(&request.id, &request.exec_id) {
            Err(status) => return Some(Err(status)),
            Ok(process) => {
                if matches!(process.phase, Phase::Draining { .. }) {
                    process.deleters.push(responder);
                    return None;
                }
            }
        }
        self.delete_for(responder, serial, &request.exec_id)
    }

    /// `None`: the answer comes from another's shim.
    pub(super) fn delete_for(
        &mut self,
        responder: Responder,
        serial: u32,
        exec_id: &str,
    ) -> Option<Answer> {
        match self.tasks.get(&serial).is_some_and(Task::is_foreign) {
            true => self.delete_foreign(serial, exec_id, responder),
            false => Some(self.delete(serial, exec_id)),
        }
    }

    /// Forgets a process; with init, the container.
    pub(super) fn delete(&mut self, serial: u32, exec_id: &str) -> Answer {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return Err(Status::new(Code::NotFound, "no such container"));
        };
        let id = task.id.clone();
        let Some(process) = task.named(exec_id) else {
            return Err(Status::new(
                Code::NotFound,
                format!("no process {exec_id} in {id}"),
            ));
        };
        let (number, exit) = (process.number, process.last_exit());
        let exit = exit.ok_or_else(|| {
            let text = format!("process {exec_id} of {id} is running");
            Status::new(Code::FailedPrecondition, text)
        })?;
        process.drain(&mut self.scratch);
        let lost = process.io.leftover();
        if lost > 0 {
            say(format_args!(
                "{lost} bytes of {id} {exec_id} reached nobody"
            ));
        }
        process.io.close();
        let response = DeleteResponse {
            pid: exit.pid,
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)),
        };
        if number != 0 {
            self.remove_exec(serial, number);
            return Ok(response.encode_to_vec());
        }
        match corten_runtime::delete(&task.state_root, &id, true) {
            Ok(warnings) => warnings.iter().for_each(|w| say(format_args!("{w}"))),
            // Never restored, or ended by a restore that failed.
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        if task.attach.is_some() {
            let _ = std::fs::remove_file(task.bundle.join(crate::attach::SOCKET));
        }
        self.remove_task(serial);
        let event = TaskDelete {
            container_id: id.as_str().into(),
            pid: exit.pid,
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)),
            id: String::new(),
        };
        self.publisher
            .publish("/tasks/delete", "TaskDelete", &event);
        Ok(response.encode_to_vec())
    }

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
