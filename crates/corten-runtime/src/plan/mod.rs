//! From a spec to a plan: pure, so that the same spec and facts always give the same text.
//!
//! All that can be refused without asking the kernel is refused here, by the field's name. What comes
//! out names every step that the parent and init will take, in order, with the strings already in the form
//! that system calls take.

pub(crate) mod cgroup;
pub(crate) mod devices;
pub(crate) mod hooks;
pub(crate) mod identity;
pub(crate) mod idmap;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod net_devices;
pub(crate) mod process;
mod remount;
pub(crate) mod seccomp;
pub(crate) mod sysctl;
pub(crate) mod words;

use std::ffi::CString;
use std::path::{Path, PathBuf};

use corten_sys::mount::Propagation;
use corten_sys::namespace::Namespaces;
use oci_spec::runtime::{Linux, LinuxResources, Spec};

use crate::error::{Error, invalid, unsupported};

/// What the plan depends on besides the spec.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    pub id: &'a str,
    pub bundle: &'a Path,
    /// Does the caller give a terminal?
    pub terminal: bool,
    /// Capabilities that a process of ours can have at all.
    pub capabilities: u64,
    /// Is the root given as a detached mount?
    pub detached_root: bool,
    /// The systemd that is to make the control group.
    pub systemd: Option<cgroup::Home<'a>>,
    /// The maker's own namespaces, and those to be joined.
    pub around: namespaces::Around,
}

/// All that will be done to make a container.
#[derive(Debug)]
pub(crate) struct Plan {
    pub namespaces: namespaces::Plan,
    pub root: Root,
    pub mounts: Vec<mounts::Plan>,
    pub devices: devices::Plan,
    pub masked: Vec<CString>,
    pub read_only: Vec<CString>,
    pub sysctls: Vec<sysctl::Setting>,
    pub net_devices: Vec<net_devices::NetDevice>,
    /// For the files of new file systems.
    pub mount_label: Option<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub process: process::Plan,
    pub cgroup_path: String,
    /// Whose that group is, with the systemd driver.
    pub unit: Option<cgroup::Unit>,
    /// Intel's shares of caches and memory bandwidth.
    pub resctrl: Option<corten_cgroup::resctrl::Plan>,
    pub resources: LinuxResources,
    pub warnings: Vec<String>,
}

impl Plan {
    /// Is this mount made by init, or changed if it is there already?
    pub fn by_init(&self, mount: usize) -> bool {
        // Nodes in the `/dev` of a user namespace are made by the host's root.
        let is_dev = self.devices.tmpfs == Some(mount);
        match &self.mounts[mount].source {
            mounts::Source::New { early, .. } => {
                !(*early || is_dev && self.namespaces.own(Namespaces::USER))
            }
            mounts::Source::Bind { early, .. } => !early,
            mounts::Source::Cgroup { .. } => false,
            mounts::Source::Remount { .. } => true,
        }
    }

    /// With a user namespace its maker makes some file systems in the midst of init's. To have them in the order of
    /// the spec, it waits until init has made those before this one.
    pub fn first_of_maker(&self) -> Option<usize> {
        let made = |index: &usize| {
            let new = matches!(self.mounts[*index].source, mounts::Source::New { .. });
            new && !self.by_init(*index)
        };
        // One without rights makes nothing: init does, in its place.
        let own = self.namespaces.own(Namespaces::USER) && !self.namespaces.inside;
        own.then(|| (0..self.mounts.len()).find(made)).flatten()
    }

    /// The first mount that shows the network: those before it need not wait for the namespace.
    pub fn first_of_network(&self) -> usize {
        let first = self.mounts.iter().position(mounts::Plan::shows_network);
        first.unwrap_or(self.mounts.len())
    }
}

/// The container's root.
#[derive(Debug)]
pub(crate) struct Root {
    /// The host's folder; `None` with a detached mount.
    pub path: Option<PathBuf>,
    pub read_only: bool,
    /// Of the root in the end; all mounts below it start as the host's slaves or private.
    pub propagation: Option<(Propagation, bool)>,
}

/// Decides everything.
pub(crate) fn plan(spec: &Spec, facts: &Facts<'_>) -> Result<Plan, Error> {
    let newer = check_version(spec.version())?;
    check_annotations(spec)?;
    let linux = spec
        .linux()
        .as_ref()
        .ok_or_else(|| invalid("linux", "is missing"))?;
    refuse_unsupported(spec)?;
    hooks::check(spec)?;
    let namespaces = namespaces::plan(linux, &facts.around)?;
    // Without one there is a container, and nothing to start in it (config.md, "Process").
    let nothing = spec
        .process()
        .is_none()
        .then(process::nothing)
        .transpose()?;
    let process = spec.process().as_ref().or(nothing.as_ref());
    let process = process.ok_or_else(|| invalid("process", "is missing"))?;
    let mut warnings = Vec::new();
    if newer {
        let ours = crate::OCI_VERSION;
        let version = spec.version();
        warnings.push(format!(
            "the spec is of version {version}: what is newer than {ours} has no effect"
        ));
    }
    // A new user namespace starts with every capability.
    let capabilities = match namespaces.user {
        Some(_) => u64::MAX,
        None => facts.capabilities,
    };
    identity::check(
        process.user(),
        spec.annotations(),
        &namespaces,
        &facts.around,
    )?;
    let mut process = process::plan(
        process,
        &process::Facts {
            capabilities,
            terminal: facts.terminal,
            seccomp: linux.seccomp().as_ref(),
            personality: linux.personality().as_ref(),
            memory_policy: linux.memory_policy().as_ref(),
        },
        &mut warnings,
    )?;
    if nothing.is_some() {
        process.arguments.clear();
    }
    // For processes that are added: what is said of it here is what they have by default.
    process.affinity = (None, None);
    let nested = namespaces.user.is_some() || facts.around.ids.is_some();
    process.group_rule = identity::group_rule(spec.annotations(), nested);
    joined_mounts(linux, &namespaces, facts)?;
    let mounts = mounts::plan(spec, &namespaces, facts, &mut warnings)?;
    let devices = devices::plan(linux, &mounts, &namespaces, facts.terminal)?;
    let (cgroup_path, unit) = cgroup::place(spec, linux, facts.id, facts.systemd)?;
    let (hostname, domainname) = names(spec, &namespaces)?;
    Ok(Plan {
        root: root(spec, linux, facts)?,
        masked: paths("linux.maskedPaths", linux.masked_paths())?,
        read_only: paths("linux.readonlyPaths", linux.readonly_paths())?,
        sysctls: sysctl::plan(linux, &namespaces)?,
        net_devices: net_devices::plan(linux, &namespaces)?,
        mount_label: linux.mount_label().clone().filter(|l| !l.is_empty()),
        cgroup_path,
        unit,
        resctrl: cgroup::resctrl(linux, facts.id)?,
        resources: cgroup::resources(linux),
        hostname,
        domainname,
        namespaces,
        mounts,
        devices,
        process,
        warnings,
    })
}

