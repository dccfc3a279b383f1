//! `checkpoint`: a container's processes become files, through CRIU.
//!
//! ```text
//!   running, paused ──dump──▶ images     and: stopped (marked as checkpointed), or as before with leave-running
//!                   ──pre-dump──▶ pages  and: as before
//! ```
//! What leads out of the container is named for criu here, and in the same words at the restore: bind mounts
//! by their destination in the spec, joined namespaces as `extRootNetNS` and `extRootPidNS`, stdio by its old
//! names (see `criu::descriptors`). A dump that fails leaves the container running.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use corten_cgroup::Layout;
use corten_sys::namespace::Namespaces;
use corten_sys::rooted;
use corten_sys::socket::path_of;
use oci_spec::runtime::Spec;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlink};
use rustix::io::Errno;

use crate::criu::message::{Kind, Options};
use crate::criu::{Criu, Job, descriptors, find, log};
use crate::error::{Error, failed, failed_io, invalid};
use crate::plan::mounts::Source;
use crate::plan::{self, Facts, Plan};
use crate::request::{Checkpoint, Images};
use crate::state::{Found, Status, refused, wait_end};

const LOG: &str = "dump.log";

/// Writes the container's processes to `images.path`.
pub fn checkpoint(checkpoint: Checkpoint<'_>) -> Result<(), Error> {
    let executable = find("checkpoint")?;
    let found = Found::open(checkpoint.state_root, checkpoint.id)?;
    let status = found.status()?;
    let (Status::Running | Status::Paused, Some(init)) = (status, &found.init) else {
        return Err(found.conflict("checkpoint", status));
    };
    let spec = found.folder.read_config()?;
    let folders = Folders::make(checkpoint.images)?;
    let mut options = folders.options(checkpoint.images, &spec, LOG);
    let kind = choose(&checkpoint, &mut options)?;
    options.pid = Some(init.pid);
    options.root = found.record.rootfs.as_os_str().as_bytes().to_vec();
    options.freezer = freezer(&found.record.cgroup)?;
    let plan = plan_of(&spec, &found.record.bundle, checkpoint.id.as_str())?;
    options.external = namespaces(&plan, init.pid)?;
    if kind == Kind::Dump {
        let names = descriptors::of(init.pid)?;
        descriptors::write(&checkpoint.images.path, &names)?;
        options.external.extend(descriptors::external(&names));
        options.mounts = mounts(&plan, init.pid)?;
    }
    let mut criu = Criu::start(&Job {
        executable: &executable,
        stdio: [None; 3],
        descriptors: &[],
        session: true,
    })?;
    criu.check_version()?;
    criu.check_features(checkpoint.pre_dump, checkpoint.images.lazy_pages)?;
    let done = criu
        .request(kind, &options)
        .and_then(|()| attend(&criu, kind, checkpoint.status_fd));
    // After a pre-dump criu waits for the next one, and says so by its exit status.
    let ended = criu.end();
    if let Err(error) = done {
        settle(&found, status)?;
        return Err(explain(error, "checkpoint", &folders.log(LOG)));
    }
    ended?;
    if kind == Kind::Dump && !checkpoint.leave_running {
        wait_end(&init.pidfd)?;
        // Last, so that a container with the mark is certain to have its images.
        found.folder.mark_checkpointed()?;
    }
    Ok(())
}

/// Options that are of a dump only.
fn choose(checkpoint: &Checkpoint<'_>, options: &mut Options) -> Result<Kind, Error> {
    options.leave_running = checkpoint.leave_running;
    options.tcp_skip_in_flight = checkpoint.tcp_skip_in_flight;
    options.page_server = checkpoint.page_server.clone();
    options.track_memory = checkpoint.pre_dump || checkpoint.parent.is_some();
    if let Some(parent) = &checkpoint.parent {
        if parent.is_absolute() {
            let problem = format!("is {parent:?}, and must be relative to the image path");
            return Err(invalid("parent-path", problem));
        }
        let path = checkpoint.images.path.join(parent);
        if !path.is_dir() {
            return Err(failed("open the parent images", path)(Errno::NOTDIR));
        }
        options.parent = parent.as_os_str().as_bytes().to_vec();
    }
    if checkpoint.status_fd.is_some() && !checkpoint.images.lazy_pages {
        return Err(invalid("status-fd", "is for lazy-pages only"));
    }
    Ok(match checkpoint.pre_dump {
        true => Kind::PreDump,
        false => Kind::Dump,
    })
}

fn attend(criu: &Criu, kind: Kind, mut status: Option<OwnedFd>) -> Result<(), Error> {
    loop {
        let response = criu.hear()?.response;
        match response.kind {
            Some(Kind::Notify) => {
                if response.script.as_deref() == Some("status-ready")
                    && let Some(ready) = status.take()
                {
                    // Whoever waits for it reads one byte, or the end if we go.
                    rustix::io::write(&ready, &[0]).map_err(failed("write to", "the status fd"))?;
                }
                criu.acknowledge(true)?;
            }
            Some(answer) if answer == kind && response.success => return Ok(()),
            _ => return Err(refusal("checkpoint", &response)),
        }
    }
}

