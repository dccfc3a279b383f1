//! One container's group, in every hierarchy of the host at once.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxMemory, LinuxResources};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::dir::{Dir, make_child, open_child, open_root, read_file, write_file};
use crate::layout::{Hierarchy, Layout};
use crate::plan::{self, Facts, Write};
use crate::{Error, device, permit};

/// What the container's groups of a pure v2 host should account for, even where nothing is limited.
const V2_WANTED: [&str; 8] = [
    "cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma",
];

/// A group, held open in each hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    pub(crate) path: String,
    /// The v1 folders, then the unified one if there is any.
    pub(crate) dirs: Vec<Dir>,
    pure_v2: bool,
}

/// How a new process gets in.
#[derive(Debug)]
pub struct Entry {
    /// The v2 folder, for `CLONE_INTO_CGROUP`.
    pub v2: Option<OwnedFd>,
    /// The `tasks` file of each v1 group, close-on-exec. The new process itself
    /// writes `0` into each: for the current thread alone the kernel does not take
    /// the global threadgroup lock, whose RCU grace period costs a writer of
    /// `cgroup.procs` about 10 ms on an idle host.
    pub v1_tasks: Vec<OwnedFd>,
}

impl Cgroup {
    /// Makes the group and its missing parents in every hierarchy. An empty group
    /// that is already there is taken over; one with processes is refused.
    pub fn create(layout: &Layout, path: &str) -> Result<Self, Error> {
        let group = Self::walk(layout, path, Walk::Create)?;
        let pids = group.pids()?.len();
        if pids > 0 {
            return Err(Error::Populated {
                group: group.path,
                pids,
            });
        }
        Ok(group)
    }

    /// Opens a group that systemd has made, and makes it where systemd does not look (v1's freezer, hugetlb
    /// and named hierarchies; controllers of v2 that it does not know).
    pub(crate) fn adopt(layout: &Layout, path: &str) -> Result<Self, Error> {
        Self::walk(layout, path, Walk::Create)
    }

