//! What of a container is not its own, in the words in which criu is told of it: at the checkpoint what it must
//! not write down, at the restore where that comes from. Bind mounts are named by their destination in the spec, joined
//! namespaces `extRootNetNS` and `extRootPidNS` as by runc and crun, whose images are then ours too.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use corten_cgroup::Layout;
use corten_sys::namespace::Namespaces;
use corten_sys::rooted;
use corten_sys::socket::path_of;
use oci_spec::runtime::Spec;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, readlink};
use rustix::io::Errno;

use crate::criu::message::Mounts;
use crate::error::{Error, failed};
use crate::plan::cgroup::Home;
use crate::plan::mounts::Source;
use crate::plan::{self, Facts, Plan};
use crate::state::refused;

/// The spec's plan, which says what comes from outside. `home`: the systemd whose its group is.
pub(super) fn plan_of(
    spec: &Spec,
    bundle: &Path,
    id: &str,
    home: Option<Home<'_>>,
) -> Result<Plan, Error> {
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
            systemd: home,
            around: Default::default(),
        },
    )
}

/// Of a container that is there, for a plan that does not say where its group is.
pub(super) fn home_of(spec: &Spec) -> Option<Home<'static>> {
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|l| l.cgroups_path().as_ref());
    let text = path.and_then(|p| p.to_str()).unwrap_or_default();
    let scope = !text.starts_with('/') && text.split(':').count() == 3;
    scope.then_some(Home {
        root: "",
        user: false,
    })
}

/// Namespaces that criu can leave to others, with their names in its words.
pub(super) const EXTERNAL: [(Namespaces, &str, &str); 2] = [
    (Namespaces::NETWORK, "net", "extRootNetNS"),
    (Namespaces::PID, "pid", "extRootPidNS"),
];

/// Joined namespaces, known by the inode of what init is in: the path may lead elsewhere by now.
pub(super) fn namespaces(plan: &Plan, pid: u32) -> Result<Vec<String>, Error> {
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
pub(super) fn mounts(plan: &Plan, pid: u32) -> Result<Mounts, Error> {
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
pub(super) fn outside(plan: &Plan, dev: &Path) -> Result<Mounts, Error> {
    let rooted = |target: &[u8]| [b"/", target].concat();
    let mut outside = Vec::new();
    for mount in &plan.mounts {
        let name = rooted(mount.target.as_bytes());
        match &mount.source {
            Source::Bind { path, .. } => outside.push((name, path.as_os_str().as_bytes().to_vec())),
            Source::Cgroup { .. } if !plan.namespaces.own(Namespaces::CGROUP) => {
                control_groups(plan, &name, &mut outside)?;
            }
            Source::Cgroup { .. } | Source::New { .. } | Source::Remount { .. } => {}
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
fn control_groups(plan: &Plan, at: &[u8], outside: &mut Mounts) -> Result<(), Error> {
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
