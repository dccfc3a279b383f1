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
use corten_sys::namespace::{self, Namespaces};
use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::checkpoint::{EXTERNAL, Folders, explain, outside, plan_of, refusal};
use super::create::{Undo, check_labels, hook_lists, record};
use crate::criu::message::Kind;
use crate::criu::{Criu, Heard, Job, descriptors, find};
use crate::error::{Error, failed, failed_io, unsupported};
use crate::parent::hooks::{self, Moment};
use crate::parent::stage::Stage;
use crate::parent::{launch, prepare};
use crate::plan::Plan;
use crate::request::{Execed, Restore, Stdio};
use crate::state::{self, Folder, Found, Record, Status, refused};

const LOG: &str = "restore.log";

/// Makes the container and its processes, which go on where they were. `Ok` once they run.
pub fn restore(restore: Restore<'_>) -> Result<Execed, Error> {
    let executable = find("restore")?;
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
            super::delete(root, id, false)
        }
        _ => Ok(()),
    }
}

fn try_restore(restore: Restore<'_>, executable: &Path, undo: &mut Undo) -> Result<Execed, Error> {
    let create = restore.create;
    let images = restore.images;
    let names = descriptors::read(&images.path)?;
    let mut plan = plan_of(create.spec, create.bundle, create.id.as_str())?;
    check_labels(&plan)?;

    let folder = Folder::new(create.state_root, create.id);
    folder.make()?;
    undo.folder = Some(folder.clone());
    let mut record = record(create.spec, &plan, create.id, create.bundle);
    folder.write(&record, true)?;
    let layout = Layout::probe().map_err(refused("find the control groups"))?;
    let cgroup =
        Cgroup::create(&layout, &plan.cgroup_path).map_err(refused("make the control group"))?;
    let cgroup = undo.cgroup.insert(cgroup);
    cgroup
        .apply(&plan.resources)
        .map_err(refused("apply the resources"))?;
    folder.write_config(create.spec)?;

    if let (Some(uid), Some(gid), true) = (
        plan.namespaces.host_uid(0),
        plan.namespaces.host_gid(0),
        plan.namespaces.user.is_some(),
    ) {
        own(&images.path, uid, gid, PARENTS_MAX)?;
    }

    let stdio = Streams::of(create.stdio)?;
    let place = folder.path.join("root");
    std::fs::create_dir(&place).map_err(failed_io("make the folder", &place))?;
    let dev = folder.path.join("dev");
    let own_dev = prepare::dev(&plan)?;
    if own_dev.is_some() {
        std::fs::create_dir(&dev).map_err(failed_io("make the folder", &dev))?;
    }
    let furnished = own_dev.is_some();
    let stage = Stage {
        plan: &plan,
        root: prepare::root(&plan, create.rootfs)?,
        place: &place,
        dev: own_dev.map(|made| (made, dev.as_path())),
        no_pivot: create.options.no_pivot,
        keyring: launch::keyring_name(create.id.as_str())
            .filter(|_| !create.options.no_new_keyring),
    };
    let (inherit, join, given) = gather(&plan, &stdio, &names)?;
    let descriptors: Vec<BorrowedFd<'_>> = given.iter().map(AsFd::as_fd).collect();
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
    enter(cgroup, criu.pid)?;
    criu.check_version()?;
    criu.check_features(false, images.lazy_pages)?;
    let mut options = folders.options(images, create.spec, LOG);
    options.lsm_profile = restore.lsm_profile;
    options.lsm_mount_context = restore.lsm_mount_context;
    options.inherit = inherit;
    options.join = join;
    options.root = place.clone().into_os_string().into_encoded_bytes();
    options.mounts = outside(&plan, &dev)?;
    options.cgroup_roots = cgroup_roots(criu.pid)?;
    options.evasive_devices = true;
    options.sibling = true;
    let mut scene = Scene {
        spec: create.spec,
        plan: &plan,
        folder: &folder,
        record: &mut record,
        child: &mut undo.child,
        console: None,
    };
    let done = criu
        .request(Kind::Restore, &options)
        .and_then(|()| scene.attend(&criu));
    let console = scene.console.take();
    let ended = criu.end();
    let pid = done.map_err(|error| explain(error, "restore", &folders.log(LOG)))?;
    ended?;
    rustix::fs::rmdir(&place).map_err(failed("remove", &place))?;
    if furnished {
        rustix::fs::rmdir(&dev).map_err(failed("remove", &dev))?;
    }
    let pidfd = undo
        .child
        .as_ref()
        .ok_or_else(|| failed("restore", "init")(Errno::SRCH))?;
    let pidfd = rustix::io::fcntl_dupfd_cloexec(pidfd, 3).map_err(failed("copy", "a pidfd"))?;
    poststart(create.spec, &record, pid)?;
    Ok(Execed {
        pid,
        pidfd,
        console,
        warnings: std::mem::take(&mut plan.warnings),
    })
}