    /// As [`create`](Self::create) for who has few rights: hierarchies where the caller may not make the group,
    /// or may not move itself into it, are left out. The reason of the last refusal if all were.
    pub fn create_where_permitted(layout: &Layout, path: &str) -> Result<Self, Error> {
        let path = checked(path)?;
        let one = |hierarchies: &[Hierarchy], unified: Option<&Path>| {
            let part = match unified {
                Some(root) if matches!(layout, Layout::V2 { .. }) => {
                    Layout::V2 { root: root.into() }
                }
                Some(root) => Layout::Hybrid {
                    hierarchies: Vec::new(),
                    unified: root.into(),
                },
                None => Layout::V1 {
                    hierarchies: hierarchies.to_vec(),
                },
            };
            if let Some(root) = unified {
                permit::crossing(root, &path)?;
            }
            let group = Self::create(&part, &path)?;
            permit::entry(&group)?;
            Ok(group)
        };
        let parts = layout.hierarchies().chunks(1).map(|h| one(h, None));
        let unified = layout.unified().map(|root| one(&[], Some(root)));
        let (mut dirs, mut last) = (Vec::new(), None);
        for part in parts.chain(unified) {
            match part {
                Ok(group) => dirs.extend(group.dirs),
                Err(error) if permit::is_refusal(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        match (dirs.is_empty(), last) {
            (true, Some(error)) => Err(error),
            _ => Ok(Self {
                path,
                dirs,
                pure_v2: matches!(layout, Layout::V2 { .. }),
            }),
        }
    }

    /// Has the hierarchy that is mounted at `root` this group?
    pub fn is_in(&self, root: &Path) -> bool {
        self.dirs.iter().any(|dir| dir.root == root)
    }

    /// Opens a group that exists; hierarchies where it is missing are left out.
    pub fn open(layout: &Layout, path: &str) -> Result<Self, Error> {
        let group = Self::walk(layout, path, Walk::Open)?;
        if group.dirs.is_empty() {
            return Err(Error::NotFound { group: group.path });
        }
        Ok(group)
    }

    /// The path below each hierarchy's root, as `/corten/web-1`.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn walk(layout: &Layout, path: &str, walk: Walk) -> Result<Self, Error> {
        let path = checked(path)?;
        let mut dirs = Vec::new();
        for Hierarchy { root, controllers } in layout.hierarchies() {
            let cpuset = controllers.iter().any(|c| c == "cpuset");
            if let Some(fd) = descend(root, &path, walk, |parent, child| match cpuset {
                true => inherit_cpuset(parent, child),
                false => Ok(()),
            })? {
                dirs.push(Dir {
                    fd,
                    root: root.clone(),
                    controllers: controllers.clone(),
                    v2: false,
                });
            }
        }
        let pure_v2 = matches!(layout, Layout::V2 { .. });
        if let Some(root) = layout.unified() {
            let step = |parent: &OwnedFd, _: &OwnedFd| match pure_v2 {
                true => enable(parent, &V2_WANTED),
                false => Ok(()),
            };
            if let Some(fd) = descend(root, &path, walk, step)? {
                dirs.push(Dir {
                    fd,
                    root: root.into(),
                    controllers: Vec::new(),
                    v2: true,
                });
            }
        }
        Ok(Self {
            path,
            dirs,
            pure_v2,
        })
    }

    /// Applies a whole resource list. What it does not mention stays as it is.
    ///
    /// # Errors
    /// A setting that this host cannot honour is refused by name, not skipped.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.apply_limits(resources)?;
        self.apply_devices(resources)
    }

    /// [`apply`](Self::apply) without the rules for devices.
    pub fn apply_limits(&self, resources: &LinuxResources) -> Result<(), Error> {
        let facts = self.facts(resources)?;
        let writes = match self.pure_v2 {
            true => plan::v2::plan(resources, &facts)?,
            false => plan::v1::plan(resources, &facts)?,
        };
        for write in &writes {
            self.carry_out(write)?;
        }
        Ok(())
    }

    /// The part of [`apply`](Self::apply) that is about devices.
    pub fn apply_devices(&self, resources: &LinuxResources) -> Result<(), Error> {
        let devices = resources.devices().as_deref().unwrap_or_default();
        device::apply(self, devices)
    }

    fn carry_out(&self, write: &Write) -> Result<(), Error> {
        let dir = match write.unified {
            true => self.unified_holder(&write.controller)?,
            false => self.holder(&write.controller)?,
        };
        let dir = dir.ok_or_else(|| Error::NoController {
            controller: write.controller.clone(),
            value: write.value.clone(),
            file: write.file.clone(),
            group: self.path.clone(),
        })?;
        dir.write(&self.path, &write.file, &write.value)
    }

    /// The folder where a controller's files are.
    pub(crate) fn holder(&self, controller: &str) -> Result<Option<&Dir>, Error> {
        if let Some(dir) = self.dirs.iter().find(|d| d.has(controller)) {
            return Ok(Some(dir));
        }
        self.unified_holder(controller)
    }

    /// The folder where a controller's v2 files are.
    fn unified_holder(&self, controller: &str) -> Result<Option<&Dir>, Error> {
        let Some(dir) = self.unified() else {
            return Ok(None);
        };
        // Files of the core (`cgroup.*`) belong to no controller.
        if controller == "cgroup" {
            return Ok(Some(dir));
        }
        let listed = |text: String| text.split_ascii_whitespace().any(|c| c == controller);
        if listed(dir.read(&self.path, "cgroup.controllers")?) {
            return Ok(Some(dir));
        }
        // A hybrid host's leftover controllers are switched on by need only: it is not our tree.
        if !self.pure_v2 {
            self.enable_unified(dir, controller)?;
            if listed(dir.read(&self.path, "cgroup.controllers")?) {
                return Ok(Some(dir));
            }
        }
        Ok(None)
    }

    fn enable_unified(&self, dir: &Dir, controller: &str) -> Result<(), Error> {
        let open = |source| Error::Open {
            group: self.path.clone(),
            hierarchy: dir.root.clone(),
            source,
        };
        let mut at = open_root(&dir.root).map_err(open)?;
        for name in self.path.split('/').filter(|n| !n.is_empty()) {
            enable(&at, &[controller]).map_err(open)?;
            at = open_child(at.as_fd(), name).map_err(open)?;
        }
        Ok(())
    }

    pub(crate) fn unified(&self) -> Option<&Dir> {
        self.dirs.iter().find(|d| d.v2)
    }

    pub(crate) fn is_pure_v2(&self) -> bool {
        self.pure_v2
    }

    /// The current values that decide the order of writes.
    pub(crate) fn facts(&self, resources: &LinuxResources) -> Result<Facts, Error> {
        let mut facts = Facts::default();
        if let Some(memory) = resources.memory() {
            self.memory_facts(memory, &mut facts)?;
        }
        if resources
            .memory()
            .is_some_and(|m| m.check_before_update() == Some(true))
        {
            let file = match self.pure_v2 {
                true => "memory.current",
                false => "memory.usage_in_bytes",
            };
            facts.memory_usage = self.number("memory", file)?;
        }
        if resources.cpu().is_some() {
            self.cpu_facts(&mut facts)?;
        }
        if let Some(limit) = resources.hugepage_limits().iter().flatten().next() {
            facts.hugetlb_unified = !self.dirs.iter().any(|d| d.has("hugetlb"));
            let word = match facts.hugetlb_unified {
                true => "max",
                false => "limit_in_bytes",
            };
            let file = format!("hugetlb.{}.rsvd.{word}", plan::hugepage_size(limit)?);
            if let Some(dir) = self.holder("hugetlb")? {
                facts.hugetlb_reservations = dir.read_if(&self.path, &file)?.is_some();
            }
        }
        if resources.block_io().is_some() {
            let (controller, file) = match self.pure_v2 {
                true => ("io", "io.bfq.weight"),
                false => ("blkio", "blkio.bfq.weight"),
            };
            facts.bfq = match self.holder(controller)? {
                Some(dir) => dir.read_if(&self.path, file)?.is_some(),
                None => false,
            };
        }
        Ok(facts)
    }

    fn memory_facts(&self, memory: &LinuxMemory, facts: &mut Facts) -> Result<(), Error> {
        let swap_alone = memory.swap().is_some() && memory.limit().unwrap_or(0) == 0;
        if self.pure_v2 {
            if let Some(dir) = self.holder("memory")? {
                facts.no_swap = dir.read_if(&self.path, "memory.swap.max")?.is_none();
            }
            if swap_alone {
                facts.memory_limit = self.number("memory", "memory.max")?;
            }
            return Ok(());
        }
        facts.memory_and_swap = self.number("memory", "memory.memsw.limit_in_bytes")?;
        if swap_alone {
            // The kernel's "no limit" is a number close to the largest.
            let limit = self.number("memory", "memory.limit_in_bytes")?;
            facts.memory_limit = limit.filter(|l| *l < i64::MAX / 2);
        }
        Ok(())
    }

    fn cpu_facts(&self, facts: &mut Facts) -> Result<(), Error> {
        if self.pure_v2 {
            let max = match self.holder("cpu")? {
                Some(dir) => dir.read_if(&self.path, "cpu.max")?,
                None => None,
            };
            if let Some((quota, period)) = max.as_deref().and_then(|m| m.trim().split_once(' ')) {
                facts.cpu_quota = Some(quota.parse().unwrap_or(-1));
                facts.cpu_period = period.parse().ok();
            }
            return Ok(());
        }
        facts.cpu_period = self
            .number("cpu", "cpu.cfs_period_us")?
            .and_then(|n| u64::try_from(n).ok());
        facts.cpu_quota = self.number("cpu", "cpu.cfs_quota_us")?;
        facts.realtime_period = self
            .number("cpu", "cpu.rt_period_us")?
            .and_then(|n| u64::try_from(n).ok());
        Ok(())
    }

    fn number(&self, controller: &str, file: &str) -> Result<Option<i64>, Error> {
        let Some(dir) = self.holder(controller)? else {
            return Ok(None);
        };
        let text = dir.read_if(&self.path, file)?;
        Ok(text.and_then(|t| t.trim().parse().ok()))
    }

    /// As [`entry`](Self::entry) for who has few rights, and is told before it tries.
    pub fn entry_where_permitted(&self) -> Result<Entry, Error> {
        permit::entry(self)?;
        if let Some(dir) = self.unified() {
            permit::crossing(&dir.root, &self.path)?;
        }
        self.entry()
    }

    /// How to put a new process into this group.
    pub fn entry(&self) -> Result<Entry, Error> {
        let mut entry = Entry {
            v2: None,
            v1_tasks: Vec::new(),
        };
        for dir in &self.dirs {
            let open = |source| Error::Open {
                group: self.path.clone(),
                hierarchy: dir.root.clone(),
                source,
            };
            if dir.v2 {
                entry.v2 = Some(open_child(dir.fd.as_fd(), ".").map_err(open)?);
            } else {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let tasks = openat(&dir.fd, "tasks", flags, Mode::empty()).map_err(open)?;
                entry.v1_tasks.push(tasks);
            }
        }
        Ok(entry)
    }
}

/// How often a group is begun again whose parents others remove meanwhile.
const TRIES: u32 = 256;

#[derive(Clone, Copy, PartialEq)]
enum Walk {
    Create,
    Open,
}

/// Walks from a hierarchy's root to the group. `step` is told each parent and
/// child; creating, it makes the child usable. `None`: the group is not there.
fn descend(
    root: &Path,
    path: &str,
    walk: Walk,
    step: impl Fn(&OwnedFd, &OwnedFd) -> Result<(), Errno>,
) -> Result<Option<OwnedFd>, Error> {
    let go = || -> Result<OwnedFd, Errno> {
        let mut at = open_root(root)?;
        for name in path.split('/').filter(|n| !n.is_empty()) {
            if walk == Walk::Create {
                make_child(at.as_fd(), name)?;
            }
            let child = open_child(at.as_fd(), name)?;
            if walk == Walk::Create {
                step(&at, &child)?;
            }
            at = child;
        }
        Ok(at)
    };
    let mut tries = 1;
    let reached = loop {
        match go() {
            // A parent without other children may be removed at any step by who removed the last of them.
            Err(Errno::NOENT | Errno::NODEV) if walk == Walk::Create && tries < TRIES => tries += 1,
            end => break end,
        }
    };
    match (reached, walk) {
        (Ok(fd), _) => Ok(Some(fd)),
        (Err(Errno::NOENT), Walk::Open) => Ok(None),
        (Err(source), Walk::Open) => Err(Error::Open {
            group: path.into(),
            hierarchy: root.into(),
            source,
        }),
        (Err(source), Walk::Create) => Err(Error::Create {
            group: path.into(),
            hierarchy: root.into(),
            source,
        }),
    }
}

/// A new v1 cpuset has no CPU and no memory node, and refuses every process
/// until it has (cpusets(7)): both are copied down from the parent.
fn inherit_cpuset(parent: &OwnedFd, child: &OwnedFd) -> Result<(), Errno> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = read_file(child.as_fd(), file)?;
        if own.trim().is_empty() {
            let value = read_file(parent.as_fd(), file)?;
            write_file(child.as_fd(), file, value.trim())?;
        }
    }
    Ok(())
}

