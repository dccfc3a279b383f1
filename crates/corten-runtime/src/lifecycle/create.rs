//! `create`, and `run`, which is create and start without the gate between.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use corten_cgroup::{Cgroup, Layout};
use corten_sys::ahead::NewNetwork;
use corten_sys::namespace::Namespaces;
use corten_sys::process::Child;
use corten_sys::{capability, process};
use oci_spec::runtime::{Hook, Spec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use super::start::Gate;
use crate::error::{Error, failed};
use crate::handshake::{self, Message};
use crate::init::{Init, Start};
use crate::parent::hooks::{self, Moment};
use crate::parent::launch;
use crate::parent::net_devices;
use crate::parent::prepare::prepare;
use crate::parent::shipment;
use crate::plan::{self, Facts, Plan};
use crate::request::{Create, Created, Execed, Rootfs, Stdio};
use crate::state::{self, Folder, Record, refused};

/// Makes the container's cgroup, namespaces, mounts and init, which then waits at its gate.
pub fn create(create: Create<'_>) -> Result<Created, Error> {
    let made = make(create, true)?;
    Ok(Created {
        pid: made.child.pid,
        pidfd: made.child.pidfd,
        console: made.console,
        warnings: made.warnings,
        gate: Gate::new(made.folder, made.record),
    })
}

/// [`create`] and [`Created::start`] in one: init does not wait. `Ok` once `execve` has succeeded. After a
/// failure nothing is left.
pub fn run(create: Create<'_>) -> Result<Execed, Error> {
    let made = make(create, false)?;
    Ok(Execed {
        pid: made.child.pid,
        pidfd: made.child.pidfd,
        console: made.console,
        warnings: made.warnings,
    })
}

struct Made {
    child: Child,
    console: Option<OwnedFd>,
    warnings: Vec<String>,
    folder: Folder,
    record: Record,
}

/// What has been made so far, newest last, to be unmade if the rest fails.
#[derive(Default)]
struct Undo {
    folder: Option<Folder>,
    cgroup: Option<Cgroup>,
    child: Option<OwnedFd>,
    /// What `poststop` hooks are told.
    stopped: Option<String>,
}

impl Undo {
    /// Best effort, newest first: the error that led here is the one to tell, and the record on disk
    /// stays if anything else does, so that `delete --force` can try again.
    fn run(self) {
        if let Some(pidfd) = self.child {
            let _ = process::send_signal(&pidfd, 9);
            let _ = process::wait(&pidfd);
        }
        let emptied = match self.cgroup {
            Some(cgroup) => cgroup.delete().or_else(|_| {
                cgroup.kill(9)?;
                cgroup.delete()
            }),
            None => Ok(()),
        };
        if let (Ok(()), Some(folder)) = (emptied, self.folder) {
            let _ = folder.remove();
        }
    }
}

fn make(create: Create<'_>, gate: bool) -> Result<Made, Error> {
    let mut undo = Undo::default();
    let spec = create.spec;
    let mut made = try_make(create, gate, &mut undo);
    if let Err(error) = &mut made {
        let stopped = undo.stopped.take();
        undo.run();
        // After a failed hook the lifecycle goes on at its end (runtime.md, "Lifecycle", 3 to 5).
        if let (Error::Hook { problem, .. }, Some(document)) = (error, stopped) {
            let list = spec.hooks().as_ref().and_then(|h| h.poststop().as_ref());
            let list = list.map_or(&[][..], Vec::as_slice);
            for warning in hooks::run_poststop(list, &document) {
                problem.push_str("; then ");
                problem.push_str(&warning);
            }
        }
    }
    made
}

fn try_make(create: Create<'_>, gate: bool, undo: &mut Undo) -> Result<Made, Error> {
    let Create {
        id,
        bundle,
        spec,
        state_root,
        rootfs,
        stdio,
        options,
    } = create;
    let held = capability::get().map_err(failed("read the capabilities of", "the runtime"))?;
    let size = match stdio {
        Stdio::Terminal { rows, cols } => Some((rows, cols)),
        _ => None,
    };
    let facts = Facts {
        id: id.as_str(),
        bundle,
        terminal: size.is_some(),
        capabilities: held.permitted,
        detached_root: matches!(rootfs, Rootfs::Mount(_)),
    };
    let mut plan = plan::plan(spec, &facts)?;
    check_labels(&plan)?;

    // Nothing on disk or in a folder: a crash leaves none of it.
    let network = match plan.namespaces.network_ahead() {
        true => Some(NewNetwork::begin().map_err(failed("make the network namespace", ""))?),
        false => None,
    };
    // On disk first, then made: whatever happens next, `delete --force` knows what to look for.
    let folder = Folder::new(state_root, id);
    folder.make()?;
    undo.folder = Some(folder.clone());
    let mut record = record(spec, &plan, id, bundle);
    folder.write(&record, true)?;
    undo.stopped = record.hooks.then(|| record.document("stopped", 0));

    let layout = Layout::probe().map_err(refused("find the control groups"))?;
    let cgroup =
        Cgroup::create(&layout, &plan.cgroup_path).map_err(refused("make the control group"))?;
    let cgroup = undo.cgroup.insert(cgroup);
    cgroup
        .apply_limits(&plan.resources)
        .map_err(refused("apply the resources"))?;
    let entry = cgroup.entry().map_err(refused("enter the control group"))?;

    let capabilities = match plan.namespaces.own(Namespaces::USER) {
        true => u64::MAX,
        false => held.permitted,
    };
    let parts = launch::parts(
        &plan.process,
        stdio,
        None,
        options.preserve_fds,
        capabilities,
    )?;
    let mut route = launch::route(&plan.namespaces, !entry.v1_tasks.is_empty())?;
    let (ours, theirs) = launch::pair()?;
    let start = match gate {
        true => Start::Gate(listener(&folder)?),
        false => Start::Now,
    };
    let hooked = has_mount_hooks(spec);
    let waits = hooked || !plan.net_devices.is_empty();
    let init = Init {
        plan: &plan,
        parts,
        tasks: entry.v1_tasks,
        join: std::mem::take(&mut route.joined_by_init),
        unshare: route.unshared_by_init,
        keyring: launch::keyring_name(id.as_str()).filter(|_| !options.no_new_keyring),
        socket: theirs,
        start,
        forks: route.forks,
        hooks: waits,
        root_at: root_at(&plan, bundle, hooked)?,
        no_pivot: options.no_pivot,
        caller: match options.die_with_caller {
            true => Some(own_pidfd()?),
            false => None,
        },
    };
    let mut child = route.clone(entry.v2.as_ref(), &ours, move || init.run())?;
    let copy = |child: &Child| {
        rustix::io::fcntl_dupfd_cloexec(&child.pidfd, 3).map_err(failed("copy", "a pidfd"))
    };
    undo.child = Some(copy(&child)?);
    if route.forks {
        child = launch::adopt(&child, &ours, launch::program_name(&plan.process))?;
        undo.child = Some(copy(&child)?);
    }
    let maker = Maker {
        spec,
        plan: &plan,
        child: &child,
        socket: &ours,
        gate,
    };
    // All of this while init is at work.
    let console = maker.supply(rootfs, &layout, size, network)?;
    cgroup
        .apply_devices(&plan.resources)
        .map_err(refused("apply the rules for devices"))?;
    if let Some(score) = plan.process.oom_score_adj {
        launch::oom_score(child.pid, score)?;
    }
    if !gate && !waits {
        maker.go()?;
    }
    folder.write_config(spec)?;
    // It stays in /proc until we reap it, however short its life.
    record.init = Some(state::Init::of(child.pid)?);
    if !gate {
        folder.write(&record, false)?;
    }
    maker.attend(&record)?;
    if gate {
        // Only now is it created.
        folder.write(&record, false)?;
    }
    Ok(Made {
        child,
        console,
        warnings: std::mem::take(&mut plan.warnings),
        folder,
        record,
    })
}

/// A handle on this process, by which init can see that it is gone.
fn own_pidfd() -> Result<OwnedFd, Error> {
    let pidfd = rustix::process::pidfd_open(
        rustix::process::getpid(),
        rustix::process::PidfdFlags::empty(),
    );
    pidfd.map_err(failed("open a handle on", "this process"))
}

/// The maker, while init is on its way.
struct Maker<'a> {
    spec: &'a Spec,
    plan: &'a Plan,
    child: &'a Child,
    socket: &'a OwnedFd,
    gate: bool,
}

