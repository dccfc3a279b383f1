//! `restore`: a container from the files of a checkpoint, through CRIU.
//!
//! ```text
//!   folder, record ─▶ cgroup, limits ─▶ criu: in the cgroup, in a mount namespace with the root at ROOT/ID/root
//!                                         │ setup-namespaces   prestart and createRuntime hooks, loopback up
//!                                         │ orphan-pts-master  the terminal's master comes to us
//!                                         │ post-restore       init's pid goes into the record
//!                                         ▼
//!                                       running (init is our child) ─▶ poststart hooks
//! ```
//! The host's mount table does not change, and everything that criu makes is in the container's cgroup from its
//! birth: whoever is killed at whatever moment, `delete --force` finds it all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_cgroup::{Cgroup, Layout};
use corten_sys::namespace::Namespaces;
use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::checkpoint::explain;
use super::create::{Undo, check_labels, record};
use super::kept::Kept;
use super::outside::{EXTERNAL, outside, plan_of};
use super::restoring::{Scene, poststart};
use crate::criu::images::{Folders, PARENTS_MAX, give_to};
use crate::criu::message::{Kind, Options};
use crate::criu::{Job, descriptors, find, yard};
use crate::error::{Error, failed, failed_io, unsupported};
use crate::parent::driver::Driver;
use crate::parent::stage::Stage;
use crate::parent::{group, launch, prepare};
use crate::plan::Plan;
use crate::request::{Execed, Restore, Stdio};
use crate::state::{Folder, Found, Record, Status, refused};

const LOG: &str = "restore.log";

/// Makes the container and its processes, which go on where they were. `Ok` once they run.
pub fn restore(restore: Restore<'_>) -> Result<Execed, Error> {
    let executable = find("restore", restore.images.program.as_deref())?;
    make_way(restore.create.state_root, restore.create.id)?;
    let mut undo = Undo::default();
    let made = try_restore(restore, &executable, &mut undo);
    if made.is_err() {
        if let Some(cgroup) = &undo.cgroup {
            // What a criu that was killed has left half made does not end by itself.
            let _ = cgroup.kill(9);
        }
        undo.run();
    }
    made
}

/// The container that the checkpoint has ended is in nobody's way. Any other of this id is.
fn make_way(root: &Path, id: &corten_spec::ContainerId) -> Result<(), Error> {
    match Found::open(root, id) {
        Ok(found) if found.folder.is_checkpointed() && found.status()? == Status::Stopped => {
            super::delete(root, id, false).map(drop)
        }
        _ => Ok(()),
    }
}

fn try_restore(restore: Restore<'_>, executable: &Path, undo: &mut Undo) -> Result<Execed, Error> {
    let create = restore.create;
    let images = restore.images;
    let names = descriptors::read(&images.path)?;
    let mut driver = Driver::choose(create.options.systemd_cgroup)?;
    let id = create.id.as_str();
    let mut plan = plan_of(create.spec, create.bundle, id, driver.home())?;
    check_labels(&plan.process, plan.mount_label.as_ref())?;
    if plan.resctrl.is_some() {
        return Err(unsupported("restore with linux.intelRdt"));
    }
    let mut record = record(create.spec, &plan, create.id, create.bundle);
    let folder = Folder::new(create.state_root, create.id);
    house(&folder, &record, create.spec, &plan, &mut driver, undo)?;
    if let Some(ids) = &plan.namespaces.user {
        let (uid, gid) = (ids.uid.host(0), ids.gid.host(0));
        give_to(
            &images.path,
            uid.unwrap_or(0),
            gid.unwrap_or(0),
            PARENTS_MAX,
        )?;
    }

    let stdio = Streams::of(create.stdio)?;
    let given = Given::gather(&plan, &stdio, &names)?;
    let stage = Stage {
        root: prepare::root(&plan, create.rootfs)?,
        dev: prepare::dev(&plan)?,
        groups: yard::hierarchy()?,
        folder: &folder.path,
        plan: &plan,
        no_pivot: create.options.no_pivot,
        keyring: launch::keyring_name(create.id.as_str())
            .filter(|_| !create.options.no_new_keyring),
    };
    let descriptors: Vec<BorrowedFd<'_>> = given.descriptors.iter().map(AsFd::as_fd).collect();
    let job = Job {
        executable,
        // A job of our terminal finds it on criu's stdin.
        stdio: match images.shell_job {
            true => stdio.all(),
            false => [None; 3],
        },
        descriptors: &descriptors,
        session: !images.shell_job,
    };
    let (mut criu, folders) = stage.start(&job, || Folders::open(images))?;
    enter(undo.cgroup.as_ref(), criu.pid)?;
    criu.check_version()?;
    criu.check_features(false, images.lazy_pages)?;
    let options = Options {
        lsm_profile: restore.lsm_profile,
        lsm_mount_context: restore.lsm_mount_context,
        inherit: given.inherit,
        join: given.join,
        root: stage.root_at().into_os_string().into_encoded_bytes(),
        mounts: outside(&plan, &stage.dev_at())?,
        cgroup_roots: cgroup_roots(criu.pid)?,
        yard: stage.yard_at().into_os_string().into_encoded_bytes(),
        evasive_devices: true,
        sibling: true,
        ..folders.options(images, create.spec, LOG)
    };
    let mut scene = Scene {
        spec: create.spec,
        plan: &plan,
        folder: &folder,
        record: &mut record,
        child: &mut undo.child,
        console: None,
        kept: Kept::read(&plan)?,
    };
    let done = criu
        .request(Kind::Restore, &options)
        .and_then(|()| scene.attend(&criu));
    let console = scene.console.take();
    let ended = criu.end();
    if done.is_err() {
        // criu sets them early, and takes nothing back of what it has joined. The failure before is the one to tell.
        let _ = scene.kept.put_back();
    }
    let child = done.map_err(|error| explain(error, "restore", &folders.log(LOG)))?;
    ended?;
    if let Some(cgroup) = &undo.cgroup {
        driver.settle(cgroup)?;
    }
    stage.strike()?;
    poststart(create.spec, &record, child.pid)?;
    Ok(Execed {
        pid: child.pid,
        pidfd: child.pidfd,
        console,
        warnings: std::mem::take(&mut plan.warnings),
    })
}

