//! Checkpoint, and Create and Start of a container from one.
//!
//! ```text
//!   running, paused ── Checkpoint ──▶ images     (and runs on, or has exited: as asked)
//!   images ── Create ──▶ restorable ── Start ──▶ running
//! ```
//! criu does the work, and the thread waits for it: a container that is being written to files says nothing anyway.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use corten_runtime::{Checkpoint, Create, Images, ManageCgroups, Restore};
use corten_spec::Kind;
use prost::Message;

use super::create::{Parts, watch_memory};
use super::options::Criu;
use super::service::Answer;
use super::task::{Exit, Phase, Task};
use super::{Shim, say};
use crate::proto::events::TaskCheckpointed;
use crate::proto::task::{CheckpointOptions, CheckpointTaskRequest};
use crate::ttrpc::status::{Code, Status};

/// Below the bundle, where containerd's shim has criu's logs as well.
const WORK: &str = "work";

/// A container whose processes are in files.
#[derive(Debug)]
pub struct Restorable {
    pub images: PathBuf,
    pub parts: Parts,
}

impl Restorable {
    /// What Start would only find out when it is too late to say it clearly.
    pub fn check(&self) -> Result<(), Status> {
        let inventory = self.images.join("inventory.img");
        match inventory.is_file() {
            true => Ok(()),
            false => Err(Status::of(
                Kind::NotFound,
                format!("{} has no checkpoint", self.images.display()),
            )),
        }
    }
}

impl Shim {
    pub(super) fn checkpoint(&mut self, request: &CheckpointTaskRequest) -> Answer {
        let options = match &request.options {
            None => CheckpointOptions::default(),
            Some(any) => decode(any)?,
        };
        let task = self.task(&request.id)?;
        let images = images(task, &request.path, &options)?;
        corten_runtime::checkpoint(Checkpoint {
            id: &task.id,
            state_root: &task.state_root,
            images: &images,
            leave_running: !options.exit,
            pre_dump: false,
            parent: path(&options.parent_path),
            tcp_skip_in_flight: false,
            page_server: None,
            status_fd: None,
        })
        .map_err(refused)?;
        let event = TaskCheckpointed {
            container_id: request.id.clone(),
            checkpoint: images.path.display().to_string(),
        };
        self.publisher
            .publish("/tasks/checkpointed", "TaskCheckpointed", &event);
        // If it has ended by that, its exit is reaped and told like any other.
        Ok(Vec::new())
    }

    /// Start of a restorable container.
    pub(super) fn restore(&mut self, serial: u32) -> Answer {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return Err(Status::new(Code::NotFound, "no such container"));
        };
        let id = task.id.clone();
        // One try: the root and the stdio are spent with it. If it fails, that is told as any exit.
        let failed = Phase::Draining {
            exit: Exit {
                pid: 0,
                status: 128 + 9,
                at: SystemTime::now(),
            },
            since: Instant::now(),
        };
        let Phase::Restorable(from) = std::mem::replace(&mut task.init.phase, failed) else {
            let text = format!("container {id} has no checkpoint");
            return Err(Status::new(Code::FailedPrecondition, text));
        };
        let Restorable { images, parts } = *from;
        let images = Images {
            program: task.options.criu.program.clone(),
            path: images,
            work: Some(work(&task.options.criu, &task.bundle)),
            // What the images have of these, they have because it was allowed when they were made.
            tcp_established: true,
            ext_unix_sk: true,
            file_locks: true,
            ..Images::default()
        };
        let restored = corten_runtime::restore(Restore {
            create: Create {
                id: &id,
                bundle: &task.bundle,
                spec: &parts.spec,
                state_root: &task.state_root,
                rootfs: parts.rootfs,
                stdio: parts.stdio,
                options: parts.options,
            },
            images: &images,
            lsm_profile: None,
            lsm_mount_context: None,
        })
        .map_err(refused)?;
        for warning in &restored.warnings {
            say(format_args!("{id}: {warning}"));
        }
        let (pid, pidfd) = (restored.pid, restored.pidfd);
        task.init.phase = Phase::Running { pid, pidfd };
        task.oom = watch_memory(&task.state_root, &id);
        let io = parts.prepared.finish(restored.console);
        task.init.io = io.map_err(|e| Status::of(e.kind(), e.to_string()))?;
        Ok(self.started(serial, pid))
    }
}

/// criu says no to what this container is, or to what this kernel has: that is nothing broken.
fn refused(error: corten_runtime::Error) -> Status {
    let criu = matches!(error, corten_runtime::Error::Criu { .. });
    let status = Status::from(error);
    match criu {
        true => status.as_kind(Kind::Conflict),
        false => status,
    }
}

fn decode(any: &prost_types::Any) -> Result<CheckpointOptions, Status> {
    let invalid = |text| Status::of(Kind::Invalid, text);
    if any.value.is_empty() {
        return Ok(CheckpointOptions::default());
    }
    match crate::options::name(any) {
        "containerd.runc.v1.CheckpointOptions" => CheckpointOptions::decode(any.value.as_slice())
            .map_err(|e| invalid(format!("bad options {}: {e}", any.type_url))),
        other => Err(invalid(format!(
            "options of type {other} are not understood"
        ))),
    }
}

fn images(task: &Task, path_asked: &str, options: &CheckpointOptions) -> Result<Images, Status> {
    let criu = &task.options.criu;
    let invalid = |text| Status::of(Kind::Invalid, text);
    let images = path(path_asked)
        .or_else(|| path(&options.image_path))
        .or_else(|| criu.images.clone())
        .ok_or_else(|| invalid("no path for the checkpoint given".to_string()))?;
    // Networks are always restored without content, others never.
    let network = |name: &&String| name.as_str() != "network";
    if let Some(name) = options.empty_namespaces.iter().find(network) {
        let text = format!("empty_namespaces: {name:?} cannot be restored without its content");
        return Err(Status::of(Kind::Unsupported, text));
    }
    let manage_cgroups = match options.cgroups_mode.as_str() {
        "" => ManageCgroups::default(),
        mode => mode
            .parse()
            .map_err(|_| invalid(format!("cgroups_mode {mode:?} is not soft, full or strict")))?,
    };
    Ok(Images {
        program: criu.program.clone(),
        path: images,
        work: Some(path(&options.work_path).unwrap_or_else(|| work(criu, &task.bundle))),
        tcp_established: options.open_tcp,
        ext_unix_sk: options.external_unix_sockets,
        shell_job: options.terminal,
        file_locks: options.file_locks,
        manage_cgroups,
        ..Images::default()
    })
}

/// Where criu works and logs, unless a request says otherwise.
fn work(criu: &Criu, bundle: &Path) -> PathBuf {
    criu.work.clone().unwrap_or_else(|| bundle.join(WORK))
}

fn path(text: &str) -> Option<PathBuf> {
    Some(text).filter(|t| !t.is_empty()).map(PathBuf::from)
}
