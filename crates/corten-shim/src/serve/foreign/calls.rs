//! Calls of the Task API about a foreign container: what is passed on, and how.

use prost::Message;

use super::answers::Then;
use super::{Foreign, Pending, Stage, fifo_prefix};
use crate::attach::Size;
use crate::foreign::{Order, state_root};
use crate::proto::task::{
    CloseIoRequest, ContainerRequest, CreateTaskRequest, DeleteRequest, ExecProcessRequest,
    KillRequest, ProcessRequest, ResizePtyRequest,
};
use crate::serve::connection::Responder;
use crate::serve::options::Options;
use crate::serve::restart::Terms;
use crate::serve::service::{Answer, decode};
use crate::serve::task::{Phase, Process, Task, Wanted};
use crate::serve::{Number, Shim};
use crate::stdio::prepare::{Plan, prepare};
use crate::ttrpc;
use crate::ttrpc::status::{Code, Status};

const SIGKILL: u32 = 9;

impl Shim {
    /// Create with a foreign shim. `None`: answered later.
    pub(in crate::serve) fn create_foreign(
        &mut self,
        responder: Responder,
        request: CreateTaskRequest,
        options: Options,
    ) -> Option<Answer> {
        let made = self.enter_foreign(&request, options);
        let (serial, create) = match made {
            Ok(made) => made,
            Err(status) => return Some(Err(status)),
        };
        let foreign = self.foreign_of(serial)?;
        match foreign.launch(Box::new(create), responder) {
            Ok(()) => None,
            Err(error) => {
                let text = format!("cannot start {}: {error}", foreign.name());
                self.remove_task(serial);
                Some(Err(Status::new(Code::Unknown, text)))
            }
        }
    }

    /// The container as a task of ours, and the request as its shim is to get it.
    fn enter_foreign(
        &mut self,
        request: &CreateTaskRequest,
        options: Options,
    ) -> Result<(u32, CreateTaskRequest), Status> {
        let id = self.free_id(&request.id)?;
        let bundle = self.bundle_of(&request.bundle);
        if options.corten.health.is_some() {
            let text = "health checks are not made in containers that another's shim runs";
            return Err(Status::new(Code::Unimplemented, text));
        }
        let restart = options.corten.restart.clone();
        let restart = restart.map(Terms::try_from).transpose()?;
        let wanted_shim = options.corten.foreign.clone().unwrap_or_default();
        if !wanted_shim.binary.starts_with('/') {
            let text = format!("foreign shim {:?}: no absolute path", wanted_shim.binary);
            return Err(Status::new(Code::InvalidArgument, text));
        }
        let order = Order {
            binary: wanted_shim.binary.into(),
            namespace: self.config.namespace.clone(),
            id: request.id.clone(),
            host_mounts: wanted_shim.host_mounts,
            state: wanted_shim.options.as_ref().and_then(state_root),
        };
        let attach = match options.corten.attach {
            false => None,
            true => Some(crate::serve::create::listen(&bundle)?),
        };
        let mut foreign = Foreign::lay_out(&bundle, order).map_err(|e| {
            let text = format!("cannot lay out a bundle in {}: {e}", bundle.display());
            Status::new(Code::Unknown, text)
        })?;
        let mut plan = self.init_plan(request, &options)?;
        plan.fifos = Some(foreign.folder.join(""));
        let (prepared, stdio) = prepare(plan).map_err(|e| Status::of(e.kind(), e.to_string()))?;
        foreign.held.insert(0, stdio);
        let [stdin, stdout, stderr] = prepared.fifo_names();
        let create = CreateTaskRequest {
            bundle: foreign.folder.display().to_string(),
            stdin,
            stdout,
            stderr,
            options: wanted_shim.options,
            ..request.clone()
        };
        let io = prepared.finish(None);
        let io = io.map_err(|e| Status::of(e.kind(), e.to_string()))?;
        let phase = Phase::Elsewhere {
            pid: 0,
            started: false,
        };
        let init = Process::new(0, String::new(), Wanted::from(request), phase, io);
        let mut task = Task::new(id, bundle, self.config.state_root.clone(), init);
        task.attach = attach;
        task.take_options(options.corten);
        task.foreign = Some(Box::new(foreign));
        Ok((self.enter(task, restart), create))
    }

