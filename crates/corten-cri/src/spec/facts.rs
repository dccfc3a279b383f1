//! What the plans depend on besides the request: the host, the pod as it stands, and what was looked at for
//! this container. All of it is observed beforehand, so that a plan can be tested as text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use corten_engine::image::ImageConfig;
use serde_json::Value;

use crate::cdi::Registry;
use crate::proto::ImageSpec;

/// This host, and how the daemon is set up on it: observed once, by [`Host::probe`](super::observe).
#[derive(Clone, Debug)]
pub struct Host {
    /// Major and minor version.
    pub kernel: (u32, u32),
    /// As Rust's `std::env::consts::ARCH`.
    pub machine: &'static str,
    /// Are control groups those of version 2 alone?
    pub unified: bool,
    /// Does this kernel account swap per control group?
    pub swap_accounting: bool,
    /// Can huge pages be limited?
    pub hugetlb: bool,
    /// Capabilities that our processes can have at all; bit n is capability n.
    pub bounding: u64,
    /// The lowest `oom_score_adj` that we may give; `None`: any.
    pub lowest_oom_score: Option<i32>,
    pub apparmor: Option<AppArmor>,
    pub selinux: Option<SeLinux>,
}

/// A host with AppArmor.
#[derive(Clone, Debug, Default)]
pub struct AppArmor {
    /// Names of the profiles that the kernel holds.
    pub profiles: BTreeSet<String>,
}

/// A host with SELinux: the labels of its policy's container contexts (`contexts/lxc_contexts`).
#[derive(Clone, Debug)]
pub struct SeLinux {
    /// `system_u:system_r:container_t:s0`
    pub process: String,
    /// `system_u:object_r:container_file_t:s0`
    pub file: String,
}

/// How pods of one runtime handler are made.
#[derive(Clone, Debug)]
pub struct Handler {
    /// Patterns (path.Match's) of annotations that the runtime is told.
    pub pod_annotations: Vec<String>,
    pub container_annotations: Vec<String>,
    /// A privileged container gets the devices that it asks for, and not all of the host's.
    pub privileged_without_host_devices: bool,
    /// Device nodes belong to the container's user, not to whom they belong on the host.
    pub device_ownership: bool,
    pub recursive_read_only: bool,
    /// The newest version of the runtime specification that the handler's runtime reads.
    pub oci_version: &'static str,
}

/// The pod that a container belongs to.
#[derive(Clone, Debug, Default)]
pub struct Pod<'a> {
    pub id: &'a str,
    /// What its containers see as their host's name: the pod's, or the host's.
    pub hostname: &'a str,
    pub namespaces: Namespaces,
    /// The files that its containers share; none is mounted that is absent.
    pub hosts: Option<PathBuf>,
    pub hostname_file: Option<PathBuf>,
    pub resolv_conf: Option<PathBuf>,
    /// Whether these three belong to the pod's root already, whoever that is on the host: a tmpfs maps no ids before Linux 6.3.
    pub files_are_its: bool,
    /// What becomes `/dev/shm` of all its containers. `None`: each gets one of its own.
    pub shm: Option<PathBuf>,
    /// With SELinux: the categories that set its processes apart, as `s0:c1,c2`.
    pub level: &'a str,
}

/// Namespaces to join, as `/proc/PID/ns/net` or `/proc/PID/fd/N`. `None`: there is none but the host's.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    pub network: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    pub user: Option<PathBuf>,
    /// The one that the pod's containers share.
    pub pid: Option<PathBuf>,
    /// That of the container which `target_id` names.
    pub target: Option<PathBuf>,
}

/// What there is for one container.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub host: &'a Host,
    pub handler: &'a Handler,
    pub pod: &'a Pod<'a>,
    pub image: &'a ImageConfig,
    /// As users call it.
    pub image_name: &'a str,
    /// `/etc/passwd` and `/etc/group` of the image's root; empty where it has none.
    pub passwd: &'a str,
    pub group: &'a str,
    pub observed: &'a Observed,
    /// What shows an image's content, by the place of its mount in the request, sub path resolved.
    pub images: &'a BTreeMap<usize, PathBuf>,
    /// The whole path, or `SLICE:PREFIX:NAME`, as [`cgroup::path`](super::cgroup::path) makes it.
    pub cgroup: &'a str,
    pub cdi: &'a Registry,
}

/// What has to be looked at before a container can be planned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs {
    /// Of bind mounts.
    pub sources: BTreeSet<PathBuf>,
    /// Device nodes, or folders of such.
    pub devices: BTreeSet<PathBuf>,
    /// Profiles to be read.
    pub seccomp: BTreeSet<PathBuf>,
    /// Images to be shown: the place of the mount in the request, the image, and the path inside it.
    pub images: Vec<(usize, ImageSpec, String)>,
}

/// What was found of it.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub sources: BTreeMap<PathBuf, Source>,
    pub devices: BTreeMap<PathBuf, Vec<Node>>,
    pub seccomp: BTreeMap<PathBuf, Value>,
}

/// What a path is that is to be mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nothing: it becomes a folder, on the mount that its parents are on.
    Absent(Propagation),
    Present(Propagation),
}

/// What the mount that a path lies on tells others, and is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Private,
    /// It is told.
    Slave,
    /// It tells, too.
    Shared,
}

/// One device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Below the path that was asked for; empty: that path itself.
    pub below: PathBuf,
    /// Else a block device.
    pub character: bool,
    pub major: u32,
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}
