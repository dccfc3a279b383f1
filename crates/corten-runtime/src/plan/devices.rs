//! Device nodes, and the names in `/dev` that lead elsewhere.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use corten_sys::namespace::Namespaces;
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType};
use rustix::fs::FileType;

use super::{c_string, mounts, namespaces};
use crate::error::{Error, invalid, unsupported};

#[derive(Debug)]
pub(crate) struct Plan {
    /// The mount that is the container's `/dev`, if it is a fresh tmpfs: then it is furnished before it
    /// is attached.
    pub tmpfs: Option<usize>,
    /// Is `/dev` somebody else's, by a bind mount or by joining? Then nothing is made in it.
    pub host: bool,
    pub nodes: Vec<Node>,
    /// A place to bind the terminal on.
    pub console: bool,
}

/// One node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Relative to the root: `dev/null`.
    pub path: CString,
    pub kind: FileType,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    /// The host's ids.
    pub uid: u32,
    pub gid: u32,
    /// By the spec; the others are the ones that every container has.
    pub asked: bool,
}

impl Node {
    /// Its name, if it is directly in `/dev`.
    pub fn name_in_dev(&self) -> Option<&[u8]> {
        let name = self.path.as_bytes().strip_prefix(b"dev/")?;
        (!name.contains(&b'/')).then_some(name)
    }
}

/// Links that the runtime specification and every engine expect, as (name in `/dev`, target).
pub(crate) const LINKS: [(&std::ffi::CStr, &std::ffi::CStr); 6] = [
    (c"fd", c"/proc/self/fd"),
    (c"stdin", c"/proc/self/fd/0"),
    (c"stdout", c"/proc/self/fd/1"),
    (c"stderr", c"/proc/self/fd/2"),
    (c"ptmx", c"pts/ptmx"),
    (c"core", c"/proc/kcore"),
];

const DEFAULT: [(&std::ffi::CStr, u32, u32); 6] = [
    (c"dev/null", 1, 3),
    (c"dev/zero", 1, 5),
    (c"dev/full", 1, 7),
    (c"dev/random", 1, 8),
    (c"dev/urandom", 1, 9),
    (c"dev/tty", 5, 0),
];

pub(crate) fn plan(
    linux: &Linux,
    mounts: &[mounts::Plan],
    namespaces: &namespaces::Plan,
    terminal: bool,
) -> Result<Plan, Error> {
    let dev = mounts.iter().rposition(|m| m.target.as_bytes() == b"dev");
    let tmpfs = dev.filter(|i| mounts[*i].is_tmpfs());
    // In a mount namespace that is joined, what is found is left as it is, unless the spec mounts over it.
    let found = dev.is_none() && namespaces.joined(Namespaces::MOUNT);
    if found && linux.devices().as_ref().is_some_and(|d| !d.is_empty()) {
        return Err(unsupported(
            "linux.devices in a mount namespace that is joined, without a mount on /dev",
        ));
    }
    let host = found || (dev.is_some() && tmpfs.is_none());
    let mut nodes: Vec<Node> = Vec::new();
    for device in linux.devices().iter().flatten() {
        let node = node(device, namespaces)?;
        // Lists of all the host's devices hold these too; in a container they lead elsewhere.
        let name = node.name_in_dev().unwrap_or_default();
        let ours = name == b"console" || LINKS.iter().any(|(link, _)| link.to_bytes() == name);
        if !ours {
            nodes.push(node);
        }
    }
    let (uid, gid) = owner(namespaces, 0, 0)?;
    for (path, major, minor) in DEFAULT {
        if nodes.iter().all(|n| n.path.as_c_str() != path) {
            nodes.push(Node {
                path: path.into(),
                kind: FileType::CharacterDevice,
                major,
                minor,
                mode: 0o666,
                uid,
                gid,
                asked: false,
            });
        }
    }
    Ok(Plan {
        tmpfs,
        host,
        nodes,
        console: terminal,
    })
}

fn owner(namespaces: &namespaces::Plan, uid: u32, gid: u32) -> Result<(u32, u32), Error> {
    match (namespaces.host_uid(uid), namespaces.host_gid(gid)) {
        (Some(uid), Some(gid)) => Ok((uid, gid)),
        _ => Err(invalid(
            "linux.devices",
            format!("has the owner {uid}:{gid}, which the user namespace does not map"),
        )),
    }
}

fn node(device: &LinuxDevice, namespaces: &namespaces::Plan) -> Result<Node, Error> {
    const FIELD: &str = "linux.devices";
    let path = device.path();
    let relative = normal(path).ok_or_else(|| {
        invalid(
            FIELD,
            format!("holds {path:?}, which is no absolute plain path"),
        )
    })?;
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => {
            return Err(invalid(FIELD, format!("gives {path:?} the type \"a\"")));
        }
    };
    let number = |n: i64| {
        u32::try_from(n).map_err(|_| invalid(FIELD, format!("gives {path:?} the number {n}")))
    };
    let (uid, gid) = owner(
        namespaces,
        device.uid().unwrap_or(0),
        device.gid().unwrap_or(0),
    )?;
    Ok(Node {
        path: c_string(FIELD, relative.as_os_str().as_bytes())?,
        kind,
        major: number(device.major())?,
        minor: number(device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid,
        gid,
        asked: true,
    })
}

/// An absolute path of plain names, without its slash.
fn normal(path: &Path) -> Option<&Path> {
    use std::path::Component;
    let relative = path.strip_prefix("/").ok()?;
    let plain = |c| matches!(c, Component::Normal(_));
    (relative.components().all(plain) && relative.file_name().is_some()).then_some(relative)
}