impl Maker<'_> {
    /// Gives init its ids, its mounts and its network. Returns the terminal's master.
    fn supply(
        &self,
        rootfs: Rootfs,
        layout: &Layout,
        size: Option<(u16, u16)>,
        network: Option<NewNetwork>,
    ) -> Result<Option<OwnedFd>, Error> {
        if let Some(mappings) = &self.plan.namespaces.user {
            launch::map_ids(self.child.pid, mappings)?;
            self.go()?;
        }
        if self.plan.first_of_maker().is_some() {
            match handshake::receive(self.socket)? {
                Message::Mounted => {}
                other => return Err(self.reap(other)),
            }
        }
        let (prepared, terminal) = prepare(self.plan, rootfs, layout, size)?;
        let (console, slave) = match terminal {
            Some(terminal) => (Some(terminal.master), Some(terminal.slave)),
            None => (None, None),
        };
        let network = network.map(NewNetwork::wait).transpose();
        let network = network.map_err(failed("make the network namespace", ""))?;
        shipment::send(self.socket, &prepared, slave.as_ref(), network.as_ref())
            .map_err(|e| self.lost(e))?;
        process::close_all(prepared.into_fds().chain(network).chain(slave));
        Ok(console)
    }

    fn go(&self) -> Result<(), Error> {
        handshake::send_go(self.socket).map_err(|e| self.lost(e))
    }

    /// Init does not listen: it has ended, and has said why.
    fn lost(&self, errno: Errno) -> Error {
        match handshake::receive(self.socket) {
            Ok(Message::End) => failed("talk to", "init")(errno),
            Ok(message) => self.reap(message),
            Err(error) => error,
        }
    }

    fn reap(&self, message: Message) -> Error {
        let program = launch::program_name(&self.plan.process);
        launch::reap(self.child, message, program)
    }

    /// Until init waits at its gate, or without one has become its program.
    fn attend(&self, record: &Record) -> Result<(), Error> {
        loop {
            match handshake::receive(self.socket)? {
                Message::Mounted => {
                    let (child, devices) = (self.child, &self.plan.net_devices);
                    net_devices::give(devices, child.pid, &child.pidfd)?;
                    mount_hooks(self.spec, self.plan, self.child, record)?;
                    self.go()?;
                    if !self.gate {
                        self.go()?;
                    }
                }
                Message::Ready if self.gate => return Ok(()),
                // Without a gate the socket closes by the exec.
                Message::End if !self.gate => return Ok(()),
                other => return Err(self.reap(other)),
            }
        }
    }
}

