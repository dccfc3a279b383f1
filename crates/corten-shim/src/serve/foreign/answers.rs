//! Answers of a foreign shim, and what follows from them.

use std::time::{Instant, SystemTime};

use prost::Message;

use super::{KILLED, Stage};
use crate::foreign::Order;
use crate::proto::task::{
    CreateTaskResponse, DeleteResponse, ProcessRequest, ShutdownRequest, StartResponse,
    WaitResponse,
};
use crate::serve::connection::Responder;
use crate::serve::service::Answer;
use crate::serve::task::{Exit, Phase};
use crate::serve::{Number, Shim, say};
use crate::time::{from_timestamp, timestamp};
use crate::ttrpc;
use crate::ttrpc::frame::Event;
use crate::ttrpc::status::{Code, Status};

/// What follows from an answer.
#[derive(Debug)]
pub enum Then {
    Created(Responder),
    Added(Responder, Number),
    Started(Responder, Number),
    Exited(Number),
    Deleted(Responder, Number),
    /// The container is deleted; its shim was asked to end.
    ShutDown(Responder, Vec<u8>),
    Paused(Responder, bool),
    Pass(Responder),
    Nothing,
}

impl Then {
    /// Who waits for the answer.
    pub fn responder(self) -> Option<Responder> {
        match self {
            Self::Created(to)
            | Self::Added(to, _)
            | Self::Started(to, _)
            | Self::Deleted(to, _)
            | Self::ShutDown(to, _)
            | Self::Paused(to, _)
            | Self::Pass(to) => Some(to),
            Self::Exited(_) | Self::Nothing => None,
        }
    }
}

impl Shim {
    /// Takes what the shim has sent.
    pub(super) fn foreign_answers(&mut self, serial: u32) {
        let mut answers = Vec::new();
        let task = self.tasks.get_mut(&serial);
        let Some(Stage::Live(live)) = task.and_then(|t| t.foreign.as_mut()).map(|f| &mut f.stage)
        else {
            return;
        };
        for event in live.connection.ready(&mut self.scratch) {
            let (stream, answer) = match event {
                Event::Frame(frame) => (frame.header.stream, ttrpc::answer(&frame)),
                Event::Oversized(header) => {
                    let status = Status::new(Code::ResourceExhausted, "the answer is too long");
                    (header.stream, Err(status))
                }
            };
            if let Some(pending) = live.pending.remove(&stream) {
                answers.push((pending.then, answer));
            }
        }
        let gone = live.connection.is_gone();
        for (then, answer) in answers {
            self.conclude(serial, then, answer);
        }
        if gone {
            self.foreign_lost(serial);
        }
    }

    /// Acts on an answer, or on its absence.
    pub(super) fn conclude(&mut self, serial: u32, then: Then, answer: Answer) {
        match then {
            Then::Created(responder) => match answer {
                Ok(bytes) => self.foreign_created(serial, responder, bytes),
                Err(status) => self.give_up(serial, responder, status),
            },
            Then::Added(responder, number) => {
                if answer.is_err() {
                    self.forget_exec(serial, number);
                }
                self.respond(responder, answer);
            }
            Then::Started(responder, number) => {
                self.foreign_started(serial, responder, number, answer)
            }
            Then::Exited(number) => self.foreign_exited(serial, number, answer),
            Then::Deleted(responder, number) => {
                self.foreign_deleted(serial, responder, number, answer)
            }
            Then::ShutDown(responder, bytes) => {
                self.tasks.remove(&serial);
                self.respond(responder, Ok(bytes));
            }
            Then::Paused(responder, on) => {
                if answer.is_ok()
                    && let Some(task) = self.tasks.get_mut(&serial)
                {
                    task.paused = on;
                }
                self.respond(responder, answer);
            }
            Then::Pass(responder) => self.respond(responder, answer),
            Then::Nothing => {}
        }
    }

    fn foreign_created(&mut self, serial: u32, responder: Responder, bytes: Vec<u8>) {
        let pid = CreateTaskResponse::decode(bytes.as_slice()).map_or(0, |r| r.pid);
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        task.init.phase = Phase::Elsewhere {
            pid,
            started: false,
        };
        self.await_exit(serial, 0);
        self.respond(responder, Ok(bytes));
    }

