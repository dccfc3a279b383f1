//! Create and Start of a container.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use corten_runtime::rootfs;
use corten_runtime::{Create, Options as RuntimeOptions, Rootfs};
use corten_spec::ContainerId;
use corten_spec::oci::runtime::{LinuxNamespaceType, Spec};
use prost::Message;

use super::checkpoint::Restorable;
use super::health::Health;
use super::options::Options;
use super::restart::Terms;
use super::task::{Phase, Process, Task, Wanted};
use super::{Shim, say};
use crate::attach::Size;
use crate::listen::bind_in;
use crate::log::{Limits, Log, Place};
use crate::proto::events::{TaskCreate, TaskIo, TaskStart};
use crate::proto::task::{CreateTaskRequest, CreateTaskResponse, Mount, StartResponse};
use crate::stdio::Io;
use crate::stdio::prepare::{Plan, Prepared, prepare};
use crate::ttrpc::status::{Code, Status};

/// A `config.json` is some 10 KiB; seccomp profiles may make it 100.
const SPEC_MAX: u64 = 16 << 20;
/// Where `delete` finds the state root after a crash, in the bundle.
pub const STATE_ROOT_FILE: &str = "corten-state-root";

/// Where `delete` finds how init ended, if it had, in the bundle.
pub const EXIT_FILE: &str = "corten-exit.json";

/// What init is made of.
#[derive(Debug)]
pub struct Parts {
    pub spec: Spec,
    pub rootfs: Rootfs,
    pub stdio: corten_runtime::Stdio,
    pub prepared: Prepared,
    pub options: RuntimeOptions,
}

impl Shim {
    pub(super) fn create(
        &mut self,
        request: CreateTaskRequest,
        mut options: Options,
    ) -> Result<Vec<u8>, Status> {
        // Everything that can fail for bad input comes before the container exists.
        let id = self.free_id(&request.id)?;
        if !request.parent_checkpoint.is_empty() {
            let text = "parent_checkpoint: a checkpoint's images name their parent themselves";
            return Err(Status::new(Code::Unimplemented, text));
        }
        let bundle = self.bundle_of(&request.bundle);
        let state_root = options.state_root.clone();
        let state_root = state_root.unwrap_or_else(|| self.config.state_root.clone());
        if !self.config.until_idle {
            leave_word(&bundle, &state_root)?;
            let record = &mut options.corten.exit_record;
            if record.is_empty() {
                *record = bundle.join(EXIT_FILE).display().to_string();
            }
        }
        let mut spec = read_spec(&bundle)?;
        if let Some(pod) = &self.sandbox {
            crate::pod_files::show(&mut spec, &pod.bundle)?;
        }
        let restart = options.corten.restart.clone();
        let restart = restart.map(Terms::try_from).transpose()?;
        let health = options.corten.health.clone();
        let health = health.map(|h| Health::new(h, &spec)).transpose()?;
        let attach = match options.corten.attach {
            false => None,
            true => Some(listen(&bundle)?),
        };
        let kill_all = shares_pids(&spec);
        let parts = self.parts(&request, &options, spec)?;
        let (phase, io) = match request.checkpoint.as_str() {
            "" => make(&id, &bundle, &state_root, parts)?,
            images => restorable(images, parts)?,
        };
        let init = Process::new(0, String::new(), Wanted::from(&request), phase, io);
        let pid = init.pid();
        let mut task = Task::new(id, bundle, state_root, init);
        if task.init.is_alive() {
            task.oom = watch_memory(&task.state_root, &task.id);
        }
        task.kill_all = kill_all;
        task.attach = attach;
        task.health = health.map(Box::new);
        task.options = options.lasting;
        task.take_options(options.corten);
        self.enter(task, restart);
        let event = created(request, pid);
        self.publisher
            .publish("/tasks/create", "TaskCreate", &event);
        Ok(CreateTaskResponse { pid }.encode_to_vec())
    }

    /// A bundle: given, or the shim's.
    pub(super) fn bundle_of(&self, given: &str) -> PathBuf {
        match given.is_empty() {
            true => self.config.bundle.clone(),
            false => given.into(),
        }
    }

    /// From here on the container is looked after.
    pub(super) fn enter(&mut self, task: Task, restart: Option<Terms>) -> u32 {
        if let Some(terms) = restart {
            let (record, command) = (task.exit_record.clone(), task.exit_command.clone());
            self.set_restart(task.id.as_str(), terms, record, command);
        }
        let serial = self.serial();
        self.tasks.insert(serial, task);
        serial
    }