    /// A call about a container that another's shim runs; `None` as the outer answer: it is for us to answer.
    pub(in crate::serve) fn call_foreign(
        &mut self,
        responder: Responder,
        method: &str,
        payload: &[u8],
    ) -> Option<Option<Answer>> {
        // Every request begins with the container's id; what comes next is not the same in all.
        let request = ContainerRequest::decode(payload).ok()?;
        let serial = self.find(&request.id).ok()?;
        if !self.tasks.get(&serial)?.is_foreign() {
            return None;
        }
        let bytes = payload.to_vec();
        match method {
            "Start" => {
                let request = match decode::<ProcessRequest>(payload) {
                    Ok(request) => request,
                    Err(status) => return Some(Some(Err(status))),
                };
                let number = match self.tasks.get_mut(&serial)?.named(&request.exec_id) {
                    Some(process) => process.number,
                    None => return Some(Some(Err(no_process(&request)))),
                };
                self.foreign_send(serial, "Start", bytes, Then::Started(responder, number));
            }
            "Exec" => {
                let request = decode::<ExecProcessRequest>(payload);
                if let Err(status) = request.and_then(|r| self.exec_foreign(serial, responder, r)) {
                    return Some(Some(Err(status)));
                }
            }
            "Pause" => self.foreign_send(serial, "Pause", bytes, Then::Paused(responder, true)),
            "Resume" => self.foreign_send(serial, "Resume", bytes, Then::Paused(responder, false)),
            "Kill" => self.foreign_kill(serial, responder, payload),
            "Pids" => self.foreign_send(serial, "Pids", bytes, Then::Pass(responder)),
            "Update" => self.foreign_send(serial, "Update", bytes, Then::Pass(responder)),
            "Stats" => self.foreign_send(serial, "Stats", bytes, Then::Pass(responder)),
            "Checkpoint" => self.foreign_send(serial, "Checkpoint", bytes, Then::Pass(responder)),
            "ResizePty" => return Some(Some(self.foreign_resize(serial, payload))),
            _ => return None,
        }
        Some(None)
    }

    fn exec_foreign(
        &mut self,
        serial: u32,
        responder: Responder,
        request: ExecProcessRequest,
    ) -> Result<(), Status> {
        let number = self.add_exec(
            serial,
            &request,
            Phase::Elsewhere {
                pid: 0,
                started: false,
            },
        )?;
        let prepared = self.exec_stdio(serial, number, &request);
        let uris = match prepared {
            Ok(uris) => uris,
            Err(status) => {
                self.forget_exec(serial, number);
                return Err(status);
            }
        };
        let [stdin, stdout, stderr] = uris;
        let request = ExecProcessRequest {
            stdin,
            stdout,
            stderr,
            ..request
        };
        let then = Then::Added(responder, number);
        self.foreign_send(serial, "Exec", request.encode_to_vec(), then);
        Ok(())
    }

    /// Stdio of an exec, ready for its clients before it is started.
    fn exec_stdio(
        &mut self,
        serial: u32,
        number: Number,
        request: &ExecProcessRequest,
    ) -> Result<[String; 3], Status> {
        let missing = || Status::new(Code::NotFound, "no such container");
        let task = self.tasks.get_mut(&serial).ok_or_else(missing)?;
        let foreign = task.foreign.as_mut().ok_or_else(missing)?;
        let (prepared, stdio) = prepare(Plan {
            terminal: request.terminal,
            uris: [&request.stdin, &request.stdout, &request.stderr],
            loggers: std::mem::take(&mut self.loggers.ready),
            log: None,
            open_stdin: true,
            stdin_once: true,
            await_client: true,
            owner: (0, 0),
            size: None,
            fifos: Some(foreign.folder.join(fifo_prefix(number))),
        })
        .map_err(|e| Status::of(e.kind(), e.to_string()))?;
        foreign.held.insert(number, stdio);
        let names = prepared.fifo_names();
        let io = prepared.finish(None);
        let process = task.process(number).ok_or_else(missing)?;
        process.io = io.map_err(|e| Status::of(e.kind(), e.to_string()))?;
        Ok(names)
    }