    fn await_exit(&mut self, serial: u32, number: Number) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let id = task.id.as_str().to_owned();
        let Some(process) = task.process(number) else {
            return;
        };
        let request = ProcessRequest {
            id,
            exec_id: process.exec_id.clone(),
        };
        self.foreign_send(
            serial,
            "Wait",
            request.encode_to_vec(),
            Then::Exited(number),
        );
    }

    /// There will be no container.
    pub(super) fn give_up(&mut self, serial: u32, responder: Responder, status: Status) {
        let request = ShutdownRequest::default();
        self.foreign_send(serial, "Shutdown", request.encode_to_vec(), Then::Nothing);
        self.tasks.remove(&serial);
        self.respond(responder, Err(explained(status)));
    }

    fn foreign_started(
        &mut self,
        serial: u32,
        responder: Responder,
        number: Number,
        answer: Answer,
    ) {
        let answer = answer.map_err(explained);
        if let Some(task) = self.tasks.get_mut(&serial) {
            if let Ok(bytes) = &answer {
                let pid = StartResponse::decode(bytes.as_slice()).map_or(0, |r| r.pid);
                // It may have ended already, and then its end is known.
                if let Some(process) = task.process(number).filter(|p| p.is_alive()) {
                    process.phase = Phase::Elsewhere { pid, started: true };
                }
            }
            // It has opened its ends, or never will.
            if let Some(foreign) = &mut task.foreign {
                foreign.forget_fifos(number);
            }
        }
        if answer.is_ok() && number == 0 {
            self.foreign_restarted(serial);
        }
        if answer.is_ok() && number != 0 {
            self.await_exit(serial, number);
        }
        self.respond(responder, answer);
    }

    fn foreign_exited(&mut self, serial: u32, number: Number, answer: Answer) {
        let exit = match answer {
            Ok(bytes) => WaitResponse::decode(bytes.as_slice()).unwrap_or_default(),
            // What ends a lost shim's processes is `delete`, and they are told then.
            Err(status) if status.code == Code::Unavailable as i32 => return,
            Err(status) => {
                say(format_args!(
                    "no exit of process {number}: {}",
                    status.message
                ));
                WaitResponse {
                    exit_status: KILLED,
                    exited_at: None,
                }
            }
        };
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let Some(process) = task.process(number).filter(|p| p.is_alive()) else {
            return;
        };
        process.phase = Phase::Draining {
            exit: Exit {
                pid: process.pid(),
                status: exit.exit_status,
                at: exit
                    .exited_at
                    .as_ref()
                    .map_or_else(SystemTime::now, from_timestamp),
            },
            since: Instant::now(),
        };
        if let Some(foreign) = &mut task.foreign {
            // Else what it wrote would never end.
            foreign.forget_fifos(number);
        }
    }

    fn foreign_deleted(
        &mut self,
        serial: u32,
        responder: Responder,
        number: Number,
        answer: Answer,
    ) {
        if let Err(status) = &answer
            && status.code != Code::NotFound as i32
            && status.code != Code::Unavailable as i32
        {
            return self.respond(responder, answer);
        }
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let exit = task.process(number).and_then(|p| p.exit());
        let theirs = answer
            .ok()
            .and_then(|b| DeleteResponse::decode(b.as_slice()).ok());
        let response = match exit {
            Some(exit) => DeleteResponse {
                pid: exit.pid,
                exit_status: exit.status,
                exited_at: Some(timestamp(exit.at)),
            },
            None => theirs.unwrap_or_default(),
        }
        .encode_to_vec();
        if number != 0 {
            self.forget_exec(serial, number);
            return self.respond(responder, Ok(response));
        }
        if task.attach.is_some() {
            let _gone = std::fs::remove_file(task.bundle.join(crate::attach::SOCKET));
        }
        let Some(foreign) = &task.foreign else { return };
        if matches!(foreign.stage, Stage::Live(_))
            && let Err(error) = Order::forget(&foreign.folder)
        {
            say(format_args!(
                "cannot remove the order of {}: {error}",
                foreign.name()
            ));
        }
        let request = ShutdownRequest {
            id: task.id.as_str().into(),
            now: false,
        };
        let then = Then::ShutDown(responder, response);
        self.foreign_send(serial, "Shutdown", request.encode_to_vec(), then);
    }
}

/// What a command line exits with, after runc's words: the only sign there is, and docker's way too.
fn explained(mut status: Status) -> Status {
    let text = status.message.as_str();
    let of_program = text.contains("exec: ");
    let code = if text.contains("executable file not found")
        || (of_program && text.contains("no such file or directory"))
    {
        127
    } else if of_program && text.contains("permission denied") {
        126
    } else {
        return status;
    };
    let mut detailed = Status::of(status.kind(), status.message.clone());
    if let Some(failure) = &mut detailed.failure {
        failure.exit_code = code;
    }
    status.failure = detailed.failure;
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runcs_words_tell_what_a_shell_would() {
        let code = |text: &str| {
            let status = explained(Status::new(Code::Unknown, text));
            status.failure.map(|f| f.exit_code)
        };
        let missing = r#"OCI runtime create failed: exec: "/bin/none": stat /bin/none: no such file or directory"#;
        assert_eq!(code(missing), Some(127));
        assert_eq!(
            code(r#"exec: "none": executable file not found in $PATH"#),
            Some(127)
        );
        assert_eq!(
            code(r#"exec: "/bin/text": permission denied: unknown"#),
            Some(126)
        );
        assert_eq!(code("cgroup: device busy"), None);
    }
}
