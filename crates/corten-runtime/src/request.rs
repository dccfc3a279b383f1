//! What callers ask for and what they get back.

use std::os::fd::OwnedFd;
use std::path::Path;

use corten_spec::ContainerId;
use oci_spec::runtime::{Process, Spec};

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
