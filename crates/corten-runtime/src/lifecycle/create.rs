//! `create`, and `run`, which is create and start without the gate between.

use std::ffi::CString;
use std::os::fd::OwnedFd;

use corten_cgroup::Cgroup;
use corten_sys::ahead::NewNetwork;
use corten_sys::namespace::Namespaces;
use corten_sys::process::Child;
use corten_sys::socket::receive_fd;
use corten_sys::{capability, process};
use oci_spec::runtime::{Hook, Spec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

use super::agent::Agent;
use super::maker::{Maker, has_mount_hooks};
use super::start::Gate;
use crate::error::{Error, failed};
use crate::init::inside::Inside;
use crate::init::{Init, Start};
use crate::parent::driver::{self, Driver};
use crate::parent::group::View;
use crate::parent::hooks;
use crate::parent::place::Place;
use crate::parent::rdt::Resctrl;
use crate::parent::{group, launch};
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
pub(super) struct Undo {
    pub folder: Option<Folder>,
    pub cgroup: Option<Cgroup>,
    pub unit: Option<state::Unit>,
    pub resctrl: Option<Resctrl>,
    pub child: Option<OwnedFd>,
    /// What `poststop` hooks are told.
    pub stopped: Option<String>,
}

impl Undo {
    /// Best effort, newest first: the error that led here is the one to tell, and the record on disk
    /// stays if anything else does, so that `delete --force` can try again.
    pub fn run(self) {
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
        let stopped = self.unit.map_or(Ok(()), |unit| driver::stop(&unit));
        let left = self.resctrl.map_or(Ok(()), |resctrl| resctrl.remove());
        if let (Ok(()), Ok(()), Ok(()), Some(folder)) = (emptied, stopped, left, self.folder) {
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
    let mut place = Place::look(spec, held.effective)?;
    let size = match stdio {
        Stdio::Terminal { rows, cols } => Some((rows, cols)),
        _ => None,
    };
    let mut driver = Driver::choose(options.systemd_cgroup)?;
    let facts = Facts {
        id: id.as_str(),
        bundle,
        terminal: size.is_some(),
        capabilities: held.permitted,
        detached_root: matches!(rootfs, Rootfs::Mount(_)),
        systemd: driver.home(),
        around: place.around.clone(),
    };
    let mut plan = plan::plan(spec, &facts)?;
    check_labels(&plan.process, plan.mount_label.as_ref())?;
    let rootless = options.rootless.unwrap_or(place.rootless);
    let named = group::is_named(spec);
    // systemd has a place of its own for what nobody has named.
    if rootless && !named && !options.systemd_cgroup {
        group::beside_own(&mut plan, id.as_str())?;
    }

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
    record.resctrl = plan.resctrl.as_ref().map(Resctrl::of).transpose()?;
    folder.write(&record, true)?;
    undo.stopped = record.hooks.then(|| record.document("stopped", 0));

    let systemd = options.systemd_cgroup;
    let group::Made { entry, view } = match (options.no_cgroup, rootless && !systemd) {
        (true, _) => group::none(&mut plan)?,
        (false, true) => group::make_rootless(&mut plan, named, &mut undo.cgroup)?,
        (false, false) => group::make(&plan, &mut driver, &mut undo.cgroup)?,
    };
    undo.unit.clone_from(&record.unit);
    record.cgroup.clone_from(&plan.cgroup_path);

    let (rest, remote) = Rest::split(rootfs, view, size, place.around.inside)?;
    let (inside, outside) = match rest {
        Rest::Inside(inside) => (Some(inside), None),
        Rest::Outside(rootfs, view) => (None, Some((rootfs, view))),
    };
    let capabilities = match plan.namespaces.own(Namespaces::USER) {
        true => u64::MAX,
        false => held.permitted,
    };
    let asked = launch::Asked {
        stdio,
        terminal: None,
        preserve_fds: options.preserve_fds,
        capabilities,
        forks: false,
    };
    let parts = launch::parts(&plan.process, asked)?;
    let mut route = launch::route(&plan.namespaces, &mut place, !entry.v1_tasks.is_empty())?;
    let (ours, theirs) = launch::pair()?;
    let start = match gate {
        true => Start::Gate(listener(&folder)?),
        false => Start::Now,
    };
    let hooked = has_mount_hooks(spec);
    let waits = hooked || !plan.net_devices.is_empty();
    let init = Init {
        plan: &plan,
        inside,
        parts,
        tasks: entry.v1_tasks,
        join: std::mem::take(&mut route.joined_by_init),
        unshare: route.unshared_by_init,
        makes_user: route.user_by_init,
        offsets: route.offsets_by_init,
        keyring: launch::keyring_name(id.as_str()).filter(|_| !options.no_new_keyring),
        socket: theirs,
        start,
        forks: route.forks,
        hooks: waits,
        root_at: root_at(&plan, bundle, hooked)?,
        no_pivot: options.no_pivot,
        parked: options.parked,
        caller: match options.die_with_caller {
            true => Some(own_pidfd()?),
            false => None,
        },
    };
    let first = route.clone(entry.v2.as_ref(), &ours, move || init.run())?;
    let copy = |child: &Child| {
        rustix::io::fcntl_dupfd_cloexec(&child.pidfd, 3).map_err(failed("copy", "a pidfd"))
    };
    undo.child = Some(copy(&first)?);
    let maker = Maker {
        spec,
        plan: &plan,
        child: &first,
        socket: &ours,
        gate,
    };
    maker.furnish(route.user_by_init, place.maps)?;
    let second = match route.forks {
        true => {
            let second = launch::adopt(&first, &ours, launch::program_name(&plan.process))?;
            undo.child = Some(copy(&second)?);
            Some(second)
        }
        false => None,
    };
    let maker = Maker {
        child: second.as_ref().unwrap_or(&first),
        ..maker
    };
    // A waiting init gets its filter when it is started.
    let agent = Agent::dial(plan.process.listener.as_ref().filter(|_| !gate))?;
    // All of this while init is at work.
    let console = match outside {
        Some((rootfs, view)) => maker.supply(rootfs, &view, size, network)?,
        None => None,
    };
    if let (false, Some(cgroup)) = (rootless, &undo.cgroup) {
        cgroup
            .apply_devices(&plan.resources)
            .map_err(refused("apply the rules for devices"))?;
    }
    if let Some(cgroup) = &undo.cgroup {
        driver.settle(cgroup)?;
    }
    if let (Some(resctrl), Some(wanted)) = (&record.resctrl, &plan.resctrl) {
        undo.resctrl = Some(resctrl.clone());
        resctrl.apply(wanted, maker.child.pid)?;
    }
    if !gate && !waits {
        maker.go()?;
    }
    folder.write_config(spec)?;
    // It stays in /proc until we reap it, however short its life.
    record.init = Some(state::Init::of(maker.child.pid)?);
    if !gate {
        folder.write(&record, false)?;
    }
    maker.attend(&record, agent)?;
    let console = match remote {
        Some(remote) => Some(remote_terminal(&remote)?),
        None => console,
    };
    if gate {
        // Only now is it created.
        folder.write(&record, false)?;
    }
    Ok(Made {
        child: second.unwrap_or(first),
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

/// The rest of what init needs: made by the maker if it may, by init if only that may.
enum Rest {
    Outside(Rootfs, View),
    Inside(Inside),
}

impl Rest {
    /// With our end of a way for the terminal, where init opens it.
    fn split(
        rootfs: Rootfs,
        view: View,
        size: Option<(u16, u16)>,
        inside: bool,
    ) -> Result<(Self, Option<OwnedFd>), Error> {
        if !inside {
            return Ok((Self::Outside(rootfs, view), None));
        }
        let (ours, theirs) = launch::pair()?;
        let inside = Inside {
            rootfs,
            view,
            size,
            console: theirs,
        };
        Ok((Self::Inside(inside), size.map(|_| ours)))
    }
}

/// The master of the terminal that init has opened.
fn remote_terminal(socket: &OwnedFd) -> Result<OwnedFd, Error> {
    let lost = || failed("receive the terminal of", "init");
    receive_fd(socket)
        .map_err(lost())?
        .ok_or_else(|| lost()(Errno::PIPE))
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

pub(super) fn record(
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
    record.unit = plan.unit.as_ref().map(|unit| state::Unit {
        name: unit.scope.unit.clone(),
        user: unit.user,
    });
    record.shares_pids = !plan.namespaces.own(Namespaces::PID);
    record.listener = plan.process.listener.clone();
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

/// The gate.
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
    let address = super::start::gate_address(folder.fd()?).map_err(at())?;
    bind(&socket, &address).map_err(at())?;
    listen(&socket, 1).map_err(at())?;
    Ok(socket)
}

/// A label that nobody enforces would be a wall that is not there.
pub(super) fn check_labels(
    process: &crate::plan::process::Plan,
    mount_label: Option<&String>,
) -> Result<(), Error> {
    if corten_sys::weakened!("labels.unchecked") {
        return Ok(());
    }
    let enforced = |file: &str| std::path::Path::new(file).exists();
    if let Some(profile) = &process.apparmor
        && !enforced("/sys/kernel/security/apparmor")
    {
        return Err(crate::error::unsupported(format!(
            "AppArmor profile {profile:?} on a kernel without AppArmor"
        )));
    }
    let labels = [process.selinux.as_ref(), mount_label];
    if let Some(label) = labels.into_iter().flatten().next()
        && !enforced("/sys/fs/selinux/enforce")
    {
        return Err(crate::error::unsupported(format!(
            "SELinux label {label:?} (process.selinuxLabel, linux.mountLabel) on a kernel without SELinux"
        )));
    }
    Ok(())
}
