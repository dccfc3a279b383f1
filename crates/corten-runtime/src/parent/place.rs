//! Where the maker stands: its own namespaces, what it may do in them, and the namespaces that the spec names
//! by path, each opened once and verified.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use corten_sys::namespace::{self, Namespaces};
use corten_sys::process::{self, Clone};
use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat, readlinkat, stat};
use rustix::io::Errno;

use super::launch;
use crate::error::{Error, failed, failed_io, invalid};
use crate::handshake;
use crate::plan::namespaces::{Around, Map, Mappings, kind};

const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const SYS_ADMIN: u64 = 1 << 21;

/// The kernel's own user namespace (PROC_USER_INIT_INO of linux/proc_ns.h).
const INITIAL_USER: &[u8] = b"user:[4026531837]";

/// What the maker is.
#[derive(Debug)]
pub(crate) struct Place {
    pub around: Around,
    /// To be joined, but for the maker's own.
    pub joined: Vec<(Namespaces, OwnedFd)>,
    /// In a user namespace, or nobody in particular in the host's.
    pub rootless: bool,
    /// May map any ids, without the help of `newuidmap`.
    pub maps: bool,
}

impl Place {
    /// One system call for the host's root.
    pub fn look(spec: &Spec, held: u64) -> Result<Self, Error> {
        let nested = in_user_namespace()?;
        let ids = match nested {
            true => Some(Mappings::of("self")?),
            false => None,
        };
        let mounts = held & SYS_ADMIN != 0 && (!nested || owns_mounts()?);
        let mut place = Self {
            rootless: nested || !rustix::process::geteuid().is_root(),
            maps: held & SETUID != 0 && held & SETGID != 0,
            joined: Vec::new(),
            around: Around {
                inside: !mounts,
                groups_denied: nested && groups_denied("self"),
                ids,
                ..Around::default()
            },
        };
        if let Some(linux) = spec.linux() {
            place.open(linux)?;
            place.around.groups_denied |= !place.maps && maps_one_group(linux);
        }
        Ok(place)
    }

    fn open(&mut self, linux: &Linux) -> Result<(), Error> {
        for namespace in linux.namespaces().iter().flatten() {
            let Some(path) = namespace.path().as_ref().filter(|p| p.is_absolute()) else {
                continue;
            };
            let wanted = kind(namespace.typ());
            let fd = open_namespace(namespace.typ(), wanted, path)?;
            if is_own(&fd, wanted)? {
                self.around.own = self.around.own.with(wanted);
                if wanted != Namespaces::MOUNT {
                    continue;
                }
            } else if wanted == Namespaces::USER {
                let (ids, denied) = look_inside(&fd, path)?;
                self.around.joined = Some(ids);
                self.around.groups_denied = denied;
            }
            self.joined.push((wanted, fd));
        }
        Ok(())
    }
}

/// Is there a user namespace around us that is not the kernel's first?
pub(crate) fn in_user_namespace() -> Result<bool, Error> {
    let own = readlinkat(CWD, c"/proc/self/ns/user", Vec::with_capacity(32))
        .map_err(failed("read", "/proc/self/ns/user"))?;
    Ok(own.as_bytes() != INITIAL_USER)
}

/// Root of a user namespace may mount in the mount namespaces that it owns, and no others.
fn owns_mounts() -> Result<bool, Error> {
    let path = "/proc/self/ns/mnt";
    let mounts = open(Path::new(path))?;
    match namespace::owner_of(&mounts) {
        Ok(owner) => is_own(&owner, Namespaces::USER),
        // It is of a user namespace above ours.
        Err(Errno::PERM) => Ok(false),
        Err(errno) => Err(failed("look for the owner of", path)(errno)),
    }
}

