//! The Task API: a container's life, its processes, and figures of it.

use std::collections::BTreeMap;
use std::path::Path;

use corten_spec::oci::runtime;
use prost::Message;
use prost_types::Any;
use rustix::net::RecvFlags;

use super::{Client, CreateRequest, Exit, Stdio, Waiting, exit_of, refused, time_of};
use crate::Error;
use crate::proto::task;

impl Client {
    /// Makes the container; its init waits. Returns init's process id.
    pub fn create(&mut self, request: CreateRequest) -> Result<u32, Error> {
        let rootfs = request.rootfs.into_iter().map(|m| task::Mount {
            r#type: m.fstype,
            source: m.source,
            target: String::new(),
            options: m.options,
        });
        let message = task::CreateTaskRequest {
            id: self.id.clone(),
            bundle: request.bundle.display().to_string(),
            rootfs: rootfs.collect(),
            terminal: request.stdio.terminal,
            stdin: request.stdio.stdin,
            stdout: request.stdio.stdout,
            stderr: request.stdio.stderr,
            checkpoint: request.checkpoint.display().to_string(),
            parent_checkpoint: String::new(),
            options: Some(Any {
                type_url: "corten.shim.v1.CreateOptions".into(),
                value: request.options.encode_to_vec(),
            }),
        };
        let answer: task::CreateTaskResponse = self.call("Create", &message)?;
        Ok(answer.pid)
    }

    /// Starts init (`""`) or an added process. `Ok` once its program runs.
    pub fn start(&mut self, exec_id: &str) -> Result<u32, Error> {
        let message = self.process(exec_id);
        let answer: task::StartResponse = self.call("Start", &message)?;
        Ok(answer.pid)
    }

    /// Adds a process, to be attached to if need be and then started.
    pub fn exec(
        &mut self,
        exec_id: &str,
        stdio: Stdio,
        process: &runtime::Process,
    ) -> Result<(), Error> {
        let json = serde_json::to_vec(process).map_err(|e| Error::Broken {
            method: "Exec",
            source: e.into(),
        })?;
        let message = task::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            terminal: stdio.terminal,
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
                value: json,
            }),
        };
        self.call::<()>("Exec", &message)
    }

    pub fn kill(&mut self, exec_id: &str, signal: u32, all: bool) -> Result<(), Error> {
        let message = task::KillRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            signal,
            all,
        };
        self.call::<()>("Kill", &message)
    }

    /// Waits until the process has exited and its output has been passed on.
    pub fn wait(&mut self, exec_id: &str) -> Result<Exit, Error> {
        let waiting = self.begin_wait(exec_id)?;
        self.end_wait(waiting)
    }

    /// Waits for the answer to a Wait that was sent.
    pub fn end_wait(&mut self, waiting: Waiting) -> Result<Exit, Error> {
        let bytes = self.finish("Wait", waiting.stream)?;
        exit_of(&bytes)
    }

    /// Sends a Wait without waiting. Poll the client ([`AsFd`]) for reading, then ask [`poll_wait`](Self::poll_wait).
    pub fn begin_wait(&mut self, exec_id: &str) -> Result<Waiting, Error> {
        let message = self.process(exec_id);
        let stream = self.send("Wait", &message)?;
        Ok(Waiting { stream })
    }

    /// The exit, if the answer is here. Never blocks.
    pub fn poll_wait(&mut self, waiting: &Waiting) -> Result<Option<Exit>, Error> {
        while !self.answers.contains_key(&waiting.stream) {
            if !self.receive("Wait", RecvFlags::DONTWAIT)? {
                return Ok(None);
            }
        }
        match self.answers.remove(&waiting.stream) {
            Some(Ok(bytes)) => exit_of(&bytes).map(Some),
            Some(Err(status)) => Err(refused("Wait", status)),
            None => Ok(None),
        }
    }

    pub fn state(&mut self, exec_id: &str) -> Result<task::StateResponse, Error> {
        let message = self.process(exec_id);
        self.call("State", &message)
    }

    /// All processes of the container, by host process id.
    pub fn pids(&mut self) -> Result<Vec<u32>, Error> {
        let answer: task::PidsResponse = self.call("Pids", &self.container())?;
        Ok(answer.processes.iter().map(|p| p.pid).collect())
    }

    /// Forgets an exited process; with `""` the container, its cgroup and its runtime state.
    pub fn delete(&mut self, exec_id: &str) -> Result<Exit, Error> {
        let message = task::DeleteRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
        };
        let answer: task::DeleteResponse = self.call("Delete", &message)?;
        Ok(Exit {
            pid: answer.pid,
            status: answer.exit_status,
            at: time_of(answer.exited_at.as_ref()),
        })
    }

    pub fn resize(&mut self, exec_id: &str, rows: u16, cols: u16) -> Result<(), Error> {
        let message = task::ResizePtyRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            width: cols.into(),
            height: rows.into(),
        };
        self.call::<()>("ResizePty", &message)
    }

    /// Ends standard input, after what was already written to it.
    pub fn close_io(&mut self, exec_id: &str) -> Result<(), Error> {
        let message = task::CloseIoRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            stdin: true,
        };
        self.call::<()>("CloseIO", &message)
    }

    /// containerd's metrics, of the cgroup version that the host has.
    pub fn stats(&mut self) -> Result<Option<Any>, Error> {
        let answer: task::StatsResponse = self.call("Stats", &self.container())?;
        Ok(answer.stats)
    }

    pub fn update(&mut self, resources: &runtime::LinuxResources) -> Result<(), Error> {
        let json = serde_json::to_vec(resources).map_err(|e| Error::Broken {
            method: "Update",
            source: e.into(),
        })?;
        let message = task::UpdateTaskRequest {
            id: self.id.clone(),
            resources: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
                value: json,
            }),
            annotations: BTreeMap::new(),
        };
        self.call::<()>("Update", &message)
    }

    /// Writes the container's processes into files of a folder, and lets them run on.
    pub fn checkpoint(&mut self, images: &Path) -> Result<(), Error> {
        let message = task::CheckpointTaskRequest {
            id: self.id.clone(),
            path: images.display().to_string(),
            options: None,
        };
        self.call::<()>("Checkpoint", &message)
    }

    pub fn pause(&mut self) -> Result<(), Error> {
        self.call::<()>("Pause", &self.container())
    }

    pub fn resume(&mut self) -> Result<(), Error> {
        self.call::<()>("Resume", &self.container())
    }

    /// The shim's process id and the container's.
    pub fn connect_info(&mut self) -> Result<(u32, u32), Error> {
        let answer: task::ConnectResponse = self.call("Connect", &self.container())?;
        Ok((answer.shim_pid, answer.task_pid))
    }

    /// Ends the shim, once its containers are deleted. Waits for its end, and reaps it if it is our child.
    pub fn shutdown(mut self) -> Result<(), Error> {
        let message = task::ShutdownRequest {
            id: self.id.clone(),
            now: false,
        };
        self.call::<()>("Shutdown", &message)?;
        self.reap();
        Ok(())
    }
}