/// Hands controllers down to the children of a v2 group. One that the parent does
/// not have, or may not hand down, is left out here: `apply` refuses by name if it is needed.
fn enable(parent: &OwnedFd, wanted: &[&str]) -> Result<(), Errno> {
    let available = read_file(parent.as_fd(), "cgroup.controllers")?;
    let enabled = read_file(parent.as_fd(), "cgroup.subtree_control")?;
    let has = |text: &str, c: &str| text.split_ascii_whitespace().any(|w| w == c);
    let missing: Vec<String> = wanted
        .iter()
        .filter(|c| has(&available, c) && !has(&enabled, c))
        .map(|c| format!("+{c}"))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    // One write for all, which the kernel takes or refuses whole.
    if write_file(parent.as_fd(), "cgroup.subtree_control", &missing.join(" ")).is_ok() {
        return Ok(());
    }
    for one in &missing {
        match write_file(parent.as_fd(), "cgroup.subtree_control", one) {
            // EBUSY: the parent holds processes of its own (no-internal-process rule).
            Ok(()) | Err(Errno::BUSY | Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP) => {}
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A path that stays below the root: absolute, of plain names.
pub(crate) fn checked(path: &str) -> Result<String, Error> {
    let bad = |reason| Error::Path {
        path: path.into(),
        reason,
    };
    let rest = path
        .strip_prefix('/')
        .ok_or_else(|| bad("it is not absolute"))?;
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() {
        return Err(bad("it names the root group"));
    }
    if path.len() > 3072 {
        return Err(bad("it is longer than 3072 bytes"));
    }
    for name in rest.split('/') {
        match name {
            "" => return Err(bad("it has an empty name in it")),
            "." | ".." => return Err(bad("it has a relative name in it")),
            n if n.len() > 255 => return Err(bad("a name in it is longer than 255 bytes")),
            n if n.contains(['\0', '\n']) => return Err(bad("it holds a control character")),
            _ => {}
        }
    }
    Ok(format!("/{rest}"))
}