/// criu has said no; the reason is in its log.
pub(super) fn refusal(action: &'static str, response: &crate::criu::message::Response) -> Error {
    Error::Criu {
        action,
        errno: response.errno,
        problem: response.message.clone(),
        log: PathBuf::new(),
        lines: Vec::new(),
    }
}

/// Adds what criu's log says to a failure of the conversation.
pub(super) fn explain(error: Error, action: &'static str, path: &Path) -> Error {
    let (errno, problem) = match error {
        Error::Criu { errno, problem, .. } => (errno, problem),
        Error::Died { status } => (0, status),
        other => return other,
    };
    let lines = log::last_lines(path);
    Error::Criu {
        action,
        errno,
        // Mostly the first of those lines.
        problem: match lines.contains(&problem) {
            true => String::new(),
            false => problem,
        },
        log: path.into(),
        lines,
    }
}

/// criu thaws what it froze, unless it was killed.
fn settle(found: &Found, before: Status) -> Result<(), Error> {
    match found.cgroup()? {
        Some(cgroup)
            if before == Status::Running
                && cgroup.is_frozen().map_err(refused("read the freezer"))? =>
        {
            cgroup.thaw().map_err(refused("resume the container"))
        }
        _ => Ok(()),
    }
}

/// The folders of images and of logs, open: criu takes them by descriptors of ours.
pub(super) struct Folders {
    images: OwnedFd,
    work: Option<OwnedFd>,
    logs: PathBuf,
}

impl Folders {
    /// They may exist: a container is checkpointed more than once.
    pub fn make(images: &Images) -> Result<Self, Error> {
        create(&images.path)?;
        Self::open(images)
    }

    /// The images must be there.
    pub fn open(images: &Images) -> Result<Self, Error> {
        let work = match &images.work {
            Some(work) => {
                create(work)?;
                Some(open(work)?)
            }
            None => None,
        };
        Ok(Self {
            images: open(&images.path)?,
            work,
            logs: images.work.as_ref().unwrap_or(&images.path).clone(),
        })
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.logs.join(name)
    }

    pub fn options(&self, images: &Images, spec: &Spec, log_file: &'static str) -> Options {
        Options {
            images: self.images.as_raw_fd(),
            work: self.work.as_ref().map(AsRawFd::as_raw_fd),
            log_file,
            config_file: config_file(spec),
            external_unix: images.ext_unix_sk,
            tcp_established: images.tcp_established,
            shell_job: images.shell_job,
            file_locks: images.file_locks,
            link_remap: images.link_remap,
            auto_dedup: images.auto_dedup,
            lazy_pages: images.lazy_pages,
            manage_cgroups: images.manage_cgroups,
            // Networks are others' business: whoever made the links makes them again (runc has it so too).
            empty_namespaces: Namespaces::NETWORK.bits(),
            ..Options::default()
        }
    }
}

fn create(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;
    // Memory of a container is in there: for nobody else to read.
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(path)
        .map_err(failed_io("make the folder", path))
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(failed("open the folder", path))
}

/// criu's own settings for containers: the annotation's file (none if it is empty), or the machine's.
fn config_file(spec: &Spec) -> Option<String> {
    let annotations = spec.annotations().as_ref();
    match annotations.and_then(|a| a.get("org.criu.config")) {
        Some(path) => Some(path.clone()).filter(|path| !path.is_empty()),
        // runc's file too: it is where administrators have written such settings for years.
        None => ["/etc/criu/corten.conf", "/etc/criu/runc.conf"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .map(String::from),
    }
}

/// The spec's plan, which says what comes from outside.
pub(super) fn plan_of(spec: &Spec, bundle: &Path, id: &str) -> Result<Plan, Error> {
    let process = spec.process().as_ref();
    plan::plan(
        spec,
        &Facts {
            id,
            bundle,
            // It has one already, or gets it back.
            terminal: process.is_some_and(|p| p.terminal().unwrap_or(false)),
            capabilities: u64::MAX,
            detached_root: spec.root().is_none(),
        },
    )
}

/// The folder by which criu freezes the container: the one that `pause` uses.
fn freezer(group: &str) -> Result<Vec<u8>, Error> {
    let layout = Layout::probe().map_err(refused("find the control groups"))?;
    let has = |c: &String| c == "freezer";
    let v1 = layout
        .hierarchies()
        .iter()
        .find(|h| h.controllers.iter().any(has));
    let root = match (layout.unified(), v1) {
        (Some(unified), _) => unified,
        (None, Some(v1)) => v1.root.as_path(),
        // Without one criu stops the processes one by one, by ptrace.
        (None, None) => return Ok(Vec::new()),
    };
    let path = root.join(group.trim_start_matches('/'));
    Ok(path.into_os_string().into_encoded_bytes())
}

/// Namespaces that criu can leave to others, with their names in its words.
pub(super) const EXTERNAL: [(Namespaces, &str, &str); 2] = [
    (Namespaces::NETWORK, "net", "extRootNetNS"),
    (Namespaces::PID, "pid", "extRootPidNS"),
];

/// Joined namespaces, known by the inode of what init is in: the path may lead elsewhere by now.
fn namespaces(plan: &Plan, pid: u32) -> Result<Vec<String>, Error> {
    let mut external = Vec::new();
    for (kind, name, key) in EXTERNAL {
        if plan.namespaces.joined(kind) {
            let path = format!("/proc/{pid}/ns/{name}");
            let stat = rustix::fs::stat(&*path).map_err(failed("examine", &path))?;
            external.push(format!("{name}[{}]:{key}", stat.st_ino));
        }
    }
    Ok(external)
}

/// Mounts from outside as (where criu sees it, name). The name is the spec's destination: at the restore
/// nothing has to be looked up to say it again.
fn mounts(plan: &Plan, pid: u32) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
    let path = format!("/proc/{pid}/root");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, &*path, flags, Mode::empty()).map_err(failed("open", &path))?;
    let mut mounts = Vec::new();
    for (name, _) in outside(plan, Path::new(""))? {
        if let Some((place, _)) = look(&root, &name)? {
            mounts.push((place, name));
        }
    }
    if !own_dev(plan) {
        for path in &plan.masked {
            match look(&root, path.as_bytes())? {
                Some((place, kind)) if kind != FileType::Directory => {
                    mounts.push((place, NULL.into()));
                }
                _ => {}
            }
        }
    }
    Ok(mounts)
}