/// Then `setgroups` has to be given up for it.
fn maps_one_group(linux: &Linux) -> bool {
    let new = linux.namespaces().iter().flatten().any(|n| {
        n.typ() == LinuxNamespaceType::User
            && n.path().as_ref().is_none_or(|p| p.as_os_str().is_empty())
    });
    let one = linux
        .gid_mappings()
        .as_deref()
        .is_some_and(|m| matches!(m, [one] if one.size() == 1));
    new && one
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    // Whatever lies there, it is opened without waiting for anybody.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(failed("open the namespace", path))
}

fn open_namespace(
    typ: LinuxNamespaceType,
    wanted: Namespaces,
    path: &Path,
) -> Result<OwnedFd, Error> {
    let fd = open(path)?;
    let found = match namespace::kind_of(&fd) {
        Ok(found) => found,
        Err(Errno::NOTTY | Errno::INVAL) => {
            let problem = format!("names {path:?} as {typ} namespace, and it is none");
            return Err(invalid("linux.namespaces", problem));
        }
        Err(errno) => return Err(failed("examine the namespace", path)(errno)),
    };
    if found == wanted {
        return Ok(fd);
    }
    let problem = format!(
        "names {path:?} as {typ} namespace, and it is a {} namespace",
        name(found)
    );
    Err(invalid("linux.namespaces", problem))
}

/// The kernel's file name of a kind.
pub(crate) fn name(kind: Namespaces) -> &'static str {
    match kind {
        Namespaces::CGROUP => "cgroup",
        Namespaces::UTS => "uts",
        Namespaces::IPC => "ipc",
        Namespaces::USER => "user",
        Namespaces::PID => "pid",
        Namespaces::NETWORK => "net",
        Namespaces::TIME => "time",
        _ => "mnt",
    }
}

fn is_own(fd: impl AsFd, kind: Namespaces) -> Result<bool, Error> {
    same_as(fd, &Path::new("/proc/self/ns").join(name(kind)))
}

/// Is it the namespace at `path`? A namespace is known by its inode.
pub(crate) fn same_as(fd: impl AsFd, path: &Path) -> Result<bool, Error> {
    let ours = stat(path).map_err(failed("examine", path))?;
    let theirs = fstat(fd).map_err(failed("examine", "the namespace"))?;
    Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
}

impl Mappings {
    /// Of a process, `self` or a number, as seen from here.
    pub fn of(process: &str) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = Path::new("/proc").join(process).join(name);
            let text = std::fs::read_to_string(&path).map_err(failed_io("read", &path))?;
            Map::parse(&text).ok_or_else(|| Error::State {
                path,
                problem: "is no id map".into(),
            })
        };
        Ok(Self {
            uid: read("uid_map")?,
            gid: read("gid_map")?,
        })
    }
}

/// Before Linux 3.19 there was nothing to deny, and no file.
pub(crate) fn groups_denied(process: &str) -> bool {
    let path = PathBuf::from("/proc").join(process).join("setgroups");
    std::fs::read(path).is_ok_and(|text| text.starts_with(b"deny"))
}

/// The ids of a user namespace that is held by a descriptor only. The kernel shows them of processes, so one
/// goes there for a moment.
fn look_inside(user: &OwnedFd, path: &Path) -> Result<(Mappings, bool), Error> {
    let at = || failed("look into the user namespace", path);
    // Nobody in there may look at a copy of our memory.
    process::set_undumpable().map_err(at())?;
    let (ours, theirs) = launch::pair()?;
    let scout = || {
        let there = namespace::enter(user, Namespaces::USER)
            .and_then(|()| handshake::send_go(&theirs))
            .and_then(|()| handshake::wait_go(&theirs));
        i32::from(there.is_err())
    };
    let scout = process::clone(&Clone::default(), scout).map_err(at())?;
    drop(theirs);
    let found = handshake::wait_go(&ours)
        .map_err(at())
        .and_then(|()| Mappings::of(&scout.pid.to_string()))
        .map(|ids| (ids, groups_denied(&scout.pid.to_string())));
    // Its end says nothing that we need: what there was to learn is known.
    let _ = process::send_signal(&scout.pidfd, 9);
    let _ = process::wait(&scout.pidfd);
    found
}