/// A version of SemVer 2.0.0, compatible within the major one. `true`: of a later minor one than ours.
fn check_version(version: &str) -> Result<bool, Error> {
    let wrong = || {
        let problem = format!("is {version:?}, and must be 1.x.y");
        invalid("ociVersion", problem)
    };
    let core = version.split(['-', '+']).next().unwrap_or(version);
    let number = |part: &str| -> Option<u32> {
        let digits = part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten()
    };
    let parts: Option<Vec<u32>> = core.split('.').map(number).collect();
    match parts.as_deref() {
        Some([1, minor, _]) => Ok(*minor > MINOR),
        _ => Err(wrong()),
    }
}

/// Of [`OCI_VERSION`](crate::OCI_VERSION).
const MINOR: u32 = 3;

fn check_annotations(spec: &Spec) -> Result<(), Error> {
    let keys = spec.annotations().iter().flatten().map(|(key, _)| key);
    match keys.into_iter().any(|key| key.is_empty()) {
        true => Err(invalid("annotations", "has a key that is empty")),
        false => Ok(()),
    }
}

fn refuse_unsupported(spec: &Spec) -> Result<(), Error> {
    match spec.vm() {
        Some(_) => Err(unsupported("vm")),
        None => Ok(()),
    }
}

fn root(spec: &Spec, linux: &Linux, facts: &Facts<'_>) -> Result<Root, Error> {
    let root = spec.root().as_ref();
    let path = match (facts.detached_root, root) {
        (true, _) => None,
        (false, Some(root)) => Some(facts.bundle.join(root.path())),
        (false, None) => return Err(invalid("root", "is missing")),
    };
    let propagation = match linux.rootfs_propagation().as_deref() {
        None | Some("") => None,
        Some(word) => Some(words::propagation(word).ok_or_else(|| {
            invalid(
                "linux.rootfsPropagation",
                format!("is {word:?}, which is no propagation"),
            )
        })?),
    };
    Ok(Root {
        path,
        read_only: root.and_then(|r| r.readonly()).unwrap_or(false),
        propagation,
    })
}

/// In a mount namespace of somebody else's the root must be there already, and its propagation is not ours
/// to change.
fn joined_mounts(
    linux: &Linux,
    namespaces: &namespaces::Plan,
    facts: &Facts<'_>,
) -> Result<(), Error> {
    if !namespaces.joined(Namespaces::MOUNT) {
        return Ok(());
    }
    if facts.detached_root {
        return Err(unsupported(
            "a detached root in a mount namespace that is joined",
        ));
    }
    match linux.rootfs_propagation().as_deref() {
        None | Some("") => Ok(()),
        Some(_) => Err(invalid(
            "linux.rootfsPropagation",
            "is set, but the mount namespace is joined by path",
        )),
    }
}

fn names(
    spec: &Spec,
    namespaces: &namespaces::Plan,
) -> Result<(Option<String>, Option<String>), Error> {
    let name = |field: &str, name: &Option<String>| match name.as_deref() {
        None | Some("") => Ok(None),
        Some(_) if !namespaces.own(Namespaces::UTS) => Err(invalid(
            field,
            "is set, but the container has no UTS namespace of its own",
        )),
        Some(long) if long.len() > 64 => Err(invalid(field, "is longer than 64 bytes")),
        Some(name) => Ok(Some(name.to_owned())),
    };
    Ok((
        name("hostname", spec.hostname())?,
        name("domainname", spec.domainname())?,
    ))
}

fn paths(field: &str, paths: &Option<Vec<String>>) -> Result<Vec<CString>, Error> {
    let paths = paths.iter().flatten();
    paths
        .map(|path| {
            if !path.starts_with('/') {
                return Err(invalid(
                    field,
                    format!("holds {path:?}, which is not absolute"),
                ));
            }
            c_string(field, path.as_bytes())
        })
        .collect()
}

/// The form that system calls take.
pub(crate) fn c_string(field: &str, bytes: &[u8]) -> Result<CString, Error> {
    CString::new(bytes).map_err(|_| invalid(field, "holds a null byte"))
}

#[cfg(test)]
mod tests;