    fn parts(
        &mut self,
        request: &CreateTaskRequest,
        options: &Options,
        spec: Spec,
    ) -> Result<Parts, Status> {
        let (prepared, stdio) = self.prepare_init(request, options, &spec)?;
        let rootfs = match options.corten.root_mount {
            0 => assemble(request)?,
            place => Rootfs::Mount(self.inherited_root(place)?),
        };
        let options = RuntimeOptions {
            no_pivot: options.corten.no_pivot_root,
            no_new_keyring: options.corten.no_new_keyring,
            systemd_cgroup: options.systemd_cgroup,
            die_with_caller: true,
            ..RuntimeOptions::default()
        };
        Ok(Parts {
            spec,
            rootfs,
            stdio,
            prepared,
            options,
        })
    }

    /// An id that no other container here has.
    pub(super) fn free_id(&self, id: &str) -> Result<ContainerId, Status> {
        let id: ContainerId = id.parse().map_err(|e| invalid(format!("{e}")))?;
        match self.tasks.values().any(|t| t.id == id) {
            true => {
                let text = format!("container {id} already exists");
                Err(Status::new(Code::AlreadyExists, text))
            }
            false => Ok(id),
        }
    }

    fn prepare_init(
        &mut self,
        request: &CreateTaskRequest,
        options: &Options,
        spec: &Spec,
    ) -> Result<(Prepared, corten_runtime::Stdio), Status> {
        let size = spec.process().as_ref().and_then(|p| p.console_size());
        let size = size.map(|s| Size {
            rows: u16::try_from(s.height()).unwrap_or(u16::MAX),
            cols: u16::try_from(s.width()).unwrap_or(u16::MAX),
        });
        let plan = Plan {
            size,
            ..self.init_plan(request, options)?
        };
        prepare(plan).map_err(|e| Status::of(e.kind(), e.to_string()))
    }

    /// Init's stdio as its options have it.
    pub(super) fn init_plan<'a>(
        &mut self,
        request: &'a CreateTaskRequest,
        options: &Options,
    ) -> Result<Plan<'a>, Status> {
        let corten = &options.corten;
        let log = match corten.log_path.as_str() {
            "" => None,
            path => {
                let path = Path::new(path);
                let root = Some(&corten.log_root).filter(|r| !r.is_empty());
                let place = Place::new(path, root.map(Path::new));
                let limits = Limits {
                    max_size: corten.log_max_size,
                    max_files: corten.log_max_files,
                };
                let log = Log::open(place, limits);
                Some(log.map_err(|e| failed("open the log", path, &e))?)
            }
        };
        Ok(Plan {
            terminal: request.terminal,
            uris: [&request.stdin, &request.stdout, &request.stderr],
            loggers: std::mem::take(&mut self.loggers.ready),
            log,
            open_stdin: corten.open_stdin,
            stdin_once: corten.stdin_once,
            await_client: false,
            owner: options.lasting.owner,
            size: None,
            fifos: None,
        })
    }

    /// Taken, not copied: a descriptor that stays open would keep the mount when the container has gone.
    fn inherited_root(&mut self, place: u32) -> Result<OwnedFd, Status> {
        let slot = self.config.inherited.get_mut(place as usize - 1);
        slot.and_then(Option::take)
            .ok_or_else(|| invalid(format!("root mount: no descriptor {place} was passed on")))
    }

    /// Lets init go.
    pub(super) fn start_init(&mut self, serial: u32) -> Result<Vec<u8>, Status> {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return Err(Status::new(Code::NotFound, "no such container"));
        };
        if matches!(task.init.phase, Phase::Restorable(_)) {
            return self.restore(serial);
        }
        let Phase::Created(created) = &mut task.init.phase else {
            let text = format!("container {} was started before", task.id);
            return Err(Status::new(Code::FailedPrecondition, text));
        };
        // If it fails, init ends: its exit is reaped and told like any other.
        created.start()?;
        let pid = created.pid;
        let pidfd = created.pidfd.try_clone();
        let pidfd =
            pidfd.map_err(|e| Status::new(Code::Unknown, format!("cannot keep the pidfd: {e}")))?;
        task.init.phase = Phase::Running { pid, pidfd };
        Ok(self.started(serial, pid))
    }

    /// Init runs: what follows from it, and the answer.
    pub(super) fn started(&mut self, serial: u32, pid: u32) -> Vec<u8> {
        if let Some(task) = self.tasks.get_mut(&serial) {
            if let Some(health) = &mut task.health {
                health.begin();
            }
            if let Some(restart) = self.restarts.get_mut(task.id.as_str()) {
                restart.started();
            }
            let event = TaskStart {
                container_id: task.id.as_str().into(),
                pid,
            };
            self.publisher.publish("/tasks/start", "TaskStart", &event);
        }
        StartResponse { pid }.encode_to_vec()
    }
}

/// Where `delete` is to look after a crash.
fn leave_word(bundle: &Path, state_root: &Path) -> Result<(), Status> {
    let path = bundle.join(STATE_ROOT_FILE);
    let text = state_root.as_os_str().as_encoded_bytes();
    std::fs::write(&path, text).map_err(|e| failed("write", &path, &e))
}

