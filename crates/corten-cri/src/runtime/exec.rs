//! Processes in containers and ports of pods: ExecSync, and what the streaming server asks for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status};

use super::Shared;
use crate::blocking;
use crate::exec::{self, Announced};
use crate::proto::{
    AttachRequest, ExecRequest, ExecSyncRequest, ExecSyncResponse, PortForwardRequest,
};
use crate::spec;
use crate::stream::{
    self, Answer, AttachAsk, Backend, Duplex, ErrorKind, ExecAsk, Failure, ForwardAsk, Server,
    Streams,
};

impl Shared {
    pub(super) async fn exec_sync(
        self: &Arc<Self>,
        request: ExecSyncRequest,
    ) -> Result<ExecSyncResponse, Status> {
        let ExecSyncRequest {
            container_id,
            cmd,
            timeout,
        } = request;
        let limit = u64::try_from(timeout).ok().filter(|t| *t > 0);
        let announced = self.announce(&container_id, cmd, false, false).await?;
        let done = exec::collect(announced, limit.map(Duration::from_secs)).await;
        let done = done.map_err(|error| {
            let code = match error {
                exec::Error::Late { .. } => Code::DeadlineExceeded,
                _ => Code::Unknown,
            };
            Status::new(code, corten_spec::chain(&error))
        })?;
        Ok(ExecSyncResponse {
            stdout: done.stdout,
            stderr: done.stderr,
            exit_code: done.exit_code,
        })
    }

    /// Announces a process to the container's supervisor.
    async fn announce(
        self: &Arc<Self>,
        container: &str,
        command: Vec<String>,
        tty: bool,
        stdin: bool,
    ) -> Result<Announced, Status> {
        let entry = self.book.container(container)?;
        let now = entry.now();
        if !now.is_running() {
            return Err(Status::failed_precondition(format!(
                "container {} is not running",
                entry.id
            )));
        }
        let shared = self.clone();
        blocking::status(move || {
            let failed = |e: corten_engine::Error| crate::status::of(&e);
            let container = now.container;
            let spec = shared.engine.pod_spec(&container).map_err(failed)?;
            let process = spec::exec(&spec["process"], &command, tty);
            let process = process.map_err(super::plan::refused)?;
            let exec_id = corten_engine::pod::new_id().map_err(failed)?.to_string();
            let shim = shared
                .engine
                .exec_in_pod(&container, &exec_id, &process, stdin)
                .map_err(failed)?;
            let paths = shared.engine.paths();
            Ok(Announced {
                shim,
                exec_id,
                bundle: paths.pod_container_bundle(&container.pod, &container.id),
                tty,
            })
        })
        .await
    }

    fn streams(&self) -> Result<&Server, Status> {
        let server = self.streams.get();
        server.ok_or_else(|| Status::unavailable("the streaming server is not there yet"))
    }

    pub(super) fn exec_url(&self, request: ExecRequest) -> Result<String, Status> {
        let entry = self.book.container(&request.container_id)?;
        running(&entry)?;
        let ask = ExecAsk {
            container: entry.id.to_string(),
            command: request.cmd,
            tty: request.tty,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        self.streams()?.exec(ask).map_err(refused)
    }

    pub(super) fn attach_url(&self, request: AttachRequest) -> Result<String, Status> {
        let entry = self.book.container(&request.container_id)?;
        running(&entry)?;
        let ask = AttachAsk {
            container: entry.id.to_string(),
            tty: request.tty,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        self.streams()?.attach(ask).map_err(refused)
    }

    pub(super) fn forward_url(&self, request: PortForwardRequest) -> Result<String, Status> {
        let pod = self.book.pod(&request.pod_sandbox_id)?;
        if !pod.is_ready() {
            return Err(Status::failed_precondition(format!(
                "pod sandbox {} is not ready",
                pod.id
            )));
        }
        let port = |p: &i32| {
            u16::try_from(*p).map_err(|_| Status::invalid_argument(format!("port: {p} is no port")))
        };
        let ask = ForwardAsk {
            pod: pod.id.to_string(),
            ports: request.port.iter().map(port).collect::<Result<_, _>>()?,
        };
        self.streams()?.port_forward(ask).map_err(refused)
    }

    /// The network namespace of a pod; the host's, where it has none of its own.
    fn network_of(&self, pod: &str) -> Result<PathBuf, Failure> {
        let entry = self.book.pod(pod).map_err(|s| Failure::new(s.message()))?;
        let run = entry.now().pod.record.run.clone();
        let run = run.filter(|_| entry.is_ready());
        let run = run.ok_or_else(|| Failure::new(format!("pod sandbox {pod} is not ready")))?;
        let own = run.namespaces.get("network").cloned();
        Ok(own.unwrap_or_else(|| "/proc/self/ns/net".into()))
    }
}

fn running(entry: &super::book::ContainerEntry) -> Result<(), Status> {
    match entry.now().is_running() {
        true => Ok(()),
        false => Err(Status::failed_precondition(format!(
            "container {} is not running",
            entry.id
        ))),
    }
}

fn refused(error: stream::Error) -> Status {
    let code = match error.kind() {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Internal => Code::Internal,
    };
    Status::new(code, corten_spec::chain(&error))
}

/// What the streaming server's clients reach.
pub(super) struct Behind(pub Arc<Shared>);

impl Backend for Behind {
    fn exec<'a>(&'a self, ask: &'a ExecAsk, streams: Streams) -> Answer<'a, i32> {
        Box::pin(async move {
            let announced =
                self.0
                    .announce(&ask.container, ask.command.clone(), ask.tty, ask.stdin);
            let announced = announced.await.map_err(|s| Failure::new(s.message()))?;
            Ok(exec::run(announced, streams).await?)
        })
    }

    fn attach<'a>(&'a self, ask: &'a AttachAsk, streams: Streams) -> Answer<'a, ()> {
        Box::pin(async move {
            let entry = self.0.book.container(&ask.container);
            let entry = entry.map_err(|s| Failure::new(s.message()))?;
            let paths = self.0.engine.paths();
            let bundle = paths.pod_container_bundle(&entry.pod, &entry.id);
            Ok(exec::attach(&bundle, streams).await?)
        })
    }

    fn port<'a>(&'a self, pod: &'a str, port: u16) -> Answer<'a, Box<dyn Duplex>> {
        Box::pin(async move {
            let path = self.0.network_of(pod)?;
            let connection: Box<dyn Duplex> = Box::new(exec::port(&path, port).await?);
            Ok(connection)
        })
    }
}