/// As at a start, on disk first: folder, record, control group, limits, configuration.
fn house(
    folder: &Folder,
    record: &Record,
    spec: &Spec,
    plan: &Plan,
    driver: &mut Driver,
    undo: &mut Undo,
) -> Result<(), Error> {
    folder.make()?;
    undo.folder = Some(folder.clone());
    folder.write(record, true)?;
    let layout = Layout::probe().map_err(refused("find the control groups"))?;
    let cgroup = driver.make(&layout, plan)?;
    undo.unit.clone_from(&record.unit);
    let cgroup = undo.cgroup.insert(cgroup);
    group::give(plan, cgroup)?;
    cgroup
        .apply_devices(&plan.resources)
        .map_err(refused("apply the rules for devices"))?;
    folder.write_config(spec)
}

/// Where the restored stdio leads.
struct Streams([Option<OwnedFd>; 3]);

impl Streams {
    fn of(stdio: Stdio) -> Result<Self, Error> {
        let copy = |fd: BorrowedFd<'_>| match rustix::io::fcntl_dupfd_cloexec(fd, 3) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::BADF) => Ok(None),
            Err(errno) => Err(failed("copy", "stdio")(errno)),
        };
        Ok(Self(match stdio {
            Stdio::Inherit => [
                copy(rustix::stdio::stdin())?,
                copy(rustix::stdio::stdout())?,
                copy(rustix::stdio::stderr())?,
            ],
            Stdio::Fds {
                stdin,
                stdout,
                stderr,
            } => [Some(stdin), Some(stdout), Some(stderr)],
            // It comes out of the images, and its master to us.
            Stdio::Terminal { .. } => [None, None, None],
        }))
    }

    fn all(&self) -> [Option<BorrowedFd<'_>>; 3] {
        self.0.each_ref().map(|fd| fd.as_ref().map(AsFd::as_fd))
    }
}

/// What criu gets of ours beside the conversation.
#[derive(Default)]
struct Given {
    /// In the order in which criu will have them, from 4 up.
    descriptors: Vec<OwnedFd>,
    /// Their names, and numbers in criu.
    inherit: Vec<(String, i32)>,
    /// Namespaces that are joined by path.
    join: Vec<(&'static str, Vec<u8>)>,
}

impl Given {
    fn gather(plan: &Plan, stdio: &Streams, names: &[String]) -> Result<Self, Error> {
        let mut given = Self::default();
        for (name, number) in descriptors::inherited(names) {
            if let Some(fd) = &stdio.0[number] {
                let fd = rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(failed("copy", "stdio"))?;
                given.add(name, fd);
            }
        }
        for (kind, path) in &plan.namespaces.join {
            if let Some((.., key)) = EXTERNAL.iter().find(|(known, ..)| known == kind) {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let fd = openat(CWD, path, flags, Mode::empty())
                    .map_err(failed("open the namespace", path))?;
                given.add((*key).into(), fd);
                continue;
            }
            let name = match *kind {
                Namespaces::IPC => "ipc",
                Namespaces::UTS => "uts",
                Namespaces::USER => "user",
                Namespaces::TIME => "time",
                _ => return Err(unsupported("restore into a joined cgroup namespace")),
            };
            let path = path.clone().into_os_string().into_encoded_bytes();
            given.join.push((name, path));
        }
        Ok(given)
    }

    fn add(&mut self, name: String, fd: OwnedFd) {
        // Descriptor 3 is the conversation.
        self.inherit.push((name, 4 + self.descriptors.len() as i32));
        self.descriptors.push(fd);
    }
}

/// Moves criu into the container's groups, before it has been told to do anything.
fn enter(cgroup: Option<&Cgroup>, pid: u32) -> Result<(), Error> {
    let Some(cgroup) = cgroup else {
        return Ok(());
    };
    let entry = cgroup.entry().map_err(refused("enter the control group"))?;
    let pid = pid.to_string();
    let mut files = entry.v1_tasks;
    if let Some(folder) = &entry.v2 {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let procs = openat(folder, c"cgroup.procs", flags, Mode::empty());
        files.push(procs.map_err(failed("open", "cgroup.procs"))?);
    }
    for file in &files {
        rustix::io::write(file, pid.as_bytes())
            .map_err(failed("enter the control group", cgroup.path()))?;
    }
    Ok(())
}

/// Where criu is among the control groups, and so the container: each controller with its path. Lines of
/// `/proc/PID/cgroup` are `ID:CONTROLLER,CONTROLLER:PATH`, without a controller for v2 (cgroups(7)).
fn cgroup_roots(pid: u32) -> Result<Vec<(String, String)>, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = std::fs::read_to_string(&path).map_err(failed_io("read", &path))?;
    let mut roots = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (parts.next(), parts.next()) {
            let each = controllers.split(',');
            roots.extend(each.map(|controller| (controller.to_owned(), path.to_owned())));
        }
    }
    Ok(roots)
}