/// Can criu make the container's `/dev` by itself? Nobody in a user namespace may make nodes (mknod(2)), and it fills
/// file systems from inside: there we make it, as at a start, and what was written to it beside the nodes is lost.
fn own_dev(plan: &Plan) -> bool {
    plan.devices.tmpfs.is_some() && plan.namespaces.user.is_none()
}

/// What covers masked files, where it is not a node of the container's own `/dev`.
const NULL: &[u8] = b"/dev/null";

/// Where a path of the spec leads in the container, from the root of its mount namespace, as criu has it.
/// `None`: this kernel or image does not have it.
fn look(root: &OwnedFd, name: &[u8]) -> Result<Option<(Vec<u8>, FileType)>, Error> {
    let target = OsStr::from_bytes(name);
    let look = || -> Result<(Vec<u8>, FileType), Errno> {
        let fd = rooted::open(root, target, OFlags::PATH)?;
        let kind = FileType::from_raw_mode(fstat(&fd)?.st_mode);
        let place = readlink(&*path_of(&fd), Vec::new())?;
        Ok((place.into_bytes(), kind))
    };
    match look() {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(failed("look for the mount", target)(errno)),
    }
}

/// All that is mounted from outside as (name, the host's path): bind mounts, what covers masked files where
/// `/dev` is not criu's to make, that `/dev` (at `dev`), the host's nodes in place of those that could not be made, and
/// v1's control groups.
pub(super) fn outside(plan: &Plan, dev: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
    let rooted = |target: &[u8]| [b"/", target].concat();
    let mut outside = Vec::new();
    for mount in &plan.mounts {
        let name = rooted(mount.target.as_bytes());
        match &mount.source {
            Source::Bind { path, .. } => outside.push((name, path.as_os_str().as_bytes().to_vec())),
            Source::Cgroup { .. } if !plan.namespaces.own(Namespaces::CGROUP) => {
                control_groups(plan, &name, &mut outside)?;
            }
            Source::Cgroup { .. } | Source::New { .. } => {}
        }
    }
    if plan.devices.tmpfs.is_some() && plan.namespaces.user.is_some() {
        outside.push((b"/dev".to_vec(), dev.as_os_str().as_bytes().to_vec()));
        // That one's, as the host's may be mounted in a way that a user namespace cannot change.
        let null = dev.join("null").into_os_string().into_encoded_bytes();
        outside.push((NULL.into(), null));
        return Ok(outside);
    }
    for node in &plan.devices.nodes {
        // Mostly these are no mounts, and criu passes them over.
        if node.name_in_dev().is_some() {
            let name = rooted(node.path.as_bytes());
            outside.push((name.clone(), name));
        }
    }
    Ok(outside)
}

/// In the host's cgroup namespace v1's hierarchies are bind mounts, one each.
fn control_groups(
    plan: &Plan,
    at: &[u8],
    outside: &mut Vec<(Vec<u8>, Vec<u8>)>,
) -> Result<(), Error> {
    let layout = Layout::probe().map_err(refused("find the control groups"))?;
    if layout.hierarchies().is_empty() {
        return Ok(());
    }
    let roots = layout.hierarchies().iter().map(|h| h.root.as_path());
    for root in roots.chain(layout.unified()) {
        let Some(name) = root.file_name() else {
            continue;
        };
        let place = [at, b"/", name.as_bytes()].concat();
        let group = root.join(plan.cgroup_path.trim_start_matches('/'));
        outside.push((place, group.into_os_string().into_encoded_bytes()));
    }
    Ok(())
}