    pub(super) fn forget_exec(&mut self, serial: u32, number: Number) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        if let Some(foreign) = &mut task.foreign {
            foreign.forget_fifos(number);
        }
        self.remove_exec(serial, number);
    }

    /// A process that has ended here has ended, whatever the other side knows yet.
    fn foreign_kill(&mut self, serial: u32, responder: Responder, payload: &[u8]) {
        let request = KillRequest::decode(payload).unwrap_or_default();
        let task = self.tasks.get_mut(&serial);
        let process = task.and_then(|t| t.named(&request.exec_id));
        let ended = process.is_some_and(|p| !p.is_alive());
        if request.exec_id.is_empty() && request.signal == SIGKILL && self.is_being_made(serial) {
            self.break_off(serial);
            return self.respond(responder, Ok(Vec::new()));
        }
        match ended && !request.all {
            true => {
                let status = Status::new(Code::NotFound, "process already finished");
                self.respond(responder, Err(status));
            }
            false => self.foreign_send(serial, "Kill", payload.to_vec(), Then::Pass(responder)),
        }
    }

    /// Whether its shim is asked for the container, and has not answered.
    fn is_being_made(&self, serial: u32) -> bool {
        let init = self.tasks.get(&serial).map(|t| &t.init.phase);
        matches!(
            init,
            Some(Phase::Elsewhere {
                pid: 0,
                started: false,
            })
        )
    }

    fn foreign_resize(&mut self, serial: u32, payload: &[u8]) -> Answer {
        let request: ResizePtyRequest = decode(payload)?;
        let cell = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let task = self.tasks.get_mut(&serial);
        let process = task.and_then(|t| t.named(&request.exec_id));
        let Some(process) = process else {
            let named = ProcessRequest {
                id: request.id,
                exec_id: request.exec_id,
            };
            return Err(no_process(&named));
        };
        if !process.wanted.terminal {
            let text = "the process has no terminal";
            return Err(Status::new(Code::FailedPrecondition, text));
        }
        // Passed on when it has started.
        process.io.early_size = Some(Size {
            rows: cell(request.height),
            cols: cell(request.width),
        });
        Ok(Vec::new())
    }

    /// Sizes and ends of input that have come up since the last round.
    pub(super) fn pass_on_io(&mut self, serial: u32) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let id = task.id.as_str().to_owned();
        // One at a time: a client may drag its window faster than the shim answers, and the last size is the one that counts.
        let resizing = task.foreign.as_ref().is_some_and(|f| f.awaits("ResizePty"));
        let mut calls = Vec::new();
        for process in task.processes_mut() {
            if !matches!(process.phase, Phase::Elsewhere { started: true, .. }) {
                continue;
            }
            let (id, exec_id) = (id.clone(), process.exec_id.clone());
            if !resizing && let Some(size) = process.io.early_size.take() {
                let request = ResizePtyRequest {
                    id: id.clone(),
                    exec_id: exec_id.clone(),
                    width: size.cols.into(),
                    height: size.rows.into(),
                };
                calls.push(("ResizePty", request.encode_to_vec()));
            }
            if process.io.input.as_ref().is_some_and(|i| i.sink.is_none()) {
                // The shim holds the FIFO open too, against clients that go: without this it has no end.
                process.io.input = None;
                let request = CloseIoRequest {
                    id,
                    exec_id,
                    stdin: true,
                };
                calls.push(("CloseIO", request.encode_to_vec()));
            }
        }
        for (method, payload) in calls {
            self.foreign_send(serial, method, payload, Then::Nothing);
        }
    }

    /// Create, once the shim is there.
    pub(super) fn foreign_create(
        &mut self,
        serial: u32,
        create: &CreateTaskRequest,
        responder: Responder,
    ) {
        self.foreign_send(
            serial,
            "Create",
            create.encode_to_vec(),
            Then::Created(responder),
        );
    }

    /// Deletes an exited process, or one that was never started.
    pub(in crate::serve) fn delete_foreign(
        &mut self,
        serial: u32,
        exec_id: &str,
        responder: Responder,
    ) -> Option<Answer> {
        let task = self.tasks.get_mut(&serial)?;
        let id = task.id.as_str().to_owned();
        let request = DeleteRequest {
            id: id.clone(),
            exec_id: exec_id.into(),
        };
        let process = task.named(exec_id)?;
        if matches!(process.phase, Phase::Elsewhere { started: true, .. }) {
            let text = format!("process {exec_id} of {id} is running");
            return Some(Err(Status::new(Code::FailedPrecondition, text)));
        }
        let number = process.number;
        let then = Then::Deleted(responder, number);
        self.foreign_send(serial, "Delete", request.encode_to_vec(), then);
        None
    }

    pub(super) fn foreign_send(
        &mut self,
        serial: u32,
        method: &'static str,
        payload: Vec<u8>,
        then: Then,
    ) {
        let Some(foreign) = self.foreign_of(serial) else {
            return;
        };
        let name = foreign.name();
        let refused = match &mut foreign.stage {
            Stage::Live(live) => match ttrpc::request(live.stream, live.service, method, payload) {
                Ok(frame) => {
                    live.pending.insert(live.stream, Pending { method, then });
                    // Streams are odd; a thousand million calls are more than a container's life has.
                    live.stream = live.stream.wrapping_add(2);
                    live.connection.send(&frame);
                    return;
                }
                Err(error) => Status::new(Code::ResourceExhausted, error.to_string()),
            },
            Stage::Launching(_) => {
                Status::new(Code::FailedPrecondition, format!("{name} is being started"))
            }
            Stage::Cleaning { .. } | Stage::Gone => {
                Status::new(Code::Unavailable, format!("{name} is gone"))
            }
        };
        self.conclude(serial, then, Err(refused));
    }
}

fn no_process(request: &ProcessRequest) -> Status {
    let text = format!("no process {} in {}", request.exec_id, request.id);
    Status::new(Code::NotFound, text)
}