/// As many pre-dumps as one checkpoint may be built on.
const PARENTS_MAX: u32 = 64;

/// Gives images to the root of a new user namespace: processes in there read them for themselves, and criu has written
/// them for nobody but the host's root.
fn own(images: &Path, uid: u32, gid: u32, parents: u32) -> Result<(), Error> {
    use rustix::fs::{AtFlags, Dir, FileType, Gid, Uid, chownat};
    let give = |at: &OwnedFd, name: &std::ffi::CStr| {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        chownat(at, name, Some(uid), Some(gid), flags)
    };
    let go = || -> Result<bool, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(CWD, images, flags, Mode::empty())?;
        give(&folder, c"")?;
        let mut parent = false;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            match entry.file_type() {
                FileType::RegularFile => give(&folder, entry.file_name())?,
                FileType::Symlink => parent |= entry.file_name() == c"parent",
                _ => {}
            }
        }
        Ok(parent)
    };
    let more = go().map_err(failed("give the images to the container's root in", images))?;
    match (more, parents) {
        (false, _) => Ok(()),
        (true, 0) => Err(failed("follow the parents of", images)(Errno::LOOP)),
        (true, left) => own(&images.join("parent"), uid, gid, left - 1),
    }
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

/// A descriptor's name and its number in criu.
type Inherit = Vec<(String, i32)>;
/// A namespace's kind and path.
type Join = Vec<(&'static str, Vec<u8>)>;

/// Which descriptors take the place of what, which namespaces are joined by path, and the descriptors in the order
/// in which criu will have them.
fn gather(
    plan: &Plan,
    stdio: &Streams,
    names: &[String],
) -> Result<(Inherit, Join, Vec<OwnedFd>), Error> {
    let (mut inherit, mut join) = (Inherit::new(), Join::new());
    let mut given: Vec<OwnedFd> = Vec::new();
    let mut give = |name: String, fd: OwnedFd| {
        // Descriptor 3 is the conversation.
        inherit.push((name, 4 + given.len() as i32));
        given.push(fd);
    };
    for (name, number) in descriptors::inherited(names) {
        if let Some(fd) = &stdio.0[number] {
            let fd = rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(failed("copy", "stdio"))?;
            give(name, fd);
        }
    }
    for (kind, path) in &plan.namespaces.join {
        if let Some((.., key)) = EXTERNAL.iter().find(|(known, ..)| known == kind) {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let fd = openat(CWD, path, flags, Mode::empty())
                .map_err(failed("open the namespace", path))?;
            give((*key).into(), fd);
            continue;
        }
        let name = match *kind {
            Namespaces::IPC => "ipc",
            Namespaces::UTS => "uts",
            Namespaces::USER => "user",
            Namespaces::TIME => "time",
            _ => return Err(unsupported("restore into a joined cgroup namespace")),
        };
        join.push((name, path.clone().into_os_string().into_encoded_bytes()));
    }
    Ok((inherit, join, given))
}

/// Moves criu into the container's groups, before it has been told to do anything.
fn enter(cgroup: &Cgroup, pid: u32) -> Result<(), Error> {
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

/// What is needed to answer criu.
struct Scene<'a> {
    spec: &'a Spec,
    plan: &'a Plan,
    folder: &'a Folder,
    record: &'a mut Record,
    child: &'a mut Option<OwnedFd>,
    console: Option<OwnedFd>,
}

impl Scene<'_> {
    /// Until it is restored; then init's pid.
    fn attend(&mut self, criu: &Criu) -> Result<u32, Error> {
        let mut pid = None;
        loop {
            let heard = criu.hear()?;
            match heard.response.kind {
                Some(Kind::Notify) => {
                    let about = heard.response.pid;
                    match self.notified(heard) {
                        Ok(()) => criu.acknowledge(true)?,
                        Err(error) => {
                            // It takes back what it has made, and ends; our reason is the one to tell.
                            let _ = criu.acknowledge(false);
                            return Err(error);
                        }
                    }
                    pid = about.or(pid);
                }
                Some(Kind::Restore) if heard.response.success => {
                    return pid
                        .filter(|_| self.record.init.is_some())
                        .ok_or_else(|| failed("talk to", "criu")(Errno::PROTO));
                }
                _ => return Err(refusal("restore", &heard.response)),
            }
        }
    }

    fn notified(&mut self, heard: Heard) -> Result<(), Error> {
        let pid = heard.response.pid.unwrap_or(0);
        match heard.response.script.as_deref() {
            Some("setup-namespaces") => self.namespaces(pid),
            Some("post-restore") => self.restored(pid),
            Some("orphan-pts-master") => {
                self.console = heard.descriptor;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Init is our child from its birth, whatever becomes of it.
    fn hold(&mut self, pid: u32) -> Result<(), Error> {
        if self.child.is_none() {
            let pidfd = Pid::from_raw(pid as i32)
                .ok_or(Errno::SRCH)
                .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
                .map_err(failed("open a pidfd of", "init"))?;
            *self.child = Some(pidfd);
        }
        Ok(())
    }

    /// All namespaces are there, and nothing in them yet.
    fn namespaces(&mut self, pid: u32) -> Result<(), Error> {
        self.hold(pid)?;
        if self.plan.namespaces.new.contains(Namespaces::NETWORK) {
            loopback(pid).map_err(failed("set the loopback link up in", "the container"))?;
        }
        let document = self.record.document("creating", pid);
        for (moment, list) in hook_lists(self.spec) {
            if moment != Moment::CreateContainer {
                hooks::run(moment, &list.cloned(), &document, None)?;
            }
        }
        Ok(())
    }

    /// All processes are there, and stand still until criu lets them go.
    fn restored(&mut self, pid: u32) -> Result<(), Error> {
        self.hold(pid)?;
        if let Some(spec) = with_time(self.spec, pid)? {
            self.folder.write_config(&spec)?;
        }
        self.record.init = Some(state::Init::of(pid)?);
        self.folder.write(self.record, false)
    }
}

/// A link of a new network namespace, from a thread that goes there.
fn loopback(pid: u32) -> Result<(), Errno> {
    let path = format!("/proc/{pid}/ns/net");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let network = openat(CWD, &*path, flags, Mode::empty())?;
    std::thread::scope(|scope| {
        let up = || -> Result<(), Errno> {
            namespace::enter(&network, Namespaces::NETWORK)?;
            namespace::loopback_up()
        };
        scope.spawn(up).join().unwrap_or(Err(Errno::IO))
    })
}

/// criu gives processes a time namespace, so that their clocks go on: what is added later must join it too.
fn with_time(spec: &Spec, pid: u32) -> Result<Option<Spec>, Error> {
    let own = |who: &str| rustix::fs::stat(format!("/proc/{who}/ns/time")).map(|s| s.st_ino);
    let kernel_has_it = match (own("self"), own(&pid.to_string())) {
        (Ok(ours), Ok(theirs)) => ours != theirs,
        _ => false,
    };
    let mut spec = spec.clone();
    let Some(linux) = spec.linux_mut() else {
        return Ok(None);
    };
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    let listed = namespaces
        .iter()
        .any(|n| n.typ() == LinuxNamespaceType::Time);
    if !kernel_has_it || listed {
        return Ok(None);
    }
    let time = LinuxNamespaceBuilder::default()
        .typ(LinuxNamespaceType::Time)
        .build()
        .map_err(|e| unsupported(e.to_string()))?;
    namespaces.push(time);
    linux.set_namespaces(Some(namespaces));
    Ok(Some(spec))
}

fn poststart(spec: &Spec, record: &Record, pid: u32) -> Result<(), Error> {
    let list = spec.hooks().as_ref().map(|h| h.poststart());
    match list {
        Some(list) => {
            let document = record.document("running", pid);
            hooks::run(Moment::Poststart, list, &document, None)
        }
        None => Ok(()),
    }
}