fn hook_lists(spec: &Spec) -> [(Moment, Option<&Vec<Hook>>); 3] {
    let hooks = spec.hooks().as_ref();
    #[allow(
        deprecated,
        reason = "the specification still asks for prestart hooks to be run"
    )]
    let prestart = hooks.and_then(|h| h.prestart().as_ref());
    [
        (Moment::Prestart, prestart),
        (
            Moment::CreateRuntime,
            hooks.and_then(|h| h.create_runtime().as_ref()),
        ),
        (
            Moment::CreateContainer,
            hooks.and_then(|h| h.create_container().as_ref()),
        ),
    ]
}

/// Where the root is attached until the pivot. Hooks look for it by its path, in the midst of the host's
/// tree. Without hooks nobody looks, and the top of that tree is a place that is always there.
fn root_at(plan: &Plan, bundle: &std::path::Path, hooks: bool) -> Result<CString, Error> {
    use std::os::unix::ffi::OsStrExt as _;
    if !hooks {
        return Ok(c"/".into());
    }
    let path = plan.root.path.as_deref().unwrap_or(bundle);
    plan::c_string("root.path", path.as_os_str().as_bytes())
}

fn has_mount_hooks(spec: &Spec) -> bool {
    hook_lists(spec)
        .iter()
        .any(|(_, hooks)| hooks.is_some_and(|h| !h.is_empty()))
}

