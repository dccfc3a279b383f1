//! The Task API: requests in, answers out.

use corten_sys::process::send_signal;
use prost::Message;
use prost_types::Any;

use super::connection::Responder;
use super::options::json;
use super::publisher::SERVICE as EVENTS_SERVICE;
use super::settle::waited;
use super::task::{Phase, Process, Task};
use super::{CALM, Shim, tree};
use crate::attach::Size;
use crate::proto::events::TaskNamed;
use crate::proto::task::{
    CloseIoRequest, ConnectResponse, ContainerRequest, CreateTaskRequest, ExecProcessRequest,
    KillRequest, PidsResponse, ProcessDetails, ProcessInfo, ProcessRequest, ResizePtyRequest,
    ShutdownRequest, StateResponse, StatsResponse, Status as TaskStatus, UpdateTaskRequest,
};
use crate::proto::ttrpc::Request;
use crate::time::timestamp;
use crate::ttrpc::frame::{Event, Frame, REQUEST};
use crate::ttrpc::status::{Code, Status};
use crate::ttrpc::{self};
use crate::{OWN_SERVICE, SANDBOX_SERVICE};

/// Both versions have the same messages.
const SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

const SIGKILL: i32 = 9;

pub type Answer = Result<Vec<u8>, Status>;

impl Shim {
    pub(super) fn serve_connection(&mut self, id: u32) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        for event in connection.ready(&mut self.scratch) {
            match event {
                Event::Frame(frame) => self.serve_frame(id, &frame),
                Event::Oversized(header) => {
                    let text =
                        format!("a message of {} bytes exceeds ttrpc's bound", header.length);
                    let responder = Responder {
                        connection: id,
                        stream: header.stream,
                    };
                    self.respond(responder, Err(Status::new(Code::ResourceExhausted, text)));
                }
            }
        }
    }

    fn serve_frame(&mut self, connection: u32, frame: &Frame) {
        let stream = frame.header.stream;
        let responder = Responder { connection, stream };
        // Clients number their streams with odd numbers; the rest is not ttrpc. And who asks a shim that has been told to end
        // shall find another one.
        if stream.is_multiple_of(2) || self.ending.is_some() {
            if let Some(connection) = self.connections.get_mut(&connection) {
                connection.hang_up();
            }
            return;
        }
        if frame.header.kind != REQUEST {
            let status = Status::new(Code::Unimplemented, "streams are not supported");
            return self.respond(responder, Err(status));
        }
        let answer = match Request::decode(frame.payload.as_slice()) {
            Ok(request) => {
                let answer = self.call(responder, &request);
                self.report(&request, answer.as_ref());
                answer
            }
            Err(e) => Some(Err(bad(&e))),
        };
        if let Some(answer) = answer {
            self.respond(responder, answer);
        }
        self.trim = Some(std::time::Instant::now() + CALM);
    }

    /// With `-debug`, what was asked and how it went.
    fn report(&self, request: &Request, answer: Option<&Answer>) {
        if !self.config.debug {
            return;
        }
        let (service, method) = (&request.service, &request.method);
        match answer {
            None => super::line("debug", format_args!("{service}/{method}: to be answered")),
            Some(Ok(_)) => super::line("debug", format_args!("{service}/{method}: done")),
            Some(Err(status)) => super::line(
                "debug",
                format_args!("{service}/{method}: {} {}", status.code, status.message),
            ),
        }
    }

    pub(super) fn respond(&mut self, to: Responder, answer: Answer) {
        // Who asked may have gone since.
        if let Some(connection) = self.connections.get_mut(&to.connection) {
            connection.send(&ttrpc::response(to.stream, answer));
        }
    }

    /// `None`: the answer comes later.
    fn call(&mut self, responder: Responder, request: &Request) -> Option<Answer> {
        let payload = request.payload.as_slice();
        if request.service == OWN_SERVICE {
            return self.own_call(responder, &request.method, payload);
        }
        if request.service == SANDBOX_SERVICE {
            return self.sandbox_call(responder, &request.method, payload);
        }
        if request.service == EVENTS_SERVICE && request.method == "Forward" {
            return Some(self.foreign_event(responder, payload));
        }
        if !SERVICES.contains(&request.service.as_str()) {
            let text = format!("service {} is not served", request.service);
            return Some(Err(Status::new(Code::Unimplemented, text)));
        }
        match self.await_loggers(responder, request) {
            Ok(true) => None,
            Ok(false) => self.serve_call(responder, request),
            Err(status) => Some(Err(status)),
        }
    }

    /// A request whose loggers, if it needs any, are ready.
    pub(super) fn serve_call(&mut self, responder: Responder, request: &Request) -> Option<Answer> {
        let payload = request.payload.as_slice();
        if let Some(answer) = self.call_foreign(responder, &request.method, payload) {
            return answer;
        }
        Some(match request.method.as_str() {
            "Create" => return self.create_or_pass(responder, payload),
            "Start" => decode(payload).and_then(|r| self.start(&r)),
            "Exec" => decode(payload).and_then(|r: ExecProcessRequest| {
                let serial = self.find(&r.id)?;
                self.exec(serial, r)
            }),
            "State" => decode(payload).and_then(|r| self.state(&r)),
            "Pids" => decode(payload).and_then(|r| self.pids(&r)),
            "Pause" => decode(payload).and_then(|r| self.pause(&r, true)),
            "Resume" => decode(payload).and_then(|r| self.pause(&r, false)),
            "Kill" => decode(payload).and_then(|r| self.kill(&r)),
            "Delete" => return self.delete_or_wait(responder, payload),
            "Wait" => return self.wait_for_exit(responder, payload),
            "CloseIO" => decode(payload).and_then(|r| self.close_io(&r)),
            "ResizePty" => decode(payload).and_then(|r| self.resize(&r)),
            "Update" => decode(payload).and_then(|r| self.update(&r)),
            "Stats" => decode(payload).and_then(|r| self.stats(&r)),
            "Connect" => decode(payload).and_then(|r| self.connect(&r)),
            "Shutdown" => decode(payload).and_then(|r| self.shutdown(&r)),
            "Checkpoint" => decode(payload).and_then(|r| self.checkpoint(&r)),
            other => Err(Status::new(
                Code::Unimplemented,
                format!("method {other} is not served"),
            )),
        })
    }

    fn create_or_pass(&mut self, responder: Responder, payload: &[u8]) -> Option<Answer> {
        let decoded = decode::<CreateTaskRequest>(payload).and_then(|request| {
            let options = super::options::decode(request.options.as_ref(), &self.config.namespace)?;
            Ok((request, options))
        });
        match decoded {
            Err(status) => Some(Err(status)),
            Ok((request, options)) if options.corten.foreign.is_some() => {
                self.create_foreign(responder, request, options)
            }
            Ok((request, options)) => Some(self.create(request, options)),
        }
    }

    pub(super) fn find(&self, id: &str) -> Result<u32, Status> {
        let found = self.tasks.iter().find(|(_, t)| t.id.as_str() == id);
        found
            .map(|(serial, _)| *serial)
            .ok_or_else(|| Status::new(Code::NotFound, format!("no container {id} in this shim")))
    }

    pub(super) fn task(&mut self, id: &str) -> Result<&mut Task, Status> {
        let serial = self.find(id)?;
        let task = self.tasks.get_mut(&serial);
        task.ok_or_else(|| Status::new(Code::NotFound, format!("no container {id} in this shim")))
    }

    pub(super) fn process(&mut self, id: &str, exec_id: &str) -> Result<&mut Process, Status> {
        let missing = || Status::new(Code::NotFound, format!("no process {exec_id} in {id}"));
        self.task(id)?.named(exec_id).ok_or_else(missing)
    }

    fn start(&mut self, request: &ProcessRequest) -> Answer {
        let serial = self.find(&request.id)?;
        match request.exec_id.as_str() {
            "" => self.start_init(serial),
            exec => self.start_exec(serial, exec),
        }
    }

    fn state(&mut self, request: &ProcessRequest) -> Answer {
        let task = self.task(&request.id)?;
        let (bundle, paused) = (task.bundle.display().to_string(), task.paused);
        let process = self.process(&request.id, &request.exec_id)?;
        let status = match process.status() {
            TaskStatus::Running if paused => TaskStatus::Paused,
            other => other,
        };
        let exit = process.exit();
        let wanted = process.wanted.clone();
        Ok(StateResponse {
            id: request.id.clone(),
            bundle,
            pid: process.pid(),
            status: status.into(),
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
            terminal: wanted.terminal,
            exit_status: exit.map_or(0, |e| e.status),
            exited_at: exit.map(|e| timestamp(e.at)),
            exec_id: request.exec_id.clone(),
        }
        .encode_to_vec())
    }

    fn pids(&mut self, request: &ContainerRequest) -> Answer {
        let task = self.task(&request.id)?;
        if let Some(exit) = task.init.exit() {
            // A containerd from 1.7 on that is started again ends a shim without any, and its exit would be lost.
            let init = ProcessInfo {
                pid: exit.pid,
                info: None,
            };
            let processes = vec![init];
            return Ok(PidsResponse { processes }.encode_to_vec());
        }
        let group = corten_runtime::cgroup(&task.state_root, &task.id)?;
        let details = |pid: u32| {
            let exec = task.execs.iter().find(|e| e.is_alive() && e.pid() == pid)?;
            let details = ProcessDetails {
                exec_id: exec.exec_id.clone(),
            };
            Some(Any {
                type_url: "containerd.runc.v1.ProcessDetails".into(),
                value: details.encode_to_vec(),
            })
        };
        let pids = group
            .pids()?
            .into_iter()
            .filter_map(|p| u32::try_from(p).ok());
        let processes = pids
            .map(|pid| ProcessInfo {
                pid,
                info: details(pid),
            })
            .collect();
        Ok(PidsResponse { processes }.encode_to_vec())
    }

    fn pause(&mut self, request: &ContainerRequest, on: bool) -> Answer {
        let task = self.task(&request.id)?;
        match on {
            true => corten_runtime::pause(&task.state_root, &task.id)?,
            false => corten_runtime::resume(&task.state_root, &task.id)?,
        }
        task.paused = on;
        let event = TaskNamed {
            container_id: request.id.clone(),
        };
        match on {
            true => self
                .publisher
                .publish("/tasks/paused", "TaskPaused", &event),
            false => self
                .publisher
                .publish("/tasks/resumed", "TaskResumed", &event),
        }
        Ok(Vec::new())
    }

    fn kill(&mut self, request: &KillRequest) -> Answer {
        let signal = i32::try_from(request.signal)
            .ok()
            .filter(|s| (1..=64).contains(s));
        let signal = signal.ok_or_else(|| {
            Status::new(
                Code::InvalidArgument,
                format!("no signal {}", request.signal),
            )
        })?;
        let task = self.task(&request.id)?;
        if request.all && request.exec_id.is_empty() {
            corten_runtime::kill(&task.state_root, &task.id, signal, true)?;
            return Ok(Vec::new());
        }
        let family = request.all && signal == SIGKILL;
        let group = family.then(|| corten_runtime::cgroup(&task.state_root, &task.id));
        let process = self.process(&request.id, &request.exec_id)?;
        let pidfd = match &process.phase {
            Phase::Running { .. } if family => {
                let pids = || group.as_ref()?.as_ref().ok()?.pids().ok();
                tree::kill(process.pid(), || pids().unwrap_or_default());
                return Ok(Vec::new());
            }
            Phase::Added(_) => {
                return Err(Status::new(
                    Code::FailedPrecondition,
                    format!("process {} was not started", request.exec_id),
                ));
            }
            Phase::Restorable(_) => {
                let text = format!("container {} was not restored yet", request.id);
                return Err(Status::new(Code::FailedPrecondition, text));
            }
            Phase::Created(created) => &created.pidfd,
            Phase::Running { pidfd, .. } => pidfd,
            Phase::Elsewhere { .. } | Phase::Draining { .. } | Phase::Exited(_) => {
                return Err(Status::new(Code::NotFound, "process already finished"));
            }
        };
        match send_signal(pidfd, signal) {
            Ok(()) => Ok(Vec::new()),
            Err(rustix::io::Errno::SRCH) => {
                Err(Status::new(Code::NotFound, "process already finished"))
            }
            Err(errno) => Err(Status::new(
                Code::Unknown,
                format!("cannot send signal {signal}: {errno}"),
            )),
        }
    }

    fn wait_for_exit(&mut self, responder: Responder, payload: &[u8]) -> Option<Answer> {
        let request: ProcessRequest = match decode(payload) {
            Ok(request) => request,
            Err(status) => return Some(Err(status)),
        };
        self.wait_for(responder, &request.id, &request.exec_id)
    }

    pub(super) fn wait_for(
        &mut self,
        responder: Responder,
        id: &str,
        exec_id: &str,
    ) -> Option<Answer> {
        match self.process(id, exec_id) {
            Err(status) => Some(Err(status)),
            Ok(process) => match process.exit() {
                Some(exit) => Some(Ok(waited(&exit))),
                None => {
                    process.waiters.push(responder);
                    None
                }
            },
        }
    }

    fn close_io(&mut self, request: &CloseIoRequest) -> Answer {
        let serial = self.find(&request.id)?;
        let missing = || Status::new(Code::NotFound, format!("no process {}", request.exec_id));
        let task = self.tasks.get_mut(&serial).ok_or_else(missing)?;
        let process = task.named(&request.exec_id).ok_or_else(missing)?;
        if request.stdin
            && let Some(input) = &mut process.io.input
        {
            input.close(&mut self.scratch);
        }
        Ok(Vec::new())
    }

    fn resize(&mut self, request: &ResizePtyRequest) -> Answer {
        let cell = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let size = Size {
            rows: cell(request.height),
            cols: cell(request.width),
        };
        let process = self.process(&request.id, &request.exec_id)?;
        if !process.wanted.terminal {
            return Err(Status::new(
                Code::FailedPrecondition,
                "the process has no terminal",
            ));
        }
        match &process.phase {
            Phase::Added(_) => process.size = Some(size),
            Phase::Created(_) | Phase::Running { .. } => {
                let resized = process.io.resize(size);
                resized.map_err(|e| Status::new(Code::Unknown, format!("cannot resize: {e}")))?;
            }
            Phase::Restorable(_)
            | Phase::Elsewhere { .. }
            | Phase::Draining { .. }
            | Phase::Exited(_) => {}
        }
        Ok(Vec::new())
    }

    fn update(&mut self, request: &UpdateTaskRequest) -> Answer {
        let resources: corten_spec::oci::runtime::LinuxResources =
            json("resources", request.resources.as_ref())?;
        // Annotations are for runtimes that understand some; this one reads its own from the specification alone.
        let task = self.task(&request.id)?;
        corten_runtime::update(&task.state_root, &task.id, &resources)?;
        Ok(Vec::new())
    }

    fn stats(&mut self, request: &ContainerRequest) -> Answer {
        let task = self.task(&request.id)?;
        let group = corten_runtime::cgroup(&task.state_root, &task.id)?;
        let stats = Some(crate::metrics::of(&group)?);
        Ok(StatsResponse { stats }.encode_to_vec())
    }

    /// Without an id it is about the shim alone.
    fn connect(&mut self, request: &ContainerRequest) -> Answer {
        let task_pid = match self.find(&request.id) {
            Ok(serial) => self.tasks.get(&serial).map_or(0, |t| t.init.pid()),
            Err(_) => 0,
        };
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid,
            version: env!("CARGO_PKG_VERSION").into(),
        }
        .encode_to_vec())
    }

    /// Ends the shim, unless containers or their pod are left: one of a pod's may be deleted before the others, and a
    /// containerd that was started again asks so after each.
    fn shutdown(&mut self, _request: &ShutdownRequest) -> Answer {
        if self.is_empty() {
            self.end_restarts();
            self.end();
        }
        Ok(Vec::new())
    }
}

pub(super) fn decode<T: Message + Default>(payload: &[u8]) -> Result<T, Status> {
    T::decode(payload).map_err(|e| bad(&e))
}

fn bad(error: &prost::DecodeError) -> Status {
    Status::new(Code::InvalidArgument, format!("bad request: {error}"))
}