/// Makes the container, whose init then waits, and joins its terminal.
fn make(
    id: &ContainerId,
    bundle: &Path,
    state_root: &Path,
    parts: Parts,
) -> Result<(Phase, Io), Status> {
    let mut created = corten_runtime::create(Create {
        id,
        bundle,
        spec: &parts.spec,
        state_root,
        rootfs: parts.rootfs,
        stdio: parts.stdio,
        options: parts.options,
    })?;
    for warning in &created.warnings {
        say(format_args!("{id}: {warning}"));
    }
    match parts.prepared.finish(created.console.take()) {
        Ok(io) => Ok((Phase::Created(Box::new(created)), io)),
        Err(error) => {
            // Nobody will ask for it: it must not wait at its gate for ever.
            if let Err(error) = corten_runtime::delete(state_root, id, true) {
                say(format_args!("cannot undo the creation of {id}: {error}"));
            }
            Err(Status::of(error.kind(), error.to_string()))
        }
    }
}

/// Of a container that is made at its start, out of these images.
fn restorable(images: &str, parts: Parts) -> Result<(Phase, Io), Status> {
    let images = images.into();
    let restorable = Restorable { images, parts };
    restorable.check()?;
    Ok((Phase::Restorable(Box::new(restorable)), Io::default()))
}

fn created(request: CreateTaskRequest, pid: u32) -> TaskCreate {
    TaskCreate {
        container_id: request.id,
        bundle: request.bundle,
        rootfs: request.rootfs,
        io: Some(TaskIo {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        }),
        checkpoint: request.checkpoint,
        pid,
    }
}

pub(super) fn invalid(text: String) -> Status {
    Status::of(corten_spec::Kind::Invalid, text)
}

pub(super) fn failed(step: &str, path: &Path, error: &std::io::Error) -> Status {
    let text = format!("cannot {step} {}: {error}", path.display());
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => corten_spec::Kind::NotFound,
        _ => corten_spec::Kind::Internal,
    };
    Status::of(kind, text)
}

pub(super) fn read_spec(bundle: &Path) -> Result<Spec, Status> {
    let path = bundle.join("config.json");
    let file = File::open(&path).map_err(|e| failed("open", &path, &e))?;
    let mut bytes = Vec::new();
    let read = file.take(SPEC_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|e| failed("read", &path, &e))?;
    if bytes.len() as u64 > SPEC_MAX {
        return Err(invalid(format!("{} is larger than 16 MiB", path.display())));
    }
    let parsed = corten_runtime::document::read(&bytes);
    let (spec, warnings) = parsed.map_err(|e| invalid(format!("bad {}: {e}", path.display())))?;
    for warning in warnings {
        say(format_args!("{}: {warning}", path.display()));
    }
    Ok(spec)
}

fn assemble(request: &CreateTaskRequest) -> Result<Rootfs, Status> {
    if request.rootfs.is_empty() {
        return Ok(Rootfs::Bundle);
    }
    let mount = |m: &Mount| {
        let mount = rootfs::Mount {
            fstype: m.r#type.clone(),
            source: m.source.clone(),
            options: m.options.clone(),
        };
        (PathBuf::from(&m.target), mount)
    };
    let mounts: Vec<_> = request.rootfs.iter().map(mount).collect();
    Ok(Rootfs::Mount(rootfs::stack(&mounts)?))
}

pub(super) fn listen(bundle: &Path) -> Result<std::os::unix::net::UnixListener, Status> {
    let path = bundle.join(crate::attach::SOCKET);
    let listener = bind_in(bundle, crate::attach::SOCKET);
    let listener = listener.map_err(|e| failed("listen at", &path, &e))?;
    let quiet = listener.set_nonblocking(true);
    quiet.map_err(|e| failed("listen at", &path, &e))?;
    Ok(listener)
}

/// Whether init's end leaves processes: only the first process of a PID namespace takes
/// the others with it.
fn shares_pids(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    let own = |n: &corten_spec::oci::runtime::LinuxNamespace| {
        n.typ() == LinuxNamespaceType::Pid && n.path().is_none()
    };
    !namespaces.is_some_and(|all| all.iter().any(own))
}

pub(super) fn watch_memory(state_root: &Path, id: &ContainerId) -> Option<corten_cgroup::OomWatch> {
    let watch = corten_runtime::cgroup(state_root, id).map_err(|e| e.to_string());
    let watch = watch.and_then(|group| group.oom_events().map_err(|e| e.to_string()));
    // It is news only: the container runs and is limited without.
    watch.unwrap_or_else(|error| {
        say(format_args!("no OOM events of {id}: {error}"));
        None
    })
}
