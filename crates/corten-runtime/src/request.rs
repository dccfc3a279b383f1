//! What callers ask for and what they get back.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use corten_spec::ContainerId;
use oci_spec::runtime::{Process, Spec};

use crate::criu::message::ManageCgroups;

/// A container to be made. The spec is taken as given: nothing is read from the bundle but, for
/// [`Rootfs::Bundle`], the root folder that `spec.root.path` names relative to it.
#[derive(Debug)]
pub struct Create<'a> {
    pub id: &'a ContainerId,
    pub bundle: &'a Path,
    pub spec: &'a Spec,
    /// The folder that holds one folder for each container, for example `/run/corten/oci`.
    pub state_root: &'a Path,
    pub rootfs: Rootfs,
    pub stdio: Stdio,
    pub options: Options,
}

/// Where the container's root comes from.
#[derive(Debug)]
pub enum Rootfs {
    /// The folder that `spec.root.path` names.
    Bundle,
    /// A detached mount (`fsmount`, `open_tree`). It is attached in the container's mount
    /// namespace only, so the host never sees it and a crash cannot leak it.
    Mount(OwnedFd),
}

/// Where the new process's descriptors 0, 1 and 2 lead.
#[derive(Debug)]
pub enum Stdio {
    /// To wherever the caller's lead.
    Inherit,
    Fds {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// To a new terminal of the container's own devpts, whose master the caller gets. Size 0 by 0
    /// leaves the kernel's default.
    Terminal { rows: u16, cols: u16 },
}

/// Choices that are the caller's and not the spec's.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Move the root with `MS_MOVE` and `chroot` where `pivot_root` is impossible (initramfs).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// This many of the caller's descriptors, from 3 up, survive into the container.
    pub preserve_fds: u32,
    /// Init ends with the caller, as long as it has not been started. For callers that stay (a supervisor):
    /// an init that waits for somebody who is gone would hold the caller's descriptors open for ever.
    pub die_with_caller: bool,
    /// The container's cgroup is a scope of systemd's, and `linux.cgroupsPath` is `SLICE:PREFIX:NAME`. For
    /// `create` and `run`: all else finds it in the state.
    pub systemd_cgroup: bool,
    /// Whether control groups that the caller may not make are tolerated, where no limit is asked for. `None`:
    /// if the caller is not the host's root.
    pub rootless: Option<bool>,
    /// The container stays in its caller's control group. Limits are refused then, and device rules not applied.
    pub no_cgroup: bool,
    /// Exec: also into a paused container; the process begins when that is resumed.
    pub ignore_paused: bool,
    /// Init will not be started: it holds namespaces for others, and buries whom it inherits as the first process of a PID
    /// namespace.
    pub parked: bool,
    /// Exec: into groups below the container's.
    pub below: Vec<corten_cgroup::Below>,
}

/// A process to be added to a running container.
#[derive(Debug)]
pub struct Exec<'a> {
    pub id: &'a ContainerId,
    pub state_root: &'a Path,
    pub process: &'a Process,
    pub stdio: Stdio,
    pub options: Options,
}

/// A container whose init waits to be started.
#[derive(Debug)]
pub struct Created {
    /// Init's process id in the caller's pid namespace.
    pub pid: u32,
    pub pidfd: OwnedFd,
    /// The master of the terminal, with [`Stdio::Terminal`].
    pub console: Option<OwnedFd>,
    /// Settings that were asked for and that this host cannot give, where the specification lets
    /// the start go on (a capability outside the bounding set).
    pub warnings: Vec<String>,
    pub(crate) gate: crate::lifecycle::Gate,
}

/// A process that was added to a container and has begun to run its program.
#[derive(Debug)]
pub struct Execed {
    pub pid: u32,
    pub pidfd: OwnedFd,
    pub console: Option<OwnedFd>,
    pub warnings: Vec<String>,
}

/// Where a checkpoint's files are, and what to do about that which is not of the container alone. Words of criu(8).
#[derive(Clone, Debug, Default)]
pub struct Images {
    /// criu itself; if there is none, that on the PATH.
    pub program: Option<PathBuf>,
    /// The folder of the images.
    pub path: PathBuf,
    /// The folder of criu's logs and temporary files; that of the images if there is none.
    pub work: Option<PathBuf>,
    /// Keep established TCP connections.
    pub tcp_established: bool,
    /// Allow connections to Unix sockets outside.
    pub ext_unix_sk: bool,
    /// The container's terminal is its caller's.
    pub shell_job: bool,
    pub file_locks: bool,
    /// Link deleted files that are still open back into their folders.
    pub link_remap: bool,
    /// Punch holes into older images for pages that have been written again.
    pub auto_dedup: bool,
    /// Pages stay behind, and follow when they are touched (userfaultfd).
    pub lazy_pages: bool,
    pub manage_cgroups: ManageCgroups,
}

/// A running container to be written to files.
#[derive(Debug)]
pub struct Checkpoint<'a> {
    pub id: &'a ContainerId,
    pub state_root: &'a Path,
    pub images: &'a Images,
    pub leave_running: bool,
    /// Memory only, with the container left running: a later checkpoint holds what has changed since.
    pub pre_dump: bool,
    /// An earlier pre-dump, relative to the images.
    pub parent: Option<PathBuf>,
    /// Drop TCP connections that are not established yet.
    pub tcp_skip_in_flight: bool,
    /// Where pages are to be sent, or with `lazy_pages` to be asked for.
    pub page_server: Option<(String, u16)>,
    /// Gets one null byte when the pages of `lazy_pages` can be asked for.
    pub status_fd: Option<OwnedFd>,
}

/// A container to be made from a checkpoint. Its bundle, root and limits are as of a new one.
#[derive(Debug)]
pub struct Restore<'a> {
    /// Where stdio is a terminal, it comes back with its old size; [`Execed::console`] is its master.
    pub create: Create<'a>,
    pub images: &'a Images,
    /// `TYPE:NAME`, instead of the one that the processes had.
    pub lsm_profile: Option<String>,
    /// SELinux's, for mounts.
    pub lsm_mount_context: Option<String>,
}
