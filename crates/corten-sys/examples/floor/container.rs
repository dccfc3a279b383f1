//! The container's process, from its birth to its exec: the mounts of runc's default specification, its device
//! nodes, read-only and masked paths, capabilities.

use std::ffi::CStr;

use corten_sys::exec::Program;
use corten_sys::{Errno, capability, namespace, schedule};
use rustix::fs::{CWD, FileType, Mode, makedev, mkdir, mknodat, symlink};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root, umask};

use crate::clock::{Clock, INSIDE};

const NODES: [(&CStr, u32, u32); 6] = [
    (c"dev/null", 1, 3),
    (c"dev/zero", 1, 5),
    (c"dev/full", 1, 7),
    (c"dev/random", 1, 8),
    (c"dev/urandom", 1, 9),
    (c"dev/tty", 5, 0),
];

const LINKS: [(&CStr, &CStr); 6] = [
    (c"/proc/self/fd", c"dev/fd"),
    (c"/proc/self/fd/0", c"dev/stdin"),
    (c"/proc/self/fd/1", c"dev/stdout"),
    (c"/proc/self/fd/2", c"dev/stderr"),
    (c"/proc/kcore", c"dev/core"),
    (c"pts/ptmx", c"dev/ptmx"),
];

const READ_ONLY: [&CStr; 5] = [
    c"proc/bus",
    c"proc/fs",
    c"proc/irq",
    c"proc/sys",
    c"proc/sysrq-trigger",
];

const MASKED: [&CStr; 10] = [
    c"proc/acpi",
    c"proc/asound",
    c"proc/kcore",
    c"proc/keys",
    c"proc/latency_stats",
    c"proc/timer_list",
    c"proc/timer_stats",
    c"proc/sched_debug",
    c"sys/firmware",
    c"proc/scsi",
];

/// `CAP_AUDIT_WRITE`, `CAP_KILL`, `CAP_NET_BIND_SERVICE`, as in runc's default specification.
const CAPABILITIES: u64 = 1 << 29 | 1 << 5 | 1 << 10;
const LAST_CAPABILITY: u32 = 40;

/// Returns only on failure.
pub fn enter(root: &str, program: &Program, clock: &mut Clock) -> i32 {
    let entered = set_up(root, &mut Names(INSIDE.into_iter(), clock));
    clock.send();
    let errno = match entered {
        Ok(()) => program.execute(c"/bin/true"),
        Err(errno) => errno,
    };
    eprintln!("floor: in the container: {errno}");
    1
}

/// Names the phases in their one order.
struct Names<'a>(std::array::IntoIter<&'static str, 14>, &'a mut Clock);

impl Names<'_> {
    fn done(&mut self) {
        let name = self.0.next().unwrap_or("?");
        self.1.stamp(name);
    }
}

fn set_up(root: &str, phase: &mut Names<'_>) -> Result<(), Errno> {
    phase.done();
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", all)?;
    mount_bind(root, root)?;
    chdir(root)?;
    umask(Mode::empty());
    phase.done();
    mount("proc", "proc", "proc", quiet, None)?;
    phase.done();
    let flags = MountFlags::NOSUID | MountFlags::STRICTATIME;
    mount("tmpfs", "dev", "tmpfs", flags, c"mode=755,size=65536k")?;
    let folder = Mode::from_raw_mode(0o755);
    for path in [c"dev/pts", c"dev/shm", c"dev/mqueue"] {
        mkdir(path, folder)?;
    }
    phase.done();
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let data = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount("devpts", "dev/pts", "devpts", flags, data)?;
    phase.done();
    mount("shm", "dev/shm", "tmpfs", quiet, c"mode=1777,size=65536k")?;
    phase.done();
    mount("mqueue", "dev/mqueue", "mqueue", quiet, None)?;
    phase.done();
    mount("sysfs", "sys", "sysfs", quiet | MountFlags::RDONLY, None)?;
    phase.done();
    let flags = quiet | MountFlags::RELATIME | MountFlags::RDONLY;
    mount("cgroup", "sys/fs/cgroup", "cgroup2", flags, None)?;
    phase.done();
    furnish()?;
    phase.done();
    read_only_paths(quiet)?;
    phase.done();
    mask()?;
    phase.done();
    mount_remount(".", MountFlags::BIND | MountFlags::RDONLY, c"")?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    phase.done();
    namespace::set_hostname(b"floor")?;
    limit()?;
    phase.done();
    Ok(())
}

fn furnish() -> Result<(), Errno> {
    for (path, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(
            CWD,
            path,
            FileType::CharacterDevice,
            mode,
            makedev(major, minor),
        )?;
    }
    for (target, path) in LINKS {
        symlink(target, path)?;
    }
    Ok(())
}

/// A path that this kernel does not have needs no care, as in the specification.
fn present(done: Result<(), Errno>) -> Result<bool, Errno> {
    match done {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn read_only_paths(flags: MountFlags) -> Result<(), Errno> {
    for path in READ_ONLY {
        if present(mount_bind(path, path))? {
            mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | flags, c"")?;
        }
    }
    Ok(())
}

fn mask() -> Result<(), Errno> {
    let mut empty: Option<&CStr> = None;
    for path in MASKED {
        match (mount_bind(c"dev/null", path), empty) {
            // A folder: nothing can be bound on it but a folder, and one empty folder does for all.
            (Err(Errno::NOTDIR), Some(empty)) => mount_bind(empty, path)?,
            (Err(Errno::NOTDIR), None) => {
                mount("tmpfs", path, "tmpfs", MountFlags::RDONLY, None)?;
                empty = Some(path);
            }
            (other, _) => drop(present(other)?),
        }
    }
    Ok(())
}

/// Limits, capabilities, and no way to more of them.
pub fn limit() -> Result<(), Errno> {
    const RLIMIT_NOFILE: u32 = 7;
    schedule::set_limit(RLIMIT_NOFILE, 1024, 1024)?;
    for number in 0..=LAST_CAPABILITY {
        if CAPABILITIES & 1 << number == 0 {
            capability::drop_bounding(number)?;
        }
    }
    capability::set(capability::Sets {
        effective: CAPABILITIES,
        permitted: CAPABILITIES,
        inheritable: 0,
    })?;
    capability::set_no_new_privileges()
}
