//! Exec: another process in a running container.

use corten_runtime::{Exec, Options as RuntimeOptions};
use corten_spec::ContainerId;
use corten_spec::oci::runtime;
use prost::Message;

use super::options::json;
use super::task::{Phase, Process, Wanted};
use super::{Number, Shim, say};
use crate::attach::Size;
use crate::proto::events::{TaskExecAdded, TaskExecStarted};
use crate::proto::task::{ExecProcessRequest, StartResponse};
use crate::stdio::prepare::{Plan, prepare};
use crate::ttrpc::status::{Code, Status};

impl Shim {
    /// Remembers a process to be started.
    pub(super) fn exec(
        &mut self,
        serial: u32,
        request: ExecProcessRequest,
    ) -> Result<Vec<u8>, Status> {
        let process: runtime::Process = json("process", request.spec.as_ref())?;
        self.add_exec(serial, &request, Phase::Added(Box::new(process)))?;
        let event = TaskExecAdded {
            container_id: request.id,
            exec_id: request.exec_id,
        };
        self.publisher
            .publish("/tasks/exec-added", "TaskExecAdded", &event);
        Ok(Vec::new())
    }

    /// A process that is to be, in the list.
    pub(super) fn add_exec(
        &mut self,
        serial: u32,
        request: &ExecProcessRequest,
        phase: Phase,
    ) -> Result<Number, Status> {
        let invalid = |e: corten_spec::IdError| Status::new(Code::InvalidArgument, e.to_string());
        let exec_id: ContainerId = request.exec_id.parse().map_err(invalid)?;
        let exec_id = exec_id.as_str().to_string();
        let Some(task) = self.tasks.get_mut(&serial) else {
            return Err(Status::new(Code::NotFound, "no such container"));
        };
        if task.named(&exec_id).is_some() {
            let text = format!("process {exec_id} already exists in {}", task.id);
            return Err(Status::new(Code::AlreadyExists, text));
        }
        if !task.init.is_alive() {
            let text = format!("container {} has exited", task.id);
            return Err(Status::new(Code::FailedPrecondition, text));
        }
        let number = task.next_number;
        task.next_number += 1;
        let (wanted, io) = (Wanted::from(request), Default::default());
        task.execs
            .push(Process::new(number, exec_id, wanted, phase, io));
        Ok(number)
    }

    pub(super) fn start_exec(&mut self, serial: u32, exec_id: &str) -> Result<Vec<u8>, Status> {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return Err(Status::new(Code::NotFound, "no such container"));
        };
        let (id, state_root) = (task.id.clone(), task.state_root.clone());
        let owner = task.options.owner;
        let Some(process) = task.named(exec_id) else {
            let text = format!("no process {exec_id} in {id}");
            return Err(Status::new(Code::NotFound, text));
        };
        let Phase::Added(spec) = &process.phase else {
            let text = format!("process {exec_id} was started before");
            return Err(Status::new(Code::FailedPrecondition, text));
        };
        let wanted = process.wanted.clone();
        let size = process.io.early_size.or(process.size).or_else(|| {
            spec.console_size().map(|s| Size {
                rows: u16::try_from(s.height()).unwrap_or(u16::MAX),
                cols: u16::try_from(s.width()).unwrap_or(u16::MAX),
            })
        });
        let (prepared, stdio) = prepare(Plan {
            terminal: wanted.terminal,
            uris: [&wanted.stdin, &wanted.stdout, &wanted.stderr],
            loggers: std::mem::take(&mut self.loggers.ready),
            log: None,
            open_stdin: true,
            stdin_once: true,
            await_client: true,
            owner,
            size,
            fifos: None,
        })
        .map_err(|e| Status::of(e.kind(), e.to_string()))?;
        let execed = corten_runtime::exec(Exec {
            id: &id,
            state_root: &state_root,
            process: spec,
            stdio,
            options: RuntimeOptions::default(),
        })?;
        for warning in &execed.warnings {
            say(format_args!("{id} {exec_id}: {warning}"));
        }
        let (pid, pidfd) = (execed.pid, execed.pidfd);
        let io = prepared
            .finish(execed.console)
            .map_err(|e| Status::of(e.kind(), e.to_string()));
        // A client may have attached before the start.
        let early = std::mem::take(&mut process.io.clients);
        process.phase = Phase::Running { pid, pidfd };
        process.io = io?;
        for client in early {
            process.io.add_client(client, &mut self.scratch);
        }
        let event = TaskExecStarted {
            container_id: id.as_str().into(),
            exec_id: exec_id.into(),
            pid,
        };
        self.publisher
            .publish("/tasks/exec-started", "TaskExecStarted", &event);
        Ok(StartResponse { pid }.encode_to_vec())
    }
}