fn mount_hooks(spec: &Spec, plan: &Plan, child: &Child, record: &Record) -> Result<(), Error> {
    let kinds = [
        Namespaces::MOUNT,
        Namespaces::NETWORK,
        Namespaces::UTS,
        Namespaces::IPC,
        Namespaces::CGROUP,
        Namespaces::PID,
        Namespaces::USER,
        Namespaces::TIME,
    ];
    let own = kinds.into_iter().filter(|kind| plan.namespaces.own(*kind));
    let inside = hooks::Inside {
        init: &child.pidfd,
        kinds: own.fold(Namespaces::NONE, Namespaces::with),
    };
    for (moment, list) in hook_lists(spec) {
        let Some(list) = list else { continue };
        // The environment exists, so the container counts as created (runtime.md, "State", "Lifecycle").
        match moment {
            Moment::CreateContainer => {
                let pid = state::pid_inside(child.pid)?;
                let document = record.document("created", pid);
                hooks::run(moment, list, &document, Some(inside))?;
            }
            _ => hooks::run(moment, list, &record.document("created", child.pid), None)?,
        }
    }
    Ok(())
}

fn record(
    spec: &Spec,
    plan: &Plan,
    id: &corten_spec::ContainerId,
    bundle: &std::path::Path,
) -> Record {
    let rootfs = plan.root.path.clone().unwrap_or_default();
    let mut record = Record::new(id, bundle, rootfs, &plan.cgroup_path);
    record.program = launch::program_name(&plan.process)
        .to_string_lossy()
        .into_owned();
    record.annotations = spec
        .annotations()
        .iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let some = |list: &Option<Vec<Hook>>| list.as_ref().is_some_and(|l| !l.is_empty());
    record.hooks = spec
        .hooks()
        .as_ref()
        .is_some_and(|h| some(h.start_container()) || some(h.poststart()) || some(h.poststop()));
    record
}

/// The gate. By way of the folder's descriptor, as a socket's path has room for 108 bytes only.
fn listener(folder: &Folder) -> Result<OwnedFd, Error> {
    let path = folder.gate();
    let at = || failed("make the gate", &path);
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(at())?;
    super::start::with_address(&path, |address: &SocketAddrUnix| bind(&socket, address))
        .map_err(at())?;
    listen(&socket, 1).map_err(at())?;
    Ok(socket)
}

/// A label that nobody enforces would be a wall that is not there.
fn check_labels(plan: &Plan) -> Result<(), Error> {
    let enforced = |file: &str| std::path::Path::new(file).exists();
    if let Some(profile) = &plan.process.apparmor
        && !enforced("/sys/kernel/security/apparmor")
    {
        return Err(crate::error::unsupported(format!(
            "AppArmor profile {profile:?} on a kernel without AppArmor"
        )));
    }
    let labels = [&plan.process.selinux, &plan.mount_label];
    if let Some(label) = labels.into_iter().flatten().next()
        && !enforced("/sys/fs/selinux/enforce")
    {
        return Err(crate::error::unsupported(format!(
            "SELinux label {label:?} (process.selinuxLabel, linux.mountLabel) on a kernel without SELinux"
        )));
    }
    Ok(())
}
