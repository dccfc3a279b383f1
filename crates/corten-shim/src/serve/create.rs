//! Create and Start of a container.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_runtime::rootfs;
use corten_runtime::{Create, Options as RuntimeOptions, Rootfs};
use corten_spec::ContainerId;
use corten_spec::oci::runtime::{LinuxNamespaceType, Spec};
use prost::Message;
use rustix::io::DupFlags;

use super::checkpoint::Restorable;
use super::forward::Forward;
use super::health::Health;
use super::options::Options;
use super::restart::Terms;
use super::task::{Phase, Process, Task, Wanted};
use super::watch::Watch;
use super::{Shim, say};
use crate::attach::Size;
use crate::listen::bind_in;
use crate::log::{Limits, Log};
use crate::proto::corten::{
    ForwardRequest, InheritRequest, InheritResponse, LoopbackForward, WatchRequest,
};
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

impl Shim {
    pub(super) fn create(
        &mut self,
        request: CreateTaskRequest,
        mut options: Options,
    ) -> Result<Vec<u8>, Status> {
        let id = self.free_id(&request.id)?;
        if !request.parent_checkpoint.is_empty() {
            let text = "parent_checkpoint: a checkpoint's images name their parent themselves";
            return Err(Status::new(Code::Unimplemented, text));
        }
        let bundle = match request.bundle.is_empty() {
            true => self.config.bundle.clone(),
            false => PathBuf::from(&request.bundle),
        };
        let state_root = options.state_root.clone();
        let state_root = state_root.unwrap_or_else(|| self.config.state_root.clone());
        if !self.config.until_idle {
            let path = bundle.join(STATE_ROOT_FILE);
            let text = state_root.as_os_str().as_encoded_bytes();
            std::fs::write(&path, text).map_err(|e| failed("write", &path, &e))?;
        }
        let spec = read_spec(&bundle)?;
        // Everything that can fail for bad input comes before the container exists.
        let attach = match options.corten.attach {
            false => None,
            true => Some(listen(&bundle)?),
        };
        let restart = options.corten.restart.clone();
        let restart = restart.map(Terms::try_from).transpose()?;
        let health = options.corten.health.clone();
        let health = health.map(|h| Health::new(h, &spec)).transpose()?;
        let (prepared, stdio) = self.prepare_init(&request, &options, &spec)?;
        let rootfs = match options.corten.root_mount {
            0 => assemble(&request)?,
            place => Rootfs::Mount(self.inherited_root(place)?),
        };
        let choices = RuntimeOptions {
            no_pivot: options.corten.no_pivot_root,
            no_new_keyring: options.corten.no_new_keyring,
            systemd_cgroup: options.systemd_cgroup,
            die_with_caller: true,
            ..RuntimeOptions::default()
        };
        let kill_all = shares_pids(&spec);
        let (phase, io) = match request.checkpoint.is_empty() {
            true => make(
                Create {
                    id: &id,
                    bundle: &bundle,
                    spec: &spec,
                    state_root: &state_root,
                    rootfs,
                    stdio,
                    options: choices,
                },
                prepared,
            )?,
            false => {
                let restorable = Restorable {
                    images: request.checkpoint.clone().into(),
                    spec,
                    rootfs,
                    stdio,
                    prepared,
                    options: choices,
                };
                restorable.check()?;
                (Phase::Restorable(Box::new(restorable)), Io::default())
            }
        };
        let event = TaskCreate {
            container_id: request.id.clone(),
            bundle: request.bundle.clone(),
            rootfs: request.rootfs.clone(),
            io: Some(TaskIo {
                stdin: request.stdin.clone(),
                stdout: request.stdout.clone(),
                stderr: request.stderr.clone(),
                terminal: request.terminal,
            }),
            checkpoint: request.checkpoint.clone(),
            pid: 0,
        };
        let init = Process {
            number: 0,
            exec_id: String::new(),
            wanted: Wanted {
                terminal: request.terminal,
                stdin: request.stdin,
                stdout: request.stdout,
                stderr: request.stderr,
            },
            phase,
            io,
            size: None,
            waiters: Vec::new(),
            deleters: Vec::new(),
        };
        let pid = init.pid();
        let event = TaskCreate { pid, ..event };
        let oom = match init.is_alive() {
            true => watch_memory(&state_root, &id),
            false => None,
        };
        if options.corten.exit_record.is_empty() && !self.config.until_idle {
            options.corten.exit_record = bundle.join(EXIT_FILE).display().to_string();
        }
        let mut task = Task::new(id, bundle, state_root, init);
        task.oom = oom;
        task.kill_all = kill_all;
        task.attach = attach;
        task.health = health.map(Box::new);
        task.options = options.lasting;
        task.take_options(options.corten);
        if let Some(terms) = restart {
            let (record, command) = (task.exit_record.clone(), task.exit_command.clone());
            self.set_restart(&request.id, terms, record, command);
        }
        let serial = self.serial();
        self.tasks.insert(serial, task);
        self.publisher
            .publish("/tasks/create", "TaskCreate", &event);
        Ok(CreateTaskResponse { pid }.encode_to_vec())
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
                let limits = Limits {
                    max_size: corten.log_max_size,
                    max_files: corten.log_max_files,
                };
                let log = Log::open(path, limits);
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

    /// Carries what reaches inherited sockets to the container's addresses, from now on.
    pub(super) fn forward(&mut self, request: &ForwardRequest) -> Result<Vec<u8>, Status> {
        let open = |f: &LoopbackForward| {
            let socket = self.config.inherited.get(f.fd as usize);
            let socket = socket.and_then(|s| s.as_ref()?.try_clone().ok());
            let socket = socket.ok_or_else(|| {
                invalid(format!(
                    "loopback forward: no descriptor {} was passed on",
                    f.fd
                ))
            })?;
            Forward::new(socket, &f.protocol, &f.target).map_err(invalid)
        };
        let forwards = request
            .forwards
            .iter()
            .map(open)
            .collect::<Result<_, _>>()?;
        self.task(&request.id)?.forwards = forwards;
        Ok(Vec::new())
    }

    /// Puts what is at a path in the place of an inherited descriptor: what that held is let go.
    pub(super) fn inherit(&mut self, request: &InheritRequest) -> Result<Vec<u8>, Status> {
        let slot = self.config.inherited.get_mut(request.place as usize);
        let slot = slot.and_then(Option::as_mut).ok_or_else(|| {
            let place = request.place;
            invalid(format!("inherit: no descriptor {place} was passed on"))
        })?;
        let path = Path::new(&request.path);
        let new = File::open(path).map_err(|e| failed("open", path, &e))?;
        rustix::io::dup3(&new, slot, DupFlags::CLOEXEC)
            .map_err(|e| failed("keep", path, &e.into()))?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), slot.as_raw_fd());
        Ok(InheritResponse { path }.encode_to_vec())
    }

    /// Looks after a process that the container needs, or no longer.
    pub(super) fn watch(&mut self, request: WatchRequest) -> Result<Vec<u8>, Status> {
        let watch = match request.socket.is_empty() {
            true => None,
            false => Some(Watch::new(request.socket.into(), request.command)),
        };
        self.task(&request.id)?.watch = watch;
        Ok(Vec::new())
    }

    /// Lets init go.
    pub(super) fn start_init(&mut self, serial: u32) -> Result<Vec<u8>, Status> {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return Err(Status::new(Code::NotFound, "no such container"));
        };
        let id = task.id.as_str().to_string();
        if matches!(task.init.phase, Phase::Restorable(_)) {
            return self.restore(serial);
        }
        let Phase::Created(created) = &mut task.init.phase else {
            let text = format!("container {id} was started before");
            return Err(Status::new(Code::FailedPrecondition, text));
        };
        // If it fails, init ends: its exit is reaped and told like any other.
        created.start()?;
        let pid = created.pid;
        let pidfd = created.pidfd.try_clone();
        let pidfd =
            pidfd.map_err(|e| Status::new(Code::Unknown, format!("cannot keep the pidfd: {e}")))?;
        task.init.phase = Phase::Running { pid, pidfd };
        if let Some(health) = &mut task.health {
            health.begin();
        }
        if let Some(restart) = self.restarts.get_mut(&id) {
            restart.started();
        }
        let event = TaskStart {
            container_id: id,
            pid,
        };
        self.publisher.publish("/tasks/start", "TaskStart", &event);
        Ok(StartResponse { pid }.encode_to_vec())
    }
}

/// Makes the container, whose init then waits, and joins its terminal.
fn make(create: Create<'_>, prepared: Prepared) -> Result<(Phase, Io), Status> {
    let (id, state_root) = (create.id, create.state_root);
    let mut created = corten_runtime::create(create)?;
    for warning in &created.warnings {
        say(format_args!("{id}: {warning}"));
    }
    match prepared.finish(created.console.take()) {
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

fn invalid(text: String) -> Status {
    Status::of(corten_spec::Kind::Invalid, text)
}

fn failed(step: &str, path: &Path, error: &std::io::Error) -> Status {
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
